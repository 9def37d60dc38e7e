"""The settings file into ``Settings``: read, override, shape, check; every problem at once, each with its line.

The only module that knows YAML.  Scalars are read more narrowly than YAML 1.1 does: ``true`` and ``false`` alone are
booleans, whole and decimal numbers are numbers, and everything else (``yes``, ``0755``, ``2024-01-01``, ``12:30``) is
the text that it looks like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from authproxy.errors import Problem, SettingsError
from authproxy.settings import crosscheck, crosscheck_files, overrides, places, secret_sources, unserved
from authproxy.settings.lines import Fault, KeyPath, Lines, in_order, render
from authproxy.settings.schema import Settings
from authproxy.settings.scope import Scope
from authproxy.settings.shaping import Shaped

MAX_FILE: Final = 1 << 20  # bytes
_MAX_NODES: Final = 20_000  # after aliases are followed: a few lines of them can stand for billions
_MAX_DEPTH: Final = 32
_TAGS: Final = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_WHOLE: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_DECIMAL: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_WORDS: Final[Mapping[str, object]] = {"true": True, "false": False, "null": None, "~": None}
_SYNTAX: Final = (
    (
        "mapping values are not allowed",
        "a : stands where no key can; check the indentation, and quote text that holds it",
    ),
    ("could not find expected ':'", "a key has no : after it"),
    (
        "cannot start any token",
        "a character stands where no value can begin; use spaces to indent, and quote such text",
    ),
    (
        "expected alphabetic or numeric",
        "a * or & has no name after it; put text that starts with one of them in quotes",
    ),
    ("undefined alias", "an alias (*) has no anchor (&); put text that starts with * in quotes"),
    ("unexpected end of stream", "a quote or bracket is not closed"),
    ("but found another document", "there is more than one document; remove the --- between them"),
    ("expected <block end>", "the indentation does not fit here, or a bracket above it has no end"),
    ("expected ',' or", "a [ or { is not closed, or a comma is missing"),
    ("duplicate anchor", "an anchor (&) has the name of another one"),
)


class Loaded(NamedTuple):
    """Settings that can be served, with what is doubtful in them or still awaited, and where everything stands."""

    settings: Settings
    warnings: tuple[Problem, ...]
    lines: Lines


def load(path: Path, environ: Mapping[str, str] = os.environ, *, to_serve: bool = True) -> Loaded:
    """Read the settings file at ``path``, with overrides and secrets from ``environ``.

    Whoever does not mean ``to_serve`` them may read settings elsewhere than where they are used: no secret and no
    other file is looked at, and what this version does not serve is a warning.

    Raises ``SettingsError`` with every error that was found, in the order of the file; those that are ``awaited`` are
    among the warnings when nothing else is wrong.
    """
    settings, problems, lines = _examine(path, environ, to_serve=to_serve)
    return Loaded(_served(settings, problems), tuple(problems), lines)


def inspect(path: Path, environ: Mapping[str, str] = os.environ) -> list[Problem]:
    """Every error and warning about the file at ``path``, in its order; nothing is raised."""
    try:
        return _examine(path, environ, to_serve=True)[1]
    except SettingsError as unreadable:
        return unreadable.problems


def from_mapping(
    data: Mapping[str, Any], base: Path, environ: Mapping[str, str] = os.environ, *, name: str = "settings"
) -> Settings:
    """Settings from plain data, with the same checks; ``base`` is the folder of relative paths.

    Raises ``SettingsError``; its problems have ``name`` for their file and no lines.
    """
    lines = Lines(name)
    settings, faults = _check(dict(data), base, [], environ, to_serve=True)
    return _served(settings, in_order(lines.problem(fault) for fault in faults))


def _served(settings: Settings | None, problems: list[Problem]) -> Settings:
    errors = [problem for problem in problems if not problem.warning]
    if settings is None or not all(problem.awaited for problem in errors):
        raise SettingsError(errors or [Problem("settings", 0, "", "cannot be understood")])
    return settings


def _examine(path: Path, environ: Mapping[str, str], *, to_serve: bool) -> tuple[Settings | None, list[Problem], Lines]:
    lines = Lines(str(path))
    reading = _Reading(lines)
    data = reading.document(_text(path))
    misnamed = overrides.apply(data, lines, environ, plain)
    unreadable = [fault for fault in reading.unreadable if not lines.is_replaced(fault.path)]
    settings, faults = _check(data, path.absolute().parent, unreadable, environ, to_serve=to_serve)
    every = [*reading.repeated, *misnamed, *faults]
    return settings, in_order(lines.problem(fault) for fault in every), lines


def _check(
    data: dict[str, Any], base: Path, unreadable: list[Fault], environ: Mapping[str, str], *, to_serve: bool
) -> tuple[Settings | None, list[Fault]]:
    """Shape the data and check what came of it; the settings are whole when no fault is an error."""
    shaped = Shaped(data, base, unreadable)
    told = {fault.path for fault in shaped.faults}
    asked = [fault._replace(warning=not to_serve) for fault in unserved.faults(data) if fault.path not in told]
    faults = [*unreadable, *shaped.faults, *asked]
    if shaped.settings is not None:
        scope = Scope(shaped.settings, shaped, data)
        crosscheck.check(scope)
        if to_serve:
            secret_sources.check(scope, environ)
            crosscheck_files.check(scope)
        faults += scope.faults
    return shaped.settings if shaped.whole else None, faults


def _fatal(file: str, message: str, line: int = 0) -> SettingsError:
    return SettingsError([Problem(file, line, "", message)])


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _fatal(str(path), f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _fatal(repr(str(path)), "is not the name of a file") from None
    if len(content) > MAX_FILE:
        raise _fatal(str(path), "is larger than 1 MiB; this is not a settings file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _fatal(str(path), "is not UTF-8 text; save it in that encoding", line) from None


def plain(text: str) -> object:
    """The value of a YAML scalar as written: quoted, or plain by the narrow rules above."""
    if text[:1] in ("'", '"'):
        try:
            node = yaml.compose(text, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, ValueError, OverflowError):
            return text
        return node.value if isinstance(node, yaml.ScalarNode) else text
    return _plain(text)


def _plain(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


class _Reading:
    """One pass over the nodes of a document: data, lines, and what cannot be data."""

    def __init__(self, lines: Lines) -> None:
        self.unreadable: Final[list[Fault]] = []  # nothing sensible stands there
        self.repeated: Final[list[Fault]] = []  # the first value stays
        self._lines: Final = lines
        self._nodes = 0

    def document(self, text: str) -> dict[str, Any]:
        """The data of a whole file.  Raises ``SettingsError`` when there is none."""
        root = self._compose(text)
        if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
            raise _fatal(self._lines.file, "is empty; it needs at least public_url")
        if not isinstance(root, yaml.MappingNode):
            raise _fatal(self._lines.file, "must hold keys, such as public_url: https://auth.example.com", _line(root))
        self._lines.note((), _line(root))
        return self._mapping(root, ())

    def _compose(self, text: str) -> yaml.Node | None:
        try:
            return yaml.compose(text, Loader=yaml.BaseLoader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise _fatal(self._lines.file, "holds a character that YAML does not allow", line) from None
        except yaml.MarkedYAMLError as error:
            message = _syntax(error.problem or "")
            mark = (error.context_mark if "not closed" in message else None) or error.problem_mark
            raise _fatal(self._lines.file, message, mark.line + 1 if mark else 0) from None
        except (RecursionError, ValueError, OverflowError):  # the latter two: \U escapes beyond Unicode
            raise _fatal(
                self._lines.file, "is not YAML that can be read: nested too deeply, or a wrong escape"
            ) from None

    def _value(self, node: yaml.Node, path: KeyPath) -> object:
        self._lines.note(path, _line(node))
        self._count(node, path)
        if node.tag not in _TAGS:
            return self._no(path, "has a YAML tag (!…); write the value alone")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _count(self, node: yaml.Node, path: KeyPath) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise _fatal(self._lines.file, "holds too much: too many values, or aliases inside aliases", _line(node))

    def _no(self, path: KeyPath, message: str) -> object:
        shown = places.shown(path)
        self.unreadable.append(Fault(shown, message if shown == path else "must be a secret: {file: …} or {env: …}"))
        return None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        text: str = node.value
        if not all(character.isprintable() or character in "\n\t" for character in text):
            return self._no(path, "holds a control character")
        if node.style is not None:
            return text
        return _plain(text) if text else self._no(path, "is empty; give it a value or remove it")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in self._pairs(node, path):
            here = (*path, key.value)
            if key.value in found:
                self._twice(here, _line(key))
                continue
            self._lines.note(here, _line(key))
            found[key.value] = self._value(value, here)
        return found

    def _twice(self, path: KeyPath, line: int) -> None:
        message = f"is written twice, in lines {self._lines.of(render(path))} and {line}; remove one"
        self.repeated.append(Fault(places.shown(path), message, line=line))

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        good = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value or not key.value.isprintable():
                self._no((*path, ""), "has a key that is no plain name")
            elif key.value == "<<" and key.style is None:
                self._no((*path, "<<"), "is not supported; write the keys out, or use an alias for the whole")
            else:
                good.append((key, value))
        return good


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax(problem: str) -> str:
    """What PyYAML says, in plain words; never with text from the file, which may be a secret."""
    for part, words in _SYNTAX:
        if part in problem:
            return f"is not YAML: {words}"
    return "is not YAML: check indentation, quotes and brackets here"
