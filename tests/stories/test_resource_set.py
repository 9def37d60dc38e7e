"""A cluster polls its inputs as flux-operator does, through the settings that config/resourceset.yaml shows."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from aiohttp import web

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping

CONFIG: Final = Path(__file__).parents[2] / "config" / "resourceset.yaml"
OWN: Final = "/api/v2/flux/clusters/eu-01.k8s.example.com/apps"
READ, WRITE, EU = "read-" + "r" * 40, "write-" + "w" * 40, "eu-01-" + "e" * 40
INPUTS: Final = {"inputs": [{"id": "app1", "env": "prod", "replicas": 2}]}
LARGEST: Final = 900 * 1024  # what flux-operator reads at most


class Api:
    """The resource-set API: it records what reaches it."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.body = json.dumps(INPUTS).encode()

    async def answer(self, request: web.Request) -> web.Response:
        """JSON, compressed where the client takes it."""
        self.requests.append(request)
        headers = {"Content-Type": "application/json"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=gzip.compress(self.body), headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=self.body, headers=headers)


class Operator:
    """flux-operator's HTTP client: one GET, these headers, and what its Secret holds; ``tls`` for https."""

    def __init__(self, http: aiohttp.ClientSession, address: str, api: Api, tls: ssl.SSLContext | None = None) -> None:
        self.http, self.address, self.api, self.tls = http, address, api, tls

    async def ask(
        self, path: str, token: str | None = None, *, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer; redirects are not followed, so that none is missed."""
        sent = {"Accept": "application/json", "User-Agent": "flux-operator/0.58.1", "Accept-Encoding": "identity"}
        sent |= headers
        sent["Host"] = "internal-api.example.com"
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        url = f"{'https' if self.tls else 'http'}://{self.address}{path}"
        async with self.http.request(method, url, headers=sent, allow_redirects=False, ssl=self.tls or True) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


@asynccontextmanager
async def served(settings: dict[str, Any], folder: Path) -> AsyncIterator[Operator]:
    """The API, the proxy in front of it, and the client; addresses are replaced, ``listen.tls`` stays."""
    api = Api()
    app = web.Application(client_max_size=4 * LARGEST)
    app.router.add_route("*", "/{tail:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings["listen"] = {**settings["listen"], "address": "127.0.0.1:0", "admin": None}
    settings["audit"] = {"file": str(folder / "audit.jsonl")}
    settings["apps"]["resourceset"]["upstream"]["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    (folder / "eu-01.token").write_text(EU)
    environ = {"AUTH_TOKEN": READ, "CRUD_AUTH_TOKEN": WRITE}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            proxy = await stack.enter_async_context(Authproxy(from_mapping(settings, folder)))
            http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            yield Operator(http, proxy.addresses["public"], api)


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    """The settings as they stand."""
    async with served(yaml.safe_load(CONFIG.read_text()), tmp_path) as one:
        yield one


async def test_a_cluster_reads_its_own_inputs(operator: Operator) -> None:
    """200 with the API's JSON; the token does not travel on."""
    status, headers, body = await operator.ask(OWN, EU)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == INPUTS
    (seen,) = operator.api.requests
    assert "Authorization" not in seen.headers
    assert seen.headers["User-Agent"] == "flux-operator/0.58.1"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/flux/clusters/eu-02.k8s.example.com/apps",
        "/api/v2/flux/clusters/EU-01.k8s.example.com/apps",
        "/api/v2/flux/clusters/eu-01.k8s.example.com.evil/apps",
        "/api/v2/flux/apps",
        "/api/v2/other",
    ],
)
async def test_a_cluster_reads_nobody_elses(operator: Operator, path: str) -> None:
    """403 as JSON for whatever does not name its own cluster, and the API is not touched."""
    status, headers, body = await operator.ask(path, EU)
    assert (status, headers["content-type"]) == (403, "application/json")
    assert json.loads(body)["error"] == "not_allowed"
    assert operator.api.requests == []


@pytest.mark.parametrize("token", [None, "x" * 40, "", EU[:-1], EU + "x"])
async def test_without_a_right_token_the_answer_is_401_json(operator: Operator, token: str | None) -> None:
    """Never a redirect, which the client would follow to a page and take for broken JSON."""
    status, headers, body = await operator.ask(OWN, token, Accept="text/html")
    assert status == 401
    assert "location" not in headers
    assert headers["www-authenticate"].startswith("Bearer")
    assert json.loads(body)["error"] in {"unknown_token", "not_signed_in"}
    assert operator.api.requests == []


async def test_a_read_token_does_not_write(operator: Operator) -> None:
    """Writing asks for the write token; reading is open to both, but for the clusters' own paths."""
    assert (await operator.ask("/api/v2/apps", READ, method="POST"))[0] == 403
    assert (await operator.ask("/api/v2/flux/apps", READ, method="POST"))[0] == 403
    assert (await operator.ask(OWN, READ))[0] == 403
    assert operator.api.requests == []
    assert (await operator.ask("/api/v2/flux/apps", READ))[0] == 200
    assert (await operator.ask("/api/v2/apps", WRITE, method="POST"))[0] == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.yaml"])
async def test_what_is_public_asks_for_nothing(operator: Operator, path: str) -> None:
    """Probes need no token; nothing beside them is open."""
    assert (await operator.ask(path, None))[0] == 200
    assert (await operator.ask(path + "/more", None))[0] == 401


async def test_the_largest_answer_passes_untouched(operator: Operator) -> None:
    """900 KiB, plain and compressed, arrive byte for byte."""
    operator.api.body = b'{"inputs":[]}'.ljust(LARGEST)
    assert (await operator.ask(OWN, EU))[2] == operator.api.body
    status, headers, body = await operator.ask(OWN, EU, **{"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == operator.api.body
