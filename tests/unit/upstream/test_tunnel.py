"""Tunnels on raw sockets and with a real WebSocket peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from authproxy.upstream import passage
from authproxy.upstream.forward import Delivered
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import House, RawClient, RawConnection, RawUpstream, Script
from tests.peers.upstream_app import UpstreamApp

ASK = (
    b"GET /exec HTTP/1.1\r\nHost: app.example.com\r\nX-b: 1\r\nx-B: 2\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: SPDY/3.1\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"


class Life:
    """A lifetime that tests end."""

    def __init__(self, ends_at: float | None = None) -> None:
        self.ends_at = ends_at
        self.callbacks: list[Callable[[], None]] = []
        self.forgotten = 0
        self.ended = False

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return self._forget

    def _forget(self) -> None:
        self.forgotten += 1


def switching(*, first: bytes = b"") -> Script:
    """Switches, says ``first``, then echoes until the end."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(SWITCH + first)
        while data := await connection.more():
            await connection.send(data)

    return script


async def _opened(client: RawClient, ask: bytes = ASK) -> None:
    await client.send(ask)
    assert (await client.head()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")


async def test_request_head() -> None:
    """The Upgrade is sent with the target and headers as they were, duplicates kept."""
    async with RawUpstream(switching()) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client, ASK.replace(b"/exec", b"/exec?command=%2Fbin&command="))
    assert upstream.seen == (
        b"GET /exec?command=%2Fbin&command= HTTP/1.1\r\nHost: app.example.com\r\nX-b: 1\r\nx-B: 2\r\n"
        b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    )


async def test_bytes_both_ways() -> None:
    """What is sent comes back, bytes that come with the 101 included; then the half-closes end both."""
    upstream = RawUpstream(switching(first=b"hello"))
    async with upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)
        assert await client.reader.readexactly(5) == b"hello"
        await client.send(b"GET / HTTP/1.1\r\n\r\n")  # never parsed
        assert await client.reader.readexactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        client.writer.write_eof()
        assert await client.rest() == b""
        await asyncio.wait_for(house.ended.wait(), PATIENCE)
    assert house.outcomes == [Delivered(101, 18, 23)]


async def test_large_transfer_with_half_close() -> None:
    """A client that is done sending still receives everything: 8 MiB, with backpressure."""
    body = bytes(range(256)) * (8 << 12)
    async with RawUpstream(switching()) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)

        async def send() -> None:
            await client.send(body)
            client.writer.write_eof()

        sending = asyncio.ensure_future(send())
        assert await client.rest() == body
        await sending


async def test_upstream_ends_first() -> None:
    """The end of the upstream reaches the client after its last byte."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(SWITCH + b"bye")

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)
        assert await client.rest() == b"bye"
        client.writer.write_eof()
        await asyncio.wait_for(house.ended.wait(), PATIENCE)


async def test_client_leaves() -> None:
    """The upstream sees the end when the client is gone."""
    async with RawUpstream(switching()) as upstream, House(upstream.url) as house:
        async with house.client() as client:
            await _opened(client)
            await client.send(b"last words")
            await client.reader.readexactly(10)
        await asyncio.wait_for(upstream.connections[0].ended.wait(), PATIENCE)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)


@pytest.mark.parametrize("how", ["callback", "ends_at", "past"])
async def test_lifetime(how: str) -> None:
    """When the identity ends, both connections end at once."""
    life = Life({"callback": None, "ends_at": 4_000_000_000.0, "past": 1.0}[how])
    async with (
        RawUpstream(switching()) as upstream,
        House(upstream.url, lifetime=life) as house,
        house.client() as client,
    ):
        await client.send(ASK)
        if how != "past":
            await client.head()
            assert await client.nothing()
            life.callbacks[0]()
        await client.rest()
        await asyncio.wait_for(upstream.connections[0].ended.wait(), PATIENCE)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)
    assert life.forgotten == 1


async def test_lifetime_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that is moved earlier or later while the tunnel is open is noticed."""
    monkeypatch.setattr(passage, "_NAP_SECONDS", 0.02)
    life = Life(4_000_000_000.0)
    async with (
        RawUpstream(switching()) as upstream,
        House(upstream.url, lifetime=life) as house,
        house.client() as client,
    ):
        await _opened(client)
        life.ends_at = 1.0
        await client.rest()
        await asyncio.wait_for(house.ended.wait(), PATIENCE)


@pytest.mark.parametrize("status", [200, 401, 302])
@pytest.mark.parametrize("framing", ["sized", "chunked", "until close"])
async def test_declined(status: int, framing: str) -> None:
    """Any other answer is an ordinary response, whatever it claims, and never a tunnel (CVE-2024-23326)."""
    framed = {
        "sized": b"Content-Length: 2\r\n\r\nno",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "until close": b"\r\nno",
    }[framing]

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 %d X\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" % status + framed)
        if framing != "until close":
            await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(ASK)
        reply = await client.reply()
        assert (reply.status, reply.body, reply.get(b"connection")) == (status, b"no", b"close")
        assert reply.get(b"upgrade") is None
        await client.send(b"smuggled")
        assert await client.rest() == b""
    assert b"smuggled" not in upstream.seen


