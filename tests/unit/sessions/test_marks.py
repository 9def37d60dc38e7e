"""Revocation marks: effective here at once, on other replicas when they read, and not lost with the store."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.errors import StoreUnavailable
from authproxy.sessions.marks import Mark, Marks, sid_name
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.unit.sessions.test_cookie import a_ticket
from tests.unit.sessions.test_live import Clock


class Away(MemoryStore):
    """The embedded store, which can be away."""

    away = False

    async def append(self, stream: str, value: bytes, *, ttl: float, limit: int = 100_000) -> str:
        """Append, unless away."""
        if self.away:
            raise StoreUnavailable("away")
        return await super().append(stream, value, ttl=ttl, limit=limit)


def marks_on(store: MemoryStore, clock: Clock, seen: list[Mark] | None = None) -> Marks:
    """One replica's marks."""
    return Marks(store, clock=clock, on_mark=(seen if seen is not None else []).append)


async def test_a_mark_reaches_the_other_replica_when_it_reads() -> None:
    """What one replica adds, another knows after its next reading, and is told of once."""
    clock, store = Clock(), MemoryStore()
    seen: list[Mark] = []
    one, two = marks_on(store, clock), marks_on(store, clock, seen)
    ticket = a_ticket(absolute_end=9e9)
    await one.add(Mark("session", ticket.id, ticket.absolute_end, ticket.absolute_end))
    assert one.revokes(ticket)
    assert not two.revokes(ticket)
    await two.sync()
    await two.sync()
    assert two.revokes(ticket)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["subject", "sid"])
async def test_marks_judge_by_the_time_of_sign_in(kind: str) -> None:
    """A session that began before the mark is over; one that begins after it is not touched."""
    clock, ticket = Clock(), a_ticket()
    marks = marks_on(MemoryStore(), clock)
    name = ticket.user if kind == "subject" else sid_name("dex", "ps")
    await marks.add(Mark(kind, name, 1500.0, 9e9))  # type: ignore[arg-type]
    assert marks.revokes(ticket)
    assert not marks.revokes(ticket._replace(signed_in_at=1500.0))
    assert not marks.revokes(ticket._replace(subject="somebody", provider_sid="else"))


async def test_a_mark_made_while_the_store_is_away_is_sent_later() -> None:
    """It holds here at once, and for the others once the store is back."""
    clock, store = Clock(), Away()
    one, two = marks_on(store, clock), marks_on(store, clock)
    store.away = True
    ticket = a_ticket()
    await one.add(Mark("session", ticket.id, 9e9, 9e9))
    assert one.revokes(ticket)
    assert "1 to send" in repr(one)
    with pytest.raises(StoreUnavailable):
        await one.sync()
    store.away = False
    await one.sync()
    await two.sync()
    assert two.revokes(ticket)


async def test_an_emptied_store_is_told_again() -> None:
    """After the store lost everything, a replica that knows a mark appends it anew, for replicas that start later."""
    clock = Clock()
    one = marks_on(MemoryStore(), clock)
    ticket = a_ticket()
    await one.add(Mark("session", ticket.id, 9e9, 9e9))
    one._store = emptied = MemoryStore()  # type: ignore[misc]
    await one.sync()
    late = marks_on(emptied, clock)
    await late.sync()
    assert late.revokes(ticket)


async def test_a_store_that_was_emptied_right_after_its_first_mark() -> None:
    """A stream that was empty, held one mark, and is empty again has lost something, though nobody read in between."""
    clock = Clock()
    one = marks_on(MemoryStore(), clock)
    await one.sync()
    ticket = a_ticket()
    await one.add(Mark("session", ticket.id, 9e9, 9e9))
    one._store = emptied = MemoryStore()  # type: ignore[misc]
    await one.sync()
    late = marks_on(emptied, clock)
    await late.sync()
    assert late.revokes(ticket)


async def test_an_emptied_store_that_another_replica_began_anew() -> None:
    """Both replicas append what they hold, also when the other was first and its ids are older than the ones read."""
    clock, store = Clock(), MemoryStore()
    one, two = marks_on(store, clock), marks_on(store, clock)
    mine, other = a_ticket(), a_ticket()
    await one.add(Mark("session", mine.id, 9e9, 9e9))
    await one.sync()
    emptied = MemoryStore(lambda: 5.0)
    one._store = two._store = emptied  # type: ignore[misc]
    await two.add(Mark("session", other.id, 9e9, 9e9))
    await one.sync()
    late = marks_on(emptied, clock)
    await late.sync()
    assert one.revokes(other)
    assert late.revokes(mine)
    assert late.revokes(other)


