"""When to stop asking a store that does not answer.

Knows a clock and counts.  Three unanswered calls in a row, and for a second nobody waits for a budget that will not be
kept; then one call asks for all the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from authproxy.errors import StoreUnavailable


class Breaker:
    """Counts unanswered calls; ``clock`` is monotonic seconds.

    Each call goes ``probe = admit()``, then exactly one of ``answered(probe)``, ``unanswered(probe)`` and
    ``abandoned(probe)``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, threshold: int = 3, pause: float = 1.0) -> None:
        self._clock = clock
        self._threshold = threshold
        self._pause = pause
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    def admit(self) -> bool:
        """Whether this call is the probe.  Raises StoreUnavailable when it must not be made at all."""
        if self._open_until is None:
            return False
        if self._probing or self._clock() < self._open_until:
            raise StoreUnavailable(f"redis: not asked, {self.state}")
        self._probing = True
        return True

    def answered(self, probe: bool) -> None:
        """The store answered, if only with an error."""
        self._failures = 0
        self._open_until = None
        self._probing = False if probe else self._probing

    def unanswered(self, probe: bool) -> None:
        """The call failed or ran out of time.  Late failures of calls made before do not prolong the pause."""
        self._failures += 1
        if probe or (self._open_until is None and self._failures >= self._threshold):
            self._open_until = self._clock() + self._pause
        self._probing = False if probe else self._probing

    def abandoned(self, probe: bool) -> None:
        """The caller went away before there was an answer: says nothing, and the next call probes."""
        self._probing = False if probe else self._probing

    @property
    def state(self) -> str:
        """In words: ``up``, ``up, 2 calls unanswered``, ``open, retry in 0.4s`` or ``open, probing``."""
        if self._open_until is None:
            return f"up, {self._failures} calls unanswered" if self._failures else "up"
        wait = max(0.0, self._open_until - self._clock())
        return "open, probing" if self._probing else f"open, retry in {wait:.1f}s"

    def __repr__(self) -> str:
        return f"<Breaker {self.state}>"
