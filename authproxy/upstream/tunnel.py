"""An Upgrade, carried out on a connection of its own: asked for, and opened by a 101.

The upstream connection never goes to a pool, and nothing but a 101 for the asked protocol opens the tunnel
(CVE-2024-23326).  What goes through it then is the business of ``passage``.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

from authproxy.errors import BadRequest, Refusal
from authproxy.exchange import Exchange, Lifetime
from authproxy.model import HeaderList, UpstreamRequest
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
from authproxy.upstream.passage import Passage
from authproxy.upstream.pool import CONNECT_SECONDS, Address, Pool, address_of

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
        client = await exchange.tunnel(101, _switched(head, request, response_headers))
        websocket = request.upgrade.lower() == "websocket"
        passage = Passage(client, exchange, reader, writer, websocket=websocket)
        await passage.open_until(lifetime, clock)
        return Delivered(101, passage.received, passage.sent)
    finally:
        writer.close()


async def _connected(pool: Pool, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure: Refusal = unreachable("no address")
    for address in pool.candidates():
        try:
            async with asyncio.timeout(seconds):
                opened = await _opened(pool, address)
        except ssl.SSLError as error:
            failure = tls_failed(type(error).__name__)
        except TimeoutError:
            failure = timed_out("no connection in time")
        except OSError as error:
            failure = unreachable(error.strerror or type(error).__name__)
        else:
            pool.recovered(address)
            return opened
        pool.rest(address)
    raise failure


async def _opened(pool: Pool, address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not address.port:
        return await asyncio.open_unix_connection(address.host, limit=HEAD_LIMIT)
    return await asyncio.open_connection(
        address.host,
        address.port,
        ssl=pool.tls if address.secure else None,
        server_hostname=(pool.server_name or address.host) if address.secure else None,
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
    host = hosts[0] if hosts else address_of(request.upstream.urls[0]).authority
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
    exchange.start_response(head.status, headers, length=head.length)
    sent = 0
    try:
        async for piece in body(reader, head, request.method, request.upstream.timeout):
            exchange.write(piece)
            sent += len(piece)
            await exchange.room()
        exchange.finish()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError, ValueError):
        exchange.abort()
        return Delivered(head.status, 0, sent, complete=False)
    return Delivered(head.status, 0, sent)
