"""The in-process view of sessions that the hot path reads: no I/O, no lock, bounded memory.

An entry is used until the earliest of: token refresh due, idle end, absolute end, revocation.  It never outlives any.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, NamedTuple

from authproxy.model import Identity
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.marks import Mark, sid_name
from authproxy.sessions.records import Record, RefreshToken

_COOKIES_PER_SESSION: Final = 8
_EVICTION_TRIES: Final = 32
_ENDED_LIMIT: Final = 10_000
ENDED_SECONDS: Final = 60.0
"""How long it is remembered that a cookie opens nothing."""


class LiveSession:
    """One session as this process knows it; the only values here that change are the newest ones."""

    __slots__ = (
        "_callbacks", "absolute_end", "adopted_at", "backoff", "cookies", "ended", "id", "identity", "identity_by",
        "last_used", "record", "refresh_at", "retry_at", "ticket", "used_written",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, record: Record, identity: Identity, *, last_used: float, refresh_at: float):
        self.id: Final = identity.session.id if identity.session else ticket.id  # one text, not two
        self.absolute_end: Final = ticket.absolute_end
        self.ticket = ticket
        self.record = record
        self.identity = identity
        self.identity_by: object = None  # the provider whose claim mapping made it
        self.refresh_at = refresh_at
        self.last_used = last_used
        self.used_written = record.last_used
        self.retry_at = 0.0
        self.backoff = 0.0
        self.adopted_at = 0.0
        self.ended = False
        self.cookies: tuple[bytes, ...] = ()
        self._callbacks: set[Callable[[], None]] | None = None  # most sessions never have one

    @property
    def ends_at(self) -> float | None:
        """The absolute end (model.Lifetime)."""
        return self.absolute_end

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the session ends (model.Lifetime)."""
        if self._callbacks is None:
            self._callbacks = set()
        self._callbacks.add(callback)
        return lambda: self._forget(callback)

    def _forget(self, callback: Callable[[], None]) -> None:
        if self._callbacks is not None:
            self._callbacks.discard(callback)
            self._callbacks = self._callbacks or None

    @property
    def held(self) -> bool:
        """Whether something lives as long as this session."""
        return bool(self._callbacks)

    def end(self) -> None:
        """The session is over: cut what hangs on it."""
        self.ended = True
        for callback in list(self._callbacks or ()):
            callback()
        self._callbacks = None

    def renewed(self, ticket: Ticket, record: Record, identity: Identity, *, refresh_at: float) -> None:
        """Newer tokens arrived."""
        self.ticket, self.record, self.identity, self.refresh_at = ticket, record, identity, refresh_at
        self.retry_at = self.backoff = 0.0

    def adopt(self, token: RefreshToken, now: float) -> None:
        """The refresh token that the user's sessions share was renewed elsewhere; cookies sealed before are behind.

        The generation stays: it counts renewals of this session's own proof.
        """
        self.record = self.record._replace(token=token)
        self.ticket = self.ticket._replace(token=token)
        self.adopted_at = now

    def __repr__(self) -> str:
        return f"<LiveSession {self.id[:8]} generation {self.record.generation}{' ended' if self.ended else ''}>"


class Carried(NamedTuple):
    """A cookie that was seen: the session that it opens, and how old it is."""

    session: LiveSession
    generation: int
    sealed_at: float


class _Users:
    """Ids of sessions by digest of the user; most have one, which needs no set."""

    def __init__(self) -> None:
        self._ids: Final[dict[str, str | set[str]]] = {}

    def of(self, user: str) -> tuple[str, ...]:
        found = self._ids.get(user, ())
        return (found,) if isinstance(found, str) else tuple(found)

    def add(self, user: str, session_id: str) -> None:
        found = self._ids.setdefault(user, session_id)
        if isinstance(found, set):
            found.add(session_id)
        elif found != session_id:
            self._ids[user] = {found, session_id}

    def remove(self, user: str, session_id: str) -> None:
        found = self._ids.get(user)
        if isinstance(found, set):
            found.discard(session_id)
        if found == session_id or not found:
            self._ids.pop(user, None)


