"""The server's side of a WebSocket, as far as a peer needs it: binary messages, pings answered, a closing handshake."""

from __future__ import annotations

import asyncio
import struct
from typing import Final

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
NORMAL: Final = struct.pack(">H", 1000)


class Socket:
    """A connection that has been upgraded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ended = False

    async def read(self) -> bytes:
        """The next message; empty when the client closes or has gone.  Fragments come as messages of their own."""
        while not self._ended:
            try:
                opcode, payload = await self._frame()
            except (OSError, asyncio.IncompleteReadError):
                opcode, payload = CLOSE, b""
            if opcode == CLOSE:
                self._ended = True
            elif opcode == PING:
                await self._send(PONG, payload)
            elif payload:
                return payload
        return b""

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self._reader.readexactly(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        assert second & 0x80, "a client masks (RFC 6455 section 5.1)"
        mask = await self._reader.readexactly(4)
        data = await self._reader.readexactly(size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        return first & 0x0F, (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")

    async def send(self, data: bytes) -> None:
        """One binary message."""
        await self._send(BINARY, data)

    async def _send(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            lead = struct.pack(">BB", 0x80 | opcode, size)
        elif size < 65536:
            lead = struct.pack(">BBH", 0x80 | opcode, 126, size)
        else:
            lead = struct.pack(">BBQ", 0x80 | opcode, 127, size)
        self._writer.write(lead + data)
        await self._writer.drain()

    async def close(self) -> None:
        """Say goodbye, and wait for the client's answer."""
        await self._send(CLOSE, NORMAL)
        while await self.read():
            pass
