"""Many clients that are slow, large or rude: each costs little, and a healthy one is served beside them (M1-M8, M11).

The sizes here are for every run; ``WIRE_LIMITS=full`` takes those at which a proxy on the internet is measured.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.wire import SECOND, Line, Wire, head, opened
from tests.peers.program import PATIENCE
from tests.peers.recording_upstream import Arrived, Incoming

FULL = os.environ.get("WIRE_LIMITS") == "full"
MEGABYTE = 1 << 20
CHUNKED = "Transfer-Encoding: chunked"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def size(usual: int, full: int) -> int:
    """How many."""
    return full if FULL else usual


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A proxy of its own, whose memory nobody else's tests have stretched."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as stack:
            wire = opened(stack, tmp_path_factory.mktemp("limits"))
            for _ in range(200):  # whatever is made once is made now
                healthy(wire)
            yield wire
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def wire(limited: Wire) -> Iterator[Wire]:
    """That proxy, with a look back."""
    mark = limited.mark()
    yield limited
    limited.upstream.on.clear()
    healthy(limited)
    limited.look_back(mark)


def healthy(wire: Wire) -> None:
    """Somebody else is served."""
    with wire.line() as line:
        line.send(head(target="/public/healthy"))
        assert line.reply().body == b"/public/healthy"


@contextlib.contextmanager
def costs(wire: Wire, megabytes: float) -> Iterator[None]:
    """What happens inside leaves the proxy at most so much larger while it is going on."""
    before = wire.memory()
    yield
    grown = wire.memory() - before
    assert grown < megabytes * MEGABYTE, f"{grown / MEGABYTE:.1f} MiB"


def lines(wire: Wire, stack: ExitStack, number: int, sent: bytes = b"", *, buffer: int = 0) -> list[Line]:
    """So many clients that have said ``sent``."""
    made = [stack.enter_context(wire.line(buffer=buffer)) for _ in range(number)]
    for line in made:
        if sent:
            line.send(sent)
    return made


def test_m1_idle_connections_cost_little(wire: Wire) -> None:
    """Those that say nothing, and those that said one request and stay."""
    number = size(150, 4500)  # twice as many connections: below the cap of the listener
    with ExitStack() as stack, costs(wire, 8 + number * 0.05):
        lines(wire, stack, number)
        for line in lines(wire, stack, number, head()):
            assert line.reply().status == 200
        healthy(wire)


def test_m2_slow_heads_hold_nobody_up(wire: Wire) -> None:
    """Heads that drip: each costs what it has said, and none of them is passed on."""
    number, mark = size(200, 2000), wire.mark()
    with ExitStack() as stack, costs(wire, 8 + number * 0.05):
        slow = lines(wire, stack, number, head()[:-2] + b"X-A: ")
        for _ in range(3):
            for line in slow:
                line.send(b"b" * 50)
            healthy(wire)
        assert all(one.target == "/public/healthy" for one in wire.settled(mark)[0])


def test_m3_slow_bodies_hold_nobody_up(wire: Wire) -> None:
    """Bodies that drip, sized and chunked; when their clients leave, the upstream is left alone too."""
    number = size(50, 250)
    with costs(wire, 12 + number * 0.2), ExitStack() as stack:
        slow = lines(wire, stack, number, head("Content-Length: 1000000", method="POST") + b"x")
        slow += lines(wire, stack, number, head(CHUNKED, method="POST") + b"1\r\nx\r\n")
        for line in slow:
            line.send(b"1\r\nx\r\n")
        healthy(wire)
    assert wire.upstream.wait(lambda: all(one.over for one in wire.unfinished()))


def test_m4_slow_readers_hold_little(wire: Wire) -> None:
    """A large download that nobody reads: the upstream is held back, and no client holds more than its buffers."""
    number, large = size(50, 500), size(64, 1024) * MEGABYTE
    sent: list[Incoming] = []

    def download(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(head)
        sent.append(incoming)
        incoming.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % large)
        while incoming.say(b"x" * 65536):
            pass
        return False

    wire.upstream.on["/public/x"] = download
    with costs(wire, 24 + number * 3.0), ExitStack() as stack:
        for line in lines(wire, stack, number, head(), buffer=16384):
            assert line.sock.recv(1) == b"H"
        before = -1
        while before != (before := sum(one.sent for one in sent)):
            healthy(wire)
            time.sleep(0.2)  # until nothing moves any more
        assert before < number * 16 * MEGABYTE


def test_m5_a_flood_of_headers_is_not_kept(wire: Wire) -> None:
    """Heads without end: each is refused long before its end, and none stays in memory."""
    field = b"X-A: " + b"b" * 1000 + b"\r\n"
    with costs(wire, 24):
        for _ in range(size(10, 50)):
            with wire.line() as line:
                line.send(head()[:-2] + field * 1000)
                assert line.reply().status in (400, 431)
        with wire.line() as line:
            line.send(head()[:-2] + b"X-A: " + b"b" * size(5, 50) * MEGABYTE)
            assert line.reply().status in (400, 431)
        healthy(wire)


def test_m6_a_pipeline_without_end_is_served_in_order(wire: Wire) -> None:
    """Ten thousand requests in one go: answered one by one, and not read faster than they are answered."""
    number = size(10_000, 100_000)
    sent = b"".join(head(target=f"/read-nothing/{n}") for n in range(number))
    with costs(wire, 24), wire.line() as line:
        line.sock.settimeout(PATIENCE)
        sending = threading.Thread(target=line.send, args=(sent,), daemon=True)
        sending.start()
        for n in range(number):
            assert line.reply().status == 401, n
        sending.join()
    healthy(wire)


def test_m6_a_pipeline_that_nobody_reads(wire: Wire) -> None:
    """A client that asks and never reads is not read from for ever."""
    sent = head() * 1000
    with costs(wire, 24), wire.line(buffer=16384, patience=1.0) as line:
        taken = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while taken < 64 * MEGABYTE:
                taken += line.sock.send(sent)
        assert taken < 64 * MEGABYTE
        healthy(wire)


def test_m7_tiny_frames_pass_without_piling_up(wire: Wire) -> None:
    """Ten thousand fragments of one octet, each in a segment of its own, arrive as they were sent."""

    def counting(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(head)
        incoming.say(SWITCH)
        at = len(incoming.raw)
        incoming.until(lambda: len(incoming.raw) - at >= len(frame) * number)
        incoming.say(b"%08d" % (len(incoming.raw) - at))
        return False

    number, frame = size(10_000, 100_000), b"\x00\x81abcd\x19"
    wire.upstream.on["/public/x"] = counting
    with costs(wire, 16), wire.line() as line:
        line.sock.settimeout(PATIENCE)
        line.send(head("Connection: Upgrade", "Upgrade: websocket"))
        assert line.reply().status == 101
        for _ in range(number):
            line.sock.send(frame)
        assert line.take(8) == b"%08d" % (len(frame) * number)
    healthy(wire)


def test_m8_nothing_is_unpacked(wire: Wire) -> None:
    """A hundred megabytes of nothing, packed: they pass packed, to an application, and to a page of ours unread."""
    bomb = gzip.compress(bytes(100 * MEGABYTE), 1)
    packed = ("Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
    with costs(wire, 24):
        with wire.line() as line:
            line.send(head(*packed, method="POST") + bomb)
            assert line.reply().status == 200
        with wire.line() as line:
            form = "Content-Type: application/x-www-form-urlencoded"
            line.send(head(*packed, form, method="POST", target="/oauth2/sign_in") + bomb)
            assert line.reply().status in (400, 403, 404, 413, 415)
    assert wire.upstream.to("/public/x")[-1].body == bomb


BAD = {
    "garbage": b"\x16\x03\x01" + b"\xff" * 5000 + b"\r\n\r\n",
    "a long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a control": head("X-A: \x1b[31m\x00" + "b" * 5000),
    "two lengths": head("Content-Length: 1", "Content-Length: 2"),
    "lines": head("X-A: b\nforged: line\nTraceback (most recent call last)"),
    "a bad chunk": head(CHUNKED, method="POST") + b"G" * 5000 + b"\r\n",
    "a path": head(target="/public/../" + "x" * 5000),
}


@pytest.mark.parametrize("name", BAD)
def test_m11_a_bad_request_is_one_short_line(wire: Wire, tmp_path: Path, name: str) -> None:
    """At most one line of at most 500 octets for each, in the log and beside the path in the audit; no flood."""
    said = len(wire.process.program.stderr.all())
    for _ in range(20):
        with wire.line() as line:
            line.send(BAD[name] + SECOND)
            with contextlib.suppress(EOFError):
                assert line.reply().status in (400, 414, 431, 505)
    wire.settled(wire.mark())
    written = wire.process.program.stderr.all()[said:]
    assert len(written) <= 20
    assert all(len(one) <= 500 and one.isprintable() for one in written)
    for record in wire.records()[-21:-1]:
        assert len(str({key: value for key, value in record.items() if key != "path"})) <= 500
