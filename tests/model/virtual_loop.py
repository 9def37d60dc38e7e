"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, Final

EPOCH: Final = 1_800_000_000.0
"""Seconds since 1970 at the start of every loop."""


class Deadlock(RuntimeError):
    """Every task waits, and no timer is set: nothing could ever happen."""


class _JumpingSelector(selectors.SelectSelector):
    """Reports no event; where the loop would sleep, its clock moves."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self.loop.elapsed += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds pass only between two timers; there are no sockets and no threads."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.elapsed

    def wall_clock(self) -> float:
        """Seconds since 1970."""
        return EPOCH + self.elapsed

    def close(self) -> None:
        """Cancel what still runs, wait for it, and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()
