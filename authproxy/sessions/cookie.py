"""Our cookies: their names and attributes, and the sealed ticket that the session cookie carries.

This room knows cookie syntax (RFC 6265) and the ticket's fields.  It knows nothing of the store or of providers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

from authproxy.model import Headers
from authproxy.sessions.records import VERSION, RefreshToken, decode_token, parse, typed
from authproxy.sessions.sealing import KeyRing, digest, token
from authproxy.settings.schema import Cookie

CHUNK: Final = 3800
"""Characters of a cookie's value; with name and attributes it stays under the 4096 bytes that browsers keep."""
_MAX_CHUNKS: Final = 4
_MAX_DUPLICATES: Final = 4
_PURPOSE: Final = "session-cookie"


class Ticket(NamedTuple):
    """What the session cookie holds.  With it alone a session can be made again when the store was emptied."""

    sid: str
    secret: str  # encrypts the record: whoever reads the store alone reads nothing
    provider: str
    issuer: str
    subject: str
    host: str  # the one host that the cookie opens; "" for every host of ``cookie.domain``
    sealed_at: float
    signed_in_at: float
    absolute_end: float
    generation: int  # orders the cookies and the records of this session
    token: RefreshToken
    provider_sid: str = ""

    @property
    def id(self) -> str:
        """The digest that names the session in the store, in marks and in logs."""
        return digest("sid", self.sid)

    @property
    def user(self) -> str:
        """The digest that names the user."""
        return user_digest(self.provider, self.issuer, self.subject)

    def __repr__(self) -> str:
        return f"<Ticket {self.id[:8]} generation {self.generation}>"


def encode_ticket(ticket: Ticket) -> bytes:
    """The sealed content of a session cookie, version 2; names are short, since browsers bound cookies."""
    fields = {short: value for short, value in zip(_SHORT, ticket, strict=True) if value != ""}
    return json.dumps({"v": VERSION, **fields}, separators=(",", ":")).encode()


def decode_ticket(plain: bytes) -> Ticket | None:
    """The ticket, or None for garbage and for versions that are not known.

    A ticket of version 1 names no host: it opens what ``cookie.domain`` covers, and nothing without it.
    """
    found = parse(plain)
    if isinstance(found, list) and len(found) == 12 and found[0] == 1:
        found = {"v": VERSION, **dict(zip(_SHORT_1, found[1:], strict=True))}
        found["t"] = [found["t"], "", found["g"], 0.0]
    if not isinstance(found, dict) or found.get("v") != VERSION:
        return None
    token_fields, checked = decode_token(found.get("t")), typed({"h": "", "o": "", **found}, _TYPES)
    if token_fields is None or checked is None:
        return None
    return Ticket(
        **{name: checked.get(short, token_fields) for short, name in zip(_SHORT, Ticket._fields, strict=True)}
    )


_SHORT: Final = ("i", "k", "p", "r", "s", "h", "a", "b", "e", "g", "t", "o")
_SHORT_1: Final = ("i", "k", "p", "r", "s", "a", "b", "e", "g", "t", "o")
_TYPES: Final = {short: float if short in "abe" else int if short == "g" else str for short in _SHORT if short != "t"}


def user_digest(provider: str, issuer: str, subject: str) -> str:
    """The name of a user in the store."""
    return digest("user", provider, issuer, subject)


def new_ticket(
    *, provider: str, issuer: str, subject: str, host: str, now: float, absolute: float, refresh_token: str,
    issued_at: float, provider_sid: str,
) -> Ticket:  # fmt: skip
    """A ticket with a fresh session id and secret, of 256 bits each; ``issued_at`` as in ``RefreshToken``."""
    return Ticket(
        sid=token(), secret=token(), provider=provider, issuer=issuer, subject=subject, host=host, sealed_at=now,
        signed_in_at=now, absolute_end=now + absolute, generation=1,
        token=RefreshToken(refresh_token, token(9), 0, issued_at), provider_sid=provider_sid,
    )  # fmt: skip


