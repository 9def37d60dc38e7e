"""Connectors enroll, read their own data and register, through the settings that config/connectors.yaml shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from authproxy.app import Authproxy
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import Seen, UpstreamApp

CONFIG: Final = Path(__file__).parents[2] / "config" / "connectors.yaml"
OLD, NEXT, LATER = "old-token-" + "o" * 40, "next-token-" + "n" * 40, "later-token-" + "l" * 40
EU, US, FOREIGN = "eu-01.k8s.example.com", "us-01.k8s.example.com", "eu-01.k8s.example.org"
Answer = tuple[int, Any]


class Api:
    """The proxy, the API behind it, and a connector's HTTP client."""

    def __init__(self, proxy: Authproxy, http: aiohttp.ClientSession, app: UpstreamApp) -> None:
        self.proxy, self.http, self.app = proxy, http, app

    async def ask(self, method: str, path: str, *lines: tuple[str, str], **options: Any) -> Answer:
        """Status and JSON; no refusal is ever a redirect."""
        headers = [("Host", "connectors.example.com"), ("Accept", "*/*"), *lines]
        url = f"http://{self.proxy.addresses['public']}{path}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json()

    async def enroll(self, token: str, cluster: str = EU) -> Answer:
        """POST /enroll."""
        return await self.ask("POST", "/oauth2/enroll", bearer(token), json={"name": "agent", "cluster": cluster})

    async def register(self, *lines: tuple[str, str], cluster: str = EU) -> Answer:
        """The plain route."""
        return await self.ask("POST", f"/clusters/{cluster}/register", *lines, json={"connector": "agent"})

    async def refused(self, status: int, code: str, asked: Awaitable[Answer]) -> dict[str, Any]:
        """What is said, when it is this refusal and the API was not touched."""
        reached = len(self.app.requests)
        answered, said = await asked
        assert (answered, said["error"]) == (status, code), said
        assert len(self.app.requests) == reached
        return dict(said)


def bearer(secret: str) -> tuple[str, str]:
    """An ``Authorization`` line."""
    return "Authorization", f"Bearer {secret}"


def in_header(secret: str) -> tuple[str, str]:
    """The other place."""
    return "X-Enrollment-Token", secret


Opening = Callable[..., Awaitable[Api]]


@pytest.fixture
async def opened(
    upstream_app: UpstreamApp, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Opening]:
    """Starts the proxy with the file as it stands, but for addresses; ``change`` may edit it before."""
    monkeypatch.setenv("ENROLLMENT_TOKEN", OLD)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    for name in ("enrollment-a.jwk", "enrollment-b.jwk"):
        (tmp_path / name).write_text(json.dumps(new_signing_key()))
    (tmp_path / "next-token").write_text(NEXT)
    (tmp_path / "session-key").write_text(SESSION_KEY)
    async with AsyncExitStack() as stack:

        async def opening(change: Callable[[dict[str, Any]], object] = lambda _settings: None) -> Api:
            settings: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
            settings["listen"] = {"address": "127.0.0.1:0", "admin": None}
            settings["audit"] = {"file": str(tmp_path / "audit.jsonl")}
            settings["apps"]["connectors"]["upstream"]["url"] = upstream_app.url
            change(settings)
            proxy = await stack.enter_async_context(Authproxy(from_mapping(settings, tmp_path)))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            async with asyncio.timeout(PATIENCE):
                await proxy.startup.done.wait()
            return Api(proxy, http, upstream_app)

        yield opening


@pytest.fixture
async def api(opened: Opening) -> Api:
    """The file as it stands."""
    return await opened()


def secrets_in(seen: Seen) -> list[str]:
    """The enrollment tokens that the API was sent."""
    return [secret for secret in (OLD, NEXT) if secret in json.dumps(seen)]


async def test_a_connector_enrolls_reads_and_renews(api: Api) -> None:
    """Its own cluster's data and no other's, with a credential that does not travel on; renewal gives the next one."""
    status, given = await api.enroll(OLD)
    assert status == 201
    credential = bearer(given["credential"])
    assert (await api.ask("GET", f"/clusters/{EU}/apps", credential))[0] == 200
    assert (api.app.last.get("X-Forwarded-User"), api.app.last.get("Authorization")) == ("agent", None)
    await api.refused(403, "not_allowed", api.ask("GET", f"/clusters/{US}/apps", credential))
    await api.refused(405, "method_not_allowed", api.ask("PUT", f"/clusters/{EU}/apps", credential))
    await api.refused(401, "not_signed_in", api.register(credential))
    status, renewed = await api.ask("POST", "/oauth2/enroll/renew", bearer(given["renewal"]))
    assert status == 201
    assert (await api.ask("GET", f"/clusters/{EU}/apps", bearer(renewed["credential"])))[0] == 200
    assert (await api.ask("GET", "/health"))[0] == 200


@pytest.mark.parametrize("carry", [bearer, in_header])
@pytest.mark.parametrize("secret", [OLD, NEXT])
async def test_a_connector_registers_with_the_token_itself(
    api: Api, carry: Callable[[str], tuple[str, str]], secret: str
) -> None:
    """Either of two overlapping tokens, in either place; the API learns the token's name and not the token."""
    for cluster in (EU, US):
        assert (await api.register(carry(secret), cluster=cluster))[0] == 200
        assert api.app.last.get("X-Forwarded-User") == "fleet"
        assert api.app.last.get("X-Forwarded-Groups") is None
        assert secrets_in(api.app.last) == []
        assert (api.app.last.get("Authorization"), api.app.last.get("X-Enrollment-Token")) == (None, None)
        assert api.app.last.body_length > 0


