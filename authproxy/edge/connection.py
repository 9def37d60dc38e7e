"""The front door: a listener that is strict about the wire and knows three destinations.

A request is described once.  Our own pages are aiohttp handlers; everything else becomes an ``Exchange``; a ``Refusal``
is worded by the caller's ``refused``.  aiohttp's routing, which matches decoded paths, is believed only where the
path is the very one that was received.  The room decides nothing about callers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

from aiohttp import web, web_app

from authproxy.edge.departure import Departure
from authproxy.edge.exchange import AioExchange
from authproxy.edge.request_info import Raw
from authproxy.edge.sockets import bound, spelled
from authproxy.edge.wire import ClientConnection, Connections, require_strict_parser
from authproxy.errors import (
    BadRequest,
    ClientGone,
    ContentTooLarge,
    ExpectationFailed,
    MethodNotAllowed,
    NotFound,
    NotImplementedHere,
    Refusal,
    Unavailable,
)
from authproxy.model import Answer, Exchange, Headers, RequestInfo

PAGE_SECONDS: Final = 60.0  # for one of our pages, with reading its body and asking a provider
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0

INFO: Final = web.RequestKey("info", RequestInfo)

_log = logging.getLogger("authproxy")
_ABSENT: Final = NotFound("no_such_page", "There is no such page.")
_BROKEN: Final = Answer(500)


def info_of(request: web.BaseRequest) -> RequestInfo:
    """What is true about the request of one of our pages; nothing else of ``request`` may be believed."""
    return request[INFO]


class Behind(NamedTuple):
    """What a listener leads to."""

    pages: web.Application
    describe: Callable[[Raw], RequestInfo]
    is_ours: Callable[[RequestInfo], bool]
    proxied: Callable[[Exchange], Awaitable[None]]
    refused: Callable[[Refusal, RequestInfo | None, Raw | None], Answer]


class _Rooms:
    """``Behind`` in use, and which exchanges are inside."""

    def __init__(self, behind: Behind) -> None:
        self.behind: Final = behind
        self.runner: Final = web.AppRunner(behind.pages, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self.inside: Final[set[AioExchange]] = set()
        self.empty: Final = asyncio.Event()

    def left(self, exchange: AioExchange) -> None:
        """One exchange less."""
        self.inside.discard(exchange)
        if not self.inside:
            self.empty.set()

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The answer of one of our pages."""
        return await cast("web.Server", self.runner.server).request_handler(request)


