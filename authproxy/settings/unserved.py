"""Sections that parse and are checked, but that this version does not serve yet.

Each is refused, so that nobody believes to be protected by what is not there.  When a feature arrives, its line here
goes; nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from authproxy.settings.lines import Fault, KeyPath

UNSERVED: Final[Mapping[KeyPath, str]] = {
    ("kubernetes",): "this version does not serve kubeconfigs yet; remove the section",
    ("workspaces",): "this version does not serve workspaces yet; remove the section",
}
"""Key path -> what to say about it.  ``listen.workers: 1`` and anything empty or false ask for nothing."""

_ASKS_FOR_NOTHING: Final = ("None", "False", "1", "{}", "[]")


def faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    """One fault for each entry of ``data`` that asks for what is not served."""
    for path, message in UNSERVED.items():
        if str(_at(data, path)) not in _ASKS_FOR_NOTHING:
            yield Fault(path, message)


def _at(data: Any, path: KeyPath) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data
