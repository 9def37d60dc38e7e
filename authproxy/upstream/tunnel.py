"""An Upgrade, carried out on a connection of its own: bytes both ways after 101, cut when the identity ends.

Frames are not looked at: ping, close and compression stay between the two ends.  The upstream connection never goes to
a pool, and nothing but a 101 for the asked protocol opens the tunnel (CVE-2024-23326).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

from yarl import URL

from authproxy.errors import BadRequest, Refusal
from authproxy.model import Exchange, HeaderList, Lifetime, Tunnel, UpstreamRequest
from authproxy.transport import abort
from authproxy.upstream.dedicated import HEAD_LIMIT, body, final_head
from authproxy.upstream.head import (
    Delivered,
    Head,
    ResponseHeaders,
    bad_response,
    timed_out,
    tls_failed,
    unreachable,
)
from authproxy.upstream.pool import CONNECT_SECONDS, Pool

HALF_OPEN_SECONDS: Final = 60.0  # without a byte, after one side has said that it sends no more
_PIECE: Final = 64 * 1024
_NAP_SECONDS: Final = 60.0  # how long a moved clock can go unnoticed
_HOP: Final = frozenset({
    b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-connection", b"transfer-encoding",
    b"upgrade",
})  # fmt: skip
_SIZED: Final = frozenset({"POST", "PUT", "PATCH"})


async def carry(
    exchange: Exchange,
    request: UpstreamRequest,
    *,
    pool: Pool,
    response_headers: ResponseHeaders,
    lifetime: Lifetime | None,
    clock: Callable[[], float] = time.time,
) -> Delivered:
    """Ask the upstream to switch protocols; tunnel on 101, relay any other answer as it is.

    Raises as ``forward.deliver``; BadRequest ``upgrade_with_body`` when the request has a body.
    """
    if exchange.body_length != 0:
        raise BadRequest("upgrade_with_body", "A request that switches protocols cannot have a body.")
    reader, writer = await _connected(pool, min(CONNECT_SECONDS, request.upstream.timeout))
    try:
        head = await _asked(reader, writer, request)
        if head.status != 101:
            return await _relay(exchange, reader, head, response_headers, request)
        passage = _Passage(
            await exchange.tunnel(101, _switched(head, request, response_headers)), exchange, reader, writer
        )
        await passage.open_until(lifetime, clock)
        return Delivered(101, passage.received, passage.sent)
    finally:
        writer.close()


async def _connected(pool: Pool, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure: Refusal = unreachable("no address")
    for url in pool.candidates():
        try:
            async with asyncio.timeout(seconds):
                opened = await _opened(pool, url)
        except ssl.SSLError as error:
            failure = tls_failed(type(error).__name__)
        except TimeoutError:
            failure = timed_out("no connection in time")
        except OSError as error:
            failure = unreachable(error.strerror or type(error).__name__)
        else:
            pool.recovered(url)
            return opened
        pool.rest(url)
    raise failure


async def _opened(pool: Pool, url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure = url.scheme == "https"
    return await asyncio.open_connection(
        url.host,
        url.port,
        ssl=pool.tls if secure else None,
        server_hostname=(pool.server_name or url.host) if secure else None,
        limit=HEAD_LIMIT,
    )


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: UpstreamRequest) -> Head:
    try:
        async with asyncio.timeout(request.upstream.timeout):
            writer.write(_request_head(request))
            await writer.drain()
            return await final_head(reader)
    except TimeoutError:
        raise timed_out("no answer in time") from None
    except (asyncio.IncompleteReadError, OSError):
        raise bad_response("the connection closed before a whole response head") from None
    except asyncio.LimitOverrunError:
        raise bad_response("a response head that is too long") from None


def _request_head(request: UpstreamRequest) -> bytes:
    hosts = [value for name, value in request.headers if name.lower() == b"host"]
    host = hosts[0] if hosts else (URL(request.upstream.urls[0]).host_port_subcomponent or "").encode("ascii")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.target.encode("ascii")), b"Host: " + host]
    lines += [name + b": " + value for name, value in request.headers if name.lower() not in _HOP]
    if request.method in _SIZED:
        lines.append(b"Content-Length: 0")
    lines += [b"Connection: Upgrade", b"Upgrade: " + request.upgrade.encode("ascii")]
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise BadRequest("bad_header", "A header value cannot be forwarded.")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _switched(head: Head, request: UpstreamRequest, response_headers: ResponseHeaders) -> HeaderList:
    """The headers of a 101 for the protocol that was asked for, which is said again as it is hop-by-hop."""
    asked = request.upgrade.encode("ascii")
    answered = [value.lower() for name, value in head.headers if name.lower() == b"upgrade"]
    if answered != [asked.lower()]:
        raise bad_response("switched to a protocol that was not asked for")
    kept = [line for line in response_headers(101, head.headers) if line[0].lower() != b"upgrade"]
    return (*kept, (b"Upgrade", asked))


async def _relay(
    exchange: Exchange,
    reader: asyncio.StreamReader,
    head: Head,
    response_headers: ResponseHeaders,
    request: UpstreamRequest,
) -> Delivered:
    headers = response_headers(head.status, head.headers)
    await exchange.start_response(head.status, headers, length=head.length)
    sent = 0
    try:
        async for piece in body(reader, head, request.method, request.upstream.timeout):
            await exchange.write(piece)
            sent += len(piece)
        await exchange.finish()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError, ValueError):
        exchange.abort()
        return Delivered(head.status, 0, sent, complete=False)
    return Delivered(head.status, 0, sent)


class _Passage:
    """Bytes both ways.  ``received`` and ``sent`` count octets from and to the client."""

    def __init__(
        self, client: Tunnel, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._client: Final = client
        self._exchange: Final = exchange
        self._reader: Final = reader
        self._writer: Final = writer
        self.received = 0
        self.sent = 0

    async def open_until(self, lifetime: Lifetime | None, clock: Callable[[], float]) -> None:
        """Copy until both directions have ended, or the lifetime has."""
        loop = asyncio.get_running_loop()
        up, down = loop.create_task(self._up()), loop.create_task(self._down())
        end = loop.create_task(_ended(lifetime, clock))
        try:
            clean = await self._both(up, down, end)
        except asyncio.CancelledError:
            clean = False
            raise
        finally:
            for task in (up, down, end):
                task.cancel()
            await asyncio.gather(up, down, end, return_exceptions=True)
            self._close(clean=clean, at_once=end.done() and not end.cancelled())

    async def _both(self, up: asyncio.Task[None], down: asyncio.Task[None], end: asyncio.Task[None]) -> bool:
        """True when both sides ended by themselves.  After one has, the other may go on as long as it sends."""
        patience = None
        while not (up.done() and down.done()):
            before = self.received + self.sent
            running = {task for task in (up, down, end) if not task.done()}
            await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if end.done() or _failed(up) or _failed(down):
                return False
            if patience is not None and before == self.received + self.sent:
                return False
            patience = HALF_OPEN_SECONDS
        return True

    def _close(self, *, clean: bool, at_once: bool) -> None:
        if clean:
            self._client.close()
        else:
            self._exchange.abort()
        if at_once:  # nothing that was held back reaches anybody after the identity's end
            abort(self._writer.transport)

    async def _up(self) -> None:
        while data := await self._client.read():
            self._writer.write(data)
            self.received += len(data)
            await self._writer.drain()
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _down(self) -> None:
        while data := await self._reader.read(_PIECE):
            await self._client.write(data)
            self.sent += len(data)
        self._client.write_eof()

    def __repr__(self) -> str:
        return f"<_Passage {self.received} in, {self.sent} out>"


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _ended(lifetime: Lifetime | None, clock: Callable[[], float]) -> None:
    """Return when the identity ends.  Its end may be moved while we wait, so that it is read again."""
    over = asyncio.Event()
    if lifetime is None:
        await over.wait()
        return
    forget = lifetime.on_end(over.set)
    try:
        while (ends_at := lifetime.ends_at) is None or ends_at > clock():
            left = None if ends_at is None else min(ends_at - clock(), _NAP_SECONDS)
            try:
                async with asyncio.timeout(left):
                    await over.wait()
            except TimeoutError:
                continue
            return
    finally:
        forget()
