"""What a process waits for after its start, and what is degraded later.

Nothing here stops the program: a provider or a store that is down is waited for, and said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from authproxy.admin.routes import Readiness
from authproxy.errors import AuthproxyError

log = logging.getLogger("authproxy")
_FIRST: Final = 0.25
_LONGEST: Final = 10.0

Check = Callable[[], Awaitable[object]]


class Startup:
    """Asks every part until each has answered once; ready is who has heard of those that are ``needed``."""

    def __init__(self, degraded: Callable[[], dict[str, str]]) -> None:
        self._degraded: Final = degraded
        self._waiting: Final[dict[str, str]] = {}
        self.done: Final = asyncio.Event()
        self.draining = False

    def readiness(self) -> Readiness:
        """What the admin listener says."""
        return Readiness(self.done.is_set() and not self.draining, dict(self._waiting), self._degraded())

    async def run(self, needed: Mapping[str, Check], wanted: Mapping[str, Check]) -> None:
        """Ask all parts at once, each until it has answered.  Once the needed ones have, we are ready, and stay so."""
        self.expect([*needed, *wanted])
        await asyncio.gather(self._needed(needed), *(self._wait_for(name, check) for name, check in wanted.items()))

    async def _needed(self, checks: Mapping[str, Check]) -> None:
        await asyncio.gather(*(self._wait_for(name, check) for name, check in checks.items()))
        self.done.set()

    def expect(self, names: Iterable[str]) -> None:
        """From now on wait for these, and for nothing else."""
        self._waiting.clear()
        self._waiting.update(dict.fromkeys(names, "not asked yet"))

    async def _wait_for(self, name: str, check: Check) -> None:
        pause = _FIRST
        while True:
            try:
                await check()
            except AuthproxyError as error:
                if self._waiting.get(name) != str(error):
                    log.warning("waiting for %s: %s", name, error)
                self._waiting[name] = str(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST)
            else:
                self._waiting.pop(name, None)  # gone already where this was begun again
                return
