"""Deliver a request that was decided, and stream back the answer.

Framing is made anew on both sides and never copied (RFC 9112 section 6).  What fails before the head of the answer is
a ``Refusal``; what fails after it breaks the client's connection off, so that half an answer never looks whole.  The
room knows nothing of callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Final, cast

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from authproxy.errors import BadRequest, ClientGone, NotAuthenticated, Refusal
from authproxy.model import Exchange, HeaderList, Lifetime, UpstreamRequest
from authproxy.transport import abort
from authproxy.upstream.head import (
    Delivered,
    Head,
    ResponseHeaders,
    bad_response,
    judged,
    timed_out,
    tls_failed,
    unreachable,
)
from authproxy.upstream.pool import CONNECT_SECONDS, Pool, Pools
from authproxy.upstream.term import Term
from authproxy.upstream.tunnel import carry

__all__ = ["Delivered", "ResponseHeaders", "deliver"]

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FRAMING: Final = frozenset({
    b"connection", b"content-length", b"expect", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
})  # fmt: skip


async def deliver(
    exchange: Exchange,
    request: UpstreamRequest,
    *,
    pools: Pools,
    response_headers: ResponseHeaders,
    lifetime: Lifetime | None,
    clock: Callable[[], float] = time.time,
) -> Delivered:
    """Send ``request`` with the body of ``exchange``, and answer the exchange with what the upstream says.

    Before the head of an answer: raises UpstreamFailed (``upstream_unreachable``, ``upstream_tls``,
    ``upstream_bad_response``), UpstreamTimeout, BadRequest for a body or header that cannot be sent, ClientGone; the
    exchange is then still unanswered.  After it: ClientGone, or a ``Delivered`` that is not complete, with the
    client's connection broken off.  ``lifetime`` bounds a tunnel, where ``request.upgrade`` asks for one, and a
    response that is still under way when it ends; one that had not begun by then is NotAuthenticated.
    """
    pool = pools.of(request.upstream)
    if request.upgrade:
        return await carry(
            exchange, request, pool=pool, response_headers=response_headers, lifetime=lifetime, clock=clock
        )
    delivery = _Delivery(exchange, request, pool, Term(lifetime, clock) if lifetime is not None else None)
    response = await delivery.answered()
    return await delivery.relayed(response, response_headers)


class _Patience:
    """The wait for a response head, counted from the last sign of life of the upstream."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        self.clock: Final = asyncio.timeout(seconds)

    def waiting_for_client(self) -> None:
        self._set(None)

    def waiting_for_upstream(self) -> None:
        self._set(asyncio.get_running_loop().time() + self._seconds)

    def _set(self, when: float | None) -> None:
        with contextlib.suppress(RuntimeError):  # the head came, or the wait is over: nothing is left to be bounded
            self.clock.reschedule(when)


