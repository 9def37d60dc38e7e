"""Redis behind Sentinel and Redis Cluster: nodes killed, hung and moved under a loop of verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from authproxy.errors import StoreUnavailable
from authproxy.observe.metrics import Metrics
from authproxy.settings import schema
from authproxy.store.address import node_address
from authproxy.store.links import Node, Reach
from authproxy.store.lookup import PAUSE
from authproxy.store.opened import open_store
from authproxy.store.redis import RedisStore
from tests.conformance.test_store_redis import _certificate
from tests.peers.program import PATIENCE, free_port
from tests.peers.redis_cluster import RedisCluster
from tests.peers.redis_sentinel import SERVICE, RedisSentinel
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import stretched, within

BUDGET = 0.15
LATE = 1.0  # seconds that a verb may take with a budget of 0.15
Password = Callable[[], str]


def node(text: str) -> Node:
    host, _, port = text.rpartition(":")
    return host, int(port)


def reach(username: str | None = None, password: Password | None = None) -> Reach:
    return lambda where: node_address(where, username=username, password=password, tls=False, ca=None)


def opened(
    group: RedisSentinel | RedisCluster,
    budget: float = BUDGET,
    who: Reach | None = None,
    sentinels: Reach | None = None,
) -> RedisStore:
    """A store on ``group``, as ``who``; ``budget`` is that of an idle machine."""
    budget = stretched(budget)
    nodes, data = [node(text) for text in group.nodes], who or reach()
    if isinstance(group, RedisSentinel):
        return RedisStore.sentinel(nodes, SERVICE, reach=data, ask=sentinels or reach(), budget=budget)
    return RedisStore.cluster(nodes, reach=data, budget=budget)


@asynccontextmanager
async def store_on(
    group: RedisSentinel | RedisCluster,
    budget: float = BUDGET,
    who: Reach | None = None,
    sentinels: Reach | None = None,
) -> AsyncIterator[RedisStore]:
    store = opened(group, budget, who, sentinels)
    try:
        yield store
    finally:
        await store.close()


async def worked(verb: Awaitable[object]) -> bool:
    """Whether the store could do it."""
    try:
        await verb
    except StoreUnavailable:
        return False
    return True


async def outage(store: RedisStore, key: str, moved: Callable[[], object]) -> None:
    """Write in a loop until ``moved`` is over and writes work; every verb keeps its budget meanwhile."""
    moving = asyncio.ensure_future(asyncio.to_thread(moved))
    async with asyncio.timeout(PATIENCE):
        while True:
            with within(LATE):
                done = await worked(store.put(key, b"v", ttl=60))
            if done and moving.done():
                break
            await asyncio.sleep(0.02)
    await moving


async def heard_again(store: RedisStore, heard: asyncio.Queue[bytes]) -> None:
    """Publish until the listener hears it."""
    async with asyncio.timeout(PATIENCE):
        while heard.empty():
            await worked(store.publish("c", b"again"))
            await asyncio.sleep(0.02)


async def settled(store: RedisStore) -> None:
    """Wait until the store answers."""
    async with asyncio.timeout(PATIENCE):
        while not await worked(store.put("warm", b"v", ttl=60)):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["kill", "hang", "planned"])
async def test_sentinel_failover(how: str) -> None:
    """Killed, hung or moved on purpose: each verb keeps its budget, and writes and the listener find the new master."""
    with RedisSentinel() as group:
        async with store_on(group) as store:
            await settled(store)
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            await store.subscribe("c", heard.put_nowait)
            before = group.master()
            if how == "planned":
                moved: Callable[[], object] = group.failover
            else:
                (before.kill if how == "kill" else before.pause)()
                moved = lambda: group.wait_moved(before)  # noqa: E731
            await outage(store, "k", moved)
            async with asyncio.timeout(PATIENCE):  # until it is told, a master that was moved away takes writes
                while group.master().command("GET", "authproxy:k") != b"v":
                    await worked(store.put("k", b"v", ttl=60))
            await heard_again(store, heard)
            before.resume()


async def test_a_hung_sentinel_costs_a_moment_only() -> None:
    """The first sentinel hangs: the next one is asked, inside the budget of the verb."""
    with RedisSentinel() as group:
        group.sentinels[0].pause()
        async with store_on(group, budget=2.0) as store:
            assert await worked(store.put("k", b"v", ttl=60))


async def test_without_sentinels_verbs_go_on_and_a_new_store_says_so() -> None:
    """Sentinels that are away do not matter while the master answers."""
    with RedisSentinel() as group:
        async with store_on(group, budget=5.0) as store, store_on(group) as late:
            await store.put("k", b"v", ttl=60)
            for sentinel in group.sentinels:
                sentinel.kill()
            assert await store.get("k") == b"v"
            with pytest.raises(StoreUnavailable, match="redis: no sentinel names a master"):
                await late.get("k")


@pytest.mark.parametrize("how", ["kill", "hang", "planned"])
async def test_cluster_failover(how: str) -> None:
    """A master is lost: its keys come back with its replica, and those of the others never had to wait."""
    with RedisCluster() as group:
        async with store_on(group) as store:
            await settled(store)
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            await store.subscribe("c", heard.put_nowait)
            before = group.master("authproxy:k")
            others = [key for key in "abcdefgh" if group.master(f"authproxy:{key}") is not before]
            for key in others:  # connections are there
                await worked(store.put(key, b"v", ttl=60))
            if how == "planned":
                moved: Callable[[], object] = lambda: group.failover("authproxy:k")  # noqa: E731
            else:
                (before.kill if how == "kill" else before.pause)()
                moved = lambda: group.wait_moved(before)  # noqa: E731
            failing = asyncio.ensure_future(outage(store, "k", moved))
            answers: list[bool] = []
            while not failing.done():
                answers.append(await worked(store.get(others[len(answers) % len(others)])))
                await asyncio.sleep(0.02)
            await failing
            assert answers.count(True) > 0.9 * len(answers)
            await heard_again(store, heard)
            before.resume()


async def test_a_key_on_its_way_is_followed(shared_cluster: RedisCluster) -> None:
    """A slot that moves to another node: ASK while it moves, MOVED afterwards, and no verb fails."""
    source = shared_cluster.master("authproxy:k")
    target = next(one for one in shared_cluster.masters if one is not source)
    slot = source.command("CLUSTER", "KEYSLOT", "authproxy:k")
    ids = [one.command("CLUSTER", "MYID") for one in (source, target)]
    assert isinstance(slot, int)
    async with store_on(shared_cluster, budget=5.0) as store:
        await store.ping()
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])  # type: ignore[arg-type]
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])  # type: ignore[arg-type]
        assert await store.swap("k", None, b"asked", ttl=60)
        assert await store.get("k") == b"asked"
        for one in (target, source):
            one.command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])  # type: ignore[arg-type]
        assert await store.get("k") == b"asked"
        assert await store.take("k") == b"asked"


MINIMAL = (
    "resetkeys ~authproxy:* resetchannels &authproxy:* -@all +get +set +getdel +del +eval +evalsha +hget +hmget +hset"
    " +pexpire +pttl +sadd +srem +smembers +xadd +xrange +xdel +publish +subscribe +unsubscribe +time +ping"
)


async def every_verb(store: RedisStore) -> None:
    """Each verb once, so that a missing permission is seen."""
    await store.put("k", b"v", ttl=60)
    assert await store.get("k") == await store.take("k")
    await store.swap("k", None, b"v", ttl=60)
    await store.delete("k")
    await store.lease("l", "me", ttl=60)
    await store.release("l", "me")
    await store.tally("b", burst=2, every=60)
    await store.tally("b", burst=2, every=60)
    await store.give_back("b", every=60)
    await store.give_back("b", every=60)
    await store.add("s", "m", ttl=60)
    assert await store.members("s") == {"m"}
    await store.remove("s", "m")
    await store.append("t", b"v", ttl=0.001)
    await asyncio.sleep(0.01)
    await store.append("t", b"v", ttl=60)
    await store.read("t")
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    end = await store.subscribe("c", heard.put_nowait)
    await heard_again(store, heard)
    await end()
    await store.ping()


async def test_the_documented_permissions_are_enough_and_passwords_rotate() -> None:
    """The ACL of the manual carries every verb; two passwords, then the new one alone, and no verb fails."""
    manual = (Path(__file__).parents[2] / "docs/how-to/redis.md").read_text(encoding="utf-8")
    assert all(word in manual for word in MINIMAL.split())
    with RedisSentinel() as sentinel, RedisCluster() as cluster:
        for group, extra in ((sentinel, ()), (cluster, ("+cluster|slots", "+asking"))):
            held = "first-password"
            for server in group.servers:
                server.command("ACL", "SETUSER", "authproxy", "on", ">first-password", *MINIMAL.split(), *extra)
            async with store_on(group, 10.0, reach("authproxy", lambda: held)) as store:  # noqa: B023
                await every_verb(store)
                for server in group.servers:
                    server.command("ACL", "SETUSER", "authproxy", ">second-password")
                held = "second-password"
                for server in group.servers:
                    server.command("ACL", "SETUSER", "authproxy", "<first-password")
                    server.command("CLIENT", "KILL", "USER", "authproxy")
                await asyncio.sleep(0.05)
                await store.put("k", b"v", ttl=60)
                await every_verb(store)


async def test_the_sentinels_have_a_password_of_their_own() -> None:
    """It is given to sentinels alone; without it no master is found."""
    with RedisSentinel(password="of-the-data", sentinel_password="of-the-sentinels") as group:
        data, ask = reach(None, lambda: "of-the-data"), reach(None, lambda: "of-the-sentinels")
        async with store_on(group, 10.0, data, ask) as store, store_on(group, 2.0, data) as stranger:
            await store.put("k", b"v", ttl=60)
            with pytest.raises(StoreUnavailable, match="no sentinel names a master"):
                await stranger.get("k")


async def test_the_settings_open_a_cluster_over_tls(tmp_path: Path) -> None:
    """``ca`` asks for TLS; a cluster whose certificate another authority signed is not spoken to."""
    own, other = _certificate(tmp_path / "ca", "127.0.0.1"), _certificate(tmp_path / "other", "127.0.0.1")
    files = ["--tls-cert-file", own, "--tls-key-file", f"{own}.key", "--tls-ca-cert-file", own]
    port = free_port()
    alone = ["--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes"]
    with RedisServer("--tls-port", str(port), "--tls-auth-clients", "no", *alone, *files) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        cluster = {"nodes": [f"127.0.0.1:{port}"]}
        shape = schema.Store.model_validate({"redis": {"cluster": cluster, "ca": own}})
        store = open_store(shape, budget=10.0)
        async with asyncio.timeout(PATIENCE):
            while not await worked(store.put("k", b"v", ttl=60)):
                await asyncio.sleep(0.02)
        assert server.command("GET", "authproxy:k") == b"v"
        await store.close()
        stranger = open_store(schema.Store.model_validate({"redis": {"cluster": cluster, "ca": other}}), budget=10.0)
        with pytest.raises(StoreUnavailable, match="no node of the cluster answers"):
            await stranger.ping()
        await stranger.close()


async def test_the_figures_say_whether_redis_answers(redis_server: RedisServer) -> None:
    """Answered, unanswered three times, then not asked: each call is counted, and up follows the last one."""
    metrics = Metrics()
    shape = schema.Store.model_validate({"redis": {"url": redis_server.url}})
    store = open_store(shape, told=metrics.store)
    redis_server.command("LPUSH", "authproxy:list", "x")
    assert not await worked(store.get("list"))
    assert b"authproxy_store_up 1.0" in metrics.text()
    redis_server.kill()
    for _ in range(4):
        await worked(store.get("k"))
    await store.close()
    text = metrics.text()
    for line in ("up 0.0", *(f'failures_total{{kind="{kind}"}} 1.0' for kind in ("error", "not_asked"))):
        assert f"authproxy_store_{line}\n".encode() in text
    assert b'authproxy_store_failures_total{kind="unanswered"} 3.0' in text


async def test_a_demoted_master_that_keeps_its_connections_is_left_at_once() -> None:
    """READONLY means that nothing was done: the master is looked up and the same verb succeeds there."""
    with RedisSentinel() as group:
        old, new = group.servers
        async with store_on(group, 10.0) as store:
            await store.put("k", b"v", ttl=60)
            for sentinel in group.sentinels:
                sentinel.command("SENTINEL", "REMOVE", SERVICE)
            new.command("REPLICAOF", "NO", "ONE")
            old.command("REPLICAOF", "127.0.0.1", new.port)
            for sentinel in group.sentinels:
                sentinel.command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 2)
            await asyncio.sleep(PAUSE + 0.05)  # a search has just ended
            await store.put("k", b"moved", ttl=60)
            assert new.command("GET", "authproxy:k") == b"moved"
