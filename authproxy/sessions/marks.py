"""Revocation marks: what was ended, and since when, on every replica within a second.

Marks travel in a stream of the store that every replica re-reads each second; a published message only wakes it sooner,
since published messages may be lost.  A mark made while the store is away is kept and appended later.  When the store
was emptied, replicas append again what they hold.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from authproxy.errors import StoreUnavailable
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.sealing import digest
from authproxy.store import keys
from authproxy.store.base import Store

log = logging.getLogger("authproxy.sessions")
_FEW: Final = 1000
"""Marks that are kept without a look at those whose end has come."""

EnrolledKind = Literal["family", "enrolled-name", "cluster", "enrolled"]
"""What of the enrolled credentials a mark ends: one enrollment, one name, one cluster, all of them."""
LAG: Final = 3.0
"""Seconds without a reading after which the store counts as away."""
EVERY: Final = "*"
"""The name of a mark of kind ``enrolled``."""
_OF_SESSIONS: Final = ("session", "sid", "subject")

Names = tuple[tuple[str, str], ...]
"""Kind and name of every mark that would end something."""


class Mark(NamedTuple):
    """``name`` is revoked for whatever began before ``before``; the mark itself may go after ``until``."""

    kind: Literal["session", "sid", "subject", "bearer"] | EnrolledKind
    name: str
    before: float
    until: float


def sid_name(provider: str, sid: str) -> str:
    """The name of a provider's own session (the ``sid`` claim, OIDC Back-Channel Logout section 2.1)."""
    return digest("provider-sid", provider, sid)


def bearer_subject(issuer: str, subject: str) -> str:
    """The name of a mark for the bearer tokens of one subject of an issuer."""
    return digest("bearer-subject", issuer, subject)


def bearer_sid(issuer: str, sid: str) -> str:
    """The name of a mark for the bearer tokens that carry an issuer's ``sid``, such as ID tokens of kubectl users."""
    return digest("bearer-sid", issuer, sid)


def of_bearer(issuer: str, subject: str, sid: object) -> Names:
    """What would end a token with these claims; worth keeping beside a token that is remembered."""
    names: Names = (("bearer", bearer_subject(issuer, subject)),)
    return (*names, ("bearer", bearer_sid(issuer, sid))) if isinstance(sid, str) and sid else names


