"""One battery over all stores: what the embedded store promises, Redis promises each way, and the other way round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from tests.conformance.test_store_groups import opened
from tests.peers.redis_cluster import RedisCluster
from tests.peers.redis_sentinel import RedisSentinel
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import stretched

PATIENT = 10.0  # seconds of budget where no test looks at the budget: the machine may be busy
SHORT = 0.12  # seconds that short-lived things live; real time for Redis alone, as long as the machine needs


class Rig(Protocol):
    """A store, a second replica of it, and the passing of its time."""

    store: Store
    replica: Store
    short: float

    async def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` go by on the store's clock."""


class MemoryRig:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.store: Store = MemoryStore(lambda: self.now)
        self.replica: Store = self.store
        self.short = SHORT

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


class RedisRig:
    def __init__(self, store: Store, replica: Store) -> None:
        self.store = store
        self.replica = replica
        self.short = stretched(SHORT)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.01)  # the server's clock is the real one


def stores(request: pytest.FixtureRequest) -> tuple[Store, Store]:
    """Two stores on an emptied server, master or cluster."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        server.flush()
        both = (RedisStore.standalone(url, budget=PATIENT) for url in (server.url, server.unix_url))
        return next(both), next(both)
    group: RedisSentinel | RedisCluster = request.getfixturevalue(f"shared_{request.param}")
    for server in group.masters:
        server.flush()
    return opened(group, PATIENT), opened(group, PATIENT)


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "memory":
        yield MemoryRig()
        return
    redis = RedisRig(*stores(request))
    yield redis
    await redis.store.close()
    await redis.replica.close()


async def test_a_value_is_there_until_its_time_is_over(rig: Rig) -> None:
    """get gives what put was given, byte for byte, on every replica, and None once the time is over."""
    value = bytes(range(256))
    await rig.store.put("k", value, ttl=rig.short)
    assert await rig.replica.get("k") == value
    await rig.pass_time(rig.short)
    assert await rig.store.get("k") is None


async def test_put_replaces_value_and_time(rig: Rig) -> None:
    """A second put sets both the value and the time anew."""
    await rig.store.put("k", b"one", ttl=rig.short)
    await rig.store.put("k", b"two", ttl=60)
    await rig.pass_time(rig.short)
    assert await rig.store.get("k") == b"two"
    await rig.store.put("k", b"three", ttl=rig.short)
    await rig.pass_time(rig.short)
    assert await rig.store.get("k") is None


async def test_of_a_hundred_takers_one_gets_the_value(rig: Rig) -> None:
    """take reads and deletes in one step."""
    await rig.store.put("k", b"once", ttl=60)
    got = await asyncio.gather(*((rig.store, rig.replica)[n % 2].take("k") for n in range(100)))
    assert sorted(value for value in got if value is not None) == [b"once"]
    assert await rig.store.get("k") is None


async def test_of_a_hundred_swaps_one_wins(rig: Rig) -> None:
    """swap compares and sets in one step, from absence and from a value."""
    for expected in (None, b"old"):
        if expected:
            await rig.store.put("k", expected, ttl=60)
        swaps = [(rig.store, rig.replica)[n % 2].swap("k", expected, b"new %d" % n, ttl=60) for n in range(100)]
        won = await asyncio.gather(*swaps)
        assert won.count(True) == 1
        assert await rig.store.get("k") == b"new %d" % won.index(True)


async def test_swap_to_the_same_value_is_won_once(rig: Rig) -> None:
    """A replay mark is the same for everybody, and still only the first one sets it."""
    assert await rig.store.swap("jti", None, b"1", ttl=60) is True
    assert await rig.store.swap("jti", None, b"1", ttl=60) is False


async def test_swap_tells_absent_from_empty(rig: Rig) -> None:
    """An expected empty value is not an expected absence."""
    assert await rig.store.swap("k", b"", b"x", ttl=60) is False
    await rig.store.put("k", b"", ttl=60)
    assert await rig.store.swap("k", None, b"x", ttl=60) is False
    assert await rig.store.swap("k", b"", b"x", ttl=60) is True


async def test_a_swapped_value_ends_too(rig: Rig) -> None:
    """swap sets the time to live, and a value that has ended counts as absent."""
    assert await rig.store.swap("k", None, b"1", ttl=rig.short)
    await rig.pass_time(rig.short)
    assert await rig.store.swap("k", None, b"2", ttl=60)


async def test_delete_says_how_many_there_were(rig: Rig) -> None:
    """delete counts what was there, of any kind."""
    await rig.store.put("a", b"1", ttl=60)
    await rig.store.add("s", "x", ttl=60)
    await rig.store.append("t", b"1", ttl=60)
    assert await rig.store.delete("a", "s", "t", "never") == 3
    assert await rig.store.get("a") is None
    assert await rig.store.members("s") == frozenset()
    assert await rig.store.read("t") == []


async def test_a_lease_has_one_holder(rig: Rig) -> None:
    """While one holds the lease nobody else gets it; of a hundred, one does."""
    got = await asyncio.gather(*(rig.store.lease("l", f"owner {n}", ttl=60) for n in range(100)))
    assert len([fence for fence in got if fence is not None]) == 1


async def test_renewing_keeps_the_number_and_extends(rig: Rig) -> None:
    """The holder that asks again keeps its fencing number, and the lease begins anew."""
    first = await rig.store.lease("l", "a", ttl=rig.short)
    assert await rig.store.lease("l", "a", ttl=60) == first
    await rig.pass_time(rig.short)
    assert await rig.replica.lease("l", "b", ttl=60) is None


async def test_every_new_holder_has_a_greater_number(rig: Rig) -> None:
    """Numbers grow after a release, after an end, and after the record was lost."""
    fences = [await rig.store.lease("l", "a", ttl=60)]
    await rig.store.release("l", "a")
    fences.append(await rig.store.lease("l", "b", ttl=rig.short))
    await rig.pass_time(rig.short)
    fences.append(await rig.store.lease("l", "b", ttl=rig.short))  # the same owner, after the end: a new holder
    await rig.pass_time(rig.short)
    await rig.store.delete("l")
    fences.append(await rig.store.lease("l", "c", ttl=60))
    numbers = [fence for fence in fences if fence is not None]
    assert len(numbers) == 4
    assert numbers == sorted(set(numbers))


async def test_only_the_holder_can_release(rig: Rig) -> None:
    """A release by one whose lease went to another changes nothing."""
    await rig.store.lease("l", "a", ttl=60)
    await rig.store.release("l", "b")
    assert await rig.store.lease("l", "b", ttl=60) is None
    await rig.store.release("l", "a")
    await rig.store.release("l", "a")
    assert await rig.store.lease("l", "b", ttl=60) is not None


async def test_a_bucket_lets_the_burst_pass_and_then_says_how_long(rig: Rig) -> None:
    """burst attempts pass; the next is told to wait, at most ``every``."""
    for _ in range(20):
        assert await rig.store.tally("b", burst=20, every=600) == (True, 0.0)
    refused = await rig.replica.tally("b", burst=20, every=600)
    assert refused.allowed is False
    assert 0 < refused.wait <= 600


async def test_one_more_passes_every_interval_and_refusals_cost_nothing(rig: Rig) -> None:
    """After the wait exactly one passes, however many were refused meanwhile."""
    assert (await rig.store.tally("b", burst=1, every=rig.short)).allowed
    for _ in range(5):
        await rig.store.tally("b", burst=1, every=rig.short)
    await rig.pass_time(rig.short)
    assert (await rig.store.tally("b", burst=1, every=60)).allowed
    assert not (await rig.store.tally("b", burst=1, every=60)).allowed


async def test_a_hundred_attempts_at_once_pass_exactly_the_burst(rig: Rig) -> None:
    """The count is one step: no attempt slips through between reading and writing."""
    got = await asyncio.gather(*((rig.store, rig.replica)[n % 2].tally("b", burst=20, every=600) for n in range(100)))
    assert [tally.allowed for tally in got].count(True) == 20


async def test_giving_back_is_exact(rig: Rig) -> None:
    """Each attempt given back allows exactly one more."""
    for _ in range(5):
        await rig.store.tally("b", burst=5, every=600)
    await rig.store.give_back("b", every=600)
    await rig.store.give_back("b", every=600)
    allowed = [(await rig.store.tally("b", burst=5, every=600)).allowed for _ in range(4)]
    assert allowed == [True, True, False, False]


async def test_giving_back_never_goes_below_empty(rig: Rig) -> None:
    """An empty bucket stays empty: nobody saves attempts up."""
    await rig.store.give_back("b", every=600)
    await rig.store.tally("b", burst=2, every=600)
    for _ in range(5):
        await rig.store.give_back("b", every=600)
    allowed = [(await rig.store.tally("b", burst=2, every=600)).allowed for _ in range(3)]
    assert allowed == [True, True, False]


async def test_a_smaller_burst_takes_effect_at_once_and_locks_nobody_out(rig: Rig) -> None:
    """A bucket filled under a larger burst is full, not overfull: the wait stays at most ``every``."""
    for _ in range(50):
        await rig.store.tally("b", burst=50, every=600)
    refused = await rig.store.tally("b", burst=5, every=600)
    assert not refused.allowed
    assert refused.wait <= 600


async def test_a_set_has_members_until_the_last_promise_ends(rig: Rig) -> None:
    """A shorter time never shortens the set's life; a longer one extends it."""
    await rig.store.add("s", "a", ttl=60)
    await rig.store.add("s", "b", ttl=rig.short)
    await rig.pass_time(rig.short)
    assert await rig.replica.members("s") == {"a", "b"}
    await rig.store.add("other", "a", ttl=rig.short)
    await rig.store.add("other", "b", ttl=rig.short * 4)
    await rig.pass_time(rig.short)
    assert await rig.store.members("other") == {"a", "b"}
    await rig.pass_time(rig.short * 4)
    assert await rig.store.members("other") == frozenset()


