"""Resuming and refreshing sessions against a strict provider: who asks it, how often, and what ends a session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from authproxy.errors import SessionEnded, StoreUnavailable, Unavailable
from authproxy.model import Headers
from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import Cookies, SessionCookie, Ticket, new_ticket
from authproxy.sessions.live import Carried, LiveView
from authproxy.sessions.marks import Mark, Marks
from authproxy.sessions.records import Record, RefreshToken
from authproxy.sessions.replicas import Replicas
from authproxy.sessions.sealing import KeyRing
from authproxy.sessions.vault import Vault
from authproxy.settings import schema
from authproxy.signin.grace import RefreshGrace
from authproxy.signin.recall import Recall
from authproxy.signin.refresh import Refresher, shared_by
from authproxy.signin.resume import Resumption
from authproxy.signin.termination import Termination
from authproxy.signin.token_pool import TokenPool
from authproxy.store.base import Entry, Tally
from authproxy.store.memory import MemoryStore
from tests.peers.openid_provider import OpenIDPeer
from tests.unit.sessions.test_live import Clock

KEYS = [os.urandom(32)]
IDLE, ABSOLUTE, GRACE = 3600.0, 36000.0, 3600.0
HOST = "app.example.com"


class FlakyStore(MemoryStore):
    """The embedded store, shared by two replicas, which can be away."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    async def get(self, key: str) -> bytes | None:
        self._check()
        return await super().get(key)

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        self._check()
        return await super().swap(key, expected, value, ttl=ttl)

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        self._check()
        return await super().lease(key, owner, ttl=ttl)

    async def release(self, key: str, owner: str) -> None:
        self._check()
        await super().release(key, owner)

    async def read(self, stream: str, after: str = "", *, count: int = 1000) -> list[Entry]:
        self._check()
        return await super().read(stream, after, count=count)

    async def publish(self, channel: str, message: bytes) -> None:
        self._check()
        await super().publish(channel, message)

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        self._check()
        await super().put(key, value, ttl=ttl)

    async def tally(self, key: str, *, burst: int, every: float) -> Tally:
        self._check()
        return await super().tally(key, burst=burst, every=every)


class Replica:
    """The rooms of one process that have to do with sessions."""

    def __init__(self, store: MemoryStore, provider: Provider, clock: Clock) -> None:
        cookie, ring = schema.Cookie(), KeyRing(KEYS)
        self.clock = clock
        self.cookie = SessionCookie(Cookies(cookie, secure=True), ring, cookie)
        self.live = LiveView(clock=clock, idle=IDLE)
        self.vault = Vault(store, ring)
        self.marks = Marks(store, clock=clock, on_mark=self.live.apply)
        providers = {provider.name: provider}
        self.peers = Replicas(store, on_asked=lambda user, asking: self.recall.answer(user, asking))
        pool = TokenPool(self.vault, clock=clock)
        self.recall = Recall(
            pool=pool,
            live=self.live, vault=self.vault, replicas=self.peers, clock=clock,
            scope=lambda session: shared_by(providers, session.ticket),
        )  # fmt: skip
        self.failures: list[str] = []
        self.refresher = Refresher(
            providers=providers, vault=self.vault, store=store, live=self.live, marks=self.marks,
            replicas=self.peers, recall=self.recall, pool=pool, grace=RefreshGrace(store, seconds=GRACE, clock=clock),
            on_failure=lambda _, reason: self.failures.append(reason), clock=clock,
        )  # fmt: skip
        self.ended: list[tuple[str, str]] = []
        self.termination = Termination(
            marks=self.marks, vault=self.vault,
            on_end=lambda ticket, cause, reason: self.ended.append((ticket.id, cause)),
        )  # fmt: skip
        self.resumption = Resumption(
            cookie=self.cookie, live=self.live, vault=self.vault, marks=self.marks, recall=self.recall,
            refresher=self.refresher, termination=self.termination, providers=providers, idle=IDLE, clock=clock,
        )  # fmt: skip

    async def click(self, sealed: str) -> Carried:
        """One request with this cookie."""
        return self.resumption.at_once(sealed, HOST) or await self.resumption.resume(sealed, HOST)

    def seal(self, ticket: Ticket) -> str:
        """The cookie of a ticket, sealed now."""
        lines = self.cookie.write(ticket, now=self.clock.now)
        (sealed,) = self.cookie.find(Headers([(b"cookie", line.partition(";")[0].encode()) for line in lines]))
        return sealed

    def forget(self) -> None:
        """Restart: memory is gone."""
        self.live = LiveView(clock=self.clock, idle=IDLE)
        self.resumption._live = self.live  # type: ignore[misc]


