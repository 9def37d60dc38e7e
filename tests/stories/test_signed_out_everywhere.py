"""Signing out on one replica ends the session on the other: with the messages lost, the store emptied, the line cut."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.peers.browser_client import Browser
from tests.peers.chaos_proxy import ChaosProxy
from tests.peers.fleet import Fleet, Visitor, fleet
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import within

BOUND = 1.0  # seconds, as docs/sessions.md says
SLACK = 1.5  # for the requests that find out


class Scene(Visitor):
    """Two replicas, each on a line of its own to Redis, and somebody who is signed in and known on both."""

    def __init__(self, fleet: Fleet, lines: list[ChaosProxy], redis: RedisServer, browser: Browser) -> None:
        super().__init__(fleet, browser)
        self.lines, self.redis = lines, redis


@pytest.fixture
async def scene(tmp_path: Path, redis_server: RedisServer, browser: Browser) -> AsyncIterator[Scene]:
    """Everybody, and somebody signed in."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(ChaosProxy(redis_server.port)) for _ in range(2)]
        peer = await stack.enter_async_context(OpenIDPeer(alg="ES256"))
        stores = [{"redis": {"url": f"redis://127.0.0.1:{line.port}/0"}} for line in lines]
        made = Scene(await fleet(stack, tmp_path, stores=stores, peer=peer), lines, redis_server, browser)
        await made.begin()
        yield made


async def test_the_other_replica_and_its_websocket(scene: Scene) -> None:
    """Within a second the other replica refuses the cookie, and has cut the WebSocket that was open there."""
    url = scene.fleet.at("/ws", replica=1)
    headers = {"Cookie": scene.cookie, "Origin": scene.fleet.at("").rstrip("/")}
    async with scene.browser.session.ws_connect(url, headers=headers) as line:
        await line.send_str("hello")
        assert await line.receive_str() == "hello"
        await scene.sign_out()
        with within(BOUND + SLACK):
            assert (await line.receive(timeout=PATIENCE)).type in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            )
    await scene.out_within(BOUND + SLACK)


async def test_published_messages_are_lost(scene: Scene) -> None:
    """Redis delivers no message at all: re-reading the stream alone ends the session in time."""
    scene.redis.command("ACL", "SETUSER", "default", "resetchannels")
    await scene.sign_out()
    await scene.out_within(BOUND + SLACK)


async def test_redis_emptied_right_after(scene: Scene) -> None:
    """FLUSHALL in the moment of the sign-out: the replica that knows tells the store again; the other one learns."""
    await scene.sign_out()
    scene.redis.flush()
    await scene.out_within(2 * (BOUND + SLACK))  # one re-reading to append the mark again, one to learn it
    scene.redis.flush()
    assert [await scene.status(0), await scene.status(1)] == [401, 401]


async def test_a_replica_that_was_partitioned(scene: Scene) -> None:
    """A replica that could not reach Redis during the sign-out refuses the session as soon as it can again."""
    await scene.lines[1].to("hang")
    await scene.sign_out()
    scene.redis.flush()
    await scene.lines[1].to("pass")
    await scene.out_within(10.0)  # connections are tried again with a pause
    await asyncio.sleep(2 * BOUND)
    assert [await scene.status(0), await scene.status(1)] == [401, 401]


async def test_the_replica_that_signed_out_was_partitioned(scene: Scene) -> None:
    """The mark waits on the replica that made it, and ends the session elsewhere when the line is back."""
    await scene.lines[0].to("refuse")
    await scene.sign_out()
    assert await scene.status(1) == 200  # it cannot know
    await scene.lines[0].to("pass")
    await scene.out_within(10.0)


async def test_a_replica_that_was_paused(scene: Scene) -> None:
    """A replica that stood still during the sign-out (SIGSTOP) refuses the session within the bound again."""
    scene.fleet.replicas[1].program.send(signal.SIGSTOP)
    await scene.sign_out()
    await asyncio.sleep(BOUND)
    scene.fleet.replicas[1].program.send(signal.SIGCONT)
    await scene.out_within(BOUND + SLACK)