class LiveView:
    """Sessions by cookie and by id; the least recently opened ones go when there are too many."""

    def __init__(self, *, clock: Callable[[], float], idle: float, capacity: int = 100_000) -> None:
        self._clock: Final = clock
        self._idle = idle
        self._capacity: Final = capacity
        self._key: Final = os.urandom(32)  # a memory image holds no cookie and no digest that can be replayed
        self._cookies: Final[dict[bytes, Carried]] = {}
        self._sessions: Final[OrderedDict[str, LiveSession]] = OrderedDict()
        self._ended: Final[OrderedDict[bytes, float]] = OrderedDict()
        self._users: Final = _Users()

    def _name(self, sealed: str) -> bytes:
        return blake2b(sealed.encode("latin-1", "replace"), key=self._key, digest_size=16).digest()

    def find(self, sealed: str, host: str, facts: dict[object, Any] | None = None) -> Carried | None:
        """The session of this cookie if it may be used on ``host`` without I/O, and mark it used.

        ``facts``: the ``cookie_facts`` of the headers that carried the cookie, where they carried one alone.
        """
        name: bytes | None = facts.get(self._key) if facts is not None else None
        if name is None:
            name = self._name(sealed)
            if facts is not None:
                facts[self._key] = name
        carried = self._cookies.get(name)
        if carried is None:
            return None
        session, now = carried.session, self._clock()
        if session.ticket.host and session.ticket.host != host:
            return None
        if session.ended or now >= session.refresh_at or now >= session.absolute_end:
            return None
        if now - session.last_used > self._idle:
            return None
        session.last_used = now
        return carried

    def by_id(self, session_id: str) -> LiveSession | None:
        """The session by its id, however stale."""
        return self._sessions.get(session_id)

    def of_user(self, user: str) -> list[LiveSession]:
        """The sessions of a user (``Ticket.user``)."""
        return [self._sessions[one] for one in self._users.of(user)]

    def remember(self, sealed: str, ticket: Ticket, session: LiveSession) -> Carried:
        """From now on the cookie ``sealed``, which holds ``ticket``, opens ``session``."""
        name = self._name(sealed)
        carried = Carried(session, ticket.generation, ticket.sealed_at)
        if name not in self._cookies:
            session.cookies = (*session.cookies, name)
        self._cookies[name] = carried
        for old in session.cookies[:-_COOKIES_PER_SESSION]:
            self._cookies.pop(old, None)
        session.cookies = session.cookies[-_COOKIES_PER_SESSION:]
        return carried

    def enter(self, session: LiveSession) -> None:
        """Hold a session; the one opened longest ago makes room."""
        self._sessions[session.id] = session
        self._sessions.move_to_end(session.id)
        self._users.add(session.ticket.user, session.id)
        while len(self._sessions) > self._capacity:
            self._evict()

    def _evict(self) -> None:
        """Make room.  A session with an open tunnel stays where that can be: evicted, its tunnel could not be cut."""
        oldest = list(islice(self._sessions.values(), min(_EVICTION_TRIES, len(self._sessions) - 1)))
        victim = next((session for session in oldest if not session.held), oldest[0])
        del self._sessions[victim.id]
        self._forget(victim)
        if victim.held:
            victim.end()

    def drop(self, session_id: str) -> None:
        """End a session here: its cookies open nothing, its tunnels are cut."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._forget(session)
            session.end()

    def _forget(self, session: LiveSession) -> None:
        for name in session.cookies:
            self._cookies.pop(name, None)
        self._users.remove(session.ticket.user, session.id)

    def apply(self, mark: Mark) -> None:
        """End what a mark revokes."""
        if mark.kind == "session":
            self.drop(mark.name)
            return
        among = self.of_user(mark.name) if mark.kind == "subject" else self._sessions.values()
        for session in [session for session in among if _touches(mark, session.ticket)]:
            self.drop(session.id)

    def renew_all(self, *, idle: float, identity: Callable[[LiveSession], Identity | None]) -> None:
        """The settings are others: sessions go on as ``identity`` has them now, and end here where it says None.

        Every cookie is opened anew, since the key that sealed it may be gone.
        """
        self._idle = idle
        self.forget_cookies()
        for session in list(self._sessions.values()):
            found = identity(session)
            if found is None:
                self.drop(session.id)
            else:
                session.identity = found

    def forget_cookies(self) -> None:
        """Forget which cookie opens what; the sessions stay."""
        self._cookies.clear()
        self._ended.clear()
        for session in self._sessions.values():
            session.cookies = ()

    def recall_ended(self, sealed: str) -> bool:
        """Whether this cookie was lately found to open nothing, so that asking again can wait."""
        until = self._ended.get(self._name(sealed), 0.0)
        return 0.0 < until - self._clock() <= ENDED_SECONDS

    def remember_ended(self, sealed: str, seconds: float = ENDED_SECONDS) -> None:
        """The cookie opens nothing, at least for so many seconds."""
        self._ended[self._name(sealed)] = self._clock() + seconds
        while len(self._ended) > _ENDED_LIMIT:
            self._ended.popitem(last=False)

    def used(self) -> list[LiveSession]:
        """The sessions that were used since their last use was written to the store."""
        return [session for session in self._sessions.values() if session.last_used > session.used_written]

    def count_unproved(self) -> int:
        """How many sessions were used since their ID token expired: the provider could not be asked meanwhile."""
        now = self._clock()
        sessions = self._sessions.values()
        return sum(
            now > session.record.expires_at and session.last_used > session.record.expires_at for session in sessions
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def __repr__(self) -> str:
        return f"<LiveView {len(self._sessions)} sessions, {len(self._cookies)} cookies>"


def _touches(mark: Mark, ticket: Ticket) -> bool:
    if ticket.signed_in_at >= mark.before:
        return False
    if mark.kind == "subject":
        return ticket.user == mark.name
    return bool(ticket.provider_sid) and sid_name(ticket.provider, ticket.provider_sid) == mark.name