class Stage:
    """A strict provider, a store, two replicas, and one person who has signed in."""

    def __init__(self, peer: OpenIDPeer, clock: Clock) -> None:
        self.peer, self.clock = peer, clock
        self.store = FlakyStore(clock)
        self.replicas: list[Replica] = []
        self.provider: Provider

    async def sign_in(self, **changes: Any) -> Ticket:
        """A session whose record is in the store, as ``signin.login`` leaves it."""
        tokens = await self.provider.password("alice", "alice-password")
        ticket = new_ticket(
            provider="p", issuer=self.provider.issuer, subject=str(tokens.claims["sub"]), host=HOST,
            now=self.clock.now, absolute=ABSOLUTE, refresh_token=tokens.refresh_token, issued_at=tokens.issued_at,
            provider_sid="",
        )._replace(**changes)  # fmt: skip
        record = Record(
            ticket.generation, ticket.token, tokens.id_token, tokens.access_token, dict(tokens.claims),
            tokens.expires_at, self.clock.now, self.clock.now,
        )  # fmt: skip
        await self.replicas[0].vault.save(ticket, record, expected=None, now=self.clock.now)
        return ticket

    @property
    def refreshes(self) -> list[str]:
        """What came of each refresh call."""
        return self.peer.refreshes


@pytest.fixture
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """Two replicas over one store; ``per_user`` as the parameter makes the provider behave as Dex does."""
    mode = getattr(request, "param", "per_session")
    clock = Clock(1_800_000_000.0)
    dex = mode == "per_user"
    async with AsyncExitStack() as stack:
        peer = OpenIDPeer.like_dex(clock=clock) if dex else OpenIDPeer(clock=clock)
        await stack.enter_async_context(peer)
        made = Stage(peer, clock)
        shape = schema.Provider.model_validate(peer.settings(refresh_tokens=mode, scopes=["openid", "offline_access"]))
        made.provider = await stack.enter_async_context(Provider("p", shape, clock=clock))
        made.replicas = [Replica(made.store, made.provider, clock) for _ in range(2)]
        for replica in made.replicas:
            stack.push_async_callback(replica.resumption.close)
        yield made


async def test_a_live_session_asks_nobody(stage: Stage) -> None:
    """The second click is answered from memory: no store, no provider."""
    ticket = await stage.sign_in()
    (one, _), sealed = stage.replicas, stage.replicas[0].seal(ticket)
    first = await one.click(sealed)
    stage.store.away = True
    calls = len(stage.peer.calls)
    assert one.resumption.at_once(sealed, HOST) is not None
    assert first.session.identity.subject == "sub-alice"
    assert len(stage.peer.calls) == calls


async def test_fifty_requests_at_expiry_over_two_replicas_refresh_once(stage: Stage) -> None:
    """The token has expired; fifty parallel requests on two replicas make exactly one successful call."""
    ticket = await stage.sign_in()
    sealed = stage.replicas[0].seal(ticket)
    for replica in stage.replicas:
        await replica.click(sealed)
    stage.clock.now += 700
    found = await asyncio.gather(*(stage.replicas[i % 2].click(sealed) for i in range(50)))
    assert stage.refreshes == ["rotated"]
    assert {carried.session.record.generation for carried in found} == {2}
    assert all(carried.session.record.expires_at > stage.clock.now for carried in found)


async def test_ahead_of_expiry_nobody_waits(stage: Stage) -> None:
    """Close to expiry the request is answered with the token it has, and a new one is fetched behind it."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 590
    gate = stage.peer.hold("token")
    carried = await one.click(sealed)
    assert carried.session.record.generation == 1
    gate.set()
    await one.resumption.close()
    assert stage.refreshes == ["rotated"]
    assert (await one.click(sealed)).session.record.generation == 2


async def test_a_browser_that_is_behind_gets_a_new_cookie(stage: Stage) -> None:
    """After a refresh the answer carries the new generation; after a quarter of idle, a cookie sealed anew."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    assert one.resumption.cookies(await one.click(sealed)) == ()
    stage.clock.now += 700
    carried = await one.click(sealed)
    (line,) = one.resumption.cookies(carried)
    fresh = one.cookie.open(line.partition("=")[2].partition(";")[0], HOST)
    assert fresh is not None
    assert fresh.generation == 2
    assert fresh.token == carried.session.record.token != ticket.token


async def test_an_emptied_store_signs_nobody_out(stage: Stage) -> None:
    """With memory, the record is written again without asking anybody; without, one refresh makes a new one."""
    ticket = await stage.sign_in()
    one, two = stage.replicas
    sealed = one.seal(ticket)
    await one.click(sealed)
    stage.store.__init__(stage.clock)  # type: ignore[misc]
    stage.clock.now += 590  # due: memory alone does not suffice
    await one.click(sealed)
    await one.resumption.close()
    assert stage.refreshes == ["rotated"]
    stage.store.__init__(stage.clock)  # type: ignore[misc]
    newest = one.seal(one.live.by_id(ticket.id).ticket)  # type: ignore[union-attr]
    await asyncio.gather(*(two.click(newest) for _ in range(20)))
    assert stage.refreshes == ["rotated", "rotated"]


