"""What connections cost that are open, have been used once, and wait for the next request."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from benchmarks.candidates import Candidate
from benchmarks.generators import WrongAnswers
from benchmarks.nginx import SIZES
from benchmarks.processes import resident
from benchmarks.request import written

TARGET: Final = "/1k"
PATIENCE: Final = 30.0


class Held(NamedTuple):
    """Memory of all processes of a candidate, in octets."""

    connections: int
    before: int
    after: int

    @property
    def each(self) -> float:
        """Octets per connection."""
        return (self.after - self.before) / self.connections

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {**self._asdict(), "each": self.each}


def _use(link: socket.socket, request: bytes) -> None:
    """One request, and its answer to the end of the body, which is filled with ``x``."""
    link.sendall(request)
    answer = b""
    while answer.partition(b"\r\n\r\n")[2].count(b"x") < SIZES[TARGET]:
        piece = link.recv(65_536)
        if not piece:
            raise WrongAnswers(f"the connection was closed after {answer[:60]!r}")
        answer += piece
        if not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
            raise WrongAnswers(f"an answer began with {answer[:60]!r}")


def _is_open(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return bool(link.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _hold(candidate: Candidate, connections: int) -> Held:
    request = written(TARGET, candidate.headers)
    with ExitStack() as stack:
        before = resident(candidate.pids())
        links = []
        for _ in range(connections):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", candidate.port), timeout=PATIENCE))
            _use(link, request)
            links.append(link)
        after = resident(candidate.pids())
        if closed := sum(not _is_open(link) for link in links):
            raise WrongAnswers(f"{candidate.name}: {closed} of {connections} idle connections were closed")
    return Held(connections, before, after)


async def held(candidate: Candidate, connections: int) -> Held:
    """Open so many, use each once, keep them all, and look; raises WrongAnswers when one is refused or closed."""
    return await asyncio.to_thread(_hold, candidate, connections)
