"""The outer form of a signed token: three base64url parts, a header that asks for nothing dangerous.

This module takes a token apart without believing it: no key and no clock are known here.  PyJWT is lenient where RFC
7515 is strict (padding, duplicate members, any ``typ``), and a lenient reader makes two texts of one token, so that
nothing could be remembered or revoked by its digest.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from typing import Final, NamedTuple

from authproxy.errors import InvalidToken
from authproxy.jose import strictjson

ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Every algorithm that can be allowed.  RFC 8725 section 3.1: symmetric ones never share a place with these."""

SIZE: Final = 32 * 1024
"""Longest token that is looked at, in characters."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
_KID_LENGTH: Final = 1024
# crit and b64 change what is signed (RFC 7797); the others bring or fetch a key of the sender's choice; zip and enc
# belong to encryption.  RFC 8725 section 3.10, PyJWT CVE-2026-32597.
_DANGEROUS: Final = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc"})


class Compact(NamedTuple):
    """A token taken apart; nothing of it is proved yet."""

    alg: str
    kid: str | None
    header: dict[str, object]
    payload: dict[str, object]
    signing_input: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"<Compact {self.alg} token, unproved>"


def parse(token: str, *, algorithms: Collection[str], types: Collection[str], size: int = SIZE) -> Compact:
    """Take ``token`` apart (RFC 7515 section 5.2, RFC 8725 sections 3.1, 3.10 and 3.11).

    ``types`` are the values of ``typ`` that are taken, in lower case; "" stands for its absence.
    Raises ``InvalidToken`` with token_too_large, token_malformed, algorithm_refused, header_refused or type_refused.
    """
    if len(token) > size:
        raise InvalidToken("token_too_large", f"The token is longer than {size} characters.")
    if not _COMPACT.fullmatch(token):
        raise InvalidToken("token_malformed", "The token does not have three base64url parts.")
    signing_input, _, last = token.rpartition(".")
    first, _, second = signing_input.partition(".")
    header = _object(first, "header")
    alg = _algorithm(header, algorithms)
    kid = _kid(header)
    _header(header)
    _type(header, types)
    return Compact(alg, kid, header, _object(second, "payload"), signing_input.encode("ascii"), _decode(last))


def _decode(part: str) -> bytes:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise InvalidToken("token_malformed", "A part of the token is not base64url.") from None
    # RFC 4648 section 3.5: the unused bits of the last character must be zero, or one token has many texts.
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode("ascii"):
        raise InvalidToken("token_malformed", "A part of the token is not canonical base64url.")
    return raw


def _object(part: str, name: str) -> dict[str, object]:
    try:
        return strictjson.load_object(_decode(part))
    except ValueError as error:
        raise InvalidToken("token_malformed", f"The token's {name} is {error}.") from None


def _algorithm(header: dict[str, object], algorithms: Collection[str]) -> str:
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ASYMMETRIC or alg not in algorithms:
        raise InvalidToken("algorithm_refused", "The token is not signed with an allowed algorithm.")
    return alg


def _kid(header: dict[str, object]) -> str | None:
    if "kid" not in header:
        return None
    kid = header["kid"]
    if not isinstance(kid, str) or len(kid) > _KID_LENGTH:
        raise InvalidToken("header_refused", "The token's key id is not a short string.")
    return kid


def _header(header: dict[str, object]) -> None:
    if not _DANGEROUS.isdisjoint(header):
        names = ", ".join(sorted(_DANGEROUS.intersection(header)))
        raise InvalidToken("header_refused", f"The token's header has {names}, which is never honoured here.")


def _type(header: dict[str, object], types: Collection[str]) -> None:
    # RFC 8725 section 3.11: a token of one kind must not pass for another.  RFC 7515 section 4.1.9: the prefix
    # "application/" may be left out.
    typ = header.get("typ", "")
    folded = typ.lower().removeprefix("application/") if isinstance(typ, str) else None
    if folded not in types or ("typ" in header and not folded):
        raise InvalidToken("type_refused", "The token is of another kind.")
