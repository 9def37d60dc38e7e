"""One connection to an upstream: requests out, responses in, one at a time.

Response heads are judged before a byte of them reaches a client; bodies are framed strictly and passed on as they come.
The room knows neither callers nor policies: it serves a ``Listener`` and says when it can be used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from authproxy.errors import Refusal
from authproxy.http1.chunks import Chunks
from authproxy.http1.heads import END, Malformed, ResponseHeads
from authproxy.transport import abort
from authproxy.upstream.head import Head, bad_response, judged

HEAD_LIMIT: Final = 64 * 1024
HEADER_LIMIT: Final = 256
_COPIED: Final = 16 * 1024  # octets of a body that are rather copied than pointed at
_INTERIM_LIMIT: Final = 16  # heads of 1xx before the answer


class Listener(Protocol):
    """Who asked, and hears of the answer.  Called, never awaited."""

    def head(self, head: Head, *, more: bool) -> None:
        """The head of the answer.  ``more``: ``piece`` is called right after it."""

    def whole(self, head: Head, body: bytes | memoryview) -> None:
        """The whole answer, which came in one breath: instead of ``head``, ``piece`` and ``ended``."""

    def piece(self, piece: bytes) -> None:
        """A piece of its body."""

    def under_way(self) -> None:
        """The head came without the whole body; called once."""

    def ended(self) -> None:
        """The answer is whole; the connection has been given back or closed."""

    def failed(self, refusal: Refusal, *, silent: bool) -> None:
        """The answer is nonsense, or broke off.  ``silent``: not an octet of it had come."""

    def upstream_full(self) -> None:
        """The upstream reads more slowly than we write."""

    def upstream_ready(self) -> None:
        """Go on writing."""


class UpstreamConnection(asyncio.Protocol):
    """One connection.  ``idle_since`` is the event loop's time at which it was given back."""

    __slots__ = (
        "_buffer", "_chunks", "_framed", "_head", "_heads", "_held", "_interim", "_keep", "_last", "_last_block",
        "_left", "_listener", "_method", "_on_idle", "_on_lost", "_silent", "full", "idle_since", "lost", "reused",
        "sent_whole", "transport",
    )  # fmt: skip

    def __init__(
        self, on_idle: Callable[[UpstreamConnection], bool], on_lost: Callable[[UpstreamConnection], None]
    ) -> None:
        self._on_idle: Final = on_idle
        self._on_lost: Final = on_lost
        self._heads: Final = ResponseHeads()
        self._listener: Listener | None = None
        self._buffer = b""
        self._head: Head | None = None
        self._framed = False  # the end of the body is known without the end of the connection
        self._chunks: Chunks | None = None
        self._left = 0
        self._last_block = b""
        self._last: tuple[Head, bool] | None = None
        self._interim = 0
        self._held = False
        self._keep = False
        self._silent = True
        self._method = ""
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.lost = False
        self.reused = False
        self.sent_whole = False  # the request was sent to its end
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it."""
        return not self.lost and self.transport is not None and not self.transport.is_closing()

    def ask(self, listener: Listener, method: str, head: bytes) -> None:
        """Send the head of a request; ``write`` and ``end`` follow where it has a body."""
        self._listener, self._method = listener, method
        self._buffer, self._head = b"", None
        self._interim, self._silent, self.sent_whole = 0, True, False
        if self.transport is not None and not self.lost:
            self.transport.write(head)

    def write(self, data: bytes) -> None:
        """Send octets of the request body, framed."""
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    def let_go(self) -> None:
        """Break off: nobody listens any more, and what is under way must not be taken for a whole."""
        self._listener = None
        self._drop()

    def hold(self) -> None:
        """Read no more of the answer for now."""
        if self.usable and self.transport is not None and not self._held:
            self._held = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._held and self.usable and self.transport is not None:
            self._held = False
            self.transport.resume_reading()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self.full = True
        if self._listener is not None:
            self._listener.upstream_full()

    def resume_writing(self) -> None:
        self.full = False
        if self._listener is not None:
            self._listener.upstream_ready()

    def data_received(self, data: bytes) -> None:
        if self._listener is None:
            self._drop()  # nobody asked: whatever it is, the next answer would not be what it seems
            return
        self._silent = False
        try:
            if self._head is None:
                self._read_heads(data)
            else:
                self._read_body(data)
        except Malformed as error:
            self._fail(bad_response(str(error)))
        except Refusal as refusal:
            self._fail(refusal)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True
        self._on_lost(self)
        if self._listener is None:
            return
        if self._head is not None and not self._framed and _error is None:
            self._end(keep=False)  # RFC 9112 section 6.3: such a body ends with the connection
        else:
            self._fail(bad_response("the connection closed before the end of the response"))

    # Heads

    def _read_heads(self, data: bytes) -> None:
        block = self._last_block
        if block and not self._buffer and self._last is not None and data.startswith(block):
            self._head, self._keep = self._last  # the very same octets mean the very same
            self._begin_body(data, len(block))
            return
        self._buffer = self._buffer + data if self._buffer else data
        while self._head is None and self._buffer:
            end = self._buffer.find(END) + len(END)
            if end < len(END):
                if len(self._buffer) > HEAD_LIMIT:
                    raise bad_response("a response head that is too long")
                return
            block, self._buffer = self._buffer[:end], self._buffer[end:]
            self._read_head(block)
        rest, self._buffer = self._buffer, b""
        self._begin_body(rest, 0)

    def _read_head(self, block: bytes) -> None:
        if len(block) > HEAD_LIMIT:
            raise bad_response("a response head that is too long")
        head = self._heads.parse(block)
        if 100 <= head.status < 200 and head.status != 101:
            self._interim += 1
            if self._interim > _INTERIM_LIMIT:
                raise bad_response("too many interim responses")
            return
        if len(head.lines) > HEADER_LIMIT:
            raise bad_response("too many header lines")
        self._head = judged(head.status, head.version, head.lines)
        self._keep = head.keep_alive
        self._last_block, self._last = block, (self._head, self._keep)

    def _begin_body(self, data: bytes, start: int) -> None:
        """``data`` goes on with the body at ``start``."""
        head, listener = self._head, self._listener
        if head is None or listener is None:
            return
        self._left, self._chunks, self._framed = 0, None, True
        if self._method == "HEAD" or head.status in (204, 304):
            pass
        elif head.chunked:
            self._chunks = Chunks(extensions=True)
        elif head.length is not None:
            self._left = head.length
        else:
            self._framed, self._keep = False, False
        came = len(data) - start
        if self._framed and self._chunks is None and came >= self._left:
            self._part(keep=self._keep and came == self._left)
            body = memoryview(data) if self._left > _COPIED else data
            listener.whole(head, body[start : start + self._left])
            return
        listener.head(head, more=came > 0)
        if self._listener is None:
            return  # it has let go
        if came:
            self._read_body(data[start:])
        if self._listener is listener:
            listener.under_way()

    # Bodies

    def _read_body(self, data: bytes) -> None:
        if self._chunks is not None:
            self._read_chunks(data, self._chunks)
            return
        listener = self._listener
        if listener is None:
            return
        if not self._framed:
            listener.piece(data)
            return
        extra = len(data) > self._left
        piece = data[: self._left] if extra else data
        self._left -= len(piece)
        listener.piece(piece)
        if not self._left and self._listener is not None:
            self._end(keep=self._keep and not extra)

    def _read_chunks(self, data: bytes, chunks: Chunks) -> None:
        for piece in chunks.feed(data):
            if self._listener is None:
                return
            self._listener.piece(piece)
        if chunks.done and self._listener is not None:
            self._end(keep=self._keep and not chunks.rest)

    def _end(self, *, keep: bool) -> None:
        """The answer is whole.  The connection goes back where nothing of this exchange is left on it."""
        listener = self._listener
        self._part(keep=keep)
        if listener is not None:
            listener.ended()

    def _part(self, *, keep: bool) -> None:
        self._listener = None
        if self._held:
            self.resume()
        if not (keep and self.sent_whole and not self.full and self.usable and self._on_idle(self)):
            self._drop()

    def _fail(self, refusal: Refusal) -> None:
        listener, self._listener = self._listener, None
        silent = self._silent
        self._drop()
        if listener is not None:
            listener.failed(refusal, silent=silent)

    def _drop(self) -> None:
        abort(self.transport)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "idle" if self._listener is None else "busy"
        return f"<UpstreamConnection {state}>"
