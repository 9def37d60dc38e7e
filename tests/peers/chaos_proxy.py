"""A TCP line that misbehaves on demand: slow, silent, broken off, refused.

It knows bytes alone, so that it can stand before Redis as well as before a provider.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "hang", "reset", "refuse"]


class ChaosProxy:
    """Forwards from a free loopback port to ``target`` (a port); an async context manager in the loop of the test.

    ``mode``: ``pass``; ``hang`` (connections stand, nothing moves, neither on new ones nor on old ones); ``reset``
    (new connections are broken off at once); ``refuse`` (nobody listens).  Use ``to`` to change it.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mode: Mode = "pass"
        self.latency = 0.0  # seconds before each piece is passed on, in either direction
        self.drop: Callable[[bytes], bool] | None = None  # pieces from the target that are lost on the way
        self.accepted = 0
        self._moving = asyncio.Event()
        self._moving.set()
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def __repr__(self) -> str:
        return f"<ChaosProxy port {self.port} to {self.target}: {self.mode}, {len(self._lines)} connections>"

    async def to(self, mode: Mode) -> None:
        """Change the mode.  ``reset`` and ``refuse`` break what stands, too."""
        self.mode = mode
        if mode == "hang":
            self._moving.clear()
        else:
            self._moving.set()
        if mode == "refuse":
            await self._close_door()
        elif self._server is None:
            await self._open_door()
        if mode in ("reset", "refuse"):
            await self.cut()

    async def cut(self) -> None:
        """Break off every connection that stands (RST)."""
        for writer in list(self._writers):
            _break(writer)
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def _open_door(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_door(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()  # not waited for: what stands is broken by the caller

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._lines.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the end of a line is what this proxy is for
        finally:
            self._lines.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            return _break(writer)
        await self._moving.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(far_writer)
        ways = [
            asyncio.ensure_future(self._pump(reader, far_writer)),
            asyncio.ensure_future(self._pump(far_reader, writer, down=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers.discard(far_writer)
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool = False) -> None:
        while piece := await reader.read(65536):
            if self.latency:
                await asyncio.sleep(self.latency)
            await self._moving.wait()
            if down and self.drop is not None and self.drop(piece):
                continue
            writer.write(piece)
            await writer.drain()

    async def __aenter__(self) -> Self:
        await self._open_door()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_door()
        await self.cut()


def _break(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
