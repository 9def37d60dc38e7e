"""Texts that only we can have made: a few values and a code over them, under keys of the signing ring.

Knows nothing of what the values mean.  Nothing has to be stored to know such a text again, so that a store that was
read or emptied gives nothing away and loses nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Final

_LONGEST: Final = 4096  # characters


class Stamp:
    """Texts of one kind.  ``keys`` gives the keys of now: the first stamps, all are believed."""

    def __init__(self, prefix: str, keys: Callable[[], tuple[bytes, ...]]) -> None:
        self._prefix: Final = prefix
        self._keys: Final = keys

    def bears(self, text: str) -> bool:
        """Whether ``text`` begins like one of these; nothing is proved."""
        return text.startswith(self._prefix)

    def make(self, values: list[str | int | float | None]) -> str:
        """The text for ``values``: always the same one under the same keys."""
        body = self._prefix + _encode(json.dumps(values, separators=(",", ":")).encode())
        return f"{body}.{self._code(self._keys()[0], body)}"

    def read(self, text: str) -> list[str | int | float | None] | None:
        """The values of a text that we have made, else None."""
        body, _, code = text.rpartition(".")
        if not self.bears(body) or len(text) > _LONGEST or not text.isascii():
            return None
        if not any(hmac.compare_digest(code, self._code(key, body)) for key in self._keys()):
            return None
        packed = body.removeprefix(self._prefix)
        values: list[str | int | float | None] = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        return values

    @staticmethod
    def _code(key: bytes, body: str) -> str:
        return _encode(hmac.new(key, body.encode("ascii"), hashlib.sha256).digest())

    def __repr__(self) -> str:
        return f"<Stamp {self._prefix}>"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
