"""How long a response may go on that outlives the identity it was asked by.

What has not been delivered whole by the end is cut, so that a stream of events ends with the session; but nothing is
cut in its first second, so that a page or an answer to a sign-out that is just under way arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from authproxy.exchange import Lifetime

SPARED_SECONDS: Final = 1.0


def has_ended(lifetime: Lifetime, clock: Callable[[], float]) -> bool:
    """Whether it is over by now."""
    ends_at = lifetime.ends_at
    return lifetime.ended or (ends_at is not None and ends_at <= clock())


class Term:
    """The term of one response that takes its time."""

    __slots__ = ("_clock", "_cut", "_forget", "_lifetime", "_loop", "_spared_until", "_timer")

    def __init__(self, lifetime: Lifetime, clock: Callable[[], float], spared_until: float) -> None:
        self._lifetime: Final = lifetime
        self._clock: Final = clock
        self._loop: Final = asyncio.get_running_loop()
        self._spared_until: Final = spared_until  # by the event loop's clock
        self._cut: Callable[[], None] = _nothing
        self._forget: Callable[[], None] = _nothing
        self._timer: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of the response may go to the client any more."""
        return has_ended(self._lifetime, self._clock) and self._loop.time() >= self._spared_until

    def watch(self, cut: Callable[[], None]) -> None:
        """Call ``cut`` when the identity is ended (sign-out, revocation), also when nothing is being sent.

        An end that is known beforehand is not waited for: ``over`` tells it to whoever sends the next piece.
        """
        self._cut = cut
        if self._lifetime.ended:
            self._end()
        else:
            self._forget = self._lifetime.on_end(self._end)

    def release(self) -> None:
        """The response is through."""
        self._forget()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._timer = self._loop.call_at(self._spared_until, self._cut)  # at once, where that has passed

    def __repr__(self) -> str:
        return f"<Term {'over' if self.over else 'running'}>"


def _nothing() -> None:
    """What there is to cut or to forget before anything is watched."""
