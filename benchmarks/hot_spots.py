"""Where the CPU time of one request goes, inside the process of authproxy.

    python -m benchmarks.hot_spots [--requests N] [--door proxy|decisions]

Runs ``authproxy serve`` under cProfile, which makes every call in Python dearer: shares are worth reading, microseconds
are not those of ``python -m benchmarks``.  What the kernel and C code take is told by the functions that call them.
"""

from __future__ import annotations

import argparse
import asyncio
import pstats
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.candidates import authproxy
from benchmarks.generators import WrongAnswers, h2load
from benchmarks.report import table
from benchmarks.scenes import DECISION
from benchmarks.soundness import decides, passes
from benchmarks.stage import stage
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.program import Program

ROWS: Final = 25
SELDOM: Final = 0.3
"""What is called less often than so many times per request belongs to the start, and is left out."""
PLACE: Final = re.compile(r"(?:.*/site-packages/|.*/lib/python3\.\d+/|.*/(?=authproxy/))")
"""What is cut off a path, so that the name of the package is left."""


class Profiled(AuthproxyProcess):
    """The proxy under cProfile, which writes ``stats`` when it ends."""

    @property
    def stats(self) -> Path:
        """What it writes."""
        return self.file.with_suffix(".prof")

    def _program(self) -> Program:
        words = ("-m", "cProfile", "-o", self.stats, "-m", "authproxy.cli", "serve", "-c", self.file)
        return Program(sys.executable, *words)


class Spot(NamedTuple):
    """One function."""

    place: str
    calls: int
    own: float  # seconds, without what it calls


Timings = Mapping[tuple[str, int, str], tuple[Any, ...]]


def spots(timings: Timings) -> list[Spot]:
    """Functions by their own time, most first, from what cProfile keeps."""
    found = [Spot(_place(*key), int(row[1]), float(row[2])) for key, row in timings.items()]
    return sorted(found, key=lambda one: -one.own)


def _place(file: str, line: int, name: str) -> str:
    if file == "~":
        return name
    return f"{PLACE.sub('', file)}:{line} {name}"


def package(place: str) -> str:
    """Whose function it is: a room of ours, a library, or C."""
    if not re.match(r"[\w./-]+:\d+ ", place):
        return "C"
    parts = place.partition(":")[0].removesuffix(".py").split("/")
    return "/".join(parts[:2]) if parts[0] in ("authproxy", "aiohttp") else parts[0]


def told(found: list[Spot], requests: int) -> str:
    """Two tables: by package, and by function."""
    whole = sum(one.own for one in found)
    packages: defaultdict[str, float] = defaultdict(float)
    for one in found:
        packages[package(one.place)] += one.own

    def row(name: str, own: float, calls: str) -> list[str]:
        return [name, f"{own / whole:.1%}", f"{own / requests * 1e6:.1f}", calls]

    heads = ("", "share", "us/request", "calls/request")
    largest = sorted(packages.items(), key=lambda one: -one[1])[:ROWS]
    rooms = table("By package", heads, [row(name, own, "") for name, own in largest])
    rows = [row(one.place[-78:], one.own, f"{one.calls / requests:.1f}") for one in found[:ROWS]]
    return f"{rooms}\n{table('By function, its own time', heads, rows)}"


async def profiled(folder: Path, requests: int, door: str) -> list[Spot]:
    """Send the requests to one door of a proxy under cProfile; where its time went."""
    async with stage(folder) as place:
        async with authproxy(place, kind=Profiled) as ours:
            await passes(ours.proxied)
            await decides(ours.decisions, DECISION)
            who, target = (ours.proxied, "/1k") if door == "proxy" else (ours.decisions, DECISION)
            await h2load(who.url(target), who.headers, requests=requests, connections=64)
        written = pstats.Stats(str(folder / "authproxy1" / "authproxy.prof"))
        timings: Timings = written.stats  # type: ignore[attr-defined]  # it is there, and undocumented
        return spots({key: row for key, row in timings.items() if row[1] >= SELDOM * requests})


def main() -> int:
    """Profile and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_spots")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--door", choices=("proxy", "decisions"), default="proxy")
    chosen = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="profile-") as folder:
            found = asyncio.run(profiled(Path(folder), chosen.requests, chosen.door))
    except WrongAnswers as error:
        print(f"stopped, since this would measure something else: {error}", file=sys.stderr)
        return 1
    print(told(found, chosen.requests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
