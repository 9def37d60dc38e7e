"""Upgrades: judged like every request, opened by a 101 alone, and never a way past us (G2-G8, G10, G11)."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from tests.hostile.wire import BEARER, DEAD, HASTY, HOST, SECOND, Line, Wire, head
from tests.peers.program import PATIENCE
from tests.peers.recording_upstream import Arrived, Incoming, Script, saying

ASKED = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
FIVE = b"Content-Length: 5\r\n\r\nhello"
SMUGGLED = head(target="/public/smuggled")
MEGABYTE = 1 << 20


def switching(protocol: bytes = b"websocket", greeting: bytes = b"") -> Script:
    """Opens the tunnel, says ``greeting`` and echoes."""

    def script(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(head)
        incoming.say(SWITCH % protocol + greeting)
        at = incoming.at  # what came with the head belongs to the tunnel
        while len(incoming.raw) > at or incoming.take():
            incoming.say(bytes(incoming.raw[at:]))
            at = len(incoming.raw)
        return False

    return script


def opened(wire: Wire, line: Line, *lines: str, target: str = "/public/x", protocol: bytes = b"websocket") -> None:
    """The 101 has reached the client."""
    line.send(head(*(lines or ASKED), target=target))
    reply = line.reply()
    assert (reply.status, reply.get("Upgrade")) == (101, protocol), reply


UNJUDGED = {
    "nobody is known": (head(*ASKED, target="/guarded"), (401,)),
    "a wrong token": (head(*ASKED, "Authorization: Bearer x", target="/guarded"), (401,)),
    "not allowed": (head(*ASKED, BEARER, target="/forbidden/x"), (403,)),
    "from another site": (head(*ASKED, "Origin: https://evil.example.org", target="/guarded"), (401,)),
    "no app": (head(*ASKED, host="none.example.com"), (404,)),
    "a doubtful path": (head(*ASKED, target="/public/../guarded"), (400,)),
    "SPDY": (head("Connection: Upgrade", "Upgrade: SPDY/3.1", method="POST", target="/guarded"), (401,)),
}


@pytest.mark.parametrize("name", UNJUDGED)
@pytest.mark.parametrize(
    "early", [b"", SMUGGLED, b"\x81\x85abcdhello"], ids=["", "a request behind it", "a frame behind it"]
)
def test_g2_an_upgrade_is_judged_like_every_request(wire: Wire, name: str, early: bytes) -> None:
    """401, 403, 404 or 400, and nothing is opened at the upstream; what follows is neither a request nor a frame."""
    sent, status = UNJUDGED[name]
    connections = len(wire.upstream.connections)
    wire.refused(sent + early, status=status)
    assert len(wire.upstream.connections) - connections <= 1  # the next client's


ANSWERS = {
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "200 that claims to switch": (SWITCH % b"websocket").replace(b"101", b"200")[:-2] + FIVE,
    "401": b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nhello",
    "302": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 5\r\n\r\nhello",
    "426": (SWITCH % b"websocket").replace(b"101", b"426")[:-2] + FIVE,
    "500": b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nhello",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_g4_another_answer_is_an_answer_and_no_tunnel(wire: Wire, name: str) -> None:
    """It is relayed; nothing that the client says then reaches the upstream (CVE-2024-23326)."""
    wire.upstream.on["/public/x"] = saying(ANSWERS[name], then="hang")
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(*ASKED))
        reply = line.reply()
        assert str(reply.status) in ANSWERS[name][9:12].decode()
        assert reply.all("Upgrade") == []
        line.send(SMUGGLED)
        line.rest()
    arrived, _ = wire.settled(mark)
    assert [one.target for one in arrived] == ["/public/x"]
    assert b"smuggled" not in wire.upstream.connections[arrived[0].connection].raw


BAD_SWITCH = {
    "another protocol": SWITCH % b"foo",
    "none": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    "two": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: foo\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_SWITCH)
def test_g4_a_switch_to_something_else_is_502(wire: Wire, name: str) -> None:
    """Only a 101 for what was asked opens the tunnel."""
    wire.upstream.on["/public/x"] = saying(BAD_SWITCH[name], then="close")
    with wire.line() as line:
        line.send(head(*ASKED))
        reply = line.reply()
        assert (reply.status, reply.get("Authproxy-Refusal")) == (502, b"upstream_bad_response")
        assert line.rest() == b""


@pytest.mark.parametrize(("host", "status"), [(DEAD, 502), (HASTY, 504)])
def test_g4_an_upstream_that_is_away_or_silent(wire: Wire, host: str, status: int) -> None:
    """502 and 504 as for every request, and the end of the connection."""
    wire.upstream.on["/public/x"] = saying(b"", then="hang")
    with wire.line() as line:
        line.send(head(*ASKED, host=host))
        assert line.reply().status == status
        assert line.rest() == b""


EARLY = {
    f"{protocol}, {when}, {what}": (protocol, when == "before the 101", early)
    for protocol in ("websocket", "SPDY/3.1")
    for when in ("same segment", "before the 101")
    for what, early in (("request", SMUGGLED), ("octet", b"x"), ("frame", b"\x81\x85abcdhello"), ("line", b"\r\n"))
}


@pytest.mark.parametrize("name", EARLY)
def test_g5_what_comes_before_the_101_is_nobodys(wire: Wire, name: str) -> None:
    """It is never parsed as a request and never sent on a shared connection (CVE-2025-64763, CVE-2026-73548).

    The tunnel may carry it, as its first octets, or the connection ends.
    """
    protocol, apart, early = EARLY[name]

    def late(incoming: Incoming, head: Arrived) -> bool:
        time.sleep(0.1 if apart else 0.0)  # so that the early octets are there before the 101
        return switching(protocol.encode())(incoming, head)

    wire.upstream.on["/public/x"] = late
    mark = wire.mark()
    sent = head("Connection: Upgrade", f"Upgrade: {protocol}")
    with wire.line() as line:
        line.send(*((sent, early) if apart else (sent + early,)))
        with contextlib.suppress(EOFError):
            reply = line.reply()
            assert reply.status in (101, 400, 502)
            if reply.status == 101:
                line.sock.settimeout(PATIENCE)
                assert line.take(len(early)) == early, "lost, or something else in its place"
            else:
                assert line.rest() == b""
        assert line.heard == b""
    arrived, _ = wire.settled(mark)
    assert [one.target for one in arrived] in ([], ["/public/x"])
    assert all(one.target != "/public/smuggled" for one in wire.upstream.requests)
    carriers = [one for one in wire.upstream.connections[mark.connections :] if b"smuggled" in one.raw]
    assert all(one.raw.count(b"HTTP/1.1\r\nHost:") == 2 for one in carriers)  # inside the tunnel's own connection alone


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1", "foo"])
def test_g6_an_upgrade_with_a_body_is_one_request(wire: Wire, protocol: str) -> None:
    """Whether it is refused or declined: its body is no request; what follows is answered once or not at all."""
    mark = wire.mark()
    with wire.line() as line:
        size = f"Content-Length: {len(SMUGGLED)}"
        line.send(head("Connection: Upgrade", f"Upgrade: {protocol}", size, method="POST") + SMUGGLED + SECOND)
        assert line.reply().status in (200, 400, 401, 502)
        with contextlib.suppress(TimeoutError):
            line.sock.settimeout(1.0)
            line.rest()
        assert line.heard.count(b"HTTP/1.1 ") <= 1
    targets = [one.target for one in wire.settled(mark)[0]]
    assert targets in ([], ["/public/x"], ["/public/x", "/public/second"])


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1", "foo", "h2c"])
@pytest.mark.parametrize("apart", [False, True], ids=["same segment", "later"])
def test_g6_nobody_hangs_behind_a_declined_upgrade(wire: Wire, protocol: str, apart: bool) -> None:
    """A request behind it is answered, or the connection ends; it is never lost."""
    mark = wire.mark()
    with wire.line() as line:
        first = head("Connection: Upgrade", f"Upgrade: {protocol}")
        line.send(*((first, SECOND) if apart else (first + SECOND,)))
        try:
            assert line.reply().status in (200, 400, 502)
            assert line.reply().body == b"/public/second"
        except EOFError:
            pass
    targets = [one.target for one in wire.settled(mark)[0]]
    assert targets in ([], ["/public/x"], ["/public/x", "/public/second"])


IGNORED = {
    "G7 h2c": (["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"], "HTTP/1.1"),
    "G7 h2c without settings": (["Connection: Upgrade", "Upgrade: h2c"], "HTTP/1.1"),
    "G7 H2C": (["Connection: upgrade", "Upgrade: H2C"], "HTTP/1.1"),
    "G7 h2": (["Connection: upgrade", "Upgrade: h2"], "HTTP/1.1"),
    "G7 HTTP/2.0": (["Connection: upgrade", "Upgrade: HTTP/2.0"], "HTTP/1.1"),
    "G7 TLS": (["Connection: upgrade", "Upgrade: TLS/1.0"], "HTTP/1.1"),
    "G8 HTTP/1.0": (["Connection: Upgrade", "Upgrade: websocket"], "HTTP/1.0"),
    "G8 not in Connection": (["Upgrade: websocket"], "HTTP/1.1"),
    "G8 a longer word in Connection": (["Connection: notupgrade", "Upgrade: websocket"], "HTTP/1.1"),
    "G8 a word with a dash": (["Connection: upgrade-insecure", "Upgrade: websocket"], "HTTP/1.1"),
    "G8 keep-alive": (["Connection: keep-alive", "Upgrade: websocket"], "HTTP/1.1"),
    "G8 a list": (["Connection: Upgrade", "Upgrade: a, websocket"], "HTTP/1.1"),
    "G8 two lines": (["Connection: Upgrade", "Upgrade: a", "Upgrade: websocket"], "HTTP/1.1"),
    "G8 empty": (["Connection: Upgrade", "Upgrade:"], "HTTP/1.1"),
    "G8 no token": (["Connection: Upgrade", "Upgrade: web socket"], "HTTP/1.1"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_g7_g8_an_upgrade_that_is_none_is_an_ordinary_request(wire: Wire, name: str) -> None:
    """The upstream hears nothing of it, so that nothing can pass inside; a 101 all the same is 502."""
    lines, version = IGNORED[name]
    _, arrived = wire.passed(head(*lines, version=version))
    assert not {b"upgrade", b"http2-settings"} & arrived.folded().keys()
    wire.upstream.on["/public/x"] = switching(b"h2c" if "G7" in name else b"websocket")
    with wire.line() as line:
        line.send(head(*lines, version=version))
        assert line.reply().status == 502


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1", "foo"])
def test_g10_what_goes_through_a_tunnel_is_not_touched(wire: Wire, protocol: str) -> None:
    """Every octet both ways, whatever it means to the protocol; an extension is the ends' own affair."""
    wire.upstream.on["/public/x"] = switching(protocol.encode(), b"\x82\x02hi")
    frames = bytes(range(256)) * 64 + b"\x89\x84abcdping" + SMUGGLED + os.urandom(100_000)
    with wire.line() as line:
        deflate = "Sec-WebSocket-Extensions: permessage-deflate; x=1"
        opened(wire, line, "Connection: Upgrade", f"Upgrade: {protocol}", deflate, protocol=protocol.encode())
        assert line.take(4) == b"\x82\x02hi"
        line.send(frames[:1000], frames[1000:])
        assert line.take(len(frames)) == frames
    arrived = wire.upstream.to("/public/x")[-1]
    assert arrived.all("Sec-WebSocket-Extensions") == [b"permessage-deflate; x=1"]
    assert wire.upstream.wait(lambda: wire.upstream.connections[arrived.connection].over)


