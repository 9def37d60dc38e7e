"""Rounds: every candidate in turn, again and again, so that what the machine does meanwhile meets all of them alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.candidates import Candidate
from benchmarks.figures import Figure, Reading, ratios
from benchmarks.generators import WrongAnswers, h2load, wrk
from benchmarks.processes import cpu_seconds

WARM: Final = 600
"""Requests that a candidate gets before anything is measured; their speed says how many a round has."""
MEASURES: Final = ("cpu", "rate", "p50", "p99", "flow")


class Shot(NamedTuple):
    """One thing to measure: who, what for, and over how many connections."""

    label: str
    candidate: Candidate
    target: str = "/1k"
    size: int = 1024  # octets of the answer's body
    connections: int = 64
    script: Path | None = None  # by which wrk makes each request anew; h2load, which cannot, is not used then


class Pace(NamedTuple):
    """How long things take."""

    rounds: int
    counting: float  # seconds that the requests whose CPU is counted take, about
    load: float  # whole seconds of the load whose latency is measured


class Series(NamedTuple):
    """What the rounds said, by label in the order of the shots; the first is the reference."""

    readings: dict[str, list[Reading]]

    @property
    def reference(self) -> str:
        """The label that all others are held against."""
        return next(iter(self.readings))

    def figure(self, label: str, measure: str) -> Figure:
        """One of ``MEASURES``, over the rounds."""
        return Figure.of(self._values(label, measure))

    def ratio(self, label: str, measure: str = "cpu", *, to: str = "") -> Figure:
        """Held against the reference, round by round."""
        return ratios(self._values(label, measure), self._values(to or self.reference, measure))

    def _values(self, label: str, measure: str) -> list[float]:
        return [float(getattr(one, measure)) for one in self.readings[label]]

    def as_json(self) -> dict[str, Any]:
        """Medians, bounds, the ratio, and every round."""
        return {
            label: {
                **{name: self.figure(label, name).as_json() for name in MEASURES},
                "cpu_ratio": self.ratio(label).as_json(),
                "rounds": [one.as_json() for one in self.readings[label]],
            }
            for label in self.readings
        }


def consumed(before: dict[int, float], after: dict[int, float]) -> float:
    """Seconds of CPU between two looks; raises WrongAnswers when a process ended, since what it had is gone."""
    if gone := before.keys() - after.keys():
        raise WrongAnswers(f"processes {sorted(gone)} ended while they were measured")
    return sum(after.values()) - sum(before.values())


async def _requests(shot: Shot, pace: Pace) -> int:
    """How many requests take about as long as the pace says; the first ones are slower, and only warm up."""
    least, one = max(WARM, 2 * shot.connections), shot.candidate
    requests = least
    for seconds in (pace.counting / 3, pace.counting):
        ran = await h2load(one.url(shot.target), one.headers, requests=requests, connections=shot.connections)
        requests = max(round(ran.requests / ran.seconds * seconds), least)
    return requests


async def _reading(shot: Shot, requests: int, pace: Pace) -> Reading:
    url, headers, pids = shot.candidate.url(shot.target), shot.candidate.headers, shot.candidate.pids
    before = cpu_seconds(pids())
    load = await wrk(
        url, headers, seconds=pace.load, connections=shot.connections, size=shot.size, script=shot.script
    )  # fmt: skip
    if shot.script:
        requests = load.requests
    else:
        before = cpu_seconds(pids())
        await h2load(url, headers, requests=requests, connections=shot.connections)
    spent = consumed(before, cpu_seconds(pids()))
    return Reading(spent / requests * 1e6, load.rate, load.p50 * 1e3, load.p99 * 1e3, load.flow / 1e6)


async def interleaved(shots: Sequence[Shot], pace: Pace) -> Series:
    """Measure all of them, in rounds; the first is the reference.

    Raises WrongAnswers, naming the shot, as soon as anything is not answered with 2xx.
    """
    readings: dict[str, list[Reading]] = {shot.label: [] for shot in shots}
    counts = {shot.label: await _named(shot, _requests(shot, pace)) for shot in shots}
    for number in range(pace.rounds):
        for shot in shots:
            _progress(f"round {number + 1} of {pace.rounds}: {shot.label}")
            readings[shot.label].append(await _named(shot, _reading(shot, counts[shot.label], pace)))
    _progress("")
    return Series(readings)


async def _named(shot: Shot, work: Any) -> Any:
    try:
        return await work
    except WrongAnswers as error:
        raise WrongAnswers(f"{shot.label}: {error}") from error


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<78}\r", end="", file=sys.stderr, flush=True)
