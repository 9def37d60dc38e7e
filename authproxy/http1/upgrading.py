"""Which other protocol a request asks to go on with, where we take part in that.  Pure."""

from __future__ import annotations

import re
from typing import Final

from authproxy.model import Headers, RequestInfo

_TOKEN: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:/[A-Za-z0-9!#$%&'*+.^_`|~-]+)?")
_OTHER_HTTP: Final = (b"h2", b"h2c")


def protocol(info: RequestInfo) -> str:
    """The one protocol that the client asks to switch to (RFC 9110 section 7.8), or "" when we do not take part.

    Other versions of HTTP, and TLS (RFC 2817), are no tunnels: inside them requests would pass unjudged.
    """
    offered = info.headers.all(b"upgrade")
    if len(offered) != 1 or info.http_version != (1, 1) or not _asks_to_upgrade(info.headers):
        return ""
    offer = offered[0].strip(b" \t")
    folded = offer.lower()
    if not _TOKEN.fullmatch(offer) or folded in _OTHER_HTTP or folded.startswith((b"http/", b"tls/")):
        return ""
    if info.method != "GET" and not (info.method == "POST" and folded.startswith(b"spdy/")):
        return ""
    return "websocket" if folded == b"websocket" else offer.decode()


def _asks_to_upgrade(headers: Headers) -> bool:
    tokens = b",".join(headers.all(b"connection")).lower().split(b",")
    return any(token.strip(b" \t") == b"upgrade" for token in tokens)
