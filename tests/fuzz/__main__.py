"""``python -m tests.fuzz [EXECUTIONS]``: that many cases for each target; a finding is printed with its number."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS


async def main(executions: int, first: int) -> int:
    """How many findings there are; one for each target ends it."""
    findings = 0
    for name, (target, seeds) in TARGETS.items():
        began = time.monotonic()
        for number in range(first, first + executions):
            data = mutated(seeds, number)
            try:
                target(data, number)
            except Exception as error:
                findings += 1
                sys.stdout.write(f"{name}: case {number}: {type(error).__name__}: {error}\n  {data!r}\n")
                break
        else:
            sys.stdout.write(f"{name}: {executions:,} executions in {time.monotonic() - began:.0f} s, no finding\n")
    return findings


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, secrets.randbelow(2**40))))
