"""A real HAProxy before several replicas: checks their readiness, and asks another one when a connection fails.

It repeats what may be repeated (GET whose connection failed or closed without an answer), and nothing else.
"""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.peers.program import Program, free_port

CONFIG = """global
  stats socket {socket} mode 600
  hard-stop-after 5s
defaults
  mode http
  timeout connect 1s
  timeout check 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response
frontend front
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk
  http-check send meth GET uri /readyz
  http-check expect status 200
  http-request disable-l7-retry unless METH_GET
  default-server inter 250ms fall 2 rise 1 check
"""


class Replica(NamedTuple):
    """Where a replica listens: for people, and for the health check."""

    port: int
    admin_port: int


class HAProxy:
    """``replicas`` are on loopback; the configuration and the control socket are in ``folder``.

    Enter it as an async context manager once the replicas are ready; it answers when it is entered.
    """

    def __init__(self, folder: Path, replicas: Sequence[Replica] = (), *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.replicas = list(replicas)
        self._file = folder / "haproxy.cfg"
        self._socket = folder / "haproxy.sock"
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        assert program, "haproxy is not installed"
        self.program = Program(program, "-db", "-f", self._file)

    def __repr__(self) -> str:
        return f"<HAProxy port {self.port} before {len(self.replicas)} replicas>"

    def write(self) -> None:
        """Write the configuration."""
        lines = [
            f"  server r{number} 127.0.0.1:{one.port} port {one.admin_port}\n"
            for number, one in enumerate(self.replicas)
        ]
        self._file.write_text(CONFIG.format(socket=self._socket, port=self.port) + "".join(lines), encoding="utf-8")

    async def states(self) -> dict[str, str]:
        """What it thinks of each replica, by name (``r0``...): ``UP``, ``DOWN``, or a state between them."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(b"show stat\n")
            text = (await reader.read()).decode().removeprefix("# ")
        finally:
            writer.close()
            await writer.wait_closed()
        rows = csv.DictReader(io.StringIO(text))
        return {row["svname"]: row["status"] for row in rows if row["svname"].startswith("r") and row["status"]}

    async def until(self, wanted: dict[str, str]) -> None:
        """Wait until these replicas have these states."""

        async def reached() -> bool:
            return wanted.items() <= (await self._states_or_none()).items()

        await self.program.until(reached, f"the replicas are {wanted}")

    async def _states_or_none(self) -> dict[str, str]:
        try:
            return await self.states()
        except OSError:
            return {}

    async def __aenter__(self) -> Self:
        self.write()
        self.program.start()
        try:
            await self.until({f"r{number}": "UP" for number in range(len(self.replicas))})
        except BaseException:
            await self.program.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.program.stop()
