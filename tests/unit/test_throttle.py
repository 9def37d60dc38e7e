"""The throttle: what shares a bucket, when it is full, what is given back, and what happens without a store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.errors import StoreUnavailable, TooManyAttempts
from authproxy.settings import schema
from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from authproxy.throttle import Bucket, Throttle, browser_bucket, client_bucket, device_bucket, user_bucket
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

KEY = b"a key of these tests"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Recording(MemoryStore):
    """The embedded store, with the keys that it was asked to charge."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.charged: list[str] = []

    async def tally(self, key: str, **limits: Any) -> Any:
        self.charged.append(key)
        return await super().tally(key, **limits)


def throttle(store: Store, **limits: schema.Limit) -> Throttle:
    return Throttle(store, schema.Throttle(**limits), key=KEY)


def limit(burst: int, every: str) -> schema.Limit:
    return schema.Limit.model_validate({"burst": burst, "every": every})


async def attempts(one: Throttle, count: int, *buckets: Bucket) -> int:
    """How many of ``count`` attempts pass."""
    passed = 0
    for _ in range(count):
        try:
            await one.charge(*buckets)
            passed += 1
        except TooManyAttempts:
            pass
    return passed


async def test_twenty_pass_and_then_one_every_six_seconds() -> None:
    """The contract's numbers: 20 attempts, the 21st waits at most 6 s, and after its wait exactly one passes."""
    clock = Clock()
    one, alice = throttle(MemoryStore(clock)), user_bucket("alice")
    assert await attempts(one, 20, alice) == 20
    with pytest.raises(TooManyAttempts) as refused:
        await one.charge(alice)
    assert 1 <= refused.value.retry_after <= 6
    for _ in range(3):
        clock.now += 6
        assert await attempts(one, 5, alice) == 1


@pytest.mark.parametrize(("later", "told"), [(0.0, 6), (0.3, 6), (4.9, 2), (5.0, 1), (5.999, 1)])
async def test_the_wait_that_is_told_is_long_enough(later: float, told: int) -> None:
    """Retry-After is the rest of the interval, rounded up; after it one passes, however many were refused meanwhile."""
    clock = Clock()
    one, alice = throttle(MemoryStore(clock)), user_bucket("alice")
    await attempts(one, 20, alice)
    clock.now += later
    with pytest.raises(TooManyAttempts) as refused:
        await one.charge(alice)
    assert refused.value.retry_after == told
    assert await attempts(one, 10, alice) == 0
    clock.now += told
    assert await attempts(one, 10, alice) == 1


async def test_the_wait_is_whole_seconds_of_at_least_one() -> None:
    """With an interval under a second the wait is told as one second."""
    one = throttle(MemoryStore(Clock()), login=limit(1, "50ms"))
    await one.charge(user_bucket("a"))
    with pytest.raises(TooManyAttempts) as refused:
        await one.charge(user_bucket("a"))
    assert refused.value.retry_after == 1


@pytest.mark.parametrize(
    "variant", [" Alice ", "ALICE", "alice\t", "Ａｌｉｃｅ", "ａｌｉｃｅ", "\u3000alice\u00a0", "ＡＬＩＣＥ"]
)
async def test_spelling_variants_of_a_name_are_one_bucket(variant: str) -> None:
    """NFKC, case-folded, trimmed: no spelling gives an attacker another 20 attempts."""
    one = throttle(MemoryStore(Clock()))
    assert await attempts(one, 20, user_bucket("alice")) == 20
    assert await attempts(one, 1, user_bucket(variant)) == 0
    assert await attempts(one, 1, user_bucket("alice2")) == 1


@pytest.mark.parametrize(("one", "other"), [("Straße", "STRASSE"), ("ﬁn", "FIN"), ("é", "e\u0301"), ("ΌΣΟΣ", "όσος")])
def test_folding_beyond_ascii(one: str, other: str) -> None:
    """Full case folding and compatibility composition, not lower()."""
    assert user_bucket(one) == user_bucket(other)


@given(st.text())
def test_a_folded_name_stays_as_it_is(name: str) -> None:
    """Folding twice changes nothing, so a name that went through another system is still the same name."""
    once = user_bucket(name)
    assert user_bucket(once.name) == once


