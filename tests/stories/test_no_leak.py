"""What work leaves behind in a process: nothing.  ``make soak`` does the same for the work of an hour."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from authproxy.app import _RETIRING, Authproxy
from authproxy.graph import Graph
from authproxy.settings.load import from_mapping
from authproxy.settings.schema import Settings
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp
from tests.soak.mixture import HOST, PEOPLE, endurance, settings_for

REQUESTS: Final = 400
RSS: Final = 6 * 2**20
"""Octets of resident memory that six rounds may add: less than 3 kB for each request."""
OBJECTS: Final = 1500
"""Objects of Python that they may add (connections to Redis come as they are needed): fewer than one per request."""


async def test_equal_rounds_leave_nothing_behind(tmp_path: Path) -> None:
    """Sign-ins, sign-outs, renewals, refusals, WebSockets, broken connections and reloads: neither memory nor file
    descriptors, tasks, sessions or graphs of earlier settings pile up in a real process."""
    async with endurance(tmp_path) as run:
        for _ in range(3):
            await run.round(REQUESTS)
        first, rounds = await run.sample(), 0
        while rounds < 6 or run.renewals < PEOPLE:
            await run.round(REQUESTS)
            rounds += 1
        last = await run.sample()
    assert run.surprises() == []
    assert last.grown(first, rss=RSS, objects=OBJECTS) == [], f"\n{first}\n{last}"


class House:
    """A proxy in this event loop, and everybody around it."""

    def __init__(self, peer: OpenIDPeer, app: UpstreamApp, redis: RedisServer) -> None:
        self._parts: Final = (peer, app, redis)

    def settings(self, number: int) -> Settings:
        """Settings that differ from those before."""
        data = settings_for(*self._parts, strict=bool(number % 2)) | {
            "public_url": "http://auth.test",
            "session": {"keys": [{"value": SESSION_KEY}], "idle": f"{number + 60}m"},
            "listen": {"address": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        }
        return from_mapping(data, Path(), {})


def graphs(proxy: Authproxy) -> int:
    """How many graphs of this proxy are alive."""
    gc.collect()
    return sum(isinstance(one, Graph) and one._lasting is proxy.lasting for one in gc.get_objects())


async def test_earlier_settings_are_freed(upstream_app: UpstreamApp, shared_redis: RedisServer) -> None:
    """After twenty reloads one graph is left, though pages and applications were used with each of them."""
    async with OpenIDPeer() as peer, Browser() as browser:
        house = House(peer, upstream_app, shared_redis)
        async with Authproxy(house.settings(0)) as proxy:
            port = proxy.addresses["public"].rpartition(":")[2]
            for number in range(1, 21):
                browser.forget()
                assert (await browser.open(f"http://{HOST}:{port}/")).status == 200
                await proxy.take(house.settings(number))
            await until(lambda: graphs(proxy) == 1)


@pytest.mark.parametrize("slowness", [0.0, 0.3], ids=["at once", "slowly"])
async def test_what_is_open_keeps_few_graphs(
    slowness: float, upstream_app: UpstreamApp, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a WebSocket open on each of them, only the newest eight of the earlier graphs are kept: also where one is
    still on its way out while the next must go."""
    monkeypatch.setattr(Authproxy, "_write_down", staticmethod(lambda graph: asyncio.sleep(slowness)))
    async with OpenIDPeer() as peer, Browser() as browser:
        house = House(peer, upstream_app, shared_redis)
        async with Authproxy(house.settings(0)) as proxy:
            url = f"http://{HOST}:{proxy.addresses['public'].rpartition(':')[2]}"
            assert (await browser.open(url)).status == 200
            async with AsyncExitStack() as stack:
                for number in range(1, 21):
                    socket = await stack.enter_async_context(browser.session.ws_connect(f"{url}/ws"))
                    await socket.send_str("hello")
                    await socket.receive(timeout=PATIENCE)
                    await proxy.take(house.settings(number))
                await until(lambda: graphs(proxy) <= _RETIRING + 1)
                assert graphs(proxy) > 1
            await until(lambda: graphs(proxy) == 1)


async def until(held: Callable[[], bool]) -> None:
    """Wait for what ends soon: tunnels take their way out, and nobody is told."""
    async with asyncio.timeout(PATIENCE):
        while not held():
            await asyncio.sleep(0.02)


async def test_no_task_outlives_its_proxy(upstream_app: UpstreamApp, shared_redis: RedisServer) -> None:
    """Once it is left, every task that it began has ended: those of reloads and of what was under way, too."""
    async with OpenIDPeer() as peer, Browser() as browser:
        house = House(peer, upstream_app, shared_redis)
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Authproxy(house.settings(0)))
            url = f"http://{HOST}:{proxy.addresses['public'].rpartition(':')[2]}"
            assert (await browser.open(url)).status == 200
            async with browser.session.ws_connect(f"{url}/ws") as socket:
                await socket.send_str("hello")
                await socket.receive(timeout=PATIENCE)
                await proxy.take(house.settings(1))
                others = {peer._port, upstream_app.port}
                assert len(ours(others)) > 5
                await stack.aclose()
                assert ours(others) == []


def ours(others: set[int]) -> list[str]:
    """The tasks that the proxy, or a library on its behalf, has under way: but those of servers on other ports."""
    running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return [repr(task) for task in running if _serves(task) not in others]


def _serves(task: asyncio.Task[object]) -> int | None:
    """The port of the connection that an aiohttp server's task is for."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    transport = getattr(frame.f_locals.get("self") if frame else None, "transport", None)
    return transport.get_extra_info("sockname")[1] if transport else None
