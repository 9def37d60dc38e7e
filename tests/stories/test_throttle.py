"""How often one may try to sign in: twenty times, then once every six seconds, whoever tries and wherever."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import somebody as somebody
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import HOST, PREFIX, Set, Stage, StrictBrowser, begins_session, settings_for
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser, Page
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
SIGN_IN = f"{PREFIX}/sign_in"


@pytest.fixture
async def stage(stages: Set) -> Stage:
    """A proxy with our own form, and the embedded store on the test's clock."""
    return await stages(provider={"password_login": True})


async def attempt(browser: Browser, url: str, username: str, password: str = "wrong", **headers: str) -> Page:
    """Open the form, fill it in, send it."""
    page = await browser.navigate(url)
    data = {**page.form("csrf_token", "password").fields, "username": username, "password": password}
    return await browser.navigate(url, method="POST", data=data, headers={"Sec-Fetch-Site": "same-origin", **headers})


async def attempts(
    stage: Stage, count: int, username: str = "alice", browser: StrictBrowser | None = None
) -> list[int]:
    """The statuses of so many failed attempts."""
    one = browser or stage.browser
    return [(await attempt(one, stage.at(SIGN_IN), username)).status for _ in range(count)]


async def test_twenty_attempts_then_one_every_six_seconds(stage: Stage) -> None:
    """Twenty attempts pass, the 21st is told to wait at most six seconds, and after that exactly one more passes."""
    assert await attempts(stage, 20) == [401] * 20
    refused = await attempt(stage.browser, stage.at(SIGN_IN), "alice")
    assert refused.status == 429
    wait = int(refused.headers["Retry-After"])
    assert 1 <= wait <= 6
    assert "text/html" in refused.headers["Content-Type"]
    assert str(wait) in refused.text
    stage.clock.pass_(wait)
    assert await attempts(stage, 2) == [401, 429]
    stage.clock.pass_(6)
    assert await attempts(stage, 2) == [401, 429]


async def test_a_refused_attempt_asks_nobody_and_prolongs_nothing(stage: Stage) -> None:
    """While the throttle says no, no password is judged, not even the right one, and knocking makes it no longer."""
    await attempts(stage, 20)
    asked = len(stage.peer.asked("token"))
    for _ in range(30):
        page = await attempt(stage.browser, stage.at(SIGN_IN), "alice", "alice-password")
        assert (page.status, begins_session(page)) == (429, False)
        assert 1 <= int(page.headers["Retry-After"]) <= 6
    assert len(stage.peer.asked("token")) == asked
    stage.clock.pass_(6)
    assert (await attempt(stage.browser, stage.at(SIGN_IN), "alice", "alice-password")).status == 303


async def test_spellings_of_one_name_share_the_limit(stage: Stage) -> None:
    """Case, width and white space make no new name."""
    names = ["alice", "ALICE", " alice ", "Ａlice", "aLiCe\t"]
    statuses = [status for number in range(20) for status in await attempts(stage, 1, names[number % len(names)])]
    assert statuses == [401] * 20
    assert [await attempts(stage, 1, name) for name in names] == [[429]] * 5


async def test_another_name_has_a_limit_of_its_own(stage: Stage) -> None:
    """Who is attacked does not lock anybody else out."""
    assert await attempts(stage, 21) == [401] * 20 + [429]
    assert (await attempt(stage.browser, stage.at(SIGN_IN), "bob", "bob-password")).status == 303


async def test_success_costs_nothing(stage: Stage) -> None:
    """Signing in again and again never meets the limit."""
    for _ in range(40):
        assert (await attempt(stage.browser, stage.at(SIGN_IN), "alice", "alice-password")).status == 303


async def test_a_known_browser_is_not_locked_out(stage: Stage, somebody: Somebody) -> None:
    """A browser in which the user has signed in before has a bucket that a stranger's guesses do not fill."""
    assert (await attempt(stage.browser, stage.at(SIGN_IN), "alice", "alice-password")).status == 303
    stranger = await somebody(stage)
    assert (await attempts(stage, 25, browser=stranger))[-1] == 429
    assert (await attempt(stage.browser, stage.at(SIGN_IN), "alice", "alice-password")).status == 303
    assert (await attempts(stage, 21))[-1] == 429  # and it is not unlimited either


async def test_an_office_behind_one_address(stage: Stage, somebody: Somebody) -> None:
    """Two hundred people behind one address sign in, each in a browser of their own, at the same instant."""
    people = {f"user{number}": stage.peer.people["alice"]._replace(username=f"user{number}") for number in range(200)}
    stage.peer.people.update(people)
    for name in people:
        browser = await somebody(stage)
        page = await attempt(browser, stage.at(SIGN_IN), name, "alice-password")
        assert (page.status, begins_session(page)) == (303, True), name


async def test_an_office_is_not_unlimited(stages: Set, somebody: Somebody) -> None:
    """Failures from one address meet its wider limit, whatever names they try."""
    wide = {"login_per_client": {"burst": 50, "every": "1s"}}
    stage = await stages(provider={"password_login": True}, throttle=wide)
    statuses = [(await attempts(stage, 1, f"guess{number}"))[0] for number in range(55)]
    assert statuses == [401] * 50 + [429] * 5
    stage.clock.pass_(1)
    assert await attempts(stage, 2, "other") == [401, 429]


