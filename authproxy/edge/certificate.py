"""TLS of the listener: the server's certificate and, where asked for, the authorities of client certificates.

Everything is loaded at start, and loaded anew when a file changes.  New handshakes then go by the new files and open
connections stay; files that do not fit change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from authproxy.settings.certificates import CertificateFault, server_context

log = logging.getLogger("authproxy")
_LOOK: Final = 5.0  # seconds


class _Following(ssl.SSLContext):
    """A context that lets the newest one do every handshake.

    A context can be given more authorities, but never fewer, and its session tickets resume what was verified by the
    old ones; only another context forgets.
    """

    newest: ssl.SSLContext

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        return self.newest.wrap_bio(*args, **named)

    def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
        return self.newest.wrap_socket(*args, **named)


class ServerCertificate:
    """``context`` is for the listener.  Raises CertificateFault when the files cannot be used at start.

    ``client_ca`` is a PEM bundle: a client may (``optional``) or must (``required``) show a certificate that one of
    these authorities signed for client authentication; another one fails the handshake.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        *,
        client_ca: Path | None = None,
        client_auth: Literal["optional", "required"] = "optional",
    ) -> None:
        self._cert: Final = cert
        self._key: Final = key
        self._client_ca: Final = client_ca
        self._client_auth: Final = client_auth
        self._mark = self._marked()
        self.context: Final = _Following(ssl.PROTOCOL_TLS_SERVER)
        self.context.newest = self._loaded()

    def _loaded(self) -> ssl.SSLContext:
        return server_context(self._cert, self._key, client_ca=self._client_ca, client_auth=self._client_auth)

    def _files(self) -> Iterator[Path]:
        yield from (self._cert, self._key)
        if self._client_ca is not None:
            yield self._client_ca

    def _marked(self) -> tuple[tuple[int, int], ...] | None:
        try:
            found = [file.stat() for file in self._files()]
        except OSError:
            return None
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)

    def reload(self) -> bool:
        """Load the files if one of them changed; whether new ones are in use."""
        mark = self._marked()
        if mark is None or mark == self._mark:
            return False
        self._mark = mark
        try:
            self.context.newest = self._loaded()
        except CertificateFault as fault:
            log.error("%s changed but cannot be used, the old one stays: %s", self._cert, fault)
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
