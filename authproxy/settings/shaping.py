"""Data into ``Settings``, without letting one mistake hide the next.

What does not fit is reported, cut out of a copy, and the rest is tried again, so that the checks between sections see
everything that can be understood.  Follow-on complaints of a cut are not reported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from authproxy.settings import wording
from authproxy.settings.lines import Fault, KeyPath, related
from authproxy.settings.schema import Settings

_ROUNDS: Final = 100
STAND_INS: Final[Mapping[str, Any]] = {
    "audience": "stand-in",
    "audiences": ["stand-in"],
    "bearer": {"file": "stand-in"},
    "burst": 1,
    "cert": "stand-in",
    "client_id": "stand-in",
    "every": "1s",
    "issuer": "https://stand-in.invalid",
    "key": "stand-in",
    "networks": ["192.0.2.0/28"],
    "nodes": ["stand-in:6379"],
    "path": "/stand-in",
    "policy": "",
    "provider": "",
    "public_url": "https://stand-in.invalid",
    "routes": [{"path": "/", "policy": ""}],
    "secrets": [{"file": "stand-in"}],
    "server": "https://stand-in.invalid",
    "service": "stand-in",
    "upstream": {"url": "http://stand-in.invalid"},
    "users": {"file": "stand-in"},
}
"""What takes the place of a required key that is missing or wrong, so that its section can be looked at."""


class Shaped:
    """What became of the data: ``settings`` (None when nothing could be saved), ``faults``, and what was cut out.

    When there are no faults, ``settings`` is the whole truth.
    """

    def __init__(self, data: dict[str, Any], base: Path, unreadable: Iterable[Fault]) -> None:
        self.faults: Final[list[Fault]] = []
        self.settings: Settings | None = None
        self._data: Final = copy.deepcopy(data)
        self._base: Final = base
        self._cut: Final[set[KeyPath]] = set()  # in the coordinates of the file
        self._prune([fault.path for fault in unreadable])
        self._attempt()

    def broken(self, path: KeyPath) -> bool:
        """Whether something at, inside or around ``path`` (as in the file) was already reported."""
        return any(related(path, cut) for cut in self._cut)

    @property
    def whole(self) -> bool:
        """Whether nothing was cut out."""
        return not self._cut

    def original(self, path: KeyPath) -> KeyPath:
        """``path`` of the pruned data as it stands in the file, where list items may have been cut out before it."""
        found: KeyPath = ()
        for step in path:
            found = (*found, self._position(found, step) if isinstance(step, int) else step)
        return found

    def _position(self, around: KeyPath, index: int) -> int:
        gone = {cut[-1] for cut in self._cut if cut[:-1] == around}
        position = -1
        for _ in range(index + 1):
            position += 1
            while position in gone:
                position += 1
        return position

    def _attempt(self) -> None:
        for _ in range(_ROUNDS):
            try:
                self.settings = Settings.model_validate(self._data, context={"base": self._base})
            except ValidationError as error:
                if not self._learn(error):
                    return
            else:
                return

    def _learn(self, error: ValidationError) -> bool:
        """Report what is new, cut out what is wrong; False when there is nothing left to try."""
        errors = error.errors(include_url=False, include_input=False)
        found = wording.faults(errors, self._data)
        told = [fault._replace(path=self.original(fault.path)) for fault in found]
        self.faults.extend(fault for fault in told if not self.broken(fault.path))
        absent = {wording.locate(item, self._data) for item in errors if item["type"] == "missing"}
        for path in absent:
            self._stand_in(path)
        return self._prune({fault.path for fault in found} - absent) or bool(absent)

    def _stand_in(self, path: KeyPath) -> None:
        self._cut.add(self.original(path))
        section: Any = self._data
        for step in path[:-1]:
            section = section[step]
        section[path[-1]] = copy.deepcopy(STAND_INS[str(path[-1])])

    def _prune(self, paths: Iterable[KeyPath]) -> bool:
        """Cut ``paths`` out, the last first, so that positions stay what they were."""
        doomed = sorted(set(paths), key=_order, reverse=True)
        self._cut.update([self.original(path) for path in doomed])
        return sum(_remove(self._data, path) for path in doomed) > 0


def _order(path: KeyPath) -> tuple[tuple[int, str], ...]:
    return tuple((step, "") if isinstance(step, int) else (-1, step) for step in path)


def _remove(data: Any, path: KeyPath) -> bool:
    try:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]
    except (LookupError, TypeError):
        return False
    return True
