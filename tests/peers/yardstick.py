"""How slow this machine is just now: what a test that measures real time measures it by.

A bound of the product holds for an idle machine.  On one that is busy with other work every process gets a part of the
processors only, so that a bound is multiplied by what a piece of plain work takes longer in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

WORK_SECONDS: Final = 0.05
"""Processor time of one measurement: several turns of a scheduler that shares a processor."""
FRESH_SECONDS: Final = 5.0
"""A measurement is used again for so long."""

_measured: tuple[float, float] | None = None


def measure() -> float:
    """Wall-clock seconds for each second of processor time that this thread gets; 1.0 on an idle machine."""
    began, worked = time.perf_counter(), time.thread_time()
    while time.thread_time() - worked < WORK_SECONDS:
        pass
    return max(1.0, (time.perf_counter() - began) / (time.thread_time() - worked))


def slowdown() -> float:
    """The median of three measurements, at most ``FRESH_SECONDS`` old."""
    global _measured
    if _measured is None or time.monotonic() - _measured[0] > FRESH_SECONDS:
        _measured = (time.monotonic(), statistics.median(measure() for _ in range(3)))
    return _measured[1]


def stretched(seconds: float) -> float:
    """A time that is enough on an idle machine, as long as this machine needs now."""
    return seconds * slowdown()


def lifetime(seconds: float) -> float:
    """The same for a time that a story waits out several times: at most four times as long, so that the story ends."""
    return seconds * min(slowdown(), 4.0)


@contextmanager
def within(seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """The block takes at most so many seconds of an idle machine; it is never cut off, so give it ``PATIENCE``."""
    began = clock()
    yield
    took = clock() - began
    if took > seconds:  # measured only where it matters, and under the same load
        allowed = seconds * max(measure() for _ in range(5))
        assert took <= allowed, f"it took {took:.2f} s, and at most {allowed:.2f} s are allowed for {seconds} s"
