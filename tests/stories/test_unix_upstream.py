"""An application on a Unix socket: everything that passes by TCP passes there, and what is missing is said."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from tests.peers.browser_client import Browser, Page
from tests.peers.program import PATIENCE
from tests.peers.upstream_app import UpstreamApp

HOST = "reports.corp.test"


class House:
    """A proxy before one public application."""

    def __init__(self, proxy: Authproxy, browser: Browser) -> None:
        self.proxy, self.browser = proxy, browser
        self.port = proxy.addresses["public"].rpartition(":")[2]

    def at(self, target: str) -> str:
        """An address of the application."""
        return f"http://{HOST}:{self.port}{target}"

    async def get(self, target: str, **how: Any) -> Page:
        """What a script is answered."""
        return await self.browser.xhr(self.at(target), **how)


Opened = Callable[..., Awaitable[House]]


@pytest.fixture
async def opened(tmp_path: Path, browser: Browser) -> AsyncIterator[Opened]:
    """Opens the proxy with the given ``upstream`` section."""
    async with AsyncExitStack() as stack:

        async def open_(**upstream: Any) -> House:
            data: dict[str, Any] = {
                "listen": {"address": "127.0.0.1:0", "admin": None},
                "public_url": "http://auth.corp.test",
                "policies": {"public": {"anonymous": True}},
                "apps": {
                    "reports": {"host": HOST, "upstream": upstream, "routes": [{"path": "/", "policy": "public"}]}
                },
                "audit": {"file": str(tmp_path / "audit.jsonl")},
            }
            return House(await stack.enter_async_context(Authproxy(from_mapping(data, tmp_path))), browser)

        yield open_


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[UpstreamApp]:
    """The application, on its socket."""
    async with UpstreamApp(tmp_path / "app.sock") as one:
        yield one


@pytest.mark.parametrize("spelled", ["unix:{}", "unix://{}"])
async def test_a_page_is_delivered(opened: Opened, app: UpstreamApp, tmp_path: Path, spelled: str) -> None:
    """GET, in both spellings: the target as it came, the host that people ask for, the headers of every upstream."""
    house = await opened(url=spelled.format(tmp_path / "app.sock"))
    for _ in range(3):
        page = await house.get("/deep//link?a=%2F")
        assert page.status == 200
    assert app.last.target == "/deep//link?a=%2F"
    assert app.last.all("Host") == [f"{HOST}:{house.port}"]
    assert app.last.all("X-Forwarded-Host") == [f"{HOST}:{house.port}"]
    assert app.last.all("X-Forwarded-For") == ["127.0.0.1"]


async def test_the_host_is_localhost_where_the_clients_is_not_wanted(opened: Opened, app: UpstreamApp) -> None:
    """``preserve_host: false``: a socket has no host of its own."""
    house = await opened(url=app.url, preserve_host=False)
    assert (await house.get("/")).status == 200
    assert app.last.all("Host") == ["localhost"]
    async with house.browser.session.ws_connect(house.at("/ws")):
        assert app.last.all("Host") == ["localhost"]


async def test_bodies_pass_both_ways(opened: Opened, app: UpstreamApp) -> None:
    """A large form up, sized and in chunks, and a large file down, whole."""
    house, body = await opened(url=app.url), b"0123456789abcdef" * (1 << 17)
    assert (await house.get("/up", method="POST", data=io.BytesIO(body))).status == 200

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    async with house.browser.session.post(house.at("/up"), data=pieces()) as answer:
        assert answer.status == 200
    assert [(one.body_length, one.body_sha256) for one in app.to("/up")] == [
        (len(body), hashlib.sha256(body).hexdigest())
    ] * 2
    assert [(one.get("Content-Length"), one.get("Transfer-Encoding")) for one in app.to("/up")] == [
        (str(len(body)), None),
        (None, "chunked"),
    ]
    assert len((await house.get("/big?size=3000000")).body) == 3_000_000


async def test_websockets_pass(opened: Opened, app: UpstreamApp) -> None:
    """Messages there and back, and the close."""
    house = await opened(url=app.url)
    async with house.browser.session.ws_connect(house.at("/ws")) as socket:
        for text in ("one", "x" * 100_000):
            await socket.send_str(text)
            assert (await socket.receive()).data == text
        await socket.close(code=4001)
    async with asyncio.timeout(PATIENCE):
        while not app.websockets_closed:
            await asyncio.sleep(0)
    assert app.websockets_closed == [4001]


async def test_a_socket_that_is_not_there(opened: Opened, tmp_path: Path) -> None:
    """502 with its code, for a page, a form and a WebSocket; as soon as the application is there, it is served."""
    house = await opened(url=f"unix:{tmp_path / 'app.sock'}")
    for how in ({}, {"method": "POST", "data": b"x"}):
        page = await house.get("/", **how)
        assert (page.status, page.headers["Authproxy-Refusal"]) == (502, "upstream_unreachable")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await house.browser.session.ws_connect(house.at("/ws"))
    assert refused.value.status == 502
    (tmp_path / "app.sock").write_text("a file, and no socket")
    assert (await house.get("/")).status == 502
    (tmp_path / "app.sock").unlink()
    async with UpstreamApp(tmp_path / "app.sock"):
        assert (await house.get("/")).status == 200


async def test_several_sockets_take_turns(
    opened: Opened, app: UpstreamApp, upstream_app: UpstreamApp, tmp_path: Path
) -> None:
    """One by TCP among them; the one that is missing is passed over, and no request fails."""
    house = await opened(urls=[f"unix:{tmp_path / 'none.sock'}", app.url, upstream_app.url])
    for _ in range(12):
        assert (await house.get("/")).status == 200
    assert len(app.requests) + len(upstream_app.requests) == 12
    assert min(len(app.requests), len(upstream_app.requests)) >= 3
