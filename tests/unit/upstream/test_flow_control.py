"""A client, a delivery and an upstream joined between two fake transports: every pause, every deadline, every end.

Nothing here waits: what the two ends do is called, and what becomes of it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from authproxy.edge.exchange import ClientExchange
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.errors import ClientGone, Refusal
from authproxy.http1 import text
from authproxy.model import Answer, Upstream, UpstreamRequest
from authproxy.upstream.connection import UpstreamConnection
from authproxy.upstream.forward import Delivered, Delivery
from authproxy.upstream.head import Head
from authproxy.upstream.pool import Pools
from tests.peers.fake_transport import FakeTransport
from tests.peers.front_line import FrontLine, turns

TIMEOUT = 5.0
NEVER = float("inf")
GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: app.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
END = b"\r\n" + LAST  # of a body in chunks, and no "Content-Length: 0"


class Street:
    """A client's line, the deliveries of what it asks for, and the upstream's ends of them."""

    def __init__(self, pools: Pools) -> None:
        self.front = FrontLine(self._serve)
        self.client, self.clock = self.front.transport, self.front.clock
        self.pools = pools
        pools.now = self.clock
        assert pools._sweeping is not None
        pools._sweeping.cancel()  # the loop's own clock is another
        self.upstream = Upstream(urls=("http://app.example.com",), timeout=TIMEOUT)
        self.lines: list[FakeTransport] = []
        self.outcomes: list[Delivered | Exception] = []
        self.connecting = asyncio.Event()
        self.connecting.set()

    async def connect(self, made: Callable[[], UpstreamConnection], *_: Any, **__: Any) -> tuple[Any, Any]:
        """What the loop does for the pool."""
        await self.connecting.wait()
        line, connection = FakeTransport(), made()
        self.lines.append(line)
        line.protocol = connection
        connection.connection_made(line)
        return line, connection

    def _serve(self, exchange: ClientExchange) -> None:
        head = exchange.head
        raw = Raw(head.method, head.target, head.headers, "192.0.2.1", False, head.version, None)
        exchange.info = describe(raw, trusted=TrustedProxies(), request_id="r-1", public_scheme="http")
        request = UpstreamRequest(head.method, "/", text.fields(((b"Host", b"app.example.com"),)), self.upstream)

        def done(result: Delivered | Exception) -> None:
            self.outcomes.append(result)
            if isinstance(result, Refusal) and not exchange.gone:
                exchange.answer(Answer(result.status))

        Delivery(exchange, request, self.pools, _passed, None, lambda: 0.0, done).begin()

    @property
    def line(self) -> FakeTransport:
        """The newest connection to the upstream."""
        return self.lines[-1]

    @property
    def far(self) -> UpstreamConnection:
        """The same, as it is called by its transport."""
        assert isinstance(self.line.protocol, UpstreamConnection)
        return self.line.protocol

    async def asks(self, *pieces: bytes) -> None:
        """The client sends, and the upstream is connected to."""
        for piece in pieces:
            self.front.says(piece)
            await turns()

    def answers(self, *pieces: bytes) -> None:
        """The upstream sends; what it sends while reading is paused would stay in its socket."""
        for piece in pieces:
            assert self.line.is_reading(), "nobody reads"
            self.far.data_received(piece)

    @property
    def left(self) -> float:
        """Seconds that the upstream has for what it has to do next."""
        return min((one.deadline for one in self.pools.watched), default=NEVER) - self.clock.now

    def passes(self, seconds: float) -> None:
        """Time passes; what is due ends."""
        self.clock.forward(seconds)
        for one in [one for one in self.pools.watched if one.deadline <= self.clock.now]:
            one.expire()
        if self.front.wire.deadline <= self.clock.now:
            self.front.wire.expire()

    @property
    def last(self) -> Delivered | Exception:
        """What the only exchange came to."""
        (one,) = self.outcomes
        return one


def _passed(head: Head) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(line for line in head.headers if line[0].lower() not in (b"content-length", b"transfer-encoding"))


@pytest.fixture
async def street(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Street]:
    """Everybody."""
    async with Pools() as pools:
        one = Street(pools)
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", one.connect)
        yield one
        one.front.leave()
        await turns()
    assert pools.watched == set(), "a delivery was forgotten"


# --- the request ---


async def test_an_upstream_that_does_not_read_pauses_the_client(street: Street) -> None:
    """And its time runs; when it reads again, so do we, and its time does not run while the client sends."""
    await street.asks(POST, b"ab")
    assert (street.line.said[-2:], street.left) == (b"ab", NEVER)
    street.far.pause_writing()
    assert not street.client.is_reading()
    assert street.left == TIMEOUT
    street.far.resume_writing()
    assert street.client.is_reading()
    assert street.left == NEVER
    street.passes(TIMEOUT + 1)
    await street.asks(b"cdefghij")
    assert street.left == TIMEOUT
    street.answers(SIZED + b"0123456789")
    assert street.last == Delivered(200, 10, 10)
    assert street.line.ended == ""


async def test_an_upstream_that_never_reads_again(street: Street) -> None:
    """Is given up: 504, and what was written of the request is broken off."""
    await street.asks(CHUNKED, b"5\r\nhello\r\n")
    street.far.pause_writing()
    street.passes(TIMEOUT)
    assert isinstance(street.last, Refusal)
    assert street.last.code == "upstream_timeout"
    assert street.client.said.startswith(b"HTTP/1.1 504 ")
    assert street.line.ended == "abort"
    assert END not in street.line.said


async def test_a_piece_that_comes_while_the_upstream_is_full(street: Street) -> None:
    """It was read already: it is passed on, and the upstream's time runs from it."""
    await street.asks(POST)
    street.far.pause_writing()
    street.passes(2)
    street.front.wire.data_received(b"abcd")
    assert (street.line.said[-4:], street.left) == (b"abcd", TIMEOUT)


