"""The refresh tokens of users whose provider keeps one for each user and client, and the tokens that are dead.

The store holds both.  Memory holds what the store could not take, until it is back, and what no session may carry any
more: while several sign-ins are in question, the living token may be that of a session which was signed out.
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
_MAX_HELD: Final = 10_000  # users
_MAX_DEAD: Final = 10_000  # tokens, by digest


class _Held(NamedTuple):
    ticket: Ticket
    scope: str
    tokens: SharedTokens
    unwritten: bool


class TokenPool:
    """``vault`` is the one with patience; ``clock`` is in seconds since the epoch."""

    def __init__(self, vault: Vault, *, clock: Callable[[], float]) -> None:
        self._vault: Final = vault
        self._clock: Final = clock
        self._held: Final[OrderedDict[str, dict[str, _Held]]] = OrderedDict()  # by user, and by scope
        self._dead: Final[OrderedDict[str, None]] = OrderedDict()
        self._tried: Final[OrderedDict[str, tuple[float, ...]]] = OrderedDict()

    def candidates(
        self, ticket: Ticket, scope: str | None, shared: SharedTokens, own: Iterable[RefreshToken]
    ) -> list[RefreshToken]:
        """The tokens that may be alive, the likeliest first; of equal age those that were shared last come first."""
        held = self._of(ticket.user, scope)
        local = held.tokens if held else SharedTokens()
        steps = dict(shared.steps)
        for family, step in local.steps.items():
            steps[family] = max(step, steps.get(family, 0))
        return newest_first([*local.tokens, *shared.tokens, *own], steps)

    async def add(self, ticket: Ticket, scope: str, token: RefreshToken) -> None:
        """A token was issued.  Raises ``StoreUnavailable``; then it is written by ``write_back``."""
        held = self._of(ticket.user, scope)
        tokens = (held.tokens if held else SharedTokens()).with_token(token)
        self._hold(_Held(ticket, scope, tokens, unwritten=True))
        await self._write(ticket.user, scope)

    async def write_back(self) -> None:
        """Merge what the store missed into what it holds.  Raises ``StoreUnavailable``."""
        every = [(user, held) for user, scopes in self._held.items() for held in scopes.values()]
        for user, held in every:
            if held.unwritten:
                await self._write(user, held.scope)

    async def write_user(self, user: str) -> None:
        """Merge everything that is held of a user into the store: it may have been emptied."""
        for scope in list(self._held.get(user, ())):
            await self._write(user, scope)

    def holds(self, user: str) -> bool:
        """Whether something is held of this user."""
        return user in self._held

    async def forget(self, ticket: Ticket, scope: str) -> None:
        """Delete a user's tokens, with the last session.  Raises ``StoreUnavailable``."""
        self._release(ticket.user, scope)
        await self._vault.forget_shared(ticket, scope)

    def _of(self, user: str, scope: str | None) -> _Held | None:
        return self._held.get(user, {}).get(scope) if scope is not None else None

    def _hold(self, held: _Held) -> None:
        user = held.ticket.user
        self._held.setdefault(user, {})[held.scope] = held
        self._held.move_to_end(user)
        while len(self._held) > _MAX_HELD:
            self._held.popitem(last=False)

    def _release(self, user: str, scope: str) -> None:
        scopes = self._held.get(user, {})
        scopes.pop(scope, None)
        if not scopes:
            self._held.pop(user, None)

    async def _write(self, user: str, scope: str) -> None:
        held = self._of(user, scope)
        if held is None:
            return

        def merged(stored: SharedTokens) -> SharedTokens:
            for token in reversed(held.tokens.tokens):
                stored = stored.with_token(token)
            return stored

        stored = await self._vault.update_shared(held.ticket, held.scope, merged, now=self._clock())
        if self._of(user, scope) is not held:  # something was added meanwhile
            return
        if len(stored.tokens) > 1:
            self._hold(held._replace(tokens=stored, unwritten=False))
        else:
            self._release(user, scope)

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
                self._drop(ticket, scope, value)
                await self._vault.update_shared(ticket, scope, lambda held: held.without(value), now=self._clock())

    def _drop(self, ticket: Ticket, scope: str, value: str) -> None:
        held = self._of(ticket.user, scope)
        if held is not None:
            self._hold(held._replace(tokens=held.tokens.without(value)))

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
        while len(self._tried) > _MAX_HELD:
            self._tried.popitem(last=False)
        if scope is not None:
            with suppress(StoreUnavailable):
                await self._vault.update_shared(ticket, scope, lambda held: held.with_try(now), now=now)
        return True

    def __repr__(self) -> str:
        return f"<TokenPool {len(self._held)} users, {len(self._dead)} dead>"
