"""ID tokens and logout tokens: a right one passes, and each single fault is refused by the rule that it breaks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given
from hypothesis import strategies as st

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose.compact import ASYMMETRIC, SIZE, parse
from authproxy.jose.keys import KeySet
from authproxy.jose.verify import LOGOUT_EVENT, IdTokenRules, LogoutTokenRules, id_token, logout_token
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_signing import SigningKey, as_json, b64, half_hash, sign, signing_key

NOW = 1_800_000_000.0
KEY = signing_key("first")
ISSUER, CLIENT = "https://issuer.example", "authproxy"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "sub": "alice",
    "exp": int(NOW) + 600,
    "iat": int(NOW) - 1,
    "nonce": "the nonce",
}
RULES = IdTokenRules(ISSUER, CLIENT, sorted(ASYMMETRIC), nonce="the nonce")
LEFT_OUT = object()


def key_set(*keys: SigningKey, **changes: Any) -> KeySet:
    """A key set that publishes ``keys``."""

    async def fetch() -> bytes:
        return json.dumps({"keys": [key.jwk(**changes) for key in keys or (KEY,)]}).encode()

    return KeySet(fetch, clock=FakeClock(NOW))


def claims(**changes: Any) -> dict[str, Any]:
    """Right claims with ``changes``."""
    return {name: value for name, value in (CLAIMS | changes).items() if value is not LEFT_OUT}


async def code_of(token: str, rules: IdTokenRules = RULES, keys: KeySet | None = None) -> str:
    """The code that a token is refused with; "" when it holds."""
    try:
        await id_token(token, keys or key_set(), rules, now=NOW)
    except InvalidToken as error:
        return error.code
    return ""


async def test_a_right_token_gives_its_claims() -> None:
    """Everything that was signed comes back."""
    assert await id_token(sign(CLAIMS, KEY), key_set(), RULES, now=NOW) == CLAIMS


@pytest.mark.parametrize("alg", sorted(ASYMMETRIC))
async def test_every_allowed_algorithm_verifies_with_its_own_hash(alg: str) -> None:
    """A8 and its siblings; ``at_hash`` and ``c_hash`` use the algorithm's hash."""
    key = signing_key("own", alg)
    good = claims(at_hash=half_hash("access", alg), c_hash=half_hash("code", alg))
    rules = RULES._replace(access_token="access", code="code")
    assert await code_of(sign(good, key), rules, key_set(key)) == ""
    assert await code_of(sign(good, key), rules._replace(access_token="other"), key_set(key)) == "at_hash_mismatch"
    assert await code_of(sign(good, key), rules._replace(code="other"), key_set(key)) == "c_hash_mismatch"


async def test_ed448_verifies() -> None:
    """The second curve of EdDSA, whose hash is SHAKE256 (RFC 8032 section 5.2)."""
    key = signing_key("ed448", "EdDSA", bits=448)
    assert await code_of(sign(CLAIMS, key), keys=key_set(key)) == ""


