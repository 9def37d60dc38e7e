"""Finding out where the servers are: one search at a time, and not more often than is useful."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from redis import exceptions as wire

PAUSE: Final = 0.2  # seconds after a search in which nobody searches again
_PATIENCE: Final = 2.0  # seconds that a search may take; it goes on when the verb that wanted it has given up
_HEAD_START: Final = 0.05  # seconds that one server has before the next one is asked too

T = TypeVar("T")


class Nowhere(wire.ConnectionError):
    """It is not known where to send a command; the words are ours and hold no address."""


async def first_answer(asks: Sequence[Callable[[], Coroutine[Any, Any, T | None]]]) -> tuple[int, T] | None:
    """Ask one server, after a moment the next one too, and so on: the first answer, and the place of who gave it.

    None is no answer.  Who hangs thus costs a moment, and who is slow may still answer.
    """
    running: dict[asyncio.Task[T | None], int] = {}
    try:
        for place, ask in enumerate(asks):
            running[asyncio.get_running_loop().create_task(ask(), name="redis lookup")] = place
            if found := await _answered(running, _HEAD_START):
                return found
        while running:
            if found := await _answered(running, None):
                return found
        return None
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answered(running: dict[asyncio.Task[T | None], int], patience: float | None) -> tuple[int, T] | None:
    done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    answers = [(running.pop(task), task.result()) for task in done]
    return next(((place, answer) for place, answer in answers if answer is not None), None)


class Lookup:
    """``find`` searches and keeps what it found by itself; ``clock`` is monotonic seconds."""

    def __init__(self, find: Callable[[], Coroutine[Any, Any, None]], clock: Callable[[], float]) -> None:
        self._find = find
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._not_before = -1.0
        self._closed = False

    def start(self) -> None:
        """Search, unless a search runs or one has just ended."""
        idle = self._task is None or self._task.done()
        if idle and not self._closed and self._clock() >= self._not_before:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis lookup")

    async def wait(self) -> None:
        """Search, and wait for the end of it.  A caller that gives up does not end the search for the others."""
        self.start()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._find()
        finally:
            self._not_before = self._clock() + PAUSE

    async def close(self) -> None:
        """End the search that runs."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def __repr__(self) -> str:
        return f"<Lookup: {'searching' if self._task and not self._task.done() else 'at rest'}>"
