"""What is fuzzed: the front door, the answers of upstreams, and the readings of a path.

Each target takes octets and the number that cuts them, and raises AssertionError when a promise does not hold: nothing
but the refusals that are declared, no more than the bounded octets held, and the same outcome however the octets come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from authproxy.edge import limits
from authproxy.edge.connections import Bounds, Connections
from authproxy.edge.departure import Departure
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.hops import TrustedProxies
from authproxy.edge.path import readings
from authproxy.edge.wire import ClientConnection, State
from authproxy.errors import BadRequest, Refusal
from authproxy.model import Answer
from authproxy.upstream.connection import UpstreamConnection
from authproxy.upstream.head import Head
from tests.fuzz.mutation import cuts
from tests.fuzz.seeds import PATHS, REQUESTS, RESPONSES

Target = Callable[[bytes, int], None]


class Line:
    """A transport without a wire."""

    def __init__(self) -> None:
        self.said = b""
        self.closed = self.broken = self.paused = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "something was written after the end"
        self.said += data

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.broken = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None


class Served:
    """The counterpart of one exchange: it answers when the body is whole."""

    def __init__(self, exchange: ClientExchange, found: list[tuple[Any, ...]]) -> None:
        self._exchange, self._found, self._body = exchange, found, b""
        exchange.attach(self)
        exchange.take_body()

    def body_piece(self, piece: bytes) -> None:
        self._body += piece

    def body_ended(self) -> None:
        self._end("whole", 200)

    def body_failed(self, error: Exception) -> None:
        self._end("failed", 400)

    def _end(self, how: str, status: int) -> None:
        head = self._exchange.head
        self._found.append((head.method, head.target, head.headers.lines, how, self._body if how == "whole" else b""))
        self._exchange.suspect = False
        self._exchange.answer(Answer(status))

    def client_full(self) -> None: ...

    def client_ready(self) -> None: ...

    def client_gone(self) -> None: ...


def _front_door(pieces: Sequence[bytes]) -> tuple[Any, ...]:
    found: list[tuple[Any, ...]] = []

    def unread(exchange: ClientExchange, refusal: Refusal) -> None:
        found.append(("unread", refusal.code))
        exchange.answer(Answer(refusal.status))

    connections = Connections(
        serve=lambda exchange: (Served(exchange, found), None)[1],
        unread=unread,
        ended=lambda _exchange: None,
        departure=Departure(),
        bounds=lambda: Bounds(1, 1, TrustedProxies()),
        crowded=lambda _bound: Answer(503),
    )
    line, loop = Line(), asyncio.get_running_loop()
    connection = ClientConnection(connections)
    connection.connection_made(line)  # type: ignore[arg-type]
    for piece in pieces:
        if piece and not line.closed:
            connection.data_received(piece)
            _served_on(connection)
        assert len(connection.inbox.data) <= limits.AHEAD + limits.HEAD
    connection.connection_lost(None)
    connections.abort_all()
    assert loop.time() >= 0
    ended = line.closed
    return tuple(found), line.said.count(b"HTTP/1.1 "), ended


def _served_on(connection: ClientConnection) -> None:
    """What the event loop would call: requests that wait for others to have had their turn."""
    before = None
    while connection.state is State.HEAD and connection.inbox.data != before:
        before = connection.inbox.data
        connection._serve_heads()


def front_door(data: bytes, number: int) -> None:
    """Requests: the same ones, whole, whatever the segments are; one answer for each, and none behind an end."""
    outcomes = [_front_door(pieces) for pieces in ([data], cuts(data, number))]
    (found, _, ended), (again, _, ended_again) = outcomes
    assert (found, ended) == (again, ended_again), "the segments make a difference"
    interim = data.lower().count(b"expect")
    for _, answers, _ in outcomes:  # 100 Continue is said where the body had not come yet
        assert len(found) <= answers <= len(found) + interim, "not one answer for each request"


class Heard:
    """A listener of an upstream connection."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.end = ""

    def head(self, head: Head, *, more: bool) -> None:
        assert not self.status, "two answers to one request"
        assert 200 <= head.status <= 599
        self.status = head.status

    def whole(self, head: Head, body: bytes | memoryview) -> None:
        self.head(head, more=bool(body))
        self.piece(bytes(body))
        self.ended()

    def under_way(self) -> None: ...

    def piece(self, piece: bytes) -> None:
        assert self.status, "a body before its head"
        assert not self.end, "something behind the end"
        self.body += piece

    def ended(self) -> None:
        self._ends("whole")

    def failed(self, refusal: Refusal, *, silent: bool) -> None:
        self._ends(refusal.code)

    def _ends(self, how: str) -> None:
        assert not self.end, "it ends twice"
        self.end = how

    def upstream_full(self) -> None: ...

    def upstream_ready(self) -> None: ...


def _far_door(pieces: Sequence[bytes]) -> tuple[Any, ...]:
    kept: list[UpstreamConnection] = []
    connection = UpstreamConnection(lambda one: not kept.append(one), lambda _one: None)  # type: ignore[func-returns-value]
    line, heard = Line(), Heard()
    connection.connection_made(line)  # type: ignore[arg-type]
    connection.ask(heard, "GET", b"GET / HTTP/1.1\r\n\r\n")
    connection.sent_whole = True
    for piece in pieces:
        if piece and not line.closed:
            connection.data_received(piece)
    connection.connection_lost(None)
    assert heard.end, "nobody hears how it ended"
    return heard.status, heard.body if heard.end == "whole" else b"", heard.end, line.broken


def far_door(data: bytes, number: int) -> None:
    """An answer: the same one, or the same failure, whatever the segments are; nothing behind it is believed."""
    whole = _far_door([data])
    cut = _far_door(cuts(data, number))
    assert cut[:3] == whole[:3], "the segments make a difference"


def path(data: bytes, _number: int) -> None:
    """The readings of a path: the raw one first, none with a dot segment, all of them read once more the same."""
    text = "/" + "".join(chr(33 + octet % 94) for octet in data).replace("#", "").replace("?", "")
    try:
        found = readings(text)
    except BadRequest as no:
        found, code = (), no.code
    else:
        code = ""
    if not found:
        assert code in ("bad_path", "ambiguous_path")
        return
    assert found[0] == text
    assert len(set(found)) == len(found)
    for one in found:
        assert not {".", ".."} & set(one.split("/")), one
        assert "\\" not in one
        assert "\0" not in one


TARGETS: dict[str, tuple[Target, Sequence[bytes]]] = {
    "front door": (front_door, REQUESTS),
    "far door": (far_door, RESPONSES),
    "path": (path, PATHS),
}
