"""A machine enrolls, works, renews and is turned away: whole proxies on the wire, two replicas over a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from authproxy.app import Authproxy
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import within

HOST: Final = "api.corp.test"
SESSION_KEY: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
OLD, NEW, STATIC = "old-fleet-" + "o" * 32, "new-fleet-" + "n" * 32, "static-" + "s" * 40
EU: Final = "eu-1.k8s.example.com"
KEY: Final = json.dumps(new_signing_key())


class Fleet:
    """Two replicas, the API behind them, and whoever talks to them."""

    def __init__(self, proxies: list[Authproxy], http: aiohttp.ClientSession, app: UpstreamApp) -> None:
        self.proxies, self.http, self.app = proxies, http, app

    async def ask(
        self, path: str, secret: str | None = None, *, method: str = "GET", replica: int = 0, **options: Any
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one request."""
        headers = {"Host": HOST, "Accept": "text/html", **({"Authorization": f"Bearer {secret}"} if secret else {})}
        url = f"http://{self.proxies[replica].addresses['public']}{path}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
            body = await answer.read()
            named = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, named, json.loads(body) if body else None

    async def enroll(self, token: str | None, *, replica: int = 0, **who: Any) -> tuple[int, dict[str, str], Any]:
        """POST /enroll; what is None is left out of the body."""
        body = {name: value for name, value in who.items() if value is not None}
        return await self.ask("/oauth2/enroll", token, method="POST", replica=replica, json=body)

    async def renew(self, renewal: str, *, replica: int = 0) -> tuple[int, dict[str, str], Any]:
        """POST /enroll/renew."""
        return await self.ask("/oauth2/enroll/renew", renewal, method="POST", replica=replica)

    async def works(self, credential: str, *, cluster: str = EU, replica: int = 0) -> int:
        """The status of a request for the cluster's own data."""
        return (await self.ask(f"/clusters/{cluster}/x", credential, replica=replica))[0]


