"""One store for several replicas, and a link from each replica to it that can fail.

The store is the embedded one.  A link refuses at once, stays silent until the budget is over, or answers late; after
silence the effect of a write is unknown.  Every write is kept in a journal, so that the newest writes can be lost as in
a fail-over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from authproxy.errors import StoreSlow, StoreUnavailable
from authproxy.store.memory import MemoryStore

BUDGET: Final = 0.15
"""Seconds that a verb may take, as for Redis."""
_READS: Final = frozenset({"get", "members", "read", "ping"})

Callback = Callable[[bytes], None]
State = Literal["up", "refused", "silent", "late"]


def _is_routine(verb: str, arguments: tuple[Any, ...]) -> bool:
    """Whether this is done every second: replicas announce themselves and read revocations.  No order matters there."""
    return verb in ("read", "ping") or str(arguments[0]).startswith(("r:", "replicas"))


class _Write(NamedTuple):
    at: float
    verb: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _ReplayClock:
    """The time of the write that is repeated, and the real time after that."""

    def __init__(self, real: Callable[[], float]) -> None:
        self._real: Final = real
        self.at: float | None = None

    def __call__(self) -> float:
        return self._real() if self.at is None else self.at


class SharedStore:
    """The data that all replicas share."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self._journal: list[_Write] = []
        self._data = MemoryStore(clock)
        self._subscribers: Final[list[tuple[str, Callback, StoreLink]]] = []

    async def apply(self, verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Carry out one verb."""
        if verb not in _READS and not _is_routine(verb, arguments):
            self._journal.append(_Write(self._clock(), verb, arguments, options))
        return await getattr(self._data, verb)(*arguments, **options)

    async def lose(self, seconds: float | None = None) -> None:
        """Lose the writes of the last ``seconds``, or everything."""
        kept_until = self._clock() - seconds if seconds is not None else float("-inf")
        kept = [write for write in self._journal if write.at <= kept_until]
        self._journal = kept
        clock = _ReplayClock(self._clock)
        replayed = MemoryStore(clock)
        for write in kept:
            clock.at = write.at
            await getattr(replayed, write.verb)(*write.arguments, **write.options)
        clock.at = None
        self._data = replayed

    def deliver(self, channel: str, message: bytes) -> None:
        """Pass a message to every subscriber whose link works."""
        loop = asyncio.get_running_loop()
        for name, callback, link in list(self._subscribers):
            if name == channel and link.answers:
                loop.call_later(link.delay, callback, message)

    def add(self, channel: str, callback: Callback, link: StoreLink) -> Callable[[], Awaitable[None]]:
        """Subscribe; what is returned ends the subscription."""
        entry = (channel, callback, link)
        self._subscribers.append(entry)

        async def end() -> None:
            if entry in self._subscribers:
                self._subscribers.remove(entry)

        return end


class StoreLink:
    """What one replica has instead of a client of Redis: every verb of ``store.base.Store``.

    ``delay`` is the time of an answer in seconds.  ``loses_effect`` says what a silent link does with a write.
    """

    def __init__(self, shared: SharedStore) -> None:
        self._shared: Final = shared
        self._late: Final[set[asyncio.Task[Any]]] = set()
        self.state: State = "up"
        self.delay = 0.0
        self.loses_effect = False
        self.gone = False
        """The process is dead: nothing it does has an effect any more."""

    @property
    def answers(self) -> bool:
        """Whether the store answers at all, in time or late."""
        return not self.gone and self.state in ("up", "late")

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return partial(self._call, verb)

    async def _call(self, verb: str, /, *arguments: Any, **options: Any) -> Any:
        if self.gone or self.state == "refused":
            await asyncio.sleep(0)
            raise StoreUnavailable("the store refuses connections")
        budget = options.pop("budget", None) or BUDGET
        if self.state == "up":
            if not _is_routine(verb, arguments):
                await asyncio.sleep(0)
            return await self._shared.apply(verb, arguments, options)
        if self.state == "silent":
            if not self.loses_effect:
                await self._shared.apply(verb, arguments, options)
            await asyncio.sleep(budget)
            raise StoreSlow("the store does not answer")
        work = asyncio.get_running_loop().create_task(self._answer_late(verb, arguments, options))
        self._late.add(work)
        work.add_done_callback(self._late.discard)
        try:
            async with asyncio.timeout(budget):
                return await asyncio.shield(work)
        except TimeoutError:
            raise StoreSlow("the store answers too late") from None

    async def _answer_late(self, verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        await asyncio.sleep(self.delay)
        return await self._shared.apply(verb, arguments, options)

    def with_budget(self, seconds: float) -> _Budgeted:
        """The same link for calls that may take longer."""
        return _Budgeted(self, seconds)

    async def publish(self, channel: str, message: bytes, *, budget: float | None = None) -> None:
        """Tell every subscriber."""
        await self._call("ping", budget=budget)
        self._shared.deliver(channel, message)

    async def subscribe(self, channel: str, callback: Callback) -> Callable[[], Awaitable[None]]:
        """Listen; kept up through every fault."""
        return self._shared.add(channel, callback, self)

    async def close(self) -> None:
        """The replica has ended."""
        self.gone = True

    def __repr__(self) -> str:
        return f"<StoreLink {self.state}>"


class _Budgeted:
    """A link with another budget."""

    def __init__(self, link: StoreLink, seconds: float) -> None:
        self._link: Final = link
        self._seconds: Final = seconds
        self.subscribe: Final = link.subscribe
        self.close: Final = link.close

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber."""
        await self._link.publish(channel, message, budget=self._seconds)

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return partial(self._link._call, verb, budget=self._seconds)
