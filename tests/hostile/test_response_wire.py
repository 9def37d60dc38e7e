"""What an upstream says: nonsense is 502, half an answer never looks whole, and none is given to another (F)."""

from __future__ import annotations

import time

import pytest

from tests.hostile.wire import HASTE, HASTY, Line, Wire, head
from tests.peers.recording_upstream import Arrived, Incoming, saying

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"

NONSENSE: dict[str, bytes] = {
    "F1 length and coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    "F1 coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + HELLO,
    "F1 two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "F1 a list of lengths": OK + b"Content-Length: 5, 6\r\n\r\nhello!",
    "F1 a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "F1 a length with a sign": OK + b"Content-Length: +5\r\n\r\nhello",
    "F1 a length that is none": OK + b"Content-Length: five\r\n\r\nhello",
    "F1 an empty length": OK + b"Content-Length:\r\n\r\nhello",
    "F1 an endless length": OK + b"Content-Length: 36893488147419103232\r\n\r\nhello",
    "F1 NUL in a value": OK + b"X-A: b\x00c\r\nContent-Length: 5\r\n\r\nhello",
    "F1 NUL in a name": OK + b"X\x00A: b\r\nContent-Length: 5\r\n\r\nhello",
    "F1 a control in a value": OK + b"X-A: b\x01c\r\nContent-Length: 5\r\n\r\nhello",
    "F1 CR in a value": OK + b"X-A: b\rc: d\r\nContent-Length: 5\r\n\r\nhello",
    "F1 space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "F1 a name with a space": OK + b"X A: b\r\nContent-Length: 5\r\n\r\nhello",
    "F1 no colon": OK + b"X-A b\r\nContent-Length: 5\r\n\r\nhello",
    "F1 no name": OK + b": b\r\nContent-Length: 5\r\n\r\nhello",
    "F1 no status line": b"Content-Length: 5\r\n\r\nhello",
    "F1 a request": b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
    "F1 no number": b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F1 a status of four digits": b"HTTP/1.1 1000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F1 a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F1 HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F1 HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F1 another protocol": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n",
    "F1 nothing": b"",
    "F2 xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + HELLO,
    "F2 gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + HELLO,
    "F2 identity": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "F2 twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    "F2 empty": OK + b"Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
    "F2 HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    "F3 099": b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F3 000": b"HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F3 600": b"HTTP/1.1 600 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F3 999": b"HTTP/1.1 999 OK\r\nContent-Length: 5\r\n\r\nhello",
    "F3 an interim answer and no more": b"HTTP/1.1 100 Continue\r\n\r\n",
    "F3 199 and no more": b"HTTP/1.1 199 x\r\n\r\n",
    "F5 101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "F5 101 without a word": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "F12 a head of 1 MB": OK + b"X-A: " + b"b" * 1_000_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
    "F12 10,000 fields": OK + b"X-A: b\r\n" * 10_000 + b"Content-Length: 5\r\n\r\nhello",
    "F12 a reason of 1 MB": b"HTTP/1.1 200 " + b"O" * 1_000_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
}  # fmt: skip


def still_right(wire: Wire, target: str = "/public/after") -> None:
    """Whoever comes next is given its own answer, and what the upstream said before is not in it."""
    for number in range(3):
        with wire.line() as line:
            line.send(head(target=f"{target}?{number}"))
            assert line.reply().body == f"{target}?{number}".encode()


@pytest.mark.parametrize("name", NONSENSE)
def test_f1_f2_f3_f5_f12_nonsense_is_502(wire: Wire, name: str) -> None:
    """In our words, before a byte of it reaches the client; the upstream's connection is not used again."""
    wire.upstream.on["/public/x"] = saying(NONSENSE[name], then="close")
    mark = wire.mark()
    with wire.line() as line:
        line.send(head())
        reply = line.reply()
        assert (reply.status, reply.get("Authproxy-Refusal")) == (502, b"upstream_bad_response"), reply
        assert b"hello" not in reply.body
        line.send(head(target="/public/kept"))  # nothing was wrong with the client
        kept = line.reply()
    assert kept.body == b"/public/kept"
    arrived, records = wire.settled(mark, reply, kept)
    asked = [one.target for one in arrived]
    assert asked in (["/public/x", "/public/kept"], ["/public/x", "/public/x", "/public/kept"])  # a GET may be repeated
    assert len({one.connection for one in arrived}) == len(asked)
    assert [one["status"] for one in records] == [502, 200]


@pytest.mark.parametrize(
    "name", [name for name in NONSENSE if not name.startswith(("F12", "F3 an", "F3 199", "F1 no"))]
)
def test_f1_f2_f3_f5_a_connection_after_nonsense_is_not_used_again(wire: Wire, name: str) -> None:
    """Also when the upstream would keep it: we close it."""
    wire.upstream.on["/public/x"] = saying(NONSENSE[name], then="hang")
    with wire.line() as line:
        line.send(head(host=HASTY))
        assert line.reply().status in (502, 504)
    (asked,) = [one for one in wire.upstream.connections if one.number == wire.upstream.to("/public/x")[-1].connection]
    assert wire.upstream.wait(lambda: asked.over)
    still_right(wire)


