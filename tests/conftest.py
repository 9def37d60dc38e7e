"""What every test may ask for: the other parties, as real parts on free loopback ports.

A peer that is missing on this machine fails the test that asks for it: nothing is skipped for want of a server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.peers.browser_client import Browser
from tests.peers.redis_cluster import redis_cluster as redis_cluster
from tests.peers.redis_cluster import shared_cluster as shared_cluster
from tests.peers.redis_sentinel import redis_sentinel as redis_sentinel
from tests.peers.redis_sentinel import shared_sentinel as shared_sentinel
from tests.peers.redis_server import redis_server as redis_server
from tests.peers.redis_server import shared_redis as shared_redis
from tests.peers.upstream_app import UpstreamApp

STORIES = "tests/stories/"
MEASURED = frozenset(
    f"{STORIES}test_{name}.py"
    for name in ("benchmarks", "failover_under_load", "large_bodies", "no_leak", "nothing_signs_out", "slow_clients")
)
"""Stories that put a proxy under load and measure it: no two of them meet."""

# No deadline per example: the machine is shared, and a slow example is not a wrong one.
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, database=None)
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "dev")


class Scopes(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """With two processes: the measured stories in one of them, one after the other; the rest file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "measured" if file in MEASURED else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scopes:
    """The longest part begins first (``pytest_collection_modifyitems``), so that both processes end together."""
    return Scopes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the measured stories, then the others, which mostly wait, then the rest."""
    files = {item: item.nodeid.partition("::")[0] for item in items}
    items.sort(key=lambda item: (files[item] not in MEASURED, not files[item].startswith(STORIES)))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the developer's shell must not override the settings of a test."""
    for name in list(os.environ):
        if name.startswith("AUTHPROXY__") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
async def upstream_app() -> AsyncIterator[UpstreamApp]:
    """A protected application that records what reaches it."""
    async with UpstreamApp() as app:
        yield app


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser without JavaScript."""
    async with Browser() as one:
        yield one
