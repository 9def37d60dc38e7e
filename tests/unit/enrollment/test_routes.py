"""The addresses for machines, through a real front door: statuses, codes, bodies, the throttle."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from authproxy.edge.answer import Answers
from authproxy.edge.connection import Behind, FrontDoor, info_of
from authproxy.edge.connections import Bounds
from authproxy.edge.origin import Origins
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.enrollment.inventory import Inventory
from authproxy.enrollment.routes import EnrollmentRoutes, Parts
from authproxy.errors import Refusal
from authproxy.exchange import Exchange
from authproxy.model import Answer, RequestInfo
from authproxy.portal.pages import CSP, Pages
from authproxy.settings import schema
from authproxy.store.memory import MemoryStore
from authproxy.throttle import Throttle
from tests.peers.fake_clock import FakeClock
from tests.unit.enrollment.replicas import EU, OLD, US, Replica, shape


class Site:
    """A front door with the enrollment routes alone."""

    def __init__(self, section: schema.Enrollment | None = None, burst: int = 5) -> None:
        self.clock = FakeClock()
        store = MemoryStore(self.clock)
        self.replica = Replica(store, self.clock, section)
        limits = schema.Throttle(login_per_client=schema.Limit.model_construct(burst=burst, every=6.0))
        self.notes: list[tuple[str, str, str]] = []
        self.inventory = Inventory(self.replica.families, store=store, clock=self.clock)
        self.routes = EnrollmentRoutes(
            Parts(
                info_of=info_of, issuer=self.replica.issuer, tokens=self.replica.tokens, families=self.replica.families,
                throttle=Throttle(store, limits, key=b"k" * 32), clock=self.clock,
                inventory=self.inventory,
                note=lambda _info, *said: self.notes.append(said),
            )
        )  # fmt: skip
        pages = web.Application()
        self.routes.attach(pages, "/oauth2")
        self.answers = Answers(
            pages=Pages(prefix="/oauth2"), origins=Origins(public_url=US, prefix="/oauth2", cookie_domain=None), csp=CSP
        )
        behind = Behind(
            pages, describe=partial(describe, trusted=TrustedProxies(), request_id="r-1", public_scheme="http"),
            is_ours=lambda _info: True, proxied=self._proxied, refused=self._refused,
            bounds=Bounds(100, 100, TrustedProxies()), crowded=lambda _bound: Answer(503),
        )  # fmt: skip
        self.door = FrontDoor(behind)

    async def _proxied(self, exchange: Exchange) -> None:
        raise AssertionError("every address is ours")

    def _refused(self, refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> Answer:
        return self.answers.refuse(refusal, info) if info else self.answers.unread(refusal, "r-1")

    async def post(self, path: str, token: str | None, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a POST."""
        sent = {"Content-Type": "application/json", **headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://{self.address}/oauth2{path}"
        async with aiohttp.ClientSession() as client, client.post(url, data=data, headers=sent) as answer:
            assert "Location" not in answer.headers
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()

    async def enroll(self, token: str | None = OLD, **body: Any) -> tuple[int, dict[str, Any]]:
        """Enroll ``agent`` into the EU, or as ``body`` says."""
        return await self.post("/enroll", token, {"name": "agent", "cluster": EU, **body})

    async def open(self) -> Site:
        """Listen."""
        self.address = await self.door.listen("127.0.0.1:0")
        return self


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site that listens."""
    one = await Site().open()
    yield one
    await one.door.close()


async def test_what_enrolls_is_listed(site: Site) -> None:
    """An enrollment and its renewal are one entry; a refused one is none."""
    began = site.clock.now
    _, first = await site.enroll()
    await site.enroll("wrong" * 8)
    site.clock.forward(600)
    await site.post("/enroll/renew", first["renewal"])
    (machine,) = (await site.inventory.machines()).entries
    assert (machine.name, machine.cluster, machine.enrolled, machine.renewed) == ("agent", EU, began, began + 600)


async def test_enroll_and_renew(site: Site) -> None:
    """201 with exactly the four members of the contract, twice; the credential verifies with what /jwks publishes."""
    status, first = await site.enroll()
    assert status == 201
    assert set(first) == {"credential", "expires_in", "renewal", "renewal_expires_in"}
    assert (first["expires_in"], first["renewal_expires_in"]) == (900, 2160 * 3600)
    site.clock.forward(600)
    status, second = await site.post("/enroll/renew", first["renewal"])
    assert (status, second["renewal_expires_in"]) == (201, 2160 * 3600 - 600)
    assert second["renewal"] != first["renewal"]
    async with aiohttp.ClientSession() as client, client.get(f"http://{site.address}/oauth2/jwks") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.read() == site.replica.issuer.jwks()
    assert site.replica.issuer.verify(second["credential"]).enrolled.cluster == EU
    assert [said[:2] for said in site.notes] == [("enroll", "ok"), ("renew", "ok")]


@pytest.mark.parametrize(
    ("token", "body", "status", "code"),
    [
        (None, {}, 401, "not_signed_in"),
        ("wrong" * 10, {}, 401, "enrollment_refused"),
        ("ape_made.up", {}, 401, "enrollment_refused"),
        (OLD, {"cluster": "elsewhere"}, 403, "cluster_refused"),
        (OLD, {"cluster": None}, 403, "cluster_refused"),
        (OLD, {"cluster": 7}, 400, "cluster_invalid"),
        (OLD, {"name": None}, 400, "name_invalid"),
        (OLD, {"name": "a b"}, 400, "name_invalid"),
    ],
)
async def test_refusals(site: Site, token: str | None, body: dict[str, Any], status: int, code: str) -> None:
    """Each is JSON with its code; nothing is issued."""
    found, answer = await site.enroll(token, **body)
    assert (found, answer["error"]) == (status, code)
    assert "credential" not in answer


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"name=agent", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "not_json"),
        (b"{", {}, 400, "malformed_json"),
        (b"[]", {}, 400, "malformed_json"),
        (b'{"name":"agent","name":"other"}', {}, 400, "malformed_json"),
        (b"[" * 5000, {}, 400, "malformed_json"),
        (b'{"name":"' + b"a" * 20_000 + b'"}', {}, 413, "body_too_large"),
    ],
)
async def test_bodies_are_bounded_and_strict(
    site: Site, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """What could be read in two ways, or without end, is refused."""
    found, answer = await site.post("/enroll", OLD, body, **headers)
    assert (found, answer["error"]) == (status, code)


async def test_failed_attempts_are_throttled_and_good_ones_are_not(site: Site) -> None:
    """Any number of good enrollments pass; after five bad ones the address waits, whatever it sends."""
    for _ in range(10):
        assert (await site.enroll())[0] == 201
    assert [(await site.enroll("wrong" * 10))[0] for _ in range(5)] == [401] * 5
    assert (await site.enroll())[1]["error"] == "too_many_attempts"
    assert (await site.post("/enroll/renew", "apr_x.y"))[0] == 429


async def test_a_minted_token_enrolls_once(site: Site) -> None:
    """The second use is refused as any other bad token is; a body that could not be read did not use it up."""
    token = (await site.replica.tokens.mint("agent", EU)).text
    assert (await site.post("/enroll", token, b"{"))[0] == 400
    assert (await site.enroll(token))[0] == 201
    assert (await site.enroll(token))[1]["error"] == "enrollment_refused"


async def test_an_enrollment_token_does_not_renew_and_a_renewal_does_not_enroll(site: Site) -> None:
    """Each opens its own address alone."""
    _, issued = await site.enroll()
    assert (await site.post("/enroll/renew", OLD))[1]["error"] == "renewal_invalid"
    assert (await site.enroll(issued["renewal"]))[1]["error"] == "enrollment_refused"
    assert (await site.enroll(issued["credential"]))[1]["error"] == "enrollment_refused"


async def test_without_a_key_it_is_unready_and_says_which() -> None:
    """503 for the machine, the settings entry for the operator, and a minted token is not used up for nothing."""
    section = shape(signing_keys=[{"env": "NO_SUCH_KEY_HERE"}])
    site = await Site(section).open()
    try:
        status, answer = await site.enroll()
        assert (status, answer["error"]) == (503, "enrollment_not_ready")
        assert "NO_SUCH_KEY_HERE" not in json.dumps(answer)
        (problem,) = site.routes.problems()
        assert "signing_keys[0]" in problem
        assert "NO_SUCH_KEY_HERE" in problem
    finally:
        await site.door.close()
