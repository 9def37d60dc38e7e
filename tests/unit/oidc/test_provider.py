"""Signing in, refreshing and ending at a provider that is right, and at one that is wrong in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from authproxy.errors import GrantRefused, InvalidToken, ProviderError
from authproxy.oidc import fetch
from authproxy.oidc.grants import AnswerUnproved
from authproxy.oidc.provider import Provider
from authproxy.settings import schema
from tests.peers.browser_client import Loopback
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_endpoints import Call
from tests.peers.openid_provider import CLIENT_SECRET, OpenIDPeer
from tests.peers.openid_signing import sign, signing_key
from tests.unit.oidc.conftest import CHALLENGE, REDIRECT, Client, client_of, query_of

# --- clocks ---


@pytest.mark.parametrize("skew", [-300, -90, -30, -4, 4, 30, 90, 300])
async def test_the_skew_of_the_providers_clock_is_learned(peer: OpenIDPeer, clock: FakeClock, skew: float) -> None:
    """C10: from the `Date` of the token endpoint's answer; the sign-in that brings it works already."""
    peer.clock = lambda: clock() + skew
    async with client_of(peer, clock) as client:
        assert client.skew == 0
        tokens = await client.sign_in()
        assert client.skew == pytest.approx(skew, abs=1)
        assert client.now() == pytest.approx(peer.clock(), abs=1)
        assert tokens.expires_at == peer.clock() + peer.id_token_lifetime  # as it stands in the token
        assert tokens.access_expires_at == pytest.approx(peer.clock() + peer.access_token_lifetime, abs=1)
        assert (await client.refresh(tokens.refresh_token, subject="sub-alice")).claims["sub"] == "sub-alice"


@pytest.mark.parametrize("skew", [-3600, -303, -1, 1, 303, 3600, 1e9])
async def test_a_skew_that_is_tiny_or_absurd_is_none(peer: OpenIDPeer, clock: FakeClock, skew: float) -> None:
    """C10: below two seconds and beyond five minutes."""
    async with client_of(peer) as client:
        token = peer.id_token()
        peer.token_answer = lambda _call: (
            200,
            {"access_token": "a", "token_type": "Bearer", "id_token": token},
            {"Date": formatdate(clock() + skew, usegmt=True)},
        )
        await client.password("alice", "alice-password")
        assert client.skew == 0


@pytest.mark.parametrize("endpoint", ["discovery", "jwks", "userinfo", "revocation"])
async def test_only_the_token_endpoint_tells_the_time(peer: OpenIDPeer, clock: FakeClock, endpoint: str) -> None:
    """C10: and of its answers only those that brought tokens."""
    date = {"Date": formatdate(clock() + 90, usegmt=True)}
    answer = peer._discovery(Call("discovery", "GET", {}, {}, {}, ""))
    assert isinstance(answer, tuple)
    bodies = {"discovery": answer[1], "jwks": peer.jwks(), "userinfo": {"sub": "sub-alice"}, "revocation": b""}
    setattr(peer, f"{endpoint}_answer", (200, bodies[endpoint], date))
    async with client_of(peer, userinfo=True) as client:
        tokens = await client.sign_in()
        await client.revoke(tokens.refresh_token, "refresh_token")
        assert peer.asked(endpoint)
        assert client.skew == 0
        for status in (400, 401, 429, 500, 503):
            peer.token_answer = (status, {"error": "server_error"}, date)
            with pytest.raises(ProviderError):
                await client.refresh("rt", subject="sub-alice")
        assert client.skew == 0


async def test_plain_http_does_not_tell_the_time(peer: OpenIDPeer, clock: FakeClock) -> None:
    """C10: `insecure_http` allows a place that others on the network may answer for."""
    date = {"Date": formatdate(clock() + 90, usegmt=True)}
    peer.token_answer = lambda _call: (200, {"access_token": "a", "token_type": "Bearer"}, date)
    async with fetch.session(None) as http:
        http.connector._resolver = Loopback()  # type: ignore[union-attr]
        shape = peer.settings(insecure_http=True)
        shape["endpoints"] = {"token": f"http://provider.test:{peer._port}/token"}
        async with Client("peer", schema.Provider.model_validate(shape), clock=clock, http=http) as client:
            await client.refresh("rt", subject="sub-alice")
            assert peer.asked("token")
            assert client.skew == 0


async def test_a_learned_skew_makes_no_old_logout_token_valid(peer: OpenIDPeer, clock: FakeClock) -> None:
    """C10: a token that a client brings is judged by our clock, whatever the provider's says."""
    peer.clock = lambda: clock() - 200
    async with client_of(peer, clock) as client:
        await client.sign_in()
        assert client.skew == pytest.approx(-200, abs=1)
        token = peer.logout_token(sid="s1", exp=int(clock()) - 61)  # good for two minutes more by the provider's clock
        with pytest.raises(InvalidToken) as caught:
            await client.logout_token(token)
        assert caught.value.code == "token_expired"


# --- signing in ---


