"""JSON objects from strangers, read so that there is only one way to understand them.

This module knows text and nothing of tokens: whoever calls it words the refusal.  What two parsers could read
differently (a member given twice, NaN, half a surrogate pair) is refused (RFC 7493, I-JSON), and so is what could
exhaust the reader (deep nesting).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

DEPTH: Final = 32
"""How deep arrays and objects may nest.  Far below the interpreter's own limit, far above any real document."""

# One alternative for each kind of token, and an unterminated string is one token too, so that the scan is linear.
_STRUCTURE: Final = re.compile(r'"(?:[^"\\]+|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_HALF_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]")


def load_object(raw: bytes, *, depth: int = DEPTH) -> dict[str, object]:
    """The JSON object that ``raw`` holds; ValueError, with a sentence that quotes nothing of it, when it holds none."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if _too_deep(text, depth):
        raise ValueError("nested too deeply")
    value = _parse(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _parse(text: str) -> object:
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError:  # its message is harmless, but the exception carries the whole document
        raise ValueError("not JSON") from None
    if _HALF_PAIR.search(text):
        _refuse_half_pairs(value)
    return value


def _too_deep(text: str, depth: int) -> bool:
    if text.count("[") + text.count("{") <= depth:
        return False
    level = 0
    for token in _STRUCTURE.finditer(text):
        first = token[0][0]
        if first == '"':
            continue
        level += 1 if first in "[{" else -1
        if level > depth:
            return True
    return False


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7519 section 4: either refuse duplicate members or keep the last; only one of the two is unambiguous.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is given twice")
    return found


def _no_constant(_name: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _refuse_half_pairs(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair") from None
