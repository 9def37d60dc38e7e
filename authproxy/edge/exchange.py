"""One request and its answer on a client's connection (``model.Exchange``).

Heads are serialised here.  Bodies keep the framing that RFC 9112 section 6 asks for.  Nothing here waits but ``room``,
``body`` and the tunnel: who answers at once costs no task.  This room knows nothing of who may do what.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from authproxy.edge.departure import Departure
from authproxy.edge.tap import ClientTunnel
from authproxy.errors import ClientGone
from authproxy.exchange import Counterpart
from authproxy.http1 import text
from authproxy.http1.chunks import LAST, chunk
from authproxy.http1.heads import RequestHead
from authproxy.model import Answer, Fields, HeaderList, RequestInfo

if TYPE_CHECKING:
    from authproxy.edge.wire import ClientConnection

_HELD: Final = 64 * 1024  # octets of a body that are kept until somebody takes it
_CLOSE: Final = b"Connection: close\r\n"
_BODILESS: Final = frozenset({204, 304})


class Reply:
    """The answering half of an exchange.  ``sent`` counts octets of the body, ``status`` is 0 before the head."""

    __slots__ = (
        "_bodiless", "_chunked", "_counterpart", "_finished", "_keep_alive", "_left", "_unsent", "body_done",
        "connection", "head", "sent", "status", "suspect",
    )  # fmt: skip

    def __init__(self, connection: ClientConnection, head: RequestHead) -> None:
        self.connection: Final = connection
        self.head: Final = head
        self._counterpart: Counterpart | None = None
        self.status = 0
        self.sent = 0
        self.suspect = True  # until the request made sense: what follows on the connection is not believed either
        self.body_done = head.length == 0  # the whole request body was read
        self._keep_alive = False
        self._chunked = False
        self._left: int | None = None  # octets that the announced length still asks for
        self._bodiless = False
        self._finished = False
        self._unsent = b""  # the head, while it waits for the first piece of the body

    @property
    def complete(self) -> bool:
        """The whole answer was written."""
        return self._finished

    @property
    def gone(self) -> bool:
        """The client's connection is lost, or was broken off: nobody can be answered."""
        return self.connection.gone

    def answer(self, answer: Answer) -> None:
        """Send a whole answer.  HEAD, 204 and 304 carry the headers alone (RFC 9110 section 9.3.2)."""
        length = None if answer.status == 304 and not answer.body else len(answer.body)
        head = self._start(answer.status, answer.headers, length)
        body = b"" if self._bodiless else answer.body
        self.connection.send(head + body)
        self.sent = len(body)
        self._over()

    def start_response(
        self, status: int, headers: HeaderList | Fields, *, length: int | None, more: bool = False
    ) -> None:
        """Send the head, together with the first piece where ``more`` says that it follows.  Raises ClientGone."""
        head = self._start(status, headers, length)
        if more and not self._bodiless:
            self._unsent = head
        else:
            self.connection.send(head)

    def respond(
        self, status: int, headers: HeaderList | Fields, *, length: int | None, body: bytes | memoryview
    ) -> None:
        """Send a response that is there whole (model.Exchange).  Raises ClientGone."""
        head = self._start(status, headers, length)
        self.connection.send(head, body)
        self.sent = len(body)
        self._over()

    def write(self, piece: bytes) -> None:
        """Send a piece of the body.  Raises ClientGone; ValueError when it exceeds the announced length."""
        if self._bodiless or not piece:
            return
        if self._left is not None:
            if len(piece) > self._left:
                self.abort()
                raise ValueError("the body is longer than announced")
            self._left -= len(piece)
        self.sent += len(piece)
        if self._chunked:
            piece = chunk(piece)
        if self._unsent:
            head, self._unsent = self._unsent, b""
            self.connection.send(head, piece)
        else:
            self.connection.send(piece)

    def finish(self) -> None:
        """End the body; a body that is shorter than announced breaks the connection off."""
        if self._left and not self._bodiless:
            self.abort()
            raise ValueError("the body is shorter than announced")
        if self._chunked:
            self.connection.send(self._unsent + LAST)
        elif self._unsent:
            self.connection.send(self._unsent)
        self._over()

    async def room(self) -> None:
        """Wait until the client has taken enough for more to be written.  Raises ClientGone."""
        await self.connection.room()

    def abort(self) -> None:
        """Break the connection off, so that the client sees the answer as truncated."""
        if self.connection.exchange is not self and self._finished:
            return  # the connection serves the next request
        if self.status >= 200 and not self._finished and not self._chunked and self._left is None:
            self.connection.reset()  # such a body ends with the connection: an orderly end would make it look whole
        self.connection.abort()

    def _over(self) -> None:
        self._finished = True
        self._counterpart = None  # which knows this exchange: nothing may wait here for a garbage collection
        self.connection.answered(keep_alive=self._keep_alive)

    def _start(self, status: int, headers: HeaderList | Fields, length: int | None) -> bytes:
        if self.status:
            raise RuntimeError("an exchange is answered once")
        if self.connection.gone:
            raise ClientGone("the client closed the connection")
        self.status = status
        head = self.head
        # Unread octets of a request body, and whatever follows a declined Upgrade, must never become a request.
        self._keep_alive = (
            head.keep_alive
            and self.body_done
            and not (self.suspect or head.upgrade or self.connection.connections.closing)
        )
        self._bodiless = head.method == "HEAD" or status in _BODILESS or status < 200
        if self._bodiless:
            framing = b"" if length is None or status == 204 or status < 200 else b"Content-Length: %d\r\n" % length
        elif length is not None:
            self._left = length
            framing = b"Content-Length: %d\r\n" % length
        else:
            framing = self._unsized()
        if not self._keep_alive:
            framing += _CLOSE
        elif head.version != (1, 1):
            framing += b"Connection: keep-alive\r\n"
        return text.response_head(status, headers, framing)

    def _unsized(self) -> bytes:
        if self.head.version >= (1, 1):
            self._chunked = True
            return b"Transfer-Encoding: chunked\r\n"
        self._keep_alive = False  # HTTP/1.0 knows the end of such a body by the close alone
        return b""


