"""A window into the process under test: on SIGUSR2 it writes what it holds to the file that ``PROBE`` names.

Python imports this before anything else where this folder is in ``PYTHONPATH``.  Nothing of the proxy is touched.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from types import FrameType


def look(_number: int, _frame: FrameType | None) -> None:
    """Collect the garbage; then count what is left, by what it is."""
    gc.collect()
    found = gc.get_objects()
    marks = sum(type(one).__name__ == "Mark" for one in found)
    counts = {
        "objects": len(found) - marks,
        "marks": marks,
        "tasks": sum(isinstance(one, asyncio.Task) and not one.done() for one in found),
        "graphs": sum(type(one).__name__ == "Graph" and type(one).__module__ == "authproxy.graph" for one in found),
        "sessions": sum(type(one).__name__ == "LiveSession" for one in found),
    }
    place = os.environ["PROBE"]
    with open(f"{place}.new", "w", encoding="ascii") as file:
        json.dump(counts, file)
    os.replace(f"{place}.new", place)


if "PROBE" in os.environ:
    signal.signal(signal.SIGUSR2, look)
