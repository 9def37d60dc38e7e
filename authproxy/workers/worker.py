"""One worker process: as seen by the supervisor that starts it, and what it is told on its command line.

The supervisor decides about no request.  A worker is a whole proxy on sockets that were opened for it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from authproxy.app import Inherited

ASK_SECONDS: Final = 1.0
"""How long a worker may take to answer on its admin socket."""
_BASE: Final = "http://worker.invalid"  # the host is a matter of form on a unix socket


class Orders(NamedTuple):
    """What a worker is told: file descriptors of its sockets and of the pipe that ends with the supervisor."""

    sockets: Mapping[str, int]
    admin: str
    alive: int

    def spelled(self) -> str:
        """For the command line."""
        return json.dumps([dict(self.sockets), self.admin, self.alive])

    @classmethod
    def read(cls, text: str) -> Orders:
        """From the command line.  Raises ValueError."""
        sockets, admin, alive = json.loads(text)
        return cls({str(name): int(number) for name, number in sockets.items()}, str(admin), int(alive))

    def inherited(self) -> Inherited:
        """The sockets, taken over from the supervisor."""
        return Inherited({name: socket.socket(fileno=number) for name, number in self.sockets.items()}, self.admin)


class Answer(NamedTuple):
    """What a worker said on its admin socket."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Worker:
    """A started process; ``admin`` is where it can be asked."""

    def __init__(self, process: asyncio.subprocess.Process, admin: str) -> None:
        self.process: Final = process
        self.admin: Final = admin
        self.began: Final = time.monotonic()
        self.was_ready = False
        self.retired = False  # its successor has taken over

    @classmethod
    async def start(cls, file: Path, orders: Orders) -> Worker:
        """A new process.  Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "authproxy.cli", "worker", "-c", str(file), "--orders", orders.spelled(),
            stdin=asyncio.subprocess.DEVNULL, pass_fds=(*orders.sockets.values(), orders.alive),
            start_new_session=True,  # a Ctrl-C of the terminal is for the supervisor, which passes it on
        )  # fmt: skip
        return cls(process, orders.admin)

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer | None:
        """One request on its admin socket; None when it does not answer in time."""
        connector = aiohttp.UnixConnector(self.admin.removeprefix("unix:"))
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS if method == "GET" else 10 * ASK_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as http,
                http.request(method, _BASE + path, headers=headers, data=body, allow_redirects=False) as answer,
            ):
                return Answer(answer.status, tuple(answer.headers.items()), await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def readiness(self) -> dict[str, Any] | None:
        """What its ``/readyz`` says."""
        answer = await self.ask("GET", "/readyz")
        if answer is None:
            return None
        try:
            said: dict[str, Any] = json.loads(answer.body)
        except ValueError:
            return None
        self.was_ready = self.was_ready or answer.status == 200
        return said

    async def ready(self, seconds: float) -> bool:
        """Wait until it is ready; False when it ends first or time is up."""
        end = time.monotonic() + seconds
        while self.process.returncode is None and time.monotonic() < end:
            said = await self.readiness()
            if said and said.get("ready"):
                return True
            await asyncio.sleep(0.05)  # another process: there is no event to wait for
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, seconds: float) -> None:
        """Ask it to end, and see to it that it has after ``seconds``."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()

    def __repr__(self) -> str:
        return f"<Worker {self.process.pid} {'ready once' if self.was_ready else 'not ready yet'}>"
