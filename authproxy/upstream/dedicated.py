"""One response, read strictly from a connection that serves one request: what an Upgrade is answered with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from authproxy.upstream.head import Head, bad_response, judged

HEAD_LIMIT: Final = 64 * 1024
_LINE_LIMIT: Final = 1024  # of a chunk size with its extensions
_INTERIM_LIMIT: Final = 16
_PIECE: Final = 64 * 1024
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")


async def final_head(reader: asyncio.StreamReader) -> Head:
    """The first head that is not interim.  Raises UpstreamFailed, IncompleteReadError, LimitOverrunError, OSError."""
    for _ in range(_INTERIM_LIMIT):
        head = _parsed(await reader.readuntil(b"\r\n\r\n"))
        if head is not None:
            return head
    raise bad_response("too many interim responses")


def _parsed(block: bytes) -> Head | None:
    """A final head; None for an interim response."""
    first, *lines = block[:-4].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise bad_response("a malformed status line")
    version, status = (1, int(found[1])), int(found[2])
    headers = tuple(_split(line) for line in lines)
    if status == 101:
        if version != (1, 1):  # RFC 9110 section 7.8: HTTP/1.0 knows no Upgrade
            raise bad_response("101 in HTTP/1.0")
        judged(200, version, headers)
        return Head(101, headers, None, chunked=False)
    return None if 100 <= status < 200 else judged(status, version, headers)


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise bad_response("a malformed header line")
    return name, value.strip(b" \t")


def body(reader: asyncio.StreamReader, head: Head, method: str, seconds: float) -> AsyncIterator[bytes]:
    """The body that belongs to ``head`` (RFC 9112 section 6.3), with at most ``seconds`` between two pieces.

    Raises TimeoutError, IncompleteReadError, LimitOverrunError, OSError, and ValueError for malformed chunks.
    """
    if method == "HEAD" or head.status in (204, 304):
        return _exactly(reader, 0, seconds)
    if head.chunked:
        return _chunks(reader, seconds)
    if head.length is not None:
        return _exactly(reader, head.length, seconds)
    return _until_closed(reader, seconds)


async def _exactly(reader: asyncio.StreamReader, length: int, seconds: float) -> AsyncIterator[bytes]:
    while length:
        async with asyncio.timeout(seconds):
            piece = await reader.read(min(length, _PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece


async def _until_closed(reader: asyncio.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(seconds):
            piece = await reader.read(_PIECE)
        if not piece:
            return
        yield piece


async def _chunks(reader: asyncio.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    # RFC 9112 section 7.1.  What follows the last chunk (trailers) is not forwarded, and the connection ends here.
    while size := await _chunk_size(reader, seconds):
        async for piece in _exactly(reader, size, seconds):
            yield piece
        async with asyncio.timeout(seconds):
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk is longer than announced")


async def _chunk_size(reader: asyncio.StreamReader, seconds: float) -> int:
    async with asyncio.timeout(seconds):
        line = await reader.readuntil(b"\n")
    found = _CHUNK.fullmatch(line) if len(line) <= _LINE_LIMIT else None
    if found is None:
        raise ValueError("a malformed chunk size")
    return int(found[1], 16)
