"""Two replicas and a strict provider: what one still has in memory is not lost because the store has lost it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from authproxy.errors import ProviderError, SessionEnded
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.marks import Mark
from authproxy.sessions.replicas import Replicas
from authproxy.signin.gate import FAILURES, LONGEST, PAUSE_SECONDS, Gate
from authproxy.store import keys
from authproxy.store.memory import MemoryStore
from tests.unit.sessions.test_live import Clock
from tests.unit.signin.test_resume import Replica, Stage
from tests.unit.signin.test_resume import stage as stage

LIFE = 600  # seconds of a token


@pytest.fixture
async def met(stage: Stage) -> AsyncIterator[Stage]:
    """Both replicas know of each other and hear each other."""
    async with AsyncExitStack() as stack:
        for replica in stage.replicas:
            stack.push_async_callback(await stage.store.subscribe(keys.channel_asked(), replica.peers._heard))
        for _ in range(2):
            for replica in stage.replicas:
                await replica.peers.meet()
                await replica.marks.sync()
        assert [replica.peers.others for replica in stage.replicas] == [1, 1]
        yield stage


def empty(store: MemoryStore) -> None:
    """What FLUSHALL does: the data go, subscribers stay."""
    kept = store._channels
    store.__init__(store._clock)  # type: ignore[misc]
    store._channels = kept


async def renewed(replica: Replica, stage: Stage, sealed: str) -> str:
    """One expiry passes on a replica; the browser's new cookie."""
    stage.clock.now += LIFE + 100
    carried = await replica.click(sealed)
    return replica.seal(carried.session.ticket)


async def test_an_emptied_store_costs_no_provider_call(met: Stage) -> None:
    """A replica that never saw the session gets its record from the memory of the one that has."""
    ticket = await met.sign_in()
    one, two = met.replicas
    sealed = one.seal(ticket)
    await one.click(sealed)
    empty(met.store)
    carried = await two.click(sealed)
    assert carried.session.record.expires_at > met.clock.now
    assert met.refreshes == []


async def test_a_superseded_cookie_is_given_the_new_one(met: Stage) -> None:
    """Store emptied, and a request still carries the replaced token: the provider never sees it again."""
    ticket = await met.sign_in()
    one, two = met.replicas
    old = one.seal(ticket)
    await renewed(one, met, old)
    empty(met.store)
    carried = await two.click(old)
    assert carried.session.record.generation == 2
    assert two.resumption.cookies(carried) != ()
    assert met.refreshes == ["rotated"]


async def test_what_is_revoked_does_not_come_back(met: Stage) -> None:
    """A replica does not write a session again that was signed out."""
    ticket = await met.sign_in()
    one, two = met.replicas
    await one.click(one.seal(ticket))
    empty(met.store)
    one.live.by_id(ticket.id)
    await one.marks.add(Mark("subject", ticket.user, met.clock.now + 1, ticket.absolute_end))
    one.recall.answer(ticket.user, two.peers.id)
    await one.recall.close()
    assert await two.vault.load(ticket) is None


@pytest.mark.parametrize("stage", ["per_user"], indirect=True)
async def test_a_shared_token_is_recalled(met: Stage) -> None:
    """The store lost the token that two devices share; the device that is behind gets it from the other's replica."""
    one, two = met.replicas
    first = await met.sign_in()
    second = await met.sign_in()
    await two.refresher.share(second)
    behind, ahead = one.seal(first), two.seal(second)
    await one.click(behind)
    await two.click(ahead)
    await renewed(two, met, ahead)
    empty(met.store)
    carried = await one.click(behind)
    assert (carried.session.record.token.family, carried.session.record.token.step) == (second.token.family, 2)
    assert "dead" not in met.refreshes


@pytest.mark.parametrize("stage", ["per_user"], indirect=True)
async def test_a_shared_token_is_found_in_the_same_memory(met: Stage) -> None:
    """The same without store and on one replica: the sibling's newer token is used."""
    one = met.replicas[0]
    first = await met.sign_in()
    second = await met.sign_in()
    behind, ahead = one.seal(first), one.seal(second)
    await one.click(behind)
    await one.click(ahead)
    met.store.away = True
    alone = [replica for replica in met.replicas if replica is not one]
    assert alone
    one.peers._known = frozenset({one.peers.id})
    await renewed(one, met, ahead)
    token = (await one.click(behind)).session.record.token
    assert (token.family, token.step) == (second.token.family, 2)
    assert "dead" not in met.refreshes


def by_turn(stage: Stage, ticket: Ticket) -> tuple[Replica, Replica]:
    """The replica whose turn it is to renew a session while the store is away, and the other one."""
    key = keys.lease_refresh(ticket.user, ticket.id)
    one, two = stage.replicas
    assert one.peers.owns(key) is not two.peers.owns(key)
    return (one, two) if one.peers.owns(key) else (two, one)


async def test_without_the_store_one_replica_renews(met: Stage) -> None:
    """Both hold the session; one renews, the other goes on with its proof until the newer token comes by the cookie."""
    ticket = await met.sign_in()
    owner, other = by_turn(met, ticket)
    sealed = owner.seal(ticket)
    await owner.click(sealed)
    await other.click(sealed)
    met.store.away = True
    met.clock.now += LIFE + 5
    assert (await other.click(sealed)).session.record.generation == 1
    assert met.refreshes == []
    newer = owner.seal((await owner.click(sealed)).session.ticket)
    assert met.refreshes == ["rotated"]
    met.clock.now += 60
    carried = await other.click(newer)
    assert carried.session.record.expires_at > met.clock.now
    assert met.refreshes == ["rotated", "rotated"]


