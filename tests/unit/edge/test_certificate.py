"""The server's certificate follows its files."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import uvloop

from authproxy.edge.certificate import ServerCertificate
from tests.peers.authority import SERVER, Authority, Signed
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
    assert certificate.context.newest.minimum_version == ssl.TLSVersion.TLSv1_2


# --- client certificates ---

OPTIONAL: Literal["optional"] = "optional"
REQUIRED: Literal["required"] = "required"


def client(ca: Path, shown: Signed | None) -> ssl.SSLContext:
    """A client's side; its session tickets are kept in it."""
    context = ssl.create_default_context(cafile=str(ca))
    if shown is not None:
        context.load_cert_chain(*shown)
    return context


async def who(server: ServerCertificate, context: ssl.SSLContext) -> Any:
    """What a listener with ``server`` hears of a client's certificate; raises when the handshake fails."""
    heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(writer.get_extra_info("peercert"))
        writer.write(b"hello")
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server.context)
    port = listener.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="auth.test")
        try:
            if not await reader.read():
                raise ConnectionResetError  # TLS 1.3: the client hears of the refusal after its own handshake
        finally:
            writer.close()
    finally:
        listener.close()
    return await heard


class Corner:
    """A server, the authority of its clients, and another authority."""

    def __init__(self, folder: Path, client_auth: Literal["optional", "required"]) -> None:
        self.folder = folder
        self.ca, self.clients, self.other = (Authority(folder, name) for name in ("servers", "clients", "other"))
        self.pair = self.ca.signed("auth.test", dns=("auth.test",), usage=SERVER)
        self.server = ServerCertificate(*self.pair, client_ca=self.clients.file, client_auth=client_auth)

    async def cn(self, shown: Signed | None) -> str | None:
        """The common name that the server hears of, or None without a certificate."""
        heard = await who(self.server, client(self.ca.file, shown))
        return heard["subject"][0][0][1] if heard else None


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_l2_a_verified_certificate_is_heard(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """On both event loops: a certificate of the right authority arrives, and none at all is fine when optional."""
    corner = Corner(tmp_path, OPTIONAL)
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(corner.cn(corner.clients.signed("flux"))) == "flux"
        assert runner.run(corner.cn(None)) is None


@pytest.mark.parametrize("client_auth", [OPTIONAL, REQUIRED])
@pytest.mark.parametrize("wrong", ["authority", "expired", "usage", "server's own authority"])
async def test_l2_another_certificate_fails_the_handshake(
    tmp_path: Path, client_auth: Literal["optional", "required"], wrong: str
) -> None:
    """A wrong authority, an expired certificate and one for servers are refused even where none would be fine."""
    corner = Corner(tmp_path, client_auth)
    shown = {
        "authority": lambda: corner.other.signed("flux"),
        "expired": lambda: corner.clients.signed("flux", hours=-1),
        "usage": lambda: corner.clients.signed("flux", usage=SERVER),
        "server's own authority": lambda: corner.ca.signed("flux"),
    }[wrong]()
    with pytest.raises(OSError):
        await corner.cn(shown)


async def test_required_means_required(tmp_path: Path) -> None:
    """Without a certificate the handshake fails."""
    corner = Corner(tmp_path, REQUIRED)
    with pytest.raises(OSError):
        await corner.cn(None)
    assert await corner.cn(corner.clients.signed("flux")) == "flux"


async def test_an_authority_that_is_replaced_is_out(tmp_path: Path) -> None:
    """New handshakes know the new authorities alone; spoilt files leave the old ones in force."""
    corner = Corner(tmp_path, OPTIONAL)
    old, new = corner.clients.signed("old"), corner.other.signed("new")
    corner.clients.file.write_text("spoilt")
    assert not corner.server.reload()
    assert await corner.cn(old) == "old"
    corner.clients.file.write_bytes(corner.other.file.read_bytes())
    assert corner.server.reload()
    assert await corner.cn(new) == "new"
    with pytest.raises(OSError):
        await corner.cn(old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_does_not_outlive_its_authority(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that resumes an old session after its authority was replaced is not known by it."""
    corner = Corner(tmp_path, OPTIONAL)
    context = client(corner.ca.file, corner.clients.signed("old"))
    context.maximum_version = version
    session, _, name = resumed(corner.server, context, None)
    assert name == "old"
    _, again, name = resumed(corner.server, context, session)
    assert (again, name) == (True, "old")  # resumption works, so that the next claim says something
    corner.clients.file.write_bytes(corner.other.file.read_bytes())
    assert corner.server.reload()
    with pytest.raises(OSError):
        resumed(corner.server, context, session)


def resumed(
    server: ServerCertificate, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool, str]:
    """One connection: its session, whether it resumed ``session``, and the name that the server heard."""
    heard: list[str] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        try:
            with server.context.wrap_socket(connection, server_side=True) as secured:
                found: Any = secured.getpeercert()
                heard.append(found["subject"][0][0][1])
                secured.send(b"x")
        except OSError:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                context.wrap_socket(plain, server_hostname="auth.test", session=session) as one,
            ):
                if not one.recv(1):
                    raise ConnectionResetError
                return one.session, bool(one.session_reused), heard[0]
        finally:
            serving.join()
