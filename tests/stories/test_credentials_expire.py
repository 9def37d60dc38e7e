"""A tunnel lives as long as what opened it: real sockets and the real clock, with credentials of a few seconds."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest

from authproxy.app import Authproxy
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import stretched

HOST: Final = "api.corp.test"
SHARED, STATIC = "enrollment-" + "e" * 40, "static-" + "s" * 40
SECONDS: Final = 6  # long enough to open the tunnels, on an idle machine


class Wire(NamedTuple):
    """A proxy, and a client that opens tunnels through it."""

    proxy: Authproxy
    http: aiohttp.ClientSession
    peer: OpenIDPeer
    app: UpstreamApp

    async def opened(self, credential: str) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket that has carried a message there and back."""
        headers = {"Host": HOST, "Authorization": f"Bearer {credential}"}
        socket = await self.http.ws_connect(f"http://{self.proxy.addresses['public']}/ws", headers=headers)
        await self.echoes(socket)
        return socket

    @staticmethod
    async def echoes(socket: aiohttp.ClientWebSocketResponse) -> None:
        """The tunnel carries both ways."""
        await socket.send_str("there?")
        assert await socket.receive_str() == "there?"

    async def enrolled(self) -> str:
        """A credential of ``SECONDS``."""
        url = f"http://{self.proxy.addresses['public']}/oauth2/enroll"
        headers = {"Host": HOST, "Authorization": f"Bearer {SHARED}"}
        async with self.http.post(url, headers=headers, json={"name": "agent"}) as answer:
            assert answer.status == 201
            return str((await answer.json())["credential"])


def expiry(jwt: str) -> int:
    """``exp``, in seconds since the epoch."""
    payload = jwt.split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


async def cut(socket: aiohttp.ClientWebSocketResponse) -> tuple[float, aiohttp.WSMessage]:
    """When nothing more can come, and what came instead."""
    async with asyncio.timeout(PATIENCE):
        said = await socket.receive()
    return time.time(), said


@pytest.fixture
async def wire(upstream_app: UpstreamApp, tmp_path: Path) -> AsyncIterator[Wire]:
    """The application's WebSocket is open to JWTs, enrolled machines and a static token."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        settings: dict[str, Any] = {
            "listen": {"address": "127.0.0.1:0", "admin": None},
            "public_url": "http://auth.corp.test",
            "audit": {"file": str(tmp_path / "audit.jsonl")},
            "issuers": {"peer": {"issuer": peer.issuer, "audiences": ["authproxy"]}},
            "tokens": {"steady": {"secrets": [{"value": STATIC}]}},
            "enrollment": {
                "tokens": {"fleet": {"secrets": [{"value": SHARED}]}},
                "signing_keys": [{"value": json.dumps(new_signing_key())}],
                "credential": {"lifetime": f"{stretched(SECONDS):.0f}s"},
            },
            "policies": {"anyone": {"any": [{"authenticated": True}]}},
            "apps": {
                "api": {
                    "host": HOST,
                    "upstream": {"url": upstream_app.url},
                    "routes": [{"path": "/", "accept": ["bearer", "enrolled", "token"], "policy": "anyone"}],
                }
            },
        }
        proxy = await stack.enter_async_context(Authproxy(from_mapping(settings, tmp_path, {})))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        async with asyncio.timeout(PATIENCE):
            await proxy.startup.done.wait()
        yield Wire(proxy, http, peer, upstream_app)


async def test_a_tunnel_ends_with_its_credential_and_not_before(wire: Wire) -> None:
    """A JWT and an enrolled credential carry until they expire, and are cut then; a token without an end is not."""
    steady = await wire.opened(STATIC)
    jwt = wire.peer.id_token(exp=int(time.time() + stretched(SECONDS)))
    given = await wire.enrolled()
    tunnels = [(await wire.opened(one), expiry(one)) for one in (jwt, given)]
    ends = await asyncio.gather(*(cut(socket) for socket, _ in tunnels))
    for (ended, said), (socket, expires) in zip(ends, tunnels, strict=True):
        assert ended >= expires
        assert said.type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
    await wire.echoes(steady)
    async with asyncio.timeout(PATIENCE):
        while len(wire.app.websockets_closed) < 2:
            await asyncio.sleep(0.02)
    assert len(wire.app.websockets_closed) == 2
    await steady.close()


async def test_a_tunnel_cannot_be_opened_after_the_end(wire: Wire) -> None:
    """An expired JWT opens none, so that reconnecting is no way around the end."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await wire.opened(wire.peer.id_token(exp=int(time.time()) - 60, iat=int(time.time()) - 120))
    assert caught.value.status == 401
    assert wire.app.requests == []
