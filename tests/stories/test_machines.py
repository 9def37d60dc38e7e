"""Machines at a resource-set API: they get what is theirs, or 401 and 403 as JSON that says what is wrong."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import bcrypt
import pytest

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from tests.hostile.harness import PUBLIC, send
from tests.peers.authority import SERVER, Authority, Signed
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.upstream_app import UpstreamApp

API = "internal-api.corp.test"
READ = "a-read-token-of-more-than-thirty-two-characters"
WRITE = "a-write-token-of-more-than-thirty-two-characters"
CLUSTER = "us-east-prod-01.k8s.example.com"
EU = "the-token-of-one-cluster-of-thirty-two-characters"


class Said(NamedTuple):
    """An answer as a program reads it."""

    status: int
    headers: Any
    content: dict[str, Any]


class Api:
    """The proxy before a resource-set API, and a client that follows no redirect."""

    def __init__(self, proxy: Authproxy, http: aiohttp.ClientSession, app: UpstreamApp) -> None:
        self.proxy, self.http, self.app = proxy, http, app

    async def ask(
        self, method: str, target: str, authorization: str | None = None, *, scheme: str = "http", **more: Any
    ) -> Said:
        """One request, as flux-operator sends it: JSON wanted, credentials sent at once."""
        headers = {"Host": API, "Accept": "application/json", **more.pop("headers", {})}
        if authorization is not None:
            headers["Authorization"] = authorization
        url = f"{scheme}://{self.proxy.addresses['public']}{target}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **more) as answer:
            return Said(answer.status, answer.headers, json.loads(await answer.read()))

    async def refused(
        self, status: int, code: str, method: str, target: str, authorization: str | None = None, **more: Any
    ) -> Said:
        """The same, expecting JSON that says no, and nothing at the application."""
        reached = len(self.app.requests)
        said = await self.ask(method, target, authorization, **more)
        assert (said.status, said.content["error"]) == (status, code), said
        assert said.headers["Content-Type"] == "application/json"
        assert said.headers["Authproxy-Refusal"] == code
        assert "Location" not in said.headers
        assert "sign_in" not in said.content
        assert len(self.app.requests) == reached
        return said


def settings_for(app: UpstreamApp, **sections: Any) -> dict[str, Any]:
    """The API of the contract: public health, reads, the rest writes, one cluster's own path."""
    accept = sections.pop("accept", ["token"])
    flux = "/api/v2/flux/"
    return {
        "public_url": f"http://{PUBLIC}",
        "listen": {"address": "127.0.0.1:0", "admin": "127.0.0.1:0", **sections.pop("listen", {})},
        "session": {"keys": [{"value": SESSION_KEY}]},
        "tokens": {
            "read": {"secrets": [{"value": READ}], "scopes": ["read"]},
            "write": {"secrets": [{"value": WRITE}], "scopes": ["read", "write"]},
            "eu": {"secrets": [{"value": EU}], "scopes": ["read"], "clusters": [CLUSTER]},
        },
        "policies": {
            "public": {"anonymous": True},
            "read": {"any": [{"scopes": ["read"]}, {"groups": ["readers"]}]},
            "write": {"any": [{"scopes": ["write"]}]},
            "own": {"any": [{"scopes": ["read"], "cluster": "own"}]},
        },
        "apps": {
            "api": {
                "host": API,
                "upstream": {"url": app.url},
                "routes": [
                    {"path": "/health", "policy": "public"},
                    {"path": flux + "clusters/{cluster}/", "methods": ["GET"], "accept": accept, "policy": "own"},
                    {"path": flux, "methods": ["GET"], "accept": accept, "policy": "read"},
                    {"path": "/", "accept": accept, "policy": "write"},
                ],
            }
        },
        **sections,
    }


Opening = Callable[..., Awaitable[Api]]


@pytest.fixture
async def opened(upstream_app: UpstreamApp, tmp_path: Path) -> AsyncIterator[Opening]:
    """Starts a proxy with these sections beside the usual ones."""
    async with AsyncExitStack() as stack:

        async def opening(**sections: Any) -> Api:
            audit = {"file": str(tmp_path / "audit.jsonl")}
            data = settings_for(upstream_app, audit=audit, **sections)
            settings = from_mapping(data, base=tmp_path)
            proxy = await stack.enter_async_context(Authproxy(settings))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Api(proxy, http, upstream_app)

        yield opening


