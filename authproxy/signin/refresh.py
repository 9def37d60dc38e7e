"""Renewing a session's tokens: once across tasks and replicas, with the newest refresh token, wherever it is.

A lease in the store lets one replica talk to the provider; the others wait for the record that it writes.  The lease is
renewed while the provider takes its time, and the record is written by compare-and-set, so that an older result never
replaces a newer one.  Only the provider's own word that a token is dead ends a session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from authproxy.errors import GrantRefused, InvalidToken, ProviderError, SessionEnded, StoreUnavailable
from authproxy.oidc.grants import AnswerUnproved
from authproxy.oidc.provider import Provider, TokenSet
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.replicas import Replicas
from authproxy.sessions.sealing import token
from authproxy.sessions.vault import Rank, Record, SharedToken, Stored, Vault, share_scope
from authproxy.signin.gate import Gate
from authproxy.signin.identity import ends_at
from authproxy.signin.recall import Recall
from authproxy.store import keys
from authproxy.store.base import Store

log = logging.getLogger("authproxy.signin")

_LEASE: Final = 10.0  # seconds; renewed every third of it
_PATIENCE: Final = 20.0  # seconds to wait for the replica that holds the lease
_POLL: Final = 0.1
_POLL_MAX: Final = 0.5  # many may wait, and each look costs the store two commands
_BLIP: Final = 2.0  # seconds for which a store that does not answer may come back: longer than its breaker's pause
_LATE_SHARES: Final = 20  # looks, a tenth of a second apart
_TURN: Final = 10.0  # seconds after expiry that the others leave a renewal to the replica whose turn it is
_SETTLING: Final = 60.0  # seconds after the store failed in which others may know more than it does
_FRESH: Final = 5.0  # seconds a record must still be good for, to be taken instead of refreshing


class Rotated(ProviderError):
    """The provider rotated the refresh token, but what it sent beside it could not be proved for now.

    ``record`` holds the new refresh token and the old proof.
    """

    def __init__(self, error: ProviderError, record: Record) -> None:
        super().__init__(str(error), retry_after=error.retry_after)
        self.record = record


class Postponed(ProviderError):
    """The store, and with it the lease, is away, and it is another replica's turn: two shall not spend one token."""


class Candidate(NamedTuple):
    """A refresh token and where it stands in the line of its generations."""

    generation: int
    refresh_token: str

    def __repr__(self) -> str:
        return f"<Candidate generation {self.generation}>"