class FrontDoor:
    """The public (or decisions) listener: aiohttp's server, strict, with our own application behind it for our pages.

    A client that breaks off ends its exchange: ``proxied`` and page handlers are cancelled (work that must not be
    lost, such as a token rotation, is shielded by its owner).  Raises RuntimeError without the strict HTTP parser.
    """

    def __init__(self, behind: Behind) -> None:
        require_strict_parser()
        self._rooms = self._furnished(behind)
        # What aiohttp makes requests with; of an application of its own, so that connections hold none of ours.
        self._maker: Final = web.AppRunner(web.Application(), access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._connections: Connections | None = None
        self._listening: list[asyncio.AbstractServer] = []
        self._running: set[AioExchange] = set()
        self._one_less: Final = asyncio.Event()
        self._departure: Final = Departure()
        self._draining = False

    async def listen(
        self, address: str, ssl_context: ssl.SSLContext | None = None, *, listener: socket.socket | None = None
    ) -> str:
        """Accept connections on ``host:port`` or ``unix:/path``; returns the real address.  Raises OSError.

        ``listener`` is a socket that listens there already.
        """
        connections = await self._opened()
        listener = listener or bound(address)
        server = await asyncio.get_running_loop().create_server(
            connections,
            sock=listener,
            ssl=ssl_context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if ssl_context else None,
        )
        self._listening.append(server)
        return spelled(listener)

    async def lead_to(self, behind: Behind) -> Callable[[], Awaitable[None]]:
        """From the next request on, lead there.  Requests that are inside go on where they are.

        What is returned waits until the last of them has left, and frees what they used; cancelled, it breaks them off.
        """
        rooms = self._furnished(behind)
        await rooms.runner.setup()
        former, self._rooms = self._rooms, rooms

        async def left() -> None:
            try:
                if former.inside:
                    former.empty.clear()
                    await former.empty.wait()
                await former.runner.cleanup()
            except asyncio.CancelledError:
                _break_off(former.inside)
                raise
            finally:
                # aiohttp remembers up to 1024 page handlers as long as the process lives, and with each of them all
                # that its application holds.
                web_app._cached_build_middleware.cache_clear()

        return left

    def _furnished(self, behind: Behind) -> _Rooms:
        behind.pages.on_response_prepare.append(self._finish_page)
        return _Rooms(behind)

    async def drain(self, seconds: float) -> None:
        """Stop accepting, finish what runs, and close what is left after ``seconds``.

        Answers from now on carry ``Connection: close``; connections that nobody uses are closed at once.  Tunnels are
        asked to go away at once; those that cannot be asked end by themselves, or at the deadline.
        """
        self._draining = True
        self._stop_listening()
        if self._connections is not None:
            self._connections.close_idle()
        self._departure.begin(asyncio.get_running_loop().time() + seconds)
        if not await self._fewer(lambda: not self._running, seconds):
            _log.warning("%d exchanges were still running after %g s", len(self._running), seconds)
            _break_off(self._running)

    async def close(self) -> None:
        """Break off what is left and free everything."""
        self._draining = True
        self._stop_listening()
        if self._connections is not None:
            self._connections.abort_all()
            await self._fewer(lambda: not self._running, CLOSE_SECONDS)
            await self._connections.shutdown(CLOSE_SECONDS)
            self._connections = None
            await self._rooms.runner.cleanup()
            await self._maker.cleanup()

    async def _opened(self) -> Connections:
        if self._connections is None:
            await self._rooms.runner.setup()
            await self._maker.setup()
            factory = cast("web.Server", self._maker.server).request_factory
            self._connections = Connections(self._serve, request_factory=factory, malformed=self._malformed)
        return self._connections

    def _stop_listening(self) -> None:
        for server in self._listening:
            server.close()
        self._listening.clear()

    async def _fewer(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until enough exchanges have ended; False when time is up."""
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._one_less.clear()
                    await self._one_less.wait()
        except TimeoutError:
            return False
        return True

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        line = cast("ClientConnection", request.protocol)
        exchange = AioExchange(request, closing=lambda: self._draining, departure=self._departure)
        line.serving = True
        self._running.add(exchange)
        rooms = self._rooms
        rooms.inside.add(exchange)
        try:
            return await self._dispatched(request, exchange, rooms)
        finally:
            line.serving = False
            rooms.left(exchange)
            self._running.discard(exchange)
            self._one_less.set()

    async def _dispatched(self, request: web.Request, exchange: AioExchange, rooms: _Rooms) -> web.StreamResponse:
        raw, behind = _raw(request), rooms.behind
        info: RequestInfo | None = None
        try:
            _check_wire(raw)
            info = exchange.info = behind.describe(raw)
            exchange.suspect = False
            if behind.is_ours(info):
                return await self._page(request, info, rooms)
            return await self._handed_on(exchange, behind)
        except Refusal as refusal:
            return await self._say(exchange, behind, refusal, info, raw)
        except ClientGone:
            exchange.abort()
            return exchange.written()
        except web.HTTPException as found:
            if found.status < 400:
                raise  # a page's redirect
            return await self._say(exchange, behind, _refusal_of(found), info, raw)
        except Exception:
            _log.exception("request %s failed", info.request_id if info else "without a description")
            return await self._say(exchange, behind, _internal(), info, raw)

    async def _handed_on(self, exchange: AioExchange, behind: Behind) -> web.StreamResponse:
        await behind.proxied(exchange)
        if not exchange.status and not exchange.gone:
            raise RuntimeError("an exchange was left unanswered")
        return exchange.written()

    async def _page(self, request: web.Request, info: RequestInfo, rooms: _Rooms) -> web.StreamResponse:
        found = await rooms.behind.pages.router.resolve(request)
        refusal = found.http_exception
        if request.path != info.raw_path or isinstance(refusal, web.HTTPNotFound):
            raise _ABSENT
        if refusal is not None:
            raise _refusal_of(refusal)
        request[INFO] = info
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                return await rooms.page(request)
        except TimeoutError:
            raise Unavailable("page_timeout", "This took too long. Please try again.") from None
        except web.RequestPayloadError:
            raise BadRequest("malformed_body", "The body of the request cannot be read.") from None

    async def _finish_page(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)  # aiohttp's banner
        if self._draining or not request.content.is_eof() or request._message.upgrade:
            response.headers["Connection"] = "close"
            response.force_close()

    async def _say(
        self, exchange: AioExchange, behind: Behind, refusal: Refusal, info: RequestInfo | None, raw: Raw | None
    ) -> web.StreamResponse:
        if exchange.begun:
            exchange.abort()
            return exchange.written()
        try:
            await exchange.answer(_word(behind, refusal, info, raw))
        except ClientGone:
            exchange.abort()
        return exchange.written()

    async def _malformed(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = AioExchange(request, closing=lambda: True)
        malformed = BadRequest("malformed_request", "This is not a valid request.")
        return await self._say(exchange, self._rooms.behind, malformed, None, None)

    def __repr__(self) -> str:
        state = "draining" if self._draining else "open" if self._listening else "closed"
        return f"<FrontDoor {state}, {len(self._running)} running, {self._connections!r}>"


def _break_off(running: set[AioExchange]) -> None:
    for exchange in list(running):
        if exchange.tunnelled is not None:
            exchange.tunnelled.close()
        else:
            exchange.abort()  # half an answer must not look whole


def _word(behind: Behind, refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> Answer:
    try:
        return behind.refused(refusal, info, raw)
    except Exception:
        _log.exception("a refusal (%s) could not be worded", refusal.code)
        return _BROKEN


def _raw(request: web.BaseRequest) -> Raw:
    message = request._message
    transport = request.transport
    return Raw(
        method=message.method,
        target=message.path.encode("utf-8", "surrogateescape"),
        headers=Headers(message.raw_headers),
        peer=_peer(transport),
        tls=transport is not None and transport.get_extra_info("sslcontext") is not None,
        http_version=(message.version.major, message.version.minor),
        certificate=(transport.get_extra_info("peercert") or None) if transport is not None else None,
    )


def _peer(transport: asyncio.Transport | None) -> str:
    name = transport.get_extra_info("peername") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""


def _check_wire(raw: Raw) -> None:
    """Refuse what the parser lets through and another server could read differently."""
    codings = raw.headers.all(b"transfer-encoding")
    if codings:
        _check_coding(codings, raw)
    expected = raw.headers.all(b"expect")
    if raw.http_version >= (1, 1) and expected and [value.lower() for value in expected] != [b"100-continue"]:
        raise ExpectationFailed("expectation_failed", "Only Expect: 100-continue is understood.")
    for _, value in raw.headers:
        if not _is_text(value):
            raise BadRequest("bad_header", "A header value is not UTF-8 text.")


def _check_coding(codings: tuple[bytes, ...], raw: Raw) -> None:
    # RFC 9112 section 6.1: a faulty Transfer-Encoding, one in HTTP/1.0, and one beside Content-Length may smuggle.
    if raw.http_version < (1, 1) or b"content-length" in raw.headers or len(codings) > 1 or not codings[0]:
        raise BadRequest("ambiguous_framing", "The length of the request body is ambiguous.")
    if codings[0].lower() != b"chunked":
        raise NotImplementedHere("transfer_coding", "The only transfer coding served is chunked.")


def _is_text(value: bytes) -> bool:
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refusal_of(found: web.HTTPException) -> Refusal:
    if isinstance(found, web.HTTPMethodNotAllowed):
        allow = tuple(sorted(found.allowed_methods))
        return MethodNotAllowed("method_not_allowed", "This page does not serve that method.", allow=allow)
    if isinstance(found, web.HTTPRequestEntityTooLarge):
        return ContentTooLarge("body_too_large", "The body of the request is too large.")
    if found.status < 500:
        return BadRequest("bad_request", "The request cannot be understood.", reason=type(found).__name__)
    return _internal()


def _internal() -> Refusal:
    return Unavailable("internal_error", "Something went wrong on our side.")
