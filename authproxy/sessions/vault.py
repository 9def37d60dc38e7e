"""The store's records of sessions and shared refresh tokens: how they are sealed, written and found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from authproxy.sessions.cookie import Ticket
from authproxy.sessions.records import (
    Record,
    SharedTokens,
    decode_record,
    decode_shared,
    encode_record,
    encode_shared,
)
from authproxy.sessions.sealing import KeyRing, decode, digest, seal, unseal
from authproxy.store import keys
from authproxy.store.base import Store

_RECORD: Final = "session-record"
_SHARED: Final = "shared-refresh-token"
_ROUNDS: Final = 8  # every lost round of a compare-and-set means that another writer won


class Stored(NamedTuple):
    """A record as it was read: ``raw`` is what a compare-and-set compares with."""

    record: Record
    raw: bytes


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
        record = decode_record(plain) if plain else None
        return Stored(record, raw) if raw and record else None

    async def save(self, ticket: Ticket, record: Record, *, expected: bytes | None, now: float) -> bool:
        """Write ``record`` if nobody wrote since ``expected`` was read (None: if there is none yet)."""
        ttl = ticket.absolute_end - now
        if ttl <= 0:
            return False
        sealed = seal(_secret(ticket), _RECORD, encode_record(record), ticket.id)
        if not await self._store.swap(keys.session(ticket.user, ticket.id), expected, sealed, ttl=ttl):
            return False
        if expected is None:
            await self._enter(ticket, ttl)
        return True

    async def _enter(self, ticket: Ticket, ttl: float) -> None:
        await self._store.add(keys.sessions_of_subject(ticket.user), ticket.id, ttl=ttl)

    async def forget(self, ticket: Ticket) -> None:
        """Delete the record and its index entry."""
        await self._store.delete(keys.session(ticket.user, ticket.id))
        await self._store.remove(keys.sessions_of_subject(ticket.user), ticket.id)

    async def count(self, ticket: Ticket) -> int:
        """How many sessions of the ticket's user have a record."""
        return len(await self._store.members(keys.sessions_of_subject(ticket.user)))

    async def shared(self, ticket: Ticket, scope: str) -> SharedTokens:
        """The refresh tokens that the user's sessions share; ``scope`` names client, workspace and scopes."""
        return self._open_shared(await self._store.get(keys.token_record(ticket.user, scope)), ticket, scope)

    def _open_shared(self, raw: bytes | None, ticket: Ticket, scope: str) -> SharedTokens:
        plain = self._ring.open(_SHARED, raw.decode("latin-1"), scope + ticket.user) if raw else None
        return (decode_shared(plain) if plain else None) or SharedTokens()

    async def update_shared(
        self, ticket: Ticket, scope: str, change: Callable[[SharedTokens], SharedTokens], *, now: float
    ) -> SharedTokens:
        """Apply ``change`` to the shared tokens by compare-and-set; what is stored in the end."""
        key, ttl = keys.token_record(ticket.user, scope), max(ticket.absolute_end - now, 1.0)
        shared = SharedTokens()
        for _ in range(_ROUNDS):
            raw = await self._store.get(key)
            held = self._open_shared(raw, ticket, scope)
            shared = change(held)
            if raw is not None and shared == held:
                return held
            sealed = self._ring.seal(_SHARED, encode_shared(shared), scope + ticket.user).encode("ascii")
            if await self._store.swap(key, raw, sealed, ttl=ttl):
                return shared
        return shared

    async def forget_shared(self, ticket: Ticket, scope: str) -> None:
        """Delete the shared refresh tokens, with the user's last session."""
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