class Refresher:
    """Makes a new record for a session from its newest refresh token."""

    def __init__(
        self, *, providers: Mapping[str, Provider], vault: Vault, store: Store, live: LiveView, marks: Marks,
        replicas: Replicas, recall: Recall, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._providers: Final = providers
        self._live: Final = live
        self._marks: Final = marks
        self._replicas: Final = replicas
        self._recall: Final = recall
        self._gates: Final = {name: Gate(clock) for name in providers}
        self._away_at = float("-inf")  # when the store last failed
        self._vault: Final = vault
        self._store: Final = store
        self._clock: Final = clock

    async def refresh(self, ticket: Ticket, known: Record | None, *, last_used: float) -> Record:
        """The session's next record, made here or by another replica meanwhile.

        Raises ``SessionEnded`` when the provider calls the token dead, ``ProviderError`` when it could not be asked,
        of it ``Postponed`` when that is left to another replica.
        """
        rank = max((ticket.generation, 0.0), known.rank if known else (0, 0.0))
        async with self._leased(ticket, rank, known) as made_elsewhere:
            if made_elsewhere is not None:
                return made_elsewhere
            return await self._renew(ticket, known, rank, last_used)

    @property
    def alone(self) -> bool:
        """Whether the store failed lately, so that replicas have to get along without it."""
        return self._clock() - max(self._away_at, self._marks.failed_at) < _SETTLING

    def scope(self, ticket: Ticket) -> str | None:
        """The name under which the user's sessions share a refresh token, or None where each has its own."""
        return shared_by(self._providers, ticket)

    @asynccontextmanager
    async def _leased(self, ticket: Ticket, rank: Rank, known: Record | None) -> AsyncIterator[Record | None]:
        """Hold the lease; yields a record instead when whoever held it made one.  Without the store there is none."""
        key = keys.lease_refresh(ticket.user, self.scope(ticket) or ticket.id)
        owner = token(16)
        ahead = known is not None and self._ends_at(ticket, known) > self._clock()
        try:
            made = await self._take_lease(key, owner, ticket, rank, wait=not (ahead or self.alone))
        except StoreUnavailable:
            self._check_turn(key, ticket, known)
            made = None  # the provider's own rules for reuse are all that is left between two replicas
        if made is not None:
            yield made
            return
        renewal = asyncio.get_running_loop().create_task(self._keep(key, owner))
        try:
            yield None
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            with suppress(StoreUnavailable):
                await self._store.release(key, owner)

    async def _take_lease(self, key: str, owner: str, ticket: Ticket, rank: Rank, *, wait: bool) -> Record | None:
        """Return None with the lease held, or the record that made taking it needless.  Raises StoreUnavailable.

        A store that is away for a moment is waited for: two replicas that go on without a lease spend one token twice.
        """
        now, poll, held = asyncio.get_running_loop().time, _POLL, False
        gone_at = now() + (_BLIP if wait else 0.0)
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    try:
                        if await self._store.lease(key, owner, ttl=_LEASE) is not None:
                            return None
                        held = True
                        stored = await self._vault.load(ticket)
                        if stored and self._is_newer(ticket, stored.record, rank):
                            return stored.record
                    except StoreUnavailable:
                        if not held and now() >= gone_at:
                            raise
                    await asyncio.sleep(poll)
                    poll = min(poll * 1.5, _POLL_MAX)
        except TimeoutError:
            raise ProviderError("another replica is still renewing this session") from None

    def _check_turn(self, key: str, ticket: Ticket, known: Record | None) -> None:
        """Without the lease two replicas could spend one token: the one whose turn it is goes first.

        The others go on with the proof that they have: the newer token comes to them by the cookie.
        """
        self._away_at = now = self._clock()
        patient = known is not None and known.claims and now < self._ends_at(ticket, known) + _TURN
        if patient and not self._replicas.owns(key):
            raise Postponed("the store is away, and it is another replica's turn to renew this session")

    async def _keep(self, key: str, owner: str) -> None:
        while True:
            await asyncio.sleep(_LEASE / 3)
            with suppress(StoreUnavailable):
                await self._store.lease(key, owner, ttl=_LEASE)

    def _is_newer(self, ticket: Ticket, record: Record, than: Rank) -> bool:
        return record.rank > than and self._ends_at(ticket, record) > self._clock() + _FRESH

    def _ends_at(self, ticket: Ticket, record: Record) -> float:
        return ends_at(record, self._providers[ticket.provider])

    async def _stored(self, ticket: Ticket) -> Stored | None:
        with suppress(StoreUnavailable):
            return await self._vault.load(ticket)
        return None

    async def _shared(self, ticket: Ticket) -> SharedToken | None:
        scope = self.scope(ticket)
        if scope is None:
            return None
        with suppress(StoreUnavailable):
            return await self._vault.shared_token(ticket, scope)
        return None

    async def _renew(self, ticket: Ticket, known: Record | None, rank: Rank, last_used: float) -> Record:
        stored = await self._stored(ticket)  # the lease is ours now: whatever was made before it was given is here
        if stored and self._is_newer(ticket, stored.record, rank):
            return stored.record
        shared = await self._shared(ticket)
        if self._may_be_behind(ticket, stored, shared):
            stored, shared = await self._recalled(ticket, rank)
            if stored and self._is_newer(ticket, stored.record, rank):
                return stored.record
        previous = stored.record if stored else known
        newest = self._newest(ticket, known, stored, shared)
        try:
            tokens = await self._redeem(ticket, newest, previous)
        except AnswerUnproved as unproved:
            record = self._kept(newest, previous, unproved.refresh_token, last_used)
            await self._write(ticket, record, stored)
            raise Rotated(unproved, record) from None
        except GrantRefused as refused:
            newer = await self._newer_than(newest, ticket)
            if newer is None:
                await self._bury(ticket, newest)
                raise SessionEnded(f"the provider refused the refresh token ({refused.error})") from None
            newest, tokens = newer, await self._redeem_last(ticket, newer, previous)
        now = self._providers[ticket.provider].now()
        record = self._next(newest, previous, tokens, last_used=last_used, refreshed_at=now)
        await self._write(ticket, record, stored)
        return record

    def _may_be_behind(self, ticket: Ticket, stored: Stored | None, shared: SharedToken | None) -> bool:
        """Whether the store lost something, or was away while others went on without it."""
        lacking = stored is None or (shared is None and self.scope(ticket) is not None)
        return lacking or self.alone

    async def _recalled(self, ticket: Ticket, rank: Rank) -> tuple[Stored | None, SharedToken | None]:
        async def found() -> bool:
            stored, shared = await self._stored(ticket), await self._shared(ticket)
            newer = stored is not None and stored.record.rank > rank
            return newer or (shared is not None and shared.generation > rank[0])

        await self._recall(ticket.user, found)
        return await self._stored(ticket), await self._shared(ticket)

    async def _newer_than(self, refused: Candidate, ticket: Ticket) -> Candidate | None:
        """A token that replaced the refused one: another device's sign-in kills it before it shares its own."""
        for _ in range(_LATE_SHARES if self.scope(ticket) is not None else 1):
            stored = await self._stored(ticket)
            newest = self._newest(ticket, None, stored, await self._shared(ticket))
            if newest.generation > refused.generation:
                return newest
            await asyncio.sleep(_POLL)
        return None

    async def _redeem_last(self, ticket: Ticket, newest: Candidate, previous: Record | None) -> TokenSet:
        try:
            return await self._redeem(ticket, newest, previous)
        except GrantRefused as refused:
            await self._bury(ticket, newest)
            raise SessionEnded(f"the provider refused the refresh token ({refused.error})") from None

    async def _bury(self, ticket: Ticket, dead: Candidate) -> None:
        with suppress(StoreUnavailable):
            await self._vault.bury(dead.refresh_token, ttl=max(ticket.absolute_end - self._clock(), 1.0))

    def _newest(
        self, ticket: Ticket, known: Record | None, stored: Stored | None, shared: SharedToken | None
    ) -> Candidate:
        found = [Candidate(ticket.generation, ticket.refresh_token), *self._siblings(ticket)]
        found += [Candidate(r.generation, r.refresh_token) for r in (known, stored.record if stored else None) if r]
        if shared:
            found.append(Candidate(shared.generation, shared.refresh_token))
        return max(found, key=lambda candidate: candidate.generation)

    def _siblings(self, ticket: Ticket) -> Iterator[Candidate]:
        """What other sessions in this memory have of a token that is shared."""
        if self.scope(ticket) is not None:
            for session in self._live.of_user(ticket.user):
                yield Candidate(session.record.generation, session.record.refresh_token)

    async def _redeem(self, ticket: Ticket, newest: Candidate, previous: Record | None) -> TokenSet:
        if not newest.refresh_token:
            raise SessionEnded("the session has no refresh token and its ID token has expired")
        with suppress(StoreUnavailable):
            if await self._vault.is_dead(newest.refresh_token):
                raise SessionEnded("the refresh token is known to be dead")
        provider = self._providers[ticket.provider]
        claims = previous.claims if previous else None
        try:
            async with self._gates[ticket.provider]:
                return await provider.refresh(newest.refresh_token, subject=ticket.subject, previous=claims)
        except InvalidToken as invalid:
            raise SessionEnded(f"the provider's refreshed ID token is not acceptable ({invalid.code})") from None

    @staticmethod
    def _next(
        newest: Candidate, previous: Record | None, tokens: TokenSet, *, last_used: float, refreshed_at: float
    ) -> Record:
        if not tokens.claims and (previous is None or not previous.claims):
            raise SessionEnded("the provider sent no ID token, and the record with the old one is gone")
        keep = previous if not tokens.id_token else None  # OIDC Core section 12.2: a new ID token is optional
        return Record(
            generation=newest.generation + 1,
            refresh_token=tokens.refresh_token or newest.refresh_token,
            id_token=keep.id_token if keep else tokens.id_token,
            access_token=tokens.access_token,
            claims=dict(keep.claims if keep else tokens.claims),
            # Without a new ID token, the claims are as fresh as the access token that came instead.
            expires_at=tokens.access_expires_at if keep else tokens.expires_at,
            last_used=last_used,
            refreshed_at=refreshed_at,
        )

    @staticmethod
    def _kept(newest: Candidate, previous: Record | None, refresh_token: str, last_used: float) -> Record:
        """The old proof, if there was one, with the refresh token that replaced the spent one."""
        nothing = Record(0, "", "", "", {}, expires_at=0.0, last_used=last_used, refreshed_at=0.0)
        return (previous or nothing)._replace(generation=newest.generation + 1, refresh_token=refresh_token)

    async def _write(self, ticket: Ticket, record: Record, stored: Stored | None) -> None:
        """Write what the provider gave; where the store is away, the cookie and the live view hold it.

        Not at the first failure: whoever takes the lease next would spend the old token again.
        """
        gone_at = asyncio.get_running_loop().time() + (0.0 if self.alone else _BLIP)
        while not await self._written(ticket, record, stored):
            if asyncio.get_running_loop().time() >= gone_at:
                log.warning("session %s: the renewed record could not be stored; it goes on from memory", ticket.id[:8])
                return
            await asyncio.sleep(_POLL)

    async def _written(self, ticket: Ticket, record: Record, stored: Stored | None) -> bool:
        try:
            scope = self.scope(ticket)
            if scope is not None:
                shared = SharedToken(record.generation, record.refresh_token)
                await self._vault.share_token(ticket, scope, shared, now=self._clock())
            await self._write_record(ticket, record, stored)
        except StoreUnavailable:
            return False
        return True

    async def _write_record(self, ticket: Ticket, record: Record, stored: Stored | None) -> None:
        for _ in range(8):  # bounded: each lost round means that another writer won
            expected = stored.raw if stored else None
            if await self._vault.save(ticket, record, expected=expected, now=self._clock()):
                return
            stored = await self._vault.load(ticket)
            if stored and stored.record.generation >= record.generation:
                return


def shared_by(providers: Mapping[str, Provider], ticket: Ticket) -> str | None:
    """The name under which the sessions of a ticket's user share a refresh token, or None where each has its own."""
    provider = providers.get(ticket.provider)
    if provider is None or provider.settings.refresh_tokens != "per_user":
        return None
    return share_scope(client_id=provider.settings.client_id, scopes=provider.settings.scopes)
