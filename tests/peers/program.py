"""A program under test, or beside it, as a real subprocess: started, watched by its output, and stopped.

Its output is read by threads, so that a program may outlive the event loop of the test that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

PATIENCE = 240.0
"""Seconds after which a wait is a hang: less than the limit of a test, so that the failure names what is missing.

A busy machine is waited for.  A program that has ended is not: each wait for a program fails when that exits.
"""

CHECK_SECONDS = 0.5
"""Seconds between two looks at whether a program still runs."""

_PORTS = 4000
"""For each process that runs tests; below the ports that the system gives out, so that no connection takes one."""
_FIRST = 11000 + _PORTS * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2)
_turn = itertools.count(random.SystemRandom().randrange(_PORTS))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now, and that was not given out lately."""
    for _ in range(_PORTS):
        port = _FIRST + next(_turn) % _PORTS
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is taken")


class Lines:
    """The lines that a program has written to one of its outputs so far."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._tell(line.rstrip("\n"))
        self._tell(None)

    def _tell(self, line: str | None) -> None:
        with self._news:
            if line is None:
                self._ended = True
            else:
                self._lines.append(line)
            self._news.notify_all()

    def all(self) -> list[str]:
        """Every line so far, oldest first."""
        with self._news:
            return list(self._lines)

    def wait(self, wanted: Callable[[str], T | None], timeout: float) -> T | None:
        """What ``wanted`` makes of the first line that it knows; None after ``timeout`` seconds or at the end."""
        seen = 0

        def found() -> T | None:
            nonlocal seen
            while seen < len(self._lines):
                seen += 1
                if (value := wanted(self._lines[seen - 1])) is not None:
                    return value
            return None

        value: list[T] = []

        def ready() -> bool:
            if (hit := found()) is not None:
                value.append(hit)
            return bool(value) or self._ended

        with self._news:
            self._news.wait_for(ready, timeout)
        return value[0] if value else None

    def join(self) -> None:
        """Wait until the program has closed this output."""
        self._reader.join(PATIENCE)


class Program:
    """A subprocess with its outputs captured; an async context manager."""

    def __init__(
        self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, group: bool = False
    ) -> None:
        self.argv: Sequence[str] = [str(word) for word in argv]
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._group = group  # signals reach what it starts, too
        self._process: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._process is None else f"exit {self._process.poll()}"
        return f"<{type(self).__name__} {self.argv[0]} {state}>"

    def start(self) -> Self:
        """Start it; returns at once."""
        self._process = subprocess.Popen(
            self.argv,
            env=self._env,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=self._group,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout = Lines(self._process.stdout)
        self.stderr = Lines(self._process.stderr)
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._running().poll()

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, f"{self!r} was not started"
        return self._process

    async def line(self, wanted: Callable[[str], T | None], *, error: bool = False) -> T:
        """What ``wanted`` makes of the first line that it knows, of standard output or standard ``error``."""
        value = await asyncio.to_thread(lambda: self._wait_for_line(wanted, self.stderr if error else self.stdout))
        assert value is not None, f"{self!r} did not write that line.\n{self.transcript()}"
        return value

    def _wait_for_line(self, wanted: Callable[[str], T | None], lines: Lines) -> T | None:
        """None when the program has ended, also where a process that it started keeps the output open."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends and self.exit_code is None:
            if (value := lines.wait(wanted, CHECK_SECONDS)) is not None:
                return value
        return lines.wait(wanted, CHECK_SECONDS)  # what was written before the end

    async def until(self, holds: Callable[[], Awaitable[bool] | bool], what: str) -> None:
        """Check until ``holds``, as long as the program runs: another process gives no event to wait for."""
        ends = time.monotonic() + PATIENCE
        while True:
            running = self.exit_code is None
            reached = holds()
            if reached if isinstance(reached, bool) else await reached:
                return
            assert running, f"{self!r} ended before this: {what}\n{self.transcript()}"
            assert time.monotonic() < ends, f"{self!r} hangs before this: {what}\n{self.transcript()}"
            await asyncio.sleep(0.02)

    def transcript(self) -> str:
        """Both outputs, for the message of a failed assertion."""
        return "\n".join(["--- stdout", *self.stdout.all(), "--- stderr", *self.stderr.all()])

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self._group:
                os.killpg(self._running().pid, number)
            else:
                self._running().send_signal(number)

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        code = await asyncio.to_thread(self._running().wait, timeout)
        self.stdout.join()
        self.stderr.join()
        return code

    async def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then wait; SIGKILL when it does not listen.  The exit code."""
        self.send(signal.SIGTERM)
        try:
            return await self.ended(timeout)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            return await self.ended()

    def end(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then wait, for a caller without an event loop.  The exit code."""
        self.send(signal.SIGTERM)
        return self._running().wait(timeout)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def as_json(line: str) -> dict[str, Any] | None:
    """A line that is a JSON object, or None."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
