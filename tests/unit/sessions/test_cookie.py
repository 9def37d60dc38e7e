"""Our cookies: names, attributes, chunks, and what a tossed cookie can do (nothing)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from authproxy.model import Headers
from authproxy.sessions.cookie import Cookies, SessionCookie, Ticket, new_ticket, pairs
from authproxy.sessions.sealing import KeyRing
from authproxy.settings.schema import Cookie

RING = KeyRing([os.urandom(32)])


HOST = "app.example.com"


def a_ticket(*, refresh_token: str = "rt", host: str = HOST, **changes: Any) -> Ticket:
    """A ticket of a session that began at 1000 on ``host``."""
    ticket = new_ticket(
        provider="dex", issuer="https://dex", subject="u1", host=host, now=1000.0, absolute=3600.0,
        refresh_token=refresh_token, issued_at=1000.0, provider_sid="ps",
    )  # fmt: skip
    return ticket._replace(**changes)


def a_cookie(*, secure: bool = True, **shape: Any) -> SessionCookie:
    """The session cookie under some settings."""
    settings = Cookie(**shape)
    return SessionCookie(Cookies(settings, secure=secure), RING, settings)


def carried(lines: tuple[str, ...]) -> Headers:
    """The Cookie header of a browser that was given these Set-Cookie lines."""
    return Headers([(b"Cookie", "; ".join(line.partition(";")[0] for line in lines).encode())])


def test_d1_host_prefix_and_attributes() -> None:
    """On https without a domain the cookie is ``__Host-``, Secure, HttpOnly, for every path and no domain."""
    (line,) = a_cookie().write(a_ticket(), now=1000.0)
    name, _, rest = line.partition("=")
    assert name == "__Host-authproxy"
    assert rest.partition("; ")[2].split("; ") == ["Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=3600", "Secure"]
    assert len(line) < 4096


def test_d2_a_domain_cookie_is_secure_prefixed() -> None:
    """With a domain the prefix is ``__Secure-``, since ``__Host-`` forbids one."""
    (line,) = a_cookie(domain="example.com").write(a_ticket(), now=1000.0)
    assert line.startswith("__Secure-authproxy=")
    assert "; Domain=example.com; Secure" in line


def test_plain_http_has_plain_names() -> None:
    """On http, for development, there is neither prefix nor Secure."""
    (line,) = a_cookie(secure=False).write(a_ticket(), now=1000.0)
    assert line.startswith("authproxy=")
    assert "Secure" not in line


def test_a_ticket_comes_back_whole() -> None:
    """What is written is found and opened again, sealed at the time of writing."""
    cookie, ticket = a_cookie(), a_ticket()
    (sealed,) = cookie.find(carried(cookie.write(ticket, now=1234.0)))
    assert cookie.open(sealed, HOST) == ticket._replace(sealed_at=1234.0)


@pytest.mark.parametrize("size", [2500, 5600, 8400])
def test_a_long_ticket_travels_in_chunks(size: int) -> None:
    """A refresh token of several kilobytes is split into cookies that browsers keep, and joined again."""
    cookie, ticket = a_cookie(), a_ticket(refresh_token="r" * size)
    lines = cookie.write(ticket, now=1000.0)
    assert all(len(line) < 4096 for line in lines)
    assert len(lines) > 1 or size < 2700
    (sealed,) = cookie.find(carried(lines))
    assert (cookie.open(sealed, HOST) or a_ticket()).token == ticket.token


def test_a_token_that_no_cookie_holds_is_refused() -> None:
    """More than four chunks are not written: the caller is told."""
    with pytest.raises(ValueError, match="does not fit"):
        a_cookie().write(a_ticket(refresh_token="r" * 20_000), now=1000.0)


def test_d3_missing_or_tossed_chunks_open_nothing() -> None:
    """A chunk that is missing, or that comes twice, gives no session."""
    cookie = a_cookie()
    lines = cookie.write(a_ticket(refresh_token="r" * 5000), now=1000.0)
    assert cookie.find(carried(lines[:1])) == []
    assert cookie.find(carried((*lines, lines[1]))) == []
    huge = Headers([(b"Cookie", b"__Host-authproxy=99~abc")])
    assert cookie.find(huge) == []


def test_d3_two_cookies_of_one_name_are_both_offered() -> None:
    """A cookie tossed in beside ours hides nothing: all candidates are looked at, and a copy counts once."""
    cookie = a_cookie()
    (line,) = cookie.write(a_ticket(), now=1000.0)
    headers = Headers([(b"Cookie", b"__Host-authproxy=tossed; " + line.partition(";")[0].encode())])
    assert len(cookie.find(headers)) == 2
    assert len(cookie.find(carried((line, line)))) == 1


def test_clearing_names_every_chunk_with_the_same_attributes() -> None:
    """Deleting uses the attributes of writing, so that the browser deletes what it holds."""
    cookie = a_cookie(domain="example.com")
    lines = cookie.write(a_ticket(refresh_token="r" * 5000), now=1000.0)
    cleared = cookie.clear(carried(lines))
    assert len(cleared) == len(lines)
    for written, gone in zip(lines, cleared, strict=True):
        assert written.partition("=")[0] == gone.partition("=")[0]
        tail = [part for part in written.split("; ")[1:] if not part.startswith("Max-Age")]
        assert [part for part in gone.split("; ")[1:] if not part.startswith("Max-Age")] == tail
        assert "Max-Age=0" in gone


def test_another_version_of_the_ticket_opens_nothing() -> None:
    """A ticket of a version that we do not know is as good as none, and no error (D13)."""
    sealed = RING.seal("session-cookie", b'[2, "from", "the future"]')
    assert a_cookie().open(sealed, HOST) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"a=1; b=2", [("a", "1"), ("b", "2")]),
        (b"a=1;b=2;", [("a", "1"), ("b", "2")]),
        (b"===;;;", [("", "==")]),
        (b"nothing", []),
        (b"\xff=\xfe", [("\xff", "\xfe")]),
        (b"a=b=c", [("a", "b=c")]),
    ],
)
def test_d4_odd_cookie_headers_are_read_without_error(line: bytes, expected: list[tuple[str, str]]) -> None:
    """Whatever stands in a Cookie header, pairs are found and the rest is passed over."""
    assert list(pairs(Headers([(b"cookie", line)]))) == expected


def test_no_secret_is_shown() -> None:
    """The repr of a ticket holds neither its id nor its secret nor the refresh token."""
    ticket = a_ticket(refresh_token="very-secret")
    assert ticket.sid not in repr(ticket)
    assert ticket.secret not in repr(ticket)
    assert "very-secret" not in repr(ticket)
