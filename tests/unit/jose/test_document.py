"""A remote document is fetched once for all, kept while its source is down, and never hammered."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from authproxy.errors import ProviderError
from authproxy.jose.document import Document
from tests.peers.fake_clock import FakeClock
from tests.peers.program import PATIENCE


class Source:
    """Counts what it is asked; answers with its count, or fails with ``error``, once ``gate`` is open."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> int:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.asked


def made(source: Source, clock: FakeClock, max_stale: float = 1000.0) -> Document[int]:
    return Document(source.fetch, clock=clock, max_age=100.0, max_stale=max_stale)


async def test_many_askers_share_one_fetch() -> None:
    """Fifty tasks that find nothing wait for one fetch."""
    source = Source()
    source.gate.clear()
    document = made(source, FakeClock())
    tasks = [asyncio.ensure_future(document.get()) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*tasks) == [1] * 50
    assert source.asked == 1


async def test_an_asker_that_goes_away_does_not_stop_the_fetch() -> None:
    """Cancelling the task that caused a fetch leaves it to the others."""
    source = Source()
    source.gate.clear()
    document = made(source, FakeClock())
    first, second = asyncio.ensure_future(document.get()), asyncio.ensure_future(document.get())
    await asyncio.sleep(0)
    first.cancel()
    source.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_an_old_value_serves_while_a_new_one_is_fetched() -> None:
    """Past max_age nobody waits: the old value is given, and the next asker has the new one."""
    source, clock = Source(), FakeClock()
    document = made(source, clock)
    await document.get()
    clock.forward(101)
    source.gate.clear()
    assert await document.get() == 1
    source.gate.set()
    await document.refetch()
    assert await document.get() == 2


async def test_a_value_long_unused_is_fetched_before_it_is_given() -> None:
    """Twice past max_age the asker waits, so that a key withdrawn overnight is not believed in the morning."""
    source, clock = Source(), FakeClock()
    document = made(source, clock)
    await document.get()
    clock.forward(201)
    assert await document.get() == 2


async def test_the_last_good_value_serves_while_the_source_is_down() -> None:
    """Failures keep the value until max_stale; then there is none that may be used."""
    source, clock = Source(), FakeClock()
    document = made(source, clock)
    await document.get()
    source.error = ProviderError("the source answered 500")
    clock.forward(500)
    assert await document.get() == 1
    assert document.last_error == "the source answered 500"
    clock.forward(501)
    with pytest.raises(ProviderError, match="500"):
        await document.get()


async def test_failures_are_retried_with_growing_pauses_up_to_the_cooldown() -> None:
    """1, 2, 4, 8 and then every 10 seconds, however many ask in between."""
    source, clock = Source(), FakeClock()
    source.error = OSError("no route")
    document = made(source, clock)
    moments = []
    for _ in range(400):
        before = source.asked
        with pytest.raises(ProviderError, match="no route"):
            await document.get()
        if source.asked > before:
            moments.append(clock.elapsed)
        clock.forward(0.1)
    assert [round(b - a) for a, b in pairwise(moments)] == [1, 2, 4, 8, 10, 10]


async def test_a_failing_source_is_asked_in_the_background() -> None:
    """While the source hangs, whoever asks gets the old value without waiting."""
    source, clock = Source(), FakeClock()
    document = made(source, clock)
    await document.get()
    source.error = ProviderError("down")
    clock.forward(250)
    await document.get()
    clock.forward(11)
    source.gate.clear()
    assert await asyncio.wait_for(document.get(), PATIENCE) == 1
    assert document.busy
    await document.aclose()
    assert not document.busy


async def test_a_clock_set_back_does_not_stop_retries() -> None:
    """A pause is measured forwards only."""
    source, clock = Source(), FakeClock()
    source.error = ProviderError("down")
    document = made(source, clock)
    with pytest.raises(ProviderError):
        await document.get()
    clock.forward(-3600)
    source.error = None
    assert await document.get() == 2
