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
_REPEAT: Final = 0.25  # seconds until a question is asked again: a replica may be connecting, and not listen yet
_MOST: Final = 256
_ANSWER: Final = "answer"  # no replica has such an id
_LEAVE: Final = "leave"


class _Question:
    """A question that is open: the replicas that have not answered yet."""

    def __init__(self, replicas: frozenset[str]) -> None:
        self.left: Final = set(replicas)
        self.answered: Final = asyncio.Event()


class Replicas:
    """``on_asked`` gets a user's digest and the id of the replica that asks for what is known of them."""

    def __init__(self, store: Store, *, on_asked: Callable[[str, str], None]) -> None:
        self._store: Final = store
        self._on_asked: Final = on_asked
        self._questions: Final[dict[str, _Question]] = {}  # by user; one task asks about a user at a time
        self.id: Final = token(16)
        self._known = frozenset({self.id})
        self._announced = False
        self._emptied_at = float("-inf")  # on the clock of the event loop

    @property
    def others(self) -> int:
        """How many others there were when the store last said."""
        return len(self._known) - 1

    def owns(self, key: str) -> bool:
        """Whether ``key`` is this replica's affair, of those that are known: the same answer on each of them."""
        return max(self._known, key=lambda replica: blake2b(f"{replica}\0{key}".encode()).digest()) == self.id

    async def ask(self, user: str, *, seconds: float) -> None:
        """Have the others write what they hold of a user; until all have answered, or for ``seconds``.

        Raises ``StoreUnavailable``.
        """
        question = self._questions[user] = _Question(self._known - {self.id})
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not question.answered.is_set():
                        await self._store.publish(keys.channel_asked(), f"{self.id} {user}".encode())
                        await _set_within(question.answered, _REPEAT)
        finally:
            self._questions.pop(user, None)

    async def answer(self, asking: str, user: str) -> None:
        """What this replica holds of the user is written.  Raises ``StoreUnavailable``."""
        await self._store.publish(keys.channel_asked(), f"{_ANSWER} {asking} {self.id} {user}".encode())

    async def meet(self) -> None:
        """Announce this replica, and learn which others are there.  Raises ``StoreUnavailable``."""
        intact = self.id in await self._store.members(keys.replicas())  # else the store was emptied
        await self._store.put(keys.replica(self.id), b"1", ttl=_ALIVE)
        await self._store.add(keys.replicas(), self.id, ttl=86400.0)
        alive = frozenset({self.id})
        for member in sorted(await self._store.members(keys.replicas()))[:_MOST]:
            if member == self.id or await self._store.get(keys.replica(member)) is not None:
                alive |= {member}
            else:
                await self._store.remove(keys.replicas(), member)
        now = asyncio.get_running_loop().time()
        if not intact and self._announced:
            self._emptied_at = now
        self._announced = True
        if now - self._emptied_at < _ALIVE:  # those that were there announce themselves again
            alive |= self._known
        if alive != self._known:
            log.info("%d replicas share the store", len(alive))
        self._known = frozenset(alive)

    async def leave(self) -> None:
        """Be gone for the others at once."""
        with suppress(StoreUnavailable):
            await self._store.publish(keys.channel_asked(), f"{_LEAVE} {self.id} now".encode())
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
        words = message.decode("ascii", "replace").split(" ")
        if len(words) == 2 and words[0] != self.id:
            self._on_asked(words[1], words[0])
        elif len(words) == 3 and words[0] == _LEAVE and words[1] != self.id:
            self._known -= {words[1]}
        elif len(words) == 4 and words[0] == _ANSWER and words[1] == self.id:
            self._answered(answering=words[2], user=words[3])

    def _answered(self, *, answering: str, user: str) -> None:
        question = self._questions.get(user)
        if question is not None:
            question.left.discard(answering)
            if not question.left:
                question.answered.set()

    def __repr__(self) -> str:
        return f"<Replicas {len(self._known)}>"


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
