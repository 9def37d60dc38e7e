"""What the operating system knows of processes: who belongs to whom, how much CPU they had, what they hold.

Reads /proc, so Linux alone.  Knows nothing of proxies.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK")
"""Seconds of one unit of /proc/PID/stat."""
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
FILES: Final = 20_000
"""Open files that the largest scene needs, with room to spare."""
PROC: Final = Path("/proc")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that matter here (proc(5))."""

    pid: int
    parent: int
    state: str
    cpu: float  # seconds, user and system, of all its threads

    @classmethod
    def parse(cls, text: str) -> Stat:
        """One line; the name of the program may hold spaces and brackets, so fields are counted behind the last one."""
        head, _, rest = text.rpartition(")")
        fields = rest.split()
        return cls(int(head.split()[0]), int(fields[1]), fields[0], (int(fields[11]) + int(fields[12])) * TICK)


def _stats() -> Iterator[Stat]:
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                yield Stat.parse((folder / "stat").read_text())
            except OSError:
                continue  # it ended meanwhile


def descendants(root: int, stats: Iterable[Stat]) -> list[int]:
    """``root`` and all that it started, and they started, in ascending order; those that have ended are left out."""
    living = {one.pid: one.parent for one in stats if one.state not in "ZX"}
    found = {root} & living.keys()
    while more := {pid for pid, parent in living.items() if parent in found} - found:
        found |= more
    return sorted(found)


def family(root: int) -> list[int]:
    """The process and all below it, now."""
    return descendants(root, list(_stats()))


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time that each of these processes has had since it began, in ticks of 10 ms."""
    return {pid: Stat.parse((PROC / str(pid) / "stat").read_text()).cpu for pid in pids}


def resident(pids: Iterable[int]) -> int:
    """Octets in memory; what processes share is counted for each."""
    return sum(int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE for pid in pids)


class Cores(NamedTuple):
    """Where what is measured runs, and where everything else does."""

    proxy: frozenset[int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether they share no core."""
        return not self.proxy & self.others

    @classmethod
    def split(cls, available: Iterable[int]) -> Cores:
        """The first for the proxy, the others for the rest; with only one, both share it."""
        first, *rest = sorted(available)
        return cls(frozenset({first}), frozenset(rest or [first]))

    def for_workers(self, count: int) -> Cores:
        """Cores for so many processes of a proxy: the rest gives way, but for its last core, which may be shared."""
        everything = sorted(self.proxy | self.others)
        rest = everything[count:] or everything[-1:]
        return Cores(frozenset(everything[:count]), frozenset(rest))


@contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    """What is started inside may run on these cores alone; the caller is back on its own afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files() -> int:
    """As many open files as this process may have at most, for it and what it starts; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(most, FILES), most):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except ValueError:
            continue  # only some may raise the limit itself
        return wanted
    return most
