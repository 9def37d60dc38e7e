"""Issuers of bearer JWTs: where their keys come from, and what their claims mean."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose.access import read
from authproxy.model import Identity
from authproxy.oidc.issuer import InCluster, Issuer
from authproxy.settings import schema
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import sign, signing_key
from tests.peers.program import PATIENCE
from tests.peers.self_signed import self_signed

AUDIENCES = frozenset({"authproxy"})
ACCOUNT = "system:serviceaccount:flux:operator"


def issuer_of(peer: OpenIDPeer, **changes: Any) -> Issuer:
    """Ours for ``peer``, on its clock."""
    whole = {"issuer": peer.issuer, "audiences": ["authproxy"], **changes}
    return Issuer("peer", schema.Issuer.model_validate(whole), clock=peer.clock)


async def subject(issuer: Issuer, token: str) -> str:
    """Whom a token is about."""
    return issuer.identity(await issuer.check(read(token), AUDIENCES)).subject


async def test_discovery_finds_the_keys(peer: OpenIDPeer) -> None:
    """Discovery, key set, and a token that holds."""
    async with issuer_of(peer) as issuer:
        assert (issuer.ready, issuer.known) == (False, peer.issuer)
        await issuer.ensure()
        assert (issuer.ready, issuer.last_error) == (True, "")
        assert await subject(issuer, peer.id_token()) == "sub-alice"
        assert len(peer.asked("discovery")) == len(peer.asked("jwks")) == 1
        assert repr(issuer) == "<Issuer peer: ready, <KeySet 1 keys, fetched 0s ago>>"


async def test_a_configured_place_needs_no_discovery(peer: OpenIDPeer) -> None:
    """``jwks_url`` alone is asked."""
    async with issuer_of(peer, jwks_url=f"{peer.issuer}{peer.jwks_path}") as issuer:
        assert await subject(issuer, peer.id_token()) == "sub-alice"
        assert peer.asked("discovery") == []


@pytest.mark.parametrize("named", ["https://other.example", None, 7])
async def test_a_document_of_another_issuer_is_not_believed(peer: OpenIDPeer, named: object) -> None:
    """OpenID Connect Discovery section 4.3."""
    peer.discovery_overrides["issuer"] = named
    async with issuer_of(peer) as issuer:
        with pytest.raises(ProviderError, match="another issuer"):
            await issuer.ensure()
        assert "another issuer" in issuer.last_error


@pytest.mark.parametrize("place", ["http://keys.example/jwks", "ftp://127.0.0.1/", "", None, 7])
async def test_keys_come_over_https(peer: OpenIDPeer, place: object) -> None:
    """A document cannot send us over plain http, or nowhere."""
    peer.discovery_overrides["jwks_uri"] = place
    async with issuer_of(peer) as issuer:
        with pytest.raises(ProviderError, match="jwks"):
            await issuer.ensure()


@pytest.mark.parametrize("endpoint", ["discovery", "jwks"])
@pytest.mark.parametrize("status", [302, 307, 404, 500])
async def test_nobody_leads_us_elsewhere(peer: OpenIDPeer, endpoint: str, status: int) -> None:
    """Redirects are not followed, and no failure is a key set."""
    peer.fail(endpoint, status, b"", Location=f"{peer.issuer}{peer.jwks_path}")
    async with issuer_of(peer) as issuer:
        with pytest.raises(ProviderError, match=f"answered {status}"):
            await issuer.ensure()


async def test_a_document_that_is_none_is_refused(peer: OpenIDPeer) -> None:
    """Not JSON."""
    peer.fail("discovery", 200, b"<html>")
    async with issuer_of(peer) as issuer:
        with pytest.raises(ProviderError, match="not JSON"):
            await issuer.ensure()


async def test_keys_serve_on_while_the_issuer_is_down(peer: OpenIDPeer, clock: FakeClock) -> None:
    """CONTRACT section 7."""
    async with issuer_of(peer) as issuer:
        await issuer.ensure()
        await peer.stop()
        clock.forward(3000)
        assert await subject(issuer, peer.id_token()) == "sub-alice"
        assert issuer.last_error


async def test_an_unknown_key_says_nothing_while_the_issuer_is_down(peer: OpenIDPeer, clock: FakeClock) -> None:
    """It may be the new key of an issuer that cannot be asked; once it answers, the token is refused."""
    async with issuer_of(peer) as issuer:
        await issuer.ensure()
        await peer.stop()
        token = sign({"iss": peer.issuer}, signing_key("unheard of"))
        with pytest.raises(ProviderError):
            await issuer.check(read(token), AUDIENCES)
        await peer.start()
        clock.forward(11)
        with pytest.raises(InvalidToken) as refused:
            await issuer.check(read(token), AUDIENCES)
        assert refused.value.code == "key_unknown"


async def test_keys_that_moved_to_another_place_are_found(peer: OpenIDPeer, clock: FakeClock) -> None:
    """C9: discovery is remembered for an hour; when the keys are gone from where it said, it is asked again."""
    async with OpenIDPeer(clock=clock) as elsewhere, issuer_of(peer) as issuer:
        await issuer.ensure()
        peer.jwks_answer = (404, b"")
        peer.discovery_overrides["jwks_uri"] = elsewhere.issuer + elsewhere.jwks_path
        elsewhere.keys = [peer.rotate_keys()]
        clock.forward(60)
        assert await subject(issuer, peer.id_token()) == "sub-alice"


async def test_unknown_keys_cannot_make_us_hammer_the_issuer(peer: OpenIDPeer, clock: FakeClock) -> None:
    """One fetch for each cool-down of ten seconds, however many ids."""
    async with issuer_of(peer) as issuer:
        await issuer.ensure()
        for number in range(50):
            with pytest.raises(InvalidToken):
                await issuer.check(read(sign({"iss": peer.issuer}, signing_key(f"k{number}"))), AUDIENCES)
        assert len(peer.asked("jwks")) == 2
        clock.forward(11)
        with pytest.raises(InvalidToken):
            await issuer.check(read(sign({"iss": peer.issuer}, signing_key("later"))), AUDIENCES)
        assert len(peer.asked("jwks")) == 3


@pytest.mark.parametrize("endpoint", ["discovery", "jwks"])
async def test_leaving_ends_a_fetch_that_is_under_way(peer: OpenIDPeer, endpoint: str) -> None:
    """Nobody waits for an issuer that does not answer, and no fetch is left behind."""
    peer.hold(endpoint)

    async def given_up(issuer: Issuer) -> None:
        with pytest.raises(ProviderError):
            await issuer.ensure()

    issuer = issuer_of(peer)
    # Five seconds are far less than the fetch's own patience.
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group, issuer:
        group.create_task(given_up(issuer))
        await peer.wait_for(endpoint)
    assert not issuer._document.busy


# --- what claims mean ---


def identity(mapping: dict[str, str], **claims: Any) -> Identity:
    """Who the claims are about."""
    shape = schema.Issuer(issuer="https://i.example", audiences=["a"], claims=mapping)  # type: ignore[arg-type]
    whole = {"iss": "https://i.example", "sub": "ci", "exp": 9, **claims}
    return Issuer("i", shape).identity(whole)


def test_an_identity_without_a_mapping() -> None:
    """The usual claims; the issuer and the end of the proof are in it, no token is."""
    found = identity({}, groups=["dev", "ops"], scope="read write", email="a@b.example", email_verified=True)
    assert (found.kind, found.subject, found.issuer, found.expires_at) == ("bearer", "ci", "https://i.example", 9.0)
    assert (found.user, found.email, found.email_verified) == ("a@b.example", "a@b.example", True)
    assert (found.groups, found.scopes, found.clusters) == (("dev", "ops"), frozenset({"read", "write"}), None)
    assert (found.id_token, found.access_token, found.session) == ("", "", None)


def test_a_service_is_named_by_its_subject() -> None:
    """Nothing else is known of it."""
    assert identity({}).user == "ci"
    assert identity({"user": "client_id"}, client_id="job").user == "job"


@pytest.mark.parametrize(
    ("mapping", "claims", "scopes"),
    [
        ({}, {"scope": "a  b"}, {"a", "b"}),
        ({}, {"scp": ["a", "b"]}, {"a", "b"}),
        ({}, {"scp": "a b"}, {"a", "b"}),
        ({}, {"scope": "a", "scp": ["b"]}, {"a"}),
        ({"scopes": "scp"}, {"scope": "a", "scp": ["b"]}, {"b"}),
        ({"scopes": "realm.roles"}, {"realm": {"roles": ["x y"]}}, {"x y"}),
        ({}, {"scope": {"a": 1}}, set()),
        ({}, {"scope": None}, set()),
        ({}, {}, set()),
    ],
)
def test_scopes(mapping: dict[str, str], claims: dict[str, Any], scopes: set[str]) -> None:
    """A text is separated by spaces, a list is taken as it is, anything else is nothing."""
    assert identity(mapping, **claims).scopes == scopes


@pytest.mark.parametrize(
    ("claims", "clusters"),
    [
        ({"cluster": "prod"}, {"prod"}),
        ({"cluster": "prod eu"}, {"prod eu"}),
        ({"cluster": ["prod", "eu"]}, {"prod", "eu"}),
        ({"cluster": []}, set()),
        ({"cluster": None}, set()),
        ({"cluster": 7}, set()),
        ({"cluster": {"prod": True}}, set()),
        ({"cluster": ["prod", 7]}, {"prod"}),
        ({}, None),
    ],
)
def test_clusters(claims: dict[str, Any], clusters: Any) -> None:
    """Only a token without the claim is bound to none; what cannot be understood binds to no cluster at all."""
    assert identity({"clusters": "cluster"}, **claims).clusters == clusters
    assert identity({}, **claims).clusters is None


def test_clusters_in_a_nested_claim() -> None:
    """A null inside is there, and binds."""
    mapping = {"clusters": "k8s.cluster"}
    assert identity(mapping, k8s={"cluster": "prod"}).clusters == frozenset({"prod"})
    assert identity(mapping, k8s={"cluster": None}).clusters == frozenset()
    assert identity(mapping, k8s={}).clusters is None


# --- Kubernetes service accounts ---


class ApiServer:
    """The two documents of a Kubernetes API server, over TLS, for callers with a service account."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = self_signed(folder, "localhost")
        self.token = folder / "token"
        self.token.write_text("account-1\n")
        self.signing = signing_key("sa", "RS256")
        self.accepted = {"account-1"}
        self.seen: list[tuple[str, str]] = []
        self.url = ""

    async def serve(self, request: web.Request) -> web.Response:
        """One document, or 401."""
        bearer = request.headers.get("Authorization", "")
        self.seen.append((request.path, bearer))
        if bearer.removeprefix("Bearer ") not in self.accepted:
            return web.Response(status=401)
        if request.path == "/openid/v1/jwks":
            return web.Response(text=json.dumps({"keys": [self.signing.jwk()]}))
        document = {"issuer": "https://kubernetes.cluster.local", "jwks_uri": "https://192.0.2.1:6443/openid/v1/jwks"}
        return web.json_response(document)

    def issuer(self, **changes: Any) -> Issuer:
        """Ours for it."""
        shape = schema.Issuer(kubernetes_service_accounts=True, audiences=["authproxy"], **changes)
        cluster = InCluster(self.url, self.certificate, self.token)
        return Issuer("kubernetes", shape, clock=FakeClock(), cluster=cluster)

    def account_token(self, **changes: Any) -> str:
        """A projected token of the operator's account."""
        now = int(FakeClock()())
        claims = {
            "iss": "https://kubernetes.cluster.local", "aud": ["authproxy"], "sub": ACCOUNT, "iat": now,
            "exp": now + 3600, "kubernetes.io": {"namespace": "flux"},
        }  # fmt: skip
        return sign(claims | changes, self.signing, {"typ": None})