async def test_the_code_flow_completes(client: Client, peer: OpenIDPeer, clock: FakeClock) -> None:
    """A1, A8, A16, A17, A18: discovery, authorization, redemption with PKCE and a proved ID token."""
    tokens = await client.sign_in()
    assert tokens.claims["sub"] == "sub-alice"
    assert tokens.expires_at == clock() + peer.id_token_lifetime
    assert tokens.access_expires_at == clock() + peer.access_token_lifetime
    assert tokens.refresh_token == peer.issued[0]["refresh_token"]
    (call,) = peer.asked("token")
    assert call.headers["authorization"].startswith("Basic ")
    assert "client_secret" not in call.form
    assert "client_id" not in call.form
    assert client.ready
    assert client.last_error == ""


@pytest.mark.parametrize("alg", ["ES256", "PS384", "EdDSA"])
async def test_other_algorithms_complete_too(alg: str) -> None:
    """What the settings allow by default, the provider may sign with."""
    async with OpenIDPeer(alg=alg) as peer, client_of(peer) as client:
        assert (await client.sign_in()).claims["sub"] == "sub-alice"


async def test_the_secret_may_go_into_the_form(peer: OpenIDPeer) -> None:
    """client_secret_post, and nothing in the header."""
    async with client_of(peer, client_auth="client_secret_post") as client:
        await client.sign_in()
    (call,) = peer.asked("token")
    assert call.form["client_secret"] == CLIENT_SECRET
    assert "authorization" not in call.headers


async def test_a_public_client_has_no_secret() -> None:
    """PKCE alone."""
    async with OpenIDPeer(client_secret=None) as peer, client_of(peer) as client:
        assert (await client.sign_in()).claims["sub"] == "sub-alice"
        assert "authorization" not in peer.asked("token")[0].headers


async def test_a_secret_that_cannot_be_read_is_named_and_not_shown(peer: OpenIDPeer) -> None:
    """The operator's mistake comes out as the provider's failure, which signs nobody out."""

    def missing() -> str:
        raise LookupError("cannot read /run/secrets/dex: No such file")

    settings = schema.Provider.model_validate(peer.settings())
    async with Provider("peer", settings, secret=missing, clock=peer.clock) as provider:
        with pytest.raises(ProviderError, match="/run/secrets/dex"):
            await provider.password("alice", "alice-password")
        assert await provider.revoke("token", "refresh_token") is False


async def test_the_authorization_url_protects_the_flow(peer: OpenIDPeer) -> None:
    """B1, B2: code, S256 whatever is advertised, state and nonce; no extra parameter can weaken it."""
    peer.discovery_overrides |= {
        "code_challenge_methods_supported": ["plain"],
        "authorization_endpoint": peer.issuer + "/auth?tenant=7",
    }
    weaker = {"code_challenge_method": "plain", "response_type": "token", "nonce": "x", "connector_id": "ldap"}
    options: dict[str, Any] = {
        "scopes": ["email"],
        "max_age": "5m",
        "acr_values": ["mfa", "phr"],
        "response_mode": "form_post",
    }
    async with client_of(peer, authorize=weaker, **options) as client:
        url = await client.authorization_url(
            redirect_uri=REDIRECT,
            state="s&1=2",
            nonce="n-1",
            code_challenge=CHALLENGE,
            extra={"redirect_uri": "https://evil.example", "prompt": "login", "connector_id": "saml"},
        )
    assert query_of(url) == {
        "tenant": "7",
        "response_type": "code",
        "client_id": "authproxy",
        "redirect_uri": REDIRECT,
        "state": "s&1=2",
        "nonce": "n-1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "scope": "openid email",
        "max_age": "300",
        "acr_values": "mfa phr",
        "response_mode": "form_post",
        "connector_id": "saml",
        "prompt": "login",
    }


async def test_the_answer_may_come_by_form_post(peer: OpenIDPeer) -> None:
    """The formpost plan: the same flow, the callback as a form."""
    async with client_of(peer, response_mode="form_post") as client:
        assert (await client.sign_in()).claims["sub"] == "sub-alice"


Fault = Callable[[OpenIDPeer], object]


def _mangled(**changes: Any) -> Fault:
    """Change claims before signing; None leaves one out."""

    def apply(peer: OpenIDPeer) -> None:
        peer.mangle_id_token = lambda claims, _header: claims.update(changes)

    return apply


def _set(name: str, value: Any) -> Fault:
    return lambda peer: setattr(peer, name, value)


