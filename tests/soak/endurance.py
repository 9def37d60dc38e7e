"""An hour of work as fast as the machine allows: does the process still hold what it held at the beginning?

    SOAK_REQUESTS=720000 python -m tests.soak.endurance

An hour at 200 requests a second is 720,000.  Says each minute what the process holds; exits with 1 when that has grown
beyond the slack, or when something was answered that should not have been.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.soak.mixture import Endurance, Sample, endurance

REQUESTS: Final = int(os.environ.get("SOAK_REQUESTS", "720000"))
ROUND: Final = 2000
WARM: Final = 5  # rounds
MINUTE: Final = 60.0
RSS: Final = 16 * 2**20
"""Octets that resident memory may grow by: marks of sign-outs (one in a hundred requests), the allocator's gaps."""
OBJECTS: Final = 5000
"""Objects that the garbage collector may follow more."""


def _say(run: Endurance, sample: Sample, began: float) -> None:
    seconds = time.monotonic() - began
    print(f"{seconds:6.0f} s  {run.requests:9,} requests  {run.requests / seconds:5,.0f}/s  {sample}", flush=True)


async def _soak(run: Endurance) -> list[str]:
    began = said = time.monotonic()
    for _ in range(WARM):
        await run.round(ROUND)
    first = await run.sample()
    _say(run, first, began)
    while run.requests < REQUESTS:
        await run.round(ROUND)
        if time.monotonic() - said >= MINUTE:
            said = time.monotonic()
            _say(run, await run.sample(), began)
    last = await run.sample()
    _say(run, last, began)
    return last.grown(first, rss=RSS, objects=OBJECTS) + run.surprises()


async def main() -> int:
    """Run it; the exit code."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the application, whose clients break off
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        async with endurance(Path(folder)) as run:
            wrong = await _soak(run)
            for (what, status), count in sorted(run.answers.items()):
                print(f"{what:<12} {status} {count:9,}")
            print(f"{'renewals':<16} {run.renewals:9,}")
    print("grown or wrong: " + "; ".join(wrong) if wrong else "nothing has grown beyond its slack")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
