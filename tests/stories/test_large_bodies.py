"""Bodies of any size pass at constant memory, also where one side stalls: the process holds a few buffers and no more.

The sizes here are for every run; ``WIRE_LIMITS=full`` (``make limits``) takes 2 GiB each way.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.bulk import BulkClient, BulkServer, Tally, bulk_server, content
from tests.peers.gauge import MEBIBYTE, Gauge
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.self_signed import self_signed

FULL: Final = os.environ.get("WIRE_LIMITS") == "full"
OCTETS: Final = (2048 if FULL else 64) * MEBIBYTE + 12_345
WARM: Final = 16 * MEBIBYTE
"""Octets that pass before anything is measured, so that what is made once has been made."""
GROWTH: Final = 6 * MEBIBYTE
"""Octets that the process may hold more at any moment: buffers of two connections, the allocator's gaps."""
UNDERWAY: Final = 32 * MEBIBYTE
"""Octets that both kernels' and our buffers may hold between two ends of which one stalls."""
TOKEN: Final = "a-static-token-of-more-than-32-characters"
HOST: Final = "files.test"
pytestmark = pytest.mark.timeout(900 if FULL else 300)

Keep = Callable[[str, object], None]


class Street(NamedTuple):
    """The proxy as a process, a client who may, and the application."""

    proxy: AuthproxyProcess
    client: BulkClient
    app: BulkServer

    def gauge(self) -> Gauge:
        """What the proxy holds."""
        return Gauge(self.proxy.program.pid)


def settings(peer: OpenIDPeer, app: BulkServer, **listen: Any) -> dict[str, Any]:
    """One application for whoever has signed in, and for a machine with a token."""
    routes = [{"path": "/", "accept": ["session", "token"], "policy": "known"}]
    files = {"host": HOST, "provider": "peer", "upstream": {"url": app.url, "authorization": "id_token"}}
    return {
        "listen": listen,
        **({"public_url": "https://auth.test"} if "tls" in listen else {}),
        "providers": {"peer": peer.settings()},
        "tokens": {"machine": {"secrets": [{"value": TOKEN}]}},
        "policies": {"known": {"any": [{"authenticated": True}]}},
        "apps": {"files": {**files, "routes": routes}},
        "audit": {"file": os.devnull},
    }


async def session(proxy: AuthproxyProcess) -> dict[str, str]:
    """The headers of somebody who has signed in."""
    async with Browser() as browser:
        page = await browser.open(proxy.at(HOST, "/bulk?octets=1"))
        assert page.status == 200, page.text
        cookies = browser.cookies(proxy.at(HOST))
    return {"Host": f"{HOST}:{proxy.port}", "Cookie": "; ".join(f"{name}={text}" for name, text in cookies.items())}


@pytest.fixture
async def street(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Street]:
    """With the parameter ``tls`` the client is a machine with a token; without, a person with a live session."""
    tls = getattr(request, "param", "") == "tls"
    async with AsyncExitStack() as stack:
        app = stack.enter_context(bulk_server())
        peer = await stack.enter_async_context(OpenIDPeer())
        listen = dict(zip(("cert", "key"), map(str, self_signed(tmp_path, HOST)), strict=True)) if tls else {}
        whole = settings(peer, app, **({"tls": listen} if tls else {}))
        proxy = await stack.enter_async_context(AuthproxyProcess(tmp_path, whole))
        bearer = {"Host": f"{HOST}:{proxy.port}", "Authorization": f"Bearer {TOKEN}"}
        client = BulkClient(proxy.port, bearer if tls else await session(proxy), tls=tls)
        for chunked in (False, True):
            assert await asyncio.to_thread(client.upload, WARM, chunked=chunked) == content(WARM)
            assert await asyncio.to_thread(client.download, WARM, chunked=chunked) == content(WARM)
        yield Street(proxy, client, app)


@pytest.mark.parametrize(
    ("street", "chunked"), [("", False), ("", True), ("tls", False)], ids=["sized", "chunked", "tls"],
    indirect=["street"],
)  # fmt: skip
async def test_a_large_body_each_way(street: Street, chunked: bool, record: Keep) -> None:
    """Up and down, to the last octet; the memory of the process does not grow with what passes."""
    expected = await asyncio.to_thread(content, OCTETS)
    for transfer in (street.client.upload, street.client.download):
        began = time.monotonic()
        with street.gauge() as gauge:
            assert await asyncio.to_thread(transfer, OCTETS, chunked=chunked) == expected
        rate = OCTETS / MEBIBYTE / (time.monotonic() - began)
        record(transfer.__name__, f"{OCTETS / MEBIBYTE:,.0f} MiB at {rate:,.0f} MiB/s, {gauge!r}")
        assert gauge.grown < GROWTH, gauge


async def standstill(tally: Tally) -> int:
    """Wait until nothing has gone by for a while; how much had gone by then."""
    before = 0
    while before != tally.octets or not before:
        before = tally.octets
        await asyncio.sleep(0.5)  # what does not come announces itself by nothing
    return before


@pytest.mark.parametrize("street", ["", "tls"], ids=["plain", "tls"], indirect=True)
@pytest.mark.parametrize("way", ["upload", "download"])
async def test_one_side_stalls(street: Street, way: str, record: Keep) -> None:
    """An application that stops reading, and a client that does: the other is held back, nothing piles up here, and
    all of it arrives once they go on."""
    (street.app if way == "upload" else street.client).stall = MEBIBYTE
    transfer, asked = getattr(street.client, way), street.app.asked
    expected = await asyncio.to_thread(content, OCTETS)
    with street.gauge() as gauge:
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(asyncio.to_thread(transfer, OCTETS, chunked=False))
            while street.app.asked == asked:
                await asyncio.sleep(0.02)  # threads: there is no event of this loop to wait for
            sender, taker = street.client.tally, street.app.tally
            if way == "download":
                sender, taker = taker, sender
            gone, taken = await standstill(sender), taker.octets
            taker.release()
        said = f"{taken / MEBIBYTE:.1f} MiB had come, {(gone - taken) / MEBIBYTE:.1f} MiB were under way"
        record(f"{way}, stalled", f"{said}, {gauge!r}")
    assert under_way.result() == expected
    assert taken < 2 * MEBIBYTE
    assert gone - taken < UNDERWAY < OCTETS - MEBIBYTE, said
    assert gauge.grown < GROWTH, gauge