async def test_an_unreachable_store_and_a_restart_leave_the_cookie(stage: Stage) -> None:
    """A replica that knows nothing, with the store away, opens the session from the cookie alone."""
    ticket = await stage.sign_in()
    two, sealed = stage.replicas[1], stage.replicas[0].seal(ticket)
    stage.store.away = True
    found = await asyncio.gather(*(two.click(sealed) for _ in range(20)))
    assert stage.refreshes == ["rotated"]
    assert {carried.session.record.generation for carried in found} == {2}
    stage.store.away = False
    stage.clock.now += 1  # a later use is written back, and with it the newer tokens
    await two.click(sealed)
    await two.resumption.write_back()
    stored = await two.vault.load(ticket)
    assert stored is not None
    assert stored.record.generation == 2


async def test_only_the_providers_word_ends_a_session(stage: Stage) -> None:
    """A failing provider leaves the session alive with the tokens it has; a dead token ends it, and is asked once."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    stage.peer.break_storage(times=1)
    assert (await one.click(sealed)).session.record.generation == 1
    stage.clock.now += 60
    stage.peer.refresh_tokens.kill(username="alice")
    with pytest.raises(SessionEnded):
        await one.click(sealed)
    calls = len(stage.peer.asked("token", grant_type="refresh_token"))
    for replica in stage.replicas:
        with pytest.raises(SessionEnded):
            await replica.click(replica.seal(ticket))
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == calls


async def test_a_failing_provider_is_not_hammered(stage: Stage) -> None:
    """After a failure the next tries are spaced out; 429 is obeyed."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    stage.peer.limit_rate(retry_after=30, times=100)
    for _ in range(20):
        await one.click(sealed)
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == 1
    stage.clock.now += 29
    await one.click(sealed)
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == 1
    stage.clock.now += 2
    await one.click(sealed)
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == 2


async def test_a_failing_provider_is_not_hammered_ahead_of_expiry(stage: Stage) -> None:
    """While the old token still holds, a renewal that failed is tried again only after a pause."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 585
    stage.peer.limit_rate(retry_after=10, times=100)
    for _ in range(10):
        await one.click(sealed)
        await one.resumption.close()
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == 1
    stage.clock.now += 11
    await one.click(sealed)
    await one.resumption.close()
    assert len(stage.peer.asked("token", grant_type="refresh_token")) == 2


async def test_what_was_made_before_the_lease_was_given_is_taken(stage: Stage) -> None:
    """A replica that decided to renew, and got the lease after another had renewed, asks the provider nothing."""
    ticket = await stage.sign_in()
    one, two = stage.replicas
    stored = await two.vault.load(ticket)
    assert stored is not None
    stage.clock.now += 700
    made = await one.refresher.refresh(ticket, stored.record, last_used=stage.clock.now)
    taken = await two.refresher.refresh(ticket, stored.record, last_used=stage.clock.now)
    assert taken == made
    assert stage.refreshes == ["rotated"]


async def test_a_rotation_that_could_not_be_proved_is_not_lost(stage: Stage) -> None:
    """The provider rotates, but its keys cannot be had: the new token is kept, and the session goes on with it."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    stage.peer.rotate_keys(keep_old=False)
    stage.peer.fail("jwks", 503, times=100)
    carried = await one.click(sealed)
    assert carried.session.record.generation == 2
    assert carried.session.record.token != ticket.token
    assert one.resumption.cookies(carried) != ()
    stage.peer.jwks_answer = None
    stage.clock.now += 60
    again = await one.click(sealed)
    assert again.session.record.expires_at > stage.clock.now
    assert stage.refreshes == ["rotated", "rotated"]


async def test_nothing_to_go_on_is_503_and_not_the_end(stage: Stage) -> None:
    """Store emptied, memory gone and the provider down: the answer is "try again", and the cookie stays good."""
    ticket = await stage.sign_in()
    two, sealed = stage.replicas[1], stage.replicas[0].seal(ticket)
    stage.store.__init__(stage.clock)  # type: ignore[misc]
    stage.peer.break_storage(times=1)
    with pytest.raises(Unavailable):
        await two.click(sealed)
    assert (await two.click(sealed)).session.record.generation == 2


async def test_d8_idle_and_absolute_end_are_facts(stage: Stage) -> None:
    """Both ends hold with the record, and after the store was emptied; use on another replica counts."""
    ticket = await stage.sign_in()
    one, two = stage.replicas
    sealed = one.seal(ticket)
    await one.click(sealed)
    stage.clock.now += IDLE - 10
    await one.click(sealed)
    await one.resumption.close()
    await one.resumption.write_back()
    stage.clock.now += 20  # more than idle since the cookie was sealed, not since the last use
    await two.click(sealed)
    stage.clock.now += IDLE + 10
    for replica in (one, two):
        with pytest.raises(SessionEnded, match="idle"):
            await replica.click(sealed)


