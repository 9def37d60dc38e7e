"""Breaking off works on both event loops, and on what is broken already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from authproxy.transport import abort


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
