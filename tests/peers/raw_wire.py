"""Both ends of the wire as bare sockets, and a house between them that decides nothing.

``RawClient`` and ``RawUpstream`` send and see exact bytes.  ``House`` is a front door whose every request that is not
one of our pages goes to one upstream, with no decision in between.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from aiohttp import web

from authproxy.edge.connection import Behind, FrontDoor, info_of
from authproxy.edge.connections import Bound, Bounds
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.errors import ClientGone, Refusal
from authproxy.exchange import Exchange, Lifetime
from authproxy.http1 import text
from authproxy.model import Answer, HeaderList, RequestInfo, Upstream, UpstreamRequest
from authproxy.transport import abort
from authproxy.upstream.forward import Delivered, deliver
from authproxy.upstream.head import Head
from authproxy.upstream.pool import Pools
from authproxy.upstream.tunnel import carry
from tests.peers.program import PATIENCE as PATIENCE

WIDE = Bounds(10_000, 10_000, TrustedProxies())
_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"})
_FRAMING = frozenset({b"content-length", b"expect", b"transfer-encoding"})


class Reply(NamedTuple):
    """A response as the raw client saw it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    head: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)


class RawClient:
    """A client that is a socket."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None = None, source: str | None = None) -> None:
        self._address = address
        self._tls = tls
        self._source = (source, 0) if source else None
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        if self._address.startswith("unix:"):
            opened = asyncio.open_unix_connection(self._address[5:])
        else:
            host, _, port = self._address.rpartition(":")
            opened = asyncio.open_connection(host, int(port), ssl=self._tls, limit=1 << 20, local_addr=self._source)
        self.reader, self.writer = await opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        abort(self.writer.transport)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def reply(self, *, method: str = "GET") -> Reply:
        """One response, read by its framing."""
        head = await self.head()
        first, *lines = head[:-4].split(b"\r\n")
        headers = tuple((line.split(b": ", 1)[0], line.split(b": ", 1)[1]) for line in lines)
        found = Reply(int(first.split(b" ")[1]), headers, b"", head)
        async with asyncio.timeout(PATIENCE):
            return found._replace(body=await self._body(found, method))

    async def _body(self, reply: Reply, method: str) -> bytes:
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return b""
        if reply.get(b"transfer-encoding") == b"chunked":
            return await self._chunked()
        length = reply.get(b"content-length")
        return await self.reader.read() if length is None else await self.reader.readexactly(int(length))

    async def _chunked(self) -> bytes:
        pieces = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return b"".join(pieces)

    async def rest(self) -> bytes:
        """Everything until the server closes or breaks off."""
        pieces = []
        async with asyncio.timeout(PATIENCE):
            try:
                while piece := await self.reader.read(65536):
                    pieces.append(piece)
            except ConnectionError:
                pass
        return b"".join(pieces)

    async def nothing(self, seconds: float = 0.05) -> bool:
        """Nothing arrives for a moment: the one claim that takes waiting to show."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True


Script = Callable[["RawConnection"], Awaitable[None]]


class RawConnection:
    """One connection to the raw upstream; ``seen`` is what it brought."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.seen = b""
        self.ended = asyncio.Event()  # the other side closed or broke off

    async def until(self, mark: bytes) -> bytes:
        """Read until ``seen`` holds ``mark``."""
        while mark not in self.seen:
            if not await self.more():
                raise EOFError
        return self.seen

    async def more(self) -> bytes:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        self.seen += data
        if not data:
            self.ended.set()
        return data

    async def until_end(self) -> None:
        while await self.more():
            pass

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


class RawUpstream:
    """A server that says what a script says, and keeps what it saw."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self.connections: list[RawConnection] = []
        self.arrived = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._run, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self.connections:
            abort(connection.writer.transport)
        await asyncio.sleep(0)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = RawConnection(reader, writer)
        self.connections.append(connection)
        self.arrived.set()
        try:
            await self._script(connection)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen(self) -> bytes:
        return b"".join(connection.seen for connection in self.connections)


def answering(response: bytes) -> Script:
    """Answers every request head with ``response`` and reads on."""

    async def script(connection: RawConnection) -> None:
        served = 0
        while await connection.more():
            while connection.seen.count(b"\r\n\r\n") > served:
                served += 1
                await connection.send(response)

    return script


