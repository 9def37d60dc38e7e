"""The shared store for calls that must not be given up early: the lease before a refresh, and the write after it.

A store that is slow is not away.  Two replicas that both go on without the lease spend one refresh token twice, and a
strict provider then ends the grant; so a call that is not answered in time is made again.  When the circuit breaker is
open or the connection is refused, calls fail at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from authproxy.errors import StoreSlow
from authproxy.store.base import Entry, Store, Tally

T = TypeVar("T")

BUDGET_SECONDS: Final = 1.0
"""How long one call may take; a usual call of the request path has 0.15 s."""
TRIES: Final = 3
CONNECTIONS: Final = 8
"""Connections of this store alone, so that no other work delays it."""


class PatientStore:
    """``store`` with a larger budget: each verb that can be repeated is tried ``TRIES`` times while it is slow."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES - 1):
            try:
                return await call()
            except StoreSlow:
                continue
        return await call()

    async def get(self, key: str) -> bytes | None:
        return await self._patiently(lambda: self._store.get(key))

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        await self._patiently(lambda: self._store.put(key, value, ttl=ttl))

    async def take(self, key: str) -> bytes | None:
        return await self._store.take(key)

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        slow = False

        async def attempt() -> bool:
            nonlocal slow
            try:
                swapped = await self._store.swap(key, expected, value, ttl=ttl)
            except StoreSlow:
                slow = True
                raise
            # A try that seemed lost may have been carried out: then the key holds our own value.
            return swapped or (slow and await self._store.get(key) == value)

        return await self._patiently(attempt)

    async def delete(self, *keys: str) -> int:
        return await self._patiently(lambda: self._store.delete(*keys))

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        return await self._patiently(lambda: self._store.lease(key, owner, ttl=ttl))

    async def release(self, key: str, owner: str) -> None:
        await self._patiently(lambda: self._store.release(key, owner))

    async def tally(self, key: str, *, burst: int, every: float) -> Tally:
        return await self._store.tally(key, burst=burst, every=every)

    async def give_back(self, key: str, *, every: float) -> None:
        await self._store.give_back(key, every=every)

    async def add(self, key: str, member: str, *, ttl: float) -> None:
        await self._patiently(lambda: self._store.add(key, member, ttl=ttl))

    async def remove(self, key: str, member: str) -> None:
        await self._patiently(lambda: self._store.remove(key, member))

    async def members(self, key: str) -> frozenset[str]:
        return await self._patiently(lambda: self._store.members(key))

    async def append(self, stream: str, value: bytes, *, ttl: float, limit: int = 100_000) -> str:
        return await self._store.append(stream, value, ttl=ttl, limit=limit)

    async def read(self, stream: str, after: str = "", *, count: int = 1000) -> list[Entry]:
        return await self._patiently(lambda: self._store.read(stream, after, count=count))

    async def publish(self, channel: str, message: bytes) -> None:
        await self._store.publish(channel, message)

    async def subscribe(self, channel: str, callback: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        return await self._store.subscribe(channel, callback)

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()

    def __repr__(self) -> str:
        return f"<PatientStore over {self._store!r}>"
