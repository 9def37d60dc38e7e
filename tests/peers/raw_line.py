"""A client that is a bare socket, for tests without an event loop; it reads responses strictly."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.peers.recording_upstream import PATIENCE

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [\x20-\x7e]*")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)")


class Reply(NamedTuple):
    """A response as the client heard it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    head: bytes

    def all(self, name: str) -> list[bytes]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        """The only value of a header, or None."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether it announces the end of the connection."""
        return b"close" in b",".join(self.all("Connection")).lower()


class Line:
    """A client's connection; a context manager.  Its patience is in seconds."""

    def __init__(self, port: int, *, source: str = "127.0.0.1", patience: float = PATIENCE, buffer: int = 0) -> None:
        self.sock = socket.socket()
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.bind((source, 0))
        self.sock.settimeout(patience)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = b""  # not yet consumed
        self.ended = ""  # "" while open, then "close" or "reset"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        """Send, in segments of their own.  A peer that has closed meanwhile is no error: what it says is looked at."""
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.01)  # so that the pieces stay apart: there is nothing to wait for
            try:
                self.sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                return

    def end(self) -> None:
        """Send no more."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break off."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def more(self) -> bool:
        """Hear a little more; False when the connection has ended.  Raises TimeoutError."""
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            self.ended = "reset"
            return False
        self.heard += data
        if not data:
            self.ended = "close"
        return bool(data)

    def rest(self) -> bytes:
        """Everything until the connection ends.  Raises TimeoutError when it stays open."""
        while self.more():
            pass
        return self.heard

    def quiet(self, seconds: float = 0.05) -> bool:
        """Nothing comes for a moment, and the connection stays open: the one claim that takes waiting to show."""
        patience = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            return not self.heard and not self.more() and not self.ended
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(patience)

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if not self.more():
                raise EOFError(f"the connection ended ({self.ended}) after {self.heard[-500:]!r}")

    def take(self, size: int) -> bytes:
        """Exactly so many octets."""
        self._until(lambda: len(self.heard) >= size)
        taken, self.heard = self.heard[:size], self.heard[size:]
        return taken

    def _line(self) -> bytes:
        self._until(lambda: b"\r\n" in self.heard)
        line, _, self.heard = self.heard.partition(b"\r\n")
        return line

    def reply(self, method: str = "GET") -> Reply:
        """The next response, by its framing; strict about its form."""
        self._until(lambda: b"\r\n\r\n" in self.heard)
        text, _, self.heard = self.heard.partition(b"\r\n\r\n")
        first, *lines = text.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        assert status, first
        fields = [_FIELD.fullmatch(line) for line in lines]
        assert all(fields), lines
        found = Reply(int(status[1]), tuple((one[1], one[2]) for one in fields if one), b"", text)
        return found._replace(body=self._body(found, method))

    def _body(self, reply: Reply, method: str) -> bytes:
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return b""
        length = reply.get("Content-Length")
        if reply.get("Transfer-Encoding") is not None:
            assert (reply.get("Transfer-Encoding"), length) == (b"chunked", None)
            return b"".join(self._chunks())
        if length is not None:
            return self.take(int(length))
        body, self.heard = self.rest(), b""
        assert self.ended == "close"
        return body

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            yield self.take(size)
            assert self.take(2) == b"\r\n"
        while self._line():
            pass
