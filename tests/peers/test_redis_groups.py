"""The Sentinel and Cluster peers do what the tests that use them believe."""

from __future__ import annotations

from tests.peers.redis_cluster import RedisCluster
from tests.peers.redis_sentinel import RedisSentinel, eventually


def test_sentinels_replace_a_killed_master_and_take_it_back() -> None:
    """After a kill the replica is the master; the old one, started again, follows it; a planned failover goes back."""
    with RedisSentinel() as group:
        group.master().command("SET", "k", "v")
        eventually(lambda: group.servers[1].command("GET", "k") == b"v", "the replica has it")
        old = group.kill_master()
        group.wait_moved(old)
        assert group.master() is not old
        assert group.master().command("GET", "k") == b"v"
        old.restart()
        group.wait_ready()
        group.failover()
        assert group.master() is old


def test_a_cluster_replaces_a_killed_master() -> None:
    """The replica takes over the slots of a killed master; a planned failover moves those of another."""
    with RedisCluster() as cluster:
        old = cluster.kill_master("k")
        cluster.wait_moved(old)
        assert cluster.master("k") is not old
        other = cluster.master("b")
        assert other.running
        cluster.failover("b")
        assert cluster.master("b") is not other
