"""How fast authproxy is beside others, in one run on pinned cores.  README.md in this folder is the method.

    python -m benchmarks [--quick] [--rounds N] [--scenes small,bodies,…] [--json FILE]

Exits with 1, and says why, as soon as anything is answered otherwise than with what was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import report, rivals, scenes
from benchmarks.candidates import authproxy, nginx, textbook_proxy
from benchmarks.figures import TooShort
from benchmarks.generators import WrongAnswers, missing
from benchmarks.nginx import executable
from benchmarks.processes import raise_open_files
from benchmarks.rounds import Pace
from benchmarks.scenes import Cast
from benchmarks.stage import Stage, stage

SCENES: Final = ("small", "varied", "bodies", "concurrency", "workers", "idle", "slow", "sessions")
SPARE: Final = 200
"""Files that a process has open beside the connections that are held."""
RESULTS: Final = Path(__file__).parent / "results"


class Plan(NamedTuple):
    """How much is done."""

    main: Pace
    side: Pace  # of the scenes beside the main one
    connections: int
    sessions: int
    slow: int  # clients
    beset: float  # seconds of the load that they are to disturb


WHOLE: Final = Plan(Pace(5, 1.5, 3), Pace(3, 1.0, 2), 10_000, 100_000, 999, 8.0)
QUICK: Final = Plan(Pace(3, 0.5, 1), Pace(1, 0.5, 1), 1_000, 5_000, 99, 2.0)


@asynccontextmanager
async def cast(place: Stage) -> AsyncIterator[Cast]:
    """Everybody who is installed, running and looked at; says who is not."""
    there, absent = rivals.found()
    for line in absent:
        print(line)
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(nginx(place))
        ours = await stack.enter_async_context(authproxy(place))
        textbook = await stack.enter_async_context(textbook_proxy(place))
        others = [await stack.enter_async_context(rival(place)) for rival in there]
        everybody = Cast([reference, ours.proxied, textbook, *others], ours, textbook)
        await everybody.sound()
        print()
        yield everybody
        await everybody.sound()


class Run:
    """One run; ``results`` is what goes into the file."""

    def __init__(self, plan: Plan, chosen: Sequence[str]) -> None:
        self._plan, self._chosen = plan, chosen
        self.results: dict[str, Any] = {}

    async def whole(self, place: Stage) -> None:
        """Every scene that was chosen; each is printed when it is over."""
        self.results |= {"versions": report.versions(), "machine": report.machine(place.cores)}
        self.results |= {"plan": self._plan._asdict(), "absent": rivals.found()[1]}
        print(report.opening(place.cores))
        if set(self._chosen) & {"small", "varied", "bodies", "concurrency"}:
            async with cast(place) as everybody:
                await self._proxies(everybody)
        if "workers" in self._chosen:
            found = await scenes.workers(place, len(place.cores.proxy | place.cores.others), self._plan.side)
            self._keep("workers", {count: one.as_json() for count, one in found.items()})
            print(report.grid("Requests/s with so many processes on as many cores", "rate", found))
            print(report.grid("CPU us/request with so many processes", "cpu", found))
        if "idle" in self._chosen:
            held = await scenes.idle(place, self._plan.connections)
            self._keep("idle", {name: one.as_json() for name, one in held.items()})
            print(report.held_table(held))
        if "slow" in self._chosen:
            beset = await scenes.slow(place, self._plan.slow, self._plan.side, self._plan.beset)
            self._keep("slow", {name: one.as_json() for name, one in beset.items()})
            print(report.beset_table(beset))
        if "sessions" in self._chosen:
            await self._sessions()

    async def _proxies(self, everybody: Cast) -> None:
        plan = self._plan
        if "small" in self._chosen:
            series = await scenes.small(everybody, plan.main)
            self._keep("small", series.as_json())
            print(report.series_table("GET of 1 KiB, 64 keep-alive connections", series))
        if "varied" in self._chosen:
            series = await scenes.varied(everybody, plan.side)
            self._keep("varied", series.as_json())
            print(report.series_table("GET of 1 KiB, 64 connections, the same and others", series))
        if "bodies" in self._chosen:
            sized = await scenes.bodies(everybody, plan.side)
            self._keep("bodies", {target: one.as_json() for target, one in sized.items()})
            print(report.series_table("GET of 64 KiB, 64 connections", sized["/64k"]))
            print(report.series_table("GET of 1 MiB, 16 connections", sized["/1m"]))
        if "concurrency" in self._chosen:
            crowds = await scenes.concurrency(everybody, plan.side)
            self._keep("concurrency", {links: one.as_json() for links, one in crowds.items()})
            print(report.grid("CPU us/request of 1 KiB by connections", "cpu", crowds))
            print(report.grid("Requests/s by connections", "rate", crowds))
            print(report.grid("p99 ms by connections", "p99", crowds))

    async def _sessions(self) -> None:
        found = await scenes.sessions(self._plan.sessions)
        self._keep("sessions", found)
        rows = [["authproxy", f"{found['mebibytes']:,}", f"{found['each']:,}"]]
        print(report.table(f"Memory at {found['sessions']:,} sessions", ("", "MiB", "octets each"), rows))

    def _keep(self, scene: str, found: Any) -> None:
        self.results[scene] = found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under two minutes")
    parser.add_argument("--rounds", type=int, help="of the main scene, instead of 5 (quick: 3)")
    parser.add_argument("--scenes", default=",".join(SCENES), help=f"some of {','.join(SCENES)}")
    parser.add_argument("--json", type=Path, help="where the results go (benchmarks/results/TIME.json)")
    chosen = parser.parse_args(argv)
    chosen.scenes = chosen.scenes.split(",")
    if unknown := set(chosen.scenes) - set(SCENES):
        parser.error(f"no such scene: {', '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    return chosen


def _file(chosen: Path | None) -> Path:
    file: Path = chosen or RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


async def main(chosen: argparse.Namespace) -> int:
    """Run it; the exit code."""
    lacking = missing() + ([] if executable() else ["nginx"])
    if lacking:
        print(f"not installed: {', '.join(lacking)}; `make bench` installs what it can", file=sys.stderr)
        return 1
    plan = QUICK if chosen.quick else WHOLE
    if (files := raise_open_files()) < plan.connections + SPARE:
        print(f"only {files:,} files may be open here (ulimit -n), so fewer connections are held")
        plan = plan._replace(connections=max(files - SPARE, 1))
    if chosen.rounds:
        plan = plan._replace(main=plan.main._replace(rounds=chosen.rounds))
    run, began = Run(plan, chosen.scenes), time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            async with stage(Path(folder)) as place:
                await run.whole(place)
    except WrongAnswers as error:
        print(f"stopped, since this would measure something else: {error}", file=sys.stderr)
        return 1
    except TooShort as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    file = _file(chosen.json)
    file.write_text(json.dumps(run.results, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s; every round is in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
