"""How long others wait while slow clients hold on: a steady load alone, while they come, and with them around it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.candidates import Candidate
from benchmarks.figures import Figure, ratios
from benchmarks.generators import Steady, WrongAnswers, steady
from benchmarks.nginx import LARGE, SINK
from benchmarks.processes import resident
from tests.peers.slow_clients import Manner, SlowClients, manners

TARGET: Final = "/1k"
WHENS: Final = ("before", "arriving", "during")
LINKS: Final = 10
"""Connections of the others."""
EACH: Final = 40
"""Requests per second on each of them: together a small part of what any of the candidates can do."""


class Round(NamedTuple):
    """One candidate, once."""

    before: Steady
    arriving: Steady  # while the slow ones come, and whatever they have asked for begins
    during: Steady  # while they hold on
    memory: int  # octets of all its processes, alone
    with_them: int  # and at the end, with all the slow clients


class Beset(NamedTuple):
    """What the rounds said of one candidate."""

    slow: int
    rounds: list[Round]

    def figure(self, when: str, measure: str) -> Figure:
        """``p50`` or ``p99`` in seconds; one of ``WHENS``."""
        return Figure.of([getattr(getattr(one, when), measure) for one in self.rounds])

    @property
    def ratio(self) -> Figure:
        """The 99th percentile during, by that before, round by round."""
        return ratios([one.during.p99 for one in self.rounds], [one.before.p99 for one in self.rounds])

    @property
    def memory(self) -> float:
        """Octets that a slow client costs at most; a process keeps what it once had, so that later rounds say less."""
        return (max(one.with_them for one in self.rounds) - self.rounds[0].memory) / self.slow

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        whens = {when: {name: self.figure(when, name).as_json() for name in ("p50", "p99")} for when in WHENS}
        return {"slow": self.slow, **whens, "ratio": self.ratio.as_json(), "memory": self.memory}


def kinds(candidate: Candidate) -> tuple[Manner, ...]:
    """How slow clients ask this candidate: as the person who is signed in."""
    lines = "".join(f"{name}: {text}\r\n" for name, text in candidate.headers.items()).encode("latin-1")
    return manners(lines, upload=SINK, download=LARGE)


async def _others(candidate: Candidate, seconds: float, folder: Path) -> Steady:
    url, headers = candidate.url(TARGET), candidate.headers
    return await steady(url, headers, seconds=seconds, connections=LINKS, rate=EACH, log=folder / "steady.log")


async def _round(candidate: Candidate, slow: int, seconds: float, folder: Path) -> Round:
    before, memory = await _others(candidate, seconds, folder), resident(candidate.pids())
    crowd = SlowClients(candidate.port, kinds(candidate), slow)
    try:
        async with asyncio.TaskGroup() as group:
            others = group.create_task(_others(candidate, seconds, folder))
            await asyncio.sleep(seconds / 10)  # they are at work
            await asyncio.to_thread(crowd.__enter__)
        during, with_them = await _others(candidate, seconds, folder), resident(candidate.pids())
    finally:
        await asyncio.to_thread(crowd.__exit__, None, None, None)
    if crowd.cut or crowd.answers != {("reader", "HTTP/1.1 200"): len(range(2, slow, 3))}:
        said = f"{dict(crowd.cut)} were cut off, {dict(crowd.answers)} were answered"
        raise WrongAnswers(f"{candidate.name}: of {slow} slow clients {said}")
    return Round(before, others.result(), during, memory, with_them)


async def beset(
    candidates: Sequence[Candidate], slow: int, *, rounds: int, seconds: float, folder: Path
) -> dict[str, Beset]:
    """Every candidate in turn, again and again, each before and during.

    Raises WrongAnswers when one of the others is not answered, or the slow ones do not hold on.
    """
    found: dict[str, list[Round]] = {one.name: [] for one in candidates}
    for _ in range(rounds):
        for one in candidates:
            found[one.name].append(await _round(one, slow, seconds, folder))
    return {name: Beset(slow, said) for name, said in found.items()}
