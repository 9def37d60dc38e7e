"""One upstream connection on a fake transport: what it says of an answer, when reading pauses, when it may be kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from authproxy.errors import Refusal
from authproxy.upstream.connection import HEAD_LIMIT, HEADER_LIMIT, UpstreamConnection
from authproxy.upstream.head import Head
from tests.peers.fake_transport import FakeTransport

ASKED = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: t\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


class Asker:
    """Who asked: notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.body = b""
        self.on_head: Callable[[], object] = int

    def head(self, head: Head, *, more: bool) -> None:
        self.heard.append(f"head {head.status}")
        self.more = more
        self.on_head()

    def whole(self, head: Head, body: bytes | memoryview) -> None:
        self.head(head, more=bool(body))
        self.body += body
        self.ended()

    def piece(self, piece: bytes) -> None:
        assert piece
        self.body += piece

    def under_way(self) -> None:
        self.heard.append("under way")

    def ended(self) -> None:
        self.heard.append("ended")

    def failed(self, refusal: Refusal, *, silent: bool) -> None:
        assert refusal.code == "upstream_bad_response"
        self.heard.append("failed, silent" if silent else "failed")

    def upstream_full(self) -> None:
        self.heard.append("full")

    def upstream_ready(self) -> None:
        self.heard.append("ready")


class Line:
    """A connection, what it runs on, and what its pool was told.  ``room``: the pool would keep it."""

    def __init__(self, *, room: bool = True) -> None:
        self.transport = FakeTransport()
        self.kept = self.lost = 0
        self._room = room
        self.connection = UpstreamConnection(self._back, self._gone)
        self.connection.connection_made(self.transport)

    def _back(self, connection: UpstreamConnection) -> bool:
        assert connection is self.connection
        self.kept += self._room
        return self._room

    def _gone(self, connection: UpstreamConnection) -> None:
        self.lost += 1

    def asked(self, method: str = "GET", *, whole: bool = True) -> Asker:
        """Somebody asks; ``whole``: without a body, or to its end."""
        asker = Asker()
        self.connection.ask(asker, method, ASKED)
        self.connection.sent_whole = whole
        return asker

    def says(self, *pieces: bytes) -> None:
        """The upstream sends."""
        for piece in pieces:
            self.connection.data_received(piece)


