"""One canonical spelling for every way to write a host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge.host import Authority, parse
from authproxy.errors import BadRequest


@pytest.mark.parametrize(
    ("written", "host", "text"),
    [
        (b"example.com", "example.com", "example.com"),
        (b"EXAMPLE.Com.", "example.com", "example.com"),
        (b"example.com:8443", "example.com", "example.com:8443"),
        (b"example.com.:0080", "example.com", "example.com:80"),
        (b"localhost", "localhost", "localhost"),
        (b"my_service", "my_service", "my_service"),
        (b"192.0.2.1:80", "192.0.2.1", "192.0.2.1:80"),
        (b"[2001:DB8::1]", "2001:db8::1", "[2001:db8::1]"),
        (b"[2001:db8:0:0::1]:443", "2001:db8::1", "[2001:db8::1]:443"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_has_one_spelling(written: bytes, host: str, text: str) -> None:
    """Case, the dot at the end, the port and the length of zeros make no other host (CVE-2026-48794)."""
    found = parse(written)
    assert (found.host, found.text) == (host, text)


@pytest.mark.parametrize(
    "written",
    [
        *(
            b"",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a b",
            b"a/b",
            b"a@b",
            b"user:pw@a",
            b"a#b",
            b"a?b",
            b'a"b',
            b"a,b",
            b"a\\b",
        ),
        *(b"a:", b"a:0", b"a:65536", b"a:99x", b"a:+80", b"a: 80", b"a:123456", b":80", b"a:80:80", b"*", b"a%2eb"),
        *(b"[::1", b"::1", b"[::1]x", b"[::g]", b"[:::]", b"[fe80::1%25eth0]", b"[v1.a]", b"[]", b"[1.2.3.4]"),
        *(
            b"a\x00",
            b"a\n",
            b"a\r\nb",
            b"a\t",
            b"\xc3\xa9.example",
            b"-a.example",
            b"a-.example",
            b"a" * 64,
            b"a." * 127 + b"ab",
        ),
    ],
)
def test_what_is_no_host_is_refused(written: bytes) -> None:
    """Userinfo, bad ports, open brackets, controls and foreign characters (E13)."""
    with pytest.raises(BadRequest) as refusal:
        parse(written)
    assert refusal.value.code == "bad_host"


def test_the_longest_name_is_a_name() -> None:
    """253 characters, and a dot that does not count."""
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert parse(name.encode() + b".").host == name
    with pytest.raises(BadRequest):
        parse(name.encode() + b"d")


@given(st.binary(max_size=30))
def test_any_bytes_are_a_host_or_a_refusal(written: bytes) -> None:
    """What is accepted is canonical: parsed again, it is the same."""
    try:
        found = parse(written)
    except BadRequest:
        return
    assert parse(found.text.encode()) == found


@pytest.mark.parametrize(
    ("one", "other", "scheme", "same"),
    [
        (Authority("a"), Authority("a"), "http", True),
        (Authority("a", 80), Authority("a"), "http", True),
        (Authority("a"), Authority("a", 443), "https", True),
        (Authority("a", 80), Authority("a"), "https", False),
        (Authority("a"), Authority("b"), "http", False),
    ],
)
def test_a_default_port_goes_without_saying(one: Authority, other: Authority, scheme: str, same: bool) -> None:
    """The scheme supplies the port that is left out, on either side."""
    assert one.same_as(other, scheme) is same