BAD_ID_TOKENS: dict[str, tuple[Fault, str]] = {
    "A2": (_mangled(iss="https://other.example"), "issuer_mismatch"),
    "A3": (_mangled(sub=None), "sub_invalid"),
    "A4": (_mangled(aud="other"), "audience_mismatch"),
    "A5": (_mangled(iat=None), "iat_invalid"),
    "A10": (_set("mangle_token_text", lambda text: text[:-8] + "AAAAAAAA"), "signature_invalid"),
    "A10 other key": (_set("forge", signing_key("key-0", number=9)), "signature_invalid"),
    "unpublished key": (_set("forge", signing_key("key-9", number=9)), "key_unknown"),
    "A14": (_mangled(nonce="other"), "nonce_mismatch"),
    "A14 absent": (_mangled(nonce=None), "nonce_mismatch"),
    "B14": (_mangled(azp="other"), "azp_mismatch"),
    "B15": (_mangled(at_hash="AAAAAAAAAAAAAAAAAAAAAA"), "at_hash_mismatch"),
    "c_hash": (_mangled(c_hash="AAAAAAAAAAAAAAAAAAAAAA"), "c_hash_mismatch"),
    "expired": (_mangled(exp=1), "token_expired"),
    "C9": (_set("mangle_id_token", lambda _claims, header: header.update(typ="at+jwt")), "type_refused"),
    "A9": (_set("mangle_id_token", lambda _claims, header: header.update(alg="none")), "algorithm_refused"),
}


@pytest.mark.parametrize(("fault", "code"), BAD_ID_TOKENS.values(), ids=BAD_ID_TOKENS.keys())
async def test_a_wrong_id_token_signs_nobody_in(peer: OpenIDPeer, fault: Fault, code: str) -> None:
    """A2 to A14 through the wire; userinfo is not even asked."""
    fault(peer)
    async with client_of(peer, userinfo=True) as client:
        with pytest.raises(InvalidToken) as caught:
            await client.sign_in()
    assert caught.value.code == code
    assert not peer.asked("userinfo")


async def test_the_key_id_may_be_absent(client: Client, peer: OpenIDPeer) -> None:
    """A6 and A7: one key or several, the right one is found."""
    peer.mangle_id_token = lambda _claims, header: header.update(kid=None)
    assert (await client.sign_in()).id_token
    peer.rotate_keys()
    assert (await client.sign_in()).id_token


async def test_a_missing_id_token_is_the_providers_failure(client: Client, peer: OpenIDPeer) -> None:
    """B10: an OAuth answer is not a sign-in."""
    peer.token_answer = 200, {"access_token": "a", "token_type": "Bearer"}
    with pytest.raises(ProviderError, match="id_token"):
        await client.sign_in()


async def test_rotated_keys_are_found_within_the_sign_in(client: Client, peer: OpenIDPeer) -> None:
    """A20, A21: a key that is new since the last sign-in, or since a moment ago, costs one fetch."""
    await client.sign_in()
    peer.rotate_before_signing = True
    assert (await client.sign_in()).claims["sub"] == "sub-alice"
    assert len(peer.asked("jwks")) == 2
    assert (await client.sign_in()).claims["sub"] == "sub-alice"
    assert len(peer.asked("jwks")) == 2


@pytest.mark.parametrize("keep_old", [True, False])
async def test_keys_rotated_inside_the_strangers_cooldown_are_found(
    client: Client, peer: OpenIDPeer, keep_old: bool
) -> None:
    """C9: anyone can send a logout token with a made-up key id; the sign-in and the refresh after it go on."""
    first = await client.sign_in()
    stray = sign({"iss": peer.issuer}, peer.keys[-1], {"kid": "made-up"})
    with pytest.raises(InvalidToken):
        await client.logout_token(stray)
    peer.rotate_keys(keep_old=keep_old)
    with pytest.raises((InvalidToken, ProviderError)):
        await client.logout_token(stray)
    assert (await client.sign_in()).claims["sub"] == "sub-alice"
    peer.rotate_keys(keep_old=keep_old)  # once more: inside the spacing of the trusted fetches
    assert (await client.refresh(first.refresh_token, subject="sub-alice")).claims["sub"] == "sub-alice"


async def test_a_sign_in_waits_while_the_keys_cannot_be_had(client: Client, peer: OpenIDPeer) -> None:
    """C9: the code is spent; the answer in hand is proved again, and nobody has to sign in again."""
    await client.sign_in()
    peer.rotate_keys()
    peer.fail("jwks", 503, times=2)
    assert (await client.sign_in()).claims["sub"] == "sub-alice"
    assert len(peer.asked("token")) == 2


async def test_a_sign_in_that_cannot_be_judged_says_so(client: Client, peer: OpenIDPeer) -> None:
    """C9: no keys for longer than a sign-in waits: the provider's failure, and not a token that is wrong."""
    await client.sign_in()
    peer.rotate_keys()
    peer.fail("jwks", 503, times=100)
    with pytest.raises(ProviderError) as caught:
        await client.sign_in()
    assert caught.value.retry_after is None


