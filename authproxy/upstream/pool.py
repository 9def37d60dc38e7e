"""Keep-alive connections to the upstreams, one pool each: its TLS, its turn-taking, its rest after a failure.

The room knows how to reach an upstream and nothing of requests.  Nothing of one client ever stays in a pool: no
cookies, no credentials, no proxies from the environment.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any, Final

import aiohttp
from yarl import URL

from authproxy.model import Upstream

CONNECT_SECONDS: Final = 5.0
REST_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 4.0  # below the 5 s after which common servers close an idle connection
LINE_LIMIT: Final = 64 * 1024
HEADER_LIMIT: Final = 256
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

_Key = tuple[tuple[str, ...], str | None, tuple[str, str] | None, str | None]


class Pool:
    """The connections to one upstream.  Use inside a running loop; ``close`` when done."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.monotonic) -> None:
        self.server_name: Final = upstream.server_name
        self.tls: Final = _tls(upstream)
        self.session: Final = _session(self.tls)
        self._urls: Final = tuple(URL(url) for url in upstream.urls)
        self._clock: Final = clock
        self._resting: Final[dict[URL, float]] = {}
        self._turn = 0

    def candidates(self) -> tuple[URL, ...]:
        """The base URLs in the order in which to try them: by turns, those that rest at the end."""
        start, self._turn = self._turn, (self._turn + 1) % len(self._urls)
        turn = self._urls[start:] + self._urls[:start]
        if not self._resting:
            return turn
        now = self._clock()
        return tuple(sorted(turn, key=lambda url: self._resting.get(url, 0.0) > now))

    def rest(self, url: URL) -> None:
        """``url`` could not be connected to: prefer the others for a while."""
        self._resting[url] = self._clock() + REST_SECONDS

    def recovered(self, url: URL) -> None:
        """``url`` answered."""
        if self._resting:
            self._resting.pop(url, None)

    async def close(self) -> None:
        """Close every connection."""
        await self.session.close()

    def __repr__(self) -> str:
        return f"<Pool of {len(self._urls)}, {len(self._resting)} resting>"


class Pools:
    """One pool for each distinct upstream, made when first asked for.  An async context manager."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._pools: Final[dict[_Key, Pool]] = {}

    def of(self, upstream: Upstream) -> Pool:
        """The pool of ``upstream``.  Raises OSError or ssl.SSLError when its certificate files cannot be read."""
        key = (upstream.urls, upstream.ca, upstream.certificate, upstream.server_name)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(upstream, self._clock)
        return pool

    async def __aenter__(self) -> Pools:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()

    def __repr__(self) -> str:
        return f"<Pools {len(self._pools)}>"


def _tls(upstream: Upstream) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=upstream.ca)
    context.set_alpn_protocols(["http/1.1"])
    if upstream.certificate is not None:
        context.load_cert_chain(*upstream.certificate)
    return context


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),  # a jar would give one client's cookies to the next
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=_NOT_ADDED,
        max_line_size=LINE_LIMIT,
        max_field_size=LINE_LIMIT,
        max_headers=HEADER_LIMIT,
        trace_configs=[_reuse_noted()],
    )
    # RFC 9110 section 9.2.2: only what is safe may be repeated, and upstream.forward decides that.
    session._retry_connection = False
    return session


def _reuse_noted() -> aiohttp.TraceConfig:
    async def reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
        context.trace_request_ctx.reused = True

    traces = aiohttp.TraceConfig()
    traces.on_connection_reuseconn.append(reused)
    return traces
