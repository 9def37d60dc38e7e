"""What a relying party must accept and refuse, one test for each case of the certification profiles.

The provider of the stage is right but for the one thing that a test makes wrong.  Where a profile leaves the choice to
us, the test pins what we chose.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hostile.harness import PREFIX, Set, Stage, StrictBrowser, begins_session, query, with_query
from tests.peers.openid_endpoints import LOGOUT_EVENT
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import b64, half_hash, sign, signing_key
from tests.peers.redis_server import RedisServer

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
FORM_POST = {"https": True, "provider": {"response_mode": "form_post"}}
UNSIGNED = b64(b'{"alg":"none"}')
MINUTES = 11 * 60.0  # longer than an ID token of the stage's provider lives


def lie(stage: Stage, **claims: Any) -> None:
    """Sign this into every ID token; None leaves a claim out."""

    def edit(told: dict[str, Any], _header: dict[str, Any]) -> None:
        told.update(claims)

    stage.peer.mangle_id_token = edit


def without_kid(_claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Sign without naming the key."""
    header.pop("kid")


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a token."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


# --- the basic profile ---


async def test_a1_code_flow(stages: Set) -> None:
    """The code flow ends at the page that was asked for, and userinfo has been read once."""
    stage = await stages(provider={"userinfo": True})
    page = await stage.sign_in("/deep?x=1")
    assert page.url == stage.at("/deep?x=1")
    assert len(stage.peer.asked("userinfo")) == 1
    assert stage.app.last.target == "/deep?x=1"


async def test_a2_invalid_iss(stages: Set) -> None:
    """An ID token of another issuer opens nothing, and its access token is not used."""
    stage = await stages(provider={"userinfo": True})
    lie(stage, iss="https://other.example")
    await stage.refused_sign_in("invalid_id_token", reason="issuer_mismatch")
    assert stage.peer.asked("userinfo") == []


async def test_a3_missing_sub(stage: Stage) -> None:
    """An ID token that names nobody opens nothing."""
    lie(stage, sub=None)
    await stage.refused_sign_in("invalid_id_token", reason="sub_invalid")


@pytest.mark.parametrize("audience", ["somebody-else", ["one", "two"], "", "authprox", "authproxy ", [["authproxy"]]])
async def test_a4_invalid_aud(stage: Stage, audience: Any) -> None:
    """An ID token for another client opens nothing, however close the name."""
    lie(stage, aud=audience)
    await stage.refused_sign_in("invalid_id_token", reason="audience_mismatch")


async def test_a4_missing_aud(stage: Stage) -> None:
    """An ID token for nobody in particular opens nothing."""
    lie(stage, aud=None)
    await stage.refused_sign_in("invalid_id_token", reason="audience_mismatch")


async def test_a5_missing_iat(stage: Stage) -> None:
    """An ID token that does not say when it was made opens nothing."""
    lie(stage, iat=None)
    await stage.refused_sign_in("invalid_id_token", reason="iat_invalid")


async def test_a6_kid_absent_single_jwks(stage: Stage) -> None:
    """Where the provider has one key, a token need not name it."""
    stage.peer.mangle_id_token = without_kid
    await stage.sign_in()


async def test_a7_kid_absent_multiple_jwks(stages: Set) -> None:
    """Where it has several keys and a token names none, each that fits is tried: our choice is to accept."""
    stage = await stages(before=lambda peer: peer.rotate_keys())
    stage.peer.mangle_id_token = without_kid
    await stage.sign_in()


async def test_a8_sig_rs256(stage: Stage) -> None:
    """RS256 is accepted."""
    page = await stage.sign_in()
    bearer = next(value for name, value in page.json["headers"] if name == "Authorization")
    header = json.loads(base64.urlsafe_b64decode(bearer.split(" ")[1].split(".")[0] + "=="))
    assert header["alg"] == "RS256"


async def test_a9_sig_none(stage: Stage) -> None:
    """A token without a signature opens nothing, though it came over a direct connection: our choice is to refuse."""
    stage.peer.mangle_token_text = lambda text: f"{UNSIGNED}.{text.split('.')[1]}."
    await stage.refused_sign_in("invalid_id_token")


@pytest.mark.parametrize("change", ["flipped", "cut", "foreign"])
async def test_a10_invalid_sig_rs256(stage: Stage, change: str) -> None:
    """A signature that does not hold opens nothing: a bit flipped, a piece missing, another key under the same id."""
    if change == "foreign":
        stage.peer.forge = signing_key(stage.peer.keys[-1].kid, number=77)
    else:
        stage.peer.mangle_token_text = lambda text: _damaged(text, change)
    await stage.refused_sign_in("invalid_id_token")


