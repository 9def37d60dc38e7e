"""The audit trail: one JSON object a line, one line for each exchange and for each event that changes who is who.

No query, no header and no credential is ever written; text from outside is shortened and escaped by JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _text
from pathlib import Path
from typing import Final, TextIO

from authproxy.model import RequestInfo

_MAX: Final = 256  # characters of a text
_SHORTEST: Final = 16
_WHOLE: Final = 4096  # octets that POSIX has written to a pipe at once (PIPE_BUF)

_MILLISECONDS: Final = tuple(f"{number:03d}" for number in range(1000))


class Audit:
    """Writes records to a file or to standard output."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock: Final = clock
        self._second = -1
        self._said = ""
        self._waiting: list[str] = []  # lines

    @classmethod
    def open(cls, file: Path | None, *, clock: Callable[[], float]) -> Audit:
        """To ``file``, appended line by line, or to standard output.  Raises OSError."""
        return cls(_opened(file), clock=clock)

    def reopen(self, file: Path | None) -> None:
        """From now on to ``file``, opened anew, or to standard output.  Raises OSError; then nothing has changed."""
        opened = _opened(file)
        self.close()
        self._stream = opened

    def record(self, event: str, **fields: object) -> None:
        """Write one record; empty fields are left out."""
        line = _line(self._now(), event, fields, _MAX)
        shortest = _MAX
        while len(line) > _WHOLE and shortest > _SHORTEST:
            shortest //= 2
            line = _line(self._now(), event, fields, shortest)
        if self._waiting:  # it came first
            self.write_out()
        self._write(line)

    def exchange(self, info: RequestInfo, told: str, status: int, seconds: float) -> None:
        """One exchange that was let through.  ``told`` are the fields that many of them share (``told``).

        Of the words of ``info`` the path alone may have to be escaped.  What one turn of the event loop has to tell is
        written at its end.
        """
        now = self._clock()
        second = int(now)
        if second != self._second:  # said once for all records of a second
            self._begin(second)
        if not self._waiting:
            self._soon()
        self._waiting.append(
            f'{{"time":"{self._said}.{_MILLISECONDS[int((now - second) * 1000)]}Z","event":"exchange"'
            f',"request_id":"{info.request_id}","client":"{info.client}","method":"{info.method}","host":"{info.host}"'
            f',"path":{_text(info.raw_path[:_MAX])}{told},"status":{status},"ms":{seconds * 1000:.1f}}}\n'
        )

    def _soon(self) -> None:
        """Write what waits at the end of this turn of the event loop."""
        asyncio.get_running_loop().call_soon(self.write_out)

    def write_out(self) -> None:
        """Write what waits, as many whole lines at once as fit."""
        lines, self._waiting = self._waiting, []
        octets = 0
        whole: list[str] = []
        for line in lines:
            if whole and octets + len(line) > _WHOLE:
                self._write("".join(whole))
                octets, whole = 0, []
            octets += len(line)
            whole.append(line)
        if whole:
            self._write("".join(whole))

    def _write(self, lines: str) -> None:
        self._stream.write(lines)
        self._stream.flush()

    def _now(self) -> str:
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._begin(second)
        return f"{self._said}.{int((now - second) * 1000):03d}Z"

    def _begin(self, second: int) -> None:
        self._second, self._said = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    def close(self) -> None:
        """Close the file."""
        self.write_out()
        if self._stream is not sys.stdout:
            self._stream.close()


def told(**fields: str) -> str:
    """Fields for ``Audit.exchange``; empty ones are left out."""
    return "".join([f',"{name}":{_text(value[:_MAX])}' for name, value in fields.items() if value])


def _line(now: str, event: str, fields: Mapping[str, object], longest: int) -> str:
    """One line of ASCII, as many octets as characters.

    It has to be short enough to be written whole: several processes may write to one pipe or file.
    """
    told = [f'{{"time":"{now}","event":{_text(event)}']
    for name, value in fields.items():
        if isinstance(value, str):
            if value:
                told.append(f'"{name}":{_text(value[:longest])}')
        elif not (value is None or value in (0, ())):
            told.append(f'"{name}":{_told(value)}')
    return ",".join(told) + "}\n"


def _told(value: object) -> str:
    """A value that is no text as JSON."""
    return repr(value) if type(value) in (int, float) else json.dumps(value, separators=(",", ":"))


def _opened(file: Path | None) -> TextIO:
    return file.open("a", buffering=1, encoding="utf-8") if file else sys.stdout
