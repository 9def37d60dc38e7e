"""A bounded mapping whose entries end: the memory of one process.

Knows keys, values and times.  An entry that has ended is gone for every reader at once and is swept out by a later
write; a full shelf gives up the entry that would have ended soonest.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """At most ``limit`` entries; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float], limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._entries: dict[str, tuple[T, float]] = {}
        self._ends: list[tuple[float, str]] = []  # a heap; one that no longer matches its entry is skipped

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The value, or None when there is none or its time is over."""
        entry = self._entries.get(key)
        return entry[0] if entry is not None and entry[1] > self._clock() else None

    def ends(self, key: str) -> float:
        """When the entry ends; 0 when there is none."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[1] > self._clock() else 0.0

    def set(self, key: str, value: T, ends: float) -> None:
        """Put ``value`` there until ``ends``."""
        self._sweep()
        self._entries[key] = (value, ends)
        heappush(self._ends, (ends, key))
        if len(self._entries) > self._limit:
            self._evict()
        if len(self._ends) > 2 * len(self._entries) + 64:
            self._compact()

    def pop(self, key: str) -> T | None:
        """Take the value out."""
        value = self.get(key)
        self._entries.pop(key, None)
        return value

    def clear(self) -> None:
        self._entries.clear()
        self._ends.clear()

    def _sweep(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            self._drop_first()

    def _evict(self) -> None:
        while len(self._entries) > self._limit:
            self._drop_first()

    def _drop_first(self) -> None:
        ends, key = heappop(self._ends)
        entry = self._entries.get(key)
        if entry is not None and entry[1] == ends:
            del self._entries[key]

    def _compact(self) -> None:
        self._ends = [(ends, key) for key, (_, ends) in self._entries.items()]
        heapify(self._ends)

    def __repr__(self) -> str:
        return f"<Shelf {len(self._entries)} of {self._limit}>"