def _damaged(token: str, change: str) -> str:
    body, _, signature = token.rpartition(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    if change == "flipped":
        raw[7] ^= 1
    return f"{body}.{b64(bytes(raw if change == 'flipped' else raw[:-1]))}"


async def test_a11_userinfo_bearer_header(stages: Set) -> None:
    """The access token is shown to userinfo in the Authorization header, and nowhere else."""
    stage = await stages(provider={"userinfo": True})
    await stage.sign_in()
    (call,) = stage.peer.asked("userinfo")
    assert call.headers["authorization"] == f"Bearer {stage.peer.issued[0]['access_token']}"
    assert call.parameters == {}


async def test_a13_userinfo_invalid_sub(stages: Set) -> None:
    """A userinfo answer about another person ends the sign-in."""
    stage = await stages(provider={"userinfo": True})
    stage.peer.userinfo_overrides["sub"] = "sub-bob"
    await stage.refused_sign_in("invalid_id_token", reason="userinfo_subject_mismatch")


@pytest.mark.parametrize("nonce", ["another", None, "", 7])
async def test_a14_invalid_nonce(stage: Stage, nonce: Any) -> None:
    """An ID token of another sign-in, or of none, opens nothing."""
    lie(stage, nonce=nonce)
    await stage.refused_sign_in("invalid_id_token", reason="nonce_mismatch")


async def test_a15_scope_userinfo_claims(stages: Set) -> None:
    """The scopes that are configured are asked for, and what they bring reaches the application."""
    stage = await stages(provider={"userinfo": True, "scopes": ["openid", "profile", "email", "phone", "address"]})
    asked = await stage.begun()
    assert set(query(asked.location or "")["scope"].split()) == {"openid", "profile", "email", "phone", "address"}
    await stage.sign_in()
    assert stage.app.last.get("X-Forwarded-Email") == "alice@example.com"
    assert stage.app.last.get("X-Forwarded-Preferred-Username") == "alice"


async def test_a16_client_secret_basic(stage: Stage) -> None:
    """Client id and secret travel in the Authorization header, each form-urlencoded first, and not in the body."""
    await stage.sign_in()
    (call,) = stage.peer.asked("token")
    scheme, _, encoded = call.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded) == b"authproxy:the+secret%2Fof%2Bthe+client%3A+100%25"
    assert "client_secret" not in call.form


# --- the config profile ---


async def test_a17_discovery(stage: Stage) -> None:
    """The provider's configuration is fetched from the well-known place, and its endpoints are used."""
    await stage.sign_in()
    (call,) = stage.peer.asked("discovery")
    assert call.path == "/.well-known/openid-configuration"
    assert [call.path for call in stage.peer.asked("token")] == ["/token"]


async def test_a18_discovery_jwks_uri(stage: Stage) -> None:
    """The keys come from where the configuration says, which is another place in every run."""
    await stage.sign_in()
    assert {call.path for call in stage.peer.asked("jwks")} == {stage.peer.jwks_path}


async def test_a19_discovery_issuer_mismatch(stages: Set) -> None:
    """A configuration of another issuer is not believed: nobody can sign in, and readiness says why."""
    stage = await stages(before=lambda peer: peer.discovery_overrides.update(issuer="https://other.example"))
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/start"))
    await stage.denied(page, "provider_unreachable", status=502, reason="issuer")
    readiness = stage.proxies[0].startup.readiness()
    assert "issuer" in readiness.waiting_for["provider peer"]
    assert "issuer" in readiness.degraded["provider peer"]
    assert stage.peer.asked("authorize") == []


async def test_a20_signing_key_rotation(stage: Stage, somebody: Somebody) -> None:
    """After the provider has changed its key, one look at the key set is enough for the next sign-in."""
    await stage.sign_in()
    looked = len(stage.peer.asked("jwks"))
    stage.clock.pass_(60)
    stage.peer.rotate_keys(keep_old=False)
    await stage.sign_in(browser=await somebody(stage))
    assert len(stage.peer.asked("jwks")) == looked + 1


async def test_a21_rotation_just_before_signing(stage: Stage) -> None:
    """A key that is made between our look at the key set and the token is found within the same sign-in."""
    stage.peer.rotate_before_signing = True
    await stage.sign_in()


# --- answers by form post ---


async def test_a22_form_post_success(stages: Set) -> None:
    """An answer by form post, which no Lax cookie accompanies, ends at the page that was asked for by a 303."""
    stage = await stages(**FORM_POST)
    page, form = await stage.form_posted("/deep?x=1")
    posted = await stage.browser.navigate(
        form.action, method="POST", data=form.fields, headers={"Sec-Fetch-Site": "cross-site", "Origin": "null"}
    )
    assert (posted.status, page.status) == (303, 200)
    assert (await stage.browser.settle(posted)).url == stage.at("/deep?x=1")


