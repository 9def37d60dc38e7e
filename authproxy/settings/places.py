"""What the schema allows at a key path: which keys, which shapes.

Read from the pydantic models, so that messages, environment overrides and the reference never drift from them.
This module knows types only; it never sees a value.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import SecretRef, Settings

Shapes = tuple[Any, ...]
"""The alternatives that a place allows, with ``Annotated`` and unions taken apart."""

ROOT: Final[Shapes] = (Settings,)


def shapes(annotation: Any) -> Shapes:
    """The alternatives of one annotation."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shapes(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(shape for part in get_args(annotation) for shape in shapes(part))
    return (annotation,)


def is_section(shape: Any) -> bool:
    """Whether the shape is a model with fixed keys."""
    return isinstance(shape, type) and issubclass(shape, BaseModel)


def is_scalar(shape: Any) -> bool:
    """Whether one single value fits."""
    return not is_section(shape) and get_origin(shape) not in (dict, list)


def step(allowed: Shapes, key: str | int) -> Shapes:
    """What is allowed one step further; empty when nothing is."""
    return tuple(shape for outer in allowed for shape in _inner(outer, key))


def _inner(shape: Any, key: str | int) -> Shapes:
    if is_section(shape):
        field = shape.model_fields.get(key)
        return shapes(field.annotation) if field else ()
    return _item(shape, key)


def _item(shape: Any, key: str | int) -> Shapes:
    if _is(shape, list) and isinstance(key, int):
        return shapes(get_args(shape)[0])
    if _is(shape, dict) and isinstance(key, str):
        named = _fixed_names(shape)
        return shapes(get_args(shape)[1]) if not named or key in named else ()
    return ()


def _is(shape: Any, container: type[Any]) -> bool:
    origin: Any = get_origin(shape)
    return origin is container


def _fixed_names(shape: Any) -> tuple[str, ...]:
    key = get_args(shape)[0]
    return get_args(key) if get_origin(key) is Literal else ()


def at(path: KeyPath) -> Shapes:
    """What is allowed at ``path``."""
    allowed = ROOT
    for key in path:
        allowed = step(allowed, key)
    return allowed


def keys(allowed: Shapes) -> list[str]:
    """The fixed keys that may stand here, in the order of the schema."""
    found: list[str] = []
    for shape in allowed:
        if is_section(shape):
            found += shape.model_fields
        elif _is(shape, dict):
            found += _fixed_names(shape)
    return found


def takes_names(allowed: Shapes) -> bool:
    """Whether the operator chooses the keys here."""
    return any(_is(shape, dict) and not _fixed_names(shape) for shape in allowed)


def is_secret(allowed: Shapes) -> bool:
    """Whether a secret is what belongs here."""
    return SecretRef in allowed


def holds_secret(path: KeyPath) -> bool:
    """Whether ``path`` is a secret or lies inside one: what stands there must never be shown."""
    return any(is_secret(at(path[:end])) for end in range(1, len(path) + 1))


def shown(path: KeyPath) -> KeyPath:
    """The path without keys that might be secrets themselves, as in ``client_secret: {hunter2}``."""
    for end in range(1, len(path)):
        allowed = at(path[:end])
        if is_secret(allowed) and path[end] not in keys(allowed):
            return path[:end]
    return path


def near(word: object, words: list[str]) -> str:
    """``; did you mean …?`` for the closest of ``words``, or nothing."""
    found = closest(word, words)
    return f"; did you mean {found}?" if found else ""


def closest(word: object, words: list[str]) -> str:
    """The closest of ``words`` that is near enough to be meant, or nothing."""
    if not isinstance(word, str):
        return ""
    folded = {other.lower().replace("-", "_"): other for other in words}
    found = get_close_matches(word.lower().replace("-", "_")[:100], list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def every(allowed: Shapes = ROOT, prefix: str = "") -> Iterator[str]:
    """Every key of the schema, written as in the reference: ``apps.<name>.routes[].path``."""
    for shape in allowed:
        if is_section(shape) and not (shape is SecretRef and prefix):
            yield from _fields(shape, prefix)
        elif _is(shape, list):
            yield from every(shapes(get_args(shape)[0]), f"{prefix}[]")
        elif _is(shape, dict) and not _fixed_names(shape):
            yield from every(shapes(get_args(shape)[1]), f"{prefix}.<name>")


def _fields(shape: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in shape.model_fields.items():
        path = f"{prefix}.{name}".removeprefix(".")
        yield path
        yield from every(shapes(field.annotation), path)
