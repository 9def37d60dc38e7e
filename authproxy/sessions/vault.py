"""Session records, the refresh tokens that a user's sessions share, and the indices by subject and by ``sid``.

This room knows what a record holds and how it is sealed and stored.  It asks no provider and judges no request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from authproxy.sessions.claims import read
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.sealing import KeyRing, decode, digest, seal, unseal
from authproxy.store import keys
from authproxy.store.base import Store

_RECORD: Final = "session-record"
_SHARED: Final = "shared-refresh-token"


Rank = tuple[int, float]
"""How new a record is: its generation, and with the same token until when its proof holds."""


class Record(NamedTuple):
    """What the store holds of a session, encrypted under the secret that only the cookie carries."""

    generation: int
    refresh_token: str
    id_token: str
    access_token: str
    claims: Mapping[str, object]
    expires_at: float  # of the ID token, by the provider's clock
    last_used: float
    refreshed_at: float  # by the provider's clock

    @property
    def rank(self) -> Rank:
        """The newer of two records has the greater one."""
        return self.generation, self.expires_at

    def __repr__(self) -> str:
        return f"<Record generation {self.generation}, expires {self.expires_at:.0f}>"


class Stored(NamedTuple):
    """A record as it was read: ``raw`` is what a compare-and-set compares with."""

    record: Record
    raw: bytes


class SharedToken(NamedTuple):
    """The one refresh token of a user whose provider keeps one for each user and client (Dex does)."""

    generation: int
    refresh_token: str

    def __repr__(self) -> str:
        return f"<SharedToken generation {self.generation}>"


class Vault:
    """Reads and writes sealed records.  Every method may raise ``StoreUnavailable``."""

    def __init__(self, store: Store, ring: KeyRing) -> None:
        self._store: Final = store
        self._ring: Final = ring

    async def load(self, ticket: Ticket) -> Stored | None:
        """The record of the ticket's session, or None when there is none that the ticket opens."""
        raw = await self._store.get(keys.session(ticket.user, ticket.id))
        # The id is part of what the seal covers: an answer that belongs to another session never opens.
        plain = unseal(_secret(ticket), _RECORD, raw, ticket.id) if raw else None
        return Stored(Record(*json.loads(plain)), raw) if raw and plain else None

    async def save(self, ticket: Ticket, record: Record, *, expected: bytes | None, now: float) -> bool:
        """Write ``record`` if nobody wrote since ``expected`` was read (None: if there is none yet)."""
        ttl = ticket.absolute_end - now
        if ttl <= 0:
            return False
        plain = json.dumps(record._replace(claims=read(record.claims)), separators=(",", ":")).encode()
        sealed = seal(_secret(ticket), _RECORD, plain, ticket.id)
        if not await self._store.swap(keys.session(ticket.user, ticket.id), expected, sealed, ttl=ttl):
            return False
        if expected is None:
            await self._enter(ticket, ttl)
        return True

    async def _enter(self, ticket: Ticket, ttl: float) -> None:
        await self._store.add(keys.sessions_of_subject(ticket.user), ticket.id, ttl=ttl)

    async def forget(self, ticket: Ticket) -> int:
        """Delete the record and its index entry; how many sessions the user has left."""
        await self._store.delete(keys.session(ticket.user, ticket.id))
        await self._store.remove(keys.sessions_of_subject(ticket.user), ticket.id)
        return len(await self._store.members(keys.sessions_of_subject(ticket.user)))

    async def shared_token(self, ticket: Ticket, scope: str) -> SharedToken | None:
        """The refresh token that the user's sessions share; ``scope`` names client, workspace and scopes."""
        raw = await self._store.get(keys.token_record(ticket.user, scope))
        plain = self._ring.open(_SHARED, raw.decode("ascii"), scope + ticket.user) if raw else None
        return SharedToken(*json.loads(plain)) if plain else None

    async def share_token(self, ticket: Ticket, scope: str, token: SharedToken, *, now: float) -> None:
        """Write the shared refresh token unless a newer one is there."""
        sealed = self._ring.seal(_SHARED, json.dumps(list(token)).encode(), scope + ticket.user).encode("ascii")
        key = keys.token_record(ticket.user, scope)
        ttl = max(ticket.absolute_end - now, 1.0)
        for _ in range(8):  # bounded: every lost round means that another writer won
            raw = await self._store.get(key)
            plain = self._ring.open(_SHARED, raw.decode("ascii"), scope + ticket.user) if raw else None
            if plain and SharedToken(*json.loads(plain)).generation > token.generation:
                return
            if await self._store.swap(key, raw, sealed, ttl=ttl):
                return

    async def forget_shared(self, ticket: Ticket, scope: str) -> None:
        """Delete the shared refresh token, with the user's last session."""
        await self._store.delete(keys.token_record(ticket.user, scope))

    async def is_dead(self, refresh_token: str) -> bool:
        """Whether the provider has said that this token is dead; asking again would only eat its limits."""
        return await self._store.get(keys.dead_token(digest("dead", refresh_token))) is not None

    async def bury(self, refresh_token: str, *, ttl: float) -> None:
        """Remember that the provider called this token dead."""
        await self._store.put(keys.dead_token(digest("dead", refresh_token)), b"1", ttl=ttl)


def _secret(ticket: Ticket) -> bytes:
    return decode(ticket.secret) or b""


def share_scope(*, client_id: str, scopes: list[str], workspace: str = "") -> str:
    """The name under which sessions of one user share a refresh token."""
    return digest("share", client_id, workspace, *sorted(scopes))