async def test_registration_opens_nothing_else(api: Api) -> None:
    """Not another fleet's cluster, not another method, no data, and not for what is no shared token."""
    said = await api.refused(403, "not_allowed", api.register(bearer(OLD), cluster=FOREIGN))
    assert "cluster wall" in said["message"]
    for carry in (bearer, in_header):
        await api.refused(
            401,
            "enrollment_token_refused" if carry is bearer else "not_signed_in",
            api.ask("GET", f"/clusters/{EU}/register", carry(OLD)),
        )
    await api.refused(401, "enrollment_token_refused", api.ask("GET", f"/clusters/{EU}/apps", bearer(OLD)))
    await api.refused(405, "method_not_allowed", api.ask("POST", f"/clusters/{EU}/register/", bearer(OLD)))
    enrolling = api.proxy.graph.enrolling
    assert enrolling is not None
    minted = (await enrolling.guard._tokens.mint("agent", EU)).text
    await api.refused(401, "enrollment_token_refused", api.register(bearer(minted)))
    await api.refused(401, "not_signed_in", api.register())
    assert (await api.enroll(minted))[0] == 201


async def test_two_tokens_are_one_too_many(api: Api) -> None:
    """In both places, or twice in one: 400, although each alone would pass."""
    for lines in ((bearer(OLD), in_header(OLD)), (in_header(OLD), in_header(NEXT)), (bearer(OLD), bearer(NEXT))):
        await api.refused(400, "several_credentials", api.register(*lines))


async def test_guessing_is_throttled(opened: Opening) -> None:
    """Wrong tokens count by client, in whichever place; right ones cost nothing."""
    limit = {"login_per_client": {"burst": 3, "every": "1h"}}
    api = await opened(lambda settings: settings.update(throttle=limit))
    for line in (bearer("x" * 40), in_header("x" * 40), bearer(OLD[:-1])):
        assert (await api.register(bearer(OLD)))[0] == 200
        await api.refused(401, "enrollment_refused", api.register(line))
    await api.refused(429, "too_many_attempts", api.register(in_header("y" * 40)))
    assert (await api.register(bearer(OLD)))[0] == 200


async def test_a_rotation_stops_nobody(api: Api, tmp_path: Path) -> None:
    """While a file changes under constant traffic the token that stays is never refused; the new one comes to count."""
    (tmp_path / "next-token").write_text(LATER)
    came = False
    async with asyncio.timeout(PATIENCE):
        while not came:
            assert (await api.register(bearer(OLD)))[0] == 200
            assert (await api.enroll(OLD))[0] == 201
            came = (await api.register(bearer(LATER)))[0] == 200
            await asyncio.sleep(0.05)
    assert (await api.enroll(LATER))[0] == 201
    await api.refused(401, "enrollment_refused", api.register(bearer(NEXT)))
    await api.refused(401, "enrollment_refused", api.enroll(NEXT))


@pytest.mark.parametrize("carry", [bearer, in_header])
async def test_an_api_that_judges_the_token_as_well(opened: Opening, carry: Callable[[str], tuple[str, str]]) -> None:
    """``upstream.authorization: pass`` passes it as it came, and nothing under a name that only looks like it."""
    api = await opened(lambda settings: settings["apps"]["connectors"]["upstream"].update(authorization="pass"))
    assert (await api.register(carry(OLD), ("X_Enrollment_Token", NEXT)))[0] == 200
    name, value = carry(OLD)
    assert api.app.last.all(name) == [value]
    assert secrets_in(api.app.last) == [OLD]


async def test_without_signing_keys_the_plain_mode_stands_alone(opened: Opening) -> None:
    """Nobody enrolls and nothing is published; the proxy is ready, and registration works as before."""

    def change(settings: dict[str, Any]) -> None:
        del settings["enrollment"]["signing_keys"]
        del settings["apps"]["connectors"]["routes"][2]

    api = await opened(change)
    assert (await api.register(in_header(OLD)))[0] == 200
    await api.refused(403, "not_allowed", api.register(bearer(OLD), cluster=FOREIGN))
    await api.refused(401, "enrollment_token_refused", api.register(bearer("ape_anything")))
    await api.refused(404, "no_such_page", api.enroll(OLD))
    await api.refused(404, "no_such_page", api.ask("GET", "/oauth2/jwks"))


async def test_every_registration_is_on_record_without_its_token(api: Api, tmp_path: Path) -> None:
    """Kind, name and outcome are; no token is, right or wrong."""
    await api.register(in_header(OLD))
    await api.register(bearer("y" * 40))
    text = (tmp_path / "audit.jsonl").read_text()
    good, bad = [json.loads(line) for line in text.splitlines()]
    assert (good["kind"], good["user"], good["status"]) == ("enrollment", "fleet", 200)
    assert (bad["code"], bad["reason"], bad["status"]) == ("enrollment_refused", "unknown enrollment token", 401)
    assert [secret for secret in (OLD, "y" * 40) if secret in text] == []
