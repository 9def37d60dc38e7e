"""A secret that may change while the program runs: remembered, and looked for anew when its file changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from authproxy.settings.schema import SecretRef

_LOOK: Final = 1.0  # seconds between two looks at the file


class FreshSecret:
    """Calling it gives the secret.  The file is looked at once a second at most, and read when it is another."""

    def __init__(self, reference: SecretRef, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reference: Final = reference
        self._clock: Final = clock
        self._value: str | None = None
        self._mark: object = None
        self._looked = float("-inf")

    def __call__(self) -> str:
        """The secret.  Raises LookupError when there never was one; a file that vanishes later changes nothing."""
        if self._value is not None and self._clock() - self._looked < _LOOK:
            return self._value
        self._looked = self._clock()
        mark = self._marked()
        if self._value is None or mark != self._mark:
            self._read(mark)
        assert self._value is not None  # noqa: S101 -- _read raises otherwise
        return self._value

    def _read(self, mark: object) -> None:
        try:
            self._value, self._mark = self._reference.reveal(), mark
        except LookupError:
            if self._value is None:
                raise

    def _marked(self) -> object:
        if self._reference.file is None:
            return None
        try:
            found = self._reference.file.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def __repr__(self) -> str:
        return f"<FreshSecret {'known' if self._value is not None else 'not read yet'}>"