@pytest.fixture
async def fleet(upstream_app: UpstreamApp, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    """The replicas share Redis, keys and tokens."""
    settings = {
        "listen": {"address": "127.0.0.1:0", "admin": None},
        "public_url": "http://auth.corp.test",
        "store": {"redis": {"url": redis_server.url}},
        "session": {"keys": [{"value": SESSION_KEY}]},
        "tokens": {"reader": {"secrets": [{"value": STATIC}], "scopes": ["read"]}},
        "enrollment": {
            "tokens": {"fleet": {"secrets": [{"value": OLD}, {"value": NEW}], "clusters": ["*.k8s.example.com"]}},
            "signing_keys": [{"value": KEY}],
            "credential": {"lifetime": "15m", "scopes": ["read"]},
        },
        "policies": {"own": {"any": [{"scopes": ["read"], "cluster": "own"}]}, "read": {"any": [{"scopes": ["read"]}]}},
        "apps": {
            "api": {
                "host": HOST,
                "upstream": {"url": upstream_app.url},
                "routes": [
                    {"path": "/clusters/{cluster}/", "accept": ["enrolled", "token"], "policy": "own"},
                    {"path": "/", "accept": ["token", "enrolled"], "policy": "read"},
                ],
            }
        },
    }
    async with AsyncExitStack() as stack:
        proxies = []
        for number in range(2):
            data = {**settings, "audit": {"file": str(tmp_path / f"audit-{number}.jsonl")}}
            proxies.append(await stack.enter_async_context(Authproxy(from_mapping(data, tmp_path, {}))))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Fleet(proxies, http, upstream_app)


async def test_a_machine_enrolls_and_reaches_its_own_data(fleet: Fleet) -> None:
    """201 with everything that CONTRACT promises; the credential works on every replica, for its own cluster alone."""
    status, headers, given = await fleet.enroll(OLD, name="agent", cluster=EU)
    assert (status, headers["cache-control"]) == (201, "no-store")
    assert set(given) == {"credential", "expires_in", "renewal", "renewal_expires_in"}
    assert 800 < given["expires_in"] <= 900
    for replica in (0, 1):
        assert await fleet.works(given["credential"], replica=replica) == 200
        assert await fleet.works(given["credential"], cluster="us-1.k8s.example.com", replica=replica) == 403
    assert fleet.app.last.get("Authorization") is None
    _, _, jwks = await fleet.ask("/oauth2/jwks")
    assert [key["kid"] for key in jwks["keys"]] == [json.loads(KEY)["kid"]]
    assert "d" not in jwks["keys"][0]


@pytest.mark.parametrize(
    ("token", "cluster", "status"),
    [(NEW, EU, 201), (OLD, "eu-1.k8s.example.com.evil", 403), (OLD, None, 403), ("x" * 40, EU, 401), (None, EU, 401),
     (STATIC, EU, 401)],
)  # fmt: skip
async def test_who_may_enroll(fleet: Fleet, token: str | None, cluster: str | None, status: int) -> None:
    """Both overlapping tokens enroll, inside their patterns alone; refusals are JSON, never a page or a redirect."""
    answered, headers, said = await fleet.enroll(token, name="agent", cluster=cluster)
    assert answered == status
    assert headers["content-type"].startswith("application/json")
    assert "location" not in headers
    assert status == 201 or said["request_id"]
    assert status != 401 or headers["www-authenticate"].startswith("Bearer")


async def test_an_enrollment_token_opens_no_data_path(fleet: Fleet) -> None:
    """Neither the token nor a renewal is a credential; nothing reaches the API."""
    _, _, given = await fleet.enroll(OLD, name="agent", cluster=EU)
    for secret in (OLD, NEW, given["renewal"]):
        for path in (f"/clusters/{EU}/x", "/anything"):
            status, _, said = await fleet.ask(path, secret)
            assert (status, said["error"]) == (401, "enrollment_token_refused")
    assert fleet.app.requests == []
    assert (await fleet.ask("/anything", STATIC))[0] == 200


async def test_renewal_rotates_and_reuse_ends_the_family(fleet: Fleet) -> None:
    """A lost answer is given again, on the other replica too; an older renewal is a copy, and ends both credentials."""
    _, _, first = await fleet.enroll(OLD, name="agent", cluster=EU)
    status, _, second = await fleet.renew(first["renewal"])
    assert status == 201
    assert await fleet.works(second["credential"], replica=1) == 200
    again = (await fleet.renew(first["renewal"], replica=1))[2]
    assert again["renewal"] == second["renewal"]
    _, _, third = await fleet.renew(second["renewal"], replica=1)
    status, _, said = await fleet.renew(first["renewal"])
    assert (status, said["error"]) == (401, "renewal_reused")
    with within(5.0):
        async with asyncio.timeout(PATIENCE):
            while await fleet.works(third["credential"], replica=1) != 401:
                await asyncio.sleep(0.02)
    assert await fleet.works(third["credential"]) == 401


async def test_many_renewals_at_once_have_one_successor(fleet: Fleet) -> None:
    """Twenty parallel renewals over two replicas all get the same successor: a retry storm is no theft.

    Whoever hears 503, since the store was not heard in time, asks again, as connectors do.
    """
    _, _, first = await fleet.enroll(OLD, name="agent", cluster=EU)
    answers = await asyncio.gather(*(fleet.renew(first["renewal"], replica=n % 2) for n in range(20)))
    late = [n for n, (status, _, _) in enumerate(answers) if status == 503]
    for n in late:
        answers[n] = await fleet.renew(first["renewal"], replica=n % 2)
    assert {status for status, _, _ in answers} == {201}
    assert len({given["renewal"] for _, _, given in answers}) == 1
    assert len(late) < len(answers) / 2


async def test_every_attempt_is_on_record_without_its_secret(fleet: Fleet, tmp_path: Path) -> None:
    """Enrolling, renewing and refusals are audit events; no token is in them."""
    _, _, given = await fleet.enroll(OLD, name="agent", cluster=EU)
    await fleet.renew(given["renewal"])
    await fleet.enroll("y" * 40, name="agent", cluster=EU)
    text = (tmp_path / "audit-0.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    found = [(one["event"], one["outcome"]) for one in events if one["event"] in ("enroll", "renew")]
    assert found == [("enroll", "ok"), ("renew", "ok"), ("enroll", "enrollment_refused")]
    for secret in (OLD, given["renewal"], given["credential"], "y" * 40):
        assert secret not in text
