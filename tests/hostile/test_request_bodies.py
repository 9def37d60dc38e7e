"""Bodies: asked for only after the decision, whole or not at all, and never taken for a request (E26-E30, E33-E37)."""

from __future__ import annotations

import gzip
import time

import pytest

from tests.hostile.wire import BEARER, DEAD, HASTE, HOST, READ_ONLY, SECOND, Wire, head
from tests.peers.program import PATIENCE
from tests.peers.recording_upstream import Arrived, Incoming

EXPECT = "Expect: 100-continue"
SIZED = "Content-Length: 5"
CHUNKED = "Transfer-Encoding: chunked"
FIVE = b"5\r\nhello\r\n0\r\n\r\n"


# --- Expect ---

UNWANTED = {
    "E26 nobody is known": (head(EXPECT, SIZED, method="POST", target="/guarded"), 401),
    "E26 a wrong token": (head(EXPECT, SIZED, "Authorization: Bearer x", method="POST", target="/guarded"), 401),
    "E26 not allowed": (head(EXPECT, SIZED, BEARER, method="POST", target="/written/x"), 403),
    "E26 no app": (head(EXPECT, SIZED, method="POST", host="none.example.com"), 404),
    "E26 a doubtful path": (head(EXPECT, SIZED, method="POST", target="/public/../x"), 400),
    "E26 chunked": (head(EXPECT, CHUNKED, method="POST", target="/guarded"), 401),
    "E26 a page of ours": (head(EXPECT, SIZED, method="POST", target="/oauth2/nothing"), 404),
    "E26 a method that is not served": (head(EXPECT, SIZED, method="POST", host=READ_ONLY), 405),
}


@pytest.mark.parametrize("name", UNWANTED)
def test_e26_a_body_that_is_not_wanted_is_not_asked_for(wire: Wire, name: str) -> None:
    """The refusal comes alone, without 100; the connection ends, so that a body that comes anyway is no request."""
    sent, status = UNWANTED[name]
    wire.refused(sent, SECOND, status=(status,))


def test_e27_nobody_is_asked_for_what_nobody_can_take(wire: Wire) -> None:
    """502 without 100 when the upstream is away."""
    with wire.line() as line:
        line.send(head(EXPECT, SIZED, method="POST", host=DEAD))
        reply = line.reply()
        assert (reply.status, reply.get("Authproxy-Refusal"), reply.closes) == (502, b"upstream_unreachable", True)