BAD_SWITCHES = {
    "another protocol": SWITCH.replace(b"SPDY/3.1", b"websocket"),
    "no protocol": SWITCH.replace(b"Upgrade: SPDY/3.1\r\n", b""),
    "two protocols": SWITCH.replace(b"Upgrade: SPDY/3.1\r\n", b"Upgrade: SPDY/3.1\r\nUpgrade: h2c\r\n"),
    "bare line feed": SWITCH.replace(b"Connection: Upgrade\r\n", b"Connection: Upgrade\n"),
    "folded": SWITCH.replace(b"Upgrade: SPDY/3.1", b"Upgrade: SPDY/3.1\r\n more"),
    "not HTTP": b"hello\r\n\r\n",
    "HTTP/2": SWITCH.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "a flood of hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + SWITCH,
    "a huge head": b"HTTP/1.1 101 Switching Protocols\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_SWITCHES)
async def test_bad_switch(name: str) -> None:
    """An answer that does not switch to what was asked is 502."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(BAD_SWITCHES[name])

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(ASK)
        assert (await client.reply()).status == 502
    assert house.refusals == ["upstream_bad_response"]


async def test_interim_responses() -> None:
    """A few hints before the 101 are swallowed."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SWITCH + b"x")

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)
        assert await client.rest() == b"x"


@pytest.mark.parametrize("protocol", [b"SPDY/3.1", b"websocket"])
@pytest.mark.parametrize("same_segment", [True, False])
async def test_early_bytes(protocol: bytes, same_segment: bool) -> None:
    """Bytes before the 101 end everything: they are neither HTTP nor part of the tunnel (CVE-2025-64763)."""
    ask = ASK.replace(b"SPDY/3.1", protocol)
    early = b"GET /admin HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
    came = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await came.wait()
        await connection.send(SWITCH.replace(b"SPDY/3.1", protocol))
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(ask + early if same_segment else ask)
        await upstream.arrived.wait()
        if not same_segment:
            await client.send(early)
            assert await client.nothing()
        came.set()
        assert await client.rest() == b""
    assert b"/admin" not in upstream.seen
    assert len(house.infos) == 1


async def test_head_in_two_segments() -> None:
    """An Upgrade whose head is cut anywhere is still an honest one."""
    for cut in (1, 2, 3, 4, 20):
        async with RawUpstream(switching()) as upstream, House(upstream.url) as house, house.client() as client:
            await client.send(ASK[:-cut])
            assert await client.nothing(0.01)
            await client.send(ASK[-cut:])
            assert (await client.head()).startswith(b"HTTP/1.1 101")


async def test_upgrade_with_body() -> None:
    """Is refused: nobody could say where the body ends and the tunnel begins."""
    async with RawUpstream(switching()) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(ASK[:-2] + b"Content-Length: 2\r\n\r\nab")
        assert (await client.reply()).status == 400
    assert upstream.seen == b""
    assert house.refusals == ["upgrade_with_body"]


async def test_unreachable_and_timeout() -> None:
    """The failures of a tunnel's upstream have the same codes as those of a request's."""

    async def hangs(connection: RawConnection) -> None:
        await connection.until_end()

    async with House() as house, house.client() as client:
        await client.send(ASK)
        assert (await client.reply()).status == 502
    assert house.refusals == ["upstream_unreachable"]
    async with RawUpstream(hangs) as upstream, House(upstream.url, timeout=0.05) as house, house.client() as client:
        await client.send(ASK)
        assert (await client.reply()).status == 504


async def test_backpressure() -> None:
    """A fast client is slowed down to a slow upstream: what is held stays small."""

    async def deaf(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await connection.send(SWITCH)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)

    async with RawUpstream(deaf) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)
        sending = asyncio.ensure_future(client.send(b"x" * 50_000_000))
        left = -1
        while left != client.writer.transport.get_write_buffer_size():
            left = client.writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.2)  # until nothing moves any more
        assert left > 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_half_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side that never ends after the other did is closed when nothing moves."""
    monkeypatch.setattr(passage, "HALF_OPEN_SECONDS", 0.05)

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(SWITCH)
        await connection.until_end()
        await asyncio.wait_for(house.ended.wait(), PATIENCE)

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await _opened(client)
        client.writer.write_eof()
        await client.rest()
        await asyncio.wait_for(house.ended.wait(), PATIENCE)


async def test_websocket(upstream_app: UpstreamApp) -> None:
    """A real WebSocket client and server meet: text, binary, a large frame, ping, compression, close codes."""
    large = bytes(range(256)) * 8192
    async with House(upstream_app.url) as house, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{house.address}/ws", max_msg_size=0, compress=15) as socket:
            await socket.send_str("héllo")
            assert (await socket.receive()).data == "héllo"
            await socket.send_bytes(b"\x00\xff")
            assert (await socket.receive()).data == b"\x00\xff"
            await socket.send_bytes(large)
            assert (await socket.receive()).data == large
            await socket.ping(b"still there?")
            await socket.close(code=4000)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)
    assert upstream_app.websockets_closed == [4000]


async def test_websocket_closed_by_the_app() -> None:
    """The close code of the upstream reaches the client."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=4321, message=b"enough")
        return socket

    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with (
        House(f"http://127.0.0.1:{site.port}") as house,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{house.address}/ws") as socket,
    ):
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 4321
    await runner.cleanup()