async def test_members_go_one_by_one(rig: Rig) -> None:
    """remove takes one member, and one that is not there without a word."""
    await rig.store.add("s", "ä", ttl=60)
    await rig.store.add("s", "ä", ttl=60)
    await rig.store.add("s", "b", ttl=60)
    assert await rig.replica.members("s") == {"ä", "b"}
    await rig.store.remove("s", "ä")
    await rig.store.remove("s", "never")
    await rig.store.remove("no such set", "a")
    assert await rig.store.members("s") == {"b"}


async def test_a_stream_is_read_in_order_and_from_where_one_was(rig: Rig) -> None:
    """read gives each entry once, oldest first, in portions."""
    ids = [await rig.store.append("t", b"%d" % n, ttl=60) for n in range(10)]
    first = await rig.replica.read("t", count=4)
    assert [entry.value for entry in first] == [b"0", b"1", b"2", b"3"]
    rest = await rig.replica.read("t", first[-1].id)
    assert [entry.id for entry in rest] == ids[4:]
    assert await rig.store.read("t", ids[-1]) == []
    assert await rig.store.read("no such stream") == []


async def test_reading_goes_on_across_trimming(rig: Rig) -> None:
    """A reader whose place was trimmed away goes on with the oldest entry that is left."""
    place = await rig.store.append("t", b"gone", ttl=rig.short)
    await rig.store.append("t", b"gone too", ttl=rig.short)
    await rig.pass_time(rig.short)
    await rig.store.append("t", b"here", ttl=60)
    assert [entry.value for entry in await rig.store.read("t", place)] == [b"here"]
    assert [entry.value for entry in await rig.store.read("t")] == [b"here"]


