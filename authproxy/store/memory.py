"""The embedded store: one process, bounded, gone with the process.

Keeps the same promises as Redis, on the clock that it was given.  Every verb is done before it returns to the event
loop, so each is atomic without a lock.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from authproxy.store.base import Entry, Tally
from authproxy.store.channels import Channels
from authproxy.store.shelf import Shelf

_KEPT_AFTER = 60.0  # seconds that the number of a lease outlives it
_MICRO = 1_000_000


class _Lease(NamedTuple):
    owner: str
    fence: int
    until: float


class _Stream:
    def __init__(self) -> None:
        self._ids: list[tuple[int, int]] = []
        self._values: list[tuple[bytes, float]] = []  # with the end of each
        self._last = (0, 0)  # ids grow even when the clock goes back

    def append(self, now: float, value: bytes, ends: float) -> str:
        self._last = max((int(now * 1000), 0), (self._last[0], self._last[1] + 1))
        self._ids.append(self._last)
        self._values.append((value, ends))
        return _id_text(self._last)

    def trim(self, now: float, limit: int) -> None:
        ended = next((at for at, (_, ends) in enumerate(self._values) if ends > now), len(self._ids))
        gone = max(ended, len(self._ids) - limit)
        del self._ids[:gone], self._values[:gone]

    def after(self, place: tuple[int, int], count: int) -> list[Entry]:
        start = bisect_right(self._ids, place)
        found = range(start, min(start + count, len(self._ids)))
        return [Entry(_id_text(self._ids[at]), self._values[at][0]) for at in found]


def _id_text(place: tuple[int, int]) -> str:
    return f"{place[0]}-{place[1]}"


def _place(text: str) -> tuple[int, int]:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds or -1), int(sequence or 0)


class MemoryStore:
    """All verbs of ``store.base.Store`` in the memory of this process.

    ``clock`` gives seconds since the epoch; ``limit`` bounds the entries of each kind (values, leases, buckets, sets,
    streams): beyond it, those that would end soonest are given up.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, limit: int = 500_000) -> None:
        self._clock = clock
        self._values: Shelf[bytes] = Shelf(clock, limit)
        self._leases: Shelf[_Lease] = Shelf(clock, limit)
        self._buckets: Shelf[int] = Shelf(clock, limit)
        self._sets: Shelf[set[str]] = Shelf(clock, limit)
        self._streams: Shelf[_Stream] = Shelf(clock, limit)
        self._channels = Channels()

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        self._values.set(key, value, self._clock() + ttl)

    async def take(self, key: str) -> bytes | None:
        return self._values.pop(key)

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        if self._values.get(key) != expected:
            return False
        self._values.set(key, value, self._clock() + ttl)
        return True

    async def delete(self, *keys: str) -> int:
        return sum(self._drop(key) for key in set(keys))

    def _drop(self, key: str) -> bool:
        shelves: tuple[Shelf[Any], ...] = (self._values, self._leases, self._buckets, self._sets, self._streams)
        return any(shelf.pop(key) is not None for shelf in shelves)  # a key is of one kind

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        now = self._clock()
        held = self._leases.get(key) or _Lease("", 0, 0.0)
        live = held.owner != "" and held.until > now
        if live and held.owner != owner:
            return None
        fence = held.fence if live else max(held.fence + 1, int(now * _MICRO))
        self._leases.set(key, _Lease(owner, fence, now + ttl), now + ttl + _KEPT_AFTER)
        return fence

    async def release(self, key: str, owner: str) -> None:
        held = self._leases.get(key)
        if held is not None and held.owner == owner:
            self._leases.set(key, held._replace(owner=""), self._leases.ends(key))

    async def tally(self, key: str, *, burst: int, every: float) -> Tally:
        now, step = int(self._clock() * _MICRO), round(every * _MICRO)
        room = step * burst
        arrival = min(max(self._buckets.get(key) or now, now), now + room)
        wait = arrival + step - now - room
        if wait > 0:
            self._keep_bucket(key, arrival)
            return Tally(False, wait / _MICRO)
        self._keep_bucket(key, arrival + step)
        return Tally(True, 0.0)

    async def give_back(self, key: str, *, every: float) -> None:
        arrival = self._buckets.get(key)
        if arrival is not None:
            self._keep_bucket(key, arrival - round(every * _MICRO))

    def _keep_bucket(self, key: str, arrival: int) -> None:
        ends = arrival / _MICRO
        if ends > self._clock():
            self._buckets.set(key, arrival, ends)
        else:
            self._buckets.pop(key)

    async def add(self, key: str, member: str, *, ttl: float) -> None:
        members = self._sets.get(key) or set()
        ends = max(self._sets.ends(key), self._clock() + ttl)
        self._sets.set(key, members | {member}, ends)

    async def remove(self, key: str, member: str) -> None:
        members = self._sets.get(key)
        if members is None:
            return
        members.discard(member)
        if not members:
            self._sets.pop(key)

    async def members(self, key: str) -> frozenset[str]:
        return frozenset(self._sets.get(key) or ())

    async def append(self, stream: str, value: bytes, *, ttl: float, limit: int = 100_000) -> str:
        now = self._clock()
        entries = self._streams.get(stream) or _Stream()
        entry = entries.append(now, value, now + ttl)
        entries.trim(now, limit)
        self._streams.set(stream, entries, max(self._streams.ends(stream), now + ttl))
        return entry

    async def read(self, stream: str, after: str = "", *, count: int = 1000) -> list[Entry]:
        entries = self._streams.get(stream)
        return entries.after(_place(after), count) if entries is not None else []

    async def publish(self, channel: str, message: bytes) -> None:
        self._channels.deliver(channel, message)

    async def subscribe(self, channel: str, callback: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        self._channels.add(channel, callback)
        ended = False

        async def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._channels.remove(channel, callback)

        return end

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._channels.clear()

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._values)} values, {len(self._buckets)} buckets, {self._channels!r}>"