def upstream_request(info: RequestInfo, upstream: Upstream) -> UpstreamRequest:
    """What mutate would make of a request, without any mutation."""
    connection = info.headers.text(b"connection").lower()
    upgrade = info.headers.text(b"upgrade") if "upgrade" in connection else ""
    headers = tuple(line for line in info.headers if line[0].lower() not in _HOP | _FRAMING)
    return UpstreamRequest(info.method, info.target, text.fields(headers), upstream, upgrade)


class House:
    """A front door and an upstream.  ``outcomes`` holds what each exchange came to: Delivered or the exception."""

    def __init__(
        self,
        *urls: str,
        timeout: float = 5.0,
        ca: str | None = None,
        lifetime: Lifetime | None = None,
        bounds: Bounds = WIDE,
    ) -> None:
        self.upstream = Upstream(urls=urls or ("http://127.0.0.1:9",), timeout=timeout, ca=ca)
        self.lifetime = lifetime
        self.refusals: list[str] = []
        self.crowded: list[Bound] = []  # the connections that were too many
        self.outcomes: list[Delivered | BaseException] = []
        self.exchanges: list[ClientExchange] = []
        self.infos: list[RequestInfo] = []
        self.before: Callable[[Exchange], Awaitable[None]] | None = None  # what happens before delivery
        self.ended = asyncio.Event()
        self.address = ""
        self.pages = web.Application()
        self.pages.router.add_get("/oauth2/who", _who)
        self.pages.router.add_get("/oauth2/of/{name}", _who)
        self.pages.router.add_post("/oauth2/form", _form)
        self.pages.router.add_get("/oauth2/broken", _broken)
        self.pages.router.add_get("/oauth2/half", _half)
        self.behind = Behind(
            self.pages,
            describe=partial(describe, trusted=TrustedProxies(), request_id="r-1", public_scheme="http"),
            is_ours=lambda info: info.raw_path.startswith("/oauth2/"),
            proxied=self._proxied,
            refused=self._refused,
            bounds=bounds,
            crowded=self._crowded,
        )
        self.door = FrontDoor(self.behind)

    async def __aenter__(self) -> Self:
        self.pools = await Pools().__aenter__()
        self.address = await self.door.listen("127.0.0.1:0")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.door.close()
        await self.pools.__aexit__(None, None, None)

    def client(self, source: str | None = None) -> RawClient:
        return RawClient(self.address, source=source)

    async def _proxied(self, exchange: Exchange) -> None:
        assert isinstance(exchange, ClientExchange)
        self.exchanges.append(exchange)
        self.infos.append(exchange.info)
        try:
            if self.before is not None:
                await self.before(exchange)
            if not exchange.status:
                await self._deliver(exchange)
        except BaseException as error:
            self.outcomes.append(error)
            if not isinstance(error, ClientGone):
                raise
        finally:
            self.ended.set()

    async def _deliver(self, exchange: Exchange) -> None:
        request = upstream_request(exchange.info, self.upstream)
        if request.upgrade:
            pool = self.pools.of(request.upstream)
            outcome = await carry(exchange, request, pool=pool, response_headers=_passed, lifetime=self.lifetime)
        else:
            outcome = await deliver(
                exchange, request, pools=self.pools, response_fields=_passed_of, lifetime=self.lifetime
            )
        self.outcomes.append(outcome)

    def _crowded(self, bound: Bound) -> Answer:
        self.crowded.append(bound)
        return Answer(503, ((b"Retry-After", b"5"),), b"full")

    def _refused(self, refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> Answer:
        self.refusals.append(refusal.code)
        return Answer(refusal.status, ((b"Authproxy-Refusal", refusal.code.encode()),), b"")


def _passed_of(head: Head) -> HeaderList:
    return _passed(head.status, head.headers)


def _passed(_status: int, headers: HeaderList) -> HeaderList:
    return tuple(line for line in headers if line[0].lower() not in _HOP - {b"upgrade"})


async def _who(request: web.Request) -> web.Response:
    return web.Response(text=info_of(request).host + request.match_info.get("name", ""))


async def _form(request: web.Request) -> web.Response:
    fields = await request.post()
    return web.Response(text=str(fields.get("a")))


async def _half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise LookupError("a page that fails late")


async def _broken(request: web.Request) -> web.Response:
    raise LookupError("a page that fails")
