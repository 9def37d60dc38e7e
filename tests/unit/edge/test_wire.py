"""A client's connection on a fake transport: every pause and resume, every deadline, every end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from authproxy.edge import limits
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.wire import State
from authproxy.errors import BadRequest, ClientGone
from tests.peers.front_line import OK, FrontLine, turns

GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: app.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
NEVER = float("inf")


@pytest.fixture
async def line() -> Iterator[FrontLine]:  # type: ignore[misc]  # a generator that awaits
    """A connection whose exchanges wait for the test."""
    one = FrontLine()
    yield one
    one.leave()


def answering(exchange: ClientExchange) -> None:
    """Answers at once."""
    exchange.answer(OK)


# --- time ---


async def test_a_head_has_a_fixed_time(line: FrontLine) -> None:
    """From its first octet to its last, however it drips; before it, and after an answer, the connection may rest."""
    assert line.left == limits.KEEPALIVE_SECONDS
    line.says(GET[:5])
    assert line.left == limits.HEAD_SECONDS
    for at in range(5, 10):
        line.clock.forward(1)
        line.says(GET[at : at + 1])
    assert line.left == limits.HEAD_SECONDS - 5
    line.says(GET[10:])
    assert line.left == NEVER
    line.clock.forward(1000)
    line.exchanges[0].answer(OK)
    assert line.left == limits.KEEPALIVE_SECONDS


async def test_a_first_octet_does_not_prolong_the_rest(line: FrontLine) -> None:
    """Who begins a head at the last moment has the moment."""
    line.clock.forward(limits.KEEPALIVE_SECONDS - 1)
    line.says(GET[:5])
    assert line.left == 1


async def test_a_body_has_time_between_its_pieces(line: FrontLine) -> None:
    """Each piece renews it; while nobody wants to read, and while the answer is awaited, it does not run."""
    for head, pieces in ((POST, (b"a", b"b", b"c")), (CHUNKED, (b"1\r\na\r\n", b"2\r\nb", b"c\r\n"))):
        line.says(head)
        assert line.left == limits.READ_SECONDS
        counter = line.joined()
        for piece in pieces:
            line.clock.forward(limits.READ_SECONDS - 1)
            line.says(piece)
            assert line.left == limits.READ_SECONDS
        line.exchanges[-1].hold_body()
        assert line.left == NEVER
        line.exchanges[-1].resume_body()
        assert line.left == limits.READ_SECONDS
        line.says(b"de" if head is POST else b"0\r\n\r\n")
        assert (line.left, counter.body, counter.heard) == (NEVER, b"abc" + b"de" * (head is POST), ["ended"])
        line.exchanges[-1].answer(OK)


async def test_who_reads_nothing_has_a_time_as_well(line: FrontLine) -> None:
    """From the moment at which the connection is full; in a tunnel a reader may rest."""
    line.says(GET)
    counter = line.joined()
    line.wire.pause_writing()
    assert (line.left, counter.heard) == (limits.WRITE_SECONDS, ["ended", "full"])
    line.wire.resume_writing()
    assert (line.left, counter.heard) == (NEVER, ["ended", "full", "ready"])
    await line.exchanges[0].tunnel(101, ((b"Upgrade", b"x"),))
    line.wire.pause_writing()
    assert line.left == NEVER


async def test_time_is_up(line: FrontLine) -> None:
    """At rest the connection is closed; in a body it is broken off, and whoever serves is told why."""
    line.wire.expire()
    assert (line.transport.ended, line.left) == ("close", NEVER)


@pytest.mark.parametrize("full", [False, True])
async def test_time_is_up_in_an_exchange(line: FrontLine, full: bool) -> None:
    """The client that sends nothing, and the one that reads nothing."""
    line.says(POST + b"a")
    counter = line.joined()
    if full:
        line.wire.pause_writing()
    line.wire.expire()
    assert line.transport.ended == "abort"
    assert [str(error) for error in counter.errors if isinstance(error, ClientGone)] == [
        "the client reads nothing" if full else "the client stopped sending its body"
    ]
    assert line.ended == line.exchanges


async def test_time_is_up_for_an_answer_that_nobody_reads(line: FrontLine) -> None:
    """The exchange is over, the octets are still here: an orderly close would wait for ever."""
    line.says(GET)
    line.exchanges[0].answer(OK)
    line.wire.pause_writing()
    assert line.left == limits.WRITE_SECONDS
    line.wire.expire()
    assert line.transport.ended == "abort"


# --- pauses ---


async def test_reading_pauses_for_each_reason_and_goes_on_without_any(line: FrontLine) -> None:
    """A body that is not wanted; too much that came before its turn; both."""
    line.says(POST)
    counter = line.joined()
    line.exchanges[0].hold_body()
    line.wire.hold_body()
    assert line.transport.pauses == ["pause"]
    line.exchanges[0].resume_body()
    assert line.transport.pauses == ["pause", "resume"]
    line.says(b"hello" + b"G" * limits.AHEAD)
    assert line.transport.is_reading()
    line.says(b"GG")
    assert line.transport.pauses == ["pause", "resume", "pause"]
    line.wire.hold_body()
    line.wire.resume_body()
    assert not line.transport.is_reading(), "one reason was taken for the other"
    assert counter.body == b"hello"


async def test_what_comes_ahead_is_bounded_and_served_in_its_turn() -> None:
    """Requests behind the one that waits are kept up to a limit; as they are served, reading goes on."""
    line = FrontLine()
    line.says(GET)
    number = limits.AHEAD // len(GET) + 1
    line.says(GET * number)
    assert line.transport.pauses == ["pause"]
    line._serving = answering
    line.exchanges[0].answer(OK)
    for _ in range(number):
        await asyncio.sleep(0)
    assert line.transport.pauses == ["pause", "resume"]
    assert line.transport.said.count(b"HTTP/1.1 200 OK") == number + 1
    line.leave()


async def test_a_body_that_was_held_at_its_end_does_not_hold_the_next_request(line: FrontLine) -> None:
    """Whoever asked for the pause has gone with its exchange."""
    line.says(POST + b"hello")
    line.joined()
    line.wire.hold_body()
    assert not line.transport.is_reading()
    line.exchanges[0].answer(OK)
    assert line.transport.is_reading()
    line.says(GET)
    assert len(line.exchanges) == 2


async def test_nothing_is_served_while_answers_pile_up() -> None:
    """A client that asks and does not read waits, until it has read."""
    line = FrontLine(answering)
    line.wire.pause_writing()
    line.says(GET + GET)
    assert line.exchanges == []
    line.wire.resume_writing()
    await turns()
    assert len(line.exchanges) == 2
    line.leave()


async def test_others_have_their_turn() -> None:
    """Of many requests in one piece only so many are served before the loop goes round."""
    line = FrontLine(answering)
    line.says(GET * (limits.AT_ONCE + 3))
    assert len(line.exchanges) == limits.AT_ONCE
    await turns()
    assert len(line.exchanges) == limits.AT_ONCE + 3
    assert line.ended == line.exchanges
    line.leave()


async def test_who_writes_waits_for_room(line: FrontLine) -> None:
    """Until the client has taken enough; when it leaves instead, the writer hears so."""
    line.says(GET)
    await line.wire.room()
    line.wire.pause_writing()
    waiting = [asyncio.ensure_future(line.exchanges[0].room()) for _ in range(2)]
    await turns()
    assert [one.done() for one in waiting] == [False, False]
    line.wire.resume_writing()
    assert await asyncio.gather(*waiting) == [None, None]
    line.wire.pause_writing()
    waiting = [asyncio.ensure_future(line.exchanges[0].room())]
    await turns()
    line.wire.connection_lost(None)
    with pytest.raises(ClientGone):
        await waiting[0]
    with pytest.raises(ClientGone):
        line.wire.send(b"x")


# --- bodies ---


@pytest.mark.parametrize(("head", "body"), [(POST, b"hello"), (CHUNKED, b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")])
async def test_a_body_ends_where_it_ends(head: bytes, body: bytes) -> None:
    """In any two pieces, with the next request right behind it: the end is said once, nothing of one in the other."""
    for cut in range(1, len(body) + 1):
        line = FrontLine()
        line.says(head + body[:cut])
        counter = line.joined()
        line.says(body[cut:] + GET)
        assert (counter.body, counter.heard) == (b"hello", ["ended"]), cut
        assert len(line.exchanges) == 1
        line.exchanges[0].answer(OK)
        await turns()
        assert [one.head.method for one in line.exchanges] == ["POST", "GET"]
        line.leave()


async def test_no_body_is_said_to_have_ended_once(line: FrontLine) -> None:
    """A request without a body, and one whose length is 0."""
    for head in (GET, POST.replace(b"5", b"0")):
        line.says(head)
        assert line.joined().heard == ["ended"]
        line.exchanges[-1].answer(OK)


async def test_chunks_that_cannot_be_read(line: FrontLine) -> None:
    """Whoever takes the body is told, and nothing behind it is ever a request."""
    line.says(CHUNKED + b"1\r\na\r\n")
    counter = line.joined()
    line.says(b"x\r\n" + GET)
    assert (counter.body, counter.heard) == (b"a", ["failed"])
    assert isinstance(counter.errors[0], BadRequest)
    assert line.left == limits.LINGER_SECONDS
    line.exchanges[0].answer(OK)
    line.says(GET)
    assert (len(line.exchanges), line.transport.eof, line.wire.state) == (1, True, State.SWALLOW)


# --- answers before their time ---


async def test_an_early_answer_arrives(line: FrontLine) -> None:
    """What is left of the body is thrown away for a moment, so that no reset takes the answer along; then it ends."""
    line.says(POST + b"a")
    line.joined()
    line.exchanges[0].hold_body()
    line.exchanges[0].answer(OK)
    assert b"Connection: close" in line.transport.said
    assert (line.transport.eof, line.transport.ended, line.transport.is_reading()) == (True, "", True)
    assert line.left == limits.LINGER_SECONDS
    line.says(b"bcd", b"e" + GET)
    assert len(line.exchanges) == 1
    line.wire.expire()
    assert line.transport.ended == "abort"


async def test_what_is_thrown_away_is_bounded(line: FrontLine) -> None:
    """Up to a limit; then the connection is broken off."""
    line.says(POST + b"a")
    line.joined()
    line.exchanges[0].answer(OK)
    line.says(b"x" * limits.SWALLOWED)
    assert line.transport.ended == ""
    line.says(b"x")
    assert line.transport.ended == "abort"


async def test_an_answer_that_ends_the_connection_closes_it(line: FrontLine) -> None:
    """Without anything unread there is nothing to wait for."""
    line.connections.closing = True
    line.says(GET)
    line.exchanges[0].answer(OK)
    assert (line.transport.ended, line.transport.eof) == ("close", False)


async def test_what_is_no_request_ends_the_connection(line: FrontLine) -> None:
    """It is refused once; what comes behind it, and with it, is never looked at."""
    line.says(b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n" + GET)
    assert [refusal.code for refusal in line.refusals] == ["malformed_request"]
    if line.transport.ended == "":
        line.says(GET)
    await turns()
    assert (line.exchanges, len(line.refusals)) == ([], 1)


# --- ends ---


async def test_a_client_that_leaves_is_noticed_once(line: FrontLine) -> None:
    """By FIN or by reset, in a body or while it waits: whoever serves is told, and the exchange has ended."""
    line.says(POST + b"a")
    counter = line.joined()
    assert line.wire.eof_received() is False
    line.wire.connection_lost(None)
    assert (counter.heard, line.ended) == (["gone"], line.exchanges)
    assert line.wire.gone
    line.exchanges[0].abort()
    assert line.ended == line.exchanges


async def test_a_client_that_leaves_before_anybody_minds_it(line: FrontLine) -> None:
    """Whoever waits for something in its name is cancelled."""
    line.says(GET)
    task = line.exchanges[0].task = asyncio.get_running_loop().create_task(asyncio.sleep(1000))
    line.wire.connection_lost(ConnectionResetError())
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_at_rest_or_not(line: FrontLine) -> None:
    """What a drain may close at once: no request is being served, and none has come."""
    resting = [line.wire.idle]
    for piece in (GET[:5], GET[5:]):
        line.says(piece)
        resting.append(line.wire.idle)
    line.exchanges[0].answer(OK)
    assert [*resting, line.wire.idle] == [True, True, False, True]


async def test_a_tunnel_takes_everything(line: FrontLine) -> None:
    """From the 101 on nothing is a request; the client's FIN leaves the other direction open."""
    line.says(GET)
    tunnel = await line.exchanges[0].tunnel(101, ((b"Upgrade", b"x"),))
    line.says(GET)
    assert await tunnel.read() == GET
    assert line.wire.eof_received() is True
    assert await tunnel.read() == b""
    await tunnel.write(b"still")
    assert line.transport.said.endswith(b"still")
    assert len(line.exchanges) == 1


async def test_a_tunnel_by_tls_has_no_half(line: FrontLine) -> None:
    """TLS has no half-close."""
    line = FrontLine(extra={"sslcontext": object()})
    line.says(GET)
    await line.exchanges[0].tunnel(101, ((b"Upgrade", b"x"),))
    assert line.wire.eof_received() is False
    line.leave()


async def test_what_came_before_the_loss_of_a_tunnel_is_read(line: FrontLine) -> None:
    """Then it is gone."""
    line.says(GET)
    tunnel = await line.exchanges[0].tunnel(101, ((b"Upgrade", b"x"),))
    line.says(b"last")
    line.wire.connection_lost(None)
    assert await tunnel.read() == b"last"
    with pytest.raises(ClientGone):
        await tunnel.read()