@pytest.mark.parametrize("gone", [True, False])
async def test_keys_that_moved_to_another_place_are_found(
    client: Client, peer: OpenIDPeer, clock: FakeClock, gone: bool
) -> None:
    """C9: discovery is remembered for an hour; a key set that is elsewhere now is asked for in the same sign-in."""
    async with OpenIDPeer(clock=clock) as elsewhere:
        await client.sign_in()
        elsewhere.keys = [peer.rotate_keys()]
        peer.jwks_answer = (404, b"") if gone else (200, {"keys": [peer.keys[0].jwk()]})
        peer.discovery_overrides["jwks_uri"] = elsewhere.issuer + elsewhere.jwks_path
        clock.forward(60)
        assert (await client.sign_in()).claims["sub"] == "sub-alice"
        asked = len(peer.asked("discovery"))
        elsewhere.keys = []
        peer.rotate_keys()
        for _ in range(3):
            with pytest.raises((ProviderError, InvalidToken)):
                await client.sign_in()
        assert len(peer.asked("discovery")) <= asked + 1


async def test_a_code_is_good_once(client: Client, peer: OpenIDPeer) -> None:
    """B11: the second redemption is refused for good, and by the peer takes the first one's tokens."""
    code = (await client.callback())["code"]
    tokens = await client.sign_in(code=code)
    with pytest.raises(GrantRefused, match="invalid_grant"):
        await client.sign_in(code=code)
    with pytest.raises(GrantRefused):
        await client.refresh(tokens.refresh_token, subject="sub-alice")


async def test_a_code_needs_its_verifier(client: Client) -> None:
    """A stolen code is worth nothing."""
    with pytest.raises(GrantRefused):
        await client.sign_in(verifier="w" * 43)


async def test_max_age_and_acr_are_enforced(peer: OpenIDPeer, clock: FakeClock) -> None:
    """B13: what was asked for is checked, and a caller may ask for more."""
    async with client_of(peer, max_age="10m", acr_values=["mfa"]) as client:
        assert (await client.sign_in()).claims["acr"] == "mfa"
        peer.acr = "pwd"
        with pytest.raises(InvalidToken, match="way of signing in"):
            await client.sign_in()
        peer.acr = None
        peer.mangle_id_token = lambda claims, _header: claims.update(auth_time=int(clock()) - 300)
        assert (await client.sign_in()).id_token
        with pytest.raises(InvalidToken, match="too long ago"):
            await client.sign_in(max_age=60.0)


async def test_the_issuer_parameter_is_judged(client: Client, peer: OpenIDPeer) -> None:
    """B7, B8: wrong is refused always, absent where it was promised."""
    await client.check_issuer_parameter((await client.callback())["iss"])
    for issuer in ("https://other.example", peer.issuer + "/", "", None):
        with pytest.raises(InvalidToken) as caught:
            await client.check_issuer_parameter(issuer)
        assert caught.value.code == "issuer_mismatch"


async def test_the_issuer_parameter_may_be_absent_where_nobody_promised_it(peer: OpenIDPeer) -> None:
    """Dex has none; one that is there is judged all the same."""
    peer.issuer_parameter = False
    async with client_of(peer) as client:
        await client.check_issuer_parameter(None)
        with pytest.raises(InvalidToken):
            await client.check_issuer_parameter("https://other.example")


# --- userinfo ---


async def test_userinfo_adds_and_never_overrides(peer: OpenIDPeer) -> None:
    """A11: asked with the token in the header; the signed claims come first, protocol claims are never taken."""
    peer.userinfo_overrides |= {"department": "R&D", "email": "other@example.com", "exp": 1, "acr": "mfa", "nonce": "x"}
    async with client_of(peer, userinfo=True) as client:
        claims = (await client.sign_in()).claims
    assert peer.asked("userinfo")[0].headers["authorization"] == f"Bearer {peer.issued[0]['access_token']}"
    assert claims["department"] == "R&D"
    assert claims["email"] == "alice@example.com"
    assert claims["nonce"] == "n-1"
    assert "acr" not in claims


@pytest.mark.parametrize("subject", ["sub-bob", None, ["sub-alice"]])
async def test_userinfo_of_another_subject_signs_nobody_in(peer: OpenIDPeer, subject: object) -> None:
    """A13: token substitution."""
    peer.userinfo_overrides["sub"] = subject
    async with client_of(peer, userinfo=True) as client:
        with pytest.raises(InvalidToken) as caught:
            await client.sign_in()
    assert caught.value.code == "userinfo_subject_mismatch"


@pytest.mark.parametrize(
    "answer", [(500, b""), (401, b""), (200, b"eyJ.a.b"), (302, b"", {"Location": "/x"}), (200, b"[]")]
)
async def test_userinfo_that_fails_is_the_providers_failure(peer: OpenIDPeer, answer: Any) -> None:
    """Nothing is guessed."""
    peer.userinfo_answer = answer
    async with client_of(peer, userinfo=True) as client:
        with pytest.raises(ProviderError):
            await client.sign_in()


# --- refresh ---


async def test_a_refresh_rotates(client: Client, peer: OpenIDPeer) -> None:
    """A36: new tokens, the old one dead."""
    first = await client.sign_in()
    second = await client.refresh(first.refresh_token, subject="sub-alice", previous=first.claims)
    assert second.claims["sub"] == "sub-alice"
    assert second.refresh_token not in ("", first.refresh_token)
    with pytest.raises(GrantRefused, match="invalid_grant"):
        await client.refresh(first.refresh_token, subject="sub-alice")
    assert peer.refreshes == ["rotated", "dead"]


