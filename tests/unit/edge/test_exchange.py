"""One request and its answer on a fake transport: who gets the body when, and how each answer is framed."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from authproxy.edge.exchange import ClientExchange
from authproxy.errors import BadRequest, ClientGone
from authproxy.model import Answer
from tests.peers.front_line import OK, Counter, FrontLine, turns

HEAD = b"POST / HTTP/1.1\r\nHost: app.example.com\r\n"
SIZED = HEAD + b"Content-Length: 100000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WAITS = b"Expect: 100-continue\r\n"
GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HELD = 64 * 1024


def asked(wire: bytes, *, closing: bool = False) -> tuple[FrontLine, ClientExchange]:
    """A line on which ``wire`` came, and its exchange."""
    line = FrontLine()
    line.connections.closing = closing
    line.says(wire)
    return line, line.exchanges[0]


async def taken(exchange: ClientExchange, pieces: list[bytes]) -> None:
    """Take the body as those do who wait."""
    async for piece in exchange.body():
        pieces.append(piece)  # noqa: PERF401  # one by one, as they come


# --- the body ---


async def test_a_body_waits_for_whoever_takes_it() -> None:
    """Up to a mark it is kept, then no more is read; taken, it comes in order, and reading goes on."""
    line, exchange = asked(SIZED)
    counter = Counter()
    exchange.attach(counter)
    line.says(b"a" * (HELD - 1))
    assert line.transport.is_reading()
    line.says(b"b")
    assert line.transport.pauses == ["pause"]
    assert (counter.body, exchange.received) == (b"", 0)
    exchange.take_body()
    assert counter.body == b"a" * (HELD - 1) + b"b"
    assert exchange.received == HELD
    assert line.transport.pauses == ["pause", "resume"]
    line.says(b"c" * (100_000 - HELD))
    assert (len(counter.body), counter.heard, exchange.received) == (100_000, ["ended"], 100_000)
    line.leave()


async def test_a_body_is_taken_once() -> None:
    """Asked again, nothing comes twice."""
    line, exchange = asked(SIZED.replace(b"100000", b"5") + b"hello")
    counter = line.joined()
    exchange.take_body()
    assert (counter.body, counter.heard) == (b"hello", ["ended"])
    line.leave()


async def test_a_body_that_failed_before_it_was_taken() -> None:
    """Nothing of it is passed on: it would never be whole."""
    line, _ = asked(CHUNKED + b"1\r\na\r\nx\r\n")
    counter = line.joined()
    assert (counter.body, counter.heard) == (b"", ["failed"])
    assert isinstance(counter.errors[0], BadRequest)
    line.leave()


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_the_body_is_asked_for_when_it_is_taken(length: bytes) -> None:
    """Not before (RFC 9110 section 10.1.1), once, and not by HTTP/1.0; who has sent it already is not asked."""
    line, exchange = asked(HEAD + WAITS + length)
    exchange.attach(Counter())
    assert line.transport.said == b""
    exchange.take_body()
    exchange.take_body()
    assert line.transport.said == CONTINUE
    line.leave()
    line, exchange = asked(HEAD + WAITS + b"Content-Length: 5\r\n\r\nhello")
    line.joined()
    assert line.transport.said == b""
    line.leave()
    line, exchange = asked(HEAD.replace(b"1.1", b"1.0") + WAITS + b"Content-Length: 5\r\n\r\n")
    line.joined()
    assert line.transport.said == b""
    line.leave()


async def test_a_refusal_asks_for_no_body() -> None:
    """A client that waits hears the answer instead, and the connection ends: its body may be on its way."""
    line, exchange = asked(HEAD + WAITS + b"Content-Length: 5\r\n\r\n")
    exchange.answer(Answer(403))
    assert line.transport.said.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" in line.transport.said
    line.leave()


async def test_a_pause_after_the_end_is_no_pause() -> None:
    """The whole body is here: the next request must not wait for somebody who has nothing to resume."""
    line, exchange = asked(HEAD + b"Content-Length: 5\r\n\r\nhello")
    line.joined()
    exchange.hold_body()
    assert line.transport.pauses == []
    line.leave()


async def test_the_body_for_those_who_wait() -> None:
    """Piece by piece; while one is looked at, no more is read; the end is the end."""
    line, exchange = asked(SIZED.replace(b"100000", b"6"))
    pieces: list[bytes] = []
    taking = asyncio.ensure_future(taken(exchange, pieces))
    await turns()
    line.says(b"abc")
    assert not line.transport.is_reading()
    await turns()
    assert (pieces, line.transport.is_reading()) == ([b"abc"], True)
    line.says(b"def")
    await taking
    assert (pieces, exchange.received) == ([b"abc", b"def"], 6)
    line.leave()


@pytest.mark.parametrize("how", ["gone", "malformed"])
async def test_the_body_never_looks_whole_for_those_who_wait(how: str) -> None:
    """A client that leaves, and chunks that cannot be read, are errors; what came before is delivered first."""
    line, exchange = asked(CHUNKED)
    pieces: list[bytes] = []
    taking = asyncio.ensure_future(taken(exchange, pieces))
    await turns()
    line.says(b"1\r\na\r\n")
    if how == "gone":
        line.wire.connection_lost(None)
    else:
        await turns()
        line.says(b"x\r\n")
    with pytest.raises(ClientGone if how == "gone" else BadRequest):
        await taking
    assert pieces == [b"a"]
    line.leave()


async def test_the_client_is_minded_by_its_counterpart() -> None:
    """It hears of pauses and of the loss; after the answer it hears of nothing, and is held by nobody."""
    line, exchange = asked(GET)
    counter = line.joined()
    attached = exchange.attached
    line.wire.pause_writing()
    line.wire.resume_writing()
    exchange.answer(OK)
    assert (attached, exchange.attached) == (True, False)
    line.wire.pause_writing()
    line.wire.connection_lost(None)
    assert counter.heard == ["ended", "full", "ready"]
    line.leave()


# --- answers ---


async def test_a_head_goes_out_with_the_first_piece() -> None:
    """In one write where the piece follows at once; alone where nobody knows when; and in any case with the end."""
    line, exchange = asked(GET)
    exchange.start_response(200, (), length=5, more=True)
    assert line.transport.writes == []
    exchange.write(b"hello")
    assert len(line.transport.writes) == 1
    assert line.transport.said.endswith(b"Content-Length: 5\r\n\r\nhello")
    exchange.finish()
    assert len(line.transport.writes) == 1
    line.says(GET)
    exchange = line.exchanges[-1]
    exchange.start_response(200, (), length=0, more=True)
    exchange.finish()
    assert line.transport.said.endswith(b"Content-Length: 0\r\n\r\n")
    line.says(GET)
    exchange = line.exchanges[-1]
    exchange.start_response(200, (), length=None)
    assert line.transport.said.endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    line.leave()


async def test_the_framing_is_ours() -> None:
    """Sized, in chunks, or to the end of the connection: by what is known and what the client speaks."""
    line, exchange = asked(GET)
    exchange.start_response(200, ((b"Content-Length", b"9"), (b"Transfer-Encoding", b"x")), length=None)
    for piece in (b"hel", b"", b"lo"):
        exchange.write(piece)
    exchange.finish()
    assert line.transport.said.endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    assert b"Content-Length" not in line.transport.said
    assert (exchange.sent, exchange.complete, line.transport.ended) == (5, True, "")
    line.leave()
    line, exchange = asked(GET.replace(b"1.1", b"1.0"))
    exchange.start_response(200, (), length=None)
    exchange.write(b"hello")
    exchange.finish()
    assert line.transport.said.endswith(b"Connection: close\r\n\r\nhello")
    assert line.transport.ended == "close"
    line.leave()


@pytest.mark.parametrize("status", [204, 304, 200])
async def test_no_octet_of_a_body_where_none_belongs(status: int) -> None:
    """For HEAD, 204 and 304 whatever is written (RFC 9110 section 6.4.1)."""
    line, exchange = asked(GET.replace(b"GET", b"HEAD") if status == 200 else GET)
    exchange.start_response(status, (), length=5 if status != 204 else None)
    exchange.write(b"hello")
    exchange.finish()
    assert line.transport.said.endswith(b"\r\n\r\n")
    assert (b"Content-Length: 5" in line.transport.said) == (status != 204)
    assert (exchange.sent, line.transport.ended) == (0, "")
    line.leave()


@pytest.mark.parametrize("body", [b"helloo", b"hell"])
async def test_a_body_of_another_length_breaks_off(body: bytes) -> None:
    """Longer or shorter than announced: the client must not take it for whole, nor what follows for another answer."""
    line, exchange = asked(GET)
    exchange.start_response(200, (), length=5)

    def written() -> None:
        exchange.write(body)
        exchange.finish()

    with pytest.raises(ValueError, match="than announced"):
        written()
    assert line.transport.ended == "abort"
    line.leave()


CLOSES = {
    "the client says so": (GET[:-2] + b"Connection: close\r\n\r\n", False, True),
    "HTTP/1.0": (GET.replace(b"1.1", b"1.0"), False, True),
    "an upgrade that was declined": (GET[:-2] + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n", False, True),
    "a body that was not read": (SIZED, False, True),
    "the process goes away": (GET, True, True),
    "nothing": (GET, False, False),
    "HTTP/1.0 that asks for more": (GET.replace(b"1.1", b"1.0")[:-2] + b"Connection: keep-alive\r\n\r\n", False, False),
}


@pytest.mark.parametrize("why", CLOSES)
async def test_whether_the_connection_goes_on(why: str) -> None:
    """It is said in the answer, and done."""
    wire, closing, closes = CLOSES[why]
    line, exchange = asked(wire, closing=closing)
    exchange.answer(OK)
    assert (b"Connection: close" in line.transport.said) == closes
    assert (line.transport.ended == "close" or line.transport.eof) == closes
    assert (b"Connection: keep-alive" in line.transport.said) == (b"keep-alive" in wire)
    line.leave()


async def test_what_was_never_understood_ends_the_connection() -> None:
    """Until somebody has made sense of the request, what follows it is not believed either."""
    line, exchange = asked(GET)
    exchange.suspect = True
    exchange.answer(Answer(400))
    assert b"Connection: close" in line.transport.said
    line.leave()


async def test_an_exchange_is_answered_once() -> None:
    """A second answer would be taken for that of the next request."""
    line, exchange = asked(GET)
    exchange.answer(OK)
    with pytest.raises(RuntimeError):
        exchange.answer(OK)
    with pytest.raises(RuntimeError):
        await exchange.tunnel(101, ())
    assert line.transport.said.count(b"HTTP/1.1") == 1
    line.leave()


async def test_nobody_is_answered_who_has_gone() -> None:
    """Whoever tries hears so."""
    line, exchange = asked(GET)
    line.wire.connection_lost(None)
    assert exchange.gone
    with pytest.raises(ClientGone):
        exchange.answer(OK)
    line.leave()


async def test_breaking_off_an_earlier_exchange_leaves_the_next_alone() -> None:
    """Whoever comes late must not take the connection from somebody else."""
    line, first = asked(GET)
    first.answer(OK)
    line.says(GET)
    first.abort()
    assert line.transport.ended == ""
    line.exchanges[1].answer(OK)
    line.leave()


async def test_an_answer_that_ends_with_the_connection_is_broken_off_by_reset() -> None:
    """To HTTP/1.0 an orderly end would make it look whole."""
    for version, reset in ((b"1.0", 1), (b"1.1", 0)):
        with socket.socket() as sock:
            line = FrontLine(extra={"socket": sock})
            line.says(GET.replace(b"1.1", version))
            exchange = line.exchanges[0]
            exchange.start_response(200, (), length=None)
            exchange.write(b"half")
            exchange.abort()
            assert line.transport.ended == "abort"
            assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (reset, 0)
        line.leave()


async def test_octets_before_the_switch_end_the_connection() -> None:
    """CVE-2025-64763: what came behind the request was meant for another protocol, or for nobody."""
    line, exchange = asked(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\nearly")
    with pytest.raises(ClientGone):
        await exchange.tunnel(101, ((b"Upgrade", b"x"),))
    assert (line.transport.said, line.transport.ended) == (b"", "abort")
    line.leave()
