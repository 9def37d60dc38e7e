"""Single flight: of any number of callers for one key, one does the work and all get its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Owns the tasks that it starts: a caller that is cancelled leaves the work running for the others."""

    def __init__(self) -> None:
        self._flights: Final[dict[str, asyncio.Task[T]]] = {}

    def start(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task that does ``work`` for ``key``: the one under way, or a new one."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(work())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the result of ``work`` for ``key``; raises what it raises."""
        return await asyncio.shield(self.start(key, work))

    def _landed(self, key: str, flight: asyncio.Task[T]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # seen here, since every waiter may be gone

    async def close(self, seconds: float = 5.0) -> None:
        """Let what is under way finish, for ``seconds`` at most, then cancel it."""
        tasks = list(self._flights.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._flights)
