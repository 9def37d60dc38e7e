"""The audit trail: one JSON object a line, one line for each exchange and for each event that changes who is who.

No query, no header and no credential is ever written; text from outside is shortened and escaped by JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

_MAX: Final = 256


class Audit:
    """Writes records to a file or to standard output."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock: Final = clock

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
        line: dict[str, object] = {"time": self._now(), "event": event}
        for name, value in fields.items():
            if value is None or value in ("", 0) or value == ():
                continue
            line[name] = value[:_MAX] if isinstance(value, str) else value
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._stream.flush()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def close(self) -> None:
        """Close the file."""
        if self._stream is not sys.stdout:
            self._stream.close()


def _opened(file: Path | None) -> TextIO:
    return file.open("a", buffering=1, encoding="utf-8") if file else sys.stdout
