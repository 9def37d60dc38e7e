"""The head of a request: lines that are none, hosts that are none, heads without end, and what passes untouched."""

from __future__ import annotations

import pytest

from tests.hostile.wire import BEARER, HOST, SECOND, Wire, head

GET = b"GET /public/x HTTP/1.1\r\nHost: app.example.com\r\n"

LINES: dict[str, bytes] = {
    "folded": GET + b"X-A: b\r\n c\r\n\r\n",
    "folded with a tab": GET + b"X-A: b\r\n\tc\r\n\r\n",
    "folded behind nothing": GET + b"X-A:\r\n c\r\n\r\n",
    "LF between fields": GET + b"X-A: b\nX-B: c\r\n\r\n",
    "LF behind the request line": b"GET /public/x HTTP/1.1\nHost: app.example.com\r\n\r\n",
    "LF alone everywhere": b"GET /public/x HTTP/1.1\nHost: app.example.com\n\n",
    "LF at the end": GET + b"X-A: b\r\n\n",
    "CR in a value": GET + b"X-A: b\rX-B: c\r\n\r\n",
    "CR at the end of a value": GET + b"X-A: b\r\r\n\r\n",
    "CR behind the request line": b"GET /public/x HTTP/1.1\rHost: app.example.com\r\n\r\n",
    "NUL in a value": GET + b"X-A: b\x00c\r\n\r\n",
    "NUL in a name": GET + b"X-\x00A: b\r\n\r\n",
    "VT in a name": GET + b"X-\x0bA: b\r\n\r\n",
    "a control in a value": GET + b"X-A: b\x01c\r\n\r\n",
    "DEL in a value": GET + b"X-A: b\x7fc\r\n\r\n",
    "ESC in a value": GET + b"X-A: \x1b[31m\r\n\r\n",
    "space before the colon": GET + b"X-A : b\r\n\r\n",
    "tab before the colon": GET + b"X-A\t: b\r\n\r\n",
    "space in a name": GET + b"X A: b\r\n\r\n",
    "no colon": GET + b"X-A b\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "a colon alone": GET + b":\r\n\r\n",
    "brackets in a name": GET + b"X(y): b\r\n\r\n",
    "a quote in a name": GET + b'X"y: b\r\n\r\n',
    "a slash in a name": GET + b"X/y: b\r\n\r\n",
    "a foreign letter in a name": GET + b"X-\xe4: b\r\n\r\n",
    "space before the first field": b"GET /public/x HTTP/1.1\r\n Host: app.example.com\r\n\r\n",
    "space before the first name": b"GET /public/x HTTP/1.1\r\n X-A: b\r\nHost: app.example.com\r\n\r\n",
}


@pytest.mark.parametrize("name", LINES)
def test_e8_a_line_that_is_no_field_is_refused(wire: Wire, name: str) -> None:
    """Folding, other line ends, controls and names that are none: 400, the connection ends, nobody else hears."""
    wire.refused(LINES[name] + SECOND)


def test_e8_a_value_may_hold_a_tab(wire: Wire) -> None:
    """And blanks; those around it are no part of it (RFC 9110 section 5.5)."""
    _, arrived = wire.passed(GET + b"X-A: \t b\tc d \t\r\n\r\n")
    assert arrived.all("X-A") == [b"b\tc d"]


# --- Host ---

HOSTS = {
    "no host": head(host=None),
    "two hosts": head(f"Host: {HOST}"),
    "two hosts, the other first": head("Host: evil.example.com"),
    "two hosts in other letters": head(f"hOST: {HOST}"),
    "no host, an absolute target": head(host=None, target=f"http://{HOST}/public/x"),
    "two hosts in HTTP/1.0": head(f"Host: {HOST}", version="HTTP/1.0"),
}
NO_HOSTS = [
    "a b", f"{HOST} evil", f"{HOST}/x", f"{HOST}/public/x?", f"me@{HOST}", f"{HOST}@evil", f"{HOST}#x", f"{HOST}?x",
    f'{HOST}"', f"{HOST},evil", f"{HOST},{HOST}", f"{HOST};x", f"{HOST}\\x", f"{HOST}%00", f"{HOST}\x7f", f"\x01{HOST}",
    f"{HOST}:99x", f"{HOST}:-1", f"{HOST}:99999", f"{HOST}:80:80", f"{HOST}:+80", f"{HOST}: 80", "[::1", "::1]",
    "[app]", "[::1]x",
    "", " ", ":80", "..", f".{HOST}", f"{HOST}..", "a..b", f"http://{HOST}", f"\xff{HOST}", f"{HOST}\xe4",
    "a" * 64 + ".example.com", "a." * 127 + "example.com", "<script>", "$HOST", "{HOST}", "a^b", "a|b", "a`b", "a'b",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTS)
def test_e12_a_request_has_one_host(wire: Wire, name: str) -> None:
    """None and two are 400, whichever of them would be served."""
    wire.refused(HOSTS[name] + SECOND, closes=False)


@pytest.mark.parametrize("host", NO_HOSTS, ids=[f"{host[:30]!r} {len(host)}" for host in NO_HOSTS])
def test_e13_a_host_that_is_none_is_refused(wire: Wire, host: str) -> None:
    """400 before any routing; nothing fails on the way."""
    wire.refused(head(host=host), closes=False)


@pytest.mark.parametrize(
    "host", [HOST.upper(), f"{HOST}.", f"{HOST}:80", f"{HOST}.:80", "aPP.eXample.Com.", f"{HOST}:0080"]
)
def test_e14_a_host_has_one_meaning(wire: Wire, host: str) -> None:
    """Letters, a dot at the end and a port make no other app: what is guarded stays guarded, what is public opens."""
    wire.passed(head(host=host))
    wire.refused(head(host=host, target="/guarded"), status=(401,), closes=False)