def test_g10_a_tunnel_may_be_idle_longer_than_an_answer(wire: Wire) -> None:
    """The time that an upstream has for an answer does not run in a tunnel."""
    wire.upstream.on["/public/x"] = switching()
    with wire.line() as line:
        line.send(head(*ASKED, host=HASTY))
        assert line.reply().status == 101
        assert line.quiet(1.0)
        line.send(b"still here")
        assert line.take(10) == b"still here"


def test_g10_the_half_of_a_tunnel_may_end(wire: Wire) -> None:
    """A client that sends no more still receives everything; then both ends close."""
    wire.upstream.on["/public/x"] = switching(b"SPDY/3.1")
    with wire.line() as line:
        opened(wire, line, "Connection: Upgrade", "Upgrade: SPDY/3.1", protocol=b"SPDY/3.1")
        line.send(b"x" * MEGABYTE)
        line.end()
        assert line.rest() == b"x" * MEGABYTE


@pytest.mark.parametrize("slow", ["client", "upstream"])
def test_g11_a_tunnel_holds_little(wire: Wire, slow: str) -> None:
    """Whoever is fast is slowed down: of 64 MiB a few are held, and the proxy does not grow."""
    flood = 64

    def flooding(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(head)
        incoming.sock.settimeout(1.0)
        incoming.say(SWITCH % b"websocket")
        with contextlib.suppress(TimeoutError):
            for _ in range(flood if slow == "client" else 0):
                if not incoming.say(b"x" * MEGABYTE):
                    break
        ended.append(incoming.sent)
        with incoming.upstream.news:
            incoming.upstream.news.notify_all()
            incoming.upstream.news.wait_for(lambda: incoming.upstream.on == {}, PATIENCE)
        return False

    ended: list[int] = []
    wire.upstream.on["/public/x"] = flooding
    before = wire.memory()
    with wire.line(buffer=65536) as line:
        opened(wire, line)
        taken = 0
        if slow == "upstream":
            line.sock.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                for _ in range(flood * 16):
                    taken += line.sock.send(b"x" * 65536)
        else:
            assert wire.upstream.wait(lambda: bool(ended))
            taken = ended[0]
        assert taken < flood * MEGABYTE / 2
        assert wire.memory() - before < 24 * MEGABYTE
    wire.upstream.on.clear()
    with wire.upstream.news:
        wire.upstream.news.notify_all()


def test_g12_a_tunnel_of_one_client_is_nobody_elses(wire: Wire) -> None:
    """Each has an upstream connection of its own, which is closed with it and never used for a request again."""
    wire.upstream.on["/public/x"] = switching()
    with wire.line() as one, wire.line() as two:
        for line in (one, two):
            opened(wire, line)
        one.send(b"one")
        two.send(b"two")
        assert (one.take(3), two.take(3)) == (b"one", b"two")
    used = [arrived.connection for arrived in wire.upstream.to("/public/x")[-2:]]
    assert wire.upstream.wait(lambda: all(wire.upstream.connections[number].over for number in used))
    assert len(set(used)) == 2
    assert HOST in wire.upstream.to("/public/x")[-1].raw.decode("latin-1")
