"""The whole street: the proxy as a process, a certified provider, a real Redis, a recording application, a browser."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.async_api import Page, async_playwright

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.certified_provider import CertifiedProvider, missing, password_of
from tests.peers.fleet import Fleet, fleet
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE, free_port
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

HOST = "dashboard.test"
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_WORDS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


class Street(NamedTuple):
    """Everybody in a story, each on a loopback port of its own."""

    proxy: AuthproxyProcess
    provider: CertifiedProvider
    redis: RedisServer
    app: UpstreamApp

    def at(self, target: str) -> str:
        """The URL of ``target`` in the protected application."""
        return self.proxy.at(HOST, target)


Building = Callable[..., Awaitable[Street]]


def settings_for(provider: CertifiedProvider, redis: RedisServer, app: UpstreamApp) -> dict[str, Any]:
    """One application for staff, which gets the ID token."""
    return {
        "store": {"redis": {"url": redis.url}},
        "providers": {"peer": provider.settings(title="The peer")},
        "policies": {"staff": {"any": [{"groups": ["staff"]}]}, "public": {"anonymous": True}},
        "apps": {
            "dashboard": {
                "title": "Dashboard",
                "host": HOST,
                "provider": "peer",
                "upstream": {"url": app.url, "authorization": "id_token"},
                "routes": [{"path": "/healthz", "policy": "public"}, {"path": "/", "policy": "staff"}],
            }
        },
    }


def peer_for(port: int, **times: int) -> CertifiedProvider:
    """The provider, told where the proxy on ``port`` is."""
    homes = [f"http://{name}:{port}/oauth2" for name in (HOST, "auth.test")]
    return CertifiedProvider(
        redirect_uris=[f"{home}/callback{end}" for home in homes for end in ("", "/peer")],
        post_logout_redirect_uris=[f"{home}/signed_out" for home in homes],
        backchannel_logout_uri=f"{homes[0]}/backchannel_logout",
        **times,
    )


@pytest.fixture
async def build(tmp_path: Path, redis_server: RedisServer, upstream_app: UpstreamApp) -> AsyncIterator[Building]:
    """Builds a street; ``id_token_ttl`` and ``access_token_ttl`` are seconds."""
    assert not missing(), missing()
    async with AsyncExitStack() as stack:

        async def builder(**times: int) -> Street:
            port = free_port()
            provider = await stack.enter_async_context(peer_for(port, **times))
            settings = settings_for(provider, redis_server, upstream_app)
            proxy = await stack.enter_async_context(AuthproxyProcess(tmp_path, settings, port=port))
            return Street(proxy, provider, redis_server, upstream_app)

        yield builder


@pytest.fixture
async def build_fleet(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Fleet]]]:
    """Builds two replicas behind HAProxy over one store (``redis``: its section of the settings).

    ``peer`` holds options of the provider, which rotates strictly; ``sections`` are further sections of the settings.
    """
    async with AsyncExitStack() as stack:

        async def builder(redis: dict[str, Any], *, peer: dict[str, Any] | None = None, **sections: Any) -> Fleet:
            provider = await stack.enter_async_context(OpenIDPeer(**{"alg": "ES256", **(peer or {})}))
            return await fleet(stack, tmp_path, stores=[{"redis": redis}] * 2, peer=provider, **sections)

        yield builder


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Keeps a figure with the test, and shows it with ``-s``."""

    def keep(name: str, value: object) -> None:
        record_property(name, str(value))
        sys.stdout.write(f"\n  {name}: {value}")

    return keep


@pytest.fixture
async def tab() -> AsyncIterator[Page]:
    """A tab of a fresh Chromium; a page that its own content security policy stops fails the test."""
    blocked: list[str] = []
    async with async_playwright() as play:
        chromium = await play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_WORDS)
        context = await chromium.new_context()
        context.set_default_timeout(PATIENCE * 1000)
        context.on(
            "console", lambda said: blocked.append(said.text) if "Content Security Policy" in said.text else None
        )
        yield await context.new_page()
        await chromium.close()
    assert blocked == []


async def fill_in(tab: Page, username: str) -> None:
    """Sign in at the provider's form, and wait until it is left."""
    await tab.fill("input[name=username]", username)
    await tab.fill("input[name=password]", password_of(username))
    async with tab.expect_navigation(url=lambda url: "/interaction/" not in url and "/auth" not in url):
        await tab.click("button[type=submit]")
