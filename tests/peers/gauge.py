"""What a process holds, looked at from outside while something goes on: resident memory, and connections."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
PERIOD: Final = 0.005  # seconds between two looks
MEBIBYTE: Final = 1 << 20


class Connected(NamedTuple):
    """One end of an open TCP connection over IPv4, as its owner sees it."""

    port: int
    address: str  # the other end's
    to: int  # the other end's port


def connections() -> list[Connected]:
    """Every end on this machine that some process has a descriptor of."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[9]) and int(fields[2].partition(":")[2], 16):  # it has an owner, and another end
            address, _, to = fields[2].partition(":")
            there = ".".join(str(octet) for octet in reversed(bytes.fromhex(address)))
            found.append(Connected(int(fields[1].partition(":")[2], 16), there, int(to, 16)))
    return found


class Gauge:
    """Looks at a process in a thread until it is left.  ``grown`` is in octets, by the highest that was seen."""

    def __init__(self, pid: int) -> None:
        self._folder: Final = Path(f"/proc/{pid}")
        self.before = self.highest = self.resident()
        self._over: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._look, daemon=True)

    def __repr__(self) -> str:
        return f"<Gauge {self.before / MEBIBYTE:.1f} MiB and {self.grown / MEBIBYTE:.1f} more>"

    @property
    def grown(self) -> int:
        """How much more it held at any moment than at the beginning."""
        return self.highest - self.before

    def resident(self) -> int:
        """Octets in memory now."""
        return int((self._folder / "statm").read_text().split()[1]) * PAGE

    def look(self) -> None:
        """Once more."""
        self.highest = max(self.highest, self.resident())

    def _look(self) -> None:
        while not self._over.wait(PERIOD):
            self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
