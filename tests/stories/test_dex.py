"""Users with several devices before Dex, which keeps one refresh token per user, connector and client.

Each story runs against the peer, and against a real Dex where ``dex`` (with browser sessions) or ``dex-2.45`` is on
PATH.  The settings are those of docs/how-to/dashboard.md, with ID tokens of a few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.peers.dex import missing
from tests.peers.dex_stage import PROVIDERS, DexStage, dex_stage
from tests.peers.redis_server import RedisServer

LIFETIME: Final = 6  # seconds of an ID token
WINDOW: Final = 2  # seconds of Dex's reuseInterval
OUTAGE: Final = 5.0  # seconds without Redis
EXPIRIES: Final = 2

Building = Callable[..., Awaitable[DexStage]]


@pytest.fixture(params=PROVIDERS)
async def build(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Building]:
    """Builds a stage before each provider in turn."""
    if request.param != "peer" and missing(request.param):
        pytest.skip(missing(request.param))
    async with AsyncExitStack() as stack:

        async def builder(**options: Any) -> DexStage:
            times = {"id_tokens": LIFETIME, "reuse_interval": WINDOW}
            return await dex_stage(stack, tmp_path, redis_server, request.param, **times | options)

        yield builder


async def all_in(stage: DexStage, expiries: int = EXPIRIES) -> None:
    """At each of the next expiries, every device gets its page with an ID token that is good."""
    for number in range(expiries):
        await stage.expired()
        assert await stage.click() == {}, (f"expiry {number + 1}", stage.transcript())


def users(count: int) -> tuple[str, ...]:
    return tuple(f"user{number}" for number in range(count))


async def test_redis_emptied_and_then_the_same_user_signs_in(build: Building) -> None:
    """C1: after FLUSHALL a sign-in on one more device ends no session of that user, with a single process."""
    stage = await build(people=users(4), replicas=1)
    for name in users(4):
        await (await stage.device(name)).sign_in()
    await stage.expired()
    assert await stage.click() == {}  # renewed once, so that the generation of the first device is ahead
    stage.redis.flush()
    for name in users(4):
        await (await stage.device(name)).sign_in()
    await all_in(stage)


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_a_second_device_signs_in_while_redis_is_away(build: Building, data: str) -> None:
    """C2: Redis hangs or is killed for five seconds, a device signs in meanwhile: all sessions live on."""
    stage = await build(people=users(4))
    for name in users(4):
        await (await stage.device(name, replica=0)).sign_in()
    await stage.expired()
    assert await stage.click() == {}
    (stage.redis.pause if data == "kept" else stage.redis.kill)()
    back = asyncio.get_running_loop().time() + OUTAGE
    for name in users(4):
        await (await stage.device(name, replica=1)).sign_in()
    await asyncio.sleep(back - asyncio.get_running_loop().time())
    (stage.redis.resume if data == "kept" else stage.redis.start)()
    await all_in(stage)


async def test_tabs_that_sign_in_at_once(build: Building) -> None:
    """C3: two or four tabs of a browser sign in at once, and nothing is broken: the next expiry ends no session."""
    stage = await build(people=users(8))
    for name in users(8):
        await (await stage.device(name)).sign_in()  # the first sign-ins of a user at once are 500 at Dex itself
    devices = [await stage.device(name) for name in users(8)]
    await asyncio.gather(*(device.sign_in(tabs=2 if device.number % 2 else 4) for device in devices))
    await all_in(stage)


async def test_three_devices_of_one_user(build: Building) -> None:
    """Three devices of each user stay signed in on two replicas when nothing is broken."""
    stage = await build(people=users(4))
    for name in users(4):
        for _ in range(3):
            await (await stage.device(name)).sign_in()
    await all_in(stage)
