"""The shared state of all replicas, as a few small verbs.

This room knows bytes, keys and times to live.  It knows nothing of sessions, users or tokens: what is stored is sealed
by its owners before it arrives.  Every method raises ``errors.StoreUnavailable`` when the store does not answer within
its budget; then nothing is known about the effect of a write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol


class Tally(NamedTuple):
    """The throttle's answer: ``wait`` is 0 when the attempt is allowed, else seconds until the next one is."""

    allowed: bool
    wait: float


class Entry(NamedTuple):
    """One entry of a stream; ``id`` orders it and is what to read after next time."""

    id: str
    value: bytes


class Store(Protocol):
    """What the embedded store and Redis both do.  Keys are built by ``store.keys`` alone; times are seconds."""

    async def get(self, key: str) -> bytes | None:
        """The value of ``key``, or None when it is absent or past its time."""

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Set ``key`` for ``ttl`` seconds."""

    async def take(self, key: str) -> bytes | None:
        """Read and delete in one step: of any number of callers, exactly one gets the value."""

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        """Set ``key`` if it holds ``expected`` (None: if it is absent), in one step; False when it holds another."""

    async def delete(self, *keys: str) -> int:
        """Delete; how many there were."""

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        """Take the lease ``key`` for ``owner``, or renew it when ``owner`` holds it already.

        Returns the fencing number (grows with every new holder, stays the same on renewal), None when another has it.
        """

    async def release(self, key: str, owner: str) -> None:
        """Give the lease back; nothing happens when ``owner`` does not hold it (any more)."""

    async def tally(self, key: str, *, burst: int, every: float) -> Tally:
        """Charge one attempt to a GCRA bucket on the store's clock: ``burst`` at once, then one per ``every``."""

    async def give_back(self, key: str, *, every: float) -> None:
        """Take one attempt back out of the bucket; never below empty."""

    async def add(self, key: str, member: str, *, ttl: float) -> None:
        """Put ``member`` into the set ``key``; the set lives at least ``ttl`` seconds from now."""

    async def remove(self, key: str, member: str) -> None:
        """Take ``member`` out of the set ``key``."""

    async def members(self, key: str) -> frozenset[str]:
        """The members of the set ``key``."""

    async def append(self, stream: str, value: bytes, *, ttl: float, limit: int = 100_000) -> str:
        """Add ``value`` to a stream, to stay for ``ttl`` seconds at least.  Its id.

        Entries past their own time may be dropped, and so may the oldest beyond ``limit``.
        """

    async def read(self, stream: str, after: str = "", *, count: int = 1000) -> list[Entry]:
        """At most ``count`` entries after the id ``after`` ("" = from the beginning), oldest first."""

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber, on every replica.  May be lost: never the only way to learn a thing."""

    async def subscribe(self, channel: str, callback: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        """Call ``callback`` for every message from now on; returns the coroutine function that ends it.

        The subscription is kept up across reconnects.
        """

    async def ping(self) -> None:
        """Raise ``StoreUnavailable`` unless the store answers."""

    async def close(self) -> None:
        """Close every connection."""