BAD_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "A2 other issuer": ({"iss": "https://other.example"}, "issuer_mismatch"),
    "issuer missing": ({"iss": LEFT_OUT}, "issuer_mismatch"),
    "issuer with slash": ({"iss": ISSUER + "/"}, "issuer_mismatch"),
    "issuer prefix": ({"iss": ISSUER[:-1]}, "issuer_mismatch"),
    "issuer other case": ({"iss": ISSUER.upper()}, "issuer_mismatch"),
    "issuer list": ({"iss": [ISSUER]}, "issuer_mismatch"),
    "A4 other audience": ({"aud": "other"}, "audience_mismatch"),
    "audience missing": ({"aud": LEFT_OUT}, "audience_mismatch"),
    "audience null": ({"aud": None}, "audience_mismatch"),
    "audience empty": ({"aud": []}, "audience_mismatch"),
    "audience object": ({"aud": {CLIENT: 1}}, "audience_mismatch"),
    "audience prefix": ({"aud": CLIENT + "-2"}, "audience_mismatch"),
    "audience holds a number": ({"aud": [CLIENT, 7], "azp": CLIENT}, "audience_mismatch"),
    "audience holds a list": ({"aud": [[CLIENT]]}, "audience_mismatch"),
    "B14 several audiences without azp": ({"aud": [CLIENT, "other"]}, "azp_mismatch"),
    "B14 other azp": ({"azp": "other"}, "azp_mismatch"),
    "azp null": ({"azp": None}, "azp_mismatch"),
    "azp list": ({"azp": [CLIENT]}, "azp_mismatch"),
    "A3 subject missing": ({"sub": LEFT_OUT}, "sub_invalid"),
    "subject empty": ({"sub": ""}, "sub_invalid"),
    "subject number": ({"sub": 7}, "sub_invalid"),
    "subject null": ({"sub": None}, "sub_invalid"),
    "subject too long": ({"sub": "a" * 256}, "sub_invalid"),
    "subject with NUL": ({"sub": "a\0"}, "sub_invalid"),
    "subject with line break": ({"sub": "a\r\nX: 1"}, "sub_invalid"),
    "subject with C1 control": ({"sub": "a\x85"}, "sub_invalid"),
    "expired": ({"exp": int(NOW) - 60}, "token_expired"),
    "exp missing": ({"exp": LEFT_OUT}, "exp_invalid"),
    "exp text": ({"exp": str(int(NOW) + 600)}, "exp_invalid"),
    "exp true": ({"exp": True}, "exp_invalid"),
    "exp list": ({"exp": [int(NOW)]}, "exp_invalid"),
    "exp null": ({"exp": None}, "exp_invalid"),
    "exp negative": ({"exp": -1}, "exp_invalid"),
    "exp absurd": ({"exp": 10**30}, "exp_invalid"),
    "exp 1e300": ({"exp": 1e300}, "exp_invalid"),
    "exp in milliseconds": ({"exp": int(NOW) * 1000}, "exp_invalid"),
    "A5 iat missing": ({"iat": LEFT_OUT}, "iat_invalid"),
    "iat text": ({"iat": "now"}, "iat_invalid"),
    "iat true": ({"iat": True}, "iat_invalid"),
    "iat in the future": ({"iat": int(NOW) + 61}, "token_from_future"),
    "nbf in the future": ({"nbf": int(NOW) + 61}, "token_not_yet_valid"),
    "nbf text": ({"nbf": "0"}, "nbf_invalid"),
    "nbf null": ({"nbf": None}, "nbf_invalid"),
    "A14 other nonce": ({"nonce": "another"}, "nonce_mismatch"),
    "nonce missing": ({"nonce": LEFT_OUT}, "nonce_mismatch"),
    "nonce list": ({"nonce": ["the nonce"]}, "nonce_mismatch"),
    "nonce empty": ({"nonce": ""}, "nonce_mismatch"),
    "C9 a logout token": ({"events": {LOGOUT_EVENT: {}}}, "type_refused"),
}


@pytest.mark.parametrize(("changes", "code"), BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_a_wrong_claim_is_refused(changes: dict[str, Any], code: str) -> None:
    """A2 to A5, A14, B14, C10 to C14: a good signature over a wrong claim proves nothing."""
    assert await code_of(sign(claims(**changes), KEY)) == code


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(NOW) - 59},
        {"exp": NOW + 0.5},
        {"iat": int(NOW) + 60},
        {"nbf": int(NOW) + 60},
        {"aud": [CLIENT]},
        {"aud": ["other", CLIENT], "azp": CLIENT},
        {"azp": CLIENT},
        {"sub": "a" * 255},
        {"sub": "Zoë 'O|Malley'"},
        {"at_hash": "not checked without an access token"},
    ],
)
async def test_the_edges_of_what_is_right_pass(changes: dict[str, Any]) -> None:
    """Leeway, fractions, lists of audiences and long subjects are within the rules."""
    assert await code_of(sign(claims(**changes), KEY)) == ""


