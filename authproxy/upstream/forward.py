"""Deliver a request that was decided, and stream back the answer.

Framing is made anew on both sides and never copied (RFC 9112 section 6).  What fails before the head of the answer is
a ``Refusal``; what fails after it breaks the client's connection off, so that half an answer never looks whole.  The
room knows nothing of callers.

A delivery that finds a kept connection needs no task: it is driven by the two connections that it joins.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from authproxy.errors import ClientGone, NotAuthenticated, Refusal
from authproxy.exchange import Exchange, Lifetime
from authproxy.http1.chunks import LAST, chunk
from authproxy.model import UpstreamRequest
from authproxy.upstream import term
from authproxy.upstream.connection import UpstreamConnection
from authproxy.upstream.head import (
    Delivered,
    Head,
    ResponseFields,
    timed_out,
    tls_failed,
    unreachable,
)
from authproxy.upstream.pool import CONNECT_SECONDS, Address, Pools, Watched
from authproxy.upstream.term import Term, has_ended

__all__ = ["Delivered", "Delivery", "ResponseFields", "deliver"]

Done = Callable[["Delivered | Exception"], None]

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SIZED: Final = frozenset({"POST", "PUT", "PATCH"})
_NEVER: Final = float("inf")


async def deliver(
    exchange: Exchange,
    request: UpstreamRequest,
    *,
    pools: Pools,
    response_fields: ResponseFields,
    lifetime: Lifetime | None,
    clock: Callable[[], float] = time.time,
) -> Delivered:
    """``Delivery``, for whoever would rather wait: returns what was delivered, or raises why it could not be."""
    found: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()

    def done(result: Delivered | Exception) -> None:
        if found.done():
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    Delivery(exchange, request, pools, response_fields, lifetime, clock, done).begin()
    return await found


class Delivery(Watched):
    """One request on its way.  It listens to its upstream connection, and is the counterpart of its exchange.

    ``done`` is called once.  With a Refusal the exchange is still unanswered: UpstreamFailed
    (``upstream_unreachable``, ``upstream_tls``, ``upstream_bad_response``), UpstreamTimeout, BadRequest for a body or
    header that cannot be sent, NotAuthenticated when ``lifetime`` ended before the answer began.  With a ``Delivered``
    it is answered, and where that is not complete the client's connection was broken off.  With ClientGone there is
    nobody left.  ``lifetime`` bounds a response that is still under way when it ends.
    """

    __slots__ = (
        "_address", "_clock", "_connecting", "_connection", "_done", "_exchange", "_head", "_lasting", "_lifetime",
        "_over", "_pool", "_pools", "_request", "_response_fields", "_sized", "_spared_until", "_status", "_term",
        "_timeout", "received", "sent",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, request: UpstreamRequest, pools: Pools, response_fields: ResponseFields,
        lifetime: Lifetime | None, clock: Callable[[], float], done: Done,
    ) -> None:  # fmt: skip
        self._exchange: Final = exchange
        self._request: Final = request
        self._pools: Final = pools
        self._pool: Final = pools.of(request.upstream)
        self._response_fields: Final = response_fields
        self._lifetime: Final = lifetime
        self._clock: Final = clock
        self._spared_until: Final = pools.now() + term.SPARED_SECONDS
        self._term: Term | None = None  # once the answer takes its time
        self._done: Final = done
        self._timeout: Final = request.upstream.timeout
        self._sized: Final = exchange.body_length
        self._head = b""
        self._connection: UpstreamConnection | None = None
        self._address: Address | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._status = 0
        self._over = False
        self._lasting = False  # the answer takes its time
        self.deadline = _NEVER
        self.received = 0
        self.sent = 0

    def begin(self) -> None:
        """Send the request, at once where a connection is kept."""
        request = self._request
        line = f"{request.method} {request.target} HTTP/1.1\r\n".encode("ascii")
        self._head = b"".join((line, request.fields, self._framing(), b"\r\n"))
        self._pools.watched.add(self)
        self._exchange.attach(self)
        candidates = self._pool.candidates()
        kept = self._pool.kept(candidates[0])
        if kept is not None:
            self._send(kept, candidates[0])
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(candidates))

    def _framing(self) -> bytes:
        if self._sized is None:
            return b"Transfer-Encoding: chunked\r\n"
        # RFC 9110 section 8.6: a method that anticipates a body says that there is none.
        said = self._sized or self._request.method in _SIZED or b"content-length" in self._exchange.info.headers
        return b"Content-Length: %d\r\n" % self._sized if said else b""

    # Connecting

    async def _connect(self, candidates: tuple[Address, ...]) -> None:
        """The first address that can be connected to.  The body waits: nobody is asked for what nobody can take."""
        failure: Refusal = unreachable("no address")
        for address in candidates:
            kept = self._pool.kept(address)
            if kept is not None:
                self._connecting = None
                self._send(kept, address)
                return
            try:
                async with asyncio.timeout(min(CONNECT_SECONDS, self._timeout)):
                    connection = await self._pool.connect(address)
            except ssl.SSLError as error:
                failure = tls_failed(type(error).__name__)
            except TimeoutError:
                failure = timed_out("no connection in time")
            except OSError as error:
                failure = unreachable(error.strerror or type(error).__name__)
            else:
                self._connecting = None
                self._send(connection, address)
                return
            self._pool.rest(address)
        self._connecting = None
        self._finish(failure)

    def _send(self, connection: UpstreamConnection, address: Address) -> None:
        if self._over:
            connection.let_go()
            return
        self._connection, self._address = connection, address
        connection.ask(self, self._request.method, self._head)
        if self._sized == 0:
            connection.sent_whole = True
            self.deadline = self._pools.now() + self._timeout
        else:
            self._exchange.take_body()

    # The request body (model.Counterpart)

    def body_piece(self, piece: bytes) -> None:
        """Pass it on."""
        connection = self._connection
        if self._over or connection is None:
            return
        self.received += len(piece)
        connection.write(chunk(piece) if self._sized is None else piece)
        if connection.full:
            self._await_upstream()
        elif not self._status:
            self.deadline = _NEVER  # the client's time runs now, which its connection minds

    def body_ended(self) -> None:
        """The upstream has to answer now."""
        connection = self._connection
        if self._over or connection is None or connection.sent_whole:
            return
        if self._sized is None:
            connection.write(LAST)
        connection.sent_whole = True
        self._await_upstream()

    def body_failed(self, error: Exception) -> None:
        """It can never be sent whole, and must not look so."""
        if self._over:
            return
        if self._status:
            self._break_off()
        else:
            self._finish(error)

    def upstream_full(self) -> None:
        """Read no more of the client."""
        self._exchange.hold_body()
        self._await_upstream()

    def upstream_ready(self) -> None:
        """Read on."""
        if not self._status:
            self.deadline = _NEVER
        self._exchange.resume_body()

    def _await_upstream(self) -> None:
        self.deadline = self._pools.now() + self._timeout

    # The answer (upstream.connection.Listener)

    def head(self, head: Head, *, more: bool) -> None:
        """Pass it on, unless the identity has ended meanwhile."""
        if self._address is not None:
            self._pool.recovered(self._address)
        if self._has_ended():
            self._finish(_ended())
            return
        self._status = head.status
        try:
            headers = self._response_fields(head)
            self._exchange.start_response(head.status, headers, length=head.length, more=more)
        except Exception as error:
            self._status = 0
            self._finish(error)

    def whole(self, head: Head, body: bytes | memoryview) -> None:
        """Pass it on in one breath."""
        self._connection = None
        if self._address is not None:
            self._pool.recovered(self._address)
        if self._has_ended():
            self._finish(_ended())
            return
        self._close()
        try:
            headers = self._response_fields(head)
            self._exchange.respond(head.status, headers, length=head.length, body=body)
        except Exception as error:
            self._done(error)
        else:
            self._done(Delivered(head.status, self.received, len(body)))

    def _has_ended(self) -> bool:
        """Whether the identity has, and nothing of the answer may go to the client any more."""
        if self._lifetime is None or self._pools.now() < self._spared_until:
            return False
        return has_ended(self._lifetime, self._clock)

    def piece(self, piece: bytes) -> None:
        """Pass it on."""
        if self._lasting and self._term is not None and self._term.over:
            self._break_off()
            return
        try:
            self._exchange.write(piece)
        except (ClientGone, ValueError):
            self._break_off()
            return
        self.sent += len(piece)
        if self._lasting and self.deadline is not _NEVER:
            self._await_upstream()

    def ended(self) -> None:
        """The answer is whole."""
        if self._over:
            return
        self._connection = None
        try:
            self._close()
            self._exchange.finish()
        except (ClientGone, ValueError):
            self._done(Delivered(self._status, self.received, self.sent, complete=False))
        else:
            self._done(Delivered(self._status, self.received, self.sent))

    def failed(self, refusal: Refusal, *, silent: bool) -> None:
        """Try once more where that is safe; otherwise say it, or break off."""
        connection, self._connection = self._connection, None
        if self._over:
            return
        if self._status:
            self._break_off()
        elif silent and connection is not None and connection.reused and self._may_repeat():
            self._connecting = asyncio.get_running_loop().create_task(self._again())
        else:
            self._finish(refusal)

    def _may_repeat(self) -> bool:
        # RFC 9112 section 9.3.1: the connection was kept alive and closed before it answered anything.
        # RFC 9110 section 9.2.2: only what is safe may be repeated.
        return self._sized == 0 and self._request.method in _REPEATABLE

    async def _again(self) -> None:
        """On a new connection: another kept one may be as stale."""
        address = cast("Address", self._address)
        try:
            async with asyncio.timeout(min(CONNECT_SECONDS, self._timeout)):
                connection = await self._pool.connect(address)
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self._finish(unreachable(getattr(error, "strerror", None) or type(error).__name__))
        else:
            self._connecting = None
            self._send(connection, address)

    # The client

    def client_full(self) -> None:
        """Read no more of the upstream; its time does not run."""
        if self._connection is not None:
            self._connection.hold()
            self.deadline = _NEVER

    def client_ready(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._await_upstream()
            self._connection.resume()

    def client_gone(self) -> None:
        """Nobody is there any more: the upstream request ends, too."""
        if self._over:
            return
        if self._status:
            self._close()
            self._done(Delivered(self._status, self.received, self.sent, complete=False))
        else:
            self._finish(ClientGone("the client closed the connection"))

    # Ends

    def under_way(self) -> None:
        """The answer takes its time: from now on the end of the identity cuts it."""
        if self._over:
            return
        self._lasting = True
        if self.deadline is not _NEVER:
            self._await_upstream()
        if self._lifetime is not None:
            self._term = Term(self._lifetime, self._clock, self._spared_until)
            self._term.watch(self._break_off)

    def expire(self) -> None:
        """The upstream took too long."""
        if self._status:
            self._break_off()
        else:
            self._finish(timed_out("no answer in time"))

    def _break_off(self) -> None:
        """The client must see that something is missing: never the terminating chunk."""
        if self._over:
            return
        self._close()
        self._done(Delivered(self._status, self.received, self.sent, complete=False))
        self._exchange.abort()

    def _finish(self, why: Exception) -> None:
        if not self._over:
            self._close()
            self._done(why)

    def _close(self) -> None:
        self._over = True
        self.deadline = _NEVER
        self._pools.watched.discard(self)
        if self._term is not None:
            self._term.release()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def __repr__(self) -> str:
        return f"<Delivery {self._status or 'unanswered'}, {self.received} in, {self.sent} out>"


def _ended() -> Refusal:
    return NotAuthenticated(
        "not_signed_in", "You are not signed in.", reason="the session ended before the application answered"
    )