BAD_REFRESHES: dict[str, tuple[dict[str, Any], str]] = {
    "A37": ({"iss": "https://other.example"}, "issuer_mismatch"),
    "A38": ({"sub": "sub-bob"}, "subject_mismatch"),
    "other audience": ({"aud": "other"}, "audience_mismatch"),
    "other azp": ({"azp": "other"}, "azp_mismatch"),
    "other nonce": ({"nonce": "n-2"}, "nonce_mismatch"),
    "expired": ({"exp": 1}, "token_expired"),
}


@pytest.mark.parametrize(("changes", "code"), BAD_REFRESHES.values(), ids=BAD_REFRESHES.keys())
async def test_a_refreshed_token_of_somebody_else_is_refused(
    client: Client, peer: OpenIDPeer, changes: dict[str, Any], code: str
) -> None:
    """A37, A38 and OpenID Connect Core section 12.2."""
    first = await client.sign_in()
    _mangled(**changes)(peer)
    with pytest.raises(InvalidToken) as caught:
        await client.refresh(first.refresh_token, subject="sub-alice", previous=first.claims)
    assert caught.value.code == code


async def test_a_refresh_without_an_id_token_keeps_the_claims(client: Client, peer: OpenIDPeer) -> None:
    """Section 12.2 lets a provider leave it out: nothing new is claimed."""
    peer.id_token_on_refresh = False
    first = await client.sign_in()
    second = await client.refresh(first.refresh_token, subject="sub-alice")
    assert (second.id_token, second.claims, second.expires_at) == ("", {}, 0.0)
    assert second.access_token
    assert second.refresh_token


async def test_a_provider_that_does_not_rotate_is_not_misread(clock: FakeClock) -> None:
    """A refresh token that stays good is given back, or left out."""
    async with OpenIDPeer(clock=clock, rotate=False) as peer, client_of(peer) as client:
        first = await client.sign_in()
        assert (await client.refresh(first.refresh_token, subject="sub-alice")).refresh_token == first.refresh_token
        peer.token_answer = lambda _call: (
            200,
            {"access_token": "a", "token_type": "Bearer", "id_token": peer.id_token(), "expires_in": 60},
        )
        assert (await client.refresh(first.refresh_token, subject="sub-alice")).refresh_token == ""


async def test_dex_keeps_its_manners(clock: FakeClock) -> None:
    """One token for each person and client; dead is 400 invalid_request, busy 500 with the same code, limited 429."""
    async with OpenIDPeer.like_dex(clock=clock, reuse_interval=120) as peer, client_of(peer) as client:
        first = await client.sign_in()
        clock.forward(300)
        peer.break_storage()
        with pytest.raises(ProviderError, match="500"):
            await client.refresh(first.refresh_token, subject="sub-alice")
        peer.limit_rate(retry_after=7)
        with pytest.raises(ProviderError) as limited:
            await client.refresh(first.refresh_token, subject="sub-alice")
        assert limited.value.retry_after == 7
        second = await client.refresh(first.refresh_token, subject="sub-alice")
        again = await client.refresh(first.refresh_token, subject="sub-alice")
        assert again.refresh_token == second.refresh_token != first.refresh_token
        await client.sign_in()  # in a second browser
        with pytest.raises(GrantRefused, match="invalid_request"):
            await client.refresh(second.refresh_token, subject="sub-alice")
        assert peer.refreshes == ["rotated", "repeated", "dead"]
        assert await client.revoke(second.refresh_token, "refresh_token") is False
        assert await client.end_session_url(hints=["a"], post_logout_redirect_uri="b", state="c") is None


async def test_a_shared_refresh_token_repeats_another_sessions_nonce(clock: FakeClock) -> None:
    """per_user: the nonce in a refreshed token is that of whoever signed in last, which is no fault."""
    async with OpenIDPeer.like_dex(clock=clock) as peer, client_of(peer, refresh_tokens="per_user") as client:
        first = await client.sign_in()
        other = dict(first.claims) | {"nonce": "of another session"}
        assert (await client.refresh(first.refresh_token, subject="sub-alice", previous=other)).id_token


async def test_a_rotated_token_survives_keys_that_cannot_be_had(client: Client, peer: OpenIDPeer) -> None:
    """B28's cousin: the provider rotated token and key, then its keys were gone: the new token is handed on."""
    first = await client.sign_in()
    peer.rotate_before_signing = True
    peer.fail("jwks", 503, times=100)
    with pytest.raises(AnswerUnproved) as caught:
        await client.refresh(first.refresh_token, subject="sub-alice")
    assert caught.value.refresh_token not in ("", first.refresh_token)
    assert peer.refresh_tokens.is_alive(caught.value.refresh_token)
    assert caught.value.refresh_token not in f"{caught.value!r}"


