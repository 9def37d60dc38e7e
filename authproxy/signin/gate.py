"""Our own limit towards a token endpoint: so many calls at once, and none while it has asked to wait.

A provider that limits its callers, or that comes back after an outage, is not met by every session at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from authproxy.errors import ProviderError
from authproxy.oidc.grants import AnswerUnproved

AT_ONCE: Final = 32
"""Calls of one process that may be under way at the same time."""
LONGEST: Final = 60.0
"""Seconds for which a ``Retry-After`` holds everybody off; what is longer holds for the session that was told."""
FAILURES: Final = 5
"""Calls in a row without an answer after which the provider counts as down."""
PAUSE_SECONDS: Final = 1.0
"""While it is down, one call in this time finds out whether it is back."""


class NotAsked(ProviderError):
    """The provider was not asked: it is down, or has asked to wait.  Says nothing about the grant."""


class Gate:
    """Enter it around one call.  Raises ``ProviderError`` with ``retry_after`` while the provider wants to be left.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self._turns: Final = asyncio.Semaphore(AT_ONCE)
        self._closed_until = float("-inf")
        self._failures = 0
        self._probe_at = float("-inf")

    def check(self) -> None:
        """Raise ``NotAsked`` when a call would not be let through now; spares the work that comes before a call."""
        self._check()
        self._check_down()

    async def __aenter__(self) -> None:
        self._check()
        await self._turns.acquire()
        try:
            self._check()  # the provider may have asked to wait meanwhile
            self._admit()
        except ProviderError:
            self._turns.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.release()
        # An answer of any status shows that the provider is there, and says something about one grant alone.
        unanswered = isinstance(error, ProviderError) and not error.status and not isinstance(error, AnswerUnproved)
        self._failures = self._failures + 1 if unanswered else 0
        if isinstance(error, ProviderError) and error.retry_after:
            self._closed_until = self._clock() + min(error.retry_after, LONGEST)

    def _check(self) -> None:
        left = self._closed_until - self._clock()
        if 0.0 < left <= LONGEST:  # a clock that was set back must not hold us off for longer
            raise NotAsked("the provider has asked to wait", retry_after=left)

    def _admit(self) -> None:
        """While the provider is down, let one call a second through."""
        self._check_down()
        if self._failures >= FAILURES:
            self._probe_at = self._clock() + PAUSE_SECONDS

    def _check_down(self) -> None:
        left = self._probe_at - self._clock()
        if self._failures >= FAILURES and 0.0 < left <= PAUSE_SECONDS:
            raise NotAsked("the provider did not answer the last calls", retry_after=left)

    def __repr__(self) -> str:
        return f"<Gate {'closed' if self._closed_until > self._clock() else 'open'}>"
