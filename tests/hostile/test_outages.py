"""Outages of the store and the provider, replicas that pause or disagree about the time: nobody gains by them."""

from __future__ import annotations

import ast
import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from authproxy.app import Authproxy
from tests.hostile.harness import Clock, Set, Stage, StrictBrowser, moved
from tests.peers.chaos_proxy import ChaosProxy
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

Replica = Callable[..., Awaitable[Authproxy]]
Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
TESTS = Path(__file__).parents[1]
LISTED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "applicability_ha.yaml").read_text(encoding="utf-8")
)
SKEW = 58.0  # seconds between a replica and the provider, whose tokens may be a minute off


def test_every_case_is_listed_once() -> None:
    """No id of this family is missing, and none is made up."""
    assert list(LISTED) == [f"K{number}" for number in range(1, 17)]


@pytest.mark.parametrize("case", LISTED)
def test_every_case_is_covered_or_explained(case: str) -> None:
    """Each id names tests that exist, or says why there are none."""
    entry = LISTED[case]
    assert entry.keys() <= {"tests", "reason"}
    assert entry.get("tests") or len(entry.get("reason", "").split()) >= 2
    for name in entry.get("tests", []):
        file, _, test = name.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


# --- the store answers, but not as it should ---

WRONG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "out_of_memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "read_only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "not_allowed": (("ACL", "SETUSER", "default", "-@all", "+acl"), ("ACL", "SETUSER", "default", "+@all")),
    "busy": (("CLIENT", "PAUSE", "1500", "ALL"), ("PING",)),
}


@pytest.mark.parametrize("name", WRONG)
async def test_k5_a_store_that_answers_wrongly(stages: Set, redis_server: RedisServer, name: str) -> None:
    """A live session goes on, one that only the cookie knows is opened, and all is well again when the store is."""
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}})
    await stage.sign_in()
    begin, end = WRONG[name]
    redis_server.command(*begin)
    assert await stage.is_in()
    assert await stage.is_in(replica=1)
    redis_server.command(*end)
    async with asyncio.timeout(PATIENCE):
        while not await _synced(stage):
            await asyncio.sleep(0.1)
    await stage.sign_in("/again", browser=stage.browser)


async def _synced(stage: Stage) -> bool:
    from authproxy.errors import StoreUnavailable

    try:
        for proxy in stage.proxies:
            await proxy.graph.marks.sync()
    except StoreUnavailable:
        return False
    return True


@pytest.fixture
async def line(redis_server: RedisServer) -> AsyncIterator[ChaosProxy]:
    """The way to Redis."""
    async with ChaosProxy(redis_server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("latency", [0.02, 0.5, 5.0])
async def test_k5_a_slow_store(stages: Set, line: ChaosProxy, latency: float) -> None:
    """However slow the store is, whoever is signed in gets an answer, in memory's time."""
    stage = await stages(store={"redis": {"url": f"redis://127.0.0.1:{line.port}/0"}})
    await stage.sign_in()
    line.latency = latency
    async with asyncio.timeout(PATIENCE):
        for _ in range(100):
            assert await stage.is_in()


# --- requests that are given up ---


async def test_k7_given_up_requests_mix_up_nobody(
    stages: Set, redis_server: RedisServer, somebody: Somebody, replica: Replica
) -> None:
    """Half of all requests are given up at random moments, also while sessions are read: none is mistaken."""
    store = {"redis": {"url": redis_server.url}}
    stage = await stages(store=store)
    people = {"alice": stage.browser, "bob": await somebody(stage)}
    cookies: dict[str, str] = {}
    for name, browser in people.items():
        stage.peer.current_user = name
        await stage.sign_in(browser=browser)
        cookies[name] = stage.session_cookie(browser)
    dice = random.Random(7)
    await replica(stage, store=store)  # it knows nobody yet

    async def one(name: str, give_up: bool) -> None:
        work = asyncio.ensure_future(stage.raw(cookies[name], replica=1, target=f"/{name}"))
        if give_up:
            await asyncio.sleep(dice.random() * 0.02)
            work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert work.cancelled() or work.result().status == 200

    for _ in range(10):
        await asyncio.gather(*(one(dice.choice(["alice", "bob"]), dice.random() < 0.5) for _ in range(30)))
    for name in people:
        seen = stage.app.to(f"/{name}")
        assert {one.get("X-Forwarded-Email") for one in seen} == {f"{name}@example.com"}


# --- clocks ---


class Skewed(Clock):
    """Another clock, so many seconds off."""

    def __init__(self, right: Callable[[], float], seconds: float) -> None:
        self.right, self.seconds = right, seconds

    def __call__(self) -> float:
        return self.right() + self.seconds


@pytest.mark.parametrize("seconds", [SKEW, -SKEW])
async def test_k11_clocks_two_minutes_apart(
    stages: Set, redis_server: RedisServer, replica: Replica, seconds: float
) -> None:
    """A sign-in begun on one replica is finished on another, is used on both, and is over on both when signed out."""
    store = {"redis": {"url": redis_server.url}}

    def between(peer: OpenIDPeer) -> None:
        peer.clock = Skewed(peer.clock, seconds)

    stage = await stages(store=store, before=between)
    right, stage.clock = stage.clock, Skewed(stage.clock, 2 * seconds)
    await replica(stage, store=store)
    stage.clock = right
    back = moved(await stage.returning("/deep"), stage.port(1))
    page = await stage.browser.navigate(back, headers={"Sec-Fetch-Site": "cross-site"})
    assert page.status == 302, (page.headers, page.body)
    for number in (0, 1, 0):
        assert await stage.is_in(replica=number)
    cookie = stage.session_cookie()
    await stage.sign_out()
    await stage.proxies[1].graph.marks.sync()
    assert not await stage.in_with(cookie)
    assert not await stage.in_with(cookie, replica=1)


# --- the provider ---


async def test_k12_the_provider_is_away(stages: Set, somebody: Somebody) -> None:
    """Whoever is in stays in for ten minutes, through an expiry; when the provider is back, others can sign in, too."""
    stage = await stages()
    await stage.sign_in()
    await stage.peer.stop()
    for _ in range(10):
        stage.clock.pass_(60)
        assert await stage.is_in()
    stranger = await somebody(stage)
    await stage.peer.start()
    stage.clock.pass_(60)
    await stage.sign_in(browser=stranger)
    assert await stage.is_in()