async def test_a22_form_post_error(stages: Set) -> None:
    """An error that comes by form post is a page with a way back: no session, and no loop."""
    stage = await stages(**FORM_POST)
    stage.peer.authorize_error = "access_denied"
    page, form = await stage.form_posted()
    posted = await stage.browser.submit(page, form)
    await stage.denied(posted, "provider_refused", status=403, reason="access_denied")
    assert posted.location is None


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://other.example"}, "issuer_mismatch"),
        ({"sub": None}, "sub_invalid"),
        ({"aud": "other"}, "audience_mismatch"),
        ({"iat": None}, "iat_invalid"),
        ({"nonce": "other"}, "nonce_mismatch"),
    ],
)
async def test_a22_form_post_refuses_the_same(stages: Set, claims: dict[str, Any], reason: str) -> None:
    """What is refused in a query is refused in a form post."""
    stage = await stages(**FORM_POST)
    lie(stage, **claims)
    page, form = await stage.form_posted()
    await stage.denied(await stage.browser.submit(page, form), "invalid_id_token", reason=reason)


async def test_a22_form_post_from_another_browser(stages: Set, somebody: Somebody) -> None:
    """A form post that is carried to a browser that did not begin the sign-in opens nothing there."""
    stage = await stages(**FORM_POST)
    page, form = await stage.form_posted()
    other = await somebody(stage)
    posted = await other.submit(page, form)
    await stage.denied(posted, "state_unknown", status=400)
    assert not await stage.is_in(browser=other)
    assert stage.peer.asked("token") == []


# --- sign-out by us ---


async def test_a23_rp_initiated_logout(stage: Stage) -> None:
    """Sign-out shows the provider the ID token and a state, comes back to our page, and has ended the session."""
    await stage.sign_in()
    away = await stage.sign_out(rd="/after")
    told = query(away.location or "")
    assert (away.location or "").startswith(f"{stage.peer.issuer}/end_session?")
    assert claims_of(told["id_token_hint"])["sub"] == "sub-alice"
    assert told["post_logout_redirect_uri"] == stage.at(f"{PREFIX}/signed_out")
    assert told["state"]
    back = await stage.browser.follow(await stage.browser.follow(away))
    assert back.location == stage.at("/after")
    assert not await stage.is_in()


@pytest.mark.parametrize("state", [None, "another", ""])
async def test_a24_a25_logout_state_missing_or_other(stage: Stage, state: str | None) -> None:
    """A provider that forgets our state, or makes one up, leads to the page that says goodbye, and no further."""
    await stage.sign_in()
    stage.peer.end_session_overrides["state"] = state
    page = await stage.browser.settle(await stage.sign_out(rd="/after"))
    assert (page.status, urlsplit(page.url).path) == (200, f"{PREFIX}/signed_out")
    assert not await stage.is_in()
    assert stage.app.to("/after") == []


# --- sign-out by the provider ---


async def test_a26_backchannel_logout(stages: Set, redis_server: RedisServer) -> None:
    """A logout token is answered with 200, uncached and empty; the session is over on every replica."""
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}})
    await stage.sign_in()
    assert await stage.is_in(replica=1)
    status, headers, body = await stage.tell(sid=stage.peer.active_sids[-1])
    assert (status, headers["Cache-Control"], body) == (200, "no-store", b"")
    await stage.proxies[1].graph.marks.sync()
    assert not await stage.is_in()
    assert not await stage.is_in(replica=1)


def _unsigned(peer: OpenIDPeer) -> str:
    return f"{UNSIGNED}.{peer.logout_token(sid=peer.active_sids[-1]).split('.')[1]}."


