"""What an answer says about being stored (RFC 9111)."""

from __future__ import annotations

from typing import Final

from authproxy.http1.text import folded
from authproxy.model import HeaderList

_CACHING: Final = frozenset({b"cache-control", b"cdn-cache-control", b"surrogate-control"})


def told(lines: HeaderList, private: bool, with_cookie: bool) -> HeaderList:
    """``lines`` of an upstream with what has to be said besides.

    ``with_cookie``: a cookie of ours goes with them, and nobody may store that, whatever the upstream says.
    ``private``: the answer depends on who asked.
    """
    said = [value for name, value in lines if folded(name) == b"cache-control"]
    if with_cookie:
        if _says_no_store(said):
            return lines
        others = tuple(line for line in lines if line[0].lower() not in _CACHING)
        return (*others, (b"Cache-Control", b"private, no-store"))
    return (*lines, (b"Cache-Control", b"private")) if private and not said else lines


def _says_no_store(values: list[bytes]) -> bool:
    directives = b",".join(values).lower().split(b",")
    return any(directive.strip(b" \t") == b"no-store" for directive in directives)
