"""A listener that speaks TLS: who comes is counted before anything is computed for them.

It knows addresses and handshakes, and nothing of what is said afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from functools import partial
from typing import Final

from authproxy.edge.connections import Connections
from authproxy.edge.wire import ClientConnection

HANDSHAKE_SECONDS: Final = 10.0

_log = logging.getLogger("authproxy")
_AT_ONCE: Final = 100  # connections that are accepted before others have their turn
_REST_SECONDS: Final = 1.0  # without file descriptors: some are given back meanwhile
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Handshakes:
    """Accepts from ``listener`` and hands each connection over when its handshake is done.

    A connection counts from the moment at which it is accepted, so that those who never finish a handshake are bounded
    like the others.  One that is too many is closed at once: it cannot be told why.
    """

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, connections: Connections) -> None:
        self._listener: Final = listener
        self._context: Final = context
        self._connections: Final = connections
        self._loop: Final = asyncio.get_running_loop()
        self._running: Final[set[asyncio.Task[None]]] = set()
        self._resting: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._begin()

    def _begin(self) -> None:
        self._resting = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                return  # the client has gone already
            accepted.setblocking(False)
            self._arrived(accepted, str(address[0]) if isinstance(address, tuple) else "")

    def _rest(self, error: OSError) -> None:
        _log.error("no connection can be accepted: %s", error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._resting = self._loop.call_later(_REST_SECONDS, self._begin)

    def _arrived(self, accepted: socket.socket, address: str) -> None:
        connection = self._connections()
        if self._connections.admit(connection, address) is not None:
            accepted.close()
            return
        task = self._loop.create_task(self._shake(accepted, connection))
        self._running.add(task)
        task.add_done_callback(partial(self._done, accepted, connection))

    async def _shake(self, accepted: socket.socket, connection: ClientConnection) -> None:
        await self._loop.connect_accepted_socket(
            lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )

    def _done(self, accepted: socket.socket, connection: ClientConnection, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, OSError):
            _log.error("a handshake failed", exc_info=error)
        if connection.transport is None:  # it never came to be: nobody else will see it leave
            self._connections.leave(connection)
            accepted.close()

    def close(self) -> None:
        """Accept no more; handshakes that have begun go on."""
        if self._resting is not None:
            self._resting.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    async def end(self) -> None:
        """Break off the handshakes that have begun."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def __repr__(self) -> str:
        return f"<Handshakes {len(self._running)} under way>"
