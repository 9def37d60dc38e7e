"""Who listens to which channel inside this process.

Knows callbacks and channel names, and nothing about how messages travel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

Callback = Callable[[bytes], None]

log: Final = logging.getLogger(__name__)


class Channels:
    """The callbacks of each channel."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}

    @property
    def names(self) -> frozenset[str]:
        """The channels that somebody listens to."""
        return frozenset(self._callbacks)

    def add(self, channel: str, callback: Callback) -> None:
        """Listen; the same callback may listen twice."""
        self._callbacks.setdefault(channel, []).append(callback)

    def remove(self, channel: str, callback: Callback) -> None:
        """Stop listening, once; nothing happens when it does not listen."""
        callbacks = self._callbacks.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            self._callbacks.pop(channel, None)

    def deliver(self, channel: str, message: bytes) -> None:
        """Call each listener; the failure of one is logged and keeps nothing from the others."""
        for callback in tuple(self._callbacks.get(channel, ())):
            try:
                callback(message)
            except Exception:
                log.exception("a listener of channel %s failed", channel)

    def clear(self) -> None:
        self._callbacks.clear()

    def __repr__(self) -> str:
        return f"<Channels {', '.join(sorted(self._callbacks)) or 'none'}>"
