"""One request and its answer on an aiohttp server connection, written as bytes.

Heads are serialised here and not by aiohttp, whose writer drops octets that are not UTF-8 and adds a banner and a
content type.  Bodies keep the framing that RFC 9112 section 6 asks for.  This room knows nothing of who may do what.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from authproxy.edge.departure import Departure
from authproxy.edge.wire import ClientConnection, Tap
from authproxy.errors import BadRequest, ClientGone
from authproxy.model import Answer, HeaderList, RequestInfo
from authproxy.transport import held

READ_SECONDS: Final = 30.0  # between two pieces of a request body
WRITE_SECONDS: Final = 60.0  # for a client to make room for the next piece

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_OURS: Final = frozenset({
    b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_CLOSE: Final = b"Connection: close\r\n"


def serialise(status: int, headers: HeaderList, framing: bytes) -> bytes:
    """A response head.  ``framing`` are whole header lines; what ``headers`` say about framing is left out.

    The reason phrase is the standard one (RFC 9112 section 4): an upstream's own may hold anything.
    """
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b""))]
    dated = status < 200
    for name, value in headers:
        folded = name.lower()
        if folded not in _OURS:
            dated = dated or folded == b"date"
            lines.append(b"%s: %s\r\n" % (name, value))
    if not dated:  # RFC 9110 section 6.6.1
        lines.append(b"Date: %s\r\n" % formatdate(usegmt=True).encode())
    lines.append(framing)
    lines.append(b"\r\n")
    return b"".join(lines)


class Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the wire already."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._stays: Final = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class Reply:
    """The answering half of an exchange.  ``sent`` counts octets of the body, ``status`` is 0 before the head."""

    def __init__(self, request: web.BaseRequest, *, closing: Callable[[], bool]) -> None:
        self.status = 0
        self.sent = 0
        self.suspect = True  # until the request made sense: what follows on the connection is not believed either
        self._request: Final = request
        self._line: Final = cast("ClientConnection", request.protocol)
        self._closing: Final = closing  # the server is draining
        self._keep_alive = False
        self._chunked = False
        self._left: int | None = None  # octets that the announced length still asks for
        self._bodiless = False
        self._finished = False
        self._aborted = False

    @property
    def complete(self) -> bool:
        """The whole answer was written."""
        return self._finished

    @property
    def begun(self) -> bool:
        """Something of an answer was written, by us or by one of our pages."""
        return bool(self.status) or self._request.writer.output_size > 0

    @property
    def gone(self) -> bool:
        """The client's connection is lost, or was broken off: nobody can be answered."""
        return self._line.gone or self._aborted

    def written(self) -> web.StreamResponse:
        """What the server is told when the exchange is over."""
        return Written(self.status or 500, keep_alive=self._keep_alive and self._finished)

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer.  HEAD, 204 and 304 carry the headers alone (RFC 9110 section 9.3.2)."""
        length = None if answer.status == 304 and not answer.body else len(answer.body)
        head = self._start(answer.status, answer.headers, length)
        body = b"" if self._bodiless else answer.body
        await self._send(head + body)
        self.sent = len(body)
        self._finished = True

    async def start_response(self, status: int, headers: HeaderList, *, length: int | None) -> None:
        """Send the head at once."""
        await self._send(self._start(status, headers, length))

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body.  Raises ClientGone; ValueError when it exceeds the announced length."""
        if self._bodiless or not chunk:
            return
        if self._left is not None:
            if len(chunk) > self._left:
                self.abort()
                raise ValueError("the body is longer than announced")
            self._left -= len(chunk)
        self.sent += len(chunk)
        await self._send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    async def finish(self) -> None:
        """End the body; a body that is shorter than announced breaks the connection off."""
        if self._left and not self._bodiless:
            self.abort()
            raise ValueError("the body is shorter than announced")
        if self._chunked:
            await self._send(b"0\r\n\r\n")
        self._finished = True

    def abort(self) -> None:
        """Break the connection off, so that the client sees the answer as truncated."""
        self._aborted = True
        if self.status >= 200 and not self._finished and not self._chunked and self._left is None:
            self._line.reset()  # such a body ends with the connection: an orderly end would make it look whole
        self._line.abort()

    def _start(self, status: int, headers: HeaderList, length: int | None) -> bytes:
        if self.status:
            raise RuntimeError("an exchange is answered once")
        self.status = status
        self._bodiless = self._request.method == "HEAD" or status in (204, 304) or status < 200
        framing = self._framing(status, length)
        # Unread octets of a request body, and whatever follows a declined Upgrade, must never become a request.
        self._keep_alive = (
            self._keep_alive
            and not self.suspect
            and not self._closing()
            and self._request.keep_alive
            and self._request.content.is_eof()
            and not self._request._message.upgrade
        )
        return serialise(status, headers, framing + self._persistence())

    def _framing(self, status: int, length: int | None) -> bytes:
        self._keep_alive = True
        if self._bodiless:
            return b"" if length is None or status == 204 or status < 200 else _sized(length)
        if length is not None:
            self._left = length
            return _sized(length)
        if self._request.version >= (1, 1):
            self._chunked = True
            return b"Transfer-Encoding: chunked\r\n"
        self._keep_alive = False  # HTTP/1.0 knows the end of such a body by the close alone
        return b""

    def _persistence(self) -> bytes:
        if not self._keep_alive:
            return _CLOSE
        return b"" if self._request.version >= (1, 1) else b"Connection: keep-alive\r\n"

    async def _send(self, data: bytes) -> None:
        transport = self._line.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        transport.write(data)
        if self._line.writing_paused:
            await self._room()

    async def _room(self) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._request.writer.drain()
        except TimeoutError:
            self.abort()
            raise ClientGone("the client reads nothing") from None
        except ConnectionError:
            raise ClientGone("the client closed the connection") from None


