"""The head of an upstream's response, judged before a byte of it reaches a client; and the failures of upstreams.

aiohttp parses responses leniently, so that what it lets through is judged again here.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from authproxy.errors import UpstreamFailed, UpstreamTimeout
from authproxy.model import Fields, HeaderList

ResponseHeaders = Callable[[int, HeaderList], HeaderList]
"""What the client gets of an upstream's headers; the wire adds framing."""
ResponseFields = Callable[["Head"], HeaderList | Fields]
"""The same, of a head that may come again as it is."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUES: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_KNOWN: Final[dict[bytes, bytes]] = {}  # names that were judged, in lower case
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN: Final = 100  # octets


class Delivered(NamedTuple):
    """What went over the wire: octets of bodies, or both ways of a tunnel.

    ``complete`` is False when the answer broke off after its head.
    """

    status: int
    received: int
    sent: int
    complete: bool = True


class Head:
    """A response head that makes sense.  ``length`` is the Content-Length, None without one.

    ``facts`` is what was found out from it, as in ``model.Headers``.
    """

    __slots__ = ("chunked", "facts", "headers", "length", "status")

    def __init__(self, status: int, headers: HeaderList, length: int | None, chunked: bool) -> None:
        self.status: Final = status
        self.headers: Final = headers
        self.length: Final = length
        self.chunked: Final = chunked
        self.facts: Final[dict[object, Any]] = {}


def judged(status: int, version: tuple[int, int], lines: HeaderList) -> Head:
    """The head, or UpstreamFailed ``upstream_bad_response`` when it is ambiguous or would not survive the way."""
    if not 200 <= status <= 599:
        raise bad_response(f"status {status}")
    if version not in ((1, 0), (1, 1)):
        raise bad_response("not HTTP/1.0 or HTTP/1.1")
    if not _VALUES.fullmatch(b"".join([value for _, value in lines])):
        raise bad_response("a malformed header line")
    codings, lengths = [], set()
    for name, value in lines:
        known = _KNOWN.get(name) or _named(name)
        if known == b"transfer-encoding":
            codings.append(value)
        elif known == b"content-length":
            lengths.add(value)
    chunked = _chunked(codings, version) if codings else False
    if chunked and lengths:  # RFC 9112 section 6.3: the mark of response splitting
        raise bad_response("Transfer-Encoding and Content-Length")
    return Head(status, lines, _length(lengths) if lengths else None, chunked)


def _named(name: bytes) -> bytes:
    """A name in lower case; names are few, and remembered."""
    if not _NAME.fullmatch(name):
        raise bad_response("a malformed header line")
    if len(_KNOWN) < _MOST_KNOWN and len(name) < _LONGEST_KNOWN:
        _KNOWN[name] = name.lower()
    return name.lower()


def _chunked(codings: list[bytes], version: tuple[int, int]) -> bool:
    if len(codings) > 1 or codings[0].lower() != b"chunked" or version < (1, 1):
        raise bad_response("a Transfer-Encoding that is not exactly chunked")
    return True


def _length(lengths: set[bytes]) -> int:
    value = lengths.pop()
    if lengths or not _LENGTH.fullmatch(value):
        raise bad_response("an ambiguous Content-Length")
    return int(value)


def bad_response(reason: str) -> UpstreamFailed:
    """502: the upstream answered nonsense, or broke off before its answer.  ``reason`` is for the audit record."""
    return UpstreamFailed("upstream_bad_response", "The application gave an answer that is not valid.", reason=reason)


def unreachable(reason: str) -> UpstreamFailed:
    """502: no connection."""
    return UpstreamFailed("upstream_unreachable", "The application cannot be reached.", reason=reason)


def tls_failed(reason: str) -> UpstreamFailed:
    """502: a connection, but no trust."""
    return UpstreamFailed("upstream_tls", "The application cannot be reached securely.", reason=reason)


def timed_out(reason: str) -> UpstreamTimeout:
    """504."""
    return UpstreamTimeout("upstream_timeout", "The application did not answer in time.", reason=reason)
