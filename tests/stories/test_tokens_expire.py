"""What is open when a bearer token expires: a tunnel ends, an answer that is under way goes on for an hour."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from authproxy.upstream import passage, term
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import sign
from tests.peers.program import PATIENCE
from tests.peers.upstream_app import UpstreamApp

API = "api.corp.test"
HOUR = 3600


class Api:
    """A proxy before an application, a token for ten minutes, and the clock that makes it expire."""

    def __init__(self, proxy: Authproxy, http: aiohttp.ClientSession, clock: FakeClock, peer: OpenIDPeer) -> None:
        now = int(clock())
        claims = {"iss": peer.issuer, "aud": "api", "sub": "ci", "iat": now, "exp": now + 600}
        self.clock, self._http = clock, http
        self._headers = {"Host": API, "Authorization": f"Bearer {sign(claims, peer.keys[-1])}"}
        self._base = f"http://{proxy.addresses['public']}"

    def get(self, target: str) -> Any:
        """A request with the token."""
        return self._http.get(self._base + target, headers=self._headers)

    def websocket(self) -> Any:
        """A WebSocket with the token."""
        return self._http.ws_connect(f"{self._base}/ws", headers=self._headers)


@pytest.fixture
async def api(upstream_app: UpstreamApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """Time passes when the clock is set; nothing is too young to be cut."""
    monkeypatch.setattr(passage, "_NAP_SECONDS", 0.02)
    monkeypatch.setattr(term, "SPARED_SECONDS", 0.0)
    clock = FakeClock(time.time())
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        settings = {
            "public_url": "http://auth.corp.test",
            "listen": {"address": "127.0.0.1:0", "admin": None},
            "session": {"keys": [{"value": SESSION_KEY}]},
            "issuers": {"peer": {"issuer": peer.issuer, "audiences": ["api"]}},
            "policies": {"anybody": {"any": [{"authenticated": True}]}},
            "apps": {
                "api": {
                    "host": API,
                    "upstream": {"url": upstream_app.url},
                    "routes": [{"path": "/", "accept": ["bearer"], "policy": "anybody"}],
                }
            },
            "audit": {"file": str(tmp_path / "audit.jsonl")},
        }
        proxy = await stack.enter_async_context(Authproxy(from_mapping(settings, tmp_path, {}), clock=clock))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)))
        yield Api(proxy, http, clock, peer)


async def test_a_tunnel_ends_with_its_token(api: Api) -> None:
    """A WebSocket is told 1008 when the token that opened it expires."""
    async with api.websocket() as socket:
        await socket.send_str("hello")
        assert (await socket.receive(timeout=PATIENCE)).data == "hello"
        api.clock.forward(601)
        said = await socket.receive(timeout=PATIENCE)
        assert (said.type, said.data) == (WSMsgType.CLOSE, 1008)


async def test_an_answer_goes_on_for_an_hour(api: Api, upstream_app: UpstreamApp) -> None:
    """A followed log or long download does not break off at the expiry; it does when it outlives that by an hour."""
    upstream_app.next_event.release()
    async with api.get("/sse?count=9&wait") as response:
        assert await response.content.readany() == b"data: 0\n\n"
        api.clock.forward(600 + HOUR - 5)
        upstream_app.next_event.release()
        assert await response.content.readany() == b"data: 1\n\n"
        async with api.get("/") as another:
            assert another.status == 401
        api.clock.forward(10)
        upstream_app.next_event.release()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
