"""From a session cookie to a live session: from memory, from the store, or from the cookie alone.

The order of trust: a mark or an end that is a fact ends the session; the newest tokens win, wherever they are; a store
or a provider that fails ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import random
from typing import Any, Final, NamedTuple

from authproxy.errors import ProviderError, SessionEnded, StoreUnavailable, Unavailable
from authproxy.model import Headers
from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import SessionCookie, Ticket
from authproxy.sessions.flight import SingleFlight
from authproxy.sessions.live import ENDED_SECONDS, Carried, LiveSession, LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.records import Record
from authproxy.sessions.vault import Stored, Vault
from authproxy.signin.gate import NotAsked
from authproxy.signin.identity import ends_at, live_session, renew
from authproxy.signin.recall import Recall
from authproxy.signin.refresh import Refresher, Rotated
from authproxy.signin.refresh_lease import Postponed
from authproxy.signin.termination import Termination

log = logging.getLogger("authproxy.signin")

_ALONG: Final = 5.0  # seconds
_IMPATIENT: Final = 1.0
_BACKOFF_FIRST: Final = 1.0
_BACKOFF_MAX: Final = 30.0
_COOKIE_BACKOFF_MAX: Final = 5.0  # these people wait for an answer
_DOUBT_SECONDS: Final = 2.0  # for which a session that another replica may open is refused without a look
_MAX_FAILED: Final = 10_000


class _BackOff(NamedTuple):
    """A session that could not be renewed: not before ``retry_at`` again, and ``seconds`` after that failed too."""

    retry_at: float
    seconds: float


class Resumption:
    """Opens sessions and keeps them fresh."""

    def __init__(
        self, *, cookie: SessionCookie, live: LiveView, vault: Vault, marks: Marks, recall: Recall,
        refresher: Refresher, termination: Termination, providers: Mapping[str, Provider], idle: float,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._cookie: Final = cookie
        self._live: Final = live
        self._vault: Final = vault
        self._marks: Final = marks
        self._recall: Final = recall
        self._refresher: Final = refresher
        self._termination: Final = termination
        self._providers: Final = providers
        self._idle: Final = idle
        self._clock: Final = clock
        self._openings: Final[SingleFlight[LiveSession]] = SingleFlight()
        self._renewals: Final[SingleFlight[Record]] = SingleFlight()
        self._ahead: Final[SingleFlight[LiveSession]] = SingleFlight()
        self._failed: Final[OrderedDict[str, _BackOff]] = OrderedDict()  # sessions that memory holds no proof of

    def at_once(self, sealed: str, host: str, facts: dict[object, Any] | None = None) -> Carried | None:
        """The session if memory alone can tell; no I/O.  ``host`` and ``facts`` as for ``LiveView.find``."""
        return None if self._marks.asleep else self._live.find(sealed, host, facts)

    async def resume(self, sealed: str, host: str) -> Carried:
        """The session that the cookie opens on ``host``.

        Raises ``SessionEnded``, and ``Unavailable`` when that cannot be known now.
        """
        if self._marks.asleep:
            await self._marks.wake()
        ticket = self._cookie.open(sealed, host)
        if ticket is None:
            raise SessionEnded("no key opens this cookie, or it is for another host", final=False)
        if self._live.recall_ended(sealed):
            raise SessionEnded("this cookie was found to open nothing", final=self._is_over(ticket))
        try:
            session = await self._session(ticket)
            if session.ended:
                raise SessionEnded("the session was revoked")
        except SessionEnded as ended:
            self._live.remember_ended(sealed, ENDED_SECONDS if ended.final else _DOUBT_SECONDS)
            raise
        session.last_used = self._clock()
        return self._live.remember(sealed, ticket, session)

    def clear(self, sealed: str, host: str, headers: Headers) -> tuple[str, ...]:
        """Set-Cookie values that delete the cookie of a session that is over; none for one that was replaced."""
        ticket = self._cookie.open(sealed, host)
        return () if ticket is None or self._termination.is_replaced(ticket) else self._cookie.clear(headers)

    def _is_over(self, ticket: Ticket) -> bool:
        return self._clock() >= ticket.absolute_end or self._marks.revokes(ticket)

    def cookies(self, carried: Carried) -> tuple[str, ...]:
        """Set-Cookie values for a browser that is behind: an older generation, or sealed a quarter of idle ago."""
        session, now = carried.session, self._clock()
        is_current = carried.generation >= session.ticket.generation and carried.sealed_at >= session.adopted_at
        if is_current and now - carried.sealed_at < self._idle / 4:
            return ()
        return self._cookie.write(session.ticket, now=now)

    async def _session(self, ticket: Ticket) -> LiveSession:
        self._refuse_ended(ticket)
        session = self._live.by_id(ticket.id)
        if session and self._usable(session, ticket):
            if self._refresher.scope(ticket) is not None and ticket.token.replaces(session.record.token):
                session.adopt(ticket.token, ticket.sealed_at)
            if self._clock() >= max(session.refresh_at, session.retry_at):
                renewal = self._ahead.start(ticket.id, lambda: self._renew_ahead(session))
                if self._refresher.store_failed_recently or self._marks.behind:
                    await self._brought_along(renewal)
            return session
        return await self._openings.run(ticket.id, lambda: self._open(ticket))

    @staticmethod
    async def _brought_along(renewal: asyncio.Task[LiveSession]) -> None:
        """Without the store the cookie is the only way by which other replicas learn of a new token: wait for it."""
        await asyncio.wait([renewal], timeout=_ALONG)
        if renewal.done() and not renewal.cancelled() and isinstance(renewal.exception(), SessionEnded):
            renewal.result()

    def _refuse_ended(self, ticket: Ticket) -> None:
        if self._clock() >= ticket.absolute_end:
            raise SessionEnded("the session has reached its absolute end")
        provider = self._providers.get(ticket.provider)
        if provider is None or provider.issuer != ticket.issuer:  # its refresh token must not go to another one
            raise SessionEnded("the provider of this session is not configured any more", final=False)
        if self._marks.revokes(ticket):
            raise SessionEnded("the session was revoked")

    def _usable(self, session: LiveSession, ticket: Ticket) -> bool:
        now = self._clock()
        current = session.record.generation >= ticket.generation
        ends = ends_at(session.record, self._providers[ticket.provider])
        return current and now < ends and now - session.last_used <= self._idle

    async def _open(self, ticket: Ticket) -> LiveSession:
        if self._marks.synced_at is None:
            with suppress(StoreUnavailable):
                await self._marks.sync()
            self._refuse_ended(ticket)
        live = self._live.by_id(ticket.id)
        stored, asked = await self._load(ticket)
        if asked and stored is None:
            stored = await self._recalled(ticket, live)
        last_used = self._last_used(ticket, live, stored)
        if self._clock() - last_used > self._idle:
            raise SessionEnded("the session was idle for too long")
        known = self._newest(live, stored)
        if known is not None and known.generation < ticket.generation:
            # Another replica renewed it, and the store does not have that: the old proof is good until it expires.
            known = known._replace(generation=ticket.generation, token=ticket.token)
        if known is None or ends_at(known, self._providers[ticket.provider]) <= self._clock():
            known = await self._renewed(ticket, live, known, last_used)
        return self._enter(ticket, live, known, last_used)

    async def _load(self, ticket: Ticket) -> tuple[Stored | None, bool]:
        """The record, and whether the store could be asked for it."""
        with suppress(StoreUnavailable):
            return await self._vault.load(ticket), True
        return None, False

    async def _recalled(self, ticket: Ticket, live: LiveSession | None) -> Stored | None:
        """The store has lost the record: this replica or another may have it in memory; no provider need be asked."""
        known = live.record.generation if live else 0

        async def found() -> bool:
            stored = await self._vault.load(ticket)
            return stored is not None and stored.record.generation > known

        await self._recall(ticket.user, found)
        return (await self._load(ticket))[0]

    @staticmethod
    def _last_used(ticket: Ticket, live: LiveSession | None, stored: Stored | None) -> float:
        """A fact, not an absence: the record says it, and where it is gone, the time at which the cookie was sealed."""
        return max(ticket.sealed_at, live.last_used if live else 0.0, stored.record.last_used if stored else 0.0)

    @staticmethod
    def _newest(live: LiveSession | None, stored: Stored | None) -> Record | None:
        records = [record for record in (stored and stored.record, live and live.record) if record]
        return max(records, key=lambda record: record.rank, default=None)

    async def _renewed(
        self, ticket: Ticket, live: LiveSession | None, known: Record | None, last_used: float
    ) -> Record:
        """A new record; the old one while the provider cannot be asked, until the session's own end."""
        if known is not None and live is not None:
            if self._clock() < live.retry_at:
                return known
            if live.backoff and known.claims and known.generation == live.record.generation:
                return await self._tried_again(live)
        failed = self._failed.get(ticket.id)
        if failed is not None and self._clock() < failed.retry_at:
            return self._unrenewed(known)
        try:
            record = await self._refresh(ticket, known, last_used)
        except ProviderError as error:
            log.log(_level(error), "session %s cannot be renewed now: %s", ticket.id[:8], error)
            known = error.record if isinstance(error, Rotated) else known
            if live is not None and known is not None and known.claims:
                self._enter(ticket, live, known, last_used)
                self._back_off(live, error)
            else:
                self._hold_off(ticket, error)
            return self._unrenewed(known)
        self._failed.pop(ticket.id, None)
        return record

    @staticmethod
    def _unrenewed(known: Record | None) -> Record:
        """The old proof, which holds while the provider cannot be asked.  Raises ``Unavailable`` without one."""
        if known is None or not known.claims:
            raise Unavailable(
                "session_not_restorable", "Your session cannot be restored right now. Please try again soon."
            )
        return known

    def _hold_off(self, ticket: Ticket, error: ProviderError) -> None:
        """Keep a session that has no place in memory from asking the provider at every request.

        The first failure may be followed by another try at once.
        """
        former = self._failed.pop(ticket.id, None)
        seconds = min(_COOKIE_BACKOFF_MAX, max(_BACKOFF_FIRST, former.seconds * 2)) if former else 0.0
        wait = min(error.retry_after or seconds * (0.5 + random()), _BACKOFF_MAX)  # noqa: S311
        self._failed[ticket.id] = _BackOff(self._clock() + wait, seconds)
        while len(self._failed) > _MAX_FAILED:
            self._failed.popitem(last=False)

    async def _tried_again(self, live: LiveSession) -> Record:
        """It failed before: whoever asks now does not wait for long; the old proof holds in the meantime."""
        renewal = self._ahead.start(live.id, lambda: self._renew_ahead(live))
        await asyncio.wait([renewal], timeout=_IMPATIENT)
        return renewal.result().record if renewal.done() else live.record

    def _back_off(self, session: LiveSession, error: ProviderError) -> None:
        if isinstance(error, Postponed | NotAsked):
            wait = max(error.retry_after or 0.0, _BACKOFF_FIRST)
            session.retry_at = self._clock() + wait * (1.0 if isinstance(error, Postponed) else 1.0 + random())  # noqa: S311
            return
        session.backoff = min(_BACKOFF_MAX, max(_BACKOFF_FIRST, session.backoff * 2))
        session.retry_at = self._clock() + (error.retry_after or session.backoff * (0.5 + random()))  # noqa: S311

    def _enter(self, ticket: Ticket, live: LiveSession | None, record: Record, last_used: float) -> LiveSession:
        self._refuse_ended(ticket)  # a sign-out may have come while the provider was asked
        provider = self._providers[ticket.provider]
        if live is not None and live.record.token.replaces(record.token):  # a sign-in handed it on meanwhile
            record = record._replace(token=live.record.token)
        newest = ticket._replace(generation=record.generation, token=record.token)
        if live is None or live.ended:
            live = live_session(newest, record, provider, last_used=last_used)
        elif record.rank > live.record.rank:
            renew(live, newest, record, provider)
        self._live.enter(live)
        return live

    async def _refresh(self, ticket: Ticket, known: Record | None, last_used: float) -> Record:
        """One refresh for all tasks of this process, also while the store, and with it the lease, is away."""
        return await self._renewals.run(ticket.id, lambda: self._renewal(ticket, known, last_used))

    async def _renewal(self, ticket: Ticket, known: Record | None, last_used: float) -> Record:
        """Every renewal of this process passes here: what the provider refuses for good ends the session everywhere."""
        try:
            return await self._refresher.refresh(ticket, known, last_used=last_used)
        except SessionEnded as ended:
            if ended.final:
                await self._termination.end(ticket, "refused", str(ended))
            self._live.drop(ticket.id)
            raise

    async def _renew_ahead(self, session: LiveSession) -> LiveSession:
        """Renew ahead of expiry, in the background: the request that noticed does not wait."""
        ticket = session.ticket
        try:
            record = await self._refresh(ticket, session.record, session.last_used)
        except ProviderError as error:
            log.log(_level(error), "session %s cannot be renewed ahead of expiry: %s", ticket.id[:8], error)
            if isinstance(error, Rotated):
                self._enter(ticket, session, error.record, session.last_used)
            self._back_off(session, error)
            return session
        except SessionEnded as ended:
            log.info("session %s: %s", ticket.id[:8], ended)
            raise
        return self._enter(ticket, session, record, session.last_used)

    async def write_back(self) -> None:
        """Write what only memory knows: newer tokens, and the last use, so that idle time is a fact everywhere."""
        await self._refresher.write_back()
        for session in self._live.used():
            if self._marks.revokes(session.ticket):
                continue
            used_at = session.last_used
            stored = await self._vault.load(session.ticket)
            newest = max(
                (record for record in (session.record, stored and stored.record) if record), key=lambda r: r.rank
            )
            if stored is None or stored.record.last_used < used_at or newest is not stored.record:
                record = newest._replace(last_used=max(used_at, newest.last_used))
                expected = stored.raw if stored else None
                await self._vault.save(session.ticket, record, expected=expected, now=self._clock())
            session.used_written = used_at

    async def close(self) -> None:
        """Let renewals finish: a rotated token that nobody wrote down would be lost."""
        await self._ahead.close()
        await self._renewals.close()
        await self._openings.close()
        await self._recall.close()


def _level(error: ProviderError) -> int:
    return logging.DEBUG if isinstance(error, Postponed | NotAsked) else logging.WARNING