# --- static tokens ---


async def test_a_read_token_reads(opened: Opening) -> None:
    """GET is served; the upstream hears the token's name and never the token."""
    api = await opened()
    said = await api.ask("GET", "/api/v2/flux/sets?cursor=1", f"Bearer {READ}")
    assert said.status == 200
    assert api.app.last.target == "/api/v2/flux/sets?cursor=1"
    assert api.app.last.get("X-Forwarded-User") == "read"
    assert api.app.last.get("Authorization") is None
    assert READ not in json.dumps(api.app.last)


async def test_a_read_token_does_not_write(opened: Opening) -> None:
    """The 403 names the scope that is missing; the write token passes."""
    api = await opened()
    said = await api.refused(403, "not_allowed", "POST", "/api/v2/flux/sets", f"Bearer {READ}")
    assert "write" in said.content["message"]
    assert (await api.ask("POST", "/api/v2/flux/sets", f"Bearer {WRITE}", data=b"{}")).status == 200


async def test_a_cluster_sees_its_own_path_alone(opened: Opening) -> None:
    """Another cluster's path, and one that names no cluster, are refused without the upstream being touched."""
    api = await opened()
    assert (await api.ask("GET", f"/api/v2/flux/clusters/{CLUSTER}/sets", f"Bearer {EU}")).status == 200
    for target in ("/api/v2/flux/clusters/us-west.k8s.example.com/sets", "/api/v2/flux/sets"):
        await api.refused(403, "not_allowed", "GET", target, f"Bearer {EU}")


@pytest.mark.parametrize("authorization", [f"Bearer {READ}x", "Bearer", "Bearer x"])
async def test_a_wrong_token(opened: Opening, authorization: str) -> None:
    """401 JSON with the challenge of RFC 6750, also for the empty token that an empty secret makes."""
    said = await (await opened()).refused(401, "unknown_token", "GET", "/api/v2/flux/sets", authorization)
    assert said.headers.getall("WWW-Authenticate") == ['Bearer error="invalid_token"']


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
async def test_no_token(opened: Opening, accept: str) -> None:
    """401 JSON, also for a browser: an API route never redirects.  A public route asks for nothing."""
    api = await opened()
    said = await api.refused(401, "not_signed_in", "GET", "/api/v2/flux/sets", headers={"Accept": accept})
    assert said.headers.getall("WWW-Authenticate") == ["Bearer"]
    assert (await api.ask("GET", "/health")).status == 200


async def test_two_authorization_headers(opened: Opening) -> None:
    """Two lines are one too many, although each alone would pass."""
    api = await opened()
    headers = [("Host", API), ("Authorization", f"Bearer {READ}"), ("Authorization", f"Bearer {READ}")]
    url = f"http://{api.proxy.addresses['public']}/api/v2/flux/sets"
    async with api.http.get(url, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "several_credentials")
    assert api.app.requests == []


@pytest.mark.parametrize(
    ("authorization", "status"), [(f"Bearer {READ}", 403), (f"Bearer {READ}x", 401), ("Basic !", 401), (None, 401)]
)
async def test_no_is_said_without_the_body(
    opened: Opening, tmp_path: Path, authorization: str | None, status: int
) -> None:
    """Who may not write hears so at once: the body is neither asked for nor waited for."""
    api = await opened_with_basic(opened, tmp_path, "token")
    line = f"Authorization: {authorization}\r\n" if authorization else ""
    head = f"POST /x HTTP/1.1\r\nHost: {API}\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n{line}\r\n"
    answer = await send(int(api.proxy.addresses["public"].rpartition(":")[2]), head.encode())
    assert answer.status == status
    assert api.app.requests == []


