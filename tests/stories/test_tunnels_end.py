"""How open WebSockets and streams end: at sign-out on another replica, and when a process is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import RawClient, RawConnection, RawUpstream
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import within
from tests.unit.upstream.test_passage import ANSWER, GOING_AWAY, SWITCH
from tests.unit.upstream.test_websocket import frame

HOST = "dashboard.test"
RAW_HOST = "raw.test"
DRAIN_LIMIT = 30.0


class Street:
    """Two replicas over one Redis, a person who is signed in, an echoing application and a raw one."""

    def __init__(self, replicas: list[AuthproxyProcess], browser: Browser, app: UpstreamApp) -> None:
        self.replicas, self.browser, self.app = replicas, browser, app
        self.raw: asyncio.Future[RawConnection] = asyncio.get_running_loop().create_future()

    def at(self, target: str, *, replica: int = 0, host: str = HOST) -> str:
        """The URL of ``target`` on a replica."""
        return self.replicas[replica].at(host, target)

    async def websocket(self, replica: int) -> aiohttp.ClientWebSocketResponse:
        """An open WebSocket that has echoed."""
        socket = await self.browser.session.ws_connect(self.at("/ws", replica=replica))
        await socket.send_str("hello")
        assert (await socket.receive(timeout=PATIENCE)).data == "hello"
        return socket

    async def sign_out(self, replica: int) -> None:
        """Sign out by the page."""
        url = self.at("/oauth2/sign_out", replica=replica)
        page = await self.browser.navigate(url)
        form = page.form("csrf_token")
        done = await self.browser.navigate(
            url, method="POST", data=form.fields, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert done.status == 303

    def cookie(self, host: str) -> bytes:
        """The Cookie header that the browser would send."""
        cookies = self.browser.cookies(self.at("/", host=host))
        return "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()

    async def upgraded(self, client: RawClient, replica: int) -> RawConnection:
        """A raw WebSocket to the raw application; the application's side of it."""
        await client.send(
            b"GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: %s\r\n\r\n"
            % (RAW_HOST.encode(), self.cookie(RAW_HOST))
        )
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        return await asyncio.wait_for(self.raw, PATIENCE)


def _settings(peer: OpenIDPeer, redis: RedisServer, apps: dict[str, str]) -> dict[str, Any]:
    routes = [{"path": "/", "policy": "people"}]
    return {
        "store": {"redis": {"url": redis.url}},
        "providers": {"peer": peer.settings(title="The peer")},
        "policies": {"people": {"any": [{"authenticated": True}]}},
        "apps": {
            host.partition(".")[0]: {"host": host, "provider": "peer", "upstream": {"url": url}, "routes": routes}
            for host, url in apps.items()
        },
    }


@pytest.fixture
async def street(
    tmp_path: Path, redis_server: RedisServer, upstream_app: UpstreamApp, browser: Browser
) -> AsyncIterator[Street]:
    """Signed in at both applications, by the first replica."""
    done = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        if b"Upgrade: websocket" not in connection.seen:
            return await connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await connection.send(SWITCH)
        found.raw.set_result(connection)
        await done.wait()
        return None

    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        raw = await stack.enter_async_context(RawUpstream(script))
        settings = _settings(peer, redis_server, {HOST: upstream_app.url, RAW_HOST: raw.url})
        replicas = [
            await stack.enter_async_context(AuthproxyProcess(tmp_path, settings, name=f"replica-{number}"))
            for number in range(2)
        ]
        found = Street(replicas, browser, upstream_app)
        for host in (HOST, RAW_HOST):
            page = await browser.open(found.at("/in", host=host))
            assert page.status in (200, 204), (page.url, page.status, replicas[0].program.transcript())
        yield found
        done.set()


async def test_signing_out_on_another_replica_closes_a_websocket(street: Street) -> None:
    """Within a second (CONTRACT section 6; the test leaves room) the client has 1008, and the application 1001."""
    socket = await street.websocket(replica=1)
    await street.sign_out(replica=0)
    with within(5.0):
        said = await socket.receive(timeout=PATIENCE)
    assert (said.type, said.data, socket.close_code) == (WSMsgType.CLOSE, 1008, 1008)
    await _until_closed(street.app)
    assert street.app.websockets_closed == [1001]


async def _until_closed(app: UpstreamApp) -> None:
    async with asyncio.timeout(PATIENCE):
        while not app.websockets_closed:
            await asyncio.sleep(0.01)  # the application's own task


async def test_signing_out_on_another_replica_cuts_a_stream(street: Street) -> None:
    """Server-sent events end with the session, and never look as if the application had ended them."""
    street.app.next_event.release()
    async with street.browser.session.get(street.at("/sse?count=100&wait", replica=1)) as response:
        assert await response.content.readany() == b"data: 0\n\n"
        await street.sign_out(replica=0)
        with pytest.raises(aiohttp.ClientPayloadError):
            async with asyncio.timeout(PATIENCE):
                await response.content.read()
    assert (await street.browser.xhr(street.at("/in", replica=1))).status == 401


async def test_a_stopped_process_says_goodbye(street: Street) -> None:
    """SIGTERM: a WebSocket is told 1001, the client answers, and the process has ended long before its limit."""
    socket = await street.websocket(replica=1)
    with within(DRAIN_LIMIT / 2):
        stopping = asyncio.ensure_future(street.replicas[1].stop())
        said = await socket.receive(timeout=PATIENCE)
        assert (said.type, said.data) == (WSMsgType.CLOSE, 1001)
        assert await stopping == 0
    await _until_closed(street.app)
    assert street.app.websockets_closed == [1000]  # the client's own answer, which was passed on


async def test_a_stopped_process_does_not_wait_for_the_silent(street: Street) -> None:
    """A client that never answers holds the process for a few seconds, and not until its limit."""
    replica = street.replicas[1]
    async with RawClient(f"127.0.0.1:{replica.port}") as client:
        await street.upgraded(client, replica=1)
        stopping = asyncio.ensure_future(replica.program.stop())
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(4) == GOING_AWAY
        with within(DRAIN_LIMIT / 2):
            assert await stopping == 0


async def test_a_message_under_way_is_finished(street: Street) -> None:
    """A fragment, a ping, and a giant frame that SIGTERM meets half-way: all whole, and then the Close frame."""
    replica = street.replicas[1]
    begun = frame(0x1, 10, final=False) + frame(0x9, 5)
    giant = frame(0x0, 12_000_000)
    async with RawClient(f"127.0.0.1:{replica.port}") as client:
        application = await street.upgraded(client, replica=1)
        await application.send(begun + giant[:6_000_000])
        assert await client.reader.readexactly(len(begun)) == begun
        stopping = asyncio.ensure_future(replica.stop())
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(6_000_000) == giant[:6_000_000]
            await _refuses(replica)
            sending = asyncio.ensure_future(application.send(giant[6_000_000:] + frame(0x1, 10)))
            assert await client.reader.readexactly(6_000_000 + 10) == giant[6_000_000:]
            assert await client.reader.readexactly(4) == GOING_AWAY
        await client.send(ANSWER)
        assert await client.rest() == b""
        assert await stopping == 0
        await asyncio.gather(sending, return_exceptions=True)


async def _refuses(replica: AuthproxyProcess) -> None:
    """It drains: no connection is accepted any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.05)  # another process: there is no event to wait for
