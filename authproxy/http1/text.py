"""Heads as octets.

They are written here and by no library: none keeps order, case, duplicates and octets that are not UTF-8 all at once.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from authproxy.model import Fields, HeaderList

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_OURS: Final = frozenset({
    b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_FOLDED: Final[dict[bytes, bytes]] = {}
_MOST_FOLDED: Final = 4096
_LONGEST_FOLDED: Final = 100  # octets


def folded(name: bytes) -> bytes:
    """``name`` in lower case; names are few, and remembered."""
    found = _FOLDED.get(name)
    if found is None:
        found = name.lower()
        if len(_FOLDED) < _MOST_FOLDED and len(name) < _LONGEST_FOLDED:
            _FOLDED[name] = found
    return found


def fields(lines: HeaderList) -> bytes:
    """Header lines as octets.  Raises ValueError for what would split a line."""
    octets = b"".join([b"%b: %b\r\n" % line for line in lines])
    if octets.count(b"\n") != len(lines) or octets.count(b"\r") != len(lines) or b"\0" in octets:
        raise ValueError("a header value that cannot be sent")
    return octets


def response_fields(lines: HeaderList) -> Fields:
    """``lines``, which hold no framing.  Raises ValueError for what would split a line."""
    return Fields(fields(lines), b"date" in [folded(name) for name, _ in lines])


def response_head(status: int, headers: HeaderList | Fields, framing: bytes) -> bytes:
    """A response head.  ``framing`` are whole header lines; what ``headers`` say about framing is left out.

    The reason phrase is the standard one (RFC 9112 section 4): an upstream's own may hold anything.
    """
    first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    if isinstance(headers, Fields):
        date = b"" if headers.dated else b"Date: %b\r\n" % _date(int(time.time()))
        return b"".join((first, headers.octets, date, framing, b"\r\n"))
    lines = [first]
    dated = status < 200
    for name, value in headers:
        key = folded(name)
        if key not in _OURS:
            dated = dated or key == b"date"
            lines.append(b"%b: %b\r\n" % (name, value))
    if not dated:  # RFC 9110 section 6.6.1
        lines.append(b"Date: %b\r\n" % _date(int(time.time())))
    lines.append(framing)
    lines.append(b"\r\n")
    return b"".join(lines)


class _Dated:
    second = 0
    text = b""


def _date(second: int) -> bytes:
    if second != _Dated.second:
        _Dated.second, _Dated.text = second, formatdate(second, usegmt=True).encode()
    return _Dated.text
