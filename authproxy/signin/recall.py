"""Bringing back what the store has lost and some replica still has in memory.

An emptied store, or one that comes back with what it held before an outage, must not lead to a refresh with a token
that another replica has replaced meanwhile: a strict provider would end the grant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import reduce
from typing import Final

from authproxy.errors import StoreUnavailable
from authproxy.sessions.flight import SingleFlight
from authproxy.sessions.live import LiveSession, LiveView
from authproxy.sessions.records import RefreshToken, SharedTokens
from authproxy.sessions.replicas import Replicas
from authproxy.sessions.vault import Vault
from authproxy.signin.token_pool import TokenPool

log = logging.getLogger("authproxy.signin")
PATIENCE: Final = 2.0
"""Seconds that others are given to write what they hold.  They answer when they have: usually in a few milliseconds."""
_LOOK: Final = 0.025


class Recall:
    """``scope`` names what a user's sessions share (None where they share nothing); ``clock`` is seconds since 1970."""

    def __init__(
        self, *, live: LiveView, vault: Vault, replicas: Replicas,
        pool: TokenPool, scope: Callable[[LiveSession], str | None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._live: Final = live
        self._vault: Final = vault
        self._replicas: Final = replicas
        self._pool: Final = pool
        self._scope: Final = scope
        self._clock: Final = clock
        self._writing: Final[SingleFlight[None]] = SingleFlight()
        self._asking: Final[SingleFlight[None]] = SingleFlight()
        self._answering: Final[SingleFlight[None]] = SingleFlight()

    def answer(self, user: str, asking: str) -> None:
        """The replica ``asking`` needs what is known of a user: write it, in the background, and say so."""
        self._answering.start(f"{asking} {user}", lambda: self._answer(user, asking))

    async def _answer(self, user: str, asking: str) -> None:
        with suppress(StoreUnavailable):
            if self._live.of_user(user) or self._pool.holds(user):
                await self._writing.run(user, lambda: self._written(user))
            await self._replicas.answer(asking, user)

    async def __call__(self, user: str, found: Callable[[], Awaitable[bool]]) -> None:
        """Have every replica write what it holds of a user; until ``found``, or all have answered."""
        with suppress(StoreUnavailable):
            await self._writing.run(user, lambda: self._written(user))
            if not self._replicas.others or await found():
                return
            asking = self._asking.start(user, lambda: self._replicas.ask(user, seconds=PATIENCE))
            while not asking.done():
                await asyncio.wait([asking], timeout=_LOOK)
                if await found():
                    return

    async def _written(self, user: str) -> None:
        """Write at once what is held of a user, so that a slow store delays the shared tokens by two calls only."""
        sessions = list(self._live.of_user(user))  # what was revoked is not among them
        writes = [self._write_tokens(user, sessions), *map(self._write, sessions)]
        for failure in await asyncio.gather(*writes, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _write_tokens(self, user: str, sessions: Sequence[LiveSession]) -> None:
        """Add the refresh tokens that are held to those that the user's sessions share."""
        await self._pool.write_user(user)
        by_scope: dict[str, list[LiveSession]] = {}
        for session in sessions:
            scope = self._scope(session)
            if scope is not None and session.record.token.value:
                by_scope.setdefault(scope, []).append(session)
        for scope, sharing in by_scope.items():
            tokens = [session.record.token for session in sharing]
            await self._vault.update_shared(sharing[0].ticket, scope, _adding(tokens), now=self._clock())

    async def _write(self, session: LiveSession) -> None:
        """Write one session where the store has nothing or something older."""
        stored = await self._vault.load(session.ticket)
        if stored is None or stored.record.rank < session.record.rank:
            record = session.record._replace(last_used=max(session.last_used, stored.record.last_used if stored else 0))
            expected = stored.raw if stored else None
            await self._vault.save(session.ticket, record, expected=expected, now=self._clock())

    async def close(self) -> None:
        """Let what is being written finish."""
        await self._writing.close()
        await self._asking.close()
        await self._answering.close()


def _adding(tokens: Iterable[RefreshToken]) -> Callable[[SharedTokens], SharedTokens]:
    return lambda held: reduce(SharedTokens.with_token, tokens, held)
