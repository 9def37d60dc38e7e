"""Five hundred odd requests, always the same: drawn from a grammar of what clients and attackers send."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

NUMBER: Final = 500
_METHODS: Final = (
    ["GET"] * 6 + ["POST"] * 6 + ["HEAD", "PUT", "DELETE", "OPTIONS", "get", "FOO", "CONNECT", "TRACE", "G T"]
)
_SUFFIXES: Final = [""] * 12 + [
    "?q=1", "?", "??a=b?c", "/a//b", "/a%20b", "/%41", "/..;/x", "/../x", "/..", "%2f..%2fx", "/a;b=c", "/a\\b", "/%zz",
    "#f", "?a#b", "/a%2fb", "/caf%C3%A9", "/~x!$&'()*+,=:@", "/a|b", '/"q"', "/[x]", "/^", "/{x}", "/%00", "/a b",
    "/\xe4",
    "/.", "/./x", "/%2e%2e/x", "/x%0d%0aX-A:b", "/%ff", "/a%253fb", "?%zz", "?\\..\\x", "/x HTTP/1.1",
]  # fmt: skip
_VERSIONS: Final = ["HTTP/1.1"] * 14 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "]
_LINES: Final = [
    "X-A: b", "x-a: c", "X-A : b", "X-A: b\r\n c", "X-A: b\nX-B: c", "X-A", ": b", "X-A: \x00", "X-A: \xff", "X-A:",
    "Connection: close", "Connection: keep-alive", "Connection: Content-Length", "Connection: Host, X-Forwarded-For",
    "Connection: Transfer-Encoding", "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: upgrade\r\nUpgrade: foo", "Upgrade: websocket", "Transfer_Encoding: chunked", "Content_Length: 99",
    "X-Forwarded-User: root", "X_Forwarded_User: root", "X-Forwarded-For: 1.2.3.4", "Cookie: a=b", "cookie: c=d",
    "TE: trailers", "Trailer: X-T", "Range: bytes=0-1", "Expect: 100-continue", "Expect: odd", "Keep-Alive: 5",
    "Proxy-Connection: keep-alive", "Host: evil.example.com", "X-HTTP-Method-Override: DELETE", "Max-Forwards: 0",
    "Content-Encoding: gzip", "Content-Type: text/plain", "X-Original-URL: /guarded", "X-Rewrite-URL: /guarded",
]  # fmt: skip
_CHUNK_ODDITIES: Final = [
    "0x5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\nhello\n0\n\n",
    "5\r\nhello\r\n0\n\r\n", "5\r\nhelloo\r\n0\r\n\r\n", "-1\r\n\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip
_AMBIGUOUS: Final = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5", "Content-Length: +5", "Content-Length: 0x5",
    "Content-Length: ", "Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: identity",
    "Content-Length: 5\r\n 6",
    "Transfer-Encoding : chunked",
]  # fmt: skip


class Odd(NamedTuple):
    """What is sent, in one connection.  ``body`` is the first request's, None where nobody may find one."""

    sent: bytes
    body: bytes | None
    whole: bool  # the client has said all that it announced


def odd_requests(host: str) -> list[Odd]:
    """All of them, for one host.  The request of number N is for ``/public/d/N/…``."""
    chance = Random(9112)
    return [_odd(chance, number, host) for number in range(NUMBER)]


def _odd(chance: Random, number: int, host: str) -> Odd:
    place = f"/public/d/{number}"
    target = place + chance.choice(_SUFFIXES)
    if chance.random() < 0.1:
        target = (
            chance.choice([f"http://{host}", "http://evil.example.com", "ftp://" + host, "//evil.example.com"]) + target
        )
    framing, body, plain, whole = _framing(chance)
    lines = [f"Host: {host}", *chance.choices(_LINES, k=chance.choice([0, 0, 0, 1, 1, 2])), *framing]
    chance.shuffle(lines)
    end = "\n" if chance.random() < 0.03 else "\r\n"
    first = f"{chance.choice(_METHODS)} {target} {chance.choice(_VERSIONS)}"
    sent = end.join([first, *lines]) + end * 2 + body
    for _ in range(chance.choice([0, 0, 1, 3])):
        sent += f"GET {place}/second HTTP/1.1\r\nHost: {host}\r\n\r\n"
    sent += f"GET {place}/last HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    return Odd(sent.encode("latin-1"), plain, whole)


def _framing(chance: Random) -> tuple[list[str], str, bytes | None, bool]:
    """Header lines, the body as it is sent, what it means, and whether it is complete."""
    kind = chance.randrange(12)
    smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    if kind < 4:
        return [], "", b"", True
    if kind < 6:
        text = chance.choice(["hello", smuggled, "0\r\n\r\n" + smuggled, "x" * 3000])
        return [f"Content-Length: {len(text)}"], text, text.encode(), True
    if kind < 8:
        pieces = chance.choices(["hello", smuggled, "0\r\n\r\n", "x" * 1000], k=chance.randint(0, 4))
        sized = "".join(
            f"{chance.choice(['', '0', '000'])}{len(one):{chance.choice('xX')}}\r\n{one}\r\n" for one in pieces
        )
        trailer = chance.choice(["", "", "X-T: b\r\n", "X-Forwarded-User: root\r\n"])
        return ["Transfer-Encoding: chunked"], sized + "0\r\n" + trailer + "\r\n", "".join(pieces).encode(), True
    if kind == 8:
        return ["Transfer-Encoding: chunked"], chance.choice(_CHUNK_ODDITIES), None, True
    if kind == 9:
        return [chance.choice(["Content-Length: 99999", "Transfer-Encoding: chunked"])], "FFFF\r\nhello", None, False
    return (
        [chance.choice(_AMBIGUOUS)],
        chance.choice(["hello", "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n" + smuggled]),
        None,
        True,
    )
