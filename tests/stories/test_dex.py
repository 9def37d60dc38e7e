"""Users with several devices before Dex, which keeps one refresh token per user, connector and client.

Each story runs against the peer, and against a real Dex where ``dex`` (with browser sessions) or ``dex-2.45`` is on
PATH.  The settings are those of docs/how-to/dashboard.md, with ID tokens of a few seconds.  ``DEX_ORDERS`` is how many
random orders are tried; ``make soak`` tries 50.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.peers.dex import missing
from tests.peers.dex_stage import PROVIDERS, Device, DexStage, dex_stage
from tests.peers.openid_dex import DexPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

LIFETIME: Final = 6  # seconds of an ID token
WINDOW: Final = 2  # seconds of Dex's reuseInterval
OUTAGE: Final = 5.0  # seconds without Redis
EXPIRIES: Final = 2
ORDERS: Final = int(os.environ.get("DEX_ORDERS", "2"))

pytestmark = pytest.mark.timeout(240)

Building = Callable[..., Awaitable[DexStage]]


# Both versions of Dex, which takes long, where many orders are asked for.
@pytest.fixture(params=PROVIDERS if ORDERS > 2 else PROVIDERS[:2])
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
    """At each of the next expiries, every device gets its page, and an ID token that is good."""
    for _ in range(expiries):
        await stage.expired()
        await stage.renewed()


def users(count: int) -> tuple[str, ...]:
    return tuple(f"user{number}" for number in range(count))


async def test_redis_emptied_and_then_the_same_user_signs_in(build: Building) -> None:
    """C1: after FLUSHALL a sign-in on one more device ends no session of that user, with a single process."""
    stage = await build(people=users(4), replicas=1)
    for name in users(4):
        await (await stage.device(name)).sign_in()
    await all_in(stage, 1)  # renewed once, so that the generation of the first device is ahead
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
    await all_in(stage, 1)
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


@pytest.mark.parametrize("build", ["peer"], indirect=True)
async def test_a_token_that_lost_the_race_at_dex(build: Building) -> None:
    """Dex answers 500 for the token of a sign-in that lost a race, for good: the user's other token is tried.

    ``test_codes_that_are_redeemed_at_once`` shows the answer with a real Dex.  Here the token that lost is the
    newer one by its ``iat``, as two replicas of Dex with different clocks make it.
    """
    stage = await build(people=users(4), race_seconds=60.0)
    assert isinstance(stage.provider, DexPeer)
    for name in users(4):
        stage.provider.clock = lambda: time.time() + 2.0
        await (await stage.device(name)).sign_in()
        stage.provider.clock = time.time
        await (await stage.device(name)).sign_in()
    await all_in(stage)


async def test_the_device_with_the_newest_token_signs_out_and_redis_is_emptied(build: Building) -> None:
    """The first device goes on: the token that the second one brought is kept while the user has a session."""
    stage = await build(people=users(4))
    for name in users(4):
        await (await stage.device(name)).sign_in()
        second = await stage.device(name)
        await second.sign_in()
        await second.sign_out()
    stage.redis.flush()
    await all_in(stage)


async def test_three_devices_of_one_user(build: Building) -> None:
    """Three devices of each user stay signed in on two replicas when nothing is broken."""
    stage = await build(people=users(4))
    for name in users(4):
        for _ in range(3):
            await (await stage.device(name)).sign_in()
    await all_in(stage)


# --- any order ---


class Order:
    """Steps in an order that the seed chooses, and what must hold in each of them: only a sign-out ends a session."""

    def __init__(self, stage: DexStage, seed: int) -> None:
        self.stage, self.chance = stage, random.Random(seed)
        self.story: list[str] = []
        self.ended: list[Device] = []
        self.dex_is_up = self.redis_is_up = True

    def __repr__(self) -> str:
        return " / ".join(self.story)

    async def run(self) -> None:
        """The whole order: devices, six steps, and two expiries when everything is back."""
        for name in users(3):
            for _ in range(self.chance.choice((2, 3))):
                await (await self.stage.device(name)).sign_in()
        steps = [
            self.flush, self.without_redis, self.with_redis_hung, self.without_dex, self.another_device, self.tabs,
            self.sign_out, self.expiry,
        ]  # fmt: skip
        for step in self.chance.sample(steps, 6):
            self.story.append(step.__name__)
            await step()
            await self.click()
        self.story.append("all is back")
        await self.settled()
        await all_in(self.stage)
        for device in self.ended:
            assert await device.click() == 401, f"{device} was signed out: {self}"

    async def click(self) -> None:
        """No device is asked to sign in; 503 is an answer while Dex or Redis is away."""
        refused = {one: status for one, status in (await self.stage.click()).items() if status != 503}
        assert not refused, f"{refused} after {self}\n{self.stage.transcript()}"

    async def settled(self) -> None:
        """Wait until every device gets its page again: what was tried in an outage is tried again later."""
        async with asyncio.timeout(PATIENCE):
            while await self.stage.click():
                await self.click()
                await asyncio.sleep(0.3)  # other processes: there is no event to wait for

    async def meanwhile(self) -> None:
        """What happens in an outage, and how long it lasts."""
        steps = [self.click, self.expiry, *([self.another_device, self.tabs] if self.dex_is_up else [])]
        step = self.chance.choice(steps)
        self.story.append(f"meanwhile {step.__name__}")
        await step()
        await asyncio.sleep(self.chance.choice((0.0, 1.0, 3.0)))

    async def flush(self) -> None:
        """Redis is emptied."""
        self.stage.redis.flush()

    async def without_redis(self) -> None:
        """Redis is killed, and comes back empty."""
        self.stage.redis.kill()
        self.redis_is_up = False
        await self.meanwhile()
        self.stage.redis.start()
        self.redis_is_up = True

    async def with_redis_hung(self) -> None:
        """Redis hangs, and goes on with what it held."""
        self.stage.redis.pause()
        self.redis_is_up = False
        await self.meanwhile()
        self.stage.redis.resume()
        self.redis_is_up = True

    async def without_dex(self) -> None:
        """Dex is stopped and started again."""
        await self.stage.provider.stop()
        self.dex_is_up = False
        await self.meanwhile()
        await self.stage.provider.start()
        self.dex_is_up = True

    async def another_device(self) -> None:
        """A user signs in on one more device."""
        await (await self.stage.device(self.chance.choice(users(3)))).sign_in()

    async def tabs(self) -> None:
        """A user signs in on one more device, in two or four tabs at once."""
        await (await self.stage.device(self.chance.choice(users(3)))).sign_in(
            tabs=self.chance.choice((2, 4)), may_wait=not self.redis_is_up
        )

    async def sign_out(self) -> None:
        """One device signs out; the user's others go on."""
        device = self.chance.choice([one for one in self.stage.devices if one.is_in])
        await device.sign_out()
        self.ended.append(device)

    async def expiry(self) -> None:
        """Every ID token expires, and every device asks at once."""
        await self.stage.expired()
        await self.click()


@pytest.mark.parametrize("seed", range(ORDERS))
async def test_any_order(build: Building, seed: int) -> None:
    """Redis emptied, killed and hung, Dex restarted, devices, tabs and sign-outs: only a sign-out ends a session."""
    order = Order(await build(people=users(3)), seed)
    try:
        await order.run()
    except BaseException as error:
        error.add_note(f"after {order}")
        raise
