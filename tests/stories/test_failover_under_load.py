"""A hundred people work while Sentinel and Cluster replace a master, replicas are restarted, and secrets are rotated.

Nobody is signed out, and no request of theirs fails.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.fleet import Fleet, Ledger, Visitor, judge
from tests.peers.redis_cluster import RedisCluster
from tests.peers.redis_sentinel import SERVICE, RedisSentinel
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import lifetime, stretched

LIFETIME = 12.0  # seconds of an ID token; it is renewed from four fifths of that on
SILENCE = 3000  # milliseconds after which a silent master is replaced, so that renewals fall due before it is
TURN = 10.0  # seconds after expiry for which a renewal is left to the other replica (docs/sessions.md)
EARLY = 0.5  # seconds before the first renewal is due
BOUND = 1.0 + 1.5  # seconds in which a sign-out reaches the other replica (docs/sessions.md), and is found out
IDLE = 8.0  # seconds; a cookie is sealed again every quarter of it
STEADY = 1.5
WHOLE = 1.0  # times of cookies are whole seconds
TRANSIT = 0.1  # seconds from the decision, when the token was good, to the application
pytestmark = pytest.mark.timeout(600)

Building = Callable[..., Awaitable[Fleet]]
Keep = Callable[[str, object], None]
Group = RedisSentinel | RedisCluster


@pytest.fixture(params=["Sentinel", "Cluster"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Redis with a replica for each master, which takes a while to notice that one is gone."""
    silence = int(lifetime(SILENCE))
    made: Group = (
        RedisSentinel(down_after=silence) if request.param == "Sentinel" else RedisCluster(node_timeout=silence)
    )
    with made:
        yield made


def settings_of(group: Group) -> dict[str, Any]:
    """The store's settings for a group."""
    if isinstance(group, RedisSentinel):
        return {"sentinel": {"nodes": group.nodes, "service": SERVICE}}
    return {"cluster": {"nodes": group.nodes}}


def replace_master(group: Group) -> tuple[float, float]:
    """Kill a master, and wait until another node has taken over; the time before and after."""
    began = time.time()
    group.wait_moved(group.kill_master())
    return began, time.time()


async def test_a_master_is_replaced_while_tokens_are_renewed(
    build_fleet: Building, group: Group, browser: Browser, record: Keep
) -> None:
    """The renewals of a hundred people fall between the death of a master and the day of the next one.

    Some succeed in that time.  A token reaches the application after its expiry only where it is the other replica's
    turn to renew it, and then within the bound.  Afterwards a sign-out on one replica ends the session on the other.
    """
    lived = lifetime(LIFETIME)
    fleet = await build_fleet(settings_of(group), peer={"id_token_lifetime": lived})
    visitor = Visitor(fleet, browser)
    async with fleet.load() as load:
        due = Ledger(fleet.peer).first_made + 0.8 * lived
        async with load.phase("before", due - EARLY - 1.0 - time.time()):
            pass
        fleet.peer.current_user = "alice"
        await visitor.begin()
        async with load.phase("master killed", STEADY):
            began, moved = await asyncio.to_thread(replace_master, group)
        await visitor.sign_out()
        record("signed out on the other replica after seconds", await visitor.out_within(BOUND))
        async with load.phase("after", STEADY):
            pass
    judge(fleet, load, record)
    record("without a master for seconds", moved - began)
    record("renewed meanwhile", Ledger(fleet.peer).refreshed(began, moved))
    record("tokens that reached the application after their expiry, by seconds", fleet.watch.late)
    assert Ledger(fleet.peer).refreshed(began, moved) >= 10
    assert max(fleet.watch.late, default=0.0) < stretched(TURN)


def changed(replica: AuthproxyProcess, **sections: Any) -> None:
    """Change sections of a replica's settings file."""
    data = yaml.safe_load(replica.file.read_text())
    replica.file.write_text(yaml.safe_dump(data | sections, sort_keys=False))


async def reloaded(replica: AuthproxyProcess) -> None:
    """SIGHUP; wait until the replica has taken its settings."""
    before = reloads(replica)
    replica.program.send(signal.SIGHUP)
    await replica.program.until(lambda: reloads(replica) > before, "it has taken its settings")