@pytest.fixture
async def api_server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server on loopback."""
    server = ApiServer(tmp_path)
    app = web.Application()
    app.router.add_get("/{tail:.*}", server.serve)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.url = f"https://localhost:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def test_service_accounts(api_server: ApiServer) -> None:
    """The API server names the issuer; its keys come from its own address, and our credential goes nowhere else."""
    async with api_server.issuer() as issuer:
        assert repr(issuer.known) == "None"
        assert await subject(issuer, api_server.account_token()) == ACCOUNT
        assert issuer.known == "https://kubernetes.cluster.local"
    assert [path for path, _ in api_server.seen] == ["/.well-known/openid-configuration", "/openid/v1/jwks"]


async def test_an_account_token_of_another_audience_is_refused(api_server: ApiServer) -> None:
    """The API server's own tokens open nothing here."""
    async with api_server.issuer() as issuer:
        with pytest.raises(InvalidToken) as refused:
            await subject(issuer, api_server.account_token(aud=["https://kubernetes.default.svc"]))
    assert refused.value.code == "audience_mismatch"


async def test_a_rotated_account_token_is_read_again(api_server: ApiServer) -> None:
    """The kubelet writes a new one; nothing has to be restarted."""
    api_server.accepted = {"account-2"}
    async with api_server.issuer() as issuer:
        with pytest.raises(ProviderError, match="answered 401"):
            await issuer.ensure()
        api_server.token.write_text("account-2")
        issuer._clock.forward(11)  # type: ignore[attr-defined]
        await issuer.ensure()
        assert issuer.ready