@pytest.mark.parametrize("wire", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_an_answer_in_any_two_pieces(wire: bytes) -> None:
    """Wherever it is cut, the same head and body are heard, once each, and the connection is kept."""
    for cut in range(1, len(wire)):
        line = Line()
        asker = line.asked()
        line.says(wire[:cut], wire[cut:])
        assert (asker.body, asker.heard[0], asker.heard[-1]) == (b"hello", "head 200", "ended"), cut
        assert asker.heard.count("under way") == asker.heard.count("ended") - (len(asker.heard) == 2), cut
        assert (line.kept, line.transport.ended) == (1, ""), cut


def test_an_answer_octet_by_octet() -> None:
    """As above, and what comes in one go is never "under way"."""
    for wire in (SIZED, CHUNKED):
        line = Line()
        asker = line.asked()
        line.says(*(wire[at : at + 1] for at in range(len(wire))))
        assert (asker.heard, asker.body) == (["head 200", "under way", "ended"], b"hello")
        asker = line.asked()
        line.says(wire)
        assert (asker.heard, asker.body, asker.more) == (["head 200", "ended"], b"hello", True)


SAME = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(("method", "wire"), [("HEAD", SIZED[:-5]), ("GET", EMPTY), ("GET", SAME)])
def test_no_body_where_none_belongs(method: str, wire: bytes) -> None:
    """RFC 9112 section 6.3: whatever the head says, such an answer ends with it, and the connection is kept."""
    line = Line()
    asker = line.asked(method)
    line.says(wire)
    assert (asker.heard[1:], line.kept) == (["ended"], 1)


def test_a_body_that_ends_with_the_connection() -> None:
    """Its end is an orderly close; nothing is kept.  After a reset nobody can say that it was whole."""
    for error, heard in ((None, "ended"), (ConnectionResetError(), "failed")):
        line = Line()
        asker = line.asked()
        line.says(CLOSED)
        line.connection.connection_lost(error)
        assert (asker.heard, asker.body) == (["head 200", "under way", heard], b"hello")
        assert (line.kept, line.lost, line.connection.usable) == (0, 1, False)


@pytest.mark.parametrize("wire", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_a_body_that_breaks_off(wire: bytes) -> None:
    """A connection that ends before its time, however orderly, is a failure; once it is heard nothing else is."""
    for cut in range(len(wire)):
        line = Line()
        asker = line.asked()
        if cut:
            line.says(wire[:cut])
        line.connection.connection_lost(None)
        assert asker.heard[-1] == ("failed" if cut else "failed, silent"), cut
        assert "ended" not in asker.heard, cut


def test_when_it_is_not_kept() -> None:
    """Only a connection on which nothing of the exchange is left goes back to the pool; the answer is whole."""
    for wire in (
        SIZED + b"x",  # more than was announced: the mark of a second answer
        CHUNKED + b"HTTP/1.1 200 OK\r\n\r\n",
        EMPTY + b"x",
        SIZED.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"),
        SIZED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        line = Line()
        asker = line.asked()
        line.says(wire)
        assert (asker.heard[-1], line.kept, line.transport.ended) == ("ended", 0, "abort"), wire
    line = Line()
    asker = line.asked(whole=False)
    line.says(SIZED)
    assert (asker.heard[-1], line.kept, line.transport.ended) == ("ended", 0, "abort"), "its request was not sent whole"
    line = Line()
    asker = line.asked()
    line.connection.pause_writing()
    line.says(SIZED)
    assert (line.kept, line.transport.ended) == (0, "abort"), "what was written has not gone out"
    line = Line(room=False)
    line.asked()
    line.says(SIZED)
    assert line.transport.ended == "abort", "the pool has enough"


def test_extra_octets_after_the_last_piece() -> None:
    """Also when they come with the last piece of a body that was under way: they are not passed on, nothing is kept."""
    line = Line()
    asker = line.asked()
    line.says(SIZED[:-1], b"oHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (asker.heard, asker.body, line.kept) == (["head 200", "under way", "ended"], b"hello", 0)


def test_what_comes_unasked_ends_the_connection() -> None:
    """The next answer on it would not be what it seems."""
    line = Line()
    line.asked()
    line.says(SIZED)
    assert line.connection.usable
    line.says(SIZED)
    assert (line.transport.ended, line.connection.usable) == ("abort", False)


def test_reading_pauses_and_goes_on() -> None:
    """Once for each change; a connection that is given back reads, whatever its asker had asked for."""
    line = Line()
    asker = line.asked()
    line.says(SIZED[:-3])
    for _ in range(2):
        line.connection.hold()
    assert line.transport.pauses == ["pause"]
    for _ in range(2):
        line.connection.resume()
    assert line.transport.pauses == ["pause", "resume"]
    line.connection.hold()
    line.says(SIZED[-3:])  # it was under way already
    assert (asker.heard[-1], line.kept, line.transport.is_reading()) == ("ended", 1, True)


def test_a_full_upstream_is_told_to_who_asked_alone() -> None:
    """The pauses of writing reach the asker; with nobody there they are noted."""
    line = Line()
    asker = line.asked()
    line.connection.pause_writing()
    assert line.connection.full
    line.connection.resume_writing()
    assert (asker.heard, line.connection.full) == (["full", "ready"], False)
    line.says(SIZED)
    line.connection.pause_writing()
    line.connection.resume_writing()
    assert asker.heard == ["full", "ready", "head 200", "ended"]


def test_who_lets_go_hears_nothing_more() -> None:
    """Neither the rest of what came, nor the end of the connection; and what is under way is broken off."""
    for wire in (SIZED[:-1], CHUNKED, CLOSED):
        line = Line()
        asker = line.asked()
        asker.on_head = line.connection.let_go
        line.says(wire)
        line.connection.connection_lost(None)
        assert (asker.heard, asker.body) == (["head 200"], b"")
        assert (line.transport.ended, line.kept) == ("abort", 0)


def test_who_lets_go_in_the_midst_of_chunks_hears_no_further_one() -> None:
    """Several chunks in one piece are several calls."""
    line = Line()
    asker = line.asked()
    pieces: list[bytes] = []

    def piece(one: bytes) -> None:
        pieces.append(one)
        line.connection.let_go()

    asker.piece = piece  # type: ignore[assignment,method-assign]
    line.says(CHUNKED)
    assert (pieces, asker.heard) == ([b"hel"], ["head 200"])


def test_interim_answers_are_skipped_up_to_a_number() -> None:
    """RFC 9110 section 15.2: any number, but not without end; each exchange has its own count."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    line = Line()
    for _ in range(2):
        asker = line.asked()
        line.says(interim * 16 + SIZED)
        assert (asker.heard, asker.body) == (["head 200", "ended"], b"hello")
    asker = line.asked()
    line.says(interim * 17 + SIZED)
    assert asker.heard == ["failed"]


def test_a_head_is_bounded() -> None:
    """In octets, whole or not, and in lines."""
    first, filler = b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"
    for wire in (
        first + b"X: " + b"y" * HEAD_LIMIT,
        first + b"X: " + b"y" * HEAD_LIMIT + b"\r\n\r\n",
        first + filler * (HEADER_LIMIT + 1) + b"\r\n",
    ):
        line = Line()
        asker = line.asked()
        line.says(wire)
        assert (asker.heard, line.transport.ended) == (["failed"], "abort")
    line = Line()
    asker = line.asked()
    line.says(first + filler * (HEADER_LIMIT - 1) + b"Content-Length: 0\r\n\r\n")
    assert asker.heard == ["head 200", "ended"]


def test_a_switch_that_nobody_asked_for() -> None:
    """101 is no answer to a request without Upgrade."""
    line = Line()
    asker = line.asked()
    line.says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert asker.heard == ["failed"]


def test_nothing_of_one_answer_is_in_the_next() -> None:
    """A head that is the same octet for octet has a body of its own; a broken one leaves nothing behind."""
    line = Line()
    for body in (b"hello", b"world"):
        asker = line.asked()
        line.says(SIZED[:-5], body)
        assert asker.body == body
    asker = line.asked("HEAD")
    line.says(SIZED[:-5])
    assert (asker.heard, asker.body) == (["head 200", "ended"], b"")
    asker = line.asked()
    line.says(CHUNKED)
    assert asker.body == b"hello"


def test_it_says_its_state() -> None:
    """Idle, busy, lost."""
    line = Line()
    assert repr(line.connection) == "<UpstreamConnection idle>"
    line.asked()
    assert repr(line.connection) == "<UpstreamConnection busy>"
    line.connection.connection_lost(None)
    assert repr(line.connection) == "<UpstreamConnection lost>"