async def test_an_answer_says_when_it_was_issued(client: Client, peer: OpenIDPeer, clock: FakeClock) -> None:
    """C1: `iat` of the ID token in the answer, else the answer's `Date`, else 0: what tokens are ordered by."""
    first = await client.sign_in()
    assert first.issued_at == first.claims["iat"] == clock()
    clock.forward(7)
    assert (await client.refresh(first.refresh_token, subject="sub-alice")).issued_at == clock()


async def test_an_answer_without_an_id_token_is_as_old_as_its_date(clock: FakeClock) -> None:
    """C1: OpenID Connect Core section 12.2 makes the ID token optional, and a cached answer has no usable date."""
    async with OpenIDPeer(clock=clock, rotate=False) as peer, client_of(peer) as client:
        first = await client.sign_in()
        peer.id_token_on_refresh = False
        clock.forward(7)
        assert (await client.refresh(first.refresh_token, subject="sub-alice")).issued_at == clock()
        peer.token_answer = (200, {"access_token": "a", "token_type": "Bearer"}, {"Age": "3"})
        assert (await client.refresh(first.refresh_token, subject="sub-alice")).issued_at == 0.0


@pytest.mark.parametrize("readable", [True, False])
async def test_an_unproved_answer_says_when_it_was_issued(
    client: Client, peer: OpenIDPeer, clock: FakeClock, readable: bool
) -> None:
    """C1: the rotated token is ordered as it would be if the answer had been proved."""
    first = await client.sign_in()
    peer.rotate_before_signing = True
    peer.fail("jwks", 503, times=100)
    clock.forward(7)
    issued = clock()
    if readable:
        peer.mangle_id_token = lambda claims, _header: claims.update(iat=clock() - 2)
    else:
        peer.mangle_id_token = lambda claims, _header: claims.update(iat="yesterday")
    with pytest.raises(AnswerUnproved) as caught:
        await client.refresh(first.refresh_token, subject="sub-alice")
    assert caught.value.issued_at == (issued - 2 if readable else issued)


async def test_nothing_is_spent_while_no_keys_are_known(peer: OpenIDPeer) -> None:
    """After a start into an outage of the key set, a refresh token and a code stay unspent."""
    peer.fail("jwks", 503, times=100)
    async with client_of(peer) as client:
        for spend in (
            client.refresh("rt-1", subject="s"),
            client.sign_in(),
            client.password("alice", "alice-password"),
        ):
            with pytest.raises(ProviderError):
                await spend
    assert not peer.asked("token")


async def test_userinfo_that_fails_in_a_refresh_leaves_what_it_said(peer: OpenIDPeer) -> None:
    """A rotated token is not lost because userinfo is down, and signed claims are still the new ones."""
    peer.userinfo_overrides["department"] = "R&D"
    async with client_of(peer, userinfo=True) as client:
        first = await client.sign_in()
        peer.fail("userinfo", 500, times=2)
        second = await client.refresh(first.refresh_token, subject="sub-alice", previous=first.claims)
        assert second.claims["department"] == "R&D"
        with pytest.raises(AnswerUnproved) as caught:
            await client.refresh(second.refresh_token, subject="sub-alice")
        assert peer.refresh_tokens.is_alive(caught.value.refresh_token)


# --- password, revocation, end ---


async def test_the_password_grant(client: Client, peer: OpenIDPeer) -> None:
    """Right signs in, wrong is refused in a way that is final, and no nonce is asked for."""
    tokens = await client.password("alice", "alice-password")
    assert tokens.claims["sub"] == "sub-alice"
    assert peer.asked("token")[0].form["scope"] == "openid profile email offline_access"
    for username, password in (("alice", "wrong"), ("nobody", "wrong")):
        with pytest.raises(GrantRefused):
            await client.password(username, password)


async def test_dex_says_access_denied_to_a_wrong_password(clock: FakeClock) -> None:
    """401 access_denied is a wrong password, not a wrong client."""
    async with OpenIDPeer.like_dex(clock=clock) as peer, client_of(peer) as client:
        with pytest.raises(GrantRefused, match="access_denied"):
            await client.password("alice", "wrong")


async def test_a_wrong_client_secret_is_the_operators_mistake(peer: OpenIDPeer) -> None:
    """invalid_client signs nobody out, and the secret is in no text."""
    async with client_of(peer, client_secret={"value": "wrong-secret"}) as client:
        with pytest.raises(ProviderError, match="401 invalid_client") as caught:
            await client.refresh("rt-1", subject="s")
    assert "wrong-secret" not in f"{caught.value!r}"


async def test_revocation(client: Client, peer: OpenIDPeer) -> None:
    """RFC 7009; failure is an answer and no exception."""
    tokens = await client.sign_in()
    assert await client.revoke(tokens.refresh_token, "refresh_token") is True
    assert peer.asked("revocation")[0].form["token_type_hint"] == "refresh_token"
    with pytest.raises(GrantRefused):
        await client.refresh(tokens.refresh_token, subject="sub-alice")
    peer.fail("revocation", 503)
    assert await client.revoke("x", "refresh_token") is False
    await peer.stop()
    assert await client.revoke("x", "refresh_token") is False


