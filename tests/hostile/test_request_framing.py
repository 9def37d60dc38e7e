"""Where a request ends: whoever says it twice, or so that another server could read it otherwise, is refused (E1-E11).

Behind each such request comes a second one in the same segment, which is never answered and never forwarded.
"""

from __future__ import annotations

import pytest

from tests.hostile.wire import BEARER, SECOND, Wire, head

FIVE = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
SIZED = "Content-Length: 5"

AMBIGUOUS: dict[str, bytes] = {
    "E1 length and coding": head(SIZED, CHUNKED, method="POST") + FIVE,
    "E1 coding and length": head(CHUNKED, SIZED, method="POST") + FIVE,
    "E1 length zero and coding": head("Content-Length: 0", CHUNKED, method="POST") + FIVE,
    "E1 both on a GET": head(SIZED, CHUNKED) + FIVE,
    "E1 both, in other letters": head("content-LENGTH: 5", "TRANSFER-encoding: Chunked", method="POST") + FIVE,
    **{
        f"E2 {coding!r}": head(f"Transfer-Encoding: {coding}", method="POST") + FIVE
        for coding in (
            "xchunked", "chunked, identity", "identity", "identity, chunked", "chunked, chunked", "chunked;q=1",
            "\x0bchunked", "chunked\x0b", "chunked\x00", '"chunked"', "chunked x", "cow", "\x85chunked",
        )
    },
    "E2 twice": head(CHUNKED, CHUNKED, method="POST") + FIVE,
    "E2 chunked, then identity": head(CHUNKED, "Transfer-Encoding: identity", method="POST") + FIVE,
    "E2 identity, then chunked": head("Transfer-Encoding: identity", CHUNKED, method="POST") + FIVE,
    "E2 space before the colon": head("Transfer-Encoding : chunked", method="POST") + FIVE,
    "E2 folded": head("Transfer-Encoding:\r\n chunked", method="POST") + FIVE,
    "E3 gzip, chunked": head("Transfer-Encoding: gzip, chunked", method="POST") + FIVE,
    "E3 chunked, gzip": head("Transfer-Encoding: chunked, gzip", method="POST") + FIVE,
    "E3 an empty one first": head("Transfer-Encoding: ,chunked", method="POST") + FIVE,
    "E3 an empty one last": head("Transfer-Encoding: chunked,", method="POST") + FIVE,
    "E4 empty, then length": head("Transfer-Encoding:", SIZED, method="POST") + b"hello",
    "E4 length, then empty": head(SIZED, "Transfer-Encoding:", method="POST") + b"hello",
    "E4 empty alone": head("Transfer-Encoding:", method="POST"),
    "E5 HTTP/1.0": head(CHUNKED, method="POST", version="HTTP/1.0") + FIVE,
    "E5 HTTP/1.0 with keep-alive": head(CHUNKED, "Connection: keep-alive", method="POST", version="HTTP/1.0") + FIVE,
    "E5 HTTP/1.0 with length": head(CHUNKED, SIZED, method="POST", version="HTTP/1.0") + FIVE,
    **{
        f"E6 {length!r}": head(f"Content-Length: {length}", method="POST") + b"hello"
        for length in (
            "+5", "-5", "0x5", "5_0", "1_0", "5, 5", "5,6", "", " ", "5 5", "5.0", "5e0", "five", "\x0b5", "5\x00",
            "\xb2", "\xd9\xa5", "5;", "36893488147419103232", "18446744073709551621", "9" * 400,
        )
    },
    "E6 twice": head("Content-Length: 5", "Content-Length: 6", method="POST") + b"hello",
    "E6 twice the same": head(SIZED, SIZED, method="POST") + b"hello",
    "E6 twice on a GET": head("Content-Length: 0", "Content-Length: 5") + b"hello",
    "E6 folded": head("Content-Length:\r\n 5", method="POST") + b"hello",
    "E6 space before the colon": head("Content-Length : 5", method="POST") + b"hello",
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_e1_e2_e3_e4_e5_e6_an_ambiguous_length_is_refused(wire: Wire, name: str) -> None:
    """400, or 501 for a coding, in our words; the connection ends; nobody else hears of it."""
    wire.refused(AMBIGUOUS[name] + SECOND, status=(400, 501))


@pytest.mark.parametrize("name", [name for name in AMBIGUOUS if name[:2] in ("E1", "E4")])
def test_e1_e4_an_ambiguous_length_in_two_segments(wire: Wire, name: str) -> None:
    """The same when the head is cut in the middle."""
    sent = AMBIGUOUS[name]
    wire.refused(sent[: len(sent) // 3], sent[len(sent) // 3 :] + SECOND, status=(400, 501))


@pytest.mark.parametrize("length", ["05", "0000000000000000000005"])
def test_e7_a_length_with_zeros_is_made_canonical(wire: Wire, length: str) -> None:
    """It is refused, or the upstream is told the plain number."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(f"Content-Length: {length}", method="POST") + b"hello")
        reply = line.reply()
    arrived, _ = wire.settled(mark)
    assert reply.status in (200, 400)
    assert [(one.all("Content-Length"), one.body) for one in arrived] == (
        [([b"5"], b"hello")] if reply.status == 200 else []
    )


# --- chunks ---

CHUNKS: dict[str, bytes] = {
    "E9 hexadecimal with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "E9 a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "E9 negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "E9 an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "E9 no size": b"\r\nhello\r\n0\r\n\r\n",
    "E9 no number": b"G\r\nhello\r\n0\r\n\r\n",
    "E9 a space in front": b" 5\r\nhello\r\n0\r\n\r\n",
    "E9 a space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "E9 a tab behind": b"5\t\r\nhello\r\n0\r\n\r\n",
    "E9 a bare semicolon": b"5;\r\nhello\r\n0\r\n\r\n",
    "E9 LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "E9 LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "E9 LF behind the last size": b"5\r\nhello\r\n0\n\r\n",
    "E9 LF at the end": b"5\r\nhello\r\n0\r\n\n",
    "E9 CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "E9 more data than the size": b"5\r\nhello!\r\n0\r\n\r\n",
    "E9 less data than the size": b"6\r\nhello\r\n0\r\n\r\n",
    "E9 nothing behind the data": b"5\r\nhello0\r\n\r\n",
    "E9 a size of 17 digits": b"FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n",
    "E9 a size that wraps to five": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "E9 NUL in the size": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "E9 a last chunk that is none": b"5\r\nhello\r\n00x\r\n\r\n",
    "E10 a name": b"5;a\r\nhello\r\n0\r\n\r\n",
    "E10 a name and a value": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "E10 quoted": b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
    "E10 quoted, and a line inside": b'5;a="\r\nhello\r\n0\r\n\r\n"\r\n',
    "E10 with LF": b"5;a\nhello\r\n0\r\n\r\n",
    "E10 on the last chunk": b"5\r\nhello\r\n0;a=b\r\n\r\n",
    "E10 of 64 KB": b"5;a=" + b"b" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
    "E10 on 200 chunks": b"1;a=b\r\nx\r\n" * 200 + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "two segments"])
def test_e9_e10_a_strange_chunk_ends_the_request(wire: Wire, name: str, apart: bool) -> None:
    """400 and the end of the connection; the upstream never sees a whole request, nor the bytes of an extension."""
    top = head(CHUNKED, method="POST", target="/public/whole")
    received = wire.upstream.received
    wire.never_whole(*((top, CHUNKS[name] + SECOND) if apart else (top + CHUNKS[name] + SECOND,)))
    assert wire.upstream.received - received < 2000


# --- trailers ---

TRAILERS = [
    "X-Trailer: 1", "Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil.example.com",
    f"Authorization: Bearer {'x' * 40}", "Cookie: a=b", "X-Forwarded-User: root", "Connection: X-Request-Id",
    "X-Big: " + "b" * 8000,
]  # fmt: skip


@pytest.mark.parametrize("trailer", TRAILERS, ids=lambda one: one.partition(":")[0])
def test_e11_a_trailer_is_neither_merged_nor_forwarded(wire: Wire, trailer: str) -> None:
    """The request arrives without it, or is refused; a field behind the body changes nothing that was judged."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(CHUNKED, "Trailer: X-Trailer", method="POST") + FIVE[:-2] + trailer.encode() + b"\r\n\r\n")
        reply = line.reply()
    arrived, _ = wire.settled(mark)
    assert reply.status in (200, 400, 431)
    name, _, value = trailer.partition(": ")
    for one in arrived:
        assert one.body == b"hello"
        assert one.raw.endswith(b"0\r\n\r\n") or one.all("Content-Length")
        assert value.encode() not in one.all(name) or (name, value) == ("Transfer-Encoding", "chunked")
        assert one.all("Trailer") == []
    assert len(arrived) == (reply.status == 200)


def test_e11_a_trailer_does_not_prove_anybody(wire: Wire) -> None:
    """A token behind the body opens nothing, and neither does a Host."""
    with wire.line() as line:
        line.send(head(CHUNKED, method="POST", target="/guarded") + FIVE[:-2] + BEARER.encode() + b"\r\n\r\n")
        assert line.reply().status == 401


def test_e11_trailers_are_bounded(wire: Wire) -> None:
    """A megabyte of them is not read to its end: the request is refused, or its connection ends."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(CHUNKED, method="POST") + FIVE[:-2] + b"X-T: b\r\n" * 125_000 + b"\r\n" + SECOND)
        heard = line.rest()
    assert heard.count(b"HTTP/1.1 ") == 1
    assert b"/public/second" not in heard
    arrived, _ = wire.settled(mark)
    assert arrived == []