async def test_a_slow_client_is_not_a_slow_upstream(street: Street) -> None:
    """Between two pieces of a request the client's time runs, and nobody else's."""
    await street.asks(CHUNKED)
    for _ in range(4):
        street.passes(TIMEOUT * 3)
        await street.asks(b"1\r\na\r\n")
        assert street.left == NEVER
    await street.asks(LAST)
    assert street.left == TIMEOUT
    assert street.line.said.endswith(b"1\r\na\r\n" * 4 + LAST)


async def test_an_answer_is_awaited_for_so_long(street: Street) -> None:
    """From the end of the request; then 504."""
    await street.asks(GET)
    street.passes(TIMEOUT - 1)
    assert street.outcomes == []
    street.passes(1)
    assert street.client.said.startswith(b"HTTP/1.1 504 ")
    assert (street.line.ended, street.client.ended) == ("abort", "")


async def test_the_end_of_the_request_is_said_once(street: Street) -> None:
    """Whatever comes after it."""
    await street.asks(CHUNKED + b"1\r\na\r\n" + LAST)
    assert street.line.said.count(LAST) == 1
    street.answers(SIZED + b"0123456789")
    await street.asks(GET)
    assert len(street.lines) == 1, "the connection was kept"
    assert street.line.said.endswith(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")


# --- the answer ---


async def test_a_client_that_does_not_read_pauses_the_upstream(street: Street) -> None:
    """And the upstream's time does not run meanwhile; it begins anew when the client reads again."""
    await street.asks(GET)
    street.answers(SIZED + b"01")
    assert street.left == TIMEOUT
    street.front.wire.pause_writing()
    assert not street.line.is_reading()
    assert street.left == NEVER
    street.passes(TIMEOUT * 3)
    street.front.wire.resume_writing()
    assert street.line.is_reading()
    assert street.left == TIMEOUT
    street.answers(b"23456789")
    assert street.last == Delivered(200, 0, 10)
    assert (street.client.ended, street.line.ended) == ("", "")


async def test_a_piece_that_comes_while_the_client_is_full(street: Street) -> None:
    """It was read already: it is passed on, and the upstream's time still does not run."""
    await street.asks(GET)
    street.answers(SIZED + b"01")
    street.front.wire.pause_writing()
    street.far.data_received(b"23")
    assert street.client.said.endswith(b"0123")
    assert street.left == NEVER


async def test_an_answer_that_ends_while_the_client_is_full(street: Street) -> None:
    """The upstream's connection goes back and reads; the next request on it waits for the client alone."""
    await street.asks(GET)
    street.answers(SIZED + b"01")
    street.front.wire.pause_writing()
    street.far.data_received(b"23456789")
    assert street.last == Delivered(200, 0, 10)
    assert (street.line.is_reading(), street.line.ended) == (True, "")
    await street.asks(GET)
    assert street.outcomes == [street.last], "served while nobody reads"
    street.front.wire.resume_writing()
    await turns()
    assert street.line.said.count(b"GET / ") == 2


async def test_each_piece_renews_the_upstreams_time(street: Street) -> None:
    """A stream may be slow; silence for too long breaks it off, and never looks like an end."""
    await street.asks(GET)
    street.answers(STREAM + b"1\r\na\r\n")
    for _ in range(4):
        street.passes(TIMEOUT - 1)
        street.answers(b"1\r\nb\r\n")
        assert street.left == TIMEOUT
    street.passes(TIMEOUT)
    assert street.last == Delivered(200, 0, 5, complete=False)
    assert (street.client.ended, street.line.ended) == ("abort", "abort")
    assert END not in street.client.said


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
async def test_a_head_in_two_pieces_is_one_head(street: Street, cut: int) -> None:
    """Wherever it is cut, nothing is said to the client before it is whole."""
    await street.asks(GET)
    street.answers(STREAM[:cut])
    assert street.client.said == b""
    street.answers(STREAM[cut:])
    assert street.client.said.startswith(b"HTTP/1.1 200 OK\r\n")
    street.answers(b"1\r\na\r\n" + LAST)
    assert street.last == Delivered(200, 0, 1)


# --- before its time ---


async def test_an_early_answer_ends_the_request(street: Street) -> None:
    """The upstream has answered before it had the body: the client hears it, and neither connection is used again."""
    await street.asks(POST, b"abc")
    street.answers(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert street.last == Delivered(413, 3, 2)
    assert street.client.said.endswith(b"\r\n\r\nno")
    assert b"Connection: close" in street.client.said
    assert (street.line.ended, street.client.eof) == ("abort", True)
    said = street.line.said
    await street.asks(b"defghij" + GET)
    assert street.line.said == said
    assert len(street.front.exchanges) == 1


async def test_an_answer_may_begin_before_the_request_ends(street: Street) -> None:
    """Both go on; the whole of either is passed on."""
    await street.asks(CHUNKED, b"1\r\na\r\n")
    street.answers(STREAM + b"1\r\nx\r\n")
    await street.asks(b"1\r\nb\r\n", LAST)
    assert street.line.said.endswith(b"1\r\na\r\n1\r\nb\r\n" + LAST)
    street.answers(b"1\r\ny\r\n" + LAST)
    assert street.last == Delivered(200, 2, 2)
    assert street.line.ended == ""


async def test_pauses_of_the_request_while_the_answer_is_under_way(street: Street) -> None:
    """An upstream that stops reading pauses the client's sending; its time is that of the answer."""
    await street.asks(CHUNKED, b"1\r\na\r\n")
    street.answers(STREAM + b"1\r\nx\r\n")
    street.far.pause_writing()
    assert not street.client.is_reading()
    street.far.resume_writing()
    assert street.client.is_reading()
    assert street.left == TIMEOUT, "the answer is awaited still"


async def test_a_request_that_breaks_after_the_answer_began(street: Street) -> None:
    """Chunks that cannot be read: it cannot be taken back, so both sides are broken off."""
    await street.asks(CHUNKED, b"1\r\na\r\n")
    street.answers(STREAM + b"1\r\nx\r\n")
    await street.asks(b"no chunk\r\n")
    assert street.last == Delivered(200, 1, 1, complete=False)
    assert (street.client.ended, street.line.ended) == ("abort", "abort")
    assert END not in street.client.said + street.line.said


async def test_a_request_that_breaks_before_its_answer(street: Street) -> None:
    """It is refused, and the upstream never has the whole of it."""
    await street.asks(CHUNKED, b"1\r\na\r\n", b"no chunk\r\n")
    assert isinstance(street.last, Refusal)
    assert street.last.code == "malformed_body"
    assert street.client.said.startswith(b"HTTP/1.1 400 ")
    assert (street.line.ended, END in street.line.said) == ("abort", False)


# --- ends ---


@pytest.mark.parametrize("when", ["connecting", "sending", "waiting", "answering"])
async def test_a_client_that_leaves_ends_the_upstreams_work(street: Street, when: str) -> None:
    """At any time: nobody works for nobody."""
    if when == "connecting":
        street.connecting.clear()
    await street.asks(POST if when == "sending" else GET)
    if when == "answering":
        street.answers(STREAM + b"1\r\nx\r\n")
    street.front.wire.connection_lost(None)
    await turns()
    if when == "answering":
        assert street.last == Delivered(200, 0, 1, complete=False)
    else:
        assert isinstance(street.last, ClientGone)
    street.connecting.set()
    await turns()
    assert [line.ended for line in street.lines] == ([] if when == "connecting" else ["abort"])


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_an_upstream_that_leaves(street: Street, error: Exception | None) -> None:
    """Before its answer: 502.  In the midst of it the client is broken off, and sees no end."""
    await street.asks(GET)
    street.far.connection_lost(error)
    assert street.client.said.startswith(b"HTTP/1.1 502 ")
    assert street.client.ended == ""
    await street.asks(GET)
    street.answers(STREAM + b"1\r\nx\r\n")
    street.far.connection_lost(error)
    assert street.outcomes[-1] == Delivered(200, 0, 1, complete=False)
    assert (street.client.ended, END in street.client.said) == ("abort", False)


async def test_a_stale_connection_is_replaced_once(street: Street) -> None:
    """A kept one that ends without an octet: what is safe goes out again on a new one, and that one is believed."""
    await street.asks(GET)
    street.answers(SIZED + b"0123456789")
    await street.asks(GET)
    assert len(street.lines) == 1
    street.far.connection_lost(None)
    await turns()
    assert len(street.lines) == 2
    street.far.connection_lost(None)
    await turns()
    assert len(street.lines) == 2
    assert [one.status for one in street.outcomes if isinstance(one, Delivered | Refusal)] == [200, 502]


async def test_what_may_have_happened_is_not_repeated(street: Street) -> None:
    """A POST on a stale connection, and a GET whose answer had begun, are refused."""
    await street.asks(GET)
    street.answers(SIZED + b"0123456789")
    await street.asks(POST + b"0123456789")
    street.far.connection_lost(None)
    await turns()
    assert (len(street.lines), street.client.said.count(b"HTTP/1.1 502 ")) == (1, 1)
    await street.asks(GET)
    street.answers(SIZED + b"0123456789")
    await street.asks(GET)
    street.answers(b"HTTP/1.1 2")
    street.far.connection_lost(None)
    await turns()
    assert (len(street.lines), street.client.said.count(b"HTTP/1.1 502 ")) == (2, 2)


async def test_an_answer_to_a_client_that_cannot_be_written_to(street: Street) -> None:
    """Its connection was broken off from our side meanwhile: the upstream's ends with it."""
    await street.asks(GET)
    street.answers(STREAM + b"1\r\nx\r\n")
    street.client.abort()
    street.far.data_received(b"1\r\ny\r\n")
    assert street.last == Delivered(200, 0, 1, complete=False)
    assert street.line.ended == "abort"
