"""Two real processes on one Redis share one count."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from tests.peers.program import Program
from tests.peers.redis_server import RedisServer

REPLICA = """
import asyncio, sys
from authproxy.errors import TooManyAttempts
from authproxy.settings.schema import Throttle as Limits
from authproxy.store.redis import RedisStore
from authproxy.throttle import Throttle, client_bucket, user_bucket

async def main():
    store = RedisStore.standalone(sys.argv[1], budget=10.0)
    limits = Limits.model_validate({"login": {"burst": 20, "every": "600s"}})
    throttle = Throttle(store, limits, key=b"the same on all replicas")
    ready = asyncio.Event()
    await store.subscribe("go", lambda message: ready.set())
    print("waiting")
    await ready.wait()
    passed = 0
    for n in range(20):
        try:
            await throttle.charge(user_bucket(" ALICE " if n % 2 else "alice"), client_bucket("192.0.2.1"))
            passed += 1
        except TooManyAttempts as refused:
            assert 1 <= refused.retry_after <= 600
    print("passed", passed)
    await store.close()

asyncio.run(main())
"""


def _passed(line: str) -> int | None:
    return int(line.split()[1]) if line.startswith("passed") else None


async def test_two_processes_pass_exactly_the_burst_together(redis_server: RedisServer) -> None:
    """40 attempts over two replicas, begun at the same moment: exactly 20 pass."""
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(Program(sys.executable, "-c", REPLICA, redis_server.url)) for _ in range(2)
        ]
        for replica in replicas:
            await replica.line(lambda line: True if line == "waiting" else None)
        assert redis_server.command("PUBLISH", "authproxy:go", "now") == 2
        passed = [await replica.line(_passed) for replica in replicas]
        assert [await replica.ended() for replica in replicas] == [0, 0]
    assert sum(passed) == 20