class Marks:
    """The marks that this replica knows, and the way to the others."""

    def __init__(
        self, store: Store, *, clock: Callable[[], float], on_mark: Callable[[Mark], None], known: Iterable[Mark] = ()
    ) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._on_mark: Final = on_mark
        self._marks: Final[dict[tuple[str, str], Mark]] = {}
        self._sweep_above = _FEW
        self._unsent: Final[list[Mark]] = []
        self._sending: Final = asyncio.Lock()
        self._reading: Final = asyncio.Lock()
        self.failed_at = float("-inf")
        self._after = ""  # id of the last entry that was read
        self._before = ""  # id of the one before
        self._first: str | None = None  # id of the oldest entry at the last reading
        self._wake: Final = asyncio.Event()
        self.synced_at: float | None = None  # None: never read since start
        for mark in known:
            self._learn(mark)

    @property
    def behind(self) -> bool:
        """Whether the store was there once, and has not answered for longer than a reading takes."""
        return self.synced_at is not None and self._clock() - self.synced_at > LAG

    @property
    def asleep(self) -> bool:
        """Whether time has passed in which nothing was read, although the store did not fail: this process was stopped.

        Then what others have revoked meanwhile has to be read before anything is believed.
        """
        synced_at = self.synced_at
        return synced_at is not None and self.failed_at < synced_at and self._clock() - synced_at > LAG

    async def wake(self) -> None:
        """Read what was missed, if the store lets us."""
        with suppress(StoreUnavailable):
            await self.sync()

    def held(self) -> tuple[Mark, ...]:
        """Every mark that is known; given to another ``Marks`` as ``known``, they are appended to its store."""
        return tuple(self._marks.values())

    def revokes(self, ticket: Ticket) -> bool:
        """Whether a mark ends this session."""
        names = [("session", ticket.id), ("subject", ticket.user)]
        if ticket.provider_sid:
            names.append(("sid", sid_name(ticket.provider, ticket.provider_sid)))
        return self.end(names, ticket.signed_in_at)

    def end(self, names: Iterable[tuple[str, str]], since: float) -> bool:
        """Whether one of the named marks ends what began at ``since``."""
        found = (self._marks.get(name) for name in names)
        return any(mark is not None and since < mark.before for mark in found)

    def revokes_enrolled(self, *, family: str, name: str, cluster: str | None, since: float) -> bool:
        """Whether a mark ends the credentials of an enrollment that took place at ``since``."""
        kinds = [("family", family), ("enrolled-name", name), ("enrolled", EVERY)]
        if cluster is not None:
            kinds.append(("cluster", cluster))
        return self.end(kinds, since)

    async def end_enrolled(self, kind: EnrolledKind, name: str, *, before: float, until: float) -> bool:
        """Revoke enrolled credentials: those of an enrollment earlier than ``before``; see ``add``."""
        return await self.add(Mark(kind, name, before, until))

    async def add(self, mark: Mark) -> bool:
        """Revoke: here at once, everywhere within a second.

        False when the store is away: then the mark waits, and the others learn of it when the store is back.
        """
        self._learn(mark)
        self._unsent.append(mark)
        try:
            await self._send()
        except StoreUnavailable:
            log.warning("a revocation waits for the store; this replica honours it already")
            return False
        with suppress(StoreUnavailable):  # the stream has it, and is read each second
            await self._store.publish(keys.channel_marks(), b"1")
        return True

    def _learn(self, mark: Mark) -> None:
        known = self._marks.get((mark.kind, mark.name))
        if known is None or known.before < mark.before:
            self._marks[(mark.kind, mark.name)] = mark
            if mark.kind in _OF_SESSIONS:
                self._on_mark(mark)
        if len(self._marks) > self._sweep_above:
            self._sweep()

    def _sweep(self) -> None:
        now = self._clock()
        for name in [name for name, mark in self._marks.items() if mark.until <= now]:
            del self._marks[name]
        self._sweep_above = max(_FEW, 2 * len(self._marks))  # those that hold are never given up

    async def _send(self) -> None:
        """Append what waits; when this returns, every mark that was added before is in the stream."""
        async with self._sending:  # of two at once, one would drop a mark that the other has yet to append
            while self._unsent:
                mark = self._unsent[0]
                value = json.dumps(list(mark), separators=(",", ":")).encode()
                entry = await self._store.append(keys.marks(), value, ttl=max(mark.until - self._clock(), 1.0))
                if self._first == "":  # emptied before the next reading, it must not look as if nothing had been
                    self._first = entry
                self._unsent.pop(0)

    async def sync(self) -> None:
        """Send what waits and read what is new.  Raises ``StoreUnavailable``."""
        try:
            await self._send()
            async with self._reading:
                await self._read_on()
        except StoreUnavailable:
            self.failed_at = self._clock()
            raise
        self.synced_at = self._clock()

    async def _read_on(self) -> None:
        oldest = await self._oldest()
        # Never read, trimmed, or emptied and begun anew, maybe by a clock that is behind; or the newest are lost, as
        # they may be when a replica of the store takes over that had not heard of them.
        if oldest != self._first or not await self._holds_the_last():
            self._after = self._before = ""
            await self._repair(await self._read())
            self._first = await self._oldest()
        else:
            await self._read()

    async def _holds_the_last(self) -> bool:
        """Whether the last entry that was read is still there."""
        if not self._after:
            return True
        found = await self._store.read(keys.marks(), self._before, count=1)
        return bool(found) and found[0].id == self._after

    async def _oldest(self) -> str:
        entries = await self._store.read(keys.marks(), count=1)
        return entries[0].id if entries else ""

    async def _read(self) -> set[tuple[str, str]]:
        """Learn the entries that were not read yet; the names that they hold."""
        seen: set[tuple[str, str]] = set()
        while entries := await self._store.read(keys.marks(), self._after):
            for entry in entries:
                self._before, self._after = self._after, entry.id
                mark = Mark(*json.loads(entry.value))
                seen.add((mark.kind, mark.name))
                self._learn(mark)
        return seen

    async def _repair(self, seen: set[tuple[str, str]]) -> None:
        """Append again what the stream does not hold any more."""
        now = self._clock()
        lost = [mark for name, mark in self._marks.items() if name not in seen and mark.until > now]
        if lost:
            log.warning("the store was emptied; appending %d revocations again", len(lost))
            self._unsent.extend(lost)
            await self._send()

    async def run(self) -> None:
        """Keep in step with the other replicas, until cancelled."""
        stop = await self._subscribed()
        try:
            while True:
                self._wake.clear()
                try:
                    await self.sync()
                except StoreUnavailable:
                    log.debug("the revocation stream cannot be read")
                await self._woken()
        finally:
            await stop()

    async def _subscribed(self) -> Callable[[], Awaitable[None]]:
        return await self._store.subscribe(keys.channel_marks(), lambda _: self._wake.set())

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            pass

    def __repr__(self) -> str:
        return f"<Marks {len(self._marks)} held, {len(self._unsent)} to send>"
