"""An upstream that is bare sockets in threads: it keeps every byte that reached it, and answers as it is told.

It runs beside the event loop of a test, so that one of them can stand behind a proxy process for many tests.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from tests.peers.program import PATIENCE as PATIENCE

"""Seconds that anybody here waits for what must come."""


class Arrived(NamedTuple):
    """One request, whole, as the upstream received it."""

    line: bytes  # the request line
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes  # without its framing
    raw: bytes  # every byte, framing included
    connection: int  # which one brought it, counted from 0

    @property
    def method(self) -> str:
        """The first word of the request line."""
        return self.line.split(b" ")[0].decode("latin-1")

    @property
    def target(self) -> str:
        """The request target, byte for byte."""
        return self.line.split(b" ")[1].decode("latin-1")

    def all(self, name: str) -> list[bytes]:
        """Every value of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]

    def folded(self) -> dict[bytes, list[bytes]]:
        """The values by the name that a lenient server makes of it: lower case, one kind of separator."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            found.setdefault(name.lower().translate(bytes.maketrans(b"_.", b"--")), []).append(value)
        return found


class Incoming:
    """One connection to the upstream.  ``raw`` is all that it brought, ``over`` says that it has ended,
    ``at`` is where the next request, or piece of one, begins.
    """

    def __init__(self, upstream: RecordingUpstream, sock: socket.socket, number: int) -> None:
        self.upstream, self.sock, self.number = upstream, sock, number
        self.raw = bytearray()
        self.over = False
        self.sent = 0
        self.at = 0

    def take(self) -> bytes:
        """Whatever comes next; empty at the end of the connection, however it ends."""
        try:
            data = self.sock.recv(1 << 18)
        except OSError:
            data = b""
        with self.upstream.news:
            self.raw += data
            self.over = self.over or not data
            self.upstream.received += len(data)
            self.upstream.news.notify_all()
        return data

    def until(self, reached: Callable[[], bool]) -> bool:
        """Take until ``reached``; False when the connection ended before."""
        while not reached():
            if not self.take():
                return False
        return True

    def say(self, data: bytes) -> bool:
        """Send; False when nobody takes it any more."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        self.sent += len(data)
        return True

    def reset(self) -> None:
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def head(self) -> Arrived | None:
        """The next request head, as a request that has no body yet."""
        start = self.at
        if not self.until(lambda: b"\r\n\r\n" in self.raw[start:]):
            return None
        end = self.raw.index(b"\r\n\r\n", start) + 4
        first, *lines = bytes(self.raw[start : end - 4]).split(b"\r\n")
        pairs = tuple((name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines))
        self.at = end
        return Arrived(first, pairs, b"", bytes(self.raw[start:end]), self.number)

    def whole(self, head: Arrived) -> Arrived | None:
        """``head`` with its body, read by its framing; None when the connection ended inside it."""
        start = self.at - len(head.raw)
        length = int((head.all("Content-Length") or [b"0"])[0])
        body = self._chunks() if head.all("Transfer-Encoding") else self._exactly(length)
        return None if body is None else head._replace(body=body, raw=bytes(self.raw[start : self.at]))

    def _exactly(self, length: int) -> bytes | None:
        start, self.at = self.at, self.at + length
        return bytes(self.raw[start : self.at]) if self.until(lambda: len(self.raw) >= self.at) else None

    def _chunks(self) -> bytes | None:
        body = b""
        while size := int((self._line() or b"-1").partition(b";")[0], 16):
            piece = self._exactly(size + 2) if size > 0 else None
            if piece is None:
                return None
            body += piece[:-2]
        while line := self._line():
            pass  # a trailer: nobody here wants one, and ``raw`` has it
        return None if line is None else body

    def _line(self) -> bytes | None:
        start = self.at
        if not self.until(lambda: b"\r\n" in self.raw[start:]):
            return None
        end = self.raw.index(b"\r\n", start)
        self.at = end + 2
        return bytes(self.raw[start:end])


Script = Callable[[Incoming, Arrived], bool]
"""Told of a request head; reads the body and answers.  Whether the connection goes on."""


def echo(incoming: Incoming, head: Arrived) -> bool:
    """200 with the target as body."""
    arrived = incoming.upstream.keep(incoming.whole(head))
    if arrived is None:
        return False
    body = arrived.target.encode("latin-1")
    said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return incoming.say(said if arrived.method == "HEAD" else said + body)


def saying(response: bytes, *, then: str = "") -> Script:
    """Answers a whole request with ``response``; then goes on, or makes an end: ``close``, ``reset``, ``hang``."""

    def script(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(incoming.whole(head))
        incoming.say(response)
        if then == "reset":
            incoming.reset()
        if then == "hang":
            incoming.until(lambda: False)
        return not then

    return script


class RecordingUpstream:
    """Answers each request by the script for its path, or with ``echo``.  A context manager.

    ``requests`` are those that arrived whole, ``received`` counts every byte on every connection, and ``news`` is told
    of each change.
    """

    def __init__(self) -> None:
        self.news = threading.Condition()
        self.on: dict[str, Script] = {}
        self.default: Script = echo
        self.requests: list[Arrived] = []
        self.connections: list[Incoming] = []
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]

    def __repr__(self) -> str:
        return f"<RecordingUpstream port {self.port}: {len(self.requests)} requests, {self.received} bytes>"

    @property
    def url(self) -> str:
        """Where the proxy reaches it."""
        return f"http://127.0.0.1:{self.port}"

    def keep(self, arrived: Arrived | None) -> Arrived | None:
        """Note a request that is whole."""
        if arrived is not None:
            with self.news:
                self.requests.append(arrived)
                self.news.notify_all()
        return arrived

    def wait(self, reached: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait until ``reached``; whether it was."""
        with self.news:
            return self.news.wait_for(reached, patience)

    def to(self, target: str) -> list[Arrived]:
        """The requests whose target was exactly this."""
        return [one for one in self.requests if one.target == target]

    def hang_up(self) -> None:
        """End every connection, so that nothing of the past is left in anybody's pool; returns when both sides know."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
        self.wait(lambda: all(connection.over for connection in self.connections))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.news:
                incoming = Incoming(self, sock, len(self.connections))
                self.connections.append(incoming)
                self.news.notify_all()
            threading.Thread(target=self._serve, args=(incoming,), daemon=True).start()

    def _serve(self, incoming: Incoming) -> None:
        with incoming.sock:
            while head := incoming.head():
                path = head.target.partition("?")[0]
                if not self.on.get(path, self.default)(incoming, head):
                    break
        with self.news:
            incoming.over = True
            self.news.notify_all()