async def test_nothing_secret_is_written(opened: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the audit trail nor the log holds a token, right or wrong."""
    api = await opened()
    wrong = "a-wrong-token-of-more-than-thirty-two-characters"
    await api.ask("GET", "/api/v2/flux/sets", f"Bearer {READ}")
    await api.ask("GET", "/api/v2/flux/sets", f"Bearer {wrong}")
    written = (tmp_path / "audit.jsonl").read_text() + caplog.text
    assert '"user":"read"' in written.replace(": ", ":")
    assert READ not in written
    assert wrong not in written


# --- Basic ---


def pair(user: str, password: str) -> str:
    """The header of a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def opened_with_basic(opened: Opening, folder: Path, *accept: str, **sections: Any) -> Api:
    """An API whose routes accept Basic, with the one user flux."""
    hashed = bcrypt.hashpw(b"a password", bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"flux:{hashed}\n")
    (folder / "htgroup").write_text("readers: flux\n")
    basic = {"users": {"file": "htpasswd"}, "groups": {"file": "htgroup"}}
    return await opened(basic=basic, accept=["basic", *accept], **sections)


async def test_basic_reads_by_group(opened: Opening, tmp_path: Path) -> None:
    """The group of the htgroup file opens reading, not writing; the password does not travel on."""
    api = await opened_with_basic(opened, tmp_path)
    assert (await api.ask("GET", "/api/v2/flux/sets", pair("flux", "a password"))).status == 200
    assert api.app.last.get("X-Forwarded-User") == "flux"
    assert api.app.last.get("X-Forwarded-Groups") == "readers"
    assert api.app.last.get("Authorization") is None
    await api.refused(403, "not_allowed", "POST", "/api/v2/flux/sets", pair("flux", "a password"))


async def test_a_wrong_password(opened: Opening, tmp_path: Path) -> None:
    """401 JSON, with the challenge of RFC 7617 and none for tokens that the route does not take."""
    api = await opened_with_basic(opened, tmp_path)
    for user, password in (("flux", "wrong"), ("nobody", "a password")):
        said = await api.refused(401, "wrong_credentials", "GET", "/api/v2/flux/sets", pair(user, password))
        assert said.headers.getall("WWW-Authenticate") == ['Basic realm="authproxy", charset="UTF-8"']


async def test_both_challenges(opened: Opening, tmp_path: Path) -> None:
    """A route for tokens and Basic names both; the two at once are too many."""
    api = await opened_with_basic(opened, tmp_path, "token")
    said = await api.refused(401, "not_signed_in", "GET", "/api/v2/flux/sets")
    assert said.headers.getall("WWW-Authenticate") == ["Bearer", 'Basic realm="authproxy", charset="UTF-8"']
    headers = [("Host", API), ("Authorization", f"Bearer {READ}"), ("Authorization", pair("flux", "a password"))]
    url = f"http://{api.proxy.addresses['public']}/api/v2/flux/sets"
    async with api.http.get(url, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]) == (400, "several_credentials")


async def test_basic_is_throttled(opened: Opening, tmp_path: Path) -> None:
    """After the limit a name waits, and is told how long."""
    api = await opened_with_basic(opened, tmp_path, throttle={"login": {"burst": 2, "every": "6s"}})
    for _ in range(2):
        await api.refused(401, "wrong_credentials", "GET", "/api/v2/flux/sets", pair("flux", "wrong"))
    said = await api.refused(429, "too_many_attempts", "GET", "/api/v2/flux/sets", pair("flux", "a password"))
    assert 1 <= int(said.headers["Retry-After"]) <= 6


# --- client certificates ---


class Guarded(NamedTuple):
    """An API behind TLS, whose clients have certificates of one authority."""

    api: Api
    clients: Authority
    servers: Authority

    def tls(self, shown: Signed | None = None) -> ssl.SSLContext:
        """A client's side."""
        context = ssl.create_default_context(cafile=str(self.servers.file))
        context.check_hostname = False
        if shown is not None:
            context.load_cert_chain(*shown)
        return context


async def opened_with_tls(opened: Opening, folder: Path, client_auth: str, *accept: str) -> Guarded:
    """The API with ``certificates``: the common name, clusters by DNS name, scope read."""
    clients, servers = Authority(folder, "clients"), Authority(folder, "servers")
    pair = servers.signed("auth.test", usage=SERVER)
    tls = {"cert": str(pair[0]), "key": str(pair[1]), "client_ca": "clients.pem", "client_auth": client_auth}
    shape = {"subject": "cn", "clusters": "dns_san", "scopes": ["read"]}
    api = await opened(listen={"tls": tls}, certificates=shape, accept=["certificate", *accept])
    return Guarded(api, clients, servers)


