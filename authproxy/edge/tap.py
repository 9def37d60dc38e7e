"""A client's connection after the 101 of its Upgrade, with backpressure.  Knows nothing of protocols."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from authproxy.errors import ClientGone
from authproxy.transport import held

if TYPE_CHECKING:
    from authproxy.edge.exchange import ClientExchange

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


class ClientTunnel:
    """``model.Tunnel``: the client's side after the 101."""

    def __init__(self, exchange: ClientExchange, tap: Tap) -> None:
        self._exchange: Final = exchange
        self._tap: Final = tap

    async def read(self) -> bytes:
        """The next octets; empty when the client sends no more.  Raises ClientGone when its connection is lost."""
        data = await self._tap.read()
        if not data and self._exchange.gone:
            raise ClientGone("the client closed the connection")
        self._exchange.received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Send octets, with backpressure.  Raises ClientGone."""
        connection = self._exchange.connection
        connection.send(data)
        self._exchange.sent += len(data)
        if connection.full:
            await connection.room()

    def write_eof(self) -> None:
        """Send no more; the client may."""
        transport = self._exchange.connection.transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def close(self) -> None:
        """Close the connection after what was written."""
        self._exchange.connection.close()

    @property
    def held(self) -> int:
        """Octets that were written and are still here."""
        return held(self._exchange.connection.transport)

    def on_leave(self, callback: Callable[[float], object]) -> Callable[[], None]:
        """Call ``callback`` with the deadline when the door drains (model.Tunnel)."""
        return self._exchange.departure.on_begin(callback)

    def __repr__(self) -> str:
        return f"<ClientTunnel {self._tap!r}>"
