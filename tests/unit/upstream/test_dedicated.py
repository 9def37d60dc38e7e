"""One response from a connection that serves one request: heads, bodies and their ends, read strictly."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.errors import UpstreamFailed
from authproxy.upstream.dedicated import HEAD_LIMIT, body, final_head

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def reading(*pieces: bytes, end: bool = True) -> asyncio.StreamReader:
    """A connection that has brought ``pieces`` and has ended."""
    reader = asyncio.StreamReader(limit=HEAD_LIMIT)
    for piece in pieces:
        reader.feed_data(piece)
    if end:
        reader.feed_eof()
    return reader


async def read(wire: bytes, *, method: str = "GET", seconds: float = 60.0, end: bool = True) -> bytes:
    """The body of the response in ``wire``."""
    reader = reading(wire, end=end)
    head = await final_head(reader)
    return b"".join([piece async for piece in body(reader, head, method, seconds)])


async def test_interim_heads_are_skipped() -> None:
    """Up to a number; a switch is an answer, and what follows it is left."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    reader = reading(interim * 15 + SWITCH + b"octets")
    assert (await final_head(reader)).status == 101
    assert await reader.read() == b"octets"
    with pytest.raises(UpstreamFailed):
        await final_head(reading(interim * 16 + SWITCH))


MALFORMED = {
    "no status": b"HTTP/1.1\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "a switch of HTTP/1.0": SWITCH.replace(b"1.1", b"1.0"),
    "no colon": b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    "a bare line feed": b"HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: z\r\n\r\n",
    "a malformed line in a switch": SWITCH[:-2] + b"X Y: z\r\n\r\n",
    "both framings": SIZED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_head(name: str) -> None:
    """Is refused before anything of it is passed on."""
    with pytest.raises(UpstreamFailed):
        await final_head(reading(MALFORMED[name]))


async def test_bodies_end_where_they_end() -> None:
    """By length, by chunks, by the end of the connection; where none belongs there is none."""
    assert await read(SIZED + b"hello and more") == b"hello"
    assert await read(CHUNKED + b"3\r\nhel\r\n2 ;x=y\r\nlo\r\n0\r\n\r\nmore") == b"hello"
    assert await read(b"HTTP/1.1 200 OK\r\n\r\nhello") == b"hello"
    assert await read(SIZED + b"hello", method="HEAD") == b""
    assert await read(b"HTTP/1.1 204 No Content\r\n\r\nhello") == b""
    assert await read(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello") == b""


@pytest.mark.parametrize("wire", [SIZED + b"hell", CHUNKED + b"5\r\nhell", CHUNKED + b"5\r\nhello\r\n", CHUNKED])
async def test_a_body_that_breaks_off(wire: bytes) -> None:
    """Is never taken for whole."""
    with pytest.raises(asyncio.IncompleteReadError):
        await read(wire)


SIZES = (b"x", b"", b"-1", b"1" * 16, b"1;" + b"x" * 1024)


@pytest.mark.parametrize("chunks", [*(size + b"\r\n" for size in SIZES), b"5\r\nhelloXX0\r\n\r\n", b"5\nhello\r\n"])
async def test_chunks_that_cannot_be_read(chunks: bytes) -> None:
    """Sizes that are none, chunks longer than announced, lines without end."""
    with pytest.raises(ValueError, match="chunk"):
        await read(CHUNKED + chunks)


@pytest.mark.parametrize("wire", [SIZED + b"hell", CHUNKED, CHUNKED + b"5\r\nhello", b"HTTP/1.1 200 OK\r\n\r\nhello"])
async def test_silence_has_an_end(wire: bytes) -> None:
    """Between any two pieces."""
    with pytest.raises(TimeoutError):
        await read(wire, seconds=0.01, end=False)
