"""The server's certificate: loaded at start, and loaded again into the same context when its files change.

New handshakes then get the new certificate and open connections stay; files that do not fit change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

log = logging.getLogger("authproxy")
_LOOK: Final = 5.0  # seconds


class ServerCertificate:
    """``context`` is for the listener.  Raises OSError or ssl.SSLError when the files cannot be used at start."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert: Final = cert
        self._key: Final = key
        self.context: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(cert, key)
        self._mark = self._marked()

    def _marked(self) -> tuple[tuple[int, int], ...] | None:
        try:
            found = (self._cert.stat(), self._key.stat())
        except OSError:
            return None
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)

    def reload(self) -> bool:
        """Load the files if they changed; whether new ones are in use."""
        mark = self._marked()
        if mark is None or mark == self._mark:
            return False
        self._mark = mark
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            trial.load_cert_chain(self._cert, self._key)  # a pair that does not fit must not touch the live context
            self.context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            log.error("%s changed but cannot be used, the old one stays: %s", self._cert, type(error).__name__)
            return False
        log.info("%s was loaded again", self._cert)
        return True

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            self.reload()

    def __repr__(self) -> str:
        return f"<ServerCertificate {self._cert.name}>"
