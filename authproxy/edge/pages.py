"""Our own pages: an aiohttp application that is handed one exchange at a time, parsed and checked by the front door.

aiohttp's server and its parser take no part: a request is made from the head and the body that were read already, and
what the application writes goes out by the exchange.  aiohttp's routing, which matches decoded paths, is believed only
where the path is the very one that was received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, Final, cast

from aiohttp import HttpVersion, StreamReader, web, web_app
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from authproxy.edge.exchange import ClientExchange
from authproxy.errors import BadRequest, ContentTooLarge, MethodNotAllowed, NotFound, Refusal, Unavailable
from authproxy.exchange import Exchange
from authproxy.model import HeaderList, RequestInfo

PAGE_SECONDS: Final = 60.0  # for one of our pages, with reading its body and asking a provider
CLOSE_SECONDS: Final = 1.0
BODY_LIMIT: Final = 1024 * 1024  # octets; no form of ours is larger

INFO: Final = web.RequestKey("info", RequestInfo)

_log = logging.getLogger("authproxy")
_ABSENT: Final = NotFound("no_such_page", "There is no such page.")
_NOT_FOR_PAGES: Final = frozenset({b"expect", b"upgrade", b"connection", b"transfer-encoding", b"content-length"})


def info_of(request: web.BaseRequest) -> RequestInfo:
    """What is true about the request of one of our pages; nothing else of ``request`` may be believed."""
    return request[INFO]


class Pages:
    """One application in use."""

    def __init__(self, application: web.Application) -> None:
        self._runner: Final = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._application: Final = application

    async def setup(self) -> None:
        """Start the application."""
        await self._runner.setup()

    async def cleanup(self) -> None:
        """Stop it."""
        await self._runner.cleanup()

    @staticmethod
    def forget() -> None:
        """Let go of what was served before.

        aiohttp remembers up to 1024 page handlers as long as the process lives, and with each of them all that its
        application holds.
        """
        web_app._cached_build_middleware.cache_clear()

    async def serve(self, exchange: ClientExchange) -> None:
        """Answer the exchange with the page that it asks for.  Raises Refusal where there is none, and ClientGone."""
        await in_time(self._serve(exchange))

    async def _serve(self, exchange: ClientExchange) -> None:
        request = _request(exchange, b"")
        found = await self._application.router.resolve(request)
        refusal = found.http_exception
        if request.path != exchange.info.raw_path or isinstance(refusal, web.HTTPNotFound):
            raise _ABSENT
        if refusal is not None:
            raise _refusal_of(refusal)
        if exchange.body_length != 0:
            request = _request(exchange, await whole_body(exchange))
        request[INFO] = exchange.info
        try:
            response = await cast("web.Server", self._runner.server).request_handler(request)
        except web.HTTPException as found_so:
            if found_so.status >= 400:
                raise _refusal_of(found_so) from None
            response = found_so
        await response.prepare(request)
        await response.write_eof()


async def in_time(work: Awaitable[None]) -> None:
    """Await what answers with one of our pages.  Raises Unavailable ``page_timeout`` where that takes too long."""
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            await work
    except TimeoutError:
        raise Unavailable("page_timeout", "This took too long. Please try again.") from None


async def whole_body(exchange: Exchange) -> bytes:
    """The body of a request for one of our pages.

    Raises ContentTooLarge ``body_too_large``, BadRequest ``malformed_body``, ClientGone.
    """
    if exchange.body_length is not None and exchange.body_length > BODY_LIMIT:
        raise _body_too_large()
    pieces, octets = [], 0
    async for piece in exchange.body():
        pieces.append(piece)
        octets += len(piece)
        if octets > BODY_LIMIT:
            raise _body_too_large()
    return b"".join(pieces)


def _body_too_large() -> Refusal:
    return ContentTooLarge("body_too_large", "The body of the request is too large.")


def _refusal_of(found: web.HTTPException) -> Refusal:
    if isinstance(found, web.HTTPMethodNotAllowed):
        allow = tuple(sorted(found.allowed_methods))
        return MethodNotAllowed("method_not_allowed", "This page does not serve that method.", allow=allow)
    if isinstance(found, web.HTTPRequestEntityTooLarge):
        return _body_too_large()
    if found.status < 500:
        return BadRequest("bad_request", "The request cannot be understood.", reason=type(found).__name__)
    return Unavailable("internal_error", "Something went wrong on our side.")


class _Carrier(BaseProtocol):
    """What aiohttp takes for the connection of a request.  It has none of its own."""

    ssl_context = None
    peername = None
    sockname = None


def _request(exchange: ClientExchange, body: bytes) -> web.Request:
    loop = asyncio.get_running_loop()
    carrier = _Carrier(loop)
    carrier.transport = exchange.connection.transport
    payload = StreamReader(carrier, BODY_LIMIT, loop=loop)  # which holds the whole body without asking for a pause
    if body:
        payload.feed_data(body)
    payload.feed_eof()
    task = asyncio.current_task(loop)
    return web.Request(
        _message(exchange, len(body)), payload, cast("Any", carrier), _Writer(exchange), cast("Any", task), loop,
        client_max_size=BODY_LIMIT,
    )  # fmt: skip


def _message(exchange: ClientExchange, length: int) -> RawRequestMessage:
    lines = _lines(exchange.head.headers.lines, length)
    headers = CIMultiDict((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in lines)
    target = exchange.info.target
    return RawRequestMessage(
        exchange.head.method, target, HttpVersion(*exchange.head.version), CIMultiDictProxy(headers), lines,
        should_close=False, compression=None, upgrade=False, chunked=False, url=URL.build(path="/", encoded=True)
        if not target.startswith("/") else URL.build(path=exchange.info.raw_path, query_string=exchange.info.query,
        encoded=True),
    )  # fmt: skip


def _lines(lines: HeaderList, length: int) -> HeaderList:
    """Without framing: the body is here already, and was asked for where the client waited."""
    kept = tuple(line for line in lines if line[0].lower() not in _NOT_FOR_PAGES)
    return (*kept, (b"Content-Length", b"%d" % length)) if length else kept


class _Writer(AbstractStreamWriter):
    """What aiohttp writes a response with."""

    def __init__(self, exchange: ClientExchange) -> None:
        self._exchange: Final = exchange
        self.length: int | None = None

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """The head; framing, persistence and the banner are not aiohttp's to say."""
        status, length = int(status_line.split(" ", 2)[1]), headers.get("Content-Length")
        kept = tuple(_encoded((name, value) for name, value in headers.items() if name.lower() != "server"))
        self._exchange.start_response(status, kept, length=None if length is None else int(length))

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """A piece of the body."""
        self._exchange.write(bytes(chunk))
        await self._exchange.room()

    async def write_eof(self, chunk: bytes = b"") -> None:
        """The last piece."""
        if chunk:
            self._exchange.write(chunk)
        if not self._exchange.complete:
            self._exchange.finish()

    async def drain(self) -> None:
        """Wait for the client."""
        await self._exchange.room()

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Not done here."""
        raise NotImplementedError("pages are not compressed")

    def enable_chunking(self) -> None:
        """The exchange knows by itself."""


def _encoded(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[bytes, bytes]]:
    return ((name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in headers)
