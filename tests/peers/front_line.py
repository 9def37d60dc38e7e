"""One client's connection without a network: fake transport, fake clock, and whoever a test lets serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from authproxy.edge.connections import Bounds, Connections
from authproxy.edge.departure import Departure
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.hops import TrustedProxies
from authproxy.errors import Refusal
from authproxy.model import Answer
from tests.peers.fake_clock import FakeClock
from tests.peers.fake_transport import FakeTransport

OK = Answer(200, (), b"ok")


class Counter:
    """A counterpart: notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.body = b""
        self.errors: list[Exception] = []

    def body_piece(self, piece: bytes) -> None:
        assert piece
        self.body += piece

    def body_ended(self) -> None:
        self.heard.append("ended")

    def body_failed(self, error: Exception) -> None:
        self.heard.append("failed")
        self.errors.append(error)

    def client_full(self) -> None:
        self.heard.append("full")

    def client_ready(self) -> None:
        self.heard.append("ready")

    def client_gone(self) -> None:
        self.heard.append("gone")


class FrontLine:
    """``serve`` is called with each exchange; left out, exchanges wait for the test.  Use inside a running loop."""

    def __init__(
        self, serve: Callable[[ClientExchange], None] | None = None, *, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.clock = FakeClock(1000.0)
        self.exchanges: list[ClientExchange] = []
        self.ended: list[ClientExchange] = []
        self.refusals: list[Refusal] = []
        self._serving = serve
        self.connections = Connections(
            serve=self._serve, unread=self._unread, ended=self.ended.append, departure=Departure(),
            bounds=lambda: Bounds(9, 9, TrustedProxies()), crowded=lambda _bound: Answer(503),
        )  # fmt: skip
        self.connections.now = self.clock  # type: ignore[misc]  # whose time stands still
        self.transport = FakeTransport(extra=extra)
        self.wire = self.connections()
        self.wire.connection_made(self.transport)

    def _serve(self, exchange: ClientExchange) -> None:
        exchange.suspect = False
        self.exchanges.append(exchange)
        if self._serving is not None:
            self._serving(exchange)

    def _unread(self, exchange: ClientExchange, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        exchange.answer(Answer(refusal.status))

    def says(self, *pieces: bytes) -> None:
        """The client sends; what it sends while reading is paused would stay in its socket."""
        for piece in pieces:
            assert self.transport.reading, "nobody reads"
            self.wire.data_received(piece)

    def joined(self) -> Counter:
        """Somebody minds the newest exchange, and takes its body."""
        counter = Counter()
        self.exchanges[-1].attach(counter)
        self.exchanges[-1].take_body()
        return counter

    @property
    def left(self) -> float:
        """Seconds that the client has for what it has to do next."""
        return self.wire.deadline - self.clock.now

    def leave(self) -> None:
        """The test is over."""
        self.wire.connection_lost(None)
        self.connections.abort_all()


async def turns() -> None:
    """Let the loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0)
