"""A process that starts while others are down, and one that is told nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.hostile.harness import HOST, settings_for
from tests.peers.authproxy_process import AuthproxyProcess, run
from tests.peers.browser_client import Browser, Page
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import free_port
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp


def settings(peer: OpenIDPeer, app: UpstreamApp, **sections: Any) -> dict[str, Any]:
    """One application; what belongs to the process is left to it."""
    whole = settings_for(peer, app, Path("unused"), **sections)
    return {name: value for name, value in whole.items() if name not in ("listen", "session", "public_url", "audit")}


@asynccontextmanager
async def started(folder: Path, data: dict[str, Any]) -> AsyncIterator[AuthproxyProcess]:
    """A process that listens, ready or not."""
    proxy = AuthproxyProcess(folder, data)
    proxy.program.start()
    try:
        await said(proxy, "admin listens on")
        yield proxy
    finally:
        await proxy.stop()


async def said(proxy: AuthproxyProcess, words: str) -> str:
    """Wait until standard error says it; the line."""

    def known(text: str) -> str | None:
        return text if words in text else None

    return await proxy.program.line(known, error=True)


async def readiness(proxy: AuthproxyProcess, place: str = "readyz") -> tuple[int, dict[str, Any]]:
    """What the admin listener says."""
    async with aiohttp.ClientSession() as http, http.get(f"{proxy.admin_url}/{place}") as answer:
        return answer.status, await answer.json()


async def opened(proxy: AuthproxyProcess) -> Page:
    """What a person gets who opens the application."""
    async with Browser() as browser:
        return await browser.open(proxy.at(HOST))


async def test_the_provider_is_down(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """Without its provider the process is ready and says what it waits for; people sign in when the provider comes."""
    peer = OpenIDPeer(port=free_port())
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(started(tmp_path, settings(peer, upstream_app)))
        assert "provider peer" in await said(proxy, "waiting for")
        assert "connection refused" in await said(proxy, "WARNING: waiting for provider peer")
        await proxy.ready()
        status, content = await readiness(proxy)
        assert (status, content["ready"]) == (200, True)
        assert "provider peer" in content["waiting_for"]
        assert "refused" in content["degraded"]["provider peer"]
        assert (await readiness(proxy, "healthz"))[0] == 200
        assert (await opened(proxy)).status == 502
        await stack.enter_async_context(peer)

        async def waits_for_nothing() -> bool:
            return not (await readiness(proxy))[1]["waiting_for"]

        await proxy.program.until(waits_for_nothing, "it waits for nothing")
        assert (await opened(proxy)).status == 200
        assert proxy.program.exit_code is None


async def test_the_provider_is_down_at_a_restart(
    tmp_path: Path, upstream_app: UpstreamApp, redis_server: RedisServer
) -> None:
    """Whoever is signed in goes on at a process that has started while the provider was away."""
    async with OpenIDPeer() as peer, Browser() as browser:
        data = settings(peer, upstream_app, store={"redis": {"url": redis_server.url}})
        async with AuthproxyProcess(tmp_path, data) as proxy:
            assert (await browser.open(proxy.at(HOST))).status == 200
            await peer.stop()
            await proxy.stop()
            await proxy.start()
            assert (await browser.xhr(proxy.at(HOST, "/inside"))).status == 200


async def test_redis_is_down(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """The same without Redis: people sign in meanwhile, and readiness comes with Redis."""
    redis = RedisServer()
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        data = settings(peer, upstream_app, store={"redis": {"url": redis.url}})
        proxy = await stack.enter_async_context(started(tmp_path, data))
        assert "store" in await said(proxy, "waiting for")
        status, content = await readiness(proxy)
        assert status == 503
        assert "store" in content["waiting_for"]
        assert (await opened(proxy)).status == 200
        stack.enter_context(redis)
        await proxy.ready()
        assert (await readiness(proxy))[1]["waiting_for"] == {}


async def test_redis_goes_later(tmp_path: Path, upstream_app: UpstreamApp, redis_server: RedisServer) -> None:
    """A process that was ready stays so without Redis, and says that it is degraded."""
    async with OpenIDPeer() as peer:
        data = settings(peer, upstream_app, store={"redis": {"url": redis_server.url}})
        async with AuthproxyProcess(tmp_path, data) as proxy:
            redis_server.stop()

            async def degraded() -> bool:
                return "store" in (await readiness(proxy))[1]["degraded"]

            await proxy.program.until(degraded, "it is degraded")
            assert (await readiness(proxy))[0] == 200
            assert (await opened(proxy)).status == 200
            redis_server.start()


async def test_it_stops_while_it_waits(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """SIGTERM ends a process that is not ready yet, in order."""
    peer = OpenIDPeer(port=free_port())
    async with started(tmp_path, settings(peer, upstream_app)) as proxy:
        await said(proxy, "WARNING: waiting for provider peer")
        assert await proxy.stop() == 0, proxy.program.transcript()


def test_wrong_settings(tmp_path: Path) -> None:
    """A wrong file ends the start with exit code 2 and every problem, each with its line; no secret among them."""
    file = tmp_path / "authproxy.yaml"
    file.write_text(
        "public_url: ftp://auth.example.com\n"
        "sesion: {}\n"
        "session:\n"
        "  idle: soon\n"
        "  keys: [{value: not-a-key-but-secret}]\n"
        "providers:\n"
        "  dex: {issuer: 'https://dex.example.com'}\n"
        "apps:\n"
        "  web: {host: web.example.com, provider: dx, upstream: {}, routes: [{path: /, policy: staff}]}\n",
        encoding="utf-8",
    )
    done = run("serve", "-c", file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "not-a-key-but-secret" not in done.stderr
    for place in ("yaml:1: public_url", "yaml:2: sesion", "yaml:4: session.idle", "yaml:7: providers.dex.client_id"):
        assert place in done.stderr, done.stderr
    assert "apps.web" in done.stderr


def test_files_and_secrets_that_cannot_be_used(tmp_path: Path) -> None:
    """``check`` and ``serve`` refuse the same file in the same words: nothing is served that fails at a request.

    A Redis URL that cannot be parsed, an authority that is no certificate, a path that is a pattern, no folder for the
    audit file.
    """
    (tmp_path / "no-pem.crt").write_text("not a certificate", encoding="ascii")
    file = tmp_path / "authproxy.yaml"
    file.write_text(
        "public_url: https://auth.example.com\n"
        "store: {redis: {url: {env: REDIS_URL_OF_THE_TEST}}}\n"
        "audit: {file: nowhere/audit.jsonl}\n"
        "policies: {public: {anonymous: true}}\n"
        "apps:\n"
        "  web:\n"
        "    host: web.example.com\n"
        "    upstream: {url: https://web:8443, ca: no-pem.crt}\n"
        "    routes:\n"
        "      - {path: /admin/*, policy: public}\n"
        "      - {path: /, policy: public}\n",
        encoding="utf-8",
    )
    env = {"REDIS_URL_OF_THE_TEST": "redis://:hunter/2@redis:6379\n"}
    checked, served = run("check", "-c", file, env=env), run("serve", "-c", file, env=env)
    assert (checked.exit_code, served.exit_code) == (2, 2)
    assert checked.stderr == served.stderr
    for line, key in (
        (2, "store.redis.url"), (3, "audit.file"), (8, "apps.web.upstream.ca"), (10, "apps.web.routes[0].path"),
    ):  # fmt: skip
        assert f"yaml:{line}: {key}: " in served.stderr, served.stderr
    assert "Traceback" not in served.stderr
    assert "hunter" not in served.stderr


def enrolling(folder: Path, app: UpstreamApp) -> dict[str, Any]:
    """An API whose clusters enroll; its secret and its key are files that are not there yet."""
    return {
        "enrollment": {
            "tokens": {"fleet": {"secrets": [{"file": str(folder / "token")}]}},
            "signing_keys": [{"file": str(folder / "signing.jwk")}],
        },
        "policies": {"all": {"any": [{"authenticated": True}]}},
        "apps": {
            "api": {
                "host": "*",
                "upstream": {"url": app.url},
                "routes": [{"path": "/", "accept": ["enrolled"], "policy": "all"}],
            }
        },
    }


async def test_the_enrollment_secrets_are_missing(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """The process stays up and unready, and names each secret and key; it is ready as soon as they are there.

    Contract section 7: a clear error, unready rather than a crash loop.  ``check`` refuses the same file.
    """
    async with started(tmp_path, enrolling(tmp_path, upstream_app)) as proxy:
        assert "token" in await said(proxy, "enrollment.tokens.fleet.secrets[0]: the secret cannot be used")
        assert "signing.jwk" in await said(proxy, "enrollment.signing_keys[0]: the secret cannot be used")
        checked = await asyncio.to_thread(run, "check", "-c", proxy.file)
        assert checked.exit_code == 2
        assert "enrollment.tokens.fleet.secrets[0]" in checked.stderr
        await said(proxy, "WARNING: waiting for enrollment")
        status, content = await readiness(proxy)
        assert (status, content["ready"]) == (503, False)
        for named in ("enrollment.tokens.fleet.secrets[0]", "enrollment.signing_keys[0]", "signing.jwk"):
            assert named in content["waiting_for"]["enrollment"]
        assert (await readiness(proxy, "healthz"))[0] == 200
        (tmp_path / "token").write_text("a-good-enrollment-token-of-the-fleet", encoding="ascii")
        (tmp_path / "signing.jwk").write_text(run("key", "--signing").stdout, encoding="ascii")
        await proxy.ready()
        assert proxy.program.exit_code is None


@pytest.mark.parametrize(
    ("secret", "complaint"), [("tiny-secret", "at least 32 characters"), ("change-me-" * 5, "placeholder")]
)
async def test_an_enrollment_secret_is_weak(
    tmp_path: Path, upstream_app: UpstreamApp, secret: str, complaint: str
) -> None:
    """A weak secret opens nothing: the process says what is wrong with it, never what it is, and is not ready."""
    (tmp_path / "token").write_text(secret, encoding="ascii")
    (tmp_path / "signing.jwk").write_text(run("key", "--signing").stdout, encoding="ascii")
    async with started(tmp_path, enrolling(tmp_path, upstream_app)) as proxy:
        await said(proxy, "WARNING: waiting for enrollment")
        status, content = await readiness(proxy)
        assert status == 503
        assert complaint in content["waiting_for"]["enrollment"]
        headers, body = {"Authorization": f"Bearer {secret}"}, {"name": "agent"}
        url = f"http://127.0.0.1:{proxy.port}/oauth2/enroll"
        async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json=body) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"] == "enrollment_refused"
        assert secret not in proxy.program.transcript()


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    done = run("serve", "-c", tmp_path / "nowhere.yaml")
    assert done.exit_code == 2
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_port_that_is_taken(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """A port that somebody else has is said in a sentence, with exit code 2."""
    peer = OpenIDPeer(port=free_port())
    proxy = AuthproxyProcess(tmp_path, settings(peer, upstream_app), port=upstream_app.port)
    proxy.program.start()
    assert await proxy.program.ended() == 2, proxy.program.transcript()
    assert "Traceback" not in proxy.program.transcript()
    assert str(upstream_app.port) in proxy.program.transcript()
