"""Breaking off works on both event loops, and on what is broken already."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from authproxy.transport import abort, held
from tests.peers.self_signed import self_signed


async def broken_off() -> bytes:
    """What a client reads when the server breaks its connection off in the middle."""
    began = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await writer.drain()
        await began.wait()
        abort(writer.transport)
        abort(writer.transport)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        heard = await reader.readexactly(4)
        began.set()
        try:
            heard += await reader.read()
        except ConnectionResetError:
            heard += b"!"
        writer.close()
    return heard


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_is_broken_off_on_both_loops(run: Callable[[Any], bytes]) -> None:
    """The other side notices, and doing it twice harms nothing."""
    assert run(broken_off()).startswith(b"half")


class Lost:
    """A transport that has lost what it needs to be aborted."""

    def abort(self) -> None:
        """Fail as CPython 3.11.2 does."""
        raise AttributeError("'NoneType' object has no attribute '_abort'")


@pytest.mark.parametrize("gone", [None, Lost(), object()])
def test_what_is_gone_is_left_alone(gone: object) -> None:
    """No error where there is nothing left to break off."""
    abort(gone)


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS and that of a client which trusts it."""
    certificate, key = self_signed(folder, "localhost")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate, key)
    return theirs, ssl.create_default_context(cafile=str(certificate))


async def kept_back(tls: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> tuple[int, int, int]:
    """What a server holds before, while, and after its client reads nothing of 32 MB."""
    size, seen = 32 << 20, []
    full, read = asyncio.Event(), asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(held(writer.transport))
        writer.write(bytes(size))
        seen.append(held(writer.transport))
        full.set()
        await writer.drain()
        await read.wait()
        seen.append(held(writer.transport))
        writer.close()

    theirs, ours = tls or (None, None)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs) as server:
        name = "localhost" if ours else None
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=ours, server_hostname=name)
        await full.wait()
        await reader.readexactly(size)
        read.set()
        await reader.read()
        writer.close()
    return seen[0], seen[1], seen[2]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("secure", [False, True])
def test_what_was_written_and_not_sent_is_known(run: Callable[[Any], Any], secure: bool, tmp_path: Path) -> None:
    """On both loops; with TLS on uvloop only what is not encrypted yet, which its backpressure bounds."""
    before, during, after = run(kept_back(contexts(tmp_path) if secure else None))
    assert before < 4096  # uvloop may have what it adds to a handshake still to send
    assert after == 0
    assert during > 1 << 20 or (secure and run is uvloop.run)


def test_nothing_is_held_by_what_is_no_transport() -> None:
    """A connection that is gone holds nothing."""
    assert held(None) == held(object()) == 0
