"""Heads: what llhttp and the rules around it take and refuse, and that a head which is repeated means the same."""

from __future__ import annotations

import pytest

from authproxy.http1.heads import Malformed, RequestHeads, ResponseHeads

HOST = b"Host: app.example.com\r\n"

REFUSED = {
    "a bare line feed": b"GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\n\r\n",
    "a blank behind": b"GET / HTTP/1.1 \r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "RTSP": b"DESCRIBE / RTSP/1.0\r\n\r\n",
    "RTSP with a method of HTTP": b"GET / RTSP/1.0\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\n\r\n",
    "a method that nobody knows": b"FOO / HTTP/1.1\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "length and coding": b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nX : a\r\n\r\n",
    "octets in the target": b"GET /\xff HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_head(name: str) -> None:
    """Is refused, also behind one that was fine, and the parser serves the next connection's head as before."""
    heads = RequestHeads()
    fine = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    for _ in range(2):
        assert heads.parse(fine).method == "GET"
        with pytest.raises(Malformed):
            heads.parse(REFUSED[name])
    with pytest.raises(Malformed):
        RequestHeads().parse(REFUSED[name])


def test_a_request() -> None:
    """Order, case, duplicates, empty values and octets of its lines are kept."""
    head = RequestHeads().parse(b"POST /a?b=%2F HTTP/1.1\r\n" + HOST + b"X-b: 1\r\nx-B:\r\nX: \xc3\xa9 \r\n\r\n")
    assert (head.method, head.target, head.version) == ("POST", b"/a?b=%2F", (1, 1))
    assert head.headers.lines == (
        (b"Host", b"app.example.com"), (b"X-b", b"1"), (b"x-B", b""), (b"X", b"\xc3\xa9"),
    )  # fmt: skip
    assert (head.keep_alive, head.upgrade) == (True, False)


@pytest.mark.parametrize(
    ("version", "line", "keep_alive"),
    [
        (b"1.1", b"", True), (b"1.1", b"Connection: close\r\n", False), (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True), (b"1.1", b"Connection: x, close \t\r\n", False),
    ],
)  # fmt: skip
def test_whether_the_connection_stays(version: bytes, line: bytes, keep_alive: bool) -> None:
    """By version and Connection (RFC 9112 section 9.3)."""
    head = b"GET / HTTP/" + version + b"\r\n" + HOST + line + b"\r\n"
    assert RequestHeads().parse(head).keep_alive == keep_alive


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions(version: str) -> None:
    """Are told as they are: whether they are served is not said here."""
    head = RequestHeads().parse(f"GET / HTTP/{version}\r\n\r\n".encode())
    assert head.version == tuple(map(int, version.split(".")))


def test_an_upgrade_is_seen() -> None:
    """And CONNECT counts as one."""
    assert RequestHeads().parse(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").upgrade
    assert RequestHeads().parse(b"CONNECT a:443 HTTP/1.1\r\n\r\n").upgrade


def test_repeated_lines_are_the_same_headers() -> None:
    """The very same octets behind another request line give the same ``Headers``; one octet more gives others."""
    heads = RequestHeads()
    first = heads.parse(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
    again = heads.parse(b"POST /b?c HTTP/1.1\r\n" + HOST + b"\r\n")
    assert again.headers is first.headers
    assert (again.method, again.target, again.version) == ("POST", b"/b?c", (1, 1))
    other = heads.parse(b"GET /a HTTP/1.1\r\n" + HOST + b"X: y\r\n\r\n")
    assert other.headers is not first.headers
    assert heads.parse(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n").headers.lines == first.headers.lines


@pytest.mark.parametrize("target", [b"*", b"http://app.example.com/", b"/\xff"])
def test_repeated_lines_with_an_odd_request_line(target: bytes) -> None:
    """Such a request line is judged by the parser, as if nothing had come before."""
    heads, block = RequestHeads(), b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    heads.parse(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")

    def outcome(parser: RequestHeads) -> object:
        try:
            return parser.parse(block).target
        except Malformed:
            return "malformed"

    assert outcome(heads) == outcome(RequestHeads())


def test_equal_cookies_are_judged_once() -> None:
    """What was found out from Cookie lines is there again in the next head with the same ones, and in no other."""
    heads = RequestHeads()
    block = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nCookie: %b\r\nX-A: %b\r\n\r\n"
    first = heads.parse(block % (b"s=1", b"1")).headers
    second = heads.parse(block % (b"s=1", b"2")).headers
    other = heads.parse(block % (b"s=2", b"2")).headers
    assert second.cookie_facts is first.cookie_facts
    assert other.cookie_facts is not first.cookie_facts


def test_what_is_not_remembered() -> None:
    """A head in HTTP/1.0, one that ends the connection and one that upgrades say nothing about the next."""
    for line, version in ((b"", b"1.0"), (b"Connection: close\r\n", b"1.1"), (b"Upgrade: x\r\n", b"1.1")):
        heads, block = RequestHeads(), b"GET / HTTP/" + version + b"\r\n" + HOST + line + b"\r\n"
        if line.startswith(b"Upgrade"):
            block = block.replace(b"Upgrade: x", b"Connection: upgrade\r\nUpgrade: x")
        first = heads.parse(block)
        assert heads.parse(block).headers is not first.headers


def test_a_body_does_not_get_in_the_way() -> None:
    """The parser sees heads alone: what follows a head with a length is the next head."""
    heads = RequestHeads()
    for length in (b"5", b"0", b"700"):
        head = heads.parse(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + length + b"\r\n\r\n")
        assert head.headers.get(b"content-length") == length


@pytest.mark.parametrize(
    ("block", "status", "version", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, (1, 1), True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200, (1, 1), False),
        (b"HTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\n\r\n", 404, (1, 1), True),
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, (1, 1), False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 200, (1, 0), False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, (1, 1), True),
    ],
)
def test_a_response(block: bytes, status: int, version: tuple[int, int], keep_alive: bool) -> None:
    """Status, version, and whether its end is known without the end of the connection."""
    head = ResponseHeads().parse(block)
    assert (head.status, head.version, head.keep_alive) == (status, version, keep_alive)


@pytest.mark.parametrize(
    "block",
    [
        b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)  # fmt: skip
def test_a_malformed_response(block: bytes) -> None:
    """Is refused."""
    with pytest.raises(Malformed):
        ResponseHeads().parse(block)
