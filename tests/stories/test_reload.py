"""Settings, secrets and certificates change under a running process, while people and machines use it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.hostile.harness import HOST, settings_for
from tests.peers.authority import SERVER, Authority
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

TOKEN: Final = "a-static-token-of-more-than-32-characters"
CLOSED: Final = {"any": [{"groups": ["nobody"]}]}
OPEN: Final = {"any": [{"authenticated": True}]}


def new_key() -> str:
    """A session key."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


class Running:
    """A process, the settings that its file holds, and people who never stop to use it."""

    def __init__(self, proxy: AuthproxyProcess, peer: OpenIDPeer, data: dict[str, Any]) -> None:
        self.proxy, self.peer, self.data = proxy, peer, data
        self.statuses: list[int] = []

    def write(self, **sections: Any) -> None:
        """Change sections of the settings file."""
        self.data |= sections
        self.proxy.write(self.data)

    async def reload(self, outcome: str = "ok") -> None:
        """SIGHUP; wait until the process has said what became of it."""
        before = len(self._reloads(outcome))
        self.proxy.program.send(signal.SIGHUP)
        await self.reloaded(outcome, before + 1)

    async def reloaded(self, outcome: str = "ok", count: int = 1) -> None:
        """Wait until that many reloads have had this outcome."""
        await self.proxy.program.until(lambda: len(self._reloads(outcome)) >= count, f"a reload is {outcome}")

    def _reloads(self, outcome: str) -> list[dict[str, Any]]:
        return [one for one in self.proxy.audit() if one["event"] == "reload" and one["outcome"] == outcome]

    @asynccontextmanager
    async def load(self, people: int = 4) -> AsyncIterator[list[Browser]]:
        """Signed-in people, each asking without a pause until the block ends."""
        async with AsyncExitStack() as stack:
            browsers = [await stack.enter_async_context(Browser()) for _ in range(people)]
            for number, browser in enumerate(browsers):
                self.peer.current_user = ("alice", "bob")[number % 2]
                assert (await browser.open(self.proxy.at(HOST))).status == 200
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for browser in browsers:
                    group.create_task(self._use(browser, over))
                try:
                    await self.used(50)
                    yield browsers
                    await self.used(50)
                finally:
                    over.set()

    async def _use(self, browser: Browser, over: asyncio.Event) -> None:
        while not over.is_set():
            self.statuses.append((await browser.xhr(self.proxy.at(HOST, "/inside"))).status)

    async def used(self, more: int) -> None:
        """Wait until that many more requests were answered."""
        wanted = len(self.statuses) + more
        async with asyncio.timeout(PATIENCE):
            while len(self.statuses) < wanted:
                await asyncio.sleep(0.01)


@pytest.fixture
async def running(tmp_path: Path, upstream_app: UpstreamApp, redis_server: RedisServer) -> AsyncIterator[Running]:
    """Sessions in Redis; the client secret and the session keys in files."""
    (tmp_path / "key").write_text(new_key())
    async with OpenIDPeer() as peer:
        (tmp_path / "client-secret").write_text(peer.client_secret or "")
        data = settings_for(
            peer, upstream_app, Path("unused"), store={"redis": {"url": redis_server.url}},
            provider={"client_secret": {"file": str(tmp_path / "client-secret")}},
            session={"keys": [{"file": str(tmp_path / "key")}]},
        )  # fmt: skip
        del data["listen"], data["audit"], data["public_url"]
        async with AuthproxyProcess(tmp_path, data) as proxy:
            yield Running(proxy, peer, data)


async def test_everything_rotates_under_load(running: Running, tmp_path: Path) -> None:
    """Settings, session keys and the client secret change while people work: nothing fails, nobody signs in again."""
    async with running.load() as browsers:
        running.write(policies={"people": OPEN, "more": OPEN})
        await running.reload()
        await running.used(100)
        (tmp_path / "key-2").write_text(new_key())
        running.write(session={"keys": [{"file": str(tmp_path / "key-2")}, {"file": str(tmp_path / "key")}]})
        await running.reload()
        await running.used(100)
        running.peer.client_secret = "another-client-secret"
        (tmp_path / "client-secret").write_text("another-client-secret")
        await running.reload()
        await running.used(100)
        signed_in = len(running.peer.asked("authorize"))
        async with Browser() as newcomer:  # by the new secret, sealed with the new key
            assert (await newcomer.open(running.proxy.at(HOST))).status == 200
    assert set(running.statuses) == {200}
    assert len(running.peer.asked("authorize")) == signed_in + 1 == len(browsers) + 1
    assert running.peer.asked("token", grant_type="refresh_token") == []