async def test_the_end_session_url(client: Client, peer: OpenIDPeer) -> None:
    """A23: hint, way back and state; what is empty is left out."""
    url = await client.end_session_url(hints=["a.b.c"], post_logout_redirect_uri="https://x/y?z=1", state="")
    assert url is not None
    assert url.startswith(peer.issuer + "/end_session?")
    assert query_of(url) == {
        "id_token_hint": "a.b.c",
        "post_logout_redirect_uri": "https://x/y?z=1",
        "client_id": "authproxy",
    }


async def test_the_hint_is_one_that_the_provider_can_verify(client: Client, peer: OpenIDPeer) -> None:
    """An ID token whose key is gone would be refused; where none can be verified the newest is sent."""
    old = peer.id_token()
    peer.rotate_keys(keep_old=False)
    new = peer.id_token()
    await client.keys.ensure()

    async def hint(*hints: str) -> str | None:
        url = await client.end_session_url(hints=hints, post_logout_redirect_uri="https://x/", state="")
        return query_of(url or "").get("id_token_hint")

    assert await hint(old, new) == new
    assert await hint(new, old) == new
    assert await hint(old) == old
    assert await hint() is None


async def test_a_logout_token_of_the_provider_holds(client: Client, peer: OpenIDPeer) -> None:
    """A26, A33: signed with its keys, for this client."""
    assert (await client.logout_token(peer.logout_token(sid="s-1")))["sid"] == "s-1"
    with pytest.raises(InvalidToken):
        await client.logout_token(peer.logout_token(iss="https://other.example"))
    with pytest.raises(InvalidToken):
        await client.logout_token(peer.id_token())


# --- what goes wrong on the wire ---

WIRE: dict[str, tuple[Any, str]] = {
    "redirect": ((307, b"", {"Location": "/token"}), "307"),
    "found": ((302, b"", {"Location": "http://127.0.0.1:1/"}), "302"),
    "not json": ((200, b"<html>"), "not JSON"),
    "five megabytes": ((200, b" " * 5_000_000), "more than"),
    "deep": ((200, b'{"a":' * 50_000), "deep"),
    "compressed": ((200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), "coding"),
    "server error": ((503, b"", {"Retry-After": "3"}), "503"),
}


@pytest.mark.parametrize(("answer", "text"), WIRE.values(), ids=WIRE.keys())
async def test_a_strange_token_answer_is_the_providers_failure(
    client: Client, peer: OpenIDPeer, answer: Any, text: str
) -> None:
    """B10: bounded, not followed, and never somebody's sign-out."""
    tokens = await client.sign_in()
    peer.token_answer = answer
    with pytest.raises(ProviderError, match=text) as caught:
        await client.refresh(tokens.refresh_token, subject="sub-alice")
    assert tokens.refresh_token not in f"{caught.value!r}"
    assert len(peer.asked("token")) == 2  # a redirect was not followed


