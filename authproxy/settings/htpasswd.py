"""The grammar of htpasswd and htgroup files.

Knows which lines mean something, and refuses the rest with its number; no message holds a part of a password's hash.
Checks no password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_LEAST: Final = 4  # cost, the binary logarithm of the rounds: bcrypt knows no smaller one
_MOST: Final = 16  # some five seconds; each more doubles them


def users(text: str) -> dict[str, str]:
    """User name -> bcrypt hash.  Lines that are empty or begin with ``#`` say nothing.

    Raises ValueError with the number of the first line that is not ``name:hash`` with a bcrypt hash, or whose name was
    there before.
    """
    found: dict[str, str] = {}
    for number, line in _lines(text):
        name, colon, entry = line.partition(":")
        if not name or not colon or not name.isprintable():
            raise ValueError(f"line {number}: must be name:hash")
        _check_hash(number, entry)
        if name in found:
            raise ValueError(f"line {number}: the user stands there twice")
        found[name] = entry
    if not found:
        raise ValueError("there is no user in it")
    return found


def cost(entry: str) -> int:
    """The cost of a bcrypt hash: the binary logarithm of its rounds."""
    return int(entry[4:6])


def groups(text: str) -> dict[str, tuple[str, ...]]:
    """User name -> groups, in the order of the file, which has lines ``group: user user``.

    Raises ValueError with the number of the first line that is not so.
    """
    found: dict[str, dict[str, None]] = {}
    for number, line in _lines(text):
        group, colon, members = line.partition(":")
        if not colon or not group.strip() or not line.replace("\t", " ").isprintable():
            raise ValueError(f"line {number}: must be group: user user")
        for name in members.split():
            found.setdefault(name, {})[group.strip()] = None
    return {name: tuple(named) for name, named in found.items()}


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _check_hash(number: int, entry: str) -> None:
    found = _BCRYPT.fullmatch(entry)
    if found is None:
        raise ValueError(f"line {number}: the hash is not bcrypt; make it with `htpasswd -B`")
    if not _LEAST <= int(found[1]) <= _MOST:
        raise ValueError(f"line {number}: the cost of the hash must be {_LEAST} to {_MOST}")
