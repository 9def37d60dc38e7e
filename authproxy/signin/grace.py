"""How long a session goes on that its provider does not renew, while it renews those of other users.

Dex answers 500 when a user was deleted in LDAP.  An outage looks the same, and must not end a session; so the sessions
of other users decide.  When one of them was renewed meanwhile, the provider works, and the session ends after
``session.refresh_grace``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from authproxy.errors import ProviderError, StoreUnavailable
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.records import parse
from authproxy.sessions.sealing import digest
from authproxy.store import keys
from authproxy.store.base import Store

VERSION: Final = 1
_USERS: Final = 2  # one of them is not the user in question
_NOTE_SECONDS: Final = 30.0  # between two notes about one connector in the store

Renewed = dict[str, float]
"""Digest of a user -> when a session of theirs was renewed, seconds since the epoch."""


class RefreshGrace:
    """``seconds`` is ``session.refresh_grace``; ``clock`` is in seconds since the epoch."""

    def __init__(self, store: Store, *, seconds: float, clock: Callable[[], float]) -> None:
        self._store: Final = store
        self._seconds: Final = seconds
        self._clock: Final = clock
        self._renewed: Final[dict[str, Renewed]] = {}  # by connector
        self._noted_at: Final[dict[str, float]] = {}

    async def note_renewed(self, ticket: Ticket, claims: Mapping[str, object]) -> None:
        """The provider has renewed a session of this user."""
        key, now = _connector(ticket, claims), self._clock()
        users = self._renewed[key] = _latest({**self._renewed.get(key, {}), ticket.user: now})
        if now - self._noted_at.get(key, 0.0) < min(_NOTE_SECONDS, self._seconds / 4):
            return
        self._noted_at[key] = now
        with suppress(StoreUnavailable):
            merged = _latest({**await self._stored(key), **users})
            value = json.dumps({"v": VERSION, "users": merged}, separators=(",", ":")).encode()
            await self._store.put(key, value, ttl=max(2 * self._seconds, 3600.0))

    async def is_over(
        self, ticket: Ticket, claims: Mapping[str, object], proved_until: float, error: ProviderError
    ) -> bool:
        """Whether the failure ``error`` of a renewal ends the session: the provider works, and not for this user.

        ``claims`` are those of the last ID token, which ended at ``proved_until``.  Only the provider's own answer
        counts; a limit (429) and a provider that is not reached say nothing.
        """
        if not claims or error.status < 400 or error.status == 429:
            return False
        if self._clock() - proved_until < self._seconds:
            return False
        key = _connector(ticket, claims)
        users = dict(self._renewed.get(key, {}))
        with suppress(StoreUnavailable):
            for user, at in (await self._stored(key)).items():
                users[user] = max(at, users.get(user, 0.0))
        return any(user != ticket.user and at > proved_until for user, at in users.items())

    async def _stored(self, key: str) -> Renewed:
        return decode(await self._store.get(key) or b"")

    def __repr__(self) -> str:
        return f"<RefreshGrace of {self._seconds:.0f} s>"


def decode(value: bytes) -> Renewed:
    """The stored form; empty for garbage and unknown versions."""
    found = parse(value)
    users = found.get("users") if isinstance(found, dict) and found.get("v") == VERSION else None
    if not isinstance(users, dict):
        return {}
    return {user: float(at) for user, at in users.items() if type(at) in (int, float)}


def _latest(users: Renewed) -> Renewed:
    return dict(sorted(users.items(), key=lambda item: -item[1])[:_USERS])


def _connector(ticket: Ticket, claims: Mapping[str, object]) -> str:
    """The name of what vouches for the user: Dex's connector (claim ``federated_claims``), else the provider."""
    federated = claims.get("federated_claims")
    connector = federated.get("connector_id") if isinstance(federated, Mapping) else ""
    return keys.renewed_users(digest("connector", ticket.provider, ticket.issuer, str(connector or "")))