async def test_marks_are_forgotten_when_nothing_they_revoke_can_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are twice as many as held at the last look, those whose time is over make room; no other does."""
    monkeypatch.setattr("authproxy.sessions.marks._FEW", 5)
    clock = Clock()
    marks = marks_on(MemoryStore(), clock)
    for number in range(5):
        await marks.add(Mark("session", f"old-{number}-0123456789", 2000.0, 2000.0))
    clock.now = 3000.0
    await marks.add(Mark("session", "new-0123456789abcdef", 9e9, 9e9))
    assert repr(marks).startswith("<Marks 1 held")
    for number in range(20):
        await marks.add(Mark("session", f"held-{number}-0123456789", 9e9, 9e9))
    assert repr(marks).startswith("<Marks 21 held")


async def test_run_hears_of_a_mark_on_redis_without_waiting(redis_server: RedisServer) -> None:
    """On a real Redis the published word wakes the other replica, which then reads the stream."""
    clock = Clock()
    heard = asyncio.Event()
    first, second = RedisStore.standalone(redis_server.url), RedisStore.standalone(redis_server.url)
    one = Marks(first, clock=clock, on_mark=lambda _: None)
    two = Marks(second, clock=clock, on_mark=lambda _: heard.set())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(two.run())
        ticket = a_ticket()
        await one.add(Mark("session", ticket.id, 9e9, 9e9))
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        running.cancel()
    assert two.revokes(ticket)
    await first.close()
    await second.close()


async def test_marks_of_enrolled_credentials_end_no_session() -> None:
    """They reach the other replica, judge by the time of the enrollment, and are nobody's business in the live view."""
    clock, store = Clock(), MemoryStore()
    seen: list[Mark] = []
    one, two = marks_on(store, clock), marks_on(store, clock, seen)
    await one.end_enrolled("cluster", "eu", before=1500.0, until=9e9)
    await two.sync()
    for marks in (one, two):
        assert marks.revokes_enrolled(family="f", name="n", cluster="eu", since=1499.0)
        assert not marks.revokes_enrolled(family="f", name="n", cluster="eu", since=1500.0)
        assert not marks.revokes_enrolled(family="eu", name="eu", cluster=None, since=1.0)
        assert not marks.revokes(a_ticket())
    assert seen == []


async def test_marks_that_are_added_at_once_all_arrive(redis_server: RedisServer) -> None:
    """A hundred revocations at once, while the stream is read as well: none is lost, none breaks the reading."""
    first, second = RedisStore.standalone(redis_server.url), RedisStore.standalone(redis_server.url)
    one = Marks(first, clock=Clock(), on_mark=lambda _: None)
    two = Marks(second, clock=Clock(), on_mark=lambda _: None)
    added = [Mark("session", f"s{number}", 9e9, 9e9) for number in range(100)]
    await asyncio.gather(*(one.add(mark) for mark in added), *(one.sync() for _ in range(5)))
    await two.sync()
    assert all(two.end([("session", mark.name)], 0.0) for mark in added)
    assert len(await first.read("marks")) >= 100
    await first.close()
    await second.close()


async def test_a_revocation_that_a_failover_lost_is_appended_again(redis_server: RedisServer) -> None:
    """A server that takes over may lack the newest entries: whoever has read them brings them back."""
    clock = Clock()
    first, second = RedisStore.standalone(redis_server.url), RedisStore.standalone(redis_server.url)
    one = Marks(first, clock=clock, on_mark=lambda _: None)
    for name in ("s1", "s2", "s3"):
        await one.add(Mark("session", name, 9e9, 9e9))
    await one.sync()
    entries = await first.read("marks")
    await first._client.execute_command("XDEL", "authproxy:marks", entries[-1].id)
    await one.sync()
    two = Marks(second, clock=clock, on_mark=lambda _: None)
    await two.sync()
    assert two.end([("session", "s3")], 0.0)
    count = len(await first.read("marks"))
    await one.sync()
    assert len(await first.read("marks")) == count
    await first.close()
    await second.close()


async def test_a_process_that_was_stopped_reads_before_it_believes() -> None:
    """Time without a reading, though nothing failed: we were asleep.  A store that is away is another thing."""
    clock, store = Clock(), Away()
    one, two = marks_on(store, clock), marks_on(store, clock)
    states = [one.asleep]
    await one.sync()
    clock.now += 60
    assert [*states, one.asleep] == [False, True]
    await two.add(Mark("session", "s1", 9e9, 9e9))
    await one.wake()
    states.append(one.asleep)
    assert one.end([("session", "s1")], 0.0)
    clock.now += 60
    await one.add(Mark("session", "s2", 9e9, 9e9))
    store.away = True
    one._unsent.append(Mark("session", "s3", 9e9, 9e9))
    await one.wake()
    assert [*states, one.asleep, one.behind] == [False, False, False, True]


async def test_a_mark_says_whether_others_can_know_it() -> None:
    """True when the stream has it; False while the store is away, where it waits and is sent later."""
    clock = Clock()
    store = Away()
    marks = Marks(store, clock=clock, on_mark=lambda _: None)
    assert await marks.end_enrolled("cluster", "eu", before=clock.now, until=clock.now + 60)
    store.away = True
    assert not await marks.end_enrolled("cluster", "us", before=clock.now, until=clock.now + 60)
