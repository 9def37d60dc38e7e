"""Clients that take more connections than they may, from outside: a process, bare sockets, several addresses."""

from __future__ import annotations

import json
import re
import resource
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.hostile.wire import TRUSTED, Line, Wire, head, opened, settings
from tests.peers.recording_upstream import PATIENCE, Arrived, Incoming
from tests.peers.self_signed import self_signed

TOTAL: Final = 8
PER_CLIENT: Final = 3
BOUNDS: Final = {"total": TOTAL, "per_client": PER_CLIENT}
UPGRADE: Final = head("Connection: Upgrade", "Upgrade: websocket")
SWITCH: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OTHERS: Final = ("127.0.0.3", "127.0.0.4", "127.0.0.5")


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """A proxy with narrow bounds."""
    with ExitStack() as stack:
        wire = opened(stack, tmp_path, listen={"connections": BOUNDS, "trusted_proxies": [f"{TRUSTED}/32"]})
        mark = wire.mark()
        yield wire
        wire.look_back(mark)


def asked(wire: Wire, path: str) -> str:
    """What the admin listener answers."""
    with urllib.request.urlopen(f"{wire.process.admin_url}{path}", timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


def figure(wire: Wire, name: str, default: float | None = None) -> float:
    """One figure of ``/metrics``."""
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", asked(wire, "/metrics"))
    if found is None and default is not None:
        return default
    assert found, name
    return float(found[1])


def refusals(wire: Wire, bound: str) -> float:
    """How many connections were turned away by ``bound``."""
    return figure(wire, f'authproxy_connections_refused_total{{bound="{bound}"}}', 0.0)


def until(reached: Callable[[], bool]) -> None:
    """Wait for what another process has to notice first."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def entered(wire: Wire, stack: ExitStack, number: int, source: str = "127.0.0.1") -> list[Line]:
    """So many clients, each of which was served."""
    lines = [stack.enter_context(wire.line(source=source)) for _ in range(number)]
    for line in lines:
        served(line)
    return lines


def served(line: Line) -> None:
    """The application answers."""
    line.send(head())
    assert line.reply().status == 200


def turned_away(wire: Wire, source: str = "127.0.0.1") -> None:
    """One more client from there hears that there are too many, in our words, and the end of its connection."""
    with wire.line(source=source) as line:
        line.send(head())
        reply = line.reply()
        assert reply.status == 503
        assert (reply.get("Authproxy-Refusal"), reply.get("Retry-After")) == (b"too_many_connections", b"5")
        said: dict[str, Any] = json.loads(reply.body)
        assert (said["error"], said["request_id"].encode()) == ("too_many_connections", reply.get("X-Request-Id"))
        assert reply.get("Cache-Control") == b"no-store"
        assert reply.closes
        assert line.rest() == b""
        assert line.ended == "close"


def test_one_address_has_its_share_and_no_more(wire: Wire) -> None:
    """The fourth of one address is turned away; those of others, and the three that are in, go on."""
    with ExitStack() as stack:
        first = entered(wire, stack, PER_CLIENT)
        for _ in range(20):
            turned_away(wire)
        entered(wire, stack, PER_CLIENT, OTHERS[0])
        for line in first:
            served(line)
        assert (refusals(wire, "per_client"), refusals(wire, "total")) == (20, 0)
        first[0].sock.close()
        until(lambda: figure(wire, "authproxy_connections") == 2 * PER_CLIENT - 1)
        entered(wire, stack, 1)
        turned_away(wire)
    assert len([said for said in wire.process.program.stderr.all() if "connections are refused" in said]) == 1
    assert not [one for one in wire.records() if one.get("code") == "too_many_connections"]
    assert len(wire.upstream.to("/public/x")) == 3 * PER_CLIENT + 1


def test_a_trusted_proxy_is_bounded_in_all_alone(wire: Wire) -> None:
    """An ingress, from whose address everything comes, has as many as there are; then it hears so as well."""
    with ExitStack() as stack:
        lines = entered(wire, stack, TOTAL - 1, TRUSTED) + entered(wire, stack, 1)
        for source in (TRUSTED, "127.0.0.1", *OTHERS):
            turned_away(wire, source)
        for line in lines:
            served(line)
        assert (refusals(wire, "per_client"), refusals(wire, "total")) == (0, 5)
        assert json.loads(asked(wire, "/readyz"))["ready"], "a process that is full is not unready"
        assert asked(wire, "/healthz")


def test_ends_of_every_kind_give_the_place_back(wire: Wire) -> None:
    """By reset, by half a request, in a tunnel on either side, after a refusal: each time all places are free again."""

    def switching(incoming: Incoming, head: Arrived) -> bool:
        incoming.upstream.keep(head)
        incoming.say(SWITCH)
        return True

    wire.upstream.on["/public/x"] = switching
    for _ in range(3):
        with ExitStack() as stack:
            lines = [stack.enter_context(wire.line()) for _ in range(PER_CLIENT)]
            until(lambda: figure(wire, "authproxy_connections") == PER_CLIENT)
            turned_away(wire)
            lines[0].send(UPGRADE)
            assert lines[0].reply().status == 101
            lines[1].send(head()[:10])
            lines[2].reset()
        until(lambda: figure(wire, "authproxy_connections") == 0)
    with ExitStack() as stack:
        for line in [stack.enter_context(wire.line()) for _ in range(PER_CLIENT)]:
            line.send(UPGRADE)
            assert line.reply().status == 101
        turned_away(wire)
    until(lambda: figure(wire, "authproxy_connections") == 0)


def test_other_settings_change_the_bounds(wire: Wire, tmp_path: Path) -> None:
    """On SIGHUP, without a restart: nobody is put out by narrower ones, and wider ones let more in."""

    def reload(**bounds: int) -> None:
        before = figure(wire, 'authproxy_events_total{event="reload",outcome="ok"}', 0.0)
        listen = {"connections": bounds, "trusted_proxies": [f"{TRUSTED}/32"]}
        wire.process.write(settings(wire.upstream, tmp_path / "audit.jsonl", listen=listen))
        wire.process.program.send(signal.SIGHUP)
        until(lambda: figure(wire, 'authproxy_events_total{event="reload",outcome="ok"}', 0.0) > before)

    with ExitStack() as stack:
        lines = entered(wire, stack, PER_CLIENT)
        reload(total=TOTAL, per_client=1)
        for line in lines:
            served(line)
        turned_away(wire)
        turned_away_after = entered(wire, stack, 1, OTHERS[0])
        turned_away(wire, OTHERS[0])
        reload(total=TOTAL, per_client=PER_CLIENT + 1)
        entered(wire, stack, 1)
        turned_away(wire)
        served(turned_away_after[0])
    assert not [said for said in wire.process.program.stderr.all() if "takes a restart" in said]


def test_files_are_not_what_ends_first(tmp_path: Path) -> None:
    """The process takes the files that it may have, and says when the bound asks for more than these."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        with ExitStack() as stack:
            wire = opened(stack, tmp_path, listen={"connections": {"total": 1_000_000}})
            limits = Path(f"/proc/{wire.process.program.pid}/limits").read_text(encoding="ascii")
            assert re.search(rf"(?m)^Max open files +{hard} +{hard} ", limits)
            said = [line for line in wire.process.program.stderr.all() if "may open" in line]
            assert [f"may open {hard}" in line for line in said] == [True] * (hard < 2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_with_tls_silence_takes_a_place(tmp_path: Path) -> None:
    """Those who never begin their handshake are bounded; the next is closed at once, another address is served."""
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    listen = {"connections": BOUNDS, "tls": {"cert": str(certificate), "key": str(key)}}

    def served_over_tls(line: Line) -> None:
        with context.wrap_socket(line.sock) as secured:
            secured.sendall(head())
            assert secured.recv(1 << 16).startswith(b"HTTP/1.1 200 ")

    with ExitStack() as stack:
        wire = opened(stack, tmp_path, listen=listen, public_url="https://auth.example.com")
        silent = [stack.enter_context(wire.line()) for _ in range(PER_CLIENT)]
        until(lambda: figure(wire, "authproxy_connections") == PER_CLIENT)
        with wire.line() as late:
            assert late.rest() == b""
        with wire.line(source=OTHERS[0]) as other:
            served_over_tls(other)
        assert refusals(wire, "per_client") == 1
        silent[0].sock.close()
        until(lambda: figure(wire, "authproxy_connections") == PER_CLIENT - 1)
        with wire.line() as welcome:
            served_over_tls(welcome)
