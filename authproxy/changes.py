"""When files have changed, or somebody asks as if they had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

LOOK: Final = 1.0
"""Seconds between two looks at the files."""

_Marks = Mapping[Path, object]


class Changes:
    """``files`` are looked at while ``watching`` says so; ``ask`` counts as a change in any case."""

    def __init__(self, files: Callable[[], Iterable[Path]], *, watching: Callable[[], bool]) -> None:
        self._files: Final = files
        self._watching: Final = watching
        self._asked: Final = asyncio.Event()
        self._seen: _Marks | None = None

    def ask(self) -> None:
        """Somebody wants it to be looked at now, such as by SIGHUP."""
        self._asked.set()

    async def next(self) -> None:
        """Wait for the next change.  What changes while nobody waits here is seen at the next waiting."""
        marks = await asyncio.to_thread(self._marks)
        if self._seen is not None:  # a file that is named only since the last change has not changed since
            marks = {**marks, **{path: mark for path, mark in self._seen.items() if path in marks}}
        self._seen = marks
        while True:
            await self._woken()
            marks = await asyncio.to_thread(self._marks)
            changed = self._watching() and marks != self._seen
            self._seen = marks
            if self._asked.is_set() or changed:
                self._asked.clear()
                return

    def _marks(self) -> _Marks:
        return {path: stamp(path) for path in self._files()}

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(LOOK):
                await self._asked.wait()
        except TimeoutError:
            pass

    def __repr__(self) -> str:
        return f"<Changes {'asked for' if self._asked.is_set() else 'none'}>"


def stamp(path: Path) -> object:
    """What tells one version of a file from the next."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
