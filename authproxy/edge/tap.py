"""What a client sends after the 101 of its Upgrade, with backpressure.  Knows nothing of protocols."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_HIGH: Final = 64 * 1024


class Tap:
    """The octets of one client, from the 101 on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport: Final = transport
        self._pieces: Final[deque[bytes]] = deque()
        self._held = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """What the socket brought."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= _HIGH and not self._transport.is_closing():
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """The client sends no more."""
        self._ended = True
        self._wake()

    async def read(self) -> bytes:
        """The next octets; empty at the end."""
        while not self._pieces and not self._ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._pieces:
            return b""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<Tap {self._held} octets held{', ended' if self._ended else ''}>"