@pytest.mark.parametrize("framing", [SIZED, CHUNKED])
@pytest.mark.parametrize("word", ["100-continue", "100-CONTINUE"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_e27_e28_a_body_is_asked_for_once(wire: Wire, framing: str, word: str, version: str) -> None:
    """100 after the decision, then the answer; HTTP/1.0 never hears 100; the upstream is not asked to wait."""
    if (framing, version) == (CHUNKED, "HTTP/1.0"):
        return
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(f"Expect: {word}", framing, method="POST", version=version))
        if version == "HTTP/1.1":
            assert line.reply().status == 100
        line.send(b"hello" if framing == SIZED else FIVE)
        assert line.reply().status == 200
    (arrived,) = wire.settled(mark)[0]
    assert (arrived.body, arrived.all("Expect")) == (b"hello", [])


@pytest.mark.parametrize("framing", [SIZED, CHUNKED])
def test_e27_a_client_need_not_wait(wire: Wire, framing: str) -> None:
    """A body that comes with its head is taken; the connection stays in step."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(EXPECT, framing, method="POST") + (b"hello" if framing == SIZED else FIVE) + SECOND)
        statuses = [line.reply().status]
        if statuses == [100]:
            statuses.append(line.reply().status)
        assert statuses[-1] == 200
        assert line.reply().body == b"/public/second"
    assert [one.body for one in wire.settled(mark)[0]] == [b"hello", b""]


@pytest.mark.parametrize(
    "lines",
    [
        ["Expect: a miracle"], ["Expect: 100-continue, a miracle"], ["Expect: y 100-continue"],
        ["Expect: 100-continue", "Expect: a miracle"], ["Expect: 200-ok"], ["Expect: 100-continue;q=1"],
        ["Expect: 100-continue", "Expect: 100-continue"], ["Expect: 100-continue, 100-continue"], ["Expect: 100"],
    ],
    ids=lambda lines: " + ".join(lines),
)  # fmt: skip
def test_e28_another_expectation_is_417(wire: Wire, lines: list[str]) -> None:
    """It cannot be met; the connection ends, and a body is no request."""
    wire.refused(head(*lines, SIZED, method="POST"), SECOND, status=(400, 417))


@pytest.mark.parametrize("lines", [[EXPECT], [EXPECT, "Content-Length: 0"]], ids=["no length", "no octets"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_e28_where_there_is_no_body_nobody_waits(wire: Wire, method: str, lines: list[str]) -> None:
    """The request is answered at once, and the next one too."""
    with wire.line() as line:
        line.send(head(*lines, method=method))
        reply = line.reply()
        if reply.status == 100:
            reply = line.reply()
        assert (reply.status, reply.body) == (200, b"/public/x")
        line.send(SECOND)
        assert line.reply().body == b"/public/second"


# --- bodies where nobody expects them ---


@pytest.mark.parametrize("framing", [SIZED, CHUNKED])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])
def test_e29_a_body_belongs_to_its_request(wire: Wire, method: str, framing: str) -> None:
    """Whatever the method: it is forwarded with it or refused, and what follows is parsed exactly once."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(framing, method=method) + (b"hello" if framing == SIZED else FIVE) + SECOND)
        assert line.reply(method).status == 200
        assert line.reply().body == b"/public/second"
    arrived = wire.settled(mark)[0]
    assert [(one.method, one.target, one.body) for one in arrived] == [
        (method, "/public/x", b"hello"), ("GET", "/public/second", b""),
    ]  # fmt: skip


SMUGGLED = head(target="/public/smuggled")


@pytest.mark.parametrize(("host", "target", "status"), [(HOST, "/guarded", 401), (READ_ONLY, "/x", 405)])
def test_e30_an_early_answer_never_reads_the_body_as_a_request(wire: Wire, host: str, target: str, status: int) -> None:
    """A refusal while a body of requests is coming: it arrives, and the connection ends after bounded octets."""
    mark, body = wire.mark(), SMUGGLED * 20_000
    with wire.line() as line:
        line.send(head(f"Content-Length: {len(body) * 100}", method="POST", host=host, target=target))
        line.send(SMUGGLED)
        reply = line.reply()
        assert (reply.status, reply.closes) == (status, True)
        line.send(body)
        assert line.rest() == b""
    assert wire.settled(mark)[0] == []


EARLY = {
    "sized": (head("Content-Length: 1000000", method="POST"), SMUGGLED),
    "chunked": (head(CHUNKED, method="POST"), b"5\r\nhello\r\n"),
    "sized, nothing sent yet": (head("Content-Length: 1000000", method="POST"), b""),
    "chunked, nothing sent yet": (head(CHUNKED, method="POST"), b""),
}


@pytest.mark.parametrize("name", EARLY)
def test_e30_an_early_answer_of_the_upstream(wire: Wire, name: str) -> None:
    """413 from the upstream arrives while the client still sends; both connections end, nothing is left over."""

    def early(incoming: Incoming, head: Arrived) -> bool:
        incoming.say(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        return False

    wire.upstream.on["/public/x"] = early
    mark = wire.mark()
    with wire.line(patience=10.0 if "yet" not in name else 1.0) as line:
        line.send(*EARLY[name])
        reply = line.reply()
        assert (reply.status, reply.body) == (413, b"no")
        line.sock.settimeout(PATIENCE)
        line.send(SMUGGLED * 100)
        assert line.rest() == b""
    assert wire.settled(mark)[0] == []


# --- versions, half-closes and pipelines ---


def test_e33_http_1_0_knows_the_end_by_the_close(wire: Wire) -> None:
    """A body of unknown length ends with the connection at once, also where the client asked to keep it."""

    def unsized(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(incoming.whole(head))
        return incoming.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FIVE)

    wire.upstream.on["/public/x"] = unsized
    for lines in ([], ["Connection: keep-alive"]):
        with wire.line() as line:
            line.send(head(*lines, version="HTTP/1.0"))
            reply = line.reply()
            assert (reply.status, reply.body, line.ended) == (200, b"hello", "close")
            assert reply.all("Transfer-Encoding") == []


def test_e33_http_1_0_keeps_what_it_asked_to_keep(wire: Wire) -> None:
    """Where the length is known; without asking, the connection ends."""
    with wire.line() as line:
        line.send(head("Connection: keep-alive", version="HTTP/1.0"))
        assert line.reply().get("Connection") == b"keep-alive"
        line.send(head(version="HTTP/1.0"))
        assert line.reply().body == b"/public/x"
        assert line.rest() == b""


def test_e34_a_client_that_sends_no_more_is_answered_whole_or_not_at_all(wire: Wire) -> None:
    """A half-close behind a whole request: nothing half is told, nothing more is asked, the connection ends."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head())
        line.end()
        heard = line.rest()
    assert heard == b"" or heard.endswith(b"\r\n\r\n/public/x")
    assert [one.target for one in wire.settled(mark)[0]] in ([], ["/public/x"])


def test_e35_a_hundred_requests_in_one_go(wire: Wire) -> None:
    """Each is judged by what it brings itself; the answers come in order, and nobody inherits an identity."""
    known = [number % 3 == 0 for number in range(100)]
    heads = [head(*([BEARER] if known[n] else []), target=f"/guarded/{n}") for n in range(100)]
    mark = wire.mark()
    with wire.line() as line:
        line.send(b"".join(heads))
        replies = [line.reply() for _ in heads]
    assert [reply.status for reply in replies] == [200 if one else 401 for one in known]
    arrived, records = wire.settled(mark, *replies)
    assert [one.target for one in arrived] == [f"/guarded/{n}" for n in range(100) if known[n]]
    assert {value for one in arrived for value in one.all("X-Forwarded-User")} == {b"machine"}
    assert [one["status"] for one in records] == [reply.status for reply in replies]


BROKEN_OFF = {
    "sized": (head("Content-Length: 100000", method="POST"), b"hello" * 10),
    "chunked": (head(CHUNKED, method="POST"), b"5\r\nhello\r\n"),
    "chunked, inside a chunk": (head(CHUNKED, method="POST"), b"64\r\nhello"),
    "chunked, before the last line": (head(CHUNKED, method="POST"), b"5\r\nhello\r\n0\r\n"),
}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("name", BROKEN_OFF)
def test_e36_a_body_that_breaks_off_is_never_made_whole(wire: Wire, name: str, how: str) -> None:
    """The upstream's connection ends inside the body; neither the last chunk nor made-up octets arrive."""
    mark = wire.mark()
    first, second = BROKEN_OFF[name]
    with wire.line() as line:
        line.send(first + second)
        wire.upstream.wait(
            lambda: b"hello" in b"".join(one.raw[-200:] for one in wire.unfinished() if not one.over), 1.0
        )
        getattr(line, how)()
        if how == "end":
            assert line.rest().count(b"HTTP/1.1 2") == 0
    assert wire.upstream.wait(lambda: all(one.over for one in wire.unfinished()))
    assert wire.settled(mark)[0] == []
    assert not any(one.raw.endswith(b"\r\n0\r\n\r\n") for one in wire.unfinished())


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_e37_a_compressed_body_arrives_as_it_was_sent(wire: Wire, framing: str) -> None:
    """Octet for octet, with the header that says so."""
    packed = gzip.compress(b"hello" * 1000)
    if framing == "sized":
        sent = head("Content-Encoding: gzip", f"Content-Length: {len(packed)}", method="POST") + packed
    else:
        sent = head("Content-Encoding: gzip", CHUNKED, method="POST") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    _, arrived = wire.passed(sent)
    assert (arrived.body, arrived.all("Content-Encoding")) == (packed, [b"gzip"])


def test_e41_a_drip_of_a_body_arrives_as_it_comes(wire: Wire) -> None:
    """Slow is not broken: pieces are passed on, and the upstream's patience does not run meanwhile."""
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(CHUNKED, method="POST", host="hasty.example.com"))
        for _ in range(4):
            line.send(b"1\r\nx\r\n")
            time.sleep(HASTE / 2)  # together longer than the upstream may take
        line.send(b"0\r\n\r\n")
        assert line.reply().status == 200
    assert [one.body for one in wire.settled(mark)[0]] == [b"xxxx"]
