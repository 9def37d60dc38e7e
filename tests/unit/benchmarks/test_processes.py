"""What the operating system says of processes is read right, and cores are divided right."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.generators import WrongAnswers
from benchmarks.processes import TICK, Cores, Stat, cpu_seconds, descendants, family, pinned, resident
from benchmarks.rounds import consumed

LINE = (
    "812 (web (work) er) S 700 812 812 0 -1 4194560 9 0 0 0 1234 66 5000 700 20 0 1 0 55 1000 200 18446744073709551615"
)


def test_a_stat_line_is_read() -> None:
    """Fields are counted behind the program's name, whatever is in it; times of ended children are not its own."""
    stat = Stat.parse(LINE)
    assert (stat.pid, stat.parent, stat.state) == (812, 700, "S")
    assert stat.cpu == pytest.approx(1300 * TICK)


def test_a_family_is_found() -> None:
    """A process, what it started and what that started; not its siblings, and not what has ended."""
    tree = [(1, 0, "S"), (5, 1, "S"), (6, 5, "R"), (7, 6, "S"), (8, 1, "S"), (9, 5, "Z")]
    assert descendants(5, [Stat(pid, parent, state, 0.0) for pid, parent, state in tree]) == [5, 6, 7]


def test_a_real_family_is_found() -> None:
    """A child of this process is in its family, with memory and a clock; after its end it is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        assert resident([child.pid]) > 2**16
        assert cpu_seconds([child.pid])[child.pid] >= 0.0
        assert child.stdin is not None
        child.stdin.close()
    assert child.pid not in family(os.getpid())


def test_work_is_counted() -> None:
    """A process that has worked for a time has had about that time, in seconds."""
    before, began = cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() - began < 0.2:
        pass
    spent = consumed(before, cpu_seconds([os.getpid()]))
    assert spent == pytest.approx(time.process_time() - began, abs=0.1)


def test_consumption_is_a_sum() -> None:
    """Of all processes, those that began meanwhile too; one that ended took its time with it, which is an error."""
    assert consumed({1: 1.0, 2: 2.0}, {1: 1.5, 2: 2.25, 3: 0.25}) == pytest.approx(1.0)
    with pytest.raises(WrongAnswers, match=r"\[2\]"):
        consumed({1: 1.0, 2: 2.0}, {1: 1.5})


def test_cores_are_divided() -> None:
    """The proxy has the first one to itself, unless there is no other."""
    assert Cores.split([3, 1, 2]) == (frozenset({1}), frozenset({2, 3}))
    assert Cores.split([1, 2]).apart
    assert not Cores.split([1]).apart


def test_workers_get_cores_of_their_own() -> None:
    """As long as there are any left; then the generator shares the last one."""
    assert Cores.split(range(4)).for_workers(2) == (frozenset({0, 1}), frozenset({2, 3}))
    assert Cores.split(range(4)).for_workers(4) == (frozenset({0, 1, 2, 3}), frozenset({3}))
    assert Cores.split(range(1)).for_workers(1) == (frozenset({0}), frozenset({0}))


def test_what_is_started_inside_is_pinned() -> None:
    """A child has the cores that were named, and this process has its own again."""
    mine = os.sched_getaffinity(0)
    one = min(mine)
    with pinned({one}):
        said = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], capture_output=True, text=True
        )
    assert said.stdout.strip() == str({one})
    assert os.sched_getaffinity(0) == mine
