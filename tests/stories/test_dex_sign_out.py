"""Sign-out before Dex with the blocks of docs/how-to/dashboard.md: where it ends, and whose session it ends.

Dex after 2.45 with browser sessions has a sign-out page and back-channel logout; Dex 2.45 has neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.peers.browser_client import Page
from tests.peers.dex import missing
from tests.peers.dex_stage import Device, DexStage, dex_stage
from tests.peers.openid_dex import DexPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

LIFETIME: Final = 6  # seconds of an ID token
WITH_SESSIONS: Final = ("peer", "dex")
WITHOUT_SESSIONS: Final = ("peer-2.45", "dex-2.45")
pytestmark = pytest.mark.timeout(240)

Building = Callable[..., Awaitable[DexStage]]


@pytest.fixture
async def build(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Building]:
    """Builds a stage before the provider that the test names."""
    if request.param.startswith("dex") and missing(request.param):
        pytest.skip(missing(request.param))
    async with AsyncExitStack() as stack:

        async def builder(**options: Any) -> DexStage:
            times = {"id_tokens": LIFETIME, "reuse_interval": 2}
            return await dex_stage(stack, tmp_path, redis_server, request.param, people=("alice",), **times | options)

        yield builder


async def out_within(device: Device, seconds: float = PATIENCE) -> None:
    """Wait until a device is signed out."""
    async with asyncio.timeout(seconds):
        while await device.click() != 401:
            await asyncio.sleep(0.05)  # other processes: there is no event to wait for
    device.is_in = False


async def heard(stage: DexStage, count: int) -> None:
    """Wait until the replica that ``backchannelLogoutURI`` names has taken so many logout tokens."""
    async with asyncio.timeout(PATIENCE):
        while True:
            events = [one for one in stage.replicas[0].audit() if one["event"] == "backchannel_logout"]
            assert {one["outcome"] for one in events} <= {"ok"}, events
            if len(events) >= count:
                return
            await asyncio.sleep(0.05)  # another process: there is no event to wait for


def is_ours(device: Device, page: Page) -> bool:
    """Whether a sign-out ended on our own page."""
    return (page.status, urlsplit(page.url)._replace(query="").geturl()) == (200, device.at("/oauth2/signed_out"))


async def asks_for_password(device: Device) -> bool:
    """Whether the next click shows the form of Dex."""
    page = await device.open(device.at(device.target))
    return page.url.startswith(device.stage.provider.issuer) and b'name="password"' in page.body


@pytest.mark.parametrize("build", WITH_SESSIONS, indirect=True)
async def test_sign_out_ends_on_our_page_and_at_dex(build: Building) -> None:
    """The browser comes back to our page, the next click asks for the password, and Dex sends back-channel logout."""
    stage = await build()
    device = await stage.device("alice")
    await device.sign_in()
    page = await device.sign_out()
    assert is_ours(device, page), (page.url, page.status, page.body[:2000])
    await heard(stage, 1)
    assert await asks_for_password(device)


@pytest.mark.parametrize("build", WITHOUT_SESSIONS, indirect=True)
async def test_sign_out_before_dex_without_sessions(build: Building) -> None:
    """Dex 2.45 takes the same snippet: sign-out ends on our page, and Dex asks for the password at each sign-in."""
    stage = await build()
    device = await stage.device("alice")
    await device.sign_in()
    page = await device.sign_out()
    assert is_ours(device, page), (page.url, page.status)
    assert await asks_for_password(device)


@pytest.mark.parametrize("build", WITH_SESSIONS, indirect=True)
async def test_each_of_two_devices_signs_out_by_its_own_sid(build: Building) -> None:
    """The shared refresh token brings ID tokens with the other device's ``sid``; sign-out uses this session's own."""
    stage = await build()
    first, second = await stage.device("alice"), await stage.device("alice")
    await first.sign_in()
    await second.sign_in()
    await stage.expired()
    await stage.renewed()
    for count, device in enumerate((first, second)):
        page = await device.sign_out()
        assert is_ours(device, page), (page.url, page.status, page.body[:2000])
        await heard(stage, count + 1)
        assert await stage.click() == {}  # the other device
        assert await asks_for_password(device)


@pytest.mark.parametrize("build", ["peer"], indirect=True)
async def test_sign_out_after_dex_has_changed_its_keys(build: Building) -> None:
    """A hint that Dex cannot verify any more is not sent: it would end on a 400 page.  Dex may ask instead."""
    stage = await build()
    peer = stage.provider
    assert isinstance(peer, DexPeer)
    first, second = await stage.device("alice"), await stage.device("alice")
    await first.sign_in()
    await second.sign_in()
    await stage.expired()
    peer.rotate_keys(keep_old=False)
    await stage.renewed()
    page = await first.sign_out()
    assert page.status == 200, (page.url, page.body[:500])
    if not is_ours(first, page):
        await first.submit(page, page.form(action="/logout"))
    assert await asks_for_password(first)
    assert is_ours(second, await second.sign_out())  # its ``sid`` is that of the newest tokens


@pytest.mark.parametrize("build", WITH_SESSIONS, indirect=True)
async def test_a_session_that_ends_in_dex_ends_here_and_no_other(build: Building) -> None:
    """Sign-out in Dex itself: back-channel logout ends that browser's session alone, whoever's ``sid`` is in tokens."""
    stage = await build()
    devices = [await stage.device("alice") for _ in range(3)]
    for device in devices:
        await device.sign_in()
    await stage.expired()
    await stage.renewed()
    for count, leaving in enumerate((devices[0], devices[2])):
        page = await leaving.navigate(f"{stage.provider.issuer}/logout")
        await leaving.submit(page, page.form(action="/logout"))
        await heard(stage, count + 1)
        await out_within(leaving)
    await stage.expired()
    await stage.renewed()
