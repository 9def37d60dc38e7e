"""The front door: a listener that is strict about the wire and knows three destinations.

A request is described once.  Our own pages are an aiohttp application; everything else becomes an ``Exchange``; a
``Refusal`` is worded by the caller's ``refused``.  What can be answered without waiting is answered in the call that
read it; the rest gets a task.  The room decides nothing about callers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

from aiohttp import web

from authproxy.edge.connections import Bound, Bounds, Connections
from authproxy.edge.departure import Departure
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.handshakes import Handshakes
from authproxy.edge.pages import CLOSE_SECONDS, Pages, info_of
from authproxy.edge.request_info import Raw
from authproxy.edge.sockets import BACKLOG, bound, spelled
from authproxy.errors import BadRequest, ClientGone, ExpectationFailed, NotImplementedHere, Refusal, Unavailable
from authproxy.exchange import Exchange
from authproxy.model import Answer, RequestInfo

__all__ = ["Behind", "FrontDoor", "info_of"]

_log = logging.getLogger("authproxy")
_BROKEN: Final = Answer(500)
_CHECKED: Final = object()


Served = Callable[[Exchange], Awaitable[None] | None]


class Behind(NamedTuple):
    """What a listener leads to.  ``proxied`` and ``asked`` return what still has to be awaited, or None.

    ``asked`` answers the paths of ours that are no pages (``asked_at``): the questions of an ingress.  ``crowded`` is
    told of each connection beyond ``bounds``, and returns what such a client is answered.
    """

    pages: web.Application
    describe: Callable[[Raw], RequestInfo]
    is_ours: Callable[[RequestInfo], bool]
    proxied: Served
    refused: Callable[[Refusal, RequestInfo | None, Raw | None], Answer]
    bounds: Bounds
    crowded: Callable[[Bound], Answer]
    asked: Served | None = None
    asked_at: frozenset[str] = frozenset()


class _Rooms:
    """``Behind`` in use, and which exchanges are inside."""

    def __init__(self, behind: Behind) -> None:
        self.behind: Final = behind
        self.pages: Final = Pages(behind.pages)
        self._asked: Final = behind.asked
        self._asked_at: Final = behind.asked_at
        self.inside: Final[set[ClientExchange]] = set()

    def ours(self, exchange: ClientExchange) -> Awaitable[None] | None:
        """Answer with what is ours: a page, or what an ingress asks for."""
        asked = self._asked
        if asked is not None and exchange.info.raw_path in self._asked_at:
            return asked(exchange)
        return self.pages.serve(exchange)


class FrontDoor:
    """The public (or decisions) listener.

    A client that breaks off ends its exchange: what serves it is told, or cancelled (work that must not be lost, such
    as a token rotation, is shielded by its owner).
    """

    def __init__(self, behind: Behind) -> None:
        self._rooms = _Rooms(behind)
        self._connections: Connections | None = None
        self._listening: list[asyncio.AbstractServer | Handshakes] = []
        self._handshakes: Final[list[Handshakes]] = []
        self._former: Final[list[_Rooms]] = []  # that somebody may still be inside of
        self._one_less: Final = asyncio.Event()
        self._counted = 0  # how many wait for that
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
        if ssl_context is None:
            server = await asyncio.get_running_loop().create_server(connections, sock=listener, backlog=BACKLOG)
            self._listening.append(server)
        else:
            self._handshakes.append(Handshakes(listener, ssl_context, connections))
            self._listening.append(self._handshakes[-1])
        return spelled(listener)

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections) if self._connections is not None else 0

    async def lead_to(self, behind: Behind) -> Callable[[], Awaitable[None]]:
        """From the next request on, lead there.  Requests that are inside go on where they are.

        What is returned waits until the last of them has left, and frees what they used; cancelled, it breaks them off.
        """
        rooms = _Rooms(behind)
        await rooms.pages.setup()
        former, self._rooms = self._rooms, rooms
        self._former.append(former)
        if self._connections is not None:
            self._connections.forget()

        async def left() -> None:
            try:
                await self._fewer(lambda: not former.inside, None)
                await former.pages.cleanup()
            except asyncio.CancelledError:
                _break_off(former.inside)
                raise
            finally:
                Pages.forget()
                self._former.remove(former)

        return left

    async def drain(self, seconds: float) -> None:
        """Stop accepting, finish what runs, and close what is left after ``seconds``.

        Answers from now on carry ``Connection: close``; connections that nobody uses are closed at once.  Tunnels are
        asked to go away at once; those that cannot be asked end by themselves, or at the deadline.
        """
        self._depart()
        if self._connections is not None:
            self._connections.close_idle()
        self._departure.begin(asyncio.get_running_loop().time() + seconds)
        if not await self._fewer(self._empty, seconds):
            running = self._running()
            _log.warning("%d exchanges were still running after %g s", len(running), seconds)
            _break_off(running)

    async def close(self) -> None:
        """Break off what is left and free everything."""
        self._depart()
        await asyncio.gather(*(handshakes.end() for handshakes in self._handshakes))
        if self._connections is not None:
            self._connections.abort_all()
            await self._fewer(self._empty, CLOSE_SECONDS)
            for exchange in self._running():
                if exchange.task is not None:
                    exchange.task.cancel()
            await self._fewer(self._empty, CLOSE_SECONDS)
            self._connections = None
            await self._rooms.pages.cleanup()
            Pages.forget()

    async def _opened(self) -> Connections:
        if self._connections is None:
            await self._rooms.pages.setup()
            self._connections = Connections(
                serve=self._serve, unread=self._unread, ended=self._ended, departure=self._departure,
                bounds=lambda: self._rooms.behind.bounds, crowded=lambda by: self._rooms.behind.crowded(by),
            )  # fmt: skip
        return self._connections

    def _depart(self) -> None:
        self._draining = True
        if self._connections is not None:
            self._connections.closing = True
        for server in self._listening:
            server.close()
        self._listening.clear()

    def _running(self) -> set[ClientExchange]:
        """The exchanges under way."""
        return self._rooms.inside.union(*(former.inside for former in self._former))

    def _empty(self) -> bool:
        return not self._running()

    async def _fewer(self, reached: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until enough exchanges have ended; False when time is up."""
        self._counted += 1
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._one_less.clear()
                    await self._one_less.wait()
        except TimeoutError:
            return False
        finally:
            self._counted -= 1
        return True

    # Serving

    def _serve(self, exchange: ClientExchange) -> None:
        """Describe the request and lead it to where it belongs."""
        rooms = exchange.room_of = self._rooms
        rooms.inside.add(exchange)
        behind, raw = rooms.behind, exchange.connection.raw_of(exchange.head)
        try:
            if raw.headers.facts.get(_CHECKED) != raw.http_version:
                _check_wire(raw)
            info = exchange.info = behind.describe(raw)
            exchange.suspect = False
            work = rooms.ours(exchange) if behind.is_ours(info) else behind.proxied(exchange)
        except (Refusal, ClientGone, Exception) as error:
            self._failed(exchange, error, raw)
            return
        if work is not None:
            exchange.task = asyncio.get_running_loop().create_task(self._worked(exchange, work, raw))

    async def _worked(self, exchange: ClientExchange, work: Awaitable[None], raw: Raw) -> None:
        """The task of an exchange that has to wait for something."""
        try:
            await work
            if not (exchange.status or exchange.gone or exchange.attached):
                raise RuntimeError("an exchange was left unanswered")
        except Exception as error:
            self._failed(exchange, error, raw)
        finally:
            exchange.task = None
            if exchange.tunnelled is not None and not exchange.gone:
                exchange.tunnelled.close()
            if exchange.complete or exchange.gone or exchange.tunnelled is not None:
                self._left(exchange)

    def _failed(self, exchange: ClientExchange, error: Exception, raw: Raw) -> None:
        info = getattr(exchange, "info", None)
        if isinstance(error, ClientGone):
            exchange.abort()
        elif isinstance(error, Refusal):
            self._say(exchange, error, info, raw)
        else:
            _log.error("request %s failed", info.request_id if info else "without a description", exc_info=error)
            self._say(exchange, _internal(), info, raw)

    def _say(self, exchange: ClientExchange, refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> None:
        if exchange.status:
            exchange.abort()
            return
        behind = cast("_Rooms", exchange.room_of).behind
        try:
            exchange.answer(_word(behind, refusal, info, raw))
        except ClientGone:
            exchange.abort()

    def _unread(self, exchange: ClientExchange, refusal: Refusal) -> None:
        """What came is not a request."""
        exchange.room_of = self._rooms
        self._say(exchange, refusal, None, None)

    def _ended(self, exchange: ClientExchange) -> None:
        """Its connection has done with it."""
        if exchange.task is None:  # which would see to it
            self._left(exchange)

    def _left(self, exchange: ClientExchange) -> None:
        rooms = exchange.room_of
        if isinstance(rooms, _Rooms):
            rooms.inside.discard(exchange)
        if self._counted:
            self._one_less.set()

    def __repr__(self) -> str:
        state = "draining" if self._draining else "open" if self._listening else "closed"
        return f"<FrontDoor {state}, {len(self._running())} running, {self._connections!r}>"


def _break_off(running: set[ClientExchange]) -> None:
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


def _check_wire(raw: Raw) -> None:
    """Refuse what the parser lets through and another server could read differently."""
    codings = raw.headers.all(b"transfer-encoding")
    if codings:
        _check_coding(codings, raw)
    expected = raw.headers.all(b"expect")
    if raw.http_version >= (1, 1) and expected and [value.lower() for value in expected] != [b"100-continue"]:
        raise ExpectationFailed("expectation_failed", "Only Expect: 100-continue is understood.")
    if not b"".join([value for _, value in raw.headers.lines]).isascii():
        for _, value in raw.headers:
            _check_text(value)
    raw.headers.facts[_CHECKED] = raw.http_version


def _check_coding(codings: tuple[bytes, ...], raw: Raw) -> None:
    # RFC 9112 section 6.1: a faulty Transfer-Encoding, one in HTTP/1.0, and one beside Content-Length may smuggle.
    if raw.http_version < (1, 1) or b"content-length" in raw.headers or len(codings) > 1 or not codings[0]:
        raise BadRequest("ambiguous_framing", "The length of the request body is ambiguous.")
    if codings[0].lower() != b"chunked":
        raise NotImplementedHere("transfer_coding", "The only transfer coding served is chunked.")


def _check_text(value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise BadRequest("bad_header", "A header value is not UTF-8 text.") from None


def _internal() -> Refusal:
    return Unavailable("internal_error", "Something went wrong on our side.")
