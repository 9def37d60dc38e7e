"""Single values from the environment: ``AUTHPROXY__LISTEN__ADDRESS=0.0.0.0:8080``.

Two underscores separate the steps of a key path; case does not matter, and ``-`` and ``.`` in names are written ``_``.
A variable that names nothing is a fault: a typing error must not leave the file's value in force unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from authproxy.settings import places
from authproxy.settings.lines import Fault, KeyPath, Lines

PREFIX: Final = "AUTHPROXY__"


class Misnamed(Exception):
    """The variable cannot be brought to a place; the message says why."""


def apply(
    data: dict[str, Any], lines: Lines, environ: Mapping[str, str], scalar: Callable[[str], object]
) -> list[Fault]:
    """Put every override into ``data``; the faults of those that fit nowhere.  ``scalar`` reads a YAML scalar."""
    faults = []
    for variable in sorted(environ):
        if variable.upper().startswith(PREFIX):
            try:
                text = environ[variable].rstrip("\r\n")  # as at the end of a secret
                _apply(data, lines, variable, text, scalar)
            except Misnamed as why:
                faults.append(Fault((), str(why), source=variable))
    return faults


def _apply(data: dict[str, Any], lines: Lines, variable: str, text: str, scalar: Callable[[str], object]) -> None:
    path = _resolve(data, variable)
    allowed = places.at(path)
    if not any(places.is_scalar(shape) for shape in allowed):
        raise Misnamed("names a section or a list; name one single value inside it")
    if not text.strip():
        raise Misnamed("is empty; unset the variable or give it a value")
    if not text.isprintable():
        raise Misnamed("holds a line break or another control character")
    value = scalar(text)
    wants_text = str in allowed and not isinstance(value, str) and not {int, bool, float} & set(allowed)
    _put(data, path, text if wants_text and value is not None else value)
    lines.replace(path, variable)


def _resolve(data: dict[str, Any], variable: str) -> KeyPath:
    path: KeyPath = ()
    here: object = data
    for step in variable[len(PREFIX) :].split("__"):
        key = _key(here, places.at(path), step, variable)
        here = _inside(here, key)
        path = (*path, key)
    return path


def _key(here: object, allowed: places.Shapes, step: str, variable: str) -> str | int:
    if isinstance(here, list):
        return _position(here, step)
    known = places.keys(allowed)
    if places.takes_names(allowed) and isinstance(here, dict):
        known = [*known, *here]
    fits = [key for key in known if _fold(key) == _fold(step)]
    if len(fits) > 1:
        raise Misnamed(f"fits more than one key: {', '.join(fits)}")
    if not fits:
        near = places.closest(_fold(step), [_fold(key) for key in known])
        meant = variable.upper().replace(f"__{step.upper()}", f"__{near.upper()}", 1) if near else ""
        raise Misnamed(f"names no key of the settings{f'; did you mean {meant}?' if near else ''}")
    return fits[0]


def _position(here: list[object], step: str) -> int:
    if not step.isdecimal() or not step.isascii() or int(step[:9]) >= len(here):
        raise Misnamed(f"must give a position from 0 to {len(here) - 1} in the list, where it says {step}")
    return int(step)


def _fold(key: str) -> str:
    return key.lower().replace("-", "_").replace(".", "_")


def _inside(here: object, key: str | int) -> object:
    if isinstance(here, list) and isinstance(key, int):
        return here[key]
    return here.get(key) if isinstance(here, dict) else None


def _put(data: Any, path: KeyPath, value: object) -> None:
    for step in path[:-1]:
        if isinstance(step, str) and data.get(step) is None:
            data[step] = {}
        data = data[step]
        if not isinstance(data, dict | list):
            raise Misnamed(f"cannot be set, since the file has a single value where {step} should be a section")
    data[path[-1]] = value