async def test_without_the_store_nobody_waits_for_a_dead_replica(met: Stage) -> None:
    """After a while the other renews all the same: the one whose turn it is may be gone."""
    ticket = await met.sign_in()
    owner, other = by_turn(met, ticket)
    sealed = owner.seal(ticket)
    await other.click(sealed)
    met.store.away = True
    met.clock.now += LIFE + 60
    carried = await other.click(sealed)
    assert carried.session.record.generation == 2


async def test_a_token_that_came_by_the_cookie_is_not_spent_at_once(met: Stage) -> None:
    """Without the store, a replica whose own proof is good takes the newer token over, and renews with it later."""
    ticket = await met.sign_in()
    one, two = met.replicas
    sealed = one.seal(ticket)
    await one.click(sealed)
    met.store.away = True
    newer = two.seal((await two.click(sealed)).session.ticket)
    for _ in range(3):
        carried = await one.click(newer)
    assert carried.session.record.generation == 2
    assert met.refreshes == ["rotated"]
    await renewed(one, met, newer)
    assert met.refreshes == ["rotated", "rotated"]


async def test_ten_expiries_without_the_store(met: Stage) -> None:
    """A browser whose requests alternate, and that obeys Set-Cookie, is never signed out and spends no token twice."""
    ticket = await met.sign_in()
    sealed = met.replicas[0].seal(ticket)
    for replica in met.replicas:
        await replica.click(sealed)
    met.store.away = True
    for step in range(10 * 30):
        met.clock.now += LIFE / 30
        replica = met.replicas[step % 2]
        carried = await replica.click(sealed)
        assert carried.session.record.expires_at > met.clock.now - 60
        if replica.resumption.cookies(carried):
            sealed = replica.seal(carried.session.ticket)
        await replica.resumption._ahead.close()
    assert set(met.refreshes) == {"rotated"}
    assert len(met.refreshes) <= 25


async def test_a_store_that_comes_back_is_not_believed_at_once(met: Stage) -> None:
    """It has the record of before the outage; the replica that went on without it is asked before the provider is."""
    ticket = await met.sign_in()
    owner, other = by_turn(met, ticket)
    old = owner.seal(ticket)
    for replica in (owner, other):
        await replica.click(old)
    met.store.away = True
    met.clock.now += LIFE + 5
    await owner.click(old)
    await other.click(old)
    met.store.away = False
    met.clock.now += 35
    carried = await other.click(old)  # the browser never saw the new cookie
    assert carried.session.record.generation == 2
    assert met.refreshes == ["rotated"]


async def test_replicas_come_and_go() -> None:
    """Whoever leaves, or falls silent for ten seconds, is not counted any more; each key has one owner."""
    clock = Clock(1000.0)
    store = MemoryStore(clock)
    three = [Replicas(store, on_asked=lambda _user, _asking: None) for _ in range(3)]
    for _ in range(2):
        for replica in three:
            await replica.meet()
    for number in range(50):
        assert sum(replica.owns(f"key-{number}") for replica in three) == 1
    owners = {index for index, replica in enumerate(three) for number in range(50) if replica.owns(f"key-{number}")}
    assert owners == {0, 1, 2}
    await three[2].leave()
    await three[0].meet()
    assert three[0].others == 1
    clock.now += 11
    await three[0].meet()
    assert three[0].others == 0
    assert three[0].owns("anything")


async def test_a_limited_provider_is_left_alone_by_all() -> None:
    """Told to wait by one session's call, no other calls before the time; a clock that is set back opens the gate."""
    clock = Clock(1000.0)
    gate = Gate(clock)
    with pytest.raises(ProviderError):
        async with gate:
            raise ProviderError("limited", retry_after=30.0)
    with pytest.raises(ProviderError) as told:
        async with gate:
            raise AssertionError("the gate was open")
    assert told.value.retry_after == 30.0
    clock.now += 30
    async with gate:
        pass
    with pytest.raises(ProviderError):
        async with gate:
            raise ProviderError("limited", retry_after=86400.0)
    clock.now += LONGEST
    async with gate:
        pass
    with pytest.raises(SessionEnded):
        async with gate:
            raise SessionEnded("not the provider's limit")
    async with gate:
        pass


async def test_a_provider_that_does_not_answer_is_asked_once_a_second() -> None:
    """After five calls without an answer; an answer of any status shows that it is there."""
    clock = Clock(1000.0)
    gate = Gate(clock)

    async def call(error: ProviderError | None) -> bool:
        """Whether the call was let through."""
        made = False
        with suppress(ProviderError):
            async with gate:
                made = True
                if error is not None:
                    raise error
        return made

    down, failing = ProviderError("connection refused"), ProviderError("answered 500", status=500)
    for _ in range(20):
        assert await call(failing)
    assert [await call(down) for _ in range(20)] == [True] * (FAILURES + 1) + [False] * (19 - FAILURES)
    clock.now += PAUSE_SECONDS
    assert [await call(down) for _ in range(3)] == [True, False, False]
    clock.now += PAUSE_SECONDS
    assert [await call(failing) for _ in range(3)] == [True, True, True]
