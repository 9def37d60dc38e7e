"""The misbehaving line does to connections what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.peers.chaos_proxy import ChaosProxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Pair]]


@pytest.fixture
async def line() -> AsyncIterator[ChaosProxy]:
    """A line to somebody who says everything again."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(100):
                writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with ChaosProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


@pytest.fixture
async def dial(line: ChaosProxy) -> AsyncIterator[Dial]:
    """Makes a connection through the line."""
    pairs: list[Pair] = []

    async def connected() -> Pair:
        pairs.append(await asyncio.open_connection("127.0.0.1", line.port))
        return pairs[-1]

    yield connected
    for _, writer in pairs:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def said(pair: Pair) -> bytes:
    """What comes back for a word; ConnectionError where the line is broken."""
    pair[1].write(b"word")
    answer = await pair[0].read(100)
    if not answer:
        raise ConnectionResetError
    return answer


async def test_it_passes_and_delays(line: ChaosProxy, dial: Dial) -> None:
    """Bytes come back; slowly with latency."""
    pair = await dial()
    assert await said(pair) == b"word"
    line.latency = 0.05
    began = asyncio.get_running_loop().time()
    assert await said(pair) == b"word"
    assert asyncio.get_running_loop().time() - began >= 0.1


async def test_it_hangs_and_goes_on(line: ChaosProxy, dial: Dial) -> None:
    """Old and new connections stand and are silent; what was said meanwhile arrives later."""
    old = await dial()
    assert await said(old) == b"word"
    await line.to("hang")
    new = await dial()
    answers = [asyncio.ensure_future(said(pair)) for pair in (old, new)]
    done, _ = await asyncio.wait(answers, timeout=0.2)
    assert not done
    await line.to("pass")
    assert await asyncio.gather(*answers) == [b"word", b"word"]


async def test_it_breaks_off(line: ChaosProxy, dial: Dial) -> None:
    """Connections are reset when they stand, and when they are new."""
    old = await dial()
    assert await said(old) == b"word"
    await line.to("reset")
    with pytest.raises(ConnectionError):
        await said(old)
    new = await dial()
    with pytest.raises(ConnectionError):
        await said(new)


async def test_it_refuses_and_comes_back(line: ChaosProxy, dial: Dial) -> None:
    """Nobody listens; afterwards somebody does at the same place."""
    await line.to("refuse")
    with pytest.raises(ConnectionRefusedError):
        await dial()
    await line.to("pass")
    assert await said(await dial()) == b"word"


async def test_it_loses_what_it_is_told_to_lose(line: ChaosProxy, dial: Dial) -> None:
    """A piece that ``drop`` holds for never arrives; others do."""
    line.drop = lambda piece: piece == b"word"
    pair = await dial()
    pair[1].write(b"word")
    await asyncio.sleep(0.1)
    line.drop = None
    pair[1].write(b"other")
    assert await pair[0].read(100) == b"other"