class ClientExchange(Reply):
    """``model.Exchange``.  ``received`` counts octets of the request body that somebody took."""

    __slots__ = (
        "_failure", "_held", "_held_octets", "_taken", "info", "received", "room_of", "task",
        "tunnelled",
    )  # fmt: skip

    info: RequestInfo  # set by the door once the request is described, before anybody else sees the exchange

    def __init__(self, connection: ClientConnection, head: RequestHead) -> None:
        super().__init__(connection, head)
        self.received = 0
        self.task: asyncio.Task[None] | None = None  # whoever serves it, where that takes waiting
        self.room_of: object = None  # what the door counts it with
        self.tunnelled: ClientTunnel | None = None
        self._failure: Exception | None = None
        self._held: list[bytes] = []
        self._held_octets = 0
        self._taken = False

    @property
    def body_length(self) -> int | None:
        """As ``model.Exchange`` has it."""
        return self.head.length

    @property
    def departure(self) -> Departure:
        """Who tells that the process goes away."""
        return self.connection.connections.departure

    @property
    def attached(self) -> bool:
        """Whether somebody minds the client."""
        return self._counterpart is not None

    # The body

    def attach(self, counterpart: Counterpart) -> None:
        """From now on ``counterpart`` minds the client (model.Exchange)."""
        self._counterpart = counterpart

    def take_body(self) -> None:
        """The counterpart can take the body now (model.Exchange)."""
        counterpart = self._counterpart
        if counterpart is None or self._taken:
            return
        self._taken = True
        if self._failure is not None:
            counterpart.body_failed(self._failure)
            return
        self._continue()
        pieces, self._held, self._held_octets = self._held, [], 0
        for piece in pieces:
            self.received += len(piece)
            counterpart.body_piece(piece)
        if self.body_done:
            counterpart.body_ended()
        elif pieces:
            self.connection.resume_body()

    def _continue(self) -> None:
        # RFC 9110 section 10.1.1: only now, after the decision, is the body asked for; HTTP/1.0 never waits.
        if self.body_done or self.status or self.head.version < (1, 1) or self.gone:
            return
        if (self.head.headers.get(b"expect") or b"").lower() == b"100-continue":
            with suppress(ClientGone):
                self.connection.send(text.CONTINUE)

    def hold_body(self) -> None:
        """Read no more of the body for now."""
        if not self.body_done:
            self.connection.hold_body()

    def resume_body(self) -> None:
        """Read on."""
        if not self.body_done:
            self.connection.resume_body()

    def body_piece(self, piece: bytes) -> None:
        """The connection has read a piece."""
        if self._taken and self._counterpart is not None:
            self.received += len(piece)
            self._counterpart.body_piece(piece)
            return
        self._held.append(piece)
        self._held_octets += len(piece)
        if self._held_octets >= _HELD:
            self.connection.hold_body()

    def body_ended(self) -> None:
        """The connection has read the whole body."""
        self.body_done = True
        if self._taken and self._counterpart is not None:
            self._counterpart.body_ended()

    def body_failed(self, error: Exception) -> None:
        """The body will never be whole."""
        self._failure = error
        if self._counterpart is not None:
            self._counterpart.body_failed(error)

    async def body(self) -> AsyncIterator[bytes]:
        """The request body.  Raises ClientGone, and BadRequest ``malformed_body`` when the chunks cannot be read."""
        pieces = _Pieces(self)
        self.attach(pieces)
        self.take_body()
        while piece := await pieces.next():
            yield piece

    # The client

    def client_full(self) -> None:
        """The connection holds enough that the client has not taken."""
        if self._counterpart is not None:
            self._counterpart.client_full()

    def client_ready(self) -> None:
        """There is room again."""
        if self._counterpart is not None:
            self._counterpart.client_ready()

    def client_gone(self) -> None:
        """The connection is lost: whatever is done for it ends now, and with it the upstream request."""
        if self._counterpart is not None:
            self._counterpart.client_gone()
        told = self._counterpart is not None and not isinstance(self._counterpart, _Pieces)
        if self.task is not None and self.tunnelled is None and not told:
            self.task.cancel()

    # The tunnel

    async def tunnel(self, status: int, headers: HeaderList) -> ClientTunnel:
        """Send the 101 head and give the raw connection.

        Raises ClientGone, after breaking the connection off, when octets came before the 101 (CVE-2025-64763).
        """
        if self.connection.early:
            self.abort()
            raise ClientGone("the client spoke before the protocol was switched")
        if self.status:
            raise RuntimeError("an exchange is answered once")
        upgrade = b"".join(b"Upgrade: %b\r\n" % value for name, value in headers if name.lower() == b"upgrade")
        self.connection.send(text.response_head(status, headers, b"Connection: Upgrade\r\n" + upgrade))
        self.status = status
        self.tunnelled = ClientTunnel(self, self.connection.tunnel())
        return self.tunnelled

    def __repr__(self) -> str:
        return f"<ClientExchange {self.status or 'unanswered'}, {self.received} in, {self.sent} out>"


class _Pieces:
    """A counterpart for those who wait for the body piece by piece."""

    def __init__(self, exchange: ClientExchange) -> None:
        self._exchange: Final = exchange
        self._pieces: Final[deque[bytes]] = deque()
        self._ended = False
        self._failure: Exception | None = None
        self._news: Final = asyncio.Event()

    async def next(self) -> bytes:
        """The next piece; empty at the end."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            self._exchange.resume_body()
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()

    def body_piece(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._exchange.hold_body()
        self._news.set()

    def body_ended(self) -> None:
        self._ended = True
        self._news.set()

    def body_failed(self, error: Exception) -> None:
        self._failure = error
        self._news.set()

    def client_full(self) -> None:
        """Whoever writes asks for ``room``."""

    def client_ready(self) -> None:
        """As above."""

    def client_gone(self) -> None:
        self.body_failed(ClientGone("the client closed the connection"))
