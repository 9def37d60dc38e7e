"""An Upgrade, carried out on a connection of its own: bytes both ways after 101, cut when the identity ends.

Frames are not looked at: ping, close and compression stay between the two ends.  The upstream connection never goes to
a pool, and nothing but a 101 for the asked protocol opens the tunnel (CVE-2024-23326).
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from yarl import URL

from authproxy.errors import BadRequest, Refusal
from authproxy.model import Exchange, Lifetime, Tunnel, UpstreamRequest
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
from authproxy.upstream.pool import CONNECT_SECONDS, Pool

HALF_OPEN_SECONDS: Final = 60.0  # without a byte, after one side has said that it sends no more
_HEAD_LIMIT: Final = 64 * 1024
_LINE_LIMIT: Final = 1024  # of a chunk size with its extensions
_INTERIM_LIMIT: Final = 16
_PIECE: Final = 64 * 1024
_NAP_SECONDS: Final = 60.0  # how long a moved clock can go unnoticed
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r\n")
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
        _check_switch(head, request.upgrade)
        # Hop-by-hop names were taken out by response_headers; the protocol that was agreed is said again.
        headers = (*response_headers(101, head.headers), (b"Upgrade", request.upgrade.encode("ascii")))
        passage = _Passage(await exchange.tunnel(101, headers), exchange, reader, writer)
        await passage.open_until(lifetime, clock)
        return Delivered(101, passage.received, passage.sent)
    finally:
        writer.transport.abort()  # what was to be flushed has been


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
        limit=_HEAD_LIMIT,
    )


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: UpstreamRequest) -> Head:
    try:
        async with asyncio.timeout(request.upstream.timeout):
            writer.write(_request_head(request))
            await writer.drain()
            return await _final_head(reader, request.upgrade)
    except TimeoutError:
        raise timed_out("no answer in time") from None
    except (asyncio.IncompleteReadError, OSError):
        raise bad_response("the connection closed before a whole response head") from None
    except asyncio.LimitOverrunError:
        raise bad_response("a response head that is too long") from None


def _request_head(request: UpstreamRequest) -> bytes:
    hosts = [value for name, value in request.headers if name.lower() == b"host"]
    host = hosts[0] if hosts else URL(request.upstream.urls[0]).host_port_subcomponent.encode("ascii")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.target.encode("ascii")), b"Host: " + host]
    lines += [name + b": " + value for name, value in request.headers if name.lower() not in _HOP]
    if request.method in _SIZED:
        lines.append(b"Content-Length: 0")
    lines += [b"Connection: Upgrade", b"Upgrade: " + request.upgrade.encode("ascii")]
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise BadRequest("bad_header", "A header value cannot be forwarded.")
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _final_head(reader: asyncio.StreamReader, upgrade: str) -> Head:
    for _ in range(_INTERIM_LIMIT):
        head = _parsed(await reader.readuntil(b"\r\n\r\n"), upgrade)
        if head is not None:
            return head
    raise bad_response("too many interim responses")


def _parsed(block: bytes, upgrade: str) -> Head | None:
    """A final head; None for an interim response."""
    first, *lines = block[:-4].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise bad_response("a malformed status line")
    version, status = (1, int(found[1])), int(found[2])
    headers = tuple(_split(line) for line in lines)
    if status == 101:
        judged(200, version, headers)
        return Head(101, headers, None, chunked=False)
    return None if 100 <= status < 200 else judged(status, version, headers)


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise bad_response("a malformed header line")
    return name, value.strip(b" \t")


def _check_switch(head: Head, upgrade: str) -> None:
    answered = [value.lower() for name, value in head.headers if name.lower() == b"upgrade"]
    if answered != [upgrade.lower().encode("ascii")]:
        raise bad_response("switched to a protocol that was not asked for")


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
        async for piece in _body(reader, head, request):
            await exchange.write(piece)
            sent += len(piece)
        await exchange.finish()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError, ValueError):
        exchange.abort()
        return Delivered(head.status, 0, sent, complete=False)
    return Delivered(head.status, 0, sent)


def _body(reader: asyncio.StreamReader, head: Head, request: UpstreamRequest) -> AsyncIterator[bytes]:
    seconds = request.upstream.timeout
    if request.method == "HEAD" or head.status in (204, 304):
        return _exactly(reader, 0, seconds)
    if head.chunked:
        return _chunks(reader, seconds)
    if head.length is not None:
        return _exactly(reader, head.length, seconds)
    return _until_closed(reader, seconds)


async def _exactly(reader: asyncio.StreamReader, length: int, seconds: float) -> AsyncIterator[bytes]:
    while length:
        async with asyncio.timeout(seconds):
            piece = await reader.read(min(length, _PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece


async def _until_closed(reader: asyncio.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(seconds):
            piece = await reader.read(_PIECE)
        if not piece:
            return
        yield piece


async def _chunks(reader: asyncio.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    # RFC 9112 section 7.1.  What follows the last chunk (trailers) is not forwarded, and the connection ends here.
    while size := await _chunk_size(reader, seconds):
        async for piece in _exactly(reader, size, seconds):
            yield piece
        async with asyncio.timeout(seconds):
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk is longer than announced")


async def _chunk_size(reader: asyncio.StreamReader, seconds: float) -> int:
    async with asyncio.timeout(seconds):
        line = await reader.readuntil(b"\n")
    found = _CHUNK.fullmatch(line) if len(line) <= _LINE_LIMIT else None
    if found is None:
        raise ValueError("a malformed chunk size")
    return int(found[1], 16)


class _Passage:
    """Bytes both ways.  ``received`` and ``sent`` count octets from and to the client."""

    def __init__(
        self, client: Tunnel, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._client: Final = client
        self._exchange: Final = exchange
        self._reader: Final = reader
        self._writer: Final = writer
        self._over: Final = asyncio.Event()
        self.received = 0
        self.sent = 0

    async def open_until(self, lifetime: Lifetime | None, clock: Callable[[], float]) -> None:
        """Copy until both directions have ended, or the lifetime has."""
        loop = asyncio.get_running_loop()
        up, down = loop.create_task(self._up()), loop.create_task(self._down())
        end = loop.create_task(_ended(lifetime, clock) if lifetime else self._over.wait())
        try:
            await asyncio.wait({up, down, end}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done() and not _failed(up) and not _failed(down):
                await self._drain_other(up, down, end)
            if end.done() or _failed(up) or _failed(down):
                self._exchange.abort()  # at once: nothing that was not sent yet leaves after the end
            else:
                self._client.close()
        except BaseException:
            self._exchange.abort()
            raise
        finally:
            for task in (up, down, end):
                task.cancel()
            await asyncio.gather(up, down, end, return_exceptions=True)

    async def _drain_other(self, up: asyncio.Task[None], down: asyncio.Task[None], end: asyncio.Task[object]) -> None:
        """One side sends no more; the other may go on as long as it sends."""
        while not (up.done() and down.done()):
            before = self.received + self.sent
            waiting = {task for task in (up, down) if not task.done()}
            await asyncio.wait({*waiting, end}, timeout=HALF_OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if end.done() or before == self.received + self.sent:
                return

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


async def _ended(lifetime: Lifetime, clock: Callable[[], float]) -> None:
    """Return when the identity ends.  Its end may be moved while we wait, so that it is read again."""
    over = asyncio.Event()
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