class _Delivery:
    """One request on its way.  ``spoiled`` is why the request body could not be sent whole."""

    def __init__(self, exchange: Exchange, request: UpstreamRequest, pool: Pool, term: Term | None) -> None:
        self._exchange: Final = exchange
        self._term: Final = term
        self._request: Final = request
        self._pool: Final = pool
        self._length: Final = exchange.body_length
        self._headers: Final = _headers(request.headers, self._length)
        self._timeout: Final = request.upstream.timeout
        self.received = 0
        self.sent = 0
        self.spoiled: Exception | None = None

    async def answered(self) -> aiohttp.ClientResponse:
        """The response head, from the first base URL that can be connected to."""
        failure: Refusal = unreachable("no address")
        for url in self._pool.candidates():
            try:
                response = await self._asked(url)
            except aiohttp.ClientConnectorError as error:
                failure = _unconnected(error)
            except aiohttp.ConnectionTimeoutError:
                failure = timed_out("no connection in time")
            else:
                self._pool.recovered(url)
                return response
            self._pool.rest(url)
        raise failure

    async def _asked(self, url: URL) -> aiohttp.ClientResponse:
        attempt = SimpleNamespace(reused=False)
        try:
            return await self._asked_once(url, attempt)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not (attempt.reused and self._may_repeat(error)):
                raise self._failure(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure(error) from error
        try:
            return await self._asked_once(url, attempt)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure(error) from error

    async def _asked_once(self, url: URL, attempt: SimpleNamespace) -> aiohttp.ClientResponse:
        patience = _Patience(self._timeout)
        async with patience.clock:
            return await self._pool.session.request(
                self._request.method,
                # The whole target as "path": yarl would drop an empty query, and must not touch anything else.
                URL.build(
                    scheme=url.scheme, host=url.host or "", port=url.port, path=self._request.target, encoded=True
                ),
                headers=self._headers,
                data=None if self._length == 0 else self._pieces(patience),
                allow_redirects=False,
                server_hostname=self._pool.server_name,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=min(CONNECT_SECONDS, self._timeout), sock_read=self._timeout
                ),
                trace_request_ctx=attempt,
            )

    async def _pieces(self, patience: _Patience) -> AsyncIterator[bytes]:
        """The request body.  Whatever goes wrong with it is kept, and raised so that the upstream request breaks."""
        try:
            patience.waiting_for_client()
            async for piece in self._exchange.body():
                self._count(len(piece))
                patience.waiting_for_upstream()
                yield piece
                patience.waiting_for_client()
            self._count(0, last=True)
            patience.waiting_for_upstream()
        except Exception as error:
            self.spoiled = error
            raise

    def _count(self, size: int, *, last: bool = False) -> None:
        self.received += size
        if self._length is not None and (self.received > self._length or (last and self.received < self._length)):
            raise ClientGone("the request body has not the announced length")

    def _may_repeat(self, error: Exception) -> bool:
        # RFC 9112 section 9.3.1: the connection was kept alive and closed before it answered anything.
        unanswered = not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)
        return unanswered and self._length == 0 and self._request.method in _REPEATABLE

    def _failure(self, error: Exception) -> Exception:
        if self.spoiled is not None:
            return self.spoiled
        if isinstance(error, TimeoutError):
            return timed_out("no answer in time")
        return bad_response(f"{type(error).__name__} before the response head")

    async def relayed(self, response: aiohttp.ClientResponse, response_headers: ResponseHeaders) -> Delivered:
        """Stream ``response`` to the client; the upstream's connection is kept only when everything went well."""
        head = _judged(response)
        whole = False
        try:
            if self._term is not None and self._term.over:
                raise _ended()
            headers = response_headers(head.status, head.headers)
            await self._exchange.start_response(head.status, headers, length=head.length)
            term = None if response.content.is_eof() else self._term  # what is here already is not worth watching
            whole = await self._watched(response, term) if term is not None else await self._streamed(response, None)
        finally:
            if not whole:
                response.close()
        return Delivered(head.status, self.received, self.sent, whole)

    async def _watched(self, response: aiohttp.ClientResponse, term: Term) -> bool:
        term.watch(lambda: self._cut(response))
        try:
            return await self._streamed(response, term)
        finally:
            term.release()

    def _cut(self, response: aiohttp.ClientResponse) -> None:
        """Wake whoever waits: for the upstream, and for a client that reads nothing."""
        response.close()
        self._exchange.abort()

    async def _streamed(self, response: aiohttp.ClientResponse, term: Term | None) -> bool:
        try:
            async for piece in response.content.iter_any():
                if term is not None and term.over:
                    self._exchange.abort()
                    return False
                await self._exchange.write(piece)
                self.sent += len(piece)
            await self._exchange.finish()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._exchange.abort()  # never the terminating chunk: the client must see that something is missing
            return False
        return True


def _ended() -> Refusal:
    return NotAuthenticated(
        "not_signed_in", "You are not signed in.", reason="the session ended before the application answered"
    )


def _judged(response: aiohttp.ClientResponse) -> Head:
    version = cast("aiohttp.HttpVersion", response.version)
    try:
        return judged(response.status, (version.major, version.minor), response.raw_headers)
    except Refusal:
        _discard(response)
        raise


def _discard(response: aiohttp.ClientResponse) -> None:
    """Close the connection of a response that is nonsense, even when its end has given it back to the pool."""
    protocol = response._protocol
    response.close()
    if protocol is not None:
        abort(protocol.transport)


def _headers(lines: HeaderList, length: int | None) -> CIMultiDict[str]:
    """Header lines for aiohttp, which drops duplicates of mixed case and octets that are not UTF-8."""
    headers: CIMultiDict[str] = CIMultiDict()
    spelling: dict[bytes, str] = {b"host": "Host"}
    for name, value in lines:
        folded = name.lower()
        if folded not in _FRAMING:
            headers.add(spelling.setdefault(folded, name.decode("ascii")), _text(value))
    if length:
        headers["Content-Length"] = str(length)
    return headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest("bad_header", "A header value is not UTF-8 text.") from None


def _unconnected(error: aiohttp.ClientConnectorError) -> Refusal:
    if isinstance(error, aiohttp.ClientSSLError):
        return tls_failed(type(error).__name__)
    return unreachable(error.os_error.strerror or type(error.os_error).__name__)