async def test_known_and_unknown_users_look_alike(stage: Stage, somebody: Somebody) -> None:
    """Status, headers and page are the same for a user that exists and for one that does not, at every step."""
    for _ in range(22):
        known = await attempt(await somebody(stage), stage.at(SIGN_IN), "alice")
        unknown = await attempt(await somebody(stage), stage.at(SIGN_IN), "nobdy")
        assert told(known, "alice") == told(unknown, "nobdy")
    assert told(known, "alice")[0] == 429


def told(page: Page, username: str) -> tuple[int, list[tuple[str, str]], str]:
    """What an answer says, without ids, dates and cookies, and without the name that was typed."""
    mine = {"date", "x-request-id", "set-cookie"}
    headers = [(name.lower(), value) for name, value in page.headers.items() if name.lower() not in mine]
    text = page.text.replace(page.headers["X-Request-Id"], "ID") if "X-Request-Id" in page.headers else page.text
    text = re.sub(r'(name="csrf_token" value=")[^"]*', r"\1", text)
    return page.status, headers, text.replace(username, "NAME!")


async def test_known_and_unknown_users_take_as_long(stage: Stage) -> None:
    """However long the provider thinks about a user, the answer comes at a step of a tenth of a second."""

    async def timed(name: str, pause: float) -> float:
        stage.peer.delay["token"] = pause
        loop = asyncio.get_running_loop()
        page = await stage.browser.navigate(stage.at(SIGN_IN))
        data = {**page.form("password").fields, "username": name, "password": "wrong"}
        began = loop.time()
        await stage.browser.navigate(stage.at(SIGN_IN), method="POST", data=data)
        return loop.time() - began

    assert await timed("alice", 0.03) >= 0.1
    assert await timed("nobody", 0.0) >= 0.1


async def test_a_browser_that_begins_again_and_again(stage: Stage) -> None:
    """One browser that starts sign-in after sign-in meets the same limit: twenty, then one every six seconds."""
    start = stage.at(f"{PREFIX}/start")
    statuses = [(await stage.browser.navigate(start)).status for _ in range(23)]
    assert statuses[:20] == [302] * 20
    assert statuses[21:] == [429] * 2
    page = await stage.browser.navigate(start)
    wait = int(page.headers["Retry-After"])
    assert 1 <= wait <= 6
    stage.clock.pass_(wait)
    assert [(await stage.browser.navigate(start)).status for _ in range(2)] == [302, 429]


async def test_finished_sign_ins_cost_nothing(stages: Set) -> None:
    """A browser that finishes what it begins never meets the limit."""
    stage = await stages()
    for _ in range(40):
        assert (await stage.browser.open(stage.at(f"{PREFIX}/start"))).status == 200


async def test_failed_callbacks_count(stages: Set) -> None:
    """A browser that brings wrong answers again and again meets the limit as well."""
    stage = await stages()
    await stage.begun()
    bad = stage.at(f"{PREFIX}/callback/peer?state=made-up&code=c")
    statuses = [(await stage.browser.navigate(bad)).status for _ in range(25)]
    assert statuses[:18] == [400] * 18
    assert statuses[-3:] == [429] * 3
    assert stage.peer.asked("token") == []


async def test_a_script_is_told_in_json(stage: Stage) -> None:
    """Who asks for JSON is refused in JSON, with the same Retry-After."""
    await attempts(stage, 20)
    page = await attempt(
        stage.browser, stage.at(SIGN_IN), "alice", Accept="application/json", **{"Sec-Fetch-Mode": "cors"}
    )
    assert (page.status, page.json["error"]) == (429, "too_many_attempts")
    assert 1 <= int(page.headers["Retry-After"]) <= 6


async def test_without_redis_nobody_is_unlimited(stages: Set, redis_server: RedisServer) -> None:
    """While the store is away each process counts alone."""
    stage = await stages(provider={"password_login": True}, store={"redis": {"url": redis_server.url}})
    redis_server.stop()
    statuses = await attempts(stage, 22)
    assert statuses.count(429) >= 1
    assert statuses[:20] == [401] * 20
    redis_server.start()


async def test_two_processes_share_the_count(
    tmp_path: Path, redis_server: RedisServer, upstream_app: UpstreamApp
) -> None:
    """Two processes on one Redis let twenty attempts pass between them, and one more after the wait."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        pair = [
            await stack.enter_async_context(
                AuthproxyProcess(tmp_path, _shared(peer, upstream_app, redis_server, tmp_path, name), name=name)
            )
            for name in ("one", "two")
        ]
        browser = await stack.enter_async_context(Browser())
        places = [proxy.at(HOST, SIGN_IN) for proxy in pair]
        began = asyncio.get_running_loop().time()
        pages = [await attempt(browser, places[number % 2], "alice") for number in range(20)]
        assert [page.status for page in pages] == [401] * 20
        earned = int((asyncio.get_running_loop().time() - began) / 6)  # what the time that this took gave back
        more = [await attempt(browser, places[number % 2], "alice") for number in range(earned + 2)]
        refused = [page for page in more if page.status == 429]
        assert refused
        assert all(1 <= int(page.headers["Retry-After"]) <= 6 for page in refused)


def _shared(peer: OpenIDPeer, app: UpstreamApp, redis: RedisServer, folder: Path, name: str) -> dict[str, Any]:
    data = settings_for(
        peer, app, folder / f"{name}.jsonl", provider={"password_login": True}, store={"redis": {"url": redis.url}}
    )
    for left_to_the_process in ("listen", "session", "public_url", "audit"):
        del data[left_to_the_process]
    return data