async def test_a_bad_file_changes_nothing(running: Running) -> None:
    """Every problem is said with its line, the former settings stay, and the next good file is taken."""
    async with running.load():
        good = running.proxy.file.read_text()
        running.proxy.file.write_text(good.replace("policies:", "polices:"))
        await running.reload("refused")
        await running.used(50)
        told = "\n".join(running.proxy.program.stderr.all())
        assert "polices: unknown key; did you mean policies?" in told
        assert f"{running.proxy.file} cannot be used as it is now; the former settings stay" in told
        running.proxy.file.write_text(good)
        await running.reload()
    assert set(running.statuses) == {200}
    async with aiohttp.ClientSession() as http, http.get(f"{running.proxy.admin_url}/metrics") as answer:
        text = await answer.text()
    assert 'authproxy_events_total{event="reload",outcome="refused"} 1.0' in text
    assert 'authproxy_events_total{event="reload",outcome="ok"} 1.0' in text


async def test_a_policy_bites_at_once(running: Running) -> None:
    """After the reload the new policy decides, for sessions that were live before."""
    async with Browser() as browser:
        assert (await browser.open(running.proxy.at(HOST))).status == 200
        for policy, status in ((CLOSED, 403), (OPEN, 200)):
            running.write(policies={"people": policy})
            await running.reload()
            assert (await browser.xhr(running.proxy.at(HOST, "/inside"))).status == status


async def test_files_are_watched(running: Running, tmp_path: Path) -> None:
    """With ``reload: true`` a changed file is enough: the settings themselves, and what they name."""
    running.write(reload=True)
    await running.reload()
    running.write(policies={"people": OPEN, "more": OPEN})
    await running.reloaded(count=2)
    (tmp_path / "key").write_text(new_key())
    await running.reloaded(count=3)


async def test_listeners_take_a_restart(running: Running) -> None:
    """A changed address is said and left; the rest of the file is served."""
    running.write(listen={"decisions": "127.0.0.1:1"}, policies={"people": CLOSED})
    await running.reload()
    assert "listen.decisions changed; that takes a restart" in "\n".join(running.proxy.program.stderr.all())
    async with Browser() as browser:
        assert (await browser.open(running.proxy.at(HOST))).status == 403


async def test_the_certificate_rotates_under_load(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """New connections are shown the new certificate after the reload; no request fails meanwhile."""
    authority = Authority(tmp_path, "servers")

    def install() -> None:
        pair = authority.signed("auth.test", dns=("auth.test",), usage=SERVER)
        for made, name in zip(pair, ("tls.crt", "tls.key"), strict=True):
            shutil.move(made, tmp_path / name)

    install()
    data = {
        "listen": {"tls": {"cert": "tls.crt", "key": "tls.key"}}, "public_url": "https://auth.test",
        "tokens": {"ci": {"secrets": [{"value": TOKEN}]}}, "policies": {"all": OPEN},
        "apps": {"api": {"host": "*", "upstream": {"url": upstream_app.url},
                         "routes": [{"path": "/", "accept": ["token"], "policy": "all"}]}},
    }  # fmt: skip
    context = ssl.create_default_context(cafile=str(authority.file))
    async with AuthproxyProcess(tmp_path, data) as proxy:
        running, over = Running(proxy, OpenIDPeer(), data), asyncio.Event()
        serials: list[int] = []

        async def use() -> None:
            while not over.is_set():
                serials.append(await shown(proxy, context, running.statuses))

        async with asyncio.TaskGroup() as group:
            group.create_task(use())
            await running.used(5)
            install()
            await running.reload()
            await running.used(5)
            over.set()
    assert set(running.statuses) == {200}
    assert len(set(serials)) == 2
    assert serials == sorted(serials, key=serials.index)  # the old one, then the new one, and never back


async def shown(proxy: AuthproxyProcess, context: ssl.SSLContext, statuses: list[int]) -> int:
    """One request on a connection of its own; which certificate was shown."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context, server_hostname="auth.test")
    certificate = writer.get_extra_info("peercert")
    writer.write(f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    statuses.append(int((await reader.read()).split(b" ", 2)[1]))
    writer.close()
    return int(certificate["serialNumber"], 16)
