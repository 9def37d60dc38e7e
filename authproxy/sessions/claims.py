"""The claims of a session, held once: the ID token has them already, and they are read out of it when asked for.

This room knows the form of a signed token and trusts it: what is held here was proved before.  It verifies nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from sys import intern
from typing import Final

from authproxy.sessions.sealing import decode


class TokenClaims(Mapping[str, object]):
    """The payload of an ID token (RFC 7519 section 3), parsed at each look: nothing on the hot path looks."""

    __slots__ = ("_token",)

    def __init__(self, id_token: str) -> None:
        self._token: Final = id_token

    def read(self) -> dict[str, object]:
        """All of them, parsed once."""
        return payload(self._token)

    def __getitem__(self, name: str) -> object:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def __repr__(self) -> str:
        return "<TokenClaims>"


def read(claims: Mapping[str, object]) -> Mapping[str, object]:
    """The same claims, ready to be looked at many times."""
    return claims.read() if isinstance(claims, TokenClaims) else claims


def payload(id_token: str) -> dict[str, object]:
    """The claims that are written in a token; empty when it is none that we can read."""
    parts = id_token.split(".")
    octets = decode(parts[1]) if len(parts) == 3 else None
    try:
        found = json.loads(octets or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def held_once(claims: Mapping[str, object], id_token: str) -> Mapping[str, object]:
    """``claims`` in the form that costs the least memory; it is equal to them.

    Where they are more than the token says (userinfo), names and the entries of lists, such as groups, are shared by
    all sessions that have them.
    """
    if isinstance(claims, TokenClaims) or (claims and payload(id_token) == claims):
        return TokenClaims(id_token)
    return {intern(str(name)): _shared(value) for name, value in claims.items()}


def _shared(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [intern(entry) if type(entry) is str else entry for entry in value]
