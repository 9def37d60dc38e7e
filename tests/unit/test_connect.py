"""``check --connect`` tries every place as ``serve`` connects to it, and says what to write."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from authproxy.connect import Tried, try_connections
from authproxy.settings.load import from_mapping
from tests.peers.authority import SERVER, Authority, Signed
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.upstream_app import UpstreamApp

SECRET = {"client_secret": {"value": "secret-of-the-client"}}


async def tried(data: dict[str, Any], folder: Path) -> dict[str, Tried]:
    """What became of each place."""
    whole = {"public_url": "http://auth.corp.test", **data}
    return {one.name: one async for one in try_connections(from_mapping(whole, folder, {}))}


def app(**upstream: Any) -> dict[str, Any]:
    """Settings with one public application."""
    routes = [{"path": "/", "policy": "public"}]
    return {
        "policies": {"public": {"anonymous": True}},
        "apps": {"app": {"host": "app.corp.test", "upstream": upstream, "routes": routes}},
    }


async def test_an_issuer_is_asked_for_its_keys(tmp_path: Path) -> None:
    """One that answers, and one that does not."""
    async with OpenIDPeer() as peer:
        other = {"issuer": "http://127.0.0.1:9", "audiences": ["api"]}
        found = await tried(
            {"issuers": {"peer": {"issuer": peer.issuer, "audiences": ["api"]}, "other": other}}, tmp_path
        )
    assert found["issuer peer"].failure == ""
    assert "connection refused" in found["issuer other"].failure


async def test_upstreams_are_connected_to(tmp_path: Path) -> None:
    """By TCP and by Unix socket; one that is not there is said so."""
    async with UpstreamApp() as one, UpstreamApp(tmp_path / "app.sock") as beside:
        there = {one.url, beside.url, f"unix://{tmp_path}/app.sock"}
        missing = {f"unix:{tmp_path}/none.sock", "http://127.0.0.1:9"}
        found = await tried(app(urls=[*there, *missing]), tmp_path)
    assert {url: found[f"upstream of app ({url})"].failure for url in there} == dict.fromkeys(there, "")
    assert all("cannot connect" in found[f"upstream of app ({url})"].failure for url in missing)


@asynccontextmanager
async def listening(signed: Signed | None) -> AsyncIterator[str]:
    """A server with a certificate, or without TLS; the URL is https in both cases."""
    context = None
    if signed is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed.certificate, signed.key)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("good", ""),
        (
            "without the name",
            "its certificate is not for 127.0.0.1; write the name that it is for as upstream.server_name",
        ),
        ("another name", "its certificate is not for other.internal"),
        ("without the authority", "signed by an unknown authority; write the authority as upstream.ca"),
        ("expired", "its certificate has expired"),
        ("no TLS", "does not speak TLS on this port; write http://"),
    ],
)
async def test_upstream_tls_is_tried_with_name_and_authority(tmp_path: Path, case: str, said: str) -> None:
    """The handshake that a request would need; each way to fail has its remedy."""
    authority = Authority(tmp_path, "authority")
    signed = authority.signed(dns=("app.internal",), usage=SERVER, hours=-1 if case == "expired" else 1)
    upstream: dict[str, Any] = {"ca": str(authority.file), "server_name": "app.internal"}
    if case == "without the name":
        del upstream["server_name"]
    elif case == "without the authority":
        del upstream["ca"]
    elif case == "another name":
        upstream["server_name"] = "other.internal"
    async with listening(None if case == "no TLS" else signed) as url:
        found = (await tried(app(url=url, **upstream), tmp_path))[f"upstream of app ({url})"]
    assert found.failure.startswith("TLS failed: " if said else "")
    assert (said in found.failure) if said else found.failure == ""


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            "another name",
            "its certificate is not for 127.0.0.1; write the name that it is for as the host in store.redis",
        ),
        ("without the authority", "signed by an unknown authority; write the authority as store.redis.ca"),
        ("no TLS", "does not speak TLS on this port; write redis:// in the url"),
    ],
)
@pytest.mark.parametrize("kind", ["url", "sentinel", "cluster"])
async def test_redis_tls_is_tried_with_name_and_authority(tmp_path: Path, case: str, said: str, kind: str) -> None:
    """The store alone would say that there is no connection."""
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    ca = other.file if case == "without the authority" else authority.file
    signed = authority.signed(dns=("redis.internal",), usage=SERVER)
    async with listening(None if case == "no TLS" else signed) as url:
        place = url.removeprefix("https://")
        places: dict[str, dict[str, Any]] = {
            "url": {"url": f"rediss://{place}"},
            "sentinel": {"sentinel": {"nodes": [place], "service": "main"}},
            "cluster": {"cluster": {"nodes": [place]}},
        }
        found = (await tried({"store": {"redis": {**places[kind], "ca": str(ca)}}}, tmp_path))["store"]
    assert found.failure.startswith(f"{place}: TLS failed: ")
    assert said in found.failure


async def provider(peer: OpenIDPeer, folder: Path, **keys: Any) -> Tried:
    """What became of the only provider."""
    shape = {"issuer": peer.issuer, "client_id": "authproxy", **SECRET, **keys}
    return (await tried({"providers": {"peer": shape}}, folder))["provider peer"]


async def test_the_way_of_client_authentication_is_compared(tmp_path: Path) -> None:
    """A token endpoint that does not take ours is an error with what to write; without a list nothing is said."""
    async with OpenIDPeer() as peer:
        assert await provider(peer, tmp_path) == ("provider peer", "", ())
        peer.discovery_overrides["token_endpoint_auth_methods_supported"] = ["private_key_jwt", "client_secret_post"]
        failure = (await provider(peer, tmp_path)).failure
        assert failure.endswith(": write client_auth: client_secret_post")
        assert (await provider(peer, tmp_path, client_auth="client_secret_post")).failure == ""
        peer.discovery_overrides["token_endpoint_auth_methods_supported"] = ["private_key_jwt"]
        assert "does not take client_secret_basic, but private_key_jwt" in (await provider(peer, tmp_path)).failure
        found = await provider(peer, tmp_path, client_secret=None)
        assert (found.failure, len(found.warnings)) == ("", 1)


async def test_scopes_that_are_not_offered_are_warned_about(tmp_path: Path) -> None:
    """``scopes_supported`` may be incomplete (Discovery section 3), so that a scope that it lacks is a warning."""
    async with OpenIDPeer() as peer:
        peer.discovery_overrides["scopes_supported"] = ["openid", "email"]
        found = await provider(peer, tmp_path, scopes=["openid", "email", "groups", "offline_access"])
    assert found.failure == ""
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "the provider does not advertise the scope groups",
        "the provider does not advertise the scope offline_access",
    ]


@pytest.mark.parametrize("newer", [False, True])
async def test_dex_needs_per_user(tmp_path: Path, newer: bool) -> None:
    """Dex is recognised by its endpoints, also where it has an end_session_endpoint; a lookalike is left alone."""
    peer = OpenIDPeer.like_dex()
    peer.jwks_path = "/keys"
    async with peer:
        peer.discovery_overrides["device_authorization_endpoint"] = f"{peer.issuer}/device/code"
        peer.discovery_overrides["scopes_supported"] = ["openid", "email", "groups", "profile", "offline_access"]
        if newer:
            peer.discovery_overrides["end_session_endpoint"] = f"{peer.issuer}/logout"
        scopes = ["openid", "federated:id", "audience:server:client_id:other", "offline_access"]
        (warning,) = (await provider(peer, tmp_path, scopes=scopes)).warnings
        assert "this is Dex" in warning
        assert warning.endswith("write refresh_tokens: per_user")
        assert (await provider(peer, tmp_path, scopes=scopes, refresh_tokens="per_user")).warnings == ()
        assert (await provider(peer, tmp_path, scopes=["openid"])).warnings == ()
        peer.discovery_overrides["device_authorization_endpoint"] = f"{peer.issuer}/device"
        assert (await provider(peer, tmp_path, scopes=["openid", "offline_access"])).warnings == ()


async def test_the_token_endpoint_is_reached(tmp_path: Path) -> None:
    """A split horizon has other addresses than discovery: the token endpoint is tried at the configured one."""
    async with OpenIDPeer() as peer:
        found = await provider(peer, tmp_path, endpoints={"token": "http://127.0.0.1:9/token"})
    assert found.failure == "http://127.0.0.1:9/token cannot be asked: connection refused or lost"