RULE_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "subject as expected": ({"subject": "alice"}, {}, ""),
    "A38 other subject": ({"subject": "bob"}, {}, "subject_mismatch"),
    "nonce not asked for": ({"nonce": None}, {"nonce": LEFT_OUT}, ""),
    "B15 at_hash number": ({"access_token": "a"}, {"at_hash": 7}, "at_hash_mismatch"),
    "at_hash null": ({"access_token": "a"}, {"at_hash": None}, "at_hash_mismatch"),
    "at_hash absent": ({"access_token": "a"}, {}, ""),
    "B13 fresh enough": ({"max_age": 300.0}, {"auth_time": int(NOW) - 360}, ""),
    "B13 too old": ({"max_age": 300.0}, {"auth_time": int(NOW) - 361}, "auth_time_too_old"),
    "B13 auth_time missing": ({"max_age": 300.0}, {}, "auth_time_invalid"),
    "auth_time text": ({"max_age": 300.0}, {"auth_time": "x"}, "auth_time_invalid"),
    "auth_time in the future": ({"max_age": 300.0}, {"auth_time": int(NOW) + 61}, "auth_time_too_old"),
    "acr as wanted": ({"acr_values": ["mfa", "phr"]}, {"acr": "phr"}, ""),
    "B13 acr missing": ({"acr_values": ["mfa"]}, {}, "acr_mismatch"),
    "acr too weak": ({"acr_values": ["mfa"]}, {"acr": "pwd"}, "acr_mismatch"),
    "acr list": ({"acr_values": frozenset({"mfa"})}, {"acr": ["mfa"]}, "acr_mismatch"),
}


@pytest.mark.parametrize(("rules", "changes", "code"), RULE_CASES.values(), ids=RULE_CASES.keys())
async def test_what_the_caller_asks_for_is_asked(rules: dict[str, Any], changes: dict[str, Any], code: str) -> None:
    """Subject, nonce, at_hash, max_age and acr are judged as the rules say."""
    assert await code_of(sign(claims(**changes), KEY), RULES._replace(**rules)) == code


BAD_HEADERS: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "A9 alg none": ({"alg": "none"}, "algorithm_refused"),
    "alg None": ({"alg": "None"}, "algorithm_refused"),
    "alg nOnE": ({"alg": "nOnE"}, "algorithm_refused"),
    "alg empty": ({"alg": ""}, "algorithm_refused"),
    "alg missing": ({"alg": None}, "algorithm_refused"),
    "alg number": ({"alg": 7}, "algorithm_refused"),
    "alg list": ({"alg": ["RS256"]}, "algorithm_refused"),
    "alg HS256": ({"alg": "HS256"}, "algorithm_refused"),
    "alg other case": ({"alg": "rs256"}, "algorithm_refused"),
    "alg not of the key": ({"alg": "PS256"}, "key_unknown"),
    "alg unknown": ({"alg": "ES256K"}, "algorithm_refused"),
    "kid number": ({"kid": 7}, "header_refused"),
    "kid null": (b'{"alg":"RS256","kid":null}', "header_refused"),
    "kid list": ({"kid": ["first"]}, "header_refused"),
    "kid huge": ({"kid": "a" * 1025}, "header_refused"),
    "kid path": ({"kid": "../../dev/null"}, "key_unknown"),
    "kid SQL": ({"kid": "' OR 1=1 --"}, "key_unknown"),
    "kid URL": ({"kid": "https://evil.example/jwks"}, "key_unknown"),
    "crit": ({"crit": ["exp"]}, "header_refused"),
    "crit empty": ({"crit": []}, "header_refused"),
    "b64": ({"b64": False}, "header_refused"),
    "jku": ({"jku": "https://evil.example/jwks"}, "header_refused"),
    "x5u": ({"x5u": "https://evil.example/cert"}, "header_refused"),
    "jwk": ({"jwk": KEY.jwk()}, "header_refused"),
    "x5c": ({"x5c": ["MII"]}, "header_refused"),
    "zip": ({"zip": "DEF"}, "header_refused"),
    "typ access token": ({"typ": "at+jwt"}, "type_refused"),
    "typ long access token": ({"typ": "application/at+jwt"}, "type_refused"),
    "typ logout token": ({"typ": "logout+jwt"}, "type_refused"),
    "typ proof": ({"typ": "dpop+jwt"}, "type_refused"),
    "typ JOSE": ({"typ": "JOSE"}, "type_refused"),
    "typ empty": ({"typ": ""}, "type_refused"),
    "typ number": ({"typ": 7}, "type_refused"),
    "typ null": (b'{"alg":"RS256","kid":"first","typ":null}', "type_refused"),
    "kid twice": (b'{"alg":"RS256","kid":"first","kid":"first"}', "token_malformed"),
    "alg twice": (b'{"alg":"none","alg":"RS256","kid":"first"}', "token_malformed"),
    "array": (b"[]", "token_malformed"),
    "text": (b'"RS256"', "token_malformed"),
    "BOM": (b'\xef\xbb\xbf{"alg":"RS256","kid":"first"}', "token_malformed"),
    "UTF-16": ('{"alg":"RS256"}'.encode("utf-16"), "token_malformed"),
    "NaN": (b'{"alg":"RS256","kid":"first","x":NaN}', "token_malformed"),
    "deep": (b'{"alg":"RS256","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "token_malformed"),
}