def reloads(replica: AuthproxyProcess) -> int:
    """How often the process has taken its settings anew."""
    return sum(one["event"] == "reload" and one["outcome"] == "ok" for one in replica.audit())


async def restarted(fleet: Fleet, replica: AuthproxyProcess) -> None:
    """It goes as one should, and comes back; HAProxy has seen it."""
    assert await replica.stop() == 0, replica.program.transcript()
    await replica.start()
    await fleet.front.until({"r0": "UP", "r1": "UP"})


async def with_keys(fleet: Fleet, *keys: dict[str, str]) -> None:
    """Give the replicas these session keys, one replica after the other."""
    for replica in fleet.replicas:
        session = yaml.safe_load(replica.file.read_text())["session"]
        changed(replica, session=session | {"keys": list(keys)})
        await reloaded(replica)


def new_key() -> dict[str, str]:
    """A session key."""
    return {"value": base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")}


async def test_replicas_are_restarted_and_keys_rotated(
    build_fleet: Building, redis_server: RedisServer, browser: Browser, record: Keep
) -> None:
    """One replica after the other goes and comes back; a session key is added, made the first, and the old one removed.

    Before the removal every cookie that is in use was sealed again; after it, a replica that was restarted, and so
    remembers nothing, opens them with the new key alone, and nobody opens one that the old key sealed.
    """
    idle = lifetime(IDLE)
    fleet = await build_fleet(
        {"url": redis_server.url}, listen={"drain": {"pause": "2s"}}, session={"idle": f"{idle:.0f}s"}
    )
    old, new = yaml.safe_load(fleet.replicas[0].file.read_text())["session"]["keys"][0], new_key()
    visitor = Visitor(fleet, browser)
    async with fleet.load() as load:
        async with load.phase("before", STEADY):
            pass
        for number, replica in enumerate(fleet.replicas):
            async with load.phase(f"restart {number}", STEADY):
                await restarted(fleet, replica)
        async with load.phase("new key added"):
            fleet.peer.current_user = "alice"
            await visitor.begin()
            await with_keys(fleet, old, new)
        async with load.phase("new key first"):
            await with_keys(fleet, new, old)
            await load.everybody(since=time.time() + idle / 4 + WHOLE)
        assert await visitor.status(0) == 200
        async with load.phase("old key removed", STEADY):
            await with_keys(fleet, new)
            assert [await visitor.status(0), await visitor.status(1)] == [401, 401]
        async with load.phase("restart with the new key", STEADY):
            await restarted(fleet, fleet.replicas[0])
    judge(fleet, load, record)


async def test_the_client_secret_is_rotated(
    build_fleet: Building, redis_server: RedisServer, tmp_path: Path, record: Keep
) -> None:
    """The provider takes another client secret while tokens are renewed; replicas learn it from a file, by a reload."""
    file = tmp_path / "client-secret"
    file.write_text("the-first-client-secret")
    lived = lifetime(LIFETIME)
    fleet = await build_fleet(
        {"url": redis_server.url},
        peer={"id_token_lifetime": lived, "client_secret": "the-first-client-secret"},
        provider={"client_secret": {"file": str(file)}},
    )
    async with fleet.load() as load:
        due = Ledger(fleet.peer).first_made + 0.8 * lived
        async with load.phase("before", due - EARLY - time.time()):
            pass
        async with load.phase("another secret at the provider", STEADY):
            fleet.peer.client_secret = "another-client-secret"
        async with load.phase("reload"):
            file.write_text("another-client-secret")
            for replica in fleet.replicas:
                await reloaded(replica)
        async with load.phase("after", lived / 2):
            pass
    judge(fleet, load, record)
    ledger = Ledger(fleet.peer)
    assert ledger.statuses.keys() == {200, 401}  # the reload did come after the change
    assert len(ledger.refreshes_by_sid) == 100  # those that were refused were renewed later
    assert ledger.refreshed(load.phases["reload"][0], load.phases["after"][1]) >= 5
    assert [late for late in fleet.watch.late if late > stretched(TRANSIT)] == []