async def test_known_and_unknown_names_take_the_same_way() -> None:
    """There is nothing to look a user up in: any two names cost the same calls and are refused at the same count."""
    store = Recording(Clock())
    one = throttle(store)
    counts = [await attempts(one, 30, user_bucket(name), client_bucket("192.0.2.1")) for name in ("alice", "nobody-1")]
    assert counts == [20, 20]
    calls = len(store.charged)
    assert [key.split(":")[1] for key in store.charged[: calls // 2]] == [
        key.split(":")[1] for key in store.charged[calls // 2 :]
    ]


async def test_an_office_behind_one_address_signs_in() -> None:
    """200 users with a few attempts each from one address: all of them pass."""
    one = throttle(MemoryStore(Clock()))
    office = client_bucket("198.51.100.7")
    for n in range(200):
        assert await attempts(one, 3, user_bucket(f"user {n}"), office) == 3


async def test_one_address_is_bounded_too() -> None:
    """Somebody who tries many names from one address is stopped by the wider bucket."""
    one = throttle(MemoryStore(Clock()), login_per_client=limit(50, "100ms"))
    spray = [await attempts(one, 1, user_bucket(f"user {n}"), client_bucket("198.51.100.7")) for n in range(80)]
    assert sum(spray) == 50


async def test_all_or_nothing() -> None:
    """When one bucket is full the others are as they were before."""
    clock = Clock()
    one = throttle(MemoryStore(clock), login=limit(3, "6s"), login_per_client=limit(1, "6s"))
    alice, client = user_bucket("alice"), client_bucket("192.0.2.1")
    await one.charge(client)
    assert await attempts(one, 10, alice, client) == 0
    assert await attempts(one, 10, alice) == 3


async def test_a_success_is_given_back() -> None:
    """Signing in successfully a hundred times in a row locks nobody out; each failure between counts."""
    one = throttle(MemoryStore(Clock()))
    buckets = (user_bucket("alice"), client_bucket("192.0.2.1"))
    for _ in range(100):
        await one.charge(*buckets)
        await one.give_back(*buckets)
    assert await attempts(one, 30, *buckets) == 20


async def test_an_attacker_cannot_lock_a_known_browser_out() -> None:
    """The device bucket of a browser that has signed in before is apart from the user's, and from other users'."""
    one = throttle(MemoryStore(Clock()))
    assert await attempts(one, 100, user_bucket("alice")) == 20
    assert await attempts(one, 30, device_bucket(" ALICE ", "device-1")) == 20
    assert await attempts(one, 1, device_bucket("alice", "device-1")) == 0
    assert await attempts(one, 1, device_bucket("alice", "device-2")) == 1
    assert await attempts(one, 1, device_bucket("bob", "device-1")) == 1


async def test_kinds_do_not_mix() -> None:
    """A user who is called like a browser or an address does not share its bucket."""
    one = throttle(MemoryStore(Clock()))
    await attempts(one, 30, user_bucket("192.0.2.1"))
    assert await attempts(one, 20, browser_bucket("192.0.2.1")) == 20
    assert await attempts(one, 20, client_bucket("192.0.2.1")) == 20


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_clients_by_address(one: str, other: str, same: bool) -> None:
    """IPv4 by address, IPv6 by /64, IPv4-mapped as IPv4; a Unix socket has no address and one bucket."""
    assert (client_bucket(one) == client_bucket(other)) is same


async def test_the_store_is_never_told_a_name() -> None:
    """Keys hold keyed digests: another key gives other names, and no part of the name is in them."""
    store = Recording(Clock())
    await throttle(store).charge(user_bucket("alice"), browser_bucket("b" * 40), client_bucket("192.0.2.1"))
    await Throttle(store, schema.Throttle(), key=b"another").charge(user_bucket("alice"))
    assert store.charged[0] != store.charged[3]
    assert not [key for key in store.charged if "alice" in key or "bbbb" in key or "192" in key]
    assert repr(user_bucket("alice")) == "<Bucket user>"


async def test_names_that_are_no_unicode_text_are_counted_too() -> None:
    """A lone surrogate, or a name of any length, is a name like any other."""
    one = throttle(MemoryStore(Clock()))
    for name in ("\ud800", "x" * 100_000, ""):
        assert await attempts(one, 30, user_bucket(name)) == 20


async def test_a_refusal_says_nothing_of_the_name() -> None:
    """Neither the page's sentence nor the audit reason holds the name."""
    one = throttle(MemoryStore(Clock()))
    await attempts(one, 20, user_bucket("alice"))
    with pytest.raises(TooManyAttempts) as refused:
        await one.charge(user_bucket("alice"))
    assert "alice" not in str(refused.value) + refused.value.message + refused.value.reason


async def test_without_the_store_each_process_counts_alone(redis_server: RedisServer) -> None:
    """A store that went away limits as before, per process; what is given back is given back there."""
    store = RedisStore.standalone(redis_server.url, budget=10.0)
    one, alice = throttle(store, login=limit(5, "600s")), user_bucket("alice")
    try:
        assert await attempts(one, 3, alice) == 3
        redis_server.kill()
        with pytest.raises(StoreUnavailable):
            await store.ping()
        assert await attempts(one, 50, alice) == 5
        await one.give_back(alice)
        assert await attempts(one, 50, alice) == 1
    finally:
        await store.close()


async def test_counting_alone_is_bounded(redis_server: RedisServer) -> None:
    """However many names are tried while the store is away, memory holds so many buckets and no more."""
    store, alone = RedisStore.standalone(redis_server.url, budget=10.0), MemoryStore(limit=3)
    redis_server.kill()
    one = Throttle(store, schema.Throttle(), key=KEY, alone=alone)
    try:
        for number in range(10):
            await one.charge(user_bucket(f"user-{number}"))
    finally:
        await store.close()
    assert "3 buckets" in repr(alone)


async def test_forty_attempts_at_once_on_redis_pass_exactly_twenty(redis_server: RedisServer) -> None:
    """Two replicas' throttles on one Redis, all attempts at the same time."""
    stores = [RedisStore.standalone(redis_server.url, budget=10.0) for _ in range(2)]
    replicas = [throttle(store, login=limit(20, "600s")) for store in stores]
    passed = await asyncio.gather(*(attempts(replicas[n % 2], 1, user_bucket("alice")) for n in range(40)))
    assert sum(passed) == 20
    for store in stores:
        await store.close()


async def test_redis_lets_one_more_pass_after_the_interval(redis_server: RedisServer) -> None:
    """On the server's own clock: after a refusal one passes again soon."""
    store = RedisStore.standalone(redis_server.url, budget=10.0)
    one, alice = throttle(store, login=limit(2, "50ms")), user_bucket("alice")
    await one.charge(alice)
    async with asyncio.timeout(PATIENCE):
        while await attempts(one, 1, alice):  # until the burst is used up, however slow the machine is
            pass
        while not await attempts(one, 1, alice):
            await asyncio.sleep(0.005)
    await store.close()
