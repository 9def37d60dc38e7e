"""A whole life of a session at the most talkative level: none of its secrets is in any log, audit line or error."""

from __future__ import annotations

import asyncio
import base64
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tests.hostile.harness import HOST, PREFIX, query, settings_for
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import Program
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

TALKATIVE = (
    "import logging, sys\n"
    "from authproxy import cli\n"
    "cli._log_to_stderr = lambda: logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)\n"
    "cli.main()\n"
)
PASSWORD = "redis-password-canary-8c1f"
CLIENT_SECRET = "client-secret-canary-77aa"
TYPED = "typed-password-canary-4e2d"


class Talkative(AuthproxyProcess):
    """The process with every logger at its lowest level."""

    def _program(self) -> Program:
        return Program(sys.executable, "-X", "dev", "-c", TALKATIVE, "serve", "-c", self.file, env=self._env)


async def test_no_secret_in_any_output(tmp_path: Path, upstream_app: UpstreamApp) -> None:
    """Sign-in, refresh, refusals, a wrong password, outages and sign-out leave no credential in what is printed."""
    canaries: set[str] = {PASSWORD, CLIENT_SECRET, TYPED}
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(password=PASSWORD))
        peer = await stack.enter_async_context(OpenIDPeer(client_secret=CLIENT_SECRET, id_token_lifetime=2))
        proxy = await stack.enter_async_context(Talkative(tmp_path, _settings(peer, upstream_app, redis)))
        browser = await stack.enter_async_context(Browser())
        await _live(proxy, peer, browser, redis, canaries)
        await proxy.stop()
    canaries |= _tokens(peer)
    assert len(canaries) > 20
    said = proxy.program.transcript()
    assert "DEBUG" in said
    assert '"event":"sign_in"' in said
    for canary in canaries:
        assert canary not in said, _around(said, canary)


def _settings(peer: OpenIDPeer, app: UpstreamApp, redis: RedisServer) -> dict[str, Any]:
    store = {"redis": {"url": redis.url, "password": {"value": PASSWORD}}}
    whole = settings_for(peer, app, Path("unused"), store=store, provider={"password_login": True, "userinfo": True})
    return {name: value for name, value in whole.items() if name not in ("listen", "session", "public_url", "audit")}


async def _live(
    proxy: AuthproxyProcess, peer: OpenIDPeer, browser: Browser, redis: RedisServer, canaries: set[str]
) -> None:
    def at(target: str) -> str:
        return proxy.at(HOST, target)

    assert (await browser.open(at(f"{PREFIX}/start?rd=/deep%3Fcanary%3Din-the-query-5b5b"))).status == 200
    canaries.add("in-the-query-5b5b")
    for _ in range(2):
        await asyncio.sleep(2.1)  # another process has the clock
        assert (await browser.xhr(at("/api"))).status == 200
    used = next(page.url for page in browser.visited if "/callback/" in page.url)
    await browser.navigate(used)
    await browser.navigate(at(f"{PREFIX}/callback/peer?code=canary-code-1234&state=canary-state-1234"))
    await browser.navigate(at(f"{PREFIX}/callback/peer?error=canary&error_description=canary-text-1234&state=x"))
    await browser.xhr(at("/api"), headers={"Authorization": "Bearer canary-bearer-1234", "X-Any": "canary-header-1234"})
    await browser.navigate(at("/"), headers={"Cookie": "authproxy=canary-cookie-1234"})
    canaries |= {"canary-code-1234", "canary-state-1234", "canary-text-1234", "canary-bearer-1234"}
    canaries |= {"canary-header-1234", "canary-cookie-1234"}

    page = await browser.navigate(at(f"{PREFIX}/sign_in"))
    form = {**page.form("password").fields, "username": "alice", "password": TYPED}
    assert (await browser.navigate(at(f"{PREFIX}/sign_in"), method="POST", data=form)).status == 401
    peer.token_answer = (500, {"error": "server_error", "error_description": "canary-answer-1234"})
    await browser.open(at(f"{PREFIX}/start"))
    peer.token_answer = None
    peer.mangle_id_token = lambda claims, _: claims.update(nonce="canary-nonce-1234")
    await browser.open(at(f"{PREFIX}/start"))
    peer.mangle_id_token = None
    canaries |= {"canary-answer-1234", "canary-nonce-1234"}

    status, _, _ = await peer.send_logout(
        f"http://127.0.0.1:{proxy.port}{PREFIX}/backchannel_logout", "canary.logout.1234"
    )
    assert status == 400
    canaries.add("canary.logout.1234")
    redis.stop()
    await asyncio.sleep(2.1)
    assert (await browser.xhr(at("/api"))).status == 200
    redis.start()
    page = await browser.navigate(at(f"{PREFIX}/sign_out"))
    canaries.add(page.form("csrf_token").fields["csrf_token"])
    await browser.submit(page, page.form("csrf_token"))
    for seen in browser.visited:
        canaries |= _secrets_of(seen.headers.getall("Set-Cookie", []), seen.location or "")


def _secrets_of(lines: list[str], location: str) -> set[str]:
    values = {line.partition("=")[2].partition(";")[0] for line in lines}
    told = query(location)
    secret = ("code", "state", "nonce", "code_challenge", "id_token_hint")
    return {value for value in values | {told.get(name, "") for name in secret} if len(value) > 8}


def _tokens(peer: OpenIDPeer) -> set[str]:
    found = {str(answer[name]) for answer in peer.issued for name in ("id_token", "access_token") if name in answer}
    found |= {str(answer["refresh_token"]) for answer in peer.issued if "refresh_token" in answer}
    found |= {call.form[name] for call in peer.calls for name in ("code", "code_verifier") if name in call.form}
    signatures = {text.rpartition(".")[2] for text in found if text.count(".") == 2}
    basic = {
        call.headers["authorization"].split(" ")[1] for call in peer.asked("token") if "authorization" in call.headers
    }
    return {
        text
        for text in found | signatures | basic | {quote(CLIENT_SECRET), base64.b64encode(PASSWORD.encode()).decode()}
        if text
    }


def _around(said: str, canary: str) -> str:
    place = said.index(canary)
    return unquote(said[max(place - 300, 0) : place + 100])
