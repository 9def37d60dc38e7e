"""The processes over one store: which there are, whose turn it is when the store is away, and asking the others.

Each announces itself in the store.  While the store is away, the last known list still says who renews a session, so
that two replicas do not spend the same refresh token.  When the store has lost what some replica still has in memory,
asking brings it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from authproxy.errors import StoreUnavailable
from authproxy.sessions.sealing import token
from authproxy.store import keys
from authproxy.store.base import Store

log = logging.getLogger("authproxy.sessions")
EVERY: Final = 2.0
"""Seconds between two announcements."""
_ALIVE: Final = 10.0  # seconds that an announcement holds
_MOST: Final = 256


class Replicas:
    """``on_asked`` is told a user's digest when another replica asks for what is known of them."""

    def __init__(self, store: Store, *, on_asked: Callable[[str], None]) -> None:
        self._store: Final = store
        self._on_asked: Final = on_asked
        self.id: Final = token(16)
        self._known = frozenset({self.id})

    @property
    def others(self) -> int:
        """How many others there were when the store last said."""
        return len(self._known) - 1

    def owns(self, key: str) -> bool:
        """Whether ``key`` is this replica's affair, of those that are known: the same answer on each of them."""
        return max(self._known, key=lambda replica: blake2b(f"{replica}\0{key}".encode()).digest()) == self.id

    async def ask(self, user: str) -> None:
        """Have the others write what they hold of a user.  Raises ``StoreUnavailable``."""
        await self._store.publish(keys.channel_asked(), f"{self.id} {user}".encode())

    async def meet(self) -> None:
        """Announce this replica, and learn who else is there.  Raises ``StoreUnavailable``."""
        await self._store.put(keys.replica(self.id), b"1", ttl=_ALIVE)
        await self._store.add(keys.replicas(), self.id, ttl=86400.0)
        alive = {self.id}
        for member in sorted(await self._store.members(keys.replicas()))[:_MOST]:
            if member == self.id or await self._store.get(keys.replica(member)) is not None:
                alive.add(member)
            else:
                await self._store.remove(keys.replicas(), member)
        if alive != self._known:
            log.info("%d replicas share the store", len(alive))
        self._known = frozenset(alive)

    async def leave(self) -> None:
        """Be gone for the others at once."""
        with suppress(StoreUnavailable):
            await self._store.delete(keys.replica(self.id))
            await self._store.remove(keys.replicas(), self.id)

    async def run(self) -> None:
        """Stay known and hear the others, until cancelled."""
        stop = await self._store.subscribe(keys.channel_asked(), self._heard)
        try:
            while True:
                with suppress(StoreUnavailable):
                    await self.meet()
                await asyncio.sleep(EVERY)
        finally:
            await stop()

    def _heard(self, message: bytes) -> None:
        asking, _, user = message.decode("ascii", "replace").partition(" ")
        if asking != self.id:
            self._on_asked(user)

    def __repr__(self) -> str:
        return f"<Replicas {len(self._known)}>"