async def test_d8_a_stale_cookie_without_a_record_opens_nothing(stage: Stage) -> None:
    """Sealed longer ago than idle, and no record to say that it was used since: the session is over."""
    ticket = await stage.sign_in()
    two, sealed = stage.replicas[1], stage.replicas[0].seal(ticket)
    stage.store.__init__(stage.clock)  # type: ignore[misc]
    stage.clock.now += IDLE + 1
    with pytest.raises(SessionEnded, match="idle"):
        await two.click(sealed)
    assert stage.refreshes == []


async def test_d8_the_absolute_end_never_slides(stage: Stage) -> None:
    """Constant use does not move it."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    for _ in range(int(ABSOLUTE // 590)):
        stage.clock.now += 590
        carried = await one.click(sealed)
        await one.resumption.close()
        sealed = one.seal(carried.session.ticket)
    stage.clock.now = ticket.absolute_end
    with pytest.raises(SessionEnded, match="absolute"):
        await one.click(sealed)


async def test_a_sign_out_during_a_refresh_wins(stage: Stage) -> None:
    """A session that is revoked while the provider is being asked does not come back with the new tokens."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    gate = stage.peer.hold("token")
    clicking = asyncio.ensure_future(one.click(sealed))
    await stage.peer.wait_for("token", 1, grant_type="refresh_token")
    await one.marks.add(Mark("session", ticket.id, ticket.absolute_end, ticket.absolute_end))
    gate.set()
    with pytest.raises(SessionEnded):
        await clicking
    await one.resumption.write_back()
    with pytest.raises(SessionEnded, match="revoked"):
        await one.click(one.seal(ticket))


async def test_a_replica_that_starts_late_knows_of_revocations(stage: Stage) -> None:
    """Marks are read before the first session is opened."""
    ticket = await stage.sign_in()
    one, two = stage.replicas
    await one.marks.add(Mark("session", ticket.id, ticket.absolute_end, ticket.absolute_end))
    with pytest.raises(SessionEnded, match="revoked"):
        await two.click(one.seal(ticket))


async def test_a_client_that_leaves_loses_nothing(stage: Stage) -> None:
    """The request that began the refresh is cancelled in the middle; the rotated token is kept all the same."""
    ticket = await stage.sign_in()
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    gate = stage.peer.hold("token")
    clicking = asyncio.ensure_future(one.click(sealed))
    await stage.peer.wait_for("token", 1, grant_type="refresh_token")
    clicking.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await clicking
    await one.resumption.close()
    assert (await one.click(sealed)).session.record.generation == 2
    assert stage.refreshes == ["rotated"]


async def test_without_a_refresh_token_a_session_ends_with_its_id_token(stage: Stage) -> None:
    """What cannot be renewed is not prolonged."""
    ticket = await stage.sign_in(token=RefreshToken(""))
    one, sealed = stage.replicas[0], stage.replicas[0].seal(ticket)
    await one.click(sealed)
    stage.clock.now += 700
    with pytest.raises(SessionEnded):
        await one.click(sealed)


@pytest.mark.parametrize("stage", ["per_user"], indirect=True)
async def test_a_second_device_does_not_sign_out_the_first(stage: Stage) -> None:
    """The provider keeps one refresh token for a user: both sessions go on with the newest, for many expiries."""
    one, two = stage.replicas
    first = await stage.sign_in()
    scope = one.refresher.scope(first)
    assert scope is not None
    await one.refresher.share(first)
    second = await stage.sign_in()
    await one.refresher.share(second)
    sealed = {one: one.seal(first), two: two.seal(second)}
    for _ in range(10):
        stage.clock.now += 700
        for replica in (one, two):
            carried = await replica.click(sealed[replica])
            assert carried.session.record.expires_at > stage.clock.now
            sealed[replica] = replica.seal(carried.session.ticket)
    assert "dead" not in stage.refreshes


@pytest.mark.parametrize("stage", ["per_user"], indirect=True)
async def test_a_token_killed_by_a_sign_in_that_is_just_being_shared(stage: Stage) -> None:
    """The refusal of the old token is not the end when another device's newer one arrives a moment later."""
    one = stage.replicas[0]
    first = await stage.sign_in()
    await one.refresher.share(first)
    sealed = one.seal(first)
    await one.click(sealed)
    second = await stage.sign_in()  # at the provider the first token is dead now
    stage.clock.now += 700
    clicking = asyncio.ensure_future(one.click(sealed))
    await stage.peer.wait_for("token", 1, grant_type="refresh_token")
    await one.refresher.share(second)
    assert (await clicking).session.record.token.family == second.token.family