@pytest.mark.parametrize("host", ["evil.example.com", "example.com", f"x.{HOST}", f"x{HOST}", "127.0.0.1", "[::1]"])
def test_e14_another_host_is_nobodys(wire: Wire, host: str) -> None:
    """A host that no app has gets 404, though a name ends or begins alike."""
    wire.refused(head(host=host), status=(404,), closes=False)


# --- size ---

LARGE = {
    "a target of 100 KB": head(target="/public/" + "x" * 100_000),
    "a query of 100 KB": head(target="/public/?" + "x" * 100_000),
    "a method of 100 KB": head(method="G" * 100_000),
    "a value of 100 KB": head("X-A: " + "b" * 100_000),
    "a name of 100 KB": head("X" * 100_000 + ": b"),
    "a value of 2 MB": head("X-A: " + "b" * 2_000_000),
    "a thousand fields": head(*(f"X-{n}: b" for n in range(1000))),
    "a thousand fields of one name": head(*("X-A: b" for n in range(1000))),
    "a thousand fields of no value": head(*("X-A:" for n in range(1000))),
    "100 fields of 8 KB": head(*(f"X-{n}: " + "b" * 8000 for n in range(100))),
}


@pytest.mark.parametrize("name", LARGE)
def test_e22_a_head_has_an_end(wire: Wire, name: str) -> None:
    """414 or 431, or 400; the connection ends."""
    wire.refused(LARGE[name], status=(400, 414, 431))


def test_e22_what_people_send_fits(wire: Wire) -> None:
    """Long cookies and addresses, and some dozens of fields."""
    lines = [f"X-{n}: b" for n in range(60)]
    _, arrived = wire.passed(head("Cookie: a=" + "b" * 8000, *lines, target="/public/?" + "q" * 7000))
    assert arrived.target == "/public/?" + "q" * 7000
    assert arrived.all("Cookie") == [b"a=" + b"b" * 8000]


# --- what passes, passes as it is ---


def test_e38_e40_the_upstream_receives_what_the_client_sent(wire: Wire) -> None:
    """Names in order, duplicates of any spelling, empty values and UTF-8; and nothing that the client did not send."""
    sent = [
        ("X-b", "1"), ("x-B", "2"), ("Accept", "*/*"), ("X-b", "3"), ("X-Empty", ""), ("X-Utf8", "caf\xc3\xa9"),
        ("X-Odd", "!#$%&'*+.^_`|~ =,;\"\\()<>@[]{}?/:"), ("Range", "bytes=0-1"), ("If-Match", '"a"'),
        ("If-None-Match", 'W/"b"'), ("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"), ("If-Range", '"c"'),
        ("Content-MD5", "abc=="), ("Date", "Sat, 01 Jan 2000 00:00:00 GMT"), ("Origin", "https://a.example.com"),
        ("Referer", "https://a.example.com/b?c"), ("Accept-Encoding", "br;q=1, gzip;q=0"), ("User-Agent", "x (y; z)"),
        ("Cache-Control", "no-cache"), ("Pragma", "no-cache"), ("Via", "1.1 fred"), ("Warning", "199 a b"),
    ]  # fmt: skip
    _, arrived = wire.passed(head(*(f"{name}: {value}" for name, value in sent)))
    ours = {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
    passed = [(name.lower().decode(), value.decode("latin-1")) for name, value in arrived.headers]
    assert [line for line in passed if line[0].encode() not in ours] == [(name.lower(), value) for name, value in sent]
    assert {name.encode() for name, _ in passed} >= ours
    assert len([1 for name, _ in passed if name.encode() in ours]) == len(ours)


def test_e40_a_bare_request_stays_bare(wire: Wire) -> None:
    """No Accept, no User-Agent, no Accept-Encoding, no type and no framing of somebody's library."""
    _, arrived = wire.passed(head())
    names = {name.lower() for name, _ in arrived.headers}
    assert names == {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
    _, posted = wire.passed(head("Content-Length: 0", method="POST"))
    assert {name.lower() for name, _ in posted.headers} - names <= {b"content-length"}


@pytest.mark.parametrize("value", ["adm\xffin", "\xff", "\xc0\xaf", "\xed\xa0\x80", "a\x80", "\xe4"], ids=repr)
@pytest.mark.parametrize("name", ["X-A", "Cookie", "User-Agent"])
def test_e38_what_is_no_utf8_is_refused(wire: Wire, name: str, value: str) -> None:
    """No octet is dropped on the way, so that nobody sees another value than the one that was judged."""
    wire.refused(head(f"{name}: {value}"), closes=False)


def test_e39_cookies_become_one_line(wire: Wire) -> None:
    """Several lines, in any spelling, are joined by ``; `` in their order."""
    _, arrived = wire.passed(head("Cookie: a=1; b=2", "cookie: c=3", "X-A: b", "COOKIE: d=4"))
    assert arrived.all("Cookie") == [b"a=1; b=2; c=3; d=4"]


def test_e32_via_is_passed_and_none_is_made_up(wire: Wire) -> None:
    """What stands between the client and us is for the upstream to know; we add exactly what the contract lists."""
    reply, arrived = wire.passed(head("Via: 1.0 fred, 1.1 p.example.com", BEARER, target="/guarded"))
    assert arrived.all("Via") == [b"1.0 fred, 1.1 p.example.com"]
    assert reply.all("Via") == []