@pytest.mark.parametrize(("header", "code"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_a_dangerous_header_is_refused(header: dict[str, Any] | bytes, code: str) -> None:
    """C1 to C8, C15, C16: the header may choose among our keys and do nothing else."""
    assert await code_of(sign(CLAIMS, KEY, header)) == code


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "application/jwt"])
async def test_the_type_may_be_absent_or_jwt_in_any_case(typ: str | None) -> None:
    """RFC 7519 section 5.1 and RFC 7515 section 4.1.9."""
    assert await code_of(sign(CLAIMS, KEY, {"typ": typ})) == ""


BAD_PAYLOADS: dict[str, bytes] = {
    "array": b"[1]",
    "text": b'"sub"',
    "number": b"1",
    "null": b"null",
    "not json": b"sub=alice",
    "BOM": b"\xef\xbb\xbf" + as_json(CLAIMS),
    "UTF-16": json.dumps(CLAIMS).encode("utf-16"),
    "Latin-1": b'{"sub":"\xe9"}',
    "duplicate member": as_json(CLAIMS)[:-1] + b',"sub":"admin"}',
    "duplicate inside": as_json(CLAIMS)[:-1] + b',"x":{"a":1,"a":2}}',
    "exp NaN": as_json(claims(exp=LEFT_OUT))[:-1] + b',"exp":NaN}',
    "exp Infinity": as_json(claims(exp=LEFT_OUT))[:-1] + b',"exp":Infinity}',
    "exp 1e999": as_json(claims(exp=LEFT_OUT))[:-1] + b',"exp":1e999}',
    "surrogate": as_json(claims(sub=LEFT_OUT))[:-1] + b',"sub":"\\ud800"}',
    "deep": as_json(CLAIMS)[:-1] + b',"x":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
async def test_a_payload_with_two_meanings_is_refused(payload: bytes) -> None:
    """C12, C15, C16: signed or not, what is ambiguous is malformed."""
    assert await code_of(sign(payload, KEY)) == "token_malformed"


def _non_canonical(token: str) -> str:
    """The same bytes with unused bits set in the last character."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


FORMS: dict[str, tuple[Callable[[str], str], str]] = {
    "padding": (lambda token: token + "=", "token_malformed"),
    "two paddings": (lambda token: token + "==", "token_malformed"),
    "padding inside": (lambda token: token.replace(".", "=.", 1), "token_malformed"),
    "trailing dot": (lambda token: token + ".", "token_malformed"),
    "leading dot": (lambda token: "." + token, "token_malformed"),
    "two parts": (lambda token: token.rpartition(".")[0], "token_malformed"),
    "no signature": (lambda token: token.rpartition(".")[0] + ".", "token_malformed"),
    "five parts": (lambda token: token + ".AA.AA", "token_malformed"),
    "space before": (lambda token: " " + token, "token_malformed"),
    "line break behind": (lambda token: token + "\n", "token_malformed"),
    "standard alphabet": (lambda token: token.rpartition(".")[0] + ".+/AA", "token_malformed"),
    "unused bits": (_non_canonical, "token_malformed"),
    "one character left": (lambda token: token.rpartition(".")[0] + ".A", "token_malformed"),
    "not ASCII": (lambda token: token + "é", "token_malformed"),
    "empty": (lambda token: "", "token_malformed"),
    "a megabyte": (lambda token: token + "A" * 1_000_000, "token_too_large"),
    "one too long": (lambda token: "A" * (SIZE + 1), "token_too_large"),
    "signature too long": (lambda token: token.rpartition(".")[0] + "." + b64(b"\0" * 257), "signature_invalid"),
    "signature too short": (lambda token: token.rpartition(".")[0] + "." + b64(b"\0" * 255), "signature_invalid"),
    "A10 other signature": (lambda token: token.rpartition(".")[0] + "." + b64(b"\1" * 256), "signature_invalid"),
    "other payload": (
        lambda token: ".".join([token.split(".")[0], b64(as_json(claims(sub="bob"))), token.split(".")[2]]),
        "signature_invalid",
    ),
}


@pytest.mark.parametrize(("change", "code"), FORMS.values(), ids=FORMS.keys())
async def test_only_the_one_exact_form_is_a_token(change: Callable[[str], str], code: str) -> None:
    """C17, A10: one token has one text, so that its digest can name it."""
    assert await code_of(change(sign(CLAIMS, KEY))) == code


async def test_a_megabyte_costs_nothing() -> None:
    """C16: what is too large is refused before it is looked at."""
    began = time.process_time()
    assert await code_of("A" * 1_000_000) == "token_too_large"
    assert time.process_time() - began < 0.005


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("extra", [b"\0", b"\0" * 8])
async def test_a_signature_has_its_exact_length(alg: str, extra: bytes) -> None:
    """Bytes behind or before the signature are refused (jwcrypto takes an ES256 signature that is too long)."""
    key = signing_key("own", alg)
    head, _, signature = sign(CLAIMS, key).rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for longer in (raw + extra, extra + raw, raw[:-1]):
        assert await code_of(f"{head}.{b64(longer)}", keys=key_set(key)) == "signature_invalid"


async def test_an_all_zero_signature_is_refused() -> None:
    """r = s = 0 is no signature (the class of CVE-2022-21449)."""
    key = signing_key("own", "ES256")
    head = sign(CLAIMS, key).rpartition(".")[0]
    assert await code_of(f"{head}.{b64(bytes(64))}", keys=key_set(key)) == "signature_invalid"


async def test_the_allow_list_is_the_issuers_own() -> None:
    """An algorithm that exists but was not allowed is refused, and a symmetric one cannot be allowed (C2)."""
    assert await code_of(sign(CLAIMS, KEY), RULES._replace(algorithms=["ES256"])) == "algorithm_refused"
    assert (
        await code_of(sign(CLAIMS, KEY, {"alg": "HS256"}), RULES._replace(algorithms=["HS256"])) == "algorithm_refused"
    )


async def test_a_public_key_is_never_a_shared_secret() -> None:
    """C2: an HMAC made with the published key is not a signature, even if HS256 were listed."""
    head = f"{b64(as_json({'alg': 'HS256', 'kid': 'first'}))}.{b64(as_json(CLAIMS))}"
    forged = f"{head}.{b64(hmac.digest(as_json(KEY.jwk()), head.encode(), hashlib.sha256))}"
    assert await code_of(forged, RULES._replace(algorithms=["HS256", "RS256"])) == "algorithm_refused"


async def test_a_key_that_names_another_algorithm_does_not_serve() -> None:
    """C3: PS256 with a key that says RS256, and RS256 where the id is of an EC key."""
    assert await code_of(sign(CLAIMS, KEY, {"alg": "PS256"})) == "key_unknown"
    elliptic = key_set(signing_key("first", "ES256"))
    assert await code_of(sign(CLAIMS, KEY), keys=elliptic) == "key_unknown"


async def test_without_a_key_id_every_key_is_tried() -> None:
    """A6 and A7: the right one among several is found, and a stranger's signature by none."""
    others = [signing_key(f"k{number}", number=number) for number in (1, 2)]
    token = sign(CLAIMS, KEY, {"kid": None})
    assert await code_of(token, keys=key_set(KEY)) == ""
    assert await code_of(token, keys=key_set(*others, KEY)) == ""
    assert await code_of(token, keys=key_set(*others)) == "signature_invalid"


async def test_of_keys_with_one_id_the_right_one_is_found() -> None:
    """B24: a duplicate id costs a second try and nothing else."""
    assert await code_of(sign(CLAIMS, KEY), keys=key_set(signing_key("first", number=1), KEY)) == ""


async def test_a_key_replaced_under_its_id_is_fetched() -> None:
    """An issuer that rotates without changing the id signs nobody out: one fetch, within the cool-down."""
    published, asked = [signing_key("first", number=1)], []

    async def fetch() -> bytes:
        asked.append(1)
        return json.dumps({"keys": [key.jwk() for key in published]}).encode()

    keys = KeySet(fetch, clock=FakeClock(NOW))
    await keys.ensure()
    published[0] = KEY
    assert await code_of(sign(CLAIMS, KEY), keys=keys) == ""
    stranger = signing_key("first", number=2)
    for _ in range(20):
        assert await code_of(sign(CLAIMS, stranger), keys=keys) == "signature_invalid"
    assert len(asked) == 2


class Rotating:
    """A key set whose issuer may sign with another key, or be down."""

    def __init__(self) -> None:
        self.published, self.down, self.asked = [signing_key("first", number=1)], False, 0
        self.clock = FakeClock(NOW)
        self.keys = KeySet(self.fetch, clock=self.clock, pause=self.pause)

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise ProviderError("the issuer is down")
        return json.dumps({"keys": [key.jwk() for key in self.published]}).encode()

    async def pause(self, seconds: float) -> None:
        self.clock.forward(seconds)


async def test_an_id_token_finds_its_key_inside_the_strangers_cooldown() -> None:
    """C9: a logout token with a made-up key id has used the cool-down up."""
    issuer = Rotating()
    await issuer.keys.ensure()
    with pytest.raises(InvalidToken):
        await logout_token(sign(LOGOUT, KEY, {"kid": "made-up"}), issuer.keys, LOGOUT_RULES, now=NOW)
    issuer.published.append(signing_key("second", number=2))
    token = sign(CLAIMS, issuer.published[-1])
    assert await id_token(token, issuer.keys, RULES, now=NOW) == CLAIMS


@pytest.mark.parametrize("kid", ["first", "second"])
async def test_an_id_token_is_in_doubt_while_the_keys_cannot_be_had(kid: str) -> None:
    """C9: a new key, or one that was replaced under its id: that the issuer is down says nothing about the token."""
    issuer = Rotating()
    await issuer.keys.ensure()
    issuer.down = True
    with pytest.raises(ProviderError, match="down"):
        await id_token(sign(CLAIMS, signing_key(kid, number=2)), issuer.keys, RULES, now=NOW)


async def test_a_strangers_token_is_in_doubt_when_it_is_newer_than_the_keys() -> None:
    """C9: inside the cool-down; with the time to come back.  A token older than the keys is simply refused."""
    issuer = Rotating()
    await issuer.keys.ensure()
    made_up = sign(LOGOUT, KEY, {"kid": "made-up"})
    with pytest.raises(InvalidToken, match="no key"):
        await logout_token(made_up, issuer.keys, LOGOUT_RULES, now=NOW)
    issuer.clock.forward(4)
    issuer.published.append(signing_key("second", number=2))
    token = sign(LOGOUT | {"iat": int(NOW) + 4}, issuer.published[-1])
    with pytest.raises(ProviderError) as caught:
        await logout_token(token, issuer.keys, LOGOUT_RULES, now=issuer.clock())
    assert caught.value.retry_after == pytest.approx(6)
    with pytest.raises(InvalidToken, match="no key"):
        await logout_token(made_up, issuer.keys, LOGOUT_RULES, now=issuer.clock())
    issuer.clock.forward(6)
    assert await logout_token(token, issuer.keys, LOGOUT_RULES, now=issuer.clock())
    assert issuer.asked == 3


async def test_a_logout_token_of_another_issuer_causes_no_fetch() -> None:
    """C9: with several providers, a token of one must not use up the cool-down of the others."""
    issuer = Rotating()
    await issuer.keys.ensure()
    token = sign(LOGOUT | {"iss": "https://other.example"}, KEY, {"kid": "made-up"})
    with pytest.raises(InvalidToken) as caught:
        await logout_token(token, issuer.keys, LOGOUT_RULES, now=NOW)
    assert caught.value.code == "issuer_mismatch"
    assert issuer.asked == 1


SKEWED: dict[str, tuple[float, dict[str, Any], str]] = {
    "issuer 90 s ahead": (90, {"iat": int(NOW) + 90, "nbf": int(NOW) + 90, "exp": int(NOW) + 690}, ""),
    "issuer 90 s behind, short-lived": (-90, {"iat": int(NOW) - 90, "exp": int(NOW) - 70}, ""),
    "ahead of its clock": (90, {"iat": int(NOW) + 151}, "token_from_future"),
    "nbf ahead of its clock": (90, {"nbf": int(NOW) + 151}, "token_not_yet_valid"),
    "expired by both clocks, ahead": (90, {"exp": int(NOW) - 60}, "token_expired"),
    "expired by both clocks, behind": (-90, {"exp": int(NOW) - 150}, "token_expired"),
    "a wrong skew refuses nothing, ahead": (290, {"exp": int(NOW) + 30}, ""),
    "a wrong skew refuses nothing, behind": (-290, {"iat": int(NOW) - 1}, ""),
    "no skew": (0, {"iat": int(NOW) + 90}, "token_from_future"),
}


@pytest.mark.parametrize(("skew", "changes", "code"), SKEWED.values(), ids=SKEWED.keys())
async def test_an_id_token_may_hold_by_its_issuers_clock(skew: float, changes: dict[str, Any], code: str) -> None:
    """C10: it comes straight from the token endpoint, so that a sign-in works although the clocks differ."""
    assert await code_of(sign(claims(**changes), KEY), RULES._replace(skew=skew)) == code


@pytest.mark.parametrize(
    ("skew", "age", "code"),
    [
        (90, 0, ""),
        (90, 360, ""),
        (90, 361, "auth_time_too_old"),  # by its clock: ours would give it 90 seconds more
        (-90, 360, ""),
        (-90, 361, "auth_time_too_old"),
        (-90, -150, ""),
        (-90, -151, "auth_time_too_old"),
        (90, -61, "auth_time_too_old"),
    ],
)
async def test_the_age_of_an_authentication_is_by_the_issuers_clock(skew: float, age: float, code: str) -> None:
    """C10: `auth_time` is a time of the issuer's; a step-up is neither refused nor lengthened by the skew."""
    token = sign(claims(auth_time=int(NOW + skew - age)), KEY)
    assert await code_of(token, RULES._replace(skew=skew, max_age=300)) == code


async def test_a_key_with_absurd_numbers_refuses_and_does_not_crash() -> None:
    """A modulus that is no product of primes verifies nothing."""
    assert isinstance(KEY.private, RSAPrivateKey)
    even = b64((KEY.private.public_key().public_numbers().n - 1).to_bytes(256, "big"))
    assert await code_of(sign(CLAIMS, KEY), keys=key_set(KEY, signing_key("spare", number=1), n=even)) != ""


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}"))
def test_any_text_at_all_is_refused_and_nothing_else_happens(text: str) -> None:
    """No text makes the parser fail in another way than by refusing."""
    with pytest.raises(InvalidToken):
        parse(text, algorithms=ASYMMETRIC, types={"", "jwt"})