class Cookies:
    """Names, attributes and look-up of all cookies of ours."""

    def __init__(self, settings: Cookie, *, secure: bool) -> None:
        self._settings: Final = settings
        self._secure: Final = secure
        self.base: Final = settings.name

    def _name(self, suffix: str, *, host_only: bool) -> str:
        plain = f"{self.base}{suffix}"
        if not self._secure:
            return plain
        return f"__Secure-{plain}" if self._settings.domain and not host_only else f"__Host-{plain}"

    def write(
        self, suffix: str, value: str, *, max_age: int | None, host_only: bool = True, same_site: str = "Lax"
    ) -> str:
        """A Set-Cookie value.  Host-only cookies carry ``__Host-`` (RFC 6265bis section 4.1.3.2) on https."""
        parts = [f"{self._name(suffix, host_only=host_only)}={value}", "Path=/", "HttpOnly", f"SameSite={same_site}"]
        if max_age is not None:
            parts.append(f"Max-Age={max_age}")
        if self._settings.domain and not host_only:
            parts.append(f"Domain={self._settings.domain}")
        if self._secure:
            parts.append("Secure")
        return "; ".join(parts)

    def values(self, headers: Headers, suffix: str, *, host_only: bool = True) -> list[str]:
        """Every value that the request carries under this name; more than one means somebody tossed a cookie."""
        wanted = self._name(suffix, host_only=host_only)
        return [value for name, value in pairs(headers) if name == wanted]

    def suffixes(self, headers: Headers, start: str) -> list[str]:
        """The suffixes of our host-only cookies that begin with ``start``, in order of arrival."""
        whole = self._name(start, host_only=True)
        skip = len(whole) - len(start)
        return [name[skip:] for name, _ in pairs(headers) if name.startswith(whole)]


def pairs(headers: Headers) -> Iterator[tuple[str, str]]:
    """Name and value of every cookie of the request; what is no pair is passed over."""
    for line in headers.all(b"cookie"):
        for part in line.decode("latin-1").split(";"):
            name, equals, value = part.strip().partition("=")
            if equals:
                yield name, value


class SessionCookie:
    """The session cookie: a sealed ticket, in chunks where it is long."""

    def __init__(self, cookies: Cookies, ring: KeyRing, settings: Cookie) -> None:
        self._cookies: Final = cookies
        self._ring: Final = ring
        self._same_site: Final = settings.same_site.capitalize()
        self._domain: Final = settings.domain

    def find(self, headers: Headers) -> list[str]:
        """The sealed tickets that the request carries, chunks joined; usually none or one."""
        known: list[str] | None = headers.cookie_facts.get(self)
        if known is None:
            found = [self._joined(headers, value) for value in self._values(headers, "")[:_MAX_DUPLICATES]]
            known = headers.cookie_facts[self] = [value for value in dict.fromkeys(found) if value]
        return known

    def _values(self, headers: Headers, suffix: str) -> list[str]:
        return self._cookies.values(headers, suffix, host_only=False)

    def _joined(self, headers: Headers, first: str) -> str:
        count, tilde, rest = first.partition("~")
        if not tilde:
            return first
        if count not in {"2", "3", "4"}:
            return ""
        parts = [rest]
        for index in range(1, int(count)):
            values = self._values(headers, f"_{index}")
            if len(values) != 1:  # a missing or a tossed chunk
                return ""
            parts += values
        return "".join(parts)

    def open(self, sealed: str, host: str) -> Ticket | None:
        """The ticket, or None when no key of the ring opens it, its version is unknown, or it is for another host.

        ``host`` is the host of the request.  Without ``cookie.domain`` a cookie opens the host that it was made for:
        the browser sends it to no other one, and a copy of it must not open more.
        """
        plain = self._ring.open(_PURPOSE, sealed)
        ticket = decode_ticket(plain) if plain else None
        return ticket if ticket and ticket.host == self.host_of(host) else None

    def host_of(self, host: str) -> str:
        """What is sealed into a cookie that is made on ``host``: "" when ``cookie.domain`` covers every host."""
        return "" if self._domain else host

    def write(self, ticket: Ticket, *, now: float) -> tuple[str, ...]:
        """Set-Cookie values for ``ticket``, sealed now."""
        sealed = self._ring.seal(_PURPOSE, encode_ticket(ticket._replace(sealed_at=now)))
        chunks = [sealed[start : start + CHUNK] for start in range(0, len(sealed), CHUNK)]
        if len(chunks) > _MAX_CHUNKS:
            raise ValueError(f"a refresh token of {len(ticket.token.value)} characters does not fit into cookies")
        first = chunks[0] if len(chunks) == 1 else f"{len(chunks)}~{chunks[0]}"
        lines = [self._line("", first, int(ticket.absolute_end - now))]
        lines += [self._line(f"_{i}", chunk, int(ticket.absolute_end - now)) for i, chunk in enumerate(chunks[1:], 1)]
        return tuple(lines)

    def clear(self, headers: Headers) -> tuple[str, ...]:
        """Set-Cookie values that delete the cookie and every chunk that the request carries."""
        names = [""] + [f"_{index}" for index in range(1, _MAX_CHUNKS) if self._values(headers, f"_{index}")]
        return tuple(self._line(suffix, "", 0) for suffix in names)

    def _line(self, suffix: str, value: str, max_age: int) -> str:
        return self._cookies.write(suffix, value, max_age=max_age, host_only=False, same_site=self._same_site)
