"""A real Redis server of a test's own: on a free loopback port and a Unix socket, without a disk.

It can be stopped, killed, started again at the same place, made to hang (SIGSTOP), emptied, and asked anything.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.peers.program import PATIENCE, free_port

Reply = bytes | int | None | list["Reply"]


class RedisError(Exception):
    """The server's ``-`` reply."""


class RedisServer:
    """``options`` are words of redis-server's command line; ``wait`` False: do not wait until it has loaded a dump.

    ``config``: a file of settings that the server may rewrite.
    """

    def __init__(
        self, *options: str, password: str | None = None, wait: bool = True, config: Path | None = None
    ) -> None:
        self._options = options
        self._config = [str(config)] if config else []
        self._wait = wait
        self._password = password
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.socket = Path(self._folder.name) / "redis.sock"

    @property
    def url(self) -> str:
        """Where it is, over TCP and without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """Where it is, over its Unix socket and without a password."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives; one that hangs does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers; on another port when this one was taken meanwhile (first start only)."""
        for _ in range(5):
            if self._started():
                return
            self.port = free_port()
        raise AssertionError("redis-server does not start")

    def _started(self) -> bool:
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        memory = ["--save", "", "--appendonly", "no", "--dir", self._folder.name]
        secret = ["--requirepass", self._password] if self._password else []
        self._process = subprocess.Popen(
            ["redis-server", *self._config, *where, *memory, *secret, *self._options], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if self._ready():
                    return True
            time.sleep(0.01)
        return False

    def _ready(self) -> bool:
        try:
            return self.command("PING") == b"PONG"
        except RedisError as error:
            return not self._wait and str(error).startswith("LOADING")

    def stop(self) -> None:
        """SIGTERM: connections are closed in order, the data is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self.resume()
            self._process.send_signal(number)
            self._process.wait(PATIENCE)

    def restart(self) -> None:
        """Stop, and start empty at the same place."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL."""
        self.command("FLUSHALL")

    def command(self, *words: str | bytes | int) -> Reply:
        """Ask on a connection of its own; raises RedisError with the server's words."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE)
            link.connect(str(self.socket))
            with link.makefile("rwb") as stream:
                if self._password:
                    _ask(stream, "AUTH", self._password)
                return _ask(stream, *words)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def __repr__(self) -> str:
        return f"<RedisServer port {self.port}>"


def _ask(stream: Any, *words: str | bytes | int) -> Reply:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    stream.flush()
    return _reply(stream)


def _reply(stream: Any) -> Reply:
    line: bytes = stream.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return _bulk(stream, int(rest))
    if kind == b"*":
        return [_reply(stream) for _ in range(int(rest))]
    raise ConnectionError("the server closed the connection")


def _bulk(stream: Any, length: int) -> bytes | None:
    text: bytes | None = stream.read(length + 2)[:-2] if length >= 0 else None
    return text


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own, which it may do anything to."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    """A server that the tests of one module share; a test that minds what others left empties it first."""
    with RedisServer() as server:
        yield server
