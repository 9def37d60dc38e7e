"""Clients that are slow in three ways: some say their heads an octet at a time, some their bodies, and some take a
large answer so.  Whoever is cut off comes again.

They are bare sockets in one thread, which is asleep nearly always.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.peers.program import PATIENCE

BATCH: Final = 20  # clients that have their turn together
BUFFER: Final = 4096  # octets that the kernel takes for a client beyond what it reads, about
SOURCE: Final = "127.0.0.3"
"""Where they come from, so that their connections can be told from those of others."""


class Manner(NamedTuple):
    """How one kind of them is slow."""

    name: str
    says: bytes  # at once
    drips: bytes = b""  # each time
    takes: int = 0  # octets, each time


def manners(headers: bytes, *, upload: str, download: str) -> tuple[Manner, ...]:
    """The three kinds.  ``headers`` are lines, each with its end; the two targets take a body, and give a large one."""
    begun = b"GET / HTTP/1.1\r\n" + headers + b"X-Slow: "
    body = f"POST {upload} HTTP/1.1\r\n".encode() + headers + b"Content-Length: 1000000\r\n\r\nx"
    large = f"GET {download} HTTP/1.1\r\n".encode() + headers + b"\r\n"
    return (Manner("head", begun, b"x"), Manner("body", body, b"x"), Manner("reader", large, takes=64))


class _Client:
    def __init__(self, port: int, manner: Manner) -> None:
        self._port, self.manner = port, manner
        self.heard = b""
        self.sock = self._connected()

    def _connected(self) -> socket.socket:
        sock = socket.socket()
        if self.manner.takes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.settimeout(PATIENCE)
        sock.bind((SOURCE, 0))
        sock.connect(("127.0.0.1", self._port))
        sock.sendall(self.manner.says)
        sock.setblocking(False)
        return sock

    def turn(self) -> bool:
        """A little more; False when it was cut off."""
        try:
            with suppress(BlockingIOError):
                if self.manner.drips:
                    self.sock.send(self.manner.drips)
            with suppress(BlockingIOError):
                piece = self.sock.recv(self.manner.takes or 4096)
                self.heard = self.heard or piece
                return bool(piece)
        except OSError:
            return False
        return True

    def again(self) -> None:
        self.sock.close()
        self.heard, self.sock = b"", self._connected()


class SlowClients:
    """``number`` of them at ``port``, by turns of each kind; a context manager, entered when all have begun.

    ``cut`` counts those that were cut off, by kind; ``answers`` what was answered, by kind and first line.
    """

    def __init__(self, port: int, kinds: tuple[Manner, ...], number: int, *, period: float = 0.5) -> None:
        self._port, self._kinds, self._number, self._period = port, kinds, number, period
        self.cut: Counter[str] = Counter()
        self.answers: Counter[tuple[str, str]] = Counter()
        self._clients: list[_Client] = []
        self._over: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._turns, daemon=True)

    def __repr__(self) -> str:
        return f"<SlowClients {len(self._clients)}, {self.cut.total()} cut off>"

    def _turns(self) -> None:
        while not self._over.is_set():
            for start in range(0, self._number, BATCH):
                for one in self._clients[start : start + BATCH]:
                    self._turn(one)
                if self._over.wait(self._period * BATCH / self._number):
                    return

    def _turn(self, one: _Client) -> None:
        silent = not one.heard
        going_on = one.turn()
        if silent and one.heard:
            self.answers[one.manner.name, one.heard[:12].decode("latin-1")] += 1
        if not going_on:
            self.cut[one.manner.name] += 1
            one.again()

    def __enter__(self) -> Self:
        for number in range(self._number):
            self._clients.append(_Client(self._port, self._kinds[number % len(self._kinds)]))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        for one in self._clients:
            one.sock.close()
