"""When a door stops serving, and who wants to know.  It knows no exchange, only callbacks."""

from __future__ import annotations

from collections.abc import Callable


class Departure:
    """``deadline`` is None while the door serves; then the time of the event loop by which everything has ended."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self._callbacks: set[Callable[[float], object]] = set()

    def begin(self, deadline: float) -> None:
        """Tell everybody, once; a second beginning changes nothing."""
        if self.deadline is None:
            self.deadline = deadline
            waiting, self._callbacks = self._callbacks, set()
            for callback in waiting:
                callback(deadline)

    def on_begin(self, callback: Callable[[float], object]) -> Callable[[], None]:
        """Call ``callback`` with the deadline, at once when it is known; returns what forgets it again."""
        if self.deadline is not None:
            callback(self.deadline)
            return lambda: None
        self._callbacks.add(callback)
        return lambda: self._callbacks.discard(callback)

    def __repr__(self) -> str:
        return f"<Departure {'begun' if self.deadline is not None else 'not begun'}, {len(self._callbacks)} waiting>"