@given(st.integers(min_value=0), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.= "))
async def test_no_changed_character_survives(position: int, character: str) -> None:
    """Every single-character change of a good token is refused."""
    token = sign(CLAIMS, KEY)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    assert changed == token or await code_of(changed) != ""


# --- logout tokens ---

LOGOUT: dict[str, Any] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "iat": int(NOW) - 2,
    "exp": int(NOW) + 118,
    "jti": "one",
    "sub": "alice",
    "sid": "s1",
    "events": {LOGOUT_EVENT: {}},
}
LOGOUT_RULES = LogoutTokenRules(ISSUER, CLIENT, ["RS256"])


async def logout_code(header: dict[str, Any] | None = None, **changes: Any) -> str:
    whole = {name: value for name, value in (LOGOUT | changes).items() if value is not LEFT_OUT}
    try:
        assert await logout_token(sign(whole, KEY, header), key_set(), LOGOUT_RULES, now=NOW) == whole
    except InvalidToken as error:
        return error.code
    return ""


@pytest.mark.parametrize("typ", [None, "JWT", "logout+jwt", "Logout+JWT", "application/logout+jwt"])
async def test_a_logout_token_of_any_allowed_type_holds(typ: str | None) -> None:
    """A26; Dex sends no type."""
    assert await logout_code({"typ": typ}) == ""


