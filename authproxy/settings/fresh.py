"""What may change while the program runs: remembered, and looked for anew when its file changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

from authproxy.changes import stamp
from authproxy.settings.schema import SecretRef

log = logging.getLogger("authproxy")
_LOOK: Final = 1.0  # seconds between two looks at the file
_T = TypeVar("_T")


class Fresh(Generic[_T]):
    """Calling it gives what ``made`` made of the source's text; the text itself is not kept.

    The file is looked at once a second at most, and read when it is another.  A file that vanishes, or of which
    ``made`` says ValueError, changes nothing.
    """

    def __init__(
        self, reference: SecretRef, made: Callable[[str], _T], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reference: Final = reference
        self._made: Final = made
        self._clock: Final = clock
        self._known = False
        self._value: _T | None = None
        self._mark: object = None
        self._looked = float("-inf")

    def __call__(self) -> _T:
        """The value.  Raises LookupError or ValueError when there never was one."""
        if not self._known or self._clock() - self._looked >= _LOOK:
            self._looked = self._clock()
            mark = self._marked()
            if not self._known or mark != self._mark:
                self._read(mark)
        return cast("_T", self._value)

    def _read(self, mark: object) -> None:
        try:
            self._value = self._made(self._reference.reveal())
        except LookupError:
            if not self._known:
                raise
            return  # it may be back in a moment, with the same mark as before
        except ValueError as error:
            if not self._known:
                raise
            log.error("%s changed but cannot be used, the old one stays: %s", self._reference.file, error)
        self._known, self._mark = True, mark

    def _marked(self) -> object:
        return None if self._reference.file is None else stamp(self._reference.file)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'known' if self._known else 'not read yet'}>"


class FreshSecret(Fresh[str]):
    """A secret.  Raises LookupError when there never was one."""

    def __init__(self, reference: SecretRef, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(reference, str, clock=clock)
