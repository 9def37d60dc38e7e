"""The same odd requests through us to nginx, HAProxy, Apache and a Python server.

Each upstream must have read as many requests as were decided on, with the same methods, paths and bodies: no request
comes into being between us and it, and none becomes another.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.hostile.odd_requests import NUMBER, Odd, odd_requests
from tests.hostile.wire import Wire, head, opened
from tests.peers.plain_server import Noted, plain_server
from tests.peers.program import PATIENCE
from tests.peers.recording_upstream import Arrived, Incoming, RecordingUpstream
from tests.peers.servers import SERVERS, serving

PEERS = ["python", *SERVERS]
MARKED = b"HTTP/1.1 200 OK\r\nX-Recorder: here\r\nContent-Length: 0\r\n\r\n"


class Behind(NamedTuple):
    """An upstream's own reading: what it took for requests so far."""

    noted: Callable[[], list[Noted]]
    read_as: Callable[[], list[str]]  # the path as it decided on it, where it tells


class Ensemble(NamedTuple):
    """The proxy before all of them."""

    wire: Wire
    peers: dict[str, Behind]


def host_of(name: str) -> str:
    """The app of an upstream."""
    return f"{name}.example.com"


@contextmanager
def behind(name: str, folder: Path) -> Iterator[tuple[str, Behind]]:
    """Start an upstream; its address, and what it has read."""
    if name == "python":
        with plain_server() as server:
            yield f"http://127.0.0.1:{server.server_port}", Behind(lambda: list(server.noted), list)
        return
    with RecordingUpstream() as recorder:
        recorder.default = _marked

        def noted() -> list[Noted]:
            return [Noted(one.method, one.target, one.body) for one in recorder.requests]

        def read_as() -> list[str]:
            return [value.decode("latin-1") for one in recorder.requests for value in one.all("X-Read-As")]

        with serving(name, folder, recorder.port) as port:
            yield f"http://127.0.0.1:{port}", Behind(noted, read_as)


def _marked(incoming: Incoming, head: Arrived) -> bool:
    return incoming.upstream.keep(incoming.whole(head)) is not None and incoming.say(MARKED)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    """Everybody, for all tests of this file."""
    folder = tmp_path_factory.mktemp("ensemble")
    routes = [{"path": "/public/", "policy": "public"}, {"path": "/", "accept": ["token"], "policy": "readers"}]
    peers: dict[str, Behind] = {}
    apps: dict[str, Any] = {}
    with ExitStack() as stack:
        for name in PEERS:
            url, peers[name] = stack.enter_context(behind(name, folder))
            apps[name] = {"host": host_of(name), "upstream": {"url": url}, "routes": routes}
        yield Ensemble(opened(stack, folder, apps=apps), peers)


def said(wire: Wire, odd: Odd) -> bytes:
    """Send one of them in a connection of its own, and hear it out."""
    with wire.line(patience=5.0 if odd.whole else 0.05) as line:
        line.send(odd.sent)
        try:
            return line.rest()
        except TimeoutError:
            assert not odd.whole, odd.sent
            return line.heard


def decided(wire: Wire, name: str) -> Counter[tuple[str, str]]:
    """Method and path of every request that was let through to an upstream, and answered by it."""
    return Counter(
        (one.get("method", ""), one.get("path", ""))
        for one in wire.records()
        if one.get("host") == host_of(name) and one["status"] == 200 and not one.get("code")
    )


def read(peer: Behind) -> Counter[tuple[str, str]]:
    """The same, as the upstream says."""
    return Counter((one.method, one.target.partition("?")[0]) for one in peer.noted())


def agreed(ensemble: Ensemble, name: str) -> Counter[tuple[str, str]]:
    """What both say; waits for the audit file, which another process writes."""
    deadline = time.monotonic() + PATIENCE
    while (found := read(ensemble.peers[name])) != decided(ensemble.wire, name) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == decided(ensemble.wire, name)
    return found


@pytest.mark.parametrize("name", PEERS)
def test_an_upstream_reads_what_was_decided_on(ensemble: Ensemble, name: str) -> None:
    """As many requests, with the same methods, paths and bodies; none that nobody decided on."""
    wire, peer = ensemble.wire, ensemble.peers[name]
    odds = odd_requests(host_of(name))
    mark = wire.mark()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda odd: said(wire, odd), odds))
    found = agreed(ensemble, name)
    assert not [path for _, path in found if "smuggled" in path or not path.startswith("/public/")]
    assert not [path for path in peer.read_as() if not path.startswith("/public/")]
    for one in peer.noted():
        number, _, what = one.target.removeprefix("/public/d/").partition("/")
        (index,) = map(int, re.findall("^[0-9]+", number))
        assert one.body == (b"" if what in ("second", "last") else odds[index].body), (one, odds[index])
    assert sum(found.values()) > NUMBER / 4, "hardly any of them was let through: the grammar is too odd"
    wire.look_back(mark)


SPLIT = (
    b"POST /public/split HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    b"GET /public/split/last HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize("name", PEERS)
def test_where_it_is_cut_makes_no_difference(ensemble: Ensemble, name: str) -> None:
    """Two requests in two segments, cut at every octet: always the same two."""
    host = host_of(name).encode()
    sent = SPLIT % (host, host)
    before = read(ensemble.peers[name])

    def cut(at: int) -> bytes:
        with ensemble.wire.line() as line:
            line.send(sent[:at], sent[at:])
            return line.rest()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(cut, range(1, len(sent))))
    assert all(one.count(b"HTTP/1.1 200 OK") == 2 for one in answers)
    new = agreed(ensemble, name) - before
    assert new == {("POST", "/public/split"): len(answers), ("GET", "/public/split/last"): len(answers)}
    bodies = {one.body for one in ensemble.peers[name].noted() if one.target == "/public/split"}
    assert bodies == {b"hello"}


def test_the_grammar_is_always_the_same() -> None:
    """Five hundred, deterministic, and of every kind: whole and broken off, with and without a body."""
    one, other = odd_requests("a.example.com"), odd_requests("a.example.com")
    assert one == other
    assert len(one) == NUMBER == 500
    assert {odd.whole for odd in one} == {True, False}
    assert len({odd.sent for odd in one}) == NUMBER
    assert head().startswith(b"GET /public/x HTTP/1.1\r\n")
