"""The chunked transfer coding (RFC 9112 section 7.1), read strictly.

Chunk extensions are refused where a client sends them and skipped where an upstream does.  Trailers are read to their
end, within bounds, and dropped: a field that comes after the decision is never merged into those that were judged.
"""

from __future__ import annotations

import re
from typing import Final

from authproxy.http1.heads import Malformed

LINE_LIMIT: Final = 1024  # octets of a chunk's first line
TRAILER_LIMIT: Final = 8 * 1024  # octets of all trailers
LAST: Final = b"0\r\n\r\n"

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_EXTENDED: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


def chunk(piece: bytes) -> bytes:
    """``piece``, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Chunks:
    """Decodes one body.  ``done`` when its end was read; ``rest`` is what came behind it."""

    __slots__ = ("_held", "_left", "_size", "_trailers", "done", "rest")

    def __init__(self, *, extensions: bool = False) -> None:
        self._size: Final = _EXTENDED if extensions else _SIZE
        self._held = b""  # of a line that is not whole
        self._left = 0  # octets of the chunk that are still to come, with the CR LF behind it
        self._trailers = -1  # octets of trailers so far; below 0 while chunks come
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body that are in ``data``.  Raises Malformed."""
        pieces: list[bytes] = []
        at, data = 0, self._held + data if self._held else data
        self._held = b""
        while at < len(data) and not self.done:
            if self._left > 2:
                at = self._take(data, at, pieces)
            elif self._left:
                at = self._end_of_chunk(data, at)
            else:
                line_end = data.find(b"\n", at, at + LINE_LIMIT) + 1
                if not line_end:
                    self._hold(data[at:])
                    break
                self._line(data[at:line_end])
                at = line_end
        if self.done:
            self.rest = data[at:]
        return pieces

    def _take(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        piece = data[at : at + self._left - 2] if at or len(data) > self._left - 2 else data
        self._left -= len(piece)
        pieces.append(piece)
        return at + len(piece)

    def _end_of_chunk(self, data: bytes, at: int) -> int:
        """The CR LF behind a chunk, of which one octet may come alone."""
        wanted = b"\r\n"[2 - self._left :]
        found = data[at : at + self._left]
        if not wanted.startswith(found):
            raise Malformed("a chunk is longer than announced")
        self._left -= len(found)
        return at + len(found)

    def _hold(self, line: bytes) -> None:
        if len(line) >= LINE_LIMIT:
            raise Malformed("a line of a chunked body is too long")
        self._held = line

    def _line(self, line: bytes) -> None:
        if self._trailers >= 0:
            self._trailer(line)
            return
        found = self._size.fullmatch(line)
        if found is None:
            raise Malformed("a malformed chunk size")
        size = int(found[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if line == b"\r\n":
            self.done = True
        elif self._trailers > TRAILER_LIMIT or not _TRAILER.fullmatch(line):
            raise Malformed("trailers that are too long or malformed")

    def __repr__(self) -> str:
        return f"<Chunks {'done' if self.done else f'{self._left} left'}>"
