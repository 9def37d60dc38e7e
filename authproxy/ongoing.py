"""Work that goes on in the background until its owner leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Final, Self

log = logging.getLogger("authproxy")
_PAUSE: Final = 1.0  # seconds before work that failed begins again

_AGAIN: Final = 5.0  # seconds before a task that did not end is asked to once more

Work = Callable[[], Coroutine[None, None, None]]


class Ongoing:
    """Owns tasks.  Leaving it cancels them and waits until they have ended."""

    def __init__(self) -> None:
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()  # again where somebody took the first one for something else
            await asyncio.wait(self._tasks, timeout=_AGAIN)

    def begin(self, work: Work) -> asyncio.Task[None]:
        """Do ``work`` until it returns; when a mistake of ours ends it, say so and begin it again."""
        task = asyncio.get_running_loop().create_task(_kept_going(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def __repr__(self) -> str:
        return f"<Ongoing {len(self._tasks)}>"


async def _kept_going(work: Work) -> None:
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s failed and begins again", getattr(work, "__qualname__", work))
            await asyncio.sleep(_PAUSE)
