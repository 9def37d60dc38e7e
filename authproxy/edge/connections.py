"""The connections of one listener: how many, whose, and how long each may take.

It knows nothing of what is said on them.  Nobody who is in is ever put out for somebody who comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from authproxy.edge import limits
from authproxy.edge.departure import Departure
from authproxy.edge.exchange import ClientExchange
from authproxy.edge.hops import TrustedProxies, subscriber
from authproxy.edge.turned_away import TurnedAway
from authproxy.edge.wire import ClientConnection
from authproxy.errors import Refusal
from authproxy.model import Answer
from authproxy.transport import abort

_log = logging.getLogger("authproxy")

Bound = Literal["total", "per_client"]


class Bounds(NamedTuple):
    """How many connections may be open at once: in all, and from one client.

    ``proxies`` are peers that speak for many clients; for them, and for Unix sockets, ``total`` alone counts.
    """

    total: int
    per_client: int
    proxies: TrustedProxies


class Connections:
    """Makes them, counts them, and ends those that take too long.

    ``serve`` is called with each exchange, ``unread`` with one for what is no request, ``ended`` when its connection
    has done with it.  ``closing`` is set once no further request is wanted; ``departure`` tells tunnels of it.
    ``bounds`` are those that hold now, and ``crowded`` counts a connection that is one too many and says what it is
    answered.
    """

    def __init__(
        self,
        *,
        serve: Callable[[ClientExchange], None],
        unread: Callable[[ClientExchange, Refusal], None],
        ended: Callable[[ClientExchange], None],
        departure: Departure,
        bounds: Callable[[], Bounds],
        crowded: Callable[[Bound], Answer],
    ) -> None:
        self.serve: Final = serve
        self.unread: Final = unread
        self.ended: Final = ended
        self.departure: Final = departure
        self.closing = False
        self._bounds: Final = bounds
        self._crowded: Final = crowded
        self._open: Final[dict[ClientConnection, str]] = {}  # with the client that each is counted for, or ""
        self._clients: Final[dict[str, int]] = {}  # those that have one at least: never more than there are connections
        self._parting: Final[set[TurnedAway]] = set()
        self._loop: Final = asyncio.get_running_loop()
        self.now: Final = self._loop.time
        self._sweeping: asyncio.TimerHandle | None = None
        self._refused = 0  # since the log was told
        self._tell_at = 0.0

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: ClientConnection) -> bool:
        """Whether there is room for it.  If not, it is told so, and is nobody's connection any more."""
        if connection in self._open:
            return True  # since before its handshake
        answer = self.admit(connection, connection.peer.address)
        if answer is not None:
            self._turn_away(connection, answer)
        return answer is None

    def admit(self, connection: ClientConnection, address: str) -> Answer | None:
        """Count a connection from ``address`` ("" for a Unix socket); where it is one too many, what to answer."""
        bounds = self._bounds()
        client = "" if address in bounds.proxies else subscriber(address)
        if len(self._open) >= bounds.total:
            return self._refuse("total", f"{len(self._open)} are open")
        has = self._clients.get(client, 0)
        if client and has >= bounds.per_client:
            return self._refuse("per_client", f"{client} has {has}")
        self._open[connection] = client
        if client:
            self._clients[client] = has + 1
        self._sweep_soon()
        return None

    def _refuse(self, bound: Bound, why: str) -> Answer:
        """One too many; the log hears of it at most once in a while, however many there are."""
        self._refused += 1
        if (now := self.now()) >= self._tell_at:
            self._tell_at = now + limits.REPORT_SECONDS
            said = "connections are refused (%d since this was last said): listen.connections.%s, %s"
            _log.warning(said, self._refused, bound, why)
            self._refused = 0
        return self._crowded(bound)

    def _turn_away(self, connection: ClientConnection, answer: Answer) -> None:
        transport = connection.transport
        if transport is None or len(self._parting) >= limits.PARTING:
            abort(transport)
            return
        parting = TurnedAway(transport, answer, self.now() + limits.LINGER_SECONDS, self._parting.discard)
        self._parting.add(parting)
        transport.set_protocol(parting)
        self._sweep_soon()

    def leave(self, connection: ClientConnection) -> None:
        """It is lost."""
        client = self._open.pop(connection, "")
        if client:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def _sweep_soon(self) -> None:
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(limits.SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """One timer for all: a timer for each request would cost more than the request's own parsing."""
        now = self.now()
        for connection in [one for one in self._open if one.deadline <= now]:
            connection.expire()
        for parting in [one for one in self._parting if one.deadline <= now]:
            parting.expire()
        self._sweeping = None
        if self._open or self._parting:
            self._sweep_soon()

    def forget(self) -> None:
        """What was kept of the last head of each for the next: others judge from now on."""
        for connection in self._open:
            connection.inbox.forget()

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        for connection in [one for one in self._open if one.idle]:
            connection.close()

    def abort_all(self) -> None:
        """Break every connection off."""
        for connection in list(self._open):
            connection.abort()
        for parting in list(self._parting):
            parting.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def __repr__(self) -> str:
        return f"<Connections {len(self._open)} open of {len(self._clients)} clients>"
