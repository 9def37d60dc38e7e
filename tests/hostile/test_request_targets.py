"""The first line of a request: methods, targets and versions that are not served, and none of them half (E15-E21)."""

from __future__ import annotations

import pytest

from tests.hostile.wire import HOST, SECOND, Wire, head

HOST_LINE = f"Host: {HOST}\r\n\r\n".encode()

ABSOLUTE = {
    f"http://{HOST}/public/x?y": "/public/x?y",
    f"HTTP://{HOST.upper()}:80/public/x": "/public/x",
    f"http://{HOST}./public/x": "/public/x",
}
OTHER_TARGETS = [
    "http://evil.example.com/public/x", f"http://evil.example.com:80@{HOST}/public/x", f"http://me@{HOST}/public/x",
    f"http://{HOST}:8080/public/x", f"http://{HOST}@evil.example.com/public/x", f"ftp://{HOST}/public/x",
    f"ws://{HOST}/public/x", f"file://{HOST}/public/x", f"http:/{HOST}/public/x", f"http:{HOST}/public/x",
    f"//{HOST}", "http:///public/x", "http://", "https://evil.example.com", f"http://{HOST}#/public/x",
    f"http://{HOST}\\@evil.example.com/public/x", f"http://[{HOST}]/public/x", f"javascript://{HOST}/public/x",
    f"http://{HOST}%2fpublic/x", f"http://{HOST} /public/x", f"http://evil.example.com?@{HOST}/public/x",
    "public/x", "../public/x", "?x", "app.example.com", "app.example.com:80", ".",
]  # fmt: skip
STRANGE = {
    "fragment": "/public/x#y",
    "fragment behind the query": "/public/x?y#z",
    "fragment alone": "/#",
    "a fragment that looks public": "/guarded#/public/x",
    "raw umlaut": "/public/\xe4",
    "raw UTF-8": "/public/\xc3\xa4",
    "raw umlaut in the query": "/public/?\xe4",
    "NUL": "/public/\x00",
    "BEL": "/public/\x07",
    "DEL": "/public/\x7f",
    "ESC in the query": "/public/?\x1b[31m",
    "a space": "/public/a b",
    "a space in the query": "/public/?a b",
    "a tab": "/public/a\tb",
    "VT": "/public/a\x0bb",
    "CR": "/public/a\rb",
    "a tab behind": "/public/x\t",
}


@pytest.mark.parametrize("target", ABSOLUTE)
def test_e15_an_absolute_target_is_forwarded_as_a_path(wire: Wire, target: str) -> None:
    """Where it names the host of the Host header; the upstream sees the path alone."""
    _, arrived = wire.passed(head(target=target))
    assert arrived.target == ABSOLUTE[target]


@pytest.mark.parametrize("target", OTHER_TARGETS)
def test_e15_a_target_of_another_form_is_refused(wire: Wire, target: str) -> None:
    """Another host, scheme or user, and what is no path at all: 400, 404 or 421, and no app is asked."""
    wire.refused(head(target=target), status=(400, 401, 404, 421), closes=False)


