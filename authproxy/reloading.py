"""New settings for a running process: when to read the file again, and what to say of it.

A file that cannot be used changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Final

from authproxy.app import Authproxy
from authproxy.changes import Changes
from authproxy.errors import AuthproxyError, SettingsError
from authproxy.settings.files import read_by
from authproxy.settings.load import load
from authproxy.settings.schema import Settings

log = logging.getLogger("authproxy")
_RENEWED: Final = frozenset({"connections", "drain", "trusted_proxies"})  # of ``listen``; the rest holds sockets


class Reloading:
    """Reads ``file`` again on SIGHUP and, where it is to be ``watched`` and says ``reload: true``, when it changes."""

    def __init__(self, proxy: Authproxy, file: Path, *, watched: bool = True) -> None:
        self._proxy: Final = proxy
        self._file: Final = file
        self._changes: Final = Changes(
            lambda: {file, *read_by(proxy.settings)}, watching=lambda: watched and proxy.settings.reload
        )

    def obey_signal(self) -> None:
        """From now on SIGHUP asks for it."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._changes.ask)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._changes.next()
            await self.reload()

    async def reload(self) -> bool:
        """Read the file and serve by it; whether that went well.  Everything that is wrong is logged and recorded."""
        try:
            loaded = await asyncio.to_thread(load, self._file)
            for problem in loaded.warnings:
                log.warning("%s", problem)
            if any(problem.awaited for problem in loaded.warnings):
                raise SettingsError([])
            await self._proxy.take(self._servable(loaded.settings))
        except SettingsError as error:
            for problem in error.problems:
                log.error("%s", problem)
            return self._said("refused")
        except (AuthproxyError, LookupError, ValueError, OSError) as error:
            log.error("%s: %s", self._file, error)
            return self._said("refused")
        return self._said("ok")

    def _said(self, outcome: str) -> bool:
        good = outcome == "ok"
        if good:
            log.info("%s: the new settings are served", self._file)
        else:
            log.error("%s cannot be used as it is now; the former settings stay", self._file)
        self._proxy.lasting.metrics.event("reload", outcome)
        self._proxy.lasting.audit.record("reload", outcome=outcome)
        return good

    def _servable(self, settings: Settings) -> Settings:
        """The new settings on the sockets that are open."""
        held = self._proxy.settings.listen
        stays = {name: getattr(held, name) for name in type(held).model_fields if name not in _RENEWED}
        for name in [name for name, value in stays.items() if value != getattr(settings.listen, name)]:
            log.warning("%s: listen.%s changed; that takes a restart", self._file, name)
        return settings.model_copy(update={"listen": settings.listen.model_copy(update=stays)})

    def __repr__(self) -> str:
        return f"<Reloading {self._file.name}>"