@pytest.mark.parametrize("reason", [b"", b"All \xe4 well", b"\xff", b"x" * 200, b"Not Found", b"200 OK"], ids=repr)
def test_f3_the_reason_is_the_standard_phrase(wire: Wire, reason: bytes) -> None:
    """Whatever the upstream wrote there; or the answer is 502."""
    wire.upstream.on["/public/x"] = saying(b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 5\r\n\r\nhello")
    with wire.line() as line:
        line.send(head())
        reply = line.reply()
    assert reply.head.split(b"\r\n")[0] in (b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway")


@pytest.mark.parametrize("control", [b"\x00", b"\x01", b"\x1b[31m", b"\r", b"\x7f"], ids=repr)
def test_f3_a_control_in_the_reason_reaches_nobody(wire: Wire, control: bytes) -> None:
    """The client is answered, and by clean bytes."""
    response = b"HTTP/1.1 200 O" + control + b"K\r\nContent-Length: 5\r\n\r\nhello"
    wire.upstream.on["/public/x"] = saying(response, then="close")
    with wire.line() as line:
        line.send(head())
        reply = line.reply()
    assert reply.head.split(b"\r\n")[0] in (b"HTTP/1.1 200 OK", b"HTTP/1.1 502 Bad Gateway")


# --- answers without a body ---

BODILESS: dict[str, tuple[str, bytes, bytes | None]] = {
    "HEAD with a length": ("HEAD", OK + b"Content-Length: 5\r\n\r\n", b"5"),
    "HEAD with a coding": ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", None),
    "HEAD and a body": ("HEAD", OK + b"Content-Length: 5\r\n\r\nhello", b"5"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
    "204 with a length": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", None),
    "204 with a coding": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO, None),
    "204 and a body": ("GET", b"HTTP/1.1 204 No Content\r\n\r\nhello", None),
    "304 with a length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"5"),
    "304 with a coding": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    "304 and a body": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", b"5"),
    "204 and a whole answer": (
        "GET",
        b"HTTP/1.1 204 No Content\r\n\r\n" + OK + b"Content-Length: 8\r\n\r\npoisoned",
        None,
    ),
}


@pytest.mark.parametrize("name", BODILESS)
def test_f4_no_octet_of_a_body_where_there_is_none(wire: Wire, name: str) -> None:
    """Headers for HEAD and 304 stay; the next answer on either connection is the right one."""
    method, response, length = BODILESS[name]
    wire.upstream.on["/public/x"] = saying(response)
    with wire.line() as line:
        line.send(head(method=method))
        reply = line.reply(method)
        assert reply.status == 502 or reply.get("Content-Length") in (length, None)
        assert reply.status == 502 or reply.get("Transfer-Encoding") in (None, b"chunked" if method == "HEAD" else None)
        line.send(head(target="/public/next"))
        assert line.reply().body == b"/public/next"
    still_right(wire)


def test_f4_205_has_no_body(wire: Wire) -> None:
    """Whatever the upstream adds: at most an empty one (RFC 9110 section 15.3.6)."""
    wire.upstream.on["/public/x"] = saying(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
    with wire.line() as line:
        line.send(head())
        assert (line.reply().status, line.heard) == (205, b"")
    still_right(wire)


# --- more than one answer ---


@pytest.mark.parametrize(
    "interim", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </a.css>", b"199 x"]
)
def test_f5_interim_answers_are_no_answer(wire: Wire, interim: bytes) -> None:
    """They are dropped or passed on as what they are; the answer is the one that follows."""
    response = (b"HTTP/1.1 " + interim + b"\r\n\r\n") * 3 + OK + b"Content-Length: 5\r\n\r\nhello"
    wire.upstream.on["/public/x"] = saying(response)
    with wire.line() as line:
        line.send(head())
        while (reply := line.reply()).status < 200:
            pass
        assert (reply.status, reply.body) == (200, b"hello")
    still_right(wire)


FLOODS = {"2,000 of them": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 2000}


@pytest.mark.parametrize("name", FLOODS)
def test_f5_interim_answers_are_bounded(wire: Wire, name: str) -> None:
    """502 when they do not end."""
    wire.upstream.on["/public/x"] = saying(FLOODS[name] + OK + b"Content-Length: 5\r\n\r\nhello")
    with wire.line() as line:
        line.send(head())
        while (reply := line.reply()).status < 200:
            pass
        assert reply.status == 502


EXTRA = {
    f"{name}, {when}": (extra, when == "later")
    for when in ("at once", "later")
    for name, extra in (
        ("one octet", b"x"), ("an empty line", b"\r\n"), ("an answer", OK + b"Content-Length: 8\r\n\r\npoisoned"),
        ("last chunks", b"0\r\n\r\n" * 10), ("100 KB", b"\x00" * 99999),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRA)
def test_f6_what_follows_an_answer_is_nobodys(wire: Wire, name: str) -> None:
    """The connection is not used again, and nobody is given what came behind (request splitting, poisoned pools)."""
    extra, apart = EXTRA[name]

    def more(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(incoming.whole(head))
        whole = OK + b"Content-Length: 5\r\n\r\nhello"
        incoming.say(whole if apart else whole + extra)
        if apart:
            time.sleep(0.05)  # the answer is through, and the connection rests
            incoming.say(extra)
        return True

    wire.upstream.on["/public/x"] = more
    wire.upstream.hang_up()
    try:
        with wire.line() as line:
            line.send(head())
            reply = line.reply()
            assert (reply.status, reply.body) == (200, b"hello") or (reply.status == 502 and not apart)
            if apart:
                time.sleep(0.1)  # nothing else says that it has arrived
        still_right(wire)
    finally:
        wire.upstream.hang_up()  # whatever this left behind is not for the next test


# --- half an answer ---

HALF: dict[str, bytes] = {
    "sized": OK + b"Content-Length: 100\r\n\r\nhello",
    "chunked, between chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "chunked, inside a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhello",
    "chunked, before the last line": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "a bad chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nG\r\n\r\n0\r\n\r\n",
    "a chunk too long": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    "a chunk without end": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nFFFFFFFFFFFFFFFFF\r\nx",
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("name", HALF)
def test_f7_half_an_answer_never_looks_whole(wire: Wire, name: str, then: str) -> None:
    """502, or a message that breaks off: too short for its length, or without its last chunk."""
    wire.upstream.on["/public/x"] = saying(HALF[name], then=then)
    mark = wire.mark()
    with wire.line() as line:
        line.send(head())
        heard = line.rest() if b" 502 " not in _first(line) else b""
    assert not heard.endswith(b"0\r\n\r\n")
    assert heard.count(b"HTTP/1.1 ") <= 1
    wire.settled(mark)


def _first(line: Line) -> bytes:
    while b"\r\n\r\n" not in line.heard and line.more():
        pass
    return line.heard.partition(b"\r\n")[0]


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_f7_an_answer_without_length_that_is_reset(wire: Wire, version: str) -> None:
    """Its end is the end of the connection: a reset must not become an orderly close, nor a last chunk."""

    def reset(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(incoming.whole(head))
        incoming.say(b"HTTP/1.0 200 OK\r\n\r\nhello")
        time.sleep(0.1)  # a reset at once would take the answer with it
        incoming.reset()
        return False

    wire.upstream.on["/public/x"] = reset
    with wire.line() as line:
        line.send(head(version=version))
        while not line.heard.endswith(b"0\r\n\r\n") and line.more():
            pass
        whole = line.heard.endswith(b"0\r\n\r\n") if version == "HTTP/1.1" else line.ended == "close"
    assert not whole


# --- time ---


def test_f8_no_answer_in_time_is_504(wire: Wire) -> None:
    """In our words; the upstream's connection is closed."""
    wire.upstream.on["/public/x"] = saying(b"", then="hang")
    with wire.line() as line:
        line.send(head(host=HASTY))
        reply = line.reply()
    assert (reply.status, reply.get("Authproxy-Refusal")) == (504, b"upstream_timeout")
    assert wire.upstream.wait(lambda: wire.upstream.connections[wire.upstream.to("/public/x")[-1].connection].over)


@pytest.mark.parametrize("start", [OK + b"Content-Len", OK + b"Content-Length: 99\r\n\r\nhello"], ids=["head", "body"])
def test_f8_an_answer_that_stops_is_cut(wire: Wire, start: bytes) -> None:
    """504 inside the head; inside the body the client's connection breaks off."""
    wire.upstream.on["/public/x"] = saying(start, then="hang")
    with wire.line() as line:
        line.send(head(host=HASTY))
        if b" 504 " not in _first(line):
            heard = line.rest()
            assert heard.endswith(b"hello")


def test_f8_a_stream_may_take_its_time(wire: Wire) -> None:
    """What keeps talking is not cut, though all of it takes longer than an answer may be awaited."""

    def events(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(incoming.whole(head))
        incoming.say(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            time.sleep(HASTE / 8)
            incoming.say(b"7\r\ndata:1\n\r\n")
        return incoming.say(b"0\r\n\r\n")

    wire.upstream.on["/public/x"] = events
    with wire.line() as line:
        line.send(head(host=HASTY))
        assert line.reply().body == b"data:1\n" * 12