def test_e15_https_in_a_target_does_not_make_a_connection_safe(wire: Wire) -> None:
    """The upstream hears of the scheme that we know, not of one in the target."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(target=f"https://{HOST}/public/x"))
        assert line.reply().status in (200, 400, 421)
    for one in wire.settled(mark)[0]:
        assert (one.target, one.all("X-Forwarded-Proto")) == ("/public/x", [b"http"])


@pytest.mark.parametrize("target", ["*", "**", "*/public/x", "*?"])
@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_e16_the_star_is_nobodys_path(wire: Wire, method: str, target: str) -> None:
    """It is answered here and never forwarded."""
    wire.refused(head(method=method, target=target), status=(400, 404, 405), closes=False, method=method)


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        ("CONNECT", "evil.example.com:443", "evil.example.com:443"), ("CONNECT", f"{HOST}:443", HOST),
        ("CONNECT", "/public/x", HOST), ("CONNECT", "*", HOST), ("CONNECT", f"http://{HOST}/public/x", HOST),
        ("CONNECT", "127.0.0.1:22", HOST), ("CONNECT", "", HOST),
    ],
)  # fmt: skip
def test_e17_nothing_connects_through_us(wire: Wire, method: str, target: str, host: str) -> None:
    """405, 501 or 400, and the end: what follows is neither a tunnel nor a request."""
    wire.refused(head(method=method, target=target, host=host) + SECOND, status=(400, 405, 501, 505))


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "DEBUG", "trace", "Trace"])
@pytest.mark.parametrize("lines", [[], ["Max-Forwards: 0"], ["Cookie: a=secret"]], ids=["", "Max-Forwards", "Cookie"])
def test_e17_nothing_is_echoed(wire: Wire, method: str, lines: list[str]) -> None:
    """TRACE and its kin are refused, and no header comes back in the answer."""
    reply = wire.refused(head(*lines, method=method), status=(400, 405, 501), closes=False)
    assert b"secret" not in reply.body


@pytest.mark.parametrize("name", STRANGE)
def test_e18_e20_a_target_of_strange_octets_is_refused(wire: Wire, name: str) -> None:
    """Fragments, controls, blanks and what is not ASCII: 400, and the connection does not go on."""
    wire.refused(head(target=STRANGE[name]) + SECOND)


@pytest.mark.parametrize(
    "version",
    [
        "HTTP/0.9", "HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/1.2", "HTTP/1.10", "HTTP/1.01", "HTTP/01.1", "HTTP/11",
        "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/-1.1", "HTTP/1.1x", "HTTP/1.1 ", "http/1.1", "Http/1.1", "HTTPS/1.1",
        "HTP/1.1", "HTTP /1.1", "HTTP/1 .1", "HTTP/1.\xb9", "RTSP/1.0", "ICE/1.0", "1.1", "x", "HTTP/9.9",
    ],
)  # fmt: skip
def test_e19_other_versions_are_not_spoken(wire: Wire, version: str) -> None:
    """505 or 400, answered as HTTP/1.1, and the end."""
    wire.refused(head(version=version) + SECOND, status=(400, 505))


@pytest.mark.parametrize(
    "first",
    [
        b"GET /public/x\r\n", b"GET\r\n", b"/public/x HTTP/1.1\r\n", b" GET /public/x HTTP/1.1\r\n",
        b"\tGET /public/x HTTP/1.1\r\n",
        b"GET\t/public/x HTTP/1.1\r\n", b"GET /public/x\tHTTP/1.1\r\n", b"GET /public/x HTTP/1.1 \r\n",
        b"GET\x00 /public/x HTTP/1.1\r\n", b"\x00GET /public/x HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"\xef\xbb\xbfGET /public/x HTTP/1.1\r\n",
        b"GET HTTP/1.1\r\n", b"G\rET /public/x HTTP/1.1\r\n",
    ],
)  # fmt: skip
def test_e19_e20_a_first_line_that_is_none(wire: Wire, first: bytes) -> None:
    """400 or 505, and the end."""
    wire.refused(first + HOST_LINE + SECOND, status=(400, 505))


@pytest.mark.parametrize("first", [b"GET  /public/x HTTP/1.1\r\n", b"GET /public/x  HTTP/1.1\r\n"])
def test_e20_two_spaces_are_refused_or_one(wire: Wire, first: bytes) -> None:
    """400, or forwarded with the single space that the grammar has: never as they came."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(first + HOST_LINE)
        reply = line.reply()
    assert [one.line for one in wire.settled(mark)[0]] == (
        [b"GET /public/x HTTP/1.1"] if reply.status == 200 else []
    ), reply
    assert reply.status in (200, 400)


def test_e19_the_preface_of_http2_is_refused(wire: Wire) -> None:
    """It is no request; what follows it is none either."""
    wire.refused(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + SECOND, status=(400, 505)
    )


@pytest.mark.parametrize(
    "method",
    [
        "get", "Get", "gET", "FOO", "X-Y", "G\xcbT", "GE T", "GET\x00", "G(T", "GET,", '"GET"', "1", "G3T", "GETGET",
        "GOT", "PRI", "HTTP", "M" * 70,
    ],
)  # fmt: skip
def test_e21_a_method_that_is_not_known_is_refused(wire: Wire, method: str) -> None:
    """400 or 501 (405 where a route lists its methods); it is never forwarded, nor taken for another."""
    wire.refused(head(method=method), status=(400, 405, 501), closes=False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_e21_every_usual_method_arrives(wire: Wire, method: str) -> None:
    """As it is."""
    _, arrived = wire.passed(head(method=method), method=method)
    assert arrived.method == method


def test_e20_empty_lines_before_a_request(wire: Wire) -> None:
    """A CRLF or two are skipped (RFC 9112 section 2.2) or refused; either way one request is one request."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(b"\r\n\r\n" + head())
        assert line.reply().status in (200, 400)
    assert len(wire.settled(mark)[0]) <= 1
