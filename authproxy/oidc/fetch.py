"""One exchange with an identity provider on the wire: bounded in time and size, and never led elsewhere.

This module knows aiohttp and TLS, and nothing of OpenID.  Redirects are not followed (a 307 would carry a client
secret to wherever it points), bodies are read up to a cap, and no error text holds a body, a query or a header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from authproxy.errors import ProviderError
from authproxy.settings.certificates import CertificateFault, client_context

BODY: Final = 256 * 1024
"""Largest body that is read, in bytes."""
CONNECT: Final = 3.0
"""Seconds until a connection, TLS included, must stand."""
QUICK: Final = 10.0
"""Seconds for discovery, key sets and userinfo."""
PATIENT: Final = 15.0
"""Seconds for the token endpoint: Dex holds a lock on a refresh token for several."""


Session = aiohttp.ClientSession


class Reply(NamedTuple):
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]  # names ignore case
    body: bytes

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"


def session(ca: Path | None) -> aiohttp.ClientSession:
    """A client session for one provider: no cookies, no proxy from the environment, TLS checked against ``ca``.

    Every exchange has a connection of its own: on one that the provider has just closed, a refresh token could be
    spent without an answer.  Raises ``ProviderError`` when ``ca`` cannot be read.
    """
    try:
        context = client_context(ca)
    except CertificateFault as fault:
        raise ProviderError(f"the certificates of the authority cannot be used: {fault}") from None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=100, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


async def exchange(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    timeout: float = QUICK,  # noqa: ASYNC109 - it is aiohttp's own budget for the whole exchange
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request and read the whole answer; raises ``ProviderError`` naming scheme, host and path alone."""
    target = URL(url, encoded=True)
    place = str(target.with_query(None).with_user(None).with_fragment(None))
    try:
        async with http.request(
            method,
            target,
            data=form,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT),
            allow_redirects=False,
        ) as response:
            return Reply(response.status, response.headers, await _body(response, place))
    except TimeoutError:
        raise ProviderError(f"{place} did not answer in time") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ProviderError(f"{place} cannot be asked: {_why(error)}") from None


async def document(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The body of a 200 answer to GET; anything else, a redirect too, is a ``ProviderError``."""
    reply = await exchange(http, "GET", url, headers=headers)
    if reply.status != 200:
        place = str(URL(url, encoded=True).with_query(None).with_user(None))
        raise ProviderError(f"{place} answered {reply.status}")
    return reply.body


async def _body(response: aiohttp.ClientResponse, place: str) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise ProviderError(
            f"{place} answered in a coding that was not asked for"
        )  # a small bomb inflates to a big one
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > BODY:
            raise ProviderError(f"{place} answered with more than {BODY} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _why(error: Exception) -> str:
    """A reason without quoting what was sent or received."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "TLS failed: is the certificate signed by the configured ca, and for this name?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionError):
        return "connection refused or lost"
    if isinstance(error, aiohttp.ServerDisconnectedError | asyncio.IncompleteReadError | aiohttp.ClientPayloadError):
        return "it closed the connection without a whole answer"
    return type(error).__name__