OWN = f"/api/v2/flux/clusters/{CLUSTER}/sets"
OTHER = "/api/v2/flux/clusters/us-west.k8s.example.com/sets"


@pytest.mark.parametrize("client_auth", ["optional", "required"])
async def test_a_certificate_opens_its_own_cluster(opened: Opening, tmp_path: Path, client_auth: str) -> None:
    """The cluster in the certificate's DNS name is served; another cluster's path is not."""
    guarded = await opened_with_tls(opened, tmp_path, client_auth)
    tls = guarded.tls(guarded.clients.signed("flux", dns=(CLUSTER,)))
    assert (await guarded.api.ask("GET", OWN, scheme="https", ssl=tls)).status == 200
    assert guarded.api.app.last.get("X-Forwarded-User") == "flux"
    await guarded.api.refused(403, "not_allowed", "GET", OTHER, scheme="https", ssl=tls)
    await guarded.api.refused(403, "not_allowed", "POST", "/x", scheme="https", ssl=tls)


async def test_without_a_certificate(opened: Opening, tmp_path: Path) -> None:
    """Optional: 401 JSON where one is needed, and a token serves where the route takes it, too."""
    guarded = await opened_with_tls(opened, tmp_path, "optional", "token")
    more: dict[str, Any] = {"scheme": "https", "ssl": guarded.tls()}
    await guarded.api.refused(401, "not_signed_in", "GET", OWN, **more)
    assert (await guarded.api.ask("GET", OWN, f"Bearer {EU}", **more)).status == 200


async def test_a_certificate_and_a_token(opened: Opening, tmp_path: Path) -> None:
    """Both at once on a route that would judge both: refused."""
    guarded = await opened_with_tls(opened, tmp_path, "optional", "token")
    tls = guarded.tls(guarded.clients.signed("flux", dns=(CLUSTER,)))
    await guarded.api.refused(400, "several_credentials", "GET", OWN, f"Bearer {EU}", scheme="https", ssl=tls)


async def test_an_authorization_beside_a_certificate_is_the_apps(opened: Opening, tmp_path: Path) -> None:
    """Where the route takes certificates alone, Authorization is nothing of ours and travels on, as with a session."""
    guarded = await opened_with_tls(opened, tmp_path, "optional")
    tls = guarded.tls(guarded.clients.signed("flux", dns=(CLUSTER,)))
    await guarded.api.ask("GET", OWN, "Custom of-the-app", scheme="https", ssl=tls)
    assert guarded.api.app.last.get("Authorization") == "Custom of-the-app"


@pytest.mark.parametrize("wrong", ["another authority", "expired", "none"])
async def test_a_wrong_certificate_gets_no_connection(opened: Opening, tmp_path: Path, wrong: str) -> None:
    """Where certificates are required the handshake fails, so that not even a public route answers."""
    guarded = await opened_with_tls(opened, tmp_path, "required")
    shown: dict[str, Callable[[], Signed | None]] = {
        "another authority": lambda: Authority(tmp_path, "strangers").signed("flux", dns=(CLUSTER,)),
        "expired": lambda: guarded.clients.signed("flux", dns=(CLUSTER,), hours=-1),
        "none": lambda: None,
    }
    with pytest.raises((aiohttp.ClientError, OSError)):
        await guarded.api.ask("GET", "/health", scheme="https", ssl=guarded.tls(shown[wrong]()))


async def test_two_names_are_nobody(opened: Opening, tmp_path: Path) -> None:
    """A certificate with two common names is refused, with the reason in the audit trail."""
    guarded = await opened_with_tls(opened, tmp_path, "optional")
    tls = guarded.tls(guarded.clients.signed("flux", "admin", dns=(CLUSTER,)))
    await guarded.api.refused(401, "certificate_name", "GET", OWN, scheme="https", ssl=tls)
    assert "2 values for cn" in (tmp_path / "audit.jsonl").read_text()
