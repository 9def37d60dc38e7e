"""The ``Authorization`` header taken apart: which scheme, and what follows it.  Judges nothing.

Schemes are case-insensitive and followed by one or more spaces (RFC 9110 section 11.4).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from authproxy.errors import BadRequest
from authproxy.model import Headers

_HEADER: Final = b"authorization"
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")


def of_scheme(headers: Headers, scheme: bytes) -> tuple[bytes, ...]:
    """The credentials of every ``Authorization`` line with ``scheme`` (lower case)."""
    lines = headers.all(_HEADER)
    if not lines:
        return ()
    return tuple(found for line in lines if (found := _credentials(line, scheme)) is not None)


def the_only(headers: Headers, scheme: bytes) -> bytes:
    """The credentials of the one ``Authorization`` line, which has ``scheme``.

    Raises BadRequest ``several_credentials`` when there is another line: RFC 9110 section 5.3 lets a sender repeat
    lists alone, and two servers would believe two different ones.
    """
    found = of_scheme(headers, scheme)
    if len(headers.all(_HEADER)) != 1 or len(found) != 1:
        raise BadRequest("several_credentials", "The request carries more than one Authorization header.")
    return found[0]


def looks_like_jwt(credentials: bytes) -> bool:
    """Whether it has the outer form of a signed token: three base64url parts, the first of which begins a JSON object.

    Nothing is believed of it; the form alone says which authenticator is asked.
    """
    found = _COMPACT.fullmatch(credentials)
    if found is None:
        return False
    start = found[1][:4]
    try:
        return base64.urlsafe_b64decode(start + b"=" * (-len(start) % 4)).lstrip().startswith(b"{")
    except binascii.Error:
        return False


def _credentials(line: bytes, scheme: bytes) -> bytes | None:
    named, _, rest = line.partition(b" ")
    return rest.strip(b" ") if named.lower() == scheme else None
