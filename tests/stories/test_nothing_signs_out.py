"""While a hundred people work, the store, a replica and the provider break in turn: nobody is signed out, none fails.

``OUTAGE_SECONDS`` is how long an outage lasts; ``make soak`` runs these stories at full length.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from tests.peers.fleet import Fleet, Ledger, judge
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import lifetime, stretched

OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "3"))
DOWN = max(2 * OUTAGE, 10.0)  # the provider stays away longer than an ID token of ``LIFETIME`` lives
LIFETIME = 8.0 if DOWN < 20 else DOWN * 0.75  # on an idle machine: all must have signed in before the first expires
ALONE = 10.0  # seconds of an ID token where both Redis and a replica are away
TURN = 10.0  # seconds after expiry for which a renewal is left to the replica whose turn it is: docs/sessions.md
BEYOND = 5.0  # seconds that a hundred renewals may take beyond it
STEADY = 1.5
SLACK = 0.025  # seconds; below this a p99 is noise of the machine
pytestmark = pytest.mark.timeout(600 + 20 * OUTAGE)

Building = Callable[..., Awaitable[Fleet]]
Keep = Callable[[str, object], None]


async def test_redis_and_then_a_replica_is_gone(build_fleet: Building, redis_server: RedisServer, record: Keep) -> None:
    """FLUSHALL, a kill and a hang of Redis, and SIGKILL of one replica and then of the other, cost nobody anything."""
    fleet = await build_fleet({"url": redis_server.url})
    async with fleet.load() as load:
        async with load.phase("warming up", STEADY):
            pass
        async with load.phase("before", STEADY):
            pass
        async with load.phase("emptied", STEADY):
            await asyncio.to_thread(redis_server.flush)
        async with load.phase("killed", OUTAGE):
            await asyncio.to_thread(redis_server.kill)
        async with load.phase("back", STEADY):
            await asyncio.to_thread(redis_server.start)
        async with load.phase("hung", OUTAGE):
            redis_server.pause()
        async with load.phase("awake", STEADY):
            redis_server.resume()
        async with load.phase("replica killed", OUTAGE):
            await fleet.replicas[0].kill()
        await fleet.front.until({"r0": "DOWN", "r1": "UP"})
        async with load.phase("replica back", STEADY):
            await fleet.replicas[0].start()
            await fleet.front.until({"r0": "UP", "r1": "UP"})
        async with load.phase("the other replica killed", STEADY):
            await fleet.replicas[1].kill()
    judge(fleet, load, record)
    assert fleet.watch.expired == []
    made_again = Ledger(fleet.peer).refreshes_by_sid  # where the record is gone, by a replica that has only the cookie
    assert max(made_again.values(), default=0) <= 2
    before, hung = load.report("before").typical_p99, load.report("hung").typical_p99
    assert hung <= max(2 * before, stretched(SLACK)), (before, hung)


async def test_redis_and_a_replica_are_gone_at_once(
    build_fleet: Building, redis_server: RedisServer, record: Keep
) -> None:
    """Redis and one replica are killed in the same moment, and tokens expire before either is back.

    The replica that is left waits for the turn of the one that is gone, ten seconds after expiry at most; then it
    renews on its own.  One that starts without Redis is ready only when Redis is back.
    """
    alone = lifetime(ALONE)
    fleet = await build_fleet({"url": redis_server.url}, peer={"id_token_lifetime": alone})
    async with fleet.load() as load:
        async with load.phase("before", STEADY):
            pass
        async with load.phase("both killed", max(OUTAGE, alone + TURN)):
            await asyncio.gather(asyncio.to_thread(redis_server.kill), fleet.replicas[0].kill())
        async with asyncio.TaskGroup() as group:
            async with load.phase("replica started, Redis away", STEADY):
                group.create_task(fleet.replicas[0].start())
            assert (await fleet.front.states())["r0"] == "DOWN"  # without the marks it may not open a session
            async with load.phase("both back", STEADY):
                await asyncio.to_thread(redis_server.start)
                await fleet.front.until({"r0": "UP", "r1": "UP"})
    judge(fleet, load, record)
    began, ended = load.phases["both killed"]
    latest = max(fleet.watch.late, default=0.0)
    record("renewed by the replica that was left", Ledger(fleet.peer).refreshed(began, ended))
    record("seconds after its expiry that a token reached the application, at most", latest)
    assert Ledger(fleet.peer).refreshed(began, ended) >= 100
    assert latest < TURN + stretched(BEYOND)


FAULTS: dict[str, Callable[[OpenIDPeer], None]] = {
    "500": lambda peer: peer.break_storage(times=10**9),
    "429": lambda peer: peer.limit_rate(retry_after=1, times=10**9),
    "slow": lambda peer: peer.delay.update(token=LIFETIME / 4),
}


async def test_tokens_expire_while_the_provider_fails(
    build_fleet: Building, redis_server: RedisServer, record: Keep
) -> None:
    """FLUSHALL before renewals are due; then a provider that is down, answers 500, says 429, takes long.

    Each session is renewed once for each expiry, from what the replicas hold; while that cannot be, people work on.
    """
    lived, down = lifetime(LIFETIME), lifetime(DOWN)
    fleet = await build_fleet({"url": redis_server.url}, peer={"id_token_lifetime": lived})
    async with fleet.load() as load:
        async with load.phase("before", lived * 0.15):
            pass
        async with load.phase("emptied", lived * 0.9):
            await asyncio.to_thread(redis_server.flush)
        assert fleet.watch.expired == []
        async with load.phase("down", down):
            await fleet.peer.stop()
        await fleet.peer.start()
        assert len(fleet.watch.expired) > 0  # the outage did outlast the tokens
        for name, begin in FAULTS.items():
            begin(fleet.peer)
            async with load.phase(name, lived / 2):
                pass
            fleet.peer.token_answer = None
            fleet.peer.delay.clear()
        async with load.phase("well again", lived / 4):
            pass
    judge(fleet, load, record)
    ledger = Ledger(fleet.peer)
    emptied_at = load.phases["emptied"][0]  # a replica that had not met a session yet makes it again by one refresh
    soon = ledger.too_soon(0.8 * lived - 1.5)  # renewals begin after four fifths; times are whole seconds
    assert [pair for pair in soon if pair[0] > emptied_at] == []
    assert ledger.statuses.keys() == {200, 429, 500}
    assert len(ledger.refreshes_by_sid) == 100
    assert sum(ledger.refreshes_by_sid.values()) >= 150  # after the flush, and most of them again afterwards
