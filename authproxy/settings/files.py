"""Which files settings name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import SecretRef, Settings

_T = TypeVar("_T")


def found(value: object, path: KeyPath, kind: type[_T]) -> Iterator[tuple[KeyPath, _T]]:
    """Every ``kind`` inside ``value``, with its place; secrets are looked at whole."""
    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, BaseModel) and not isinstance(value, SecretRef):
        for name in type(value).model_fields:
            yield from found(getattr(value, name), (*path, name), kind)
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from found(item, (*path, key), kind)


def named(value: object, kind: type[_T]) -> list[_T]:
    """Every ``kind`` inside ``value``."""
    return [one for _, one in found(value, (), kind)]


def read_by(settings: Settings) -> frozenset[Path]:
    """Every file that is read because ``settings`` name it: secrets, certificates, authorities."""
    secrets = {secret.file for secret in named(settings, SecretRef) if secret.file is not None}
    return frozenset(secrets | {path for place, path in found(settings, (), Path) if place != ("audit", "file")})
