"""The connections of one listener: how many, and how long each may take.  It knows nothing of what is said on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from authproxy.edge import limits
from authproxy.edge.departure import Departure
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.wire import ClientConnection
from authproxy.errors import Refusal

_log = logging.getLogger("authproxy")


class Connections:
    """Makes them, counts them, and ends those that take too long.

    ``serve`` is called with each exchange, ``unread`` with one for what is no request, ``ended`` when its connection
    has done with it.  ``closing`` is set once no further request is wanted; ``departure`` tells tunnels of it.
    """

    def __init__(
        self,
        *,
        serve: Callable[[ClientExchange], None],
        unread: Callable[[ClientExchange, Refusal], None],
        ended: Callable[[ClientExchange], None],
        departure: Departure,
    ) -> None:
        self.serve: Final = serve
        self.unread: Final = unread
        self.ended: Final = ended
        self.departure: Final = departure
        self.closing = False
        self._open: Final[set[ClientConnection]] = set()
        self._loop: Final = asyncio.get_running_loop()
        self.now: Final = self._loop.time
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    def enter(self, connection: ClientConnection) -> bool:
        """Whether there is room for it."""
        if len(self._open) >= limits.CONNECTIONS:
            _log.warning("connection refused: %d are open", len(self._open))
            return False
        self._open.add(connection)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(limits.SWEEP_SECONDS, self._sweep)
        return True

    def leave(self, connection: ClientConnection) -> None:
        """It is lost."""
        self._open.discard(connection)

    def _sweep(self) -> None:
        """One timer for all: a timer for each request would cost more than the request's own parsing."""
        now = self.now()
        for connection in [one for one in self._open if one.deadline <= now]:
            connection.expire()
        self._sweeping = self._loop.call_later(limits.SWEEP_SECONDS, self._sweep) if self._open else None

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        for connection in [one for one in self._open if one.idle]:
            connection.close()

    def abort_all(self) -> None:
        """Break every connection off."""
        for connection in list(self._open):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def __repr__(self) -> str:
        return f"<Connections {len(self._open)} open>"
