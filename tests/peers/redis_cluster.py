"""Real Redis Cluster: three masters and a replica of each, on free loopback ports and without a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.peers.program import free_port
from tests.peers.redis_sentinel import eventually
from tests.peers.redis_server import RedisServer

_MASTERS: Final = 3
_SLOTS: Final = 16384


class RedisCluster:
    """``servers``: six data nodes, the first three the masters of the beginning.  ``options`` go to each.

    ``node_timeout`` is milliseconds: a master that is silent for so long is replaced.
    """

    def __init__(self, *options: str, password: str | None = None, node_timeout: int = 1000) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cluster-")
        auth = ("--masterauth", password) if password else ()
        quick = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        self._buses = [free_port() for _ in range(2 * _MASTERS)]
        self.servers = [
            RedisServer(
                "--cluster-enabled", "yes", "--cluster-config-file", str(Path(self._folder.name) / f"{number}.conf"),
                "--cluster-node-timeout", str(node_timeout), "--cluster-port", str(bus),
                "--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no",
                *quick, *auth, *options, password=password,
            )
            for number, bus in enumerate(self._buses)
        ]  # fmt: skip

    @property
    def nodes(self) -> list[str]:
        """host:port of each node."""
        return [f"127.0.0.1:{server.port}" for server in self.servers]

    @property
    def masters(self) -> list[RedisServer]:
        """The masters of the beginning, in the order of their slots."""
        return self.servers[:_MASTERS]

    def start(self) -> None:
        """Start every node, join them, and wait until the cluster serves."""
        for server in self.servers:
            server.start()
        ends = [_SLOTS * n // _MASTERS for n in range(_MASTERS + 1)]
        for number, server in enumerate(self.masters):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.command("CLUSTER", "ADDSLOTSRANGE", ends[number], ends[number + 1] - 1)
        self._meet()
        for replica, master in zip(self.servers[_MASTERS:], self.masters, strict=True):
            name = master.command("CLUSTER", "MYID")
            assert isinstance(name, bytes)
            eventually(lambda r=replica, n=name: r.command("CLUSTER", "REPLICATE", n) == b"OK", "a replica")  # type: ignore[misc]
        self.wait_ready()

    def _meet(self) -> None:
        for server in self.servers:
            for other, bus in zip(self.servers, self._buses, strict=True):
                if other is not server:
                    server.command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)

    def wait_ready(self) -> None:
        """Wait until every node says that the cluster serves, and every replica follows its master."""
        for server in self.servers:
            eventually(lambda s=server: self._healthy(s), "the cluster serves")  # type: ignore[misc]

    def _healthy(self, server: RedisServer) -> bool:
        info, lines = server.command("CLUSTER", "INFO"), self._lines(server)
        assert isinstance(info, bytes)
        up = b"cluster_state:ok" in info and b"cluster_slots_ok:16384" in info
        return up and len(lines) == len(self.servers) and _follows(server) and not any(b"fail" in x for x in lines)

    @staticmethod
    def _lines(server: RedisServer) -> list[bytes]:
        found = server.command("CLUSTER", "NODES")
        assert isinstance(found, bytes)
        return found.splitlines()

    def master(self, key: str | bytes | None = None) -> RedisServer:
        """The master that holds ``key`` now (None: slot 0), as the first node that answers sees it."""
        for server in self.servers:
            if server.running:
                slot = 0 if key is None else server.command("CLUSTER", "KEYSLOT", key)
                assert isinstance(slot, int)
                found = self._owner(server, slot)
                if found:
                    return found
        raise AssertionError("no node knows the master")

    def _owner(self, asked: RedisServer, slot: int) -> RedisServer | None:
        for start, end, node, *_ in _ranges(asked):
            if start <= slot <= end:
                return next(one for one in self.servers if one.port == node)
        return None

    def kill_master(self, key: str | bytes | None = None) -> RedisServer:
        """SIGKILL to the master of ``key``; which it was."""
        master = self.master(key)
        master.kill()
        return master

    def pause(self, key: str | bytes | None = None) -> RedisServer:
        """SIGSTOP to the master of ``key``; which it was."""
        master = self.master(key)
        master.pause()
        return master

    def failover(self, key: str | bytes | None = None) -> None:
        """A planned failover of the master of ``key``; returns when its replica has taken over."""
        before = self.master(key)
        replica = next(one for one in self.servers if one is not before and _master_port(one) == before.port)
        replica.command("CLUSTER", "FAILOVER")
        self.wait_moved(before)

    def wait_moved(self, before: RedisServer) -> None:
        """Wait until no running node holds that ``before`` has slots."""
        others = [one for one in self.servers if one is not before and one.running]
        eventually(
            lambda: all(before.port not in (node for _, _, node in _ranges(one)) for one in others),
            "the slots have moved",
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process."""
        for server in self.servers:
            server.kill()
            server.__exit__(None, None, None)
        self._folder.cleanup()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<RedisCluster {len(self.servers)} nodes>"


def _ranges(server: RedisServer) -> Iterator[tuple[int, int, int]]:
    """First slot, last slot, port of the master."""
    found = server.command("CLUSTER", "SLOTS")
    assert isinstance(found, list)
    for one in found:
        assert isinstance(one, list)
        first, last, node, *_ = one
        assert isinstance(first, int)
        assert isinstance(last, int)
        assert isinstance(node, list)
        assert isinstance(node[1], int)
        yield first, last, node[1]


def _master_port(server: RedisServer) -> int | None:
    """The port of the master that a replica follows; None for a master and for one that is away."""
    role = server.command("ROLE") if server.running else None
    follows = isinstance(role, list) and role[0] == b"slave"
    return role[2] if follows and isinstance(role, list) and isinstance(role[2], int) else None


def _follows(server: RedisServer) -> bool:
    role = server.command("ROLE")
    return isinstance(role, list) and (role[0] == b"master" or role[3] == b"connected")


@pytest.fixture
def redis_cluster() -> Iterator[RedisCluster]:
    """Six nodes of the test's own."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[RedisCluster]:
    """Six nodes, shared by the tests of one module."""
    with RedisCluster() as cluster:
        yield cluster
