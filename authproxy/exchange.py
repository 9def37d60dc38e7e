"""The shapes of one exchange on the wire: who serves it, who it is connected to, and what a tunnel is.

Protocols alone, so that ``pipeline`` and ``upstream`` know no wire and ``edge`` knows no upstream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from authproxy.model import Answer, Fields, HeaderList, RequestInfo


class Lifetime(Protocol):
    """How long a tunnel or a stream may live: until ``ends_at`` or until ``on_end`` calls back, whichever is first."""

    @property
    def ended(self) -> bool:
        """Whether ``on_end`` would have called back already, and never will again."""

    @property
    def ends_at(self) -> float | None:
        """Seconds since the epoch, or None for no end that is known beforehand."""

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` once when the identity ends (sign-out, revocation); returns what forgets it again."""


class Counterpart(Protocol):
    """Who an exchange is connected to: takes the request body, and minds the client.  Called, never awaited."""

    def body_piece(self, piece: bytes) -> None:
        """The next octets of the request body."""

    def body_ended(self) -> None:
        """The request body was whole; called once, also where there is none."""

    def body_failed(self, error: Exception) -> None:
        """It never will be: ``errors.BadRequest`` for chunks that cannot be read, ``errors.ClientGone``."""

    def client_full(self) -> None:
        """The client reads more slowly than we write: write no more for now."""

    def client_ready(self) -> None:
        """Go on."""

    def client_gone(self) -> None:
        """Nobody is there to be answered."""


class Exchange(Protocol):
    """One request and its answer on the wire, without saying which wire.

    Made by ``edge.connection``; used by ``pipeline`` and ``upstream``.  Exactly one of ``answer``, ``start_response``
    and ``tunnel`` is called, once.  What writes returns at once; ``room`` waits where that is wanted.
    """

    info: RequestInfo

    @property
    def body_length(self) -> int | None:
        """Content-Length of the request; 0 when it has no body; None when its body is chunked."""

    @property
    def gone(self) -> bool:
        """The client's connection is lost, or was broken off: nobody can be answered."""

    def attach(self, counterpart: Counterpart) -> None:
        """From now on ``counterpart`` minds the client."""

    def take_body(self) -> None:
        """The counterpart can take the body now.  Sends ``100 Continue`` first where the client waits for it."""

    def hold_body(self) -> None:
        """Read no more of the body for now."""

    def resume_body(self) -> None:
        """Read on."""

    def body(self) -> AsyncIterator[bytes]:
        """The request body, piece by piece, for whoever would rather wait than be called.

        Raises ``errors.ClientGone`` when the client breaks off, so that no truncated body ever looks complete.
        """

    def answer(self, answer: Answer) -> None:
        """Send a whole answer of ours.  Closes the connection where the request body was left unread."""

    def start_response(
        self, status: int, headers: HeaderList | Fields, *, length: int | None, more: bool = False
    ) -> None:
        """Send the head of the upstream's response.  ``length`` None: chunked, or until close for HTTP/1.0.

        ``more``: a piece of the body is written in the same breath, and both may go out together.
        """

    def respond(
        self, status: int, headers: HeaderList | Fields, *, length: int | None, body: bytes | memoryview
    ) -> None:
        """Send the upstream's response whole: ``start_response``, ``write`` and ``finish`` in one breath.

        ``body`` has ``length`` octets, or none where the response carries none.
        """

    def write(self, chunk: bytes) -> None:
        """Send a piece of the body.  Raises ``errors.ClientGone``; ValueError when it exceeds the length."""

    async def room(self) -> None:
        """Wait until the client has taken enough for more to be written.  Raises ``errors.ClientGone``."""

    def finish(self) -> None:
        """End the body.  Raises ValueError, after breaking off, when it is shorter than announced."""

    def abort(self) -> None:
        """Break the connection off, so that the client sees the response as truncated."""

    async def tunnel(self, status: int, headers: HeaderList) -> Tunnel:
        """Send a 101 head and give the raw connection."""


class Tunnel(Protocol):
    """The client's side of a connection after 101: bytes, both ways."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send bytes, with backpressure."""

    def write_eof(self) -> None:
        """Send no more, where the connection can say so; the other direction goes on."""

    def close(self) -> None:
        """Close the connection."""

    @property
    def held(self) -> int:
        """Octets that were written and are still here."""

    def on_leave(self, callback: Callable[[float], object]) -> Callable[[], None]:
        """Call ``callback`` once when the process goes away, at once when it does already; returns what forgets it.

        It is told the time of the event loop by which the tunnel must have ended.
        """
