"""The little of SPDY/3.1 that kubectl speaks: streams with headers and data, each side closed apart; no flow control.

It knows bytes alone: what carries them is a pair of functions, a socket's or a WebSocket's.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN: Final = 1

_NAMES: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_REST: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8"
    "charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(*words: str) -> bytes:
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words)


DICTIONARY: Final = (
    _counted(*_NAMES.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
    + _REST.encode()
)
"""What both ends know before the first header (SPDY/3 section 2.6.10.1); zlib refuses any other by its checksum."""


class Stream:
    """One stream: what the client said, its headers, and an answer."""

    def __init__(self, session: Session, number: int, headers: dict[str, str]) -> None:
        self.number, self.headers = number, headers
        self._session = session
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(16)

    def __repr__(self) -> str:
        return f"<Stream {self.number} {self.headers.get('streamtype')}>"

    async def read(self) -> bytes:
        """The next piece; empty when the client has closed its side."""
        return await self._pieces.get()

    async def told(self, data: bytes, *, last: bool) -> None:
        """The client said this."""
        if data:
            await self._pieces.put(data)
        if last:
            await self._pieces.put(b"")

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Say something; ``last`` closes our side."""
        await self._session.send(struct.pack(">II", self.number, (FIN if last else 0) << 24 | len(data)) + data)


class Session:
    """The server's side of a connection; ``opened`` is told of each stream and must return soon."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        send: Callable[[bytes], Awaitable[None]],
        opened: Callable[[Stream], None],
    ) -> None:
        self._read, self.send, self._opened = read, send, opened
        self._streams: dict[int, Stream] = {}
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    async def run(self) -> None:
        """Serve until the client has gone; every stream that is open then is told so."""
        held = b""
        while piece := await self._read():
            held += piece
            while len(held) >= 8 and len(held) >= (size := 8 + int.from_bytes(held[5:8], "big")):
                frame, held = held[:size], held[size:]
                await self._frame(frame)
        for stream in self._streams.values():
            await stream.told(b"", last=True)

    async def _frame(self, frame: bytes) -> None:
        first, rest = struct.unpack(">II", frame[:8])
        kind, flags, payload = first & 0xFFFF, rest >> 24, frame[8:]
        if not first >> 31:
            if stream := self._streams.get(first):
                await stream.told(payload, last=bool(flags & FIN))
        elif kind == SYN_STREAM:
            await self._syn(payload, flags)
        elif kind == RST_STREAM:
            if stream := self._streams.pop(int.from_bytes(payload[:4], "big"), None):
                await stream.told(b"", last=True)
        elif kind == PING:
            await self.send(frame)

    async def _syn(self, payload: bytes, flags: int) -> None:
        number = int.from_bytes(payload[:4], "big")
        stream = Stream(self, number, dict(_pairs(self._inflate.decompress(payload[10:]))))
        self._streams[number] = stream
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        reply = struct.pack(">I", number) + block
        await self.send(struct.pack(">HHI", 0x8003, SYN_REPLY, len(reply)) + reply)
        if flags & FIN:
            await stream.told(b"", last=True)
        self._opened(stream)


def _pairs(block: bytes) -> Iterator[tuple[str, str]]:
    count, at = int.from_bytes(block[:4], "big"), 4
    for _ in range(count):
        words = []
        for _ in range(2):
            size = int.from_bytes(block[at : at + 4], "big")
            words.append(block[at + 4 : at + 4 + size].decode())
            at += 4 + size
        yield words[0].lower(), words[1]