def _symmetric(peer: OpenIDPeer) -> str:
    head = b64(json.dumps({"alg": "HS256", "typ": "logout+jwt"}).encode())
    body = peer.logout_token(sid=peer.active_sids[-1]).split(".")[1]
    mac = hmac.digest(str(peer.client_secret).encode(), f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{b64(mac)}"


WRONG_LOGOUTS: dict[str, Callable[[OpenIDPeer], str]] = {
    "a27_alg_none": _unsigned,
    "a28_no_event": lambda peer: peer.logout_token(events=None),
    "a28_empty_event": lambda peer: peer.logout_token(events={}),
    "a29_with_nonce": lambda peer: peer.logout_token(nonce="n"),
    "a30_wrong_alg": _symmetric,
    "a31_wrong_aud": lambda peer: peer.logout_token(aud="other"),
    "a32_wrong_event": lambda peer: peer.logout_token(events={LOGOUT_EVENT + "s": {}}),
    "a32_event_is_text": lambda peer: peer.logout_token(events={LOGOUT_EVENT: "yes"}),
    "a33_wrong_iss": lambda peer: peer.logout_token(iss=peer.issuer + "/"),
}


@pytest.mark.parametrize("name", WRONG_LOGOUTS)
async def test_a27_to_a33_wrong_logout_tokens(stage: Stage, name: str) -> None:
    """A logout token that is wrong in one place is answered with 400, uncached, and ends nothing."""
    await stage.sign_in()
    token = WRONG_LOGOUTS[name](stage.peer)
    status, headers, _ = await stage.tell(token)
    assert (status, headers["Cache-Control"]) == (400, "no-store")
    assert headers["Authproxy-Refusal"] == "invalid_logout_token"
    assert await stage.is_in()


@pytest.mark.parametrize("path", ["/frontchannel_logout", "/check_session", "/logout"])
async def test_a34_a35_no_frontchannel_logout(stage: Stage, path: str) -> None:
    """There is no address that ends a session by a mere GET with ``iss`` and ``sid``."""
    await stage.sign_in()
    sid = stage.peer.active_sids[-1]
    page = await stage.browser.xhr(with_query(stage.at(PREFIX + path), iss=stage.peer.issuer, sid=sid))
    assert page.status == 404
    assert await stage.is_in()


# --- refresh ---


async def test_a36_refresh_token(stage: Stage) -> None:
    """An expired ID token is renewed with the refresh token, and the new one reaches the application."""
    await stage.sign_in()
    stage.clock.pass_(MINUTES)
    assert await stage.is_in()
    assert [call.status for call in stage.peer.asked("token", grant_type="refresh_token")] == [200]
    bearer = stage.app.last.get("Authorization") or ""
    assert bearer == f"Bearer {stage.peer.issued[-1]['id_token']}"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"sub": "sub-bob"},
        {"sub": None},
        {"aud": "other"},
        {"azp": "other"},
        {"nonce": "other"},
        {"iat": None},
        {"exp": 1},
    ],
    ids=["a37_iss", "a38_sub", "a38_no_sub", "aud", "azp", "nonce", "iat", "exp"],
)
async def test_a37_a38_refresh_token_about_another(stage: Stage, claims: dict[str, Any]) -> None:
    """A refreshed ID token of another issuer, about another person or for another client ends the session."""
    await stage.sign_in()
    seen = stage.reached()
    lie(stage, **claims)
    stage.clock.pass_(MINUTES)
    page = await stage.browser.xhr(stage.at("/again"))
    assert (page.status, stage.reached()) == (401, seen)
    assert not begins_session(page)
    stage.peer.mangle_id_token = None
    assert not await stage.is_in()


# --- beyond the profiles of certification ---


@pytest.mark.parametrize("alg", ["HS256", "ES256", "RS512"])
async def test_a_other_algorithms(stages: Set, alg: str) -> None:
    """A token signed by an algorithm that the settings do not list, or with a public secret, opens nothing."""
    stage = await stages(provider={"algorithms": ["RS256"]})
    stage.peer.mangle_token_text = lambda text: _resigned(stage.peer, claims_of(text), alg)
    await stage.refused_sign_in("invalid_id_token")


def _resigned(peer: OpenIDPeer, claims: dict[str, Any], alg: str) -> str:
    if alg != "HS256":
        key = signing_key(peer.keys[-1].kid, alg)
        return sign(claims, key)
    head = b64(json.dumps({"alg": "HS256", "kid": peer.keys[-1].kid}).encode())
    body = b64(json.dumps(claims).encode())
    secret = json.dumps(peer.keys[-1].jwk()).encode()
    return f"{head}.{body}.{b64(hmac.digest(secret, f'{head}.{body}'.encode(), 'sha256'))}"


@pytest.mark.parametrize("name", ["at_hash", "c_hash"])
@pytest.mark.parametrize("value", [half_hash("something else"), "", 7, ["x"]])
async def test_a_invalid_hashes(stage: Stage, name: str, value: Any) -> None:
    """A hash that belongs to another access token or code ends the sign-in."""
    lie(stage, **{name: value})
    await stage.refused_sign_in("invalid_id_token", reason=f"{name}_mismatch")


async def test_a_missing_hashes(stage: Stage) -> None:
    """In the code flow the hashes are optional."""
    lie(stage, at_hash=None, c_hash=None)
    await stage.sign_in()
