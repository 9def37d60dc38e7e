"""What the sample app learns about its visitor: from the headers that the proxy sent, and from nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_SHOWN: Final = 22  # characters of a token that are shown
_LONG: Final = 140
_FROM_PROXY: Final = ("x-forwarded-", "authorization", "x-request-id")


class Visitor(NamedTuple):
    """Who is there.  Everything is empty when nobody is signed in."""

    user: str
    username: str
    email: str
    groups: tuple[str, ...]
    claims: Mapping[str, object]

    def __repr__(self) -> str:
        return f"<Visitor {self.user!r}>"

    @property
    def name(self) -> str:
        """The best name that there is."""
        return str(self.claims.get("name", "")) or self.username or self.user

    @property
    def first_name(self) -> str:
        """For a greeting."""
        return self.name.partition(" ")[0]

    @property
    def issued_at(self) -> int:
        """When the ID token was issued, seconds since the epoch; 0 without one."""
        return _number(self.claims.get("iat"))

    @property
    def expires_at(self) -> int:
        """When the ID token ends, seconds since the epoch; 0 without one."""
        return _number(self.claims.get("exp"))


class Line(NamedTuple):
    """One header line, fit for a page."""

    name: str
    value: str
    by_proxy: bool


def visitor(headers: Mapping[str, str]) -> Visitor:
    """The visitor, by the headers of one request.

    The app believes them because only the proxy can reach it, and the proxy drops such headers when a client sends
    them.  An app that can be reached from elsewhere must verify the ID token itself.
    """
    groups = text(headers.get("X-Forwarded-Groups", ""))
    return Visitor(
        user=text(headers.get("X-Forwarded-User", "")),
        username=text(headers.get("X-Forwarded-Preferred-Username", "")),
        email=text(headers.get("X-Forwarded-Email", "")),
        groups=tuple(group.strip() for group in groups.split(",") if group.strip()),
        claims=claims(headers.get("Authorization", "")),
    )


def claims(authorization: str) -> dict[str, object]:
    """The claims of a Bearer JWT, decoded and not verified; {} for anything else."""
    kind, _, token = authorization.partition(" ")
    parts = token.split(".")
    if kind.lower() != "bearer" or len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def lines(headers: Iterable[tuple[str, str]]) -> list[Line]:
    """The header lines for a page: what the proxy said first, secrets and long values shortened."""
    found = [Line(text(name), _shortened(name.lower(), text(value)), _by_proxy(name)) for name, value in headers]
    return sorted(found, key=lambda line: (not line.by_proxy, line.name.lower()))


def text(value: str) -> str:
    """A header value as text: UTF-8 where it is, and a mark for each byte that is not."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _by_proxy(name: str) -> bool:
    return name.lower().startswith(_FROM_PROXY)


def _shortened(name: str, value: str) -> str:
    if name == "authorization":
        kind, _, secret = value.partition(" ")
        return f"{kind} {secret[:_SHOWN]}… ({len(secret)} characters)"
    if name == "cookie":
        return "; ".join(f"{pair.partition('=')[0].strip()}=…" for pair in value.split(";"))
    return value if len(value) <= _LONG else f"{value[:_LONG]}… ({len(value)} characters)"


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e11 else 0
