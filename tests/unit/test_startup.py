"""Waiting for the parts after a start: until each has answered once, and again after a mistake of ours."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.errors import ProviderError
from authproxy.startup import Startup


async def test_a_part_that_fails_is_named_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready, with the name and the reason, while one part is away; ready once all have answered."""
    monkeypatch.setattr("authproxy.startup._FIRST", 0.0)
    back = asyncio.Event()
    told = asyncio.Event()

    async def provider() -> None:
        if not back.is_set():
            told.set()
            raise ProviderError("it is down")

    startup = Startup(dict)
    async with asyncio.TaskGroup() as group:
        group.create_task(startup.run({"store": provider}, {}))
        await told.wait()
        while startup.readiness().waiting_for != {"store": "it is down"}:
            await asyncio.sleep(0)
        assert not startup.readiness().ready
        back.set()
    assert startup.readiness().ready
    assert startup.readiness().waiting_for == {}


async def test_waiting_may_begin_again() -> None:
    """After a mistake in one check the work is begun anew; what had answered answers once more, without harm."""
    mistakes = [KeyError("a mistake of ours")]

    async def good() -> None:
        """Answers at once."""

    async def bad() -> None:
        await asyncio.sleep(0)
        if mistakes:
            raise mistakes.pop()

    startup, checks = Startup(dict), {"store": good, "enrollment": bad}
    with pytest.raises(KeyError):
        await startup.run(checks, {})
    await startup.run(checks, {})
    assert startup.readiness().ready


async def test_what_is_only_wanted_is_named_and_not_waited_for() -> None:
    """A provider that is down keeps nobody from being ready; it stands among what is waited for until it answers."""
    back = asyncio.Event()

    async def store() -> None:
        """Answers at once."""

    async def provider() -> None:
        if not back.is_set():
            raise ProviderError("it is down")

    startup = Startup(dict)
    async with asyncio.TaskGroup() as group:
        group.create_task(startup.run({"store": store}, {"provider dex": provider}))
        await startup.done.wait()
        assert startup.readiness().ready
        assert startup.readiness().waiting_for == {"provider dex": "it is down"}
        back.set()
    assert startup.readiness().waiting_for == {}
