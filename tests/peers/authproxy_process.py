"""The proxy itself as a real process: its settings file, its readiness, its audit lines, its end."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import yaml

from tests.peers.program import PATIENCE, Program, as_json, free_port

COMMAND: Final = (sys.executable, "-m", "authproxy.cli")
SESSION_KEY: Final = base64.urlsafe_b64encode(b"k" * 32).rstrip(b"=").decode()


class Run(NamedTuple):
    """What a command of the front desk did."""

    exit_code: int
    stdout: str
    stderr: str


def run(*words: str | Path, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Run:
    """Run one command of ``authproxy`` to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


class AuthproxyProcess:
    """``authproxy serve`` on free loopback ports; an async context manager that is entered when it is ready.

    ``settings`` is the file as a mapping; ``listen.address``, ``listen.admin`` and ``session.keys`` are filled in where
    they are left out, and ``public_url`` is ``http://auth.test:PORT``.  Several processes may share one ``port``.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "authproxy",
    ) -> None:
        self.port = port or free_port()
        self.admin_port = free_port()
        self.file = folder / f"{name}.yaml"
        self._env = env
        self.write(settings)
        self.program = self._program()

    def _program(self) -> Program:
        return Program(*COMMAND, "serve", "-c", self.file, env=self._env)

    def __repr__(self) -> str:
        return f"<AuthproxyProcess port {self.port}: {self.program!r}>"

    @property
    def url(self) -> str:
        """Its public URL."""
        return f"http://auth.test:{self.port}"

    @property
    def admin_url(self) -> str:
        """The admin listener."""
        return f"http://127.0.0.1:{self.admin_port}"

    def at(self, host: str, target: str = "/") -> str:
        """The URL of ``target`` on an app's host."""
        return f"http://{host}:{self.port}{target}"

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write the settings file (again)."""
        listen = {
            "address": f"127.0.0.1:{self.port}",
            "admin": f"127.0.0.1:{self.admin_port}",
            **settings.get("listen", {}),
        }
        session = {"keys": [{"value": SESSION_KEY}], **settings.get("session", {})}
        whole = {"public_url": self.url, **settings, "listen": listen, "session": session}
        self.file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")

    def check(self) -> Run:
        """``authproxy check`` on its file."""
        return run("check", "-c", self.file, env=self._env)

    def audit(self) -> list[dict[str, Any]]:
        """The audit records that it has printed so far: the JSON objects on its standard output."""
        return [record for line in self.program.stdout.all() if (record := as_json(line)) is not None]

    async def audited(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first audit record that ``wanted`` holds for; waits for it."""

        def known(line: str) -> dict[str, Any] | None:
            record = as_json(line)
            return record if record is not None and wanted(record) else None

        return await self.program.line(known)

    async def ready(self) -> None:
        """Wait until ``/readyz`` of the admin listener says yes."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
            await self.program.until(lambda: self._says_ready(session), "it is ready")

    async def _says_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.admin_url}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self.program.stop()

    async def kill(self) -> int:
        """SIGKILL: whatever it held in memory is gone.  The exit code."""
        self.program.send(signal.SIGKILL)
        return await self.program.ended()

    async def start(self) -> Self:
        """Start it, for the first time or again, at the same place; it is ready on return."""
        self.program = self._program().start()
        try:
            await self.ready()
        except BaseException:
            await self.program.stop()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
