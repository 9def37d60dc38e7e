"""The client's connection as aiohttp's protocol sees it: the parser's strictness, the tap of a tunnel, the caps.

This file knows private names of aiohttp's request handler; ``tests/unit/edge/test_connection.py`` says which, so that
another release of it is noticed.  It knows nothing of routing, callers or answers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import http_parser, web
from aiohttp.web_protocol import RequestHandler

from authproxy.transport import abort

CONNECTIONS: Final = 10_000  # open at once, per listener
LINE_LIMIT: Final = 16 * 1024  # octets of a request line or a header line: sealed cookies and tokens need the room
HEADER_LIMIT: Final = 128
KEEPALIVE_SECONDS: Final = 75.0  # idle, and from the end of one answer to the end of the next request's head
LINGER_SECONDS: Final = 2.0  # how long an unread body is swallowed after an early answer, so that the answer arrives
STALL_SECONDS: Final = 60  # an unread answer holds a connection no longer
_TAP_HIGH: Final = 64 * 1024

_log = logging.getLogger("authproxy")

Malformed = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def require_strict_parser() -> None:
    """Raise RuntimeError unless llhttp parses: aiohttp's fallback in Python accepts what llhttp refuses."""
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError("aiohttp was installed without its C extensions; authproxy needs its strict HTTP parser")


class Tap:
    """The bytes of a client after its Upgrade request, with backpressure.

    ``early`` is set when bytes came before the 101: nobody knows to which protocol they belong (CVE-2025-64763).
    """

    def __init__(self, transport: asyncio.Transport, *, early: bool) -> None:
        self.early = early
        self.open = False  # the 101 was sent
        self._transport: Final = transport
        self._pieces: Final[deque[bytes]] = deque()
        self._held = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """What the socket brought."""
        if not self.open:
            self.early = True
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= _TAP_HIGH and not self._transport.is_closing():
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """The client sends no more."""
        self._ended = True
        self._wake()

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
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
        return f"<Tap {'open' if self.open else 'shut'}, {self._held} bytes held>"


class ClientConnection(RequestHandler):
    """aiohttp's connection, made quiet about malformed requests and aware of what follows an Upgrade."""

    __slots__ = ("_malformed", "_recent", "gone", "serving", "tap")

    def __init__(self, manager: Connections, malformed: Malformed, **limits: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **limits)
        self._malformed = malformed
        self._recent = b""  # the last octets of the segment before, to see where a head ended
        self.tap: Tap | None = None
        self.gone = False
        self.serving = False

    @property
    def idle(self) -> bool:
        """No request is being served or waits to be."""
        return not self.serving and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(self._manager, Connections) and self._manager.full:
            _log.warning("connection refused: %d are open", CONNECTIONS)
            self.abort()
        else:
            self.limit_stall(STALL_SECONDS)

    def limit_stall(self, seconds: int) -> None:
        """Let the kernel break off a client that acknowledges nothing for so long; 0 for never."""
        sock = self.transport.get_extra_info("socket") if self.transport else None
        if (
            sock is not None
            and sock.family in (socket.AF_INET, socket.AF_INET6)
            and hasattr(socket, "TCP_USER_TIMEOUT")
        ):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)

    def data_received(self, data: bytes) -> None:
        if self.tap is not None and data:
            self.tap.feed(data)
            return
        super().data_received(data)
        if self._messages:
            self._look_at(self._messages[-1][0], self._recent + data)
        self._recent = data[-3:]

    def _look_at(self, last: Any, segment: bytes) -> None:
        if getattr(last, "upgrade", False):
            self._hold(segment)
        elif hasattr(last, "exc"):
            self._spoil_body()

    def _spoil_body(self) -> None:
        # The parser fails inside a body without telling whoever reads that body.
        current = self._current_request
        if current is not None and not current.content.is_eof():
            current.content.set_exception(web.RequestPayloadError("malformed"))

    def _hold(self, segment: bytes) -> None:
        # Whatever follows an Upgrade request is never parsed as HTTP.  Two heads in one segment, or anything behind
        # the head, count as early bytes: the parser does not say how much of the segment it took.
        if self.tap is None and self.transport is not None and self._messages[-1][1].is_eof():
            early = bool(self._message_tail) or not segment.endswith(b"\r\n\r\n") or segment.count(b"\r\n\r\n") > 1
            self.tap = Tap(self.transport, early=early)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the other direction open for a tunnel; otherwise a client that sends FIN has gone."""
        if self.tap is None or not self.tap.open:
            return False
        self.tap.end()
        return self.ssl_context is None  # TLS has no half-close

    def connection_lost(self, exc: BaseException | None) -> None:
        self.gone = True
        task = self._task_handler
        super().connection_lost(exc)
        if self.tap is not None and self.tap.open:
            self.tap.end()  # what came before the loss is still delivered
        elif task is not None:
            task.cancel()  # nobody waits for the answer: the exchange, and with it the upstream request, ends now

    def reset(self) -> None:
        """From now on the connection ends with a reset (RFC 9293 section 3.10.4), which nobody takes for an end."""
        sock = self.transport.get_extra_info("socket") if self.transport else None
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def abort(self) -> None:
        """Break the connection off without flushing."""
        abort(self.transport)

    def close_idle(self) -> None:
        """Close when nothing is being served.  Otherwise the body of a running request would not be read on."""
        if self.idle:
            self.force_close()

    def handle_error(self, *args: Any, **kw: Any) -> web.StreamResponse:
        """End the connection: the door answers for everything, so that only a broken connection comes here."""
        cause = kw.get("exc", args[2] if len(args) > 2 else None)
        self.log_exception("connection ended", exc_info=cause)
        raise ConnectionError("nothing more can be said on this connection")

    def _make_error_handler(self, err_info: Any) -> Malformed:
        del err_info  # it quotes the attacker
        return self._malformed

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """At most one short line; what a client sent is never quoted."""
        cause = kw.get("exc_info")
        _log.info("%s: %s", args[0] if args else "connection", type(cause).__name__)


class Connections(web.Server):
    """Makes and counts the connections of one listener."""

    def __init__(self, handler: Any, *, request_factory: Any, malformed: Malformed) -> None:
        super().__init__(handler, request_factory=request_factory, handler_cancellation=False)
        self._malformed: Final = malformed

    def __call__(self) -> ClientConnection:
        return ClientConnection(
            self,
            self._malformed,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=LINE_LIMIT,
            max_field_size=LINE_LIMIT,
            max_headers=HEADER_LIMIT,
            auto_decompress=False,  # bodies pass through untouched
            access_log=None,
            logger=_log,
        )

    @property
    def full(self) -> bool:
        """More connections than allowed are open."""
        return len(self._connections) > CONNECTIONS

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        for connection in self.connections:
            if isinstance(connection, ClientConnection):
                connection.close_idle()

    def abort_all(self) -> None:
        """Break every connection off."""
        for connection in self.connections:
            if isinstance(connection, ClientConnection):
                connection.abort()

    def __repr__(self) -> str:
        return f"<Connections {len(self._connections)} open>"