async def test_a_hanging_token_endpoint_is_given_up(
    client: Client, peer: OpenIDPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B27: a timeout says nothing about the token."""
    monkeypatch.setattr(fetch, "PATIENT", 0.05)
    await client.keys.ensure()
    peer.hold("token")
    with pytest.raises(ProviderError, match="in time"):
        await client.refresh("rt-1", subject="s")


async def test_a_lost_answer_is_the_providers_failure(client: Client, peer: OpenIDPeer) -> None:
    """The connection breaks after the provider rotated: transient, as far as anybody can know; asked once."""
    tokens = await client.sign_in()
    peer.lose_answers["token"] = 1
    with pytest.raises(ProviderError):
        await client.refresh(tokens.refresh_token, subject="sub-alice")
    assert peer.refreshes == ["rotated"]


async def test_a_provider_that_is_down_says_where_and_nothing_else(client: Client, peer: OpenIDPeer) -> None:
    """The text names the endpoint; the code and the verifier stay out of it."""
    answer = await client.callback()
    await client.keys.ensure()
    await peer.stop()
    with pytest.raises(ProviderError, match="/token cannot be asked: connection refused") as caught:
        await client.redeem(code=answer["code"], verifier="v" * 43, redirect_uri=REDIRECT, nonce="n-1")
    assert answer["code"] not in f"{caught.value!r}"


# --- discovery ---


async def test_discovery_is_asked_once_and_remembered(client: Client, peer: OpenIDPeer, clock: FakeClock) -> None:
    """Fifty at once share one fetch; an hour later it is fetched anew, in the background."""
    await asyncio.gather(*[client.metadata() for _ in range(50)])
    clock.forward(3500)
    await client.metadata()
    assert len(peer.asked("discovery")) == 1
    clock.forward(101)
    await client.metadata()
    await peer.wait_for("discovery", 2)


async def test_metadata_serves_on_while_discovery_fails(client: Client, peer: OpenIDPeer, clock: FakeClock) -> None:
    """An outage of discovery stops no sign-in that was possible before."""
    await client.sign_in()
    peer.discovery_answer = 500, b""
    clock.forward(9000)
    assert (await client.sign_in()).claims["sub"] == "sub-alice"
    assert "500" in client.last_error


@pytest.mark.parametrize("suffix", ["/", "/other"])
async def test_a_provider_of_another_issuer_is_not_served(peer: OpenIDPeer, suffix: str) -> None:
    """A19: nobody is sent there, and the reason is kept for the operator."""
    peer.discovery_overrides["issuer"] = peer.issuer + suffix
    async with client_of(peer) as client:
        with pytest.raises(ProviderError, match="another issuer"):
            await client.callback()
        assert not client.ready
        assert "another issuer" in client.last_error
    assert not peer.asked("authorize")


@pytest.mark.parametrize(
    "answer", [(500, b""), (404, b""), (302, b"", {"Location": "/x"}), (200, b"<html>"), (200, b" " * 300_000)]
)
async def test_a_strange_discovery_answer_is_the_providers_failure(peer: OpenIDPeer, answer: Any) -> None:
    """Redirects are not followed; nothing but a 200 with a document counts."""
    peer.discovery_answer = answer
    async with client_of(peer) as client:
        with pytest.raises(ProviderError):
            await client.metadata()


async def test_a_document_is_read_up_to_the_cap(peer: OpenIDPeer) -> None:
    """A good document with too much air in it is not read to its end; one that fits is."""
    async with client_of(peer) as client:
        raw = await fetch.document(client._session(), peer.issuer + "/.well-known/openid-configuration")
        peer.discovery_answer = 200, raw + b" " * (fetch.BODY - len(raw) + 1)
        with pytest.raises(ProviderError, match="more than"):
            await client.metadata()
    async with client_of(peer) as client:
        peer.discovery_answer = 200, raw + b" " * (fetch.BODY - len(raw))
        assert (await client.metadata()).issuer == peer.issuer


async def test_a_provider_that_comes_up_late_is_served_without_a_restart(peer: OpenIDPeer, clock: FakeClock) -> None:
    """Started into an outage, it is ready one retry after the provider is."""
    await peer.stop()
    async with client_of(peer) as client:
        with pytest.raises(ProviderError, match="refused"):
            await client.metadata()
        await peer.start()
        clock.forward(1)
        assert (await client.sign_in()).claims["sub"] == "sub-alice"
        assert client.ready


async def test_configured_endpoints_need_no_discovery(peer: OpenIDPeer, clock: FakeClock) -> None:
    """Split horizon: with the three endpoints configured, a discovery that fails is not in the way, nor given up."""
    peer.fail("discovery", 500)
    endpoints = {
        "authorization": f"{peer.issuer}/auth",
        "token": f"{peer.issuer}/token",
        "jwks": peer.issuer + peer.jwks_path,
    }
    async with client_of(peer, endpoints=endpoints) as client:
        assert client.ready
        assert (await client.sign_in()).claims["sub"] == "sub-alice"
        assert (await client.metadata()).end_session == ""
        clock.forward(10)
        await client.metadata()
        await peer.wait_for("discovery", 2)
        await client._document.refetch()
        assert (await client.metadata()).end_session


@pytest.mark.parametrize(
    "answer", [(500, b""), (302, b"", {"Location": "file:///etc/passwd"}), (200, b"{}"), (200, b"x")]
)
async def test_keys_serve_on_while_their_endpoint_is_broken(
    client: Client, peer: OpenIDPeer, clock: FakeClock, answer: Any
) -> None:
    """B23 through the wire."""
    await client.sign_in()
    peer.jwks_answer = answer
    clock.forward(1300)
    assert (await client.sign_in()).claims["sub"] == "sub-alice"


# --- what is shown ---


async def test_reprs_say_the_state_and_no_secret(client: Client, peer: OpenIDPeer, clock: FakeClock) -> None:
    """For logs: how many keys, how old; no token."""
    assert repr(client) == "<Provider peer: not ready, <KeySet never fetched>>"
    tokens = await client.sign_in()
    clock.forward(41)
    assert repr(client) == "<Provider peer: ready, <KeySet 1 keys, fetched 41s ago>>"
    for secret in (tokens.id_token, tokens.access_token, tokens.refresh_token):
        assert secret not in repr(tokens)
    assert client.title == "peer"


async def test_a_ca_that_cannot_be_read_is_named(tmp_path: Path, peer: OpenIDPeer) -> None:
    """The operator learns which file."""
    settings = schema.Provider.model_validate(peer.settings())
    with pytest.raises(ProviderError, match=r"missing\.crt"):
        async with Provider("peer", settings.model_copy(update={"ca": tmp_path / "missing.crt"})):
            pass


async def test_a_closed_provider_asks_nobody(peer: OpenIDPeer) -> None:
    """Outside of its context it has no connections."""
    with pytest.raises(ProviderError, match="closed"):
        await client_of(peer).metadata()
