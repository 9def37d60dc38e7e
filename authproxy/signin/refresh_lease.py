"""The lease that lets one task of one replica talk to the provider for a session, or for a user's sessions.

The lease in the store is renewed while the provider takes its time; the other replicas wait for the record that its
holder writes.  While the store is unreachable a lock of this process is left, and the replicas agree whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from authproxy.errors import ProviderError, StoreUnavailable
from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.marks import Marks
from authproxy.sessions.records import Rank, Record
from authproxy.sessions.replicas import Replicas
from authproxy.sessions.sealing import token
from authproxy.sessions.vault import Vault
from authproxy.signin.identity import ends_at
from authproxy.store.base import Store

STORE_RETRY_SECONDS: Final = 2.0
"""How long a store that is not reached is tried again: longer than the pause of its circuit breaker."""
SETTLING_SECONDS: Final = 60.0
"""How long after a failure of the store other replicas may know more than it does."""
_LEASE_SECONDS: Final = 10.0  # renewed every third of it
_LEASE_WAIT_SECONDS: Final = 20.0  # for the replica that holds the lease
_POLL_SECONDS: Final = 0.1
_POLL_MAX_SECONDS: Final = 0.5  # many may wait, and each look costs the store two commands
_TURN_SECONDS: Final = 10.0  # after expiry, in which the others leave a renewal to the replica whose turn it is
_FRESH_SECONDS: Final = 5.0  # a record must still be good for so long, to be taken instead of refreshing


class Postponed(ProviderError):
    """It is another replica's turn, or the newest token may be with one: the store, and the lease, are away."""


class _Lock:
    """A lock and how many tasks use it or wait for it."""

    def __init__(self) -> None:
        self.lock: Final = asyncio.Lock()
        self.users = 0


class RefreshLease:
    """``vault`` and ``store`` are those with patience (``store.patient``): a store that is slow is not away."""

    def __init__(
        self, *, store: Store, vault: Vault, marks: Marks, replicas: Replicas, providers: Mapping[str, Provider],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._store: Final = store
        self._vault: Final = vault
        self._marks: Final = marks
        self._replicas: Final = replicas
        self._providers: Final = providers
        self._clock: Final = clock
        self._locks: Final[dict[str, _Lock]] = {}
        self._failed_at = float("-inf")

    @asynccontextmanager
    async def hold(self, key: str, ticket: Ticket, rank: Rank, known: Record | None) -> AsyncIterator[Record | None]:
        """Hold the lease ``key``; yields a record instead when its former holder made one that is newer than ``rank``.

        Raises ``Postponed`` when the store is away and it is another replica's turn, ``ProviderError`` when the other
        replica takes too long.
        """
        async with self._locked(key), self._leased(key, ticket, rank, known) as made_elsewhere:
            yield made_elsewhere

    def store_failed_within(self, seconds: float) -> bool:
        """Whether the store failed in the last ``seconds``: other replicas may hold newer tokens than it does."""
        return self._clock() - max(self._failed_at, self._marks.failed_at) < seconds

    def note_store_failed(self) -> None:
        """A call to the store failed."""
        self._failed_at = self._clock()

    def is_newer(self, ticket: Ticket, record: Record, than: Rank) -> bool:
        """Whether another replica has made this record meanwhile, and its proof holds for a while."""
        return record.rank > than and self.ends_at(ticket, record) > self._clock() + _FRESH_SECONDS

    def ends_at(self, ticket: Ticket, record: Record) -> float:
        """When the proof of a record ends, by our clock."""
        return ends_at(record, self._providers[ticket.provider])

    @asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Renewals of this process that would send the same token, one after the other, with the store or without."""
        lock = self._locks.setdefault(key, _Lock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                self._locks.pop(key, None)

    @asynccontextmanager
    async def _leased(self, key: str, ticket: Ticket, rank: Rank, known: Record | None) -> AsyncIterator[Record | None]:
        """Hold the lease; yields a record instead when the holder before made one.  Without the store there is none."""
        owner = token(16)
        ahead = known is not None and self.ends_at(ticket, known) > self._clock()
        try:
            made = await self._take_lease(
                key, owner, ticket, rank, wait=not (ahead or self.store_failed_within(SETTLING_SECONDS))
            )
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
        now, poll, held = asyncio.get_running_loop().time, _POLL_SECONDS, False
        gone_at = now() + (STORE_RETRY_SECONDS if wait else 0.0)
        try:
            async with asyncio.timeout(_LEASE_WAIT_SECONDS):
                while True:
                    try:
                        if await self._store.lease(key, owner, ttl=_LEASE_SECONDS) is not None:
                            return None
                        held = True
                        stored = await self._vault.load(ticket)
                        if stored and self.is_newer(ticket, stored.record, rank):
                            return stored.record
                    except StoreUnavailable:
                        if not held and now() >= gone_at:
                            raise
                    await asyncio.sleep(poll)
                    poll = min(poll * 1.5, _POLL_MAX_SECONDS)
        except TimeoutError:
            raise ProviderError("another replica is still renewing this session") from None

    def _check_turn(self, key: str, ticket: Ticket, known: Record | None) -> None:
        """Without the lease two replicas could spend one token: the one whose turn it is goes first.

        The others go on with the proof that they have: the newer token comes to them by the cookie.
        """
        self._failed_at = now = self._clock()
        patient = known is not None and known.claims and now < self.ends_at(ticket, known) + _TURN_SECONDS
        if patient and not self._replicas.owns(key):
            raise Postponed("the store is away, and it is another replica's turn to renew this session")

    async def _keep(self, key: str, owner: str) -> None:
        while True:
            await asyncio.sleep(_LEASE_SECONDS / 3)
            with suppress(StoreUnavailable):
                await self._store.lease(key, owner, ttl=_LEASE_SECONDS)
