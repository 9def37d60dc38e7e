"""The client's side of a tunnel: what is held, when reading pauses, and how it ends."""

from __future__ import annotations

import asyncio

from authproxy.edge.tap import Tap
from tests.peers.fake_transport import FakeTransport

HIGH = 64 * 1024


async def test_reading_pauses_when_enough_is_held_and_goes_on_when_it_was_taken() -> None:
    """Up to the mark nothing happens; beyond it nothing more is read until all of it was taken."""
    line = FakeTransport()
    tap = Tap(line)
    tap.feed(b"a" * (HIGH - 1))
    assert line.pauses == []
    tap.feed(b"b")
    assert line.pauses == ["pause"]
    assert await tap.read() == b"a" * (HIGH - 1) + b"b"
    assert line.pauses == ["pause", "resume"]
    tap.feed(b"c")
    assert await tap.read() == b"c"
    assert line.is_reading()


async def test_what_comes_while_reading_is_paused_is_kept() -> None:
    """A piece may be under way already."""
    line = FakeTransport()
    tap = Tap(line)
    for _ in range(3):
        tap.feed(b"a" * HIGH)
    assert line.pauses == ["pause"]
    assert await tap.read() == b"a" * HIGH * 3
    assert line.pauses == ["pause", "resume"]


async def test_who_waits_is_woken() -> None:
    """By octets, and by the end; what came before the end is read first, and the end stays the end."""
    tap = Tap(FakeTransport())
    waiting = asyncio.ensure_future(tap.read())
    await asyncio.sleep(0)
    tap.feed(b"x")
    assert await waiting == b"x"
    waiting = asyncio.ensure_future(tap.read())
    await asyncio.sleep(0)
    tap.feed(b"last")
    tap.end()
    assert await waiting == b"last"
    assert [await tap.read(), await tap.read()] == [b"", b""]


async def test_who_gave_up_waiting_loses_nothing() -> None:
    """A read that was cancelled leaves what comes to the next one."""
    tap = Tap(FakeTransport())
    waiting = asyncio.ensure_future(tap.read())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    tap.feed(b"x")
    assert await tap.read() == b"x"


async def test_a_connection_that_is_closing_is_left_alone() -> None:
    """Neither paused nor resumed: there is nothing to read any more."""
    line = FakeTransport()
    tap = Tap(line)
    tap.feed(b"a" * HIGH)
    line.close()
    assert await tap.read() == b"a" * HIGH
    tap.feed(b"a" * HIGH)
    assert line.pauses == ["pause"]
