"""A hundred people work while Sentinel and Cluster replace a master, replicas are restarted, and keys are rotated.

Nobody is signed out, and no request of theirs fails.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.fleet import Fleet, Ledger, fleet
from tests.peers.load import Load
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.redis_cluster import RedisCluster
from tests.peers.redis_sentinel import SERVICE, RedisSentinel
from tests.peers.redis_server import RedisServer

LIFETIME = 12.0  # seconds of an ID token: it expires while the master is being replaced
STEADY = 1.5
pytestmark = pytest.mark.timeout(240)

Building = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Building]:
    """Builds two replicas behind HAProxy over one store; the provider rotates strictly."""
    async with AsyncExitStack() as stack:

        async def builder(store: dict[str, Any], *, peer: dict[str, Any] | None = None, **sections: Any) -> Fleet:
            provider = await stack.enter_async_context(OpenIDPeer(**{"alg": "ES256", **(peer or {})}))
            return await fleet(stack, tmp_path, stores=[{"redis": store}] * 2, peer=provider, **sections)

        yield builder


def judge(fleet: Fleet, load: Load) -> None:
    """Nobody noticed anything, and no refresh token was spent twice or dead."""
    for phase in load.phases:
        assert load.report(phase).unharmed, f"{phase}: {load.report(phase)}\n{fleet.transcript()}"
    ledger = Ledger(fleet.peer)
    assert (ledger.dead, ledger.spent_twice) == (0, [])
    assert fleet.watch.without == 0


async def test_sentinel_replaces_the_master(build: Building, redis_sentinel: RedisSentinel) -> None:
    """The master is killed while tokens expire; the sentinels choose another one."""
    store = {"sentinel": {"nodes": redis_sentinel.nodes, "service": SERVICE}}
    fleet = await build(store, peer={"id_token_lifetime": LIFETIME})
    async with fleet.load() as load:
        async with load.phase("before", STEADY):
            pass
        async with load.phase("master killed", LIFETIME):
            before = await asyncio.to_thread(redis_sentinel.kill_master)
            await asyncio.to_thread(redis_sentinel.wait_moved, before)
        async with load.phase("after", STEADY):
            pass
    judge(fleet, load)


async def test_a_cluster_loses_a_master(build: Building, redis_cluster: RedisCluster) -> None:
    """One of three masters is killed while tokens expire; its replica takes over."""
    store = {"cluster": {"nodes": redis_cluster.nodes}}
    fleet = await build(store, peer={"id_token_lifetime": LIFETIME})
    async with fleet.load() as load:
        async with load.phase("before", STEADY):
            pass
        async with load.phase("master killed", LIFETIME):
            before = await asyncio.to_thread(redis_cluster.kill_master)
            await asyncio.to_thread(redis_cluster.wait_moved, before)
        async with load.phase("after", STEADY):
            pass
    judge(fleet, load)


def changed(replica: AuthproxyProcess, **sections: Any) -> None:
    """Change sections of a replica's settings file."""
    data = yaml.safe_load(replica.file.read_text())
    replica.file.write_text(yaml.safe_dump(data | sections, sort_keys=False))


async def reloaded(replica: AuthproxyProcess, count: int) -> None:
    """SIGHUP; wait until the replica has taken its settings for the ``count``-th time."""
    replica.program.send(signal.SIGHUP)
    await replica.audited(lambda record: record["event"] == "reload" and record["outcome"] == "ok")
    async with asyncio.timeout(20):
        while sum(record["event"] == "reload" for record in replica.audit()) < count:
            await asyncio.sleep(0.02)  # another process: there is no event to wait for


def new_key() -> dict[str, str]:
    """A session key."""
    return {"value": base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")}


async def test_replicas_are_restarted_and_keys_rotated(build: Building, redis_server: RedisServer) -> None:
    """First one replica after the other goes and comes back; then a new session key is added, and made the first."""
    fleet = await build({"url": redis_server.url}, listen={"drain": {"pause": "2s"}})
    old, new = None, new_key()
    async with fleet.load() as load:
        async with load.phase("before", STEADY):
            pass
        for number, replica in enumerate(fleet.replicas):
            async with load.phase(f"restart {number}", STEADY):
                assert await replica.stop() == 0, replica.program.transcript()
                await replica.start()
                await fleet.front.until({"r0": "UP", "r1": "UP"})
        async with load.phase("keys", STEADY):
            for step in (1, 2):
                for replica in fleet.replicas:
                    old = old or yaml.safe_load(replica.file.read_text())["session"]["keys"][0]
                    changed(replica, session={"keys": [old, new] if step == 1 else [new, old]})
                    await reloaded(replica, step)
        async with load.phase("after", STEADY):
            pass
    judge(fleet, load)
