"""A client's connection: heads and bodies told apart, strictly; one exchange at a time; everything bounded.

The room knows what a well-formed message is.  It knows nothing of routing, callers or answers: whoever serves is
called with each ``ClientExchange``, and nothing of the next request is looked at before that one is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from authproxy.edge import limits
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.inbox import Inbox
from authproxy.edge.request_info import Raw
from authproxy.edge.tap import Tap
from authproxy.errors import BadRequest, ClientGone, Refusal
from authproxy.http1.chunks import Chunks
from authproxy.http1.heads import Malformed, RequestHead
from authproxy.model import Headers
from authproxy.transport import abort, limit_stall, reset_at_close

if TYPE_CHECKING:
    from authproxy.edge.connections import Connections

_NEVER: Final = float("inf")
_COPIED: Final = 16 * 1024  # octets that are rather copied than written apart
_NOTHING: Final = RequestHead("", b"", (1, 1), Headers(), keep_alive=False, upgrade=False)
_UNSEEN: Final = Raw("", b"", Headers(), "", tls=False)
_AHEAD: Final = 1  # a reason not to read: enough waits here already
_ASKED: Final = 2  # another, in a bit of its own: whoever takes the body asked for a pause


class State(Enum):
    """What the next octets of a connection are."""

    HEAD = auto()
    BODY = auto()
    WAITING = auto()  # they wait for the answer to the request before them
    TUNNEL = auto()
    SWALLOW = auto()  # nobody will read them


_HEAD, _BODY, _WAITING, _TUNNEL, _SWALLOW = State  # a name of the module is found sooner than a member


class Peer(NamedTuple):
    """Who is at the other end, for all requests of a connection."""

    address: str  # "" on a Unix socket
    tls: bool
    certificate: Mapping[str, object] | None


class ClientConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_chunks", "_head", "_holds", "_inside", "_left", "_raw", "_room", "_swallowed",
        "connections", "deadline", "exchange", "full", "gone", "inbox", "peer", "state", "tap", "transport",
    )  # fmt: skip

    def __init__(self, connections: Connections) -> None:
        self.connections: Final = connections
        self.inbox: Final = Inbox()
        self._inside = False
        self._holds = 0
        self._left = 0  # octets that a body of known length still lacks
        self._chunks: Chunks | None = None
        self._room: asyncio.Future[None] | None = None
        self._head = _NOTHING
        self._raw = _UNSEEN
        self._swallowed = 0
        self.state = _HEAD
        self.transport: asyncio.Transport | None = None
        self.exchange: ClientExchange | None = None
        self.tap: Tap | None = None
        self.deadline = _NEVER  # by the event loop's clock; the sweep looks at it
        self.full = False
        self.gone = False
        self.peer = Peer("", tls=False, certificate=None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of asyncio's
        name = transport.get_extra_info("peername")
        tls = transport.get_extra_info("sslcontext") is not None
        certificate = (transport.get_extra_info("peercert") or None) if tls else None
        self.peer = Peer(str(name[0]) if isinstance(name, tuple) else "", tls, certificate)
        if not self.connections.enter(self):
            self.gone = True
            return
        limit_stall(transport, limits.STALL_SECONDS)
        self.deadline = self.connections.now() + limits.KEEPALIVE_SECONDS

    def data_received(self, data: bytes) -> None:
        if self.state is _HEAD:
            inbox = self.inbox
            inbox.data = inbox.data + data if inbox.data else data
            self._serve_heads()
        elif self.state is _BODY:
            self._read_body(data)
        elif self.state is _TUNNEL and self.tap is not None:
            self.tap.feed(data)
        elif self.state is _SWALLOW:
            self._swallow(len(data))
        else:
            self.inbox.add(data)
            self._mind_ahead()

    def eof_received(self) -> bool:
        """Keep the other direction open for a tunnel; otherwise a client that sends FIN has gone."""
        if self.tap is not None:
            self.tap.end()
            return not self.peer.tls  # TLS has no half-close
        self._lost()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self.connections.leave(self)
        self._lost()

    def pause_writing(self) -> None:
        self.full = True
        if self.state is not _TUNNEL:  # a reader may pause for long in a tunnel; what is held is bounded
            self.deadline = self.connections.now() + limits.WRITE_SECONDS
        if self.exchange is not None:
            self.exchange.client_full()

    def resume_writing(self) -> None:
        self.full = False
        self._renew_deadline()
        self._make_room()
        if self.exchange is not None:
            self.exchange.client_ready()
        elif self.state is _HEAD:
            self._serve_soon()

    # Heads

    @property
    def idle(self) -> bool:
        """No request is being served, and none has come that waits to be."""
        return self.state is _HEAD and not self.inbox.ready

    @property
    def early(self) -> bool:
        """Octets came behind a request before its answer."""
        return bool(self.inbox.data)

    def _serve_heads(self) -> None:
        """Serve what has come, one request after the other, as long as answers come without waiting."""
        if self._inside:
            return
        self._inside = True
        try:
            for _ in range(limits.AT_ONCE):
                if self.state is not _HEAD or not self.inbox.data:  # something else comes first, or nothing
                    return
                if self.full or self.gone:  # nobody reads the answers
                    return
                head = self._head_of_next()
                if head is None:
                    return
                self._begin(head)
            self._serve_soon()
        finally:
            self._inside = False
            if self._holds or self.inbox.data:
                self._mind_ahead()

    def _serve_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._serve_heads)

    def _mind_ahead(self) -> None:
        """Read no more than what can soon be served."""
        if len(self.inbox.data) > limits.AHEAD:
            self._hold(_AHEAD)
        elif self._holds and self.state is _HEAD:
            self._release(_AHEAD)

    def _head_of_next(self) -> RequestHead | None:
        """The head that came first; None when it has not come whole, or was none."""
        try:
            head = self.inbox.head()
        except Refusal as refusal:
            self._refuse(refusal)
            return None
        if head is None:
            # A fixed time for the whole of it, however it drips.
            self.deadline = min(self.deadline, self.connections.now() + limits.HEAD_SECONDS)
        return head

    def _begin(self, head: RequestHead) -> None:
        exchange = self.exchange = ClientExchange(self, head)
        if head.length == 0:
            self.state, self.deadline = _WAITING, _NEVER
        else:
            self.state = _BODY
            self.deadline = self.connections.now() + limits.READ_SECONDS
            self._left, self._chunks = head.length or 0, Chunks() if head.length is None else None
            if early := self.inbox.take():
                self._read_body(early)
        self.connections.serve(exchange)

    def _refuse(self, refusal: Refusal) -> None:
        """Nothing on this connection can be believed any more."""
        self.inbox.take()
        self.state, self.deadline = _WAITING, _NEVER
        exchange = self.exchange = ClientExchange(self, _NOTHING)
        self.connections.unread(exchange, refusal)

    def raw_of(self, head: RequestHead) -> Raw:
        """A head with what is known of its connection."""
        if head is not self._head:
            peer = self.peer
            self._head = head
            told = head.method, head.target, head.headers, peer.address, peer.tls, head.version, peer.certificate
            self._raw = Raw(*told)
        return self._raw

    # Bodies

    def _read_body(self, data: bytes) -> None:
        exchange = cast("ClientExchange", self.exchange)
        if self._chunks is not None:
            self._read_chunks(data, self._chunks, exchange)
            return
        piece, self.inbox.data = data[: self._left], data[self._left :]
        self._left -= len(piece)
        self._renew_deadline()
        exchange.body_piece(piece)
        if not self._left and self.state is _BODY:
            self._body_whole(exchange)

    def _read_chunks(self, data: bytes, chunks: Chunks, exchange: ClientExchange) -> None:
        try:
            pieces = chunks.feed(data)
        except Malformed as error:
            self.state, self.deadline = _SWALLOW, self.connections.now() + limits.LINGER_SECONDS
            text = "The body of the request cannot be read."
            exchange.body_failed(BadRequest("malformed_body", text, reason=str(error)))
            return
        self._renew_deadline()
        for piece in pieces:
            exchange.body_piece(piece)
        if chunks.done and self.state is _BODY:
            self.inbox.data, self._chunks = chunks.rest, None
            self._body_whole(exchange)

    def _body_whole(self, exchange: ClientExchange) -> None:
        self.state = _WAITING
        self._renew_deadline()
        exchange.body_ended()

    def hold_body(self) -> None:
        """Read no more of the body for now."""
        self._hold(_ASKED)

    def resume_body(self) -> None:
        """Read on."""
        self._release(_ASKED)

    def _hold(self, why: int) -> None:
        if not self._holds and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self._holds |= why
        self._renew_deadline()

    def _release(self, why: int) -> None:
        if not self._holds & why:
            return
        self._holds &= ~why
        if not self._holds and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        self._renew_deadline()

    def _renew_deadline(self) -> None:
        """How long the client may take for what it has to do next."""
        if self.full and self.state is not _TUNNEL:
            self.deadline = self.connections.now() + limits.WRITE_SECONDS
        elif self.state is _BODY and not self._holds:
            self.deadline = self.connections.now() + limits.READ_SECONDS
        elif self.state in (_BODY, _WAITING, _TUNNEL):
            self.deadline = _NEVER

    # Answers

    def send(self, data: bytes, body: bytes | memoryview = b"") -> None:
        """Write octets, and at once those that follow them.  Raises ClientGone."""
        transport = self.transport
        if self.gone or transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        if len(body) > _COPIED:
            transport.writelines((data, body))
        else:
            transport.write(data + body if body else data)

    async def room(self) -> None:
        """Wait until what was written has gone out far enough.  Raises ClientGone."""
        while self.full and not self.gone:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)
        if self.gone:
            raise ClientGone("the client closed the connection")

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def answered(self, *, keep_alive: bool) -> None:
        """The exchange is over.  Go on with the next request, or end the connection in order."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.connections.ended(exchange)
        if self.gone:
            return
        if keep_alive and self.state is _WAITING:
            self.state = _HEAD
            self.deadline = self.connections.now() + limits.KEEPALIVE_SECONDS
            self._release(_ASKED)
            if self.inbox.data:
                self._serve_soon()  # the one before it is to be noted first
        else:
            self._part()

    def _part(self) -> None:
        """Close, but not before the client had time to read: a reset would take the answer with it."""
        transport = self.transport
        unread = self.state in (_BODY, _SWALLOW) or bool(self.inbox.take()) or bool(self._holds)
        if transport is None or transport.is_closing():
            return
        if not unread:
            self.close()
            return
        self.state, self.deadline = _SWALLOW, self.connections.now() + limits.LINGER_SECONDS
        self._release(_AHEAD | _ASKED)
        if transport.can_write_eof():
            transport.write_eof()

    def _swallow(self, octets: int) -> None:
        self._swallowed += octets
        if self._swallowed > limits.SWALLOWED:
            self.abort()

    def tunnel(self) -> Tap:
        """From now on everything that comes is for the tunnel."""
        self.state, self.deadline = _TUNNEL, _NEVER
        self.tap = Tap(cast("asyncio.Transport", self.transport))
        limit_stall(self.transport, 0)
        return self.tap

    # Ends

    def expire(self) -> None:
        """The deadline has passed."""
        self.deadline = _NEVER
        if self.exchange is not None and not self.gone:
            why = "the client reads nothing" if self.full else "the client stopped sending its body"
            self.exchange.body_failed(ClientGone(why))
            self.abort()
        elif self.state is _SWALLOW or self.full:
            self.abort()
        else:
            self.close()

    def _lost(self) -> None:
        if self.gone:
            return
        self.gone = True
        self.deadline = _NEVER
        self._make_room()
        exchange, self.exchange = self.exchange, None
        if self.tap is not None:
            self.tap.end()  # what came before the loss is still delivered
        if exchange is not None:
            exchange.client_gone()
            self.connections.ended(exchange)

    def reset(self) -> None:
        """From now on the connection ends with a reset, which nobody takes for an end."""
        reset_at_close(self.transport)

    def close(self) -> None:
        """Close after what was written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Break the connection off without flushing."""
        abort(self.transport)
        self._lost()

    def __repr__(self) -> str:
        return f"<ClientConnection {self.state.name.lower()}{', gone' if self.gone else ''}>"
