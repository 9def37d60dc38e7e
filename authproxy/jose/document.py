"""One remote document, remembered: a key set, a provider's metadata.

This module knows when to fetch and what to do when that fails; it knows neither the wire nor what the document says.
A document that was read once serves on while its source is down, and no caller waits for a source that is known to be
failing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from authproxy.errors import AuthproxyError, ProviderError

T = TypeVar("T")
_LONG: Final = 86400.0 * 365 * 100


class Document(Generic[T]):
    """The last good value of ``fetch``, at most one fetch under way, retried with growing pauses.

    ``fetch`` returns the parsed value or raises; ``max_age`` is when it is fetched again (seconds), ``max_stale`` how
    long the last good value serves on although every fetch fails, ``cooldown`` the longest pause between failures.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        *,
        clock: Callable[[], float],
        max_age: float,
        max_stale: float = _LONG,
        cooldown: float = 10.0,
    ) -> None:
        self._fetch: Final = fetch
        self._clock: Final = clock
        self._max_age: Final = max_age
        self._max_stale: Final = max_stale
        self._cooldown: Final = cooldown
        self._value: T | None = None
        self._fetched_at = 0.0
        self._failures = 0
        self._failed_at = 0.0
        self._flight: asyncio.Task[None] | None = None
        self.made_at = float("-inf")
        """When the fetch of the value started, by the clock: later changes of the source are not in it."""
        self.started = 0
        """How many fetches were started: one with a greater number began later."""
        self.last_error = ""  # why the last fetch failed; empty after a good one

    @property
    def value(self) -> T | None:
        """The last good value, however old; None when there never was one."""
        return self._value

    @property
    def age(self) -> float:
        """Seconds since the last good fetch; negative never."""
        return max(0.0, self._clock() - self._fetched_at)

    @property
    def busy(self) -> bool:
        """Whether a fetch is under way."""
        return self._flight is not None

    async def get(self, *, pause: float | None = None) -> T:
        """The value; fetches when it is old.  Raises ``ProviderError`` when there is none that may be used.

        ``pause``: the longest pause after a failure, in seconds, for this caller; None: ``cooldown``.
        """
        if self._value is None or self.age > self._max_stale:
            await self.refetch(pause=pause)
        elif self.age > self._max_age and self._may_try():
            self._start()
            # A document that nobody asked for in a long while may be wrong by now: wait, unless the source is failing.
            if self.age > 2 * self._max_age and not self._failures:
                await self._landed()
        if self._value is None or self.age > self._max_stale:
            raise ProviderError(self.last_error or "not fetched yet")
        return self._value

    async def refetch(self, *, pause: float | None = None) -> bool:
        """Fetch now, or join the fetch that is under way; whether it was good.  Never raises its failure.

        ``pause`` as for ``get``.
        """
        if self._flight is None and not self._may_try(pause):
            return False
        self._start()
        await self._landed()
        return not self._failures

    def nudge(self) -> None:
        """Fetch in the background when there is no value, the pause after the last failure is over, and none runs."""
        if self._value is None and self._may_try():
            self._start()

    async def aclose(self) -> None:
        """Cancel the fetch that is under way and wait for its end."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.cancel()
            await asyncio.wait({flight})

    def _may_try(self, longest: float | None = None) -> bool:
        if not self._failures:
            return True
        pause = min(self._cooldown if longest is None else longest, 2.0 ** (min(self._failures, 30) - 1))
        # A clock that was set back must not stretch the pause.
        return not 0 <= self._clock() - self._failed_at < pause

    def _start(self) -> None:
        if self._flight is None:
            self.started += 1
            self._flight = asyncio.get_running_loop().create_task(self._run())

    async def _landed(self) -> None:
        if self._flight is not None:
            await asyncio.wait({self._flight})  # a caller that is cancelled does not cancel the fetch of the others

    async def _run(self) -> None:
        started_at = self._clock()
        try:
            self._value = await self._fetch()
        except (AuthproxyError, OSError, TimeoutError, ValueError) as error:
            self._failures += 1
            self._failed_at = self._clock()
            self.last_error = str(error) or type(error).__name__
        else:
            self._fetched_at, self.made_at = self._clock(), started_at
            self._failures = 0
            self.last_error = ""
        finally:
            self._flight = None
