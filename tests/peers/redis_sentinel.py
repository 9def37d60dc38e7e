"""Real Redis Sentinel: one master, its replicas and three sentinels, on free loopback ports and without a disk.

The sentinels know each other from the beginning and look often, so that the whole stands in about a second and a dead
master is replaced about a second after ``down_after``.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from tests.peers.program import PATIENCE, free_port
from tests.peers.redis_server import RedisError, RedisServer

SERVICE: Final = "mymaster"
_HASTE: Final = ("info-period", "200", "ask-period", "100", "publish-period", "200")
_REPLICATION: Final = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


def eventually(true: Callable[[], bool], what: str) -> None:
    """Ask until ``true``; servers that are away count as no."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, RedisError):
            if true():
                return
        time.sleep(0.02)
    raise AssertionError(f"never came about: {what}")


class RedisSentinel:
    """``servers``: the data nodes, the first of them the master of the beginning.  ``options`` go to each data node.

    ``password`` is that of the data nodes, ``sentinel_password`` that of the sentinels; ``down_after`` milliseconds.
    """

    def __init__(
        self, *options: str, replicas: int = 1, password: str | None = None, sentinel_password: str | None = None,
        down_after: int = 1000,
    ) -> None:  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="sentinel-")
        self._down_after = down_after
        self._password = password
        self._sentinel_password = sentinel_password
        auth = ("--masterauth", password) if password else ()
        self._options = (*_REPLICATION, *auth, *options)
        self.servers = [RedisServer(*self._options, password=password)]
        self._replicas = replicas
        self.sentinels: list[RedisServer] = []

    @property
    def nodes(self) -> list[str]:
        """host:port of each sentinel."""
        return [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]

    @property
    def masters(self) -> list[RedisServer]:
        """The master, alone."""
        return [self.master()]

    def start(self) -> None:
        """Start everything, and wait until the sentinels could replace the master."""
        first = self.servers[0]
        first.start()
        for _ in range(self._replicas):
            follow = ("--replicaof", f"127.0.0.1 {first.port}")
            self.servers.append(RedisServer(*self._options, *follow, password=self._password))
            self.servers[-1].start()
        self._start_sentinels()
        self.wait_ready()

    def _start_sentinels(self) -> None:
        known = [(free_port(), secrets.token_hex(20)) for _ in range(3)]
        for number, (port, run) in enumerate(known):
            config = Path(self._folder.name) / f"{number}.conf"
            config.write_text("\n".join(self._lines(run, [other for other in known if other[1] != run])) + "\n")
            sentinel = RedisServer("--sentinel", password=self._sentinel_password, config=config)
            sentinel.port = port
            self.sentinels.append(sentinel)
            sentinel.start()
            sentinel.command("SENTINEL", "DEBUG", *_HASTE)

    def _lines(self, run: str, others: list[tuple[int, str]]) -> Iterator[str]:
        yield f"sentinel myid {run}"
        yield f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2"
        yield f"sentinel down-after-milliseconds {SERVICE} {self._down_after}"
        yield f"sentinel failover-timeout {SERVICE} 2000"
        if self._password:
            yield f"sentinel auth-pass {SERVICE} {self._password}"
        if self._sentinel_password:
            yield f"sentinel sentinel-pass {self._sentinel_password}"
        for server in self.servers[1:]:
            yield f"sentinel known-replica {SERVICE} 127.0.0.1 {server.port}"
        for port, other in others:
            yield f"sentinel known-sentinel {SERVICE} 127.0.0.1 {port} {other}"

    def wait_ready(self) -> None:
        """Wait until every data node is a master or a replica that follows it, and the sentinels have a quorum."""
        eventually(lambda: self._followed() == len(self.servers) - 1, "every replica follows the master")
        for sentinel in self.sentinels:
            eventually(lambda s=sentinel: self._sees_all(s), "the sentinel knows everybody")  # type: ignore[misc]

    def _followed(self) -> int:
        found = self.master().command("INFO", "replication")
        assert isinstance(found, bytes)
        return found.count(b"state=online")

    def _sees_all(self, sentinel: RedisServer) -> bool:
        found = sentinel.command("SENTINEL", "REPLICAS", SERVICE)
        assert isinstance(found, list)
        states = [dict(zip(one[::2], one[1::2], strict=True)) for one in found if isinstance(one, list)]
        sentinel.command("SENTINEL", "CKQUORUM", SERVICE)
        return [one[b"flags"] for one in states] == [b"slave"] * (len(self.servers) - 1)

    def master(self) -> RedisServer:
        """The data node that the sentinels name; the first sentinel that answers is believed."""
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError, RedisError):
                found = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                assert isinstance(found, list)
                return next(one for one in self.servers if str(one.port).encode() == found[1])
        return self.servers[0]

    def kill_master(self) -> RedisServer:
        """SIGKILL to the master; which it was.  ``restart`` it (the method of the server) to have it back."""
        master = self.master()
        master.kill()
        return master

    def failover(self) -> None:
        """Ask for a planned failover, and wait until another node is the master."""
        before = self.master()
        self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)
        self.wait_moved(before)

    def wait_moved(self, before: RedisServer) -> None:
        """Wait until the sentinels name another master than ``before`` and it says that it is one."""
        eventually(lambda: self.master() is not before and _is_master(self.master()), "another node is the master")

    def pause(self) -> RedisServer:
        """SIGSTOP to the master; which it was."""
        master = self.master()
        master.pause()
        return master

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process."""
        for one in (*self.sentinels, *self.servers):
            one.kill()
            one.__exit__(None, None, None)
        self._folder.cleanup()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<RedisSentinel {len(self.servers)} servers, {len(self.sentinels)} sentinels>"


def _is_master(server: RedisServer) -> bool:
    role = server.command("ROLE")
    return isinstance(role, list) and role[0] == b"master"


@pytest.fixture
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and three sentinels of the test's own."""
    with RedisSentinel() as sentinel:
        yield sentinel


@pytest.fixture(scope="module")
def shared_sentinel() -> Iterator[RedisSentinel]:
    """The same, shared by the tests of one module."""
    with RedisSentinel() as sentinel:
        yield sentinel
