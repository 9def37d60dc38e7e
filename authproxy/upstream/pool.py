"""Keep-alive connections to the upstreams, one pool each: its TLS, its turn-taking, its rest after a failure.

The room knows how to reach an upstream and nothing of requests.  Nothing of one client ever stays in a pool: no
cookies, no credentials, no proxies from the environment.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from authproxy.model import Upstream
from authproxy.settings.certificates import client_context
from authproxy.upstream.connection import UpstreamConnection

CONNECT_SECONDS: Final = 5.0
REST_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 4.0  # below the 5 s after which common servers close an idle connection
IDLE_LIMIT: Final = 1024  # connections kept for each address
SWEEP_SECONDS: Final = 0.1  # how exactly the deadlines of requests are kept

_Key = tuple[tuple[str, ...], str | None, tuple[str, str] | None, str | None]


class Address(NamedTuple):
    """Where one base URL leads."""

    secure: bool
    host: str  # without brackets; the path of a Unix socket when ``port`` is 0
    port: int
    authority: bytes  # for a Host header


def address_of(url: str) -> Address:
    """``http(s)://host[:port]``, ``unix:/path`` or ``unix:///path``."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        return Address(secure=False, host=path, port=0, authority=b"localhost")
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    authority = parts.netloc.rpartition("@")[2].encode()
    return Address(secure, parts.hostname or "", parts.port or (443 if secure else 80), authority)


class Pool:
    """The connections to one upstream.  Use inside a running loop; ``close`` when done."""

    def __init__(
        self, upstream: Upstream, clock: Callable[[], float] = time.monotonic, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.server_name: Final = upstream.server_name
        self.tls: Final = tls or _tls(upstream)
        self._addresses: Final = tuple(address_of(url) for url in upstream.urls)
        self._clock: Final = clock
        self._resting: Final[dict[Address, float]] = {}
        self._idle: Final[dict[Address, deque[UpstreamConnection]]] = {one: deque() for one in self._addresses}
        self._open: Final[set[UpstreamConnection]] = set()
        self._loop: Final = asyncio.get_running_loop()
        self._turn = 0
        self._closed = False

    def candidates(self) -> tuple[Address, ...]:
        """The addresses in the order in which to try them: by turns, those that rest at the end."""
        if len(self._addresses) == 1:
            return self._addresses
        start, self._turn = self._turn, (self._turn + 1) % len(self._addresses)
        turn = self._addresses[start:] + self._addresses[:start]
        if not self._resting:
            return turn
        now = self._clock()
        return tuple(sorted(turn, key=lambda address: self._resting.get(address, 0.0) > now))

    def rest(self, address: Address) -> None:
        """``address`` could not be connected to: prefer the others for a while."""
        self._resting[address] = self._clock() + REST_SECONDS

    def recovered(self, address: Address) -> None:
        """``address`` answered."""
        if self._resting:
            self._resting.pop(address, None)

    def kept(self, address: Address) -> UpstreamConnection | None:
        """A connection that was used before and seems alive, the one used last first; it is the caller's now."""
        waiting = self._idle[address]
        while waiting:
            connection = waiting.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    async def connect(self, address: Address) -> UpstreamConnection:
        """A new connection.  Raises OSError and ssl.SSLError."""
        loop = asyncio.get_running_loop()
        tls = self.tls if address.secure else None
        name = (self.server_name or address.host) if address.secure else None

        def made() -> UpstreamConnection:
            return UpstreamConnection(partial(self._given_back, address), self._open.discard)

        if not address.port:
            _, connection = await loop.create_unix_connection(made, address.host)
        else:
            _, connection = await loop.create_connection(
                made, address.host, address.port, ssl=tls, server_hostname=name
            )
        self._open.add(connection)
        return connection

    def _given_back(self, address: Address, connection: UpstreamConnection) -> bool:
        """Whether it is kept for the next request."""
        waiting = self._idle[address]
        if self._closed or len(waiting) >= IDLE_LIMIT:
            return False
        connection.idle_since = self._loop.time()
        waiting.append(connection)
        return True

    def expire(self, now: float) -> None:
        """Close what nobody has used for a while: ``now`` is the event loop's time."""
        for waiting in self._idle.values():
            while waiting and (not waiting[0].usable or now - waiting[0].idle_since > KEEPALIVE_SECONDS):
                waiting.popleft().let_go()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        for connection in list(self._open):
            connection.let_go()

    def __repr__(self) -> str:
        return f"<Pool of {len(self._addresses)}, {len(self._open)} connections, {len(self._resting)} resting>"


class Pools:
    """One pool for each distinct upstream, made when first asked for.  An async context manager.

    ``watched`` are the deliveries under way, whose deadlines one timer minds: ``expire(now)`` is called on each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._pools: Final[dict[_Key, Pool]] = {}
        self._known: Final[dict[int, tuple[Upstream, Pool]]] = {}
        self._contexts: Final[dict[object, ssl.SSLContext | None]] = {}  # reading authorities takes milliseconds
        self.watched: Final[set[Watched]] = set()
        self.now: Callable[[], float] = time.monotonic
        self._sweeping: asyncio.TimerHandle | None = None
        self._rounds = 0

    def of(self, upstream: Upstream) -> Pool:
        """The pool of ``upstream``.  Raises OSError when its certificate files cannot be used."""
        known = self._known.get(id(upstream))
        if known is not None and known[0] is upstream:
            return known[1]
        key = (upstream.urls, upstream.ca, upstream.certificate, upstream.server_name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(upstream, self._clock, tls=self._context(upstream))
        self._known[id(upstream)] = (upstream, pool)
        return pool

    def _context(self, upstream: Upstream) -> ssl.SSLContext | None:
        key = (upstream.ca, upstream.certificate, _needs_tls(upstream))
        if key not in self._contexts:
            self._contexts[key] = _tls(upstream)
        return self._contexts[key]

    async def __aenter__(self) -> Pools:
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        self._known.clear()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for watched in [one for one in self.watched if one.deadline <= now]:
            watched.expire()
        self._rounds += 1
        if self._rounds % 10 == 0:
            for pool in self._pools.values():
                pool.expire(now)
        self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def __repr__(self) -> str:
        return f"<Pools {len(self._pools)}>"


class Watched:
    """Something with a deadline, by the event loop's clock."""

    __slots__ = ("deadline",)
    deadline: float

    def expire(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError


def _needs_tls(upstream: Upstream) -> bool:
    return bool(upstream.ca or upstream.certificate) or any(url.startswith("https:") for url in upstream.urls)


def _tls(upstream: Upstream) -> ssl.SSLContext | None:
    pair = upstream.certificate
    if not _needs_tls(upstream):
        return None
    context = client_context(
        Path(upstream.ca) if upstream.ca else None, (Path(pair[0]), Path(pair[1])) if pair else None
    )
    context.set_alpn_protocols(["http/1.1"])
    return context
