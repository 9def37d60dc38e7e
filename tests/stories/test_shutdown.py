"""How a process ends: its readiness fails first, and what runs may finish."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.program import PATIENCE
from tests.peers.upstream_app import UpstreamApp


class Ending:
    """A process that is going to end, and a client of it."""

    def __init__(self, proxy: AuthproxyProcess, http: aiohttp.ClientSession) -> None:
        self.proxy, self.http = proxy, http

    async def status(self, target: str = "/", *, admin: bool = False) -> int:
        """The status of a request; 0 when nobody listens."""
        url = f"{self.proxy.admin_url}{target}" if admin else f"http://127.0.0.1:{self.proxy.port}{target}"
        try:
            async with self.http.get(url) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientConnectionError:
            return 0

    async def until(self, status: int, target: str, *, admin: bool = False) -> None:
        """Wait for a status."""
        async with asyncio.timeout(PATIENCE):
            while await self.status(target, admin=admin) != status:
                await asyncio.sleep(0.02)  # another process: there is no event to wait for


@pytest.fixture
async def ending(tmp_path: Path, upstream_app: UpstreamApp, request: pytest.FixtureRequest) -> AsyncIterator[Ending]:
    """It serves one public app; ``listen.drain`` is the parameter."""
    data: dict[str, Any] = {
        "listen": {"drain": request.param},
        "policies": {"public": {"anonymous": True}},
        "apps": {
            "app": {"host": "*", "upstream": {"url": upstream_app.url}, "routes": [{"path": "/", "policy": "public"}]}
        },
    }
    connector = aiohttp.TCPConnector(force_close=True)
    async with AuthproxyProcess(tmp_path, data) as proxy, aiohttp.ClientSession(connector=connector) as http:
        yield Ending(proxy, http)


@pytest.mark.parametrize("ending", [{"pause": "1h"}], indirect=True)
async def test_readiness_fails_first(ending: Ending, upstream_app: UpstreamApp) -> None:
    """During the pause new requests are served while ``/readyz`` says no; the second signal ends the pause."""
    ending.proxy.program.send(signal.SIGTERM)
    await ending.until(503, "/readyz", admin=True)
    assert await ending.status("/during") == 200
    assert await ending.status("/healthz", admin=True) == 200
    slow = asyncio.ensure_future(ending.status("/slow"))
    while not upstream_app.to("/slow"):
        await asyncio.sleep(0.01)
    ending.proxy.program.send(signal.SIGTERM)
    await ending.until(0, "/after")
    assert await ending.status("/readyz", admin=True) == 503
    assert ending.proxy.program.exit_code is None  # what runs may finish
    upstream_app.release.set()
    assert await slow == 200
    assert await ending.proxy.program.ended() == 0


@pytest.mark.parametrize("ending", [{"pause": "1h"}], indirect=True)
async def test_an_interrupt_does_not_wait(ending: Ending) -> None:
    """Ctrl-C ends it without the pause."""
    ending.proxy.program.send(signal.SIGINT)
    assert await ending.proxy.program.ended() == 0


@pytest.mark.parametrize("ending", [{"timeout": "500ms"}], indirect=True)
async def test_what_never_ends_is_broken_off(ending: Ending, upstream_app: UpstreamApp) -> None:
    """A request that takes longer than the limit is broken off, and the process ends all the same."""
    slow = asyncio.ensure_future(ending.status("/slow"))
    while not upstream_app.to("/slow"):
        await asyncio.sleep(0.01)
    ending.proxy.program.send(signal.SIGTERM)
    assert await ending.proxy.program.ended() == 0
    assert await slow == 0
    assert "1 exchanges were still running after 0.5 s" in "\n".join(ending.proxy.program.stderr.all())
