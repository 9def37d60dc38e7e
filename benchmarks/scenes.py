"""What is measured, scene by scene.  Each returns what the rounds said; how it is printed is elsewhere."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.candidates import Authproxy, Candidate, authproxy, nginx
from benchmarks.generators import WrongAnswers
from benchmarks.idle import Held, held
from benchmarks.nginx import SIZES
from benchmarks.processes import pinned
from benchmarks.rounds import Pace, Series, Shot, interleaved
from benchmarks.slow import Beset, beset
from benchmarks.soundness import decides, passes
from benchmarks.stage import Stage

DECISION: Final = "/oauth2/auth"
CONNECTIONS: Final = (1, 8, 64, 512)


class Cast(NamedTuple):
    """The candidates on stage; the first of ``proxies`` is the reference."""

    proxies: Sequence[Candidate]
    ours: Authproxy
    textbook: Candidate

    @property
    def leading(self) -> tuple[Candidate, ...]:
        """Those that every scene has: the reference, ours, the textbook one."""
        return (self.proxies[0], self.ours.proxied, self.textbook)

    async def sound(self) -> None:
        """Each does what it is measured for; raises WrongAnswers."""
        for one in self.proxies:
            await passes(one)
        await decides(self.ours.decisions, DECISION)


async def small(cast: Cast, pace: Pace) -> Series:
    """The main one: 1 KiB over 64 connections, everybody, and decisions for an ingress beside them."""
    shots = [Shot(one.name, one) for one in cast.proxies]
    decisions = cast.ours.decisions
    return await interleaved([*shots, Shot(decisions.name, decisions, DECISION, 0)], pace)


async def bodies(cast: Cast, pace: Pace) -> dict[str, Series]:
    """64 KiB over 64 connections, and 1 MiB over 16."""
    return {
        target: await interleaved([Shot(one.name, one, target, SIZES[target], links) for one in cast.leading], pace)
        for target, links in (("/64k", 64), ("/1m", 16))
    }


async def varied(cast: Cast, pace: Pace) -> Series:
    """1 KiB: the same request again and again, another target each time, and another header line besides."""
    reference, ours = cast.proxies[0], cast.ours.proxied
    scripts = (("", None), (", other targets", "targets.lua"), (", other header lines too", "lines.lua"))
    shots = [
        Shot(f"{one.name}{how}", one, script=Path(__file__).with_name(script) if script else None)
        for one in (reference, ours)
        for how, script in scripts
    ]
    return await interleaved(shots, pace)


async def concurrency(cast: Cast, pace: Pace) -> dict[str, Series]:
    """1 KiB over one connection, and over more."""
    return {
        str(links): await interleaved([Shot(one.name, one, connections=links) for one in cast.leading], pace)
        for links in CONNECTIONS
    }


def counts(cores: int) -> list[int]:
    """Numbers of workers to try: powers of two, and as many as there are cores."""
    return sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})


async def workers(stage: Stage, most: int, pace: Pace) -> dict[str, Series]:
    """nginx and ours with one process, and with more, on as many cores; the generator may have to share the last."""
    found = {}
    for count in counts(most):
        crew = stage._replace(folder=stage.folder / f"crew{count}", cores=stage.cores.for_workers(count))
        crew.folder.mkdir()
        async with AsyncExitStack() as stack:
            stack.enter_context(pinned(crew.cores.others))
            reference = await stack.enter_async_context(nginx(crew, workers=count))
            ours = await stack.enter_async_context(authproxy(crew, workers=count))
            for one in (reference, ours.proxied):
                await passes(one)
            shots = [Shot(one.name, one) for one in (reference, ours.proxied)]
            found[str(count)] = await interleaved(shots, pace)
    return found


async def idle(stage: Stage, connections: int) -> dict[str, Held]:
    """Memory of fresh processes with so many open connections."""
    apart = stage._replace(folder=stage.folder / "idle")
    apart.folder.mkdir()
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(nginx(apart))
        ours = await stack.enter_async_context(authproxy(apart))
        return {one.name: await held(one, connections) for one in (reference, ours.proxied)}


async def slow(stage: Stage, clients: int, pace: Pace, seconds: float) -> dict[str, Beset]:
    """How long others wait at nginx and at ours while so many slow clients hold on; fresh processes."""
    apart = stage._replace(folder=stage.folder / "slow")
    apart.folder.mkdir()
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(nginx(apart))
        ours = await stack.enter_async_context(authproxy(apart))
        both = (reference, ours.proxied)
        return await beset(both, clients, rounds=pace.rounds, seconds=seconds, folder=apart.folder)


async def sessions(count: int) -> dict[str, Any]:
    """What live sessions cost, by ``benchmarks.session_memory`` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.session_memory", str(count), stdout=asyncio.subprocess.PIPE
    )
    text = (await process.communicate())[0].decode()
    each = re.search(r"^resident octets per session +([\d,]+)$", text, re.MULTILINE)
    before = re.search(r"^resident memory before and with them, MiB +(\d+) +([\d,]+)$", text, re.MULTILINE)
    if each is None or before is None:
        raise WrongAnswers(f"benchmarks.session_memory ended with {process.returncode}:\n{text}")
    octets = int(each[1].replace(",", ""))
    return {"sessions": count, "each": octets, "mebibytes": int(before[2].replace(",", ""))}
