"""The yardstick itself: an idle machine is 1, a shared processor is more, and a bound fails when it is exceeded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.peers import yardstick

BUSY = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    pass
"""


def test_a_shared_processor_is_slower() -> None:
    """With three busy loops on the same processor, plain work takes longer by more than a half."""
    before = os.sched_getaffinity(0)
    cpu = str(min(before))
    os.sched_setaffinity(0, {int(cpu)})
    words = [sys.executable, "-c", BUSY, cpu, str(os.getpid())]
    loops = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for loop in loops:
            assert loop.stdout is not None
            assert loop.stdout.readline() == "\n"
        assert max(yardstick.measure() for _ in range(5)) > 1.5
    finally:
        os.sched_setaffinity(0, before)
        for loop in loops:
            loop.kill()
            loop.communicate()


def test_a_bound_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that takes longer than the machine explains fails; one that the machine explains does not."""
    now = [0.0]
    monkeypatch.setattr(yardstick, "measure", lambda: 2.0)
    with yardstick.within(1.0, clock=lambda: now[0]):
        now[0] += 1.9
    with pytest.raises(AssertionError, match=r"at most 2\.00 s"), yardstick.within(1.0, clock=lambda: now[0]):
        now[0] += 2.1
