"""The stage of the hostile tests."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.harness import Set, Stage, StrictBrowser, add_replica, another_browser, build
from tests.hostile.wire import Wire, opened
from tests.peers.upstream_app import UpstreamApp


@pytest.fixture
async def cast() -> AsyncIterator[AsyncExitStack]:
    """Whoever enters here leaves at the end of the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def stages(
    cast: AsyncExitStack, upstream_app: UpstreamApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Set]:
    """Builds a stage with the given settings, and looks back at it when the test is over."""
    caplog.set_level(logging.DEBUG)
    built: list[Stage] = []

    async def builder(**options: Any) -> Stage:
        built.append(await build(cast, upstream_app, tmp_path, **copy.copy(options)))
        return built[-1]

    yield builder
    for stage in built:
        stage.look_back(caplog.get_records("call"))


@pytest.fixture
async def stage(stages: Set) -> Stage:
    """One proxy with the embedded store, one provider, one application, one browser."""
    return await stages()


@pytest.fixture
def somebody(cast: AsyncExitStack) -> Callable[[Stage], Awaitable[StrictBrowser]]:
    """Another browser on a stage."""
    return lambda stage: another_browser(cast, stage)


@pytest.fixture
def replica(cast: AsyncExitStack) -> Callable[..., Awaitable[Any]]:
    """Another proxy on a stage, with settings of its own."""
    return lambda stage, **options: add_replica(cast, stage, **options)


@pytest.fixture(scope="session")
def one_wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One proxy process for all tests that look at it from outside."""
    with ExitStack() as stack:
        yield opened(stack, tmp_path_factory.mktemp("wire"))


@pytest.fixture
def wire(one_wire: Wire) -> Iterator[Wire]:
    """The proxy process with its recording upstream, and a look back at the end of the test."""
    mark = one_wire.mark()
    yield one_wire
    one_wire.upstream.on.clear()
    one_wire.look_back(mark)