async def test_a_configured_issuer_must_be_the_clusters_own(api_server: ApiServer) -> None:
    """Character by character."""
    async with api_server.issuer(issuer="https://other.example") as issuer:
        with pytest.raises(ProviderError, match="another issuer"):
            await issuer.keys.ensure()


async def test_the_account_goes_to_the_api_server_alone(api_server: ApiServer, peer: OpenIDPeer) -> None:
    """A ``jwks_url`` elsewhere is asked without it."""
    async with api_server.issuer(jwks_url=f"{peer.issuer}{peer.jwks_path}") as issuer:
        await issuer.ensure()
    (call,) = peer.asked("jwks")
    assert "authorization" not in call.headers


@pytest.mark.parametrize("missing", ["certificate", "token"])
async def test_outside_a_cluster_it_says_what_is_missing(api_server: ApiServer, missing: str) -> None:
    """Not ready, and why; nothing crashes."""
    getattr(api_server, missing).unlink()
    async with api_server.issuer() as issuer:
        with pytest.raises(ProviderError, match="cannot read"):
            await issuer.ensure()
        assert "cannot read" in issuer.last_error
        assert repr(issuer) == "<Issuer kubernetes: not ready, <KeySet never fetched>>"
    assert api_server.seen == []


async def test_another_authority_is_not_believed(api_server: ApiServer, tmp_path: Path) -> None:
    """The in-cluster authority alone vouches for the API server."""
    folder = tmp_path / "other"
    folder.mkdir()
    api_server.certificate, _ = self_signed(folder, "localhost")
    async with api_server.issuer() as issuer:
        with pytest.raises(ProviderError, match="TLS failed"):
            await issuer.ensure()
    assert api_server.seen == []


def test_in_a_pod_the_usual_places_are_asked() -> None:
    """What Kubernetes mounts and names."""
    assert [str(part) for part in InCluster()] == [
        "https://kubernetes.default.svc",
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
    ]
