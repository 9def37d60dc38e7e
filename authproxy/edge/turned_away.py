"""A connection that is one too many: it is told so, and closed.  It knows octets, and nothing of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from authproxy.edge import limits
from authproxy.http1 import text
from authproxy.model import Answer
from authproxy.transport import abort


class TurnedAway(asyncio.Protocol):
    """Answers the first octets that come, or nobody at the ``deadline``, and calls ``parted`` when it is lost.

    A client that is answered before it has asked may take the answer for a fault of the connection.  What comes after
    the answer is thrown away for a moment: a reset would take the answer with it.
    """

    __slots__ = ("_answer", "_parted", "_said", "_swallowed", "_transport", "deadline")

    def __init__(
        self,
        transport: asyncio.Transport,
        answer: Answer,
        deadline: float,
        parted: Callable[[TurnedAway], None],
    ) -> None:
        self._transport: Final = transport
        self._answer: Final = answer
        self._parted: Final = parted
        self._said = False
        self._swallowed = 0
        self.deadline: Final = deadline  # by the event loop's clock; the sweep looks at it

    def data_received(self, data: bytes) -> None:
        if not self._said:
            self._say(bodiless=data.startswith(b"HEAD "))
            if self._transport.can_write_eof():
                self._transport.write_eof()
        self._swallowed += len(data)
        if self._swallowed > limits.SWALLOWED:
            self.abort()

    def _say(self, *, bodiless: bool) -> None:
        self._said = True
        status, headers, body = self._answer
        framing = b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
        self._transport.write(text.response_head(status, headers, framing) + (b"" if bodiless else body))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self._parted(self)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._said:
            self.abort()
            return
        self._say(bodiless=False)
        self._transport.close()

    def abort(self) -> None:
        """Break it off."""
        abort(self._transport)
        self._parted(self)

    def __repr__(self) -> str:
        return f"<TurnedAway {'answered' if self._said else 'unasked'}>"
