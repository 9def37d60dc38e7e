"""The chunked coding: what is read whole, what is refused, and that cutting the octets anywhere changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.http1.chunks import LAST, LINE_LIMIT, TRAILER_LIMIT, Chunks, chunk
from authproxy.http1.heads import Malformed

WHOLE = {
    "nothing": (b"0\r\n\r\n", b""),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two": (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    "line ends inside": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "small letters": (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "leading zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nX-A: b\r\nX-B:\r\n\r\n", b"hello"),
}

MALFORMED = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n",
    "a blank before": b" 5\r\nhello\r\n",
    "a blank behind": b"5 \r\nhello\r\n",
    "a bare line feed": b"5\nhello\n0\n\n",
    "an extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "an empty extension": b"5;\r\nhello\r\n0\r\n\r\n",
    "a size beyond reason": b"fffffffffffffffff\r\n",
    "more than announced": b"5\r\nhello!\r\n0\r\n\r\n",
    "a line feed alone behind": b"5\r\nhello\n0\r\n\r\n",
    "a carriage return and more": b"5\r\nhello\rx",
    "a line without end": b"5" * (LINE_LIMIT + 1),
    "a trailer that is none": b"0\r\nhello\r\n\r\n",
    "a trailer with a blank before the colon": b"0\r\nX : b\r\n\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailers without end": b"0\r\n" + b"X-A: b\r\n" * (TRAILER_LIMIT // 8 + 1),
}


def read(wire: bytes, *, size: int, extensions: bool = False) -> tuple[bytes, bytes]:
    """The body and what is behind it, fed ``size`` octets at a time."""
    chunks = Chunks(extensions=extensions)
    pieces: list[bytes] = []
    for start in range(0, len(wire), size):
        if chunks.done:
            return b"".join(pieces), chunks.rest + wire[start:]
        pieces += chunks.feed(wire[start : start + size])
    assert chunks.done
    return b"".join(pieces), chunks.rest


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_body(name: str, size: int) -> None:
    """Is read to its end, and no further."""
    wire, body = WHOLE[name]
    assert read(wire + b"GET / HTTP/1.1\r\n", size=size) == (body, b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body(name: str, size: int) -> None:
    """Is refused, however it is cut, and the message quotes nothing of it."""
    wire = MALFORMED[name]
    chunks = Chunks()

    def fed() -> None:
        for start in range(0, len(wire), size):
            chunks.feed(wire[start : start + size])

    with pytest.raises(Malformed) as caught:
        fed()
    assert "hello" not in str(caught.value)
    assert not chunks.done


def test_extensions_of_an_upstream_are_skipped() -> None:
    """Nobody acts by them, and answers with them are whole."""
    assert read(b'5 ;a="b"\r\nhello\r\n0;x\r\n\r\n', size=3, extensions=True) == (b"hello", b"")


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 40), st.binary(max_size=20))
def test_what_was_written_is_read(pieces: list[bytes], size: int, behind: bytes) -> None:
    """Whatever the pieces are, and wherever the octets are cut."""
    wire = b"".join(map(chunk, pieces)) + LAST
    assert read(wire + behind, size=size) == (b"".join(pieces), behind)


@given(st.binary(max_size=60), st.integers(1, 10))
def test_cutting_changes_nothing(wire: bytes, size: int) -> None:
    """Any octets come to the same body, the same rest and the same refusal, at once and piece by piece."""

    def outcome(step: int) -> object:
        chunks, pieces, taken = Chunks(), [], 0
        try:
            while taken < len(wire) and not chunks.done:
                pieces += chunks.feed(wire[taken : taken + step])
                taken += step
        except Malformed:
            return "malformed"
        return b"".join(pieces), chunks.done, chunks.rest + wire[taken:] if chunks.done else b""

    assert outcome(size) == outcome(len(wire) + 1)


def test_it_says_its_state() -> None:
    """And nothing of the body."""
    chunks = Chunks()
    chunks.feed(b"5\r\nhel")
    assert repr(chunks) == "<Chunks 4 left>"
    chunks.feed(b"lo\r\n0\r\n\r\n")
    assert repr(chunks) == "<Chunks done>"
