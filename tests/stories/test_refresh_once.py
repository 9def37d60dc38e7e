"""Two replica processes, one provider that takes a refresh token once: who renews, and what everybody else gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import Set, another_browser
from tests.peers.browser_client import Browser
from tests.peers.fleet import HOST, Fleet, Ledger, fleet
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import stretched

Building = Callable[..., Awaitable[Fleet]]
SHORT = 3.0  # seconds that an ID token lives


@pytest.fixture
async def build(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Building]:
    """Builds two replicas behind HAProxy before the given provider."""
    async with AsyncExitStack() as stack:

        async def builder(peer: OpenIDPeer, **provider: Any) -> Fleet:
            store = {"redis": {"url": redis_server.url}}
            await stack.enter_async_context(peer)
            return await fleet(stack, tmp_path, stores=[store, store], peer=peer, provider=provider)

        yield builder


async def known_everywhere(fleet: Fleet, browser: Browser) -> str:
    """Sign in, and be seen by both replicas; the cookie."""
    assert (await browser.open(fleet.at("/first"))).status == 200
    for number in range(2):
        assert (await browser.navigate(fleet.at("/first", replica=number))).status == 200
    return "; ".join(f"{name}={value}" for name, value in browser.cookies(fleet.at()).items())


async def ask(fleet: Fleet, cookie: str, replica: int) -> int:
    """One request on a connection of its own; the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.replicas[replica].port)
    try:
        head = f"GET /many HTTP/1.1\r\nHost: {HOST}:{fleet.front.port}\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n"
        writer.write(head.encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def expired(lifetime: float) -> None:
    """Wait until the newest ID token has expired."""
    await asyncio.sleep(lifetime + 0.5)  # the provider's time is the machine's, and the proxy's


async def test_fifty_requests_at_expiry(build: Building, browser: Browser) -> None:
    """Fifty requests over two replicas cost one refresh, though it takes ten seconds, and bring a good token each.

    A third of those who ask, and the very first of all, go away while the provider takes its time.
    """
    lifetime = stretched(SHORT)
    fleet = await build(OpenIDPeer(alg="ES256", id_token_lifetime=lifetime))
    cookie = await known_everywhere(fleet, browser)
    fleet.peer.id_token_lifetime = 600
    await expired(lifetime)
    fleet.watch.good = 0
    fleet.peer.delay["token"] = 10.0
    work = [asyncio.ensure_future(ask(fleet, cookie, number % 2)) for number in range(50)]
    await fleet.peer.wait_for("token", grant_type="refresh_token")
    leaving = work[: 2 * 17 : 2]
    for one in leaving:
        one.cancel()
    answers = await asyncio.gather(*(one for one in work if one not in leaving))
    assert set(answers) == {200}
    ledger = Ledger(fleet.peer)
    assert (dict(ledger.statuses), ledger.dead) == ({200: 1}, 0)
    assert (fleet.watch.expired, fleet.watch.without) == ([], 0)
    assert fleet.watch.good >= len(answers)


async def test_two_devices_of_one_person(stages: Set, cast: AsyncExitStack, redis_server: RedisServer) -> None:
    """With one refresh token for each person and client, two devices stay signed in through ten expiries."""
    manners = {"dex": True, "one_refresh_token_per_user": True, "path": "/dex"}
    store = {"redis": {"url": redis_server.url}}
    stage = await stages(peer=manners, provider={"refresh_tokens": "per_user"}, replicas=2, store=store)
    phone = await another_browser(cast, stage)
    await stage.sign_in()
    await stage.sign_in(browser=phone, replica=1)
    for number in range(10):
        stage.clock.pass_(660)
        devices = [stage.is_in(replica=number % 2), stage.is_in(browser=phone, replica=(number + 1) % 2)]
        assert all(await asyncio.gather(*devices)), number
    assert stage.peer.refreshes == ["rotated"] * len(stage.peer.refreshes)
    assert 10 <= len(stage.peer.refreshes) <= 20  # each session has an ID token of its own
