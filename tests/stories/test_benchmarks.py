"""The benchmark measures what it says: each candidate delivers the body, and ours and the textbook one say who asks.

No timings, and no load generators: those are for `make bench`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from benchmarks.candidates import authproxy, nginx, started, textbook_proxy
from benchmarks.figures import Figure
from benchmarks.generators import Steady, WrongAnswers
from benchmarks.idle import held
from benchmarks.processes import cpu_seconds
from benchmarks.request import ask
from benchmarks.scenes import DECISION, Cast
from benchmarks.slow import Beset, Round, kinds
from benchmarks.soundness import decides, passes
from benchmarks.stage import GROUPS, Stage, stage
from tests.peers.program import PATIENCE
from tests.peers.slow_clients import SlowClients


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Stage]:
    """Redis, the provider and the application of a benchmark."""
    before = os.sched_getaffinity(0)
    async with stage(tmp_path) as entered:
        yield entered
    assert os.sched_getaffinity(0) == before


@pytest.fixture
async def cast(place: Stage) -> AsyncIterator[Cast]:
    """The candidates that are always there, running."""
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(nginx(place))
        ours = await stack.enter_async_context(authproxy(place))
        textbook = await stack.enter_async_context(textbook_proxy(place))
        yield Cast([reference, ours.proxied, textbook], ours, textbook)


async def test_each_candidate_does_what_is_measured(cast: Cast) -> None:
    """Bodies of every size arrive whole; the application gets the ID token and the identity, and not the session."""
    await cast.sound()
    for one in (cast.ours.proxied, cast.textbook):
        seen = await passes(one, ["/1k"])
        assert seen["authorization"].startswith("Bearer ey")
        assert seen["x_forwarded_email"] == "grace@example.com"
        assert seen["x_forwarded_groups"].split(",")[0] == GROUPS[0]
    assert "authproxy" not in (await passes(cast.ours.proxied))["cookie"]
    assert (await passes(cast.proxies[0]))["authorization"] == ""


async def test_everything_is_recorded(cast: Cast) -> None:
    """authproxy is measured with its audit on: each request leaves a record that says which rule allowed it."""
    before = len(cast.ours.audit.read_text().splitlines())
    for _ in range(5):
        assert (await ask(cast.ours.proxied.port, "/1k", cast.ours.proxied.headers)).status == 200
    records = [json.loads(line) for line in cast.ours.audit.read_text().splitlines()][before:]
    assert [(one["kind"], one["status"], one["path"]) for one in records] == [("session", 200, "/1k")] * 5
    assert "policies.staff" in records[0]["reason"]


async def test_a_candidate_that_refuses_is_found_out(cast: Cast) -> None:
    """Without its session cookie each judging candidate is refused a measurement; so is one that says not who asks."""
    for one in (cast.ours.proxied, cast.textbook):
        with pytest.raises(WrongAnswers, match=f"{one.name}: /1k was answered with"):
            await passes(one._replace(headers={**one.headers, "Cookie": "visitor=1"}))
    reference = cast.proxies[0]
    with pytest.raises(WrongAnswers, match="answered with 206 and 1024 octets"):
        await passes(reference._replace(headers={**reference.headers, "Range": "bytes=0-1023"}))
    with pytest.raises(WrongAnswers, match="was sent no token"):
        await passes(reference._replace(identifies=True))
    decisions = cast.ours.decisions
    with pytest.raises(WrongAnswers, match="the decision was"):
        await decides(decisions._replace(headers={**decisions.headers, "Cookie": "visitor=1"}), DECISION)


async def test_open_connections_are_held(cast: Cast) -> None:
    """Memory is looked at while all of them are open and have been used; a refusal is no idle connection."""
    for one in cast.proxies:
        found = await held(one, 30)
        assert found.connections == 30
        assert found.after >= 2**20
        assert set(cpu_seconds(one.pids()))
    ours = cast.ours.proxied
    with pytest.raises(WrongAnswers, match="an answer began with"):
        await held(ours._replace(headers={**ours.headers, "Cookie": "visitor=1"}), 1)


async def test_slow_clients_hold_on(cast: Cast) -> None:
    """At both proxies of that scene: readers are being answered, heads and bodies wait, and nobody is cut off."""
    for one in (cast.proxies[0], cast.ours.proxied):
        with SlowClients(one.port, kinds(one), 30) as slow:
            async with asyncio.timeout(PATIENCE):
                while slow.answers.total() != 10:
                    await asyncio.sleep(0.05)  # sockets in a thread: there is no event to wait for
        assert slow.answers.keys() == {("reader", "HTTP/1.1 200")}, one.name
        assert not slow.cut, one.name


def test_what_the_slow_clients_cost() -> None:
    """The ratio is taken in each round; memory is the highest of all rounds over that before the first."""
    waits = [Steady(10, 0.001, wait) for wait in (0.002, 0.006, 0.003)]
    first, second, third = waits
    rounds = [Round(first, second, third, 10_000, 110_000), Round(third, second, first, 90_000, 80_000)]
    found = Beset(100, rounds)
    assert found.ratio == pytest.approx(Figure((1.5 + 2 / 3) / 2, 2 / 3, 1.5))
    assert found.memory == 1000
    assert found.figure("arriving", "p99").median == 0.006
    assert found.as_json()["before"]["p50"]["median"] == 0.001


async def test_workers_are_counted_together(place: Stage) -> None:
    """All processes of a proxy with several are known, so that their CPU is added up."""
    async with authproxy(place, workers=2) as ours:
        await passes(ours.proxied)
        assert len(ours.proxied.pids()) >= 3


async def test_a_port_that_was_taken_is_not_the_end(place: Stage) -> None:
    """Another program may take a free port first: the candidate is started again; any other failure is told at once."""
    failures = ["[Errno 98] Address already in use", "address already in use"]

    async def start() -> str:
        assert not failures, failures.pop()
        return "running"

    assert await started(place, start) == "running"
    failures.append("a key is missing")
    with pytest.raises(AssertionError, match="a key is missing"):
        await started(place, start)
