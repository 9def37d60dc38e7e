"""Single flight: one does the work, all get the result, and nobody's leaving stops it."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.sessions.flight import SingleFlight


async def test_many_callers_one_piece_of_work() -> None:
    """Fifty callers for one key share one run; another key has its own."""
    flights: SingleFlight[int] = SingleFlight()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    results = await asyncio.gather(*(flights.run("a", work) for _ in range(50)))
    assert set(results) == {1}
    assert await flights.run("b", work) == 2
    assert len(flights) == 0


async def test_a_caller_that_leaves_does_not_stop_the_work() -> None:
    """Cancelling the one who began leaves the others their result: a rotated token is not lost with its request."""
    flights: SingleFlight[str] = SingleFlight()
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        return "done"

    first = asyncio.ensure_future(flights.run("k", work))
    second = asyncio.ensure_future(flights.run("k", work))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == "done"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_failure_is_everybodys_and_then_over() -> None:
    """All waiters get the exception; the next caller tries again."""
    flights: SingleFlight[str] = SingleFlight()
    outcomes = iter([RuntimeError("no"), None])

    async def work() -> str:
        await asyncio.sleep(0)
        error = next(outcomes)
        if error:
            raise error
        return "yes"

    results = await asyncio.gather(*(flights.run("k", work) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)
    assert await flights.run("k", work) == "yes"


async def test_closing_waits_and_then_cancels() -> None:
    """What is under way may finish; what does not within the time is cancelled."""
    flights: SingleFlight[None] = SingleFlight()
    await flights.close()
    flights.start("endless", asyncio.Event().wait)  # type: ignore[arg-type]
    await flights.close(seconds=0.01)
    assert len(flights) == 0