@pytest.mark.parametrize("changes", [{"sid": LEFT_OUT}, {"sub": LEFT_OUT}, {"exp": LEFT_OUT}, {"aud": [CLIENT]}])
async def test_a_logout_token_names_a_session_or_a_subject(changes: dict[str, Any]) -> None:
    """One of ``sid`` and ``sub`` suffices; ``exp`` may be absent."""
    assert await logout_code(**changes) == ""


BAD_LOGOUTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "A27 alg none": ({"alg": "none"}, {}, "algorithm_refused"),
    "A28 no event": ({}, {"events": LEFT_OUT}, "event_mismatch"),
    "A29 with nonce": ({}, {"nonce": "n"}, "nonce_present"),
    "A29 nonce null": ({}, {"nonce": None}, "nonce_present"),
    "A30 wrong alg": ({"alg": "HS256"}, {}, "algorithm_refused"),
    "A31 wrong audience": ({}, {"aud": "other"}, "audience_mismatch"),
    "A32 wrong event": ({}, {"events": {"http://schemas.openid.net/event/other": {}}}, "event_mismatch"),
    "event is a list": ({}, {"events": [LOGOUT_EVENT]}, "event_mismatch"),
    "event is true": ({}, {"events": {LOGOUT_EVENT: True}}, "event_mismatch"),
    "A33 wrong issuer": ({}, {"iss": "https://other.example"}, "issuer_mismatch"),
    "B29 jti missing": ({}, {"jti": LEFT_OUT}, "jti_invalid"),
    "jti number": ({}, {"jti": 7}, "jti_invalid"),
    "jti empty": ({}, {"jti": ""}, "jti_invalid"),
    "B29 iat missing": ({}, {"iat": LEFT_OUT}, "iat_invalid"),
    "B29 iat old": ({}, {"iat": int(NOW) - 361}, "token_too_old"),
    "iat in the future": ({}, {"iat": int(NOW) + 61}, "token_from_future"),
    "B29 expired": ({}, {"exp": int(NOW) - 61}, "token_expired"),
    "exp text": ({}, {"exp": "later"}, "exp_invalid"),
    "B29 neither sid nor sub": ({}, {"sid": LEFT_OUT, "sub": LEFT_OUT}, "subject_missing"),
    "sid number": ({}, {"sid": 7}, "sid_invalid"),
    "sub empty": ({}, {"sub": ""}, "sub_invalid"),
    "B29 typ": ({"typ": "at+jwt"}, {}, "type_refused"),
    "other key": ({"kid": "nobody"}, {}, "key_unknown"),
}


@pytest.mark.parametrize(("header", "changes", "code"), BAD_LOGOUTS.values(), ids=BAD_LOGOUTS.keys())
async def test_a_wrong_logout_token_ends_nothing(header: dict[str, Any], changes: dict[str, Any], code: str) -> None:
    """A27 to A33 and B29: each rule of Back-Channel Logout section 2.6 is asked."""
    assert await logout_code(header, **changes) == code


async def test_an_id_token_is_no_logout_token() -> None:
    """C9: a stolen ID token cannot sign its owner out."""
    with pytest.raises(InvalidToken):
        await logout_token(sign(CLAIMS | {"jti": "x"}, KEY), key_set(), LOGOUT_RULES, now=NOW)
