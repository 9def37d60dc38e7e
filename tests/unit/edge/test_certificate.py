"""The server's certificate follows its files."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest

from authproxy.edge.certificate import ServerCertificate
from tests.peers.self_signed import self_signed


def shown(context: ssl.SSLContext) -> str:
    """The certificate that a new handshake with ``context`` shows, as PEM."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=_handshake, args=(listener, context))
        serving.start()
        pem = ssl.get_server_certificate(listener.getsockname())
        serving.join()
    return pem


def _handshake(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True):
        pass


def replaced(source: tuple[Path, Path], place: tuple[Path, Path]) -> None:
    """Put other files where the old ones were."""
    for new, old in zip(source, place, strict=True):
        shutil.copy(new, f"{old}.new")
        os.replace(f"{old}.new", old)


def test_l1_new_handshakes_get_the_new_certificate(tmp_path: Path) -> None:
    """After the files changed, the very same context shows the new certificate."""
    place, other = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    certificate = ServerCertificate(*place)
    assert not certificate.reload()
    first = shown(certificate.context)
    replaced(other, place)
    assert certificate.reload()
    assert shown(certificate.context) != first


@pytest.mark.parametrize("spoil", ["garbage", "other key", "gone"])
def test_l1_files_that_cannot_be_used_change_nothing(tmp_path: Path, spoil: str) -> None:
    """Half-written files, a key that does not fit, or files that vanished leave the old certificate in use."""
    place, other = self_signed(tmp_path, "one"), self_signed(tmp_path, "two")
    certificate = ServerCertificate(*place)
    first = shown(certificate.context)
    if spoil == "garbage":
        place[0].write_text("not a certificate")
    elif spoil == "other key":
        replaced((place[0], other[1]), place)
    else:
        place[0].unlink()
    assert not certificate.reload()
    assert shown(certificate.context) == first


def test_old_protocol_versions_are_refused(tmp_path: Path) -> None:
    """Nothing below TLS 1.2 is spoken, and only HTTP/1.1 is offered."""
    certificate = ServerCertificate(*self_signed(tmp_path, "one"))
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
