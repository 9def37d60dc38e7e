"""Where a browser may be sent after sign-in and sign-out: a path of the same site, or a page of an allowed host.

Pure.  Refuses everything that a browser could understand as another place than we do (open redirect corpus; the history
of oauth2-proxy: CVE-2020-5233, CVE-2020-11053, CVE-2020-4037, CVE-2021-21291).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import urlsplit

MAX_LENGTH: Final = 2048
_SAFE: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # visible ASCII without the backslash
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")


class AllowedTargets(NamedTuple):
    """The hosts of the apps and of ``public_url``, and the scheme under which people reach them."""

    scheme: str
    hosts: Collection[str]  # canonical; never "*"
    ports: Collection[int | None]  # beside the port of the request itself

    def accept(self, target: str, *, authority: str) -> str | None:
        """``target`` if a browser at ``authority`` may be sent there, else None; fragments are kept.

        A path must begin with one slash; a ``//`` further on is a page's own business.
        """
        if not target or len(target) > MAX_LENGTH or not _SAFE.fullmatch(target):
            return None
        if target.startswith("/"):
            return None if _leaves_the_site(target) else target
        return target if self._is_ours(target, authority) else None

    def _is_ours(self, target: str, authority: str) -> bool:
        if not target.startswith(f"{self.scheme}://"):
            return False
        try:
            parts = urlsplit(target)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.netloc == authority:
            return True
        if not _HOST.fullmatch(parts.netloc.rpartition(":")[0] if port is not None else parts.netloc):
            return False
        return host in self.hosts and port in self.ports


def _leaves_the_site(path: str) -> bool:
    """Whether a browser could read the path as ``//host``: it drops tabs and line ends, and knows ``/\\``.

    Encoded forms are refused at the start as well, since something on the way may decode them.
    """
    start = path[:24].lower()
    for code, char in (("%2f", "/"), ("%5c", "/"), ("%09", ""), ("%0a", ""), ("%0d", ""), ("%00", ""), ("%20", "")):
        start = start.replace(code, char)
    if start.startswith("//"):
        return True
    # "/./" and "/../" in front collapse before the browser looks at what follows.
    return bool(re.match(r"/(\.{1,2}/|%2e)+", path.lower())) and "//" in path.split("?")[0]