async def test_an_entry_outlives_those_that_end_sooner(rig: Rig) -> None:
    """A revocation that ends soon does not take with it one that must stay for days."""
    await rig.store.append("t", b"long", ttl=600)
    await rig.pass_time(rig.short)
    await rig.store.append("t", b"short", ttl=rig.short / 2)
    await rig.store.append("t", b"last", ttl=rig.short / 2)
    assert (await rig.store.read("t"))[0].value == b"long"
    await rig.pass_time(rig.short)
    assert (await rig.store.read("t"))[0].value == b"long"


async def test_a_stream_is_bounded(rig: Rig) -> None:
    """Beyond the limit the oldest go; Redis may keep a node's worth more."""
    for n in range(1000):
        await rig.store.append("t", b"%d" % n, ttl=60, limit=100)
    left = await rig.store.read("t")
    assert 100 <= len(left) <= 300
    assert left[-1].value == b"999"


async def test_a_message_reaches_every_listener_until_it_ends(rig: Rig) -> None:
    """subscribe hears what any replica publishes on that channel from then on; ending it ends it."""
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    end_one = await rig.store.subscribe("c", lambda message: heard.put_nowait(("one", message)))
    end_two = await rig.store.subscribe("c", lambda message: heard.put_nowait(("two", message)))
    await rig.replica.publish("other", b"not this")
    await rig.replica.publish("c", b"\x00\xff")
    assert {await heard.get(), await heard.get()} == {("one", b"\x00\xff"), ("two", b"\x00\xff")}
    await end_one()
    await end_one()
    await rig.replica.publish("c", b"again")
    assert await heard.get() == ("two", b"again")
    await end_two()
    await rig.replica.publish("c", b"nobody")
    assert heard.empty()


async def test_a_failing_listener_keeps_nothing_from_the_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged without the message."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def fail(message: bytes) -> None:
        raise RuntimeError("broken listener")

    ends = [await rig.store.subscribe("c", fail), await rig.store.subscribe("c", heard.put_nowait)]
    await rig.store.publish("c", b"the message itself")
    assert await heard.get() == b"the message itself"
    await rig.store.publish("c", b"2")
    assert await heard.get() == b"2"
    assert "broken listener" in caplog.text
    assert "the message itself" not in caplog.text
    for end in ends:
        await end()


async def test_a_channel_can_be_added_while_another_is_heard(rig: Rig) -> None:
    """Listening to a second channel does not wait for traffic on the first, and leaving one keeps the other."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    end_first = await rig.store.subscribe("first", heard.put_nowait)
    end_second = await rig.store.subscribe("second", heard.put_nowait)
    await rig.store.publish("second", b"2")
    assert await heard.get() == b"2"
    await end_first()
    await rig.store.publish("second", b"still")
    assert await heard.get() == b"still"
    await end_second()


async def test_ping_and_close(rig: Rig) -> None:
    """A store that is there answers; closing twice is no error."""
    await rig.store.ping()
    await rig.store.close()
    await rig.store.close()
