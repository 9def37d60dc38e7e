"""The refresh tokens of users whose provider keeps one for each user and client, and the tokens that are dead.

The store holds both.  What it could not take is kept here and written when it is back; what it merges then is ordered
by ``sessions.records``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from authproxy.errors import StoreUnavailable
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.records import RefreshToken, SharedTokens, newest_first
from authproxy.sessions.sealing import digest
from authproxy.sessions.vault import Vault

TRIES: Final = 3
"""How many other tokens of a user are tried in a minute after one was refused."""
_TRIES_SECONDS: Final = 60.0
_MAX_PENDING: Final = 10_000  # users
_MAX_DEAD: Final = 10_000  # tokens, by digest


class _Pending(NamedTuple):
    ticket: Ticket
    scope: str
    tokens: SharedTokens


class TokenPool:
    """``vault`` is the one with patience; ``clock`` is in seconds since the epoch."""

    def __init__(self, vault: Vault, *, clock: Callable[[], float]) -> None:
        self._vault: Final = vault
        self._clock: Final = clock
        self._pending: Final[OrderedDict[tuple[str, str], _Pending]] = OrderedDict()
        self._dead: Final[OrderedDict[str, None]] = OrderedDict()
        self._tried: Final[OrderedDict[str, tuple[float, ...]]] = OrderedDict()

    def candidates(
        self, ticket: Ticket, scope: str | None, shared: SharedTokens, own: Iterable[RefreshToken]
    ) -> list[RefreshToken]:
        """The tokens that may be alive, the likeliest first; of equal age those that were shared last come first."""
        pending = self._pending.get((ticket.user, scope)) if scope is not None else None
        local = pending.tokens if pending else SharedTokens()
        steps = dict(shared.steps)
        for family, step in local.steps.items():
            steps[family] = max(step, steps.get(family, 0))
        return newest_first([*local.tokens, *shared.tokens, *own], steps)

    async def add(self, ticket: Ticket, scope: str, token: RefreshToken) -> None:
        """A token was issued.  Raises ``StoreUnavailable``; then it is written by ``write_back``."""
        key = (ticket.user, scope)
        held = self._pending.pop(key, None)
        tokens = (held.tokens if held else SharedTokens()).with_token(token)
        self._pending[key] = _Pending(ticket, scope, tokens)
        while len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)
        await self._write(key)

    async def write_back(self) -> None:
        """Merge what the store missed into what it holds.  Raises ``StoreUnavailable``."""
        for key in list(self._pending):
            await self._write(key)

    async def _write(self, key: tuple[str, str]) -> None:
        pending = self._pending[key]

        def merged(stored: SharedTokens) -> SharedTokens:
            for token in reversed(pending.tokens.tokens):
                stored = stored.with_token(token)
            return stored

        await self._vault.update_shared(pending.ticket, pending.scope, merged, now=self._clock())
        if self._pending.get(key) is pending:  # nothing was added meanwhile
            del self._pending[key]

    async def is_dead(self, value: str) -> bool:
        """Whether the provider refused this token before: it is never sent again."""
        if digest("dead", value) in self._dead:
            return True
        with suppress(StoreUnavailable):
            return await self._vault.is_dead(value)
        return False

    async def bury(self, ticket: Ticket, scope: str | None, value: str) -> None:
        """The provider refused this token."""
        self._dead[digest("dead", value)] = None
        while len(self._dead) > _MAX_DEAD:
            self._dead.popitem(last=False)
        with suppress(StoreUnavailable):
            await self._vault.bury(value, ttl=max(ticket.absolute_end - self._clock(), 1.0))
            if scope is not None:
                await self._vault.update_shared(ticket, scope, lambda held: held.without(value), now=self._clock())

    async def may_try_another(self, ticket: Ticket, scope: str | None) -> bool:
        """Charge one try of another token of this user, if there is one left in this minute."""
        now, key = self._clock(), scope or ticket.id
        key = f"{ticket.user} {key}"
        tried = self._tried.get(key, ())
        if scope is not None:
            with suppress(StoreUnavailable):
                tried = (await self._vault.shared(ticket, scope)).tried or tried
        if sum(now - _TRIES_SECONDS < at <= now for at in tried) >= TRIES:
            return False
        self._tried.pop(key, None)
        self._tried[key] = (*tried, now)[-TRIES:]
        while len(self._tried) > _MAX_PENDING:
            self._tried.popitem(last=False)
        if scope is not None:
            with suppress(StoreUnavailable):
                await self._vault.update_shared(ticket, scope, lambda held: held.with_try(now), now=now)
        return True

    def __repr__(self) -> str:
        return f"<TokenPool {len(self._pending)} to write, {len(self._dead)} dead>"
