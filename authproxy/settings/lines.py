"""Where things stand: key paths, their lines in the file, and the faults found at them.

This module knows paths and line numbers.  It knows neither YAML nor what any key means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from authproxy.errors import Problem

KeyPath = tuple[str | int, ...]
"""``("apps", "dashboard", "routes", 1)``: names and list positions from the root."""


class Fault(NamedTuple):
    """Something wrong at a key, before it is known how its place is called."""

    path: KeyPath
    message: str
    warning: bool = False
    line: int = 0  # 0: the line of ``path``
    source: str = ""  # the environment variable that is to blame instead of the file
    awaited: bool = False  # see errors.Problem


def render(path: KeyPath) -> str:
    """The path as people write it: ``apps.dashboard.routes[1]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path if step != "")
    return text.removeprefix(".")


def related(one: KeyPath, other: KeyPath) -> bool:
    """Whether one path is the other, or lies inside it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


class Lines:
    """The line of every key path of one settings file, and the variables that replaced some of its values."""

    def __init__(self, file: str) -> None:
        self.file: Final = file
        self._lines: Final[dict[str, int]] = {}
        self._sources: Final[dict[str, str]] = {}

    def note(self, path: KeyPath, line: int) -> None:
        """Remember that ``path`` stands in ``line`` (1-based); the first note of a path stays."""
        self._lines.setdefault(render(path), line)

    def replace(self, path: KeyPath, variable: str) -> None:
        """Remember that the value at ``path`` came from the environment."""
        self._sources[render(path)] = variable

    def is_replaced(self, path: KeyPath) -> bool:
        """Whether the value at ``path`` itself came from the environment."""
        return render(path) in self._sources

    def of(self, path: str) -> int:
        """The line of ``path``, or of its nearest ancestor that has one; 0 when the value is not from the file."""
        return self.place(path)[1]

    def place(self, path: str) -> tuple[str, int]:
        """File name and line of ``path``, or the variable that replaced it and 0."""
        while path and path not in self._sources and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        if path in self._sources:
            return self._sources[path], 0
        return self.file, self._lines.get(path, 0)

    def problem(self, fault: Fault) -> Problem:
        """The fault with its place."""
        shown = render(fault.path)
        file, line = (fault.source, 0) if fault.source else self.place(shown)
        return Problem(file, fault.line or line, shown, fault.message, fault.warning, fault.awaited)

    def __repr__(self) -> str:
        return f"<Lines {self.file}: {len(self._lines)} paths, {len(self._sources)} from the environment>"


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """The problems in the order of the file; those without a line come last.  Repetitions are dropped."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line == 0, problem.line))