def _sized(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


class AioExchange(Reply):
    """``model.Exchange`` over aiohttp.  ``received`` counts octets of the request body."""

    info: RequestInfo  # set by the door once the request is described, before anybody else sees the exchange

    def __init__(
        self, request: web.BaseRequest, *, closing: Callable[[], bool], departure: Departure | None = None
    ) -> None:
        super().__init__(request, closing=closing)
        self.departure: Final = departure or Departure()
        self.received = 0
        self.tunnelled: AioTunnel | None = None

    @property
    def body_length(self) -> int | None:
        """Content-Length; 0 without a body; None for a chunked one."""
        if self._request._message.chunked:
            return None
        return int(self._request.headers.get("Content-Length", "0"))

    async def body(self) -> AsyncIterator[bytes]:
        """The request body.  Raises ClientGone, and BadRequest ``malformed_body`` when the chunks cannot be read."""
        await self._continue()
        while piece := await self._piece():
            self.received += len(piece)
            yield piece

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._request.content.readany()
        except TimeoutError:
            self.abort()
            raise ClientGone("the client stopped sending its body") from None
        except RequestPayloadError:
            raise BadRequest("malformed_body", "The body of the request cannot be read.") from None
        except (OSError, web.PayloadAccessError):
            raise ClientGone("the client closed the connection") from None

    async def _continue(self) -> None:
        # RFC 9110 section 10.1.1: only now, after the decision, is the body asked for; HTTP/1.0 never waits.
        waits = self._request.headers.get("Expect", "").lower() == "100-continue"
        if waits and not self.status and self._request.version >= (1, 1) and not self._request.content.is_eof():
            await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def tunnel(self, status: int, headers: HeaderList) -> AioTunnel:
        """Send the 101 head and give the raw connection.

        Raises ClientGone, after breaking the connection off, when bytes came before the 101 (CVE-2025-64763).
        """
        tap = self._line.tap
        if tap is None or tap.early:
            self.abort()
            raise ClientGone("the client spoke before the protocol was switched")
        if self.status:
            raise RuntimeError("an exchange is answered once")
        self.status = status
        upgrade = b"".join(b"Upgrade: %s\r\n" % value for name, value in headers if name.lower() == b"upgrade")
        tap.open = True
        self._line.limit_stall(0)  # a reader may pause for long in a tunnel; backpressure bounds what is held
        await self._send(serialise(status, headers, b"Connection: Upgrade\r\n" + upgrade))
        self.tunnelled = AioTunnel(self, tap)
        return self.tunnelled

    def __repr__(self) -> str:
        return f"<AioExchange {self.status or 'unanswered'}, {self.received} in, {self.sent} out>"


class AioTunnel:
    """``model.Tunnel``: the client's side after the 101."""

    def __init__(self, exchange: AioExchange, tap: Tap) -> None:
        self._exchange: Final = exchange
        self._tap: Final = tap

    async def read(self) -> bytes:
        """The next bytes; empty when the client sends no more.  Raises ClientGone when its connection is lost."""
        data = await self._tap.read()
        if not data and self._exchange.gone:
            raise ClientGone("the client closed the connection")
        self._exchange.received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes, with backpressure.  Raises ClientGone."""
        line = self._exchange._line
        if line.transport is None or line.transport.is_closing():
            raise ClientGone("the client closed the connection")
        line.transport.write(data)
        self._exchange.sent += len(data)
        if line.writing_paused:
            await self._drained()

    async def _drained(self) -> None:
        try:
            await self._exchange._request.writer.drain()
        except ConnectionError:
            raise ClientGone("the client closed the connection") from None

    def write_eof(self) -> None:
        """Send no more; the client may."""
        transport = self._exchange._line.transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def close(self) -> None:
        """Close the connection after what was written."""
        transport = self._exchange._line.transport
        if transport is not None:
            transport.close()

    @property
    def held(self) -> int:
        """Octets that were written and are still here."""
        return held(self._exchange._line.transport)

    def on_leave(self, callback: Callable[[float], object]) -> Callable[[], None]:
        """Call ``callback`` with the deadline when the door drains (model.Tunnel)."""
        return self._exchange.departure.on_begin(callback)

    def __repr__(self) -> str:
        return f"<AioTunnel {self._tap!r}>"
