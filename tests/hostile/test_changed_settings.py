"""What goes on, and what ends, when a proxy takes other settings while it serves."""

from __future__ import annotations

import asyncio
import base64
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from authproxy.app import Authproxy
from authproxy.errors import SettingsError
from authproxy.settings.load import from_mapping
from tests.hostile.harness import Set, Stage, settings_for
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

CLOSED: Final = {"any": [{"groups": ["nobody"]}]}
OPEN: Final = {"any": [{"authenticated": True}]}


def new_key() -> str:
    """A session key."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


async def changed(stage: Stage, **sections: Any) -> None:
    """The first proxy takes other settings."""
    proxy, audit = stage.proxies[0], sections.pop("audit", stage.audits[0])
    data = settings_for(stage.peer, stage.app, audit, public_url=proxy.settings.public_url, **sections)
    await proxy.take(from_mapping(data, stage.folder, {}))


def graphs(proxy: Authproxy) -> int:
    """How many earlier graphs are still in use."""
    return len(proxy._retiring)


async def test_what_is_open_finishes_by_the_former_settings(stage: Stage) -> None:
    """A request that is under way ends well where it began; then the former graph is left."""
    await stage.sign_in()
    proxy = stage.proxies[0]
    slow = asyncio.ensure_future(stage.browser.xhr(stage.at("/slow")))
    while not stage.app.to("/slow"):
        await asyncio.sleep(0)
    await changed(stage, policies={"people": CLOSED})
    assert (await stage.browser.xhr(stage.at("/inside"))).status == 403
    assert graphs(proxy) == 1
    stage.app.release.set()
    assert (await slow).status == 200
    async with asyncio.timeout(PATIENCE):
        while graphs(proxy):
            await asyncio.sleep(0)


async def test_a_tunnel_of_the_former_settings_is_cut_at_sign_out(stage: Stage) -> None:
    """Sessions in memory outlive the change: signing out cuts what was opened before it."""
    await stage.sign_in()
    url, cookie = stage.at("/ws"), stage.browser.cookie_header(stage.at("/ws"))
    async with stage.browser.session.ws_connect(url, headers={"Cookie": cookie}) as socket:
        await changed(stage)
        await socket.send_str("still here")
        assert (await socket.receive()).data == "still here"
        await stage.sign_out()
        async with asyncio.timeout(PATIENCE):
            while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE):
                pass


async def test_earlier_settings_are_bounded(stage: Stage) -> None:
    """A tunnel that never ends does not keep every graph since: the oldest is broken off at the ninth change."""
    await stage.sign_in()
    cookie = stage.browser.cookie_header(stage.at("/ws"))
    async with AsyncExitStack() as stack:
        for _ in range(10):
            tunnel = stage.browser.session.ws_connect(stage.at("/ws"), headers={"Cookie": cookie})
            await stack.enter_async_context(tunnel)
            await changed(stage)
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            while graphs(stage.proxies[0]) > 8:
                await asyncio.sleep(0)


async def test_what_is_known_stays(stage: Stage) -> None:
    """Providers with their keys, the store and the revocations outlive a change that is not about them."""
    await stage.sign_in()
    before = stage.proxies[0].graph
    asked = len(stage.peer.asked("discovery"))
    await changed(stage, policies={"people": OPEN, "more": OPEN})
    after = stage.proxies[0].graph
    assert after is not before
    assert after.providers["peer"] is before.providers["peer"]
    assert (after.store, after.marks) == (before.store, before.marks)
    await changed(stage, provider={"claims": {"groups": "roles"}})
    assert stage.proxies[0].graph.providers["peer"] is not after.providers["peer"]
    assert await stage.is_in()
    assert len(stage.peer.asked("discovery")) == asked + 1


async def test_identities_are_built_anew(stage: Stage) -> None:
    """A changed claim mapping counts for sessions that are live already."""
    await stage.sign_in()
    assert await stage.is_in()
    await changed(stage, provider={"claims": {"user": "preferred_username"}})
    assert await stage.is_in()
    assert stage.app.last.get("X-Forwarded-User") == "alice"


async def test_a_key_that_is_gone_opens_nothing(stage: Stage) -> None:
    """Live sessions, too: their cookie was sealed by a key that is not trusted any more."""
    await stage.sign_in()
    await changed(stage, session={"keys": [{"value": new_key()}]})
    assert not await stage.is_in()


async def test_a_provider_that_is_gone_ends_its_sessions(stage: Stage) -> None:
    """Also one that has another issuer now: the refresh token of the former must not be sent there."""
    await stage.sign_in()
    async with OpenIDPeer(clock=stage.clock) as other:
        await changed(stage, provider={"issuer": other.issuer})
        assert not await stage.is_in()
        assert other.asked("token") == []


async def test_revocations_move_to_another_store(stages: Set, redis_server: RedisServer) -> None:
    """What was signed out stays out when the settings name another store."""
    stage = await stages()
    await stage.sign_in()
    kept = stage.browser.cookie_header(stage.at("/"))
    await stage.sign_out()
    await changed(stage, store={"redis": {"url": redis_server.url}})
    assert not await stage.in_with(kept)
    await stage.proxies[0].graph.marks.sync()
    async with Authproxy(stage.proxies[0].settings, clock=stage.clock) as another:
        await another.graph.marks.sync()
        assert len(another.graph.marks.held()) == 1


async def test_a_process_that_waits_can_be_helped(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """A process that is not ready because of its settings is ready after a change of them."""
    async with OpenIDPeer() as peer:
        good = settings_for(peer, upstream_app, tmp_path / "audit")
        wrong = settings_for(peer, upstream_app, tmp_path / "audit", provider={"issuer": "http://127.0.0.1:9"})
        async with Authproxy(from_mapping(wrong, tmp_path, {})) as proxy:
            assert set(proxy.readiness().waiting_for) == {"store", "provider peer"}
            await proxy.take(from_mapping(good, tmp_path, {}))
            async with asyncio.timeout(PATIENCE):
                await proxy.startup.done.wait()
            assert proxy.readiness().ready


async def test_the_audit_file_may_be_rotated(stage: Stage) -> None:
    """After a change the file of that name is opened anew; an unusable one keeps the former settings."""
    await stage.sign_in()
    audit = stage.audits[0]
    audit.rename(audit.with_suffix(".1"))
    await changed(stage)
    assert await stage.is_in()
    assert "exchange" in audit.read_text()
    with pytest.raises(SettingsError, match="directory"):
        await changed(stage, audit=stage.folder, policies={"people": CLOSED})
    proxy, other = stage.proxies[0], stage.folder / "other"
    data = settings_for(stage.peer, stage.app, other, public_url=proxy.settings.public_url, policies={"people": CLOSED})
    settings = from_mapping(data, stage.folder, {})
    other.mkdir()  # between the check of the settings and their use
    with pytest.raises(OSError, match="directory"):
        await proxy.take(settings)
    assert await stage.is_in()
