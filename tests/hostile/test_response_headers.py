"""What passes of an answer, what is not told, and what we say ourselves (F9-F11, F13-F16)."""

from __future__ import annotations

import pytest

from tests.hostile.test_response_wire import OK, still_right
from tests.hostile.wire import BEARER, Wire, head
from tests.peers.recording_upstream import Script, echo, saying


def answered(wire: Wire, *lines: bytes, request: bytes = b"", script: Script | None = None) -> dict[str, list[bytes]]:
    """The headers that the client gets of these, by lower-case name."""
    wire.upstream.on["/public/x"] = wire.upstream.on["/guarded"] = script or saying(
        OK + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 5\r\n\r\nhello"
    )
    with wire.line() as line:
        line.send(request or head())
        reply = line.reply()
    assert (reply.status, reply.body) == (200, b"hello")
    found: dict[str, list[bytes]] = {}
    for name, value in reply.headers:
        found.setdefault(name.lower().decode(), []).append(value)
    return found


def test_f9_f15_an_answer_passes_as_it_came(wire: Wire) -> None:
    """Duplicates, order, odd attributes, Server and Date of the upstream; nothing of ours but the request id."""
    cookies = [b"a=1", b'a=2; Path=/; Odd="x, y"; Partitioned', b"b=; Max-Age=-1", b"c", b"d=\xe4; SameSite=Nope"]
    sent = [
        *(b"Set-Cookie: " + one for one in cookies), b"Server: Odd/1", b"Date: Sat, 01 Jan 2000 00:00:00 GMT",
        b"X-A: 1", b"x-a: 2", b"Content-Type: text/html", b"Content-Type: text/plain", b"X-Empty:", b"X-Raw: \xe4\xff",
        b"Location: http://10.0.0.1/internal", b"Alt-Svc: h3", b"Strict-Transport-Security: max-age=1",
        b"Content-Encoding: br", b"Vary: Accept-Encoding", b"Via: 1.0 b", b"Refresh: 1; url=http://10.0.0.1/",
    ]  # fmt: skip
    found = answered(wire, *sent)
    assert found["set-cookie"] == cookies
    assert (found["server"], found["date"]) == ([b"Odd/1"], [b"Sat, 01 Jan 2000 00:00:00 GMT"])
    assert (found["x-a"], found["content-type"]) == ([b"1", b"2"], [b"text/html", b"text/plain"])
    assert (found["x-empty"], found["x-raw"], found["location"]) == (
        [b""],
        [b"\xe4\xff"],
        [b"http://10.0.0.1/internal"],
    )
    names = {line.partition(b":")[0].lower().decode() for line in sent}
    assert found.keys() - names == {"x-request-id", "content-length"}
    assert names <= found.keys()


def test_f10_a_compressed_body_passes_untouched(wire: Wire) -> None:
    """Octets that are no valid coding at all prove that nobody looks inside."""
    body = bytes(range(256)) * 40
    response = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    wire.upstream.on["/public/x"] = saying(response)
    with wire.line() as line:
        line.send(head("Accept-Encoding: gzip"))
        reply = line.reply()
    assert (reply.body, reply.get("Content-Encoding")) == (body, b"gzip")


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: X-A", b"Keep-Alive: timeout=5", b"Proxy-Authenticate: Basic", b"Proxy-Connection: keep-alive",
        b"Trailer: X-A", b"Upgrade: h2c", b"TE: x", b"X-Auth-Request-User: root", b"X-Auth-Request-Groups: a",
        b"Authproxy-Refusal: not_allowed", b"X-Authproxy-Secret: x", b"X_Auth_Request_User: root",
        b"HTTP2-Settings: x", b"Proxy-Authentication-Info: x", b"Set-Cookie: authproxy=x",
        b"Set-Cookie: __Host-authproxy=x",
    ],
)  # fmt: skip
def test_f11_what_an_upstream_may_not_say_is_not_told(wire: Wire, line: bytes) -> None:
    """This hop's fields, those that Connection names, and what only we say."""
    found = answered(
        wire, line, b"X-A: b" if line.startswith(b"Connection:") else b"X-Other: b", b"X-Request-Id: theirs"
    )
    name, _, value = line.partition(b": ")
    assert value not in found.get(name.decode().lower(), [])
    assert "x-a" not in found
    assert found["x-request-id"] != [b"theirs"]
    assert len(found["x-request-id"]) == 1


def test_f11_a_trailer_of_an_answer_is_not_merged(wire: Wire) -> None:
    """What follows the body never becomes a header."""
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSet-Cookie: a=b\r\n\r\n"
    found = answered(wire, script=saying(chunked))
    assert "set-cookie" not in found
    still_right(wire)


def test_f13_what_is_somebodys_own_is_private(wire: Wire) -> None:
    """Without a word of the upstream on caching; its own word stands; nobody is told to keep a refusal."""
    guarded = head(BEARER, target="/guarded")
    assert answered(wire, request=guarded)["cache-control"] == [b"private"]
    assert answered(wire, b"Cache-Control: public, max-age=60", request=guarded)["cache-control"] == [
        b"public, max-age=60"
    ]
    assert "cache-control" not in answered(wire)
    assert wire.refused(head(target="/guarded"), status=(401,), closes=False).get("Cache-Control") == b"no-store"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f14_a_redirect_is_for_the_client(wire: Wire, status: int) -> None:
    """It is passed on, and never followed."""
    place = f"{wire.upstream.url}/public/elsewhere".encode()
    wire.upstream.on["/public/x"] = saying(
        b"HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, place)
    )
    reply, _ = wire.passed(head(BEARER), status=status)
    assert reply.get("Location") == place


def test_f15_f16_our_own_answers_say_little(wire: Wire) -> None:
    """No banner, no word of what was sent, no word of what we are made of."""
    for sent in (
        b"\x16\x03canary\r\n\r\n",
        head("X-A: canary\x00"),
        head(host="canary.example.org"),
        head(target="/canary"),
    ):
        reply = wire.refused(sent, status=(400, 401, 404), closes=False)
        assert reply.all("Server") == []
        said = reply.head + reply.body
        assert not any(
            word in said.lower() for word in (b"canary", b"aiohttp", b"python", b"llhttp", b"error:", b"line ")
        )


def test_scripts_are_forgotten(wire: Wire) -> None:
    """What one test told the upstream does not reach the next."""
    assert (wire.upstream.on, wire.upstream.default) == ({}, echo)
