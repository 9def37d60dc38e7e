"""Attacks with bearer JWTs against a whole proxy: each is 401 and known to the audit, and nothing reaches the app."""

from __future__ import annotations

import ast
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authproxy.errors import InvalidToken
from authproxy.jose import access
from tests.hostile.harness import HOST, PREFIX, Raw, Set, Stage, send
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import SigningKey, as_json, b64, sign, signing_key

OTHER = "other.corp.test"
LEFT_OUT: Any = object()
RULE = {"any": [{"authenticated": True}]}
LISTED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "applicability_bearer.yaml").read_text(encoding="utf-8")
)


class Machines:
    """A proxy that takes tokens of one issuer for two apps, and whoever attacks it."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.peer, self.clock = stage, stage.peer, stage.clock
        self.key = stage.peer.keys[-1]

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Right claims with ``changes``."""
        now = int(self.clock())
        right = {
            "iss": self.peer.issuer, "aud": "api", "sub": "ci", "iat": now, "exp": now + 600, "scope": "read",
        }  # fmt: skip
        return {name: value for name, value in (right | changes).items() if value is not LEFT_OUT}

    def token(self, header: Any = None, key: SigningKey | None = None, **changes: Any) -> str:
        """A right token with ``changes``."""
        return sign(self.claims(**changes), key or self.key, header)

    async def ask(self, *lines: str, target: str = "/", host: str = HOST) -> Raw:
        """One request with these header lines."""
        head = [f"GET {target} HTTP/1.1", f"Host: {host}:{self.stage.port()}", "Connection: close", *lines]
        return await send(self.stage.port(), ("\r\n".join(head) + "\r\n\r\n").encode())

    async def bear(self, token: str, **where: str) -> Raw:
        """One request with a token."""
        return await self.ask(f"Authorization: Bearer {token}", **where)

    async def taken(self, token: str, **where: str) -> bool:
        """Whether a token opens the app."""
        return (await self.bear(token, **where)).status == 200

    async def refused(self, token: str, *rules: str, **where: str) -> None:
        """401 with the RFC 6750 code, no redirect, no cookie, nothing at the app; the audit has the rule, no token."""
        reached = self.stage.reached()
        answer = await self.bear(token, **where)
        assert answer.status == 401, answer.head
        assert answer.values("Authproxy-Refusal") == ["invalid_token"], self.stage.records()[-1]
        assert answer.values("WWW-Authenticate") == ['Bearer error="invalid_token"']
        assert answer.values("Location") == answer.values("Set-Cookie") == []
        assert self.stage.reached() == reached
        assert self.stage.records()[-1]["reason"].partition(":")[0] in rules, self.stage.records()[-1]
        assert token not in self.stage.audits[0].read_text()

    async def not_taken_for_one(self, *lines: str, status: int = 401, code: str = "not_signed_in") -> None:
        """What has not the form of a credential of ours is none."""
        reached = self.stage.reached()
        answer = await self.ask(*lines)
        assert (answer.status, answer.values("Authproxy-Refusal")) == (status, [code]), answer.head
        assert answer.values("Location") == answer.values("Set-Cookie") == []
        assert self.stage.reached() == reached


@pytest.fixture
async def machines(stages: Set) -> Machines:
    """The stage; ``/both/`` takes sessions as well."""
    issuers: dict[str, Any] = {}

    def named(peer: OpenIDPeer) -> None:
        audiences = ["api", "second", peer.client_id]
        issuers["peer"] = {"issuer": peer.issuer, "audiences": audiences, "claims": {"clusters": "cluster"}}

    route = {"path": "/", "accept": ["bearer"], "policy": "people"}
    both = {"path": "/both/", "accept": ["session", "bearer"], "policy": "people"}
    wall = {"path": "/clusters/{cluster}/", "accept": ["bearer"], "policy": "people"}
    other = {"host": OTHER, "bearer": {"audiences": ["second"]}, "routes": [route]}
    built = await stages(
        before=named, issuers=issuers, application={"routes": [both, wall, route]},
        apps={"other": {**other, "upstream": {"url": "http://127.0.0.1:9"}}},
    )  # fmt: skip
    found = Machines(built)
    assert await found.taken(found.token())
    return found


@pytest.fixture
async def trap() -> AsyncIterator[OpenIDPeer]:
    """A server that an attacker would have us ask."""
    async with OpenIDPeer() as peer:
        yield peer


# --- algorithms, keys and headers ---


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", None, "", 1, ["RS256"], "rs256", "RS1"])
async def test_c1_algorithm(machines: Machines, alg: object) -> None:
    """No algorithm, or none that is known by exactly this name, with and without a signature."""
    token = machines.token({"alg": alg})
    await machines.refused(token, "algorithm_refused")
    await machines.refused(token.rpartition(".")[0] + ".", "token_malformed", "algorithm_refused")


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_c2_public_key_as_shared_secret(machines: Machines, alg: str) -> None:
    """A signature under the public key's text, in any of its forms."""
    public = machines.key.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk = machines.key.jwk()
    for secret in (pem, pem.strip(), der, as_json(jwk), as_json({"keys": [jwk]}), b""):
        head = b64(as_json({"alg": alg, "kid": machines.key.kid, "typ": "JWT"}))
        signing_input = f"{head}.{b64(as_json(machines.claims()))}"
        digest = hmac.new(secret, signing_input.encode(), f"sha{alg[2:]}").digest()
        await machines.refused(f"{signing_input}.{b64(digest)}", "algorithm_refused")


async def test_c3_key_of_another_type(machines: Machines) -> None:
    """An allowed algorithm with a key that is for another one."""
    p384, ec = signing_key("p384", "ES384"), signing_key("ec", "ES256")
    machines.peer.keys = [machines.key, p384, ec]
    machines.clock.pass_(11)
    assert await machines.taken(machines.token(key=ec))
    unsigned, *_ = machines.token({"alg": "ES256"}, key=p384).rpartition(".")
    await machines.refused(f"{unsigned}.{b64(p384.sign(unsigned.encode()))}", "key_unknown")
    await machines.refused(machines.token({"kid": "ec"}), "key_unknown")
    unsigned, *_ = machines.token({"alg": "PS256"}).rpartition(".")
    await machines.refused(f"{unsigned}.{b64(machines.key.sign(unsigned.encode(), 'PS256'))}", "key_unknown")


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "' OR 1=1 --", "https://evil.test/key", "k" * 9000, 1, ["key-0"], {"a": 1}, "", "KEY-0"]
)
async def test_c4_key_id(machines: Machines, kid: object) -> None:
    """A key id is looked up and nothing else; an unknown one is asked for once in the cool-down."""
    await machines.refused(machines.token({"kid": kid}), "key_unknown", "header_refused", "token_too_large")
    asked = len(machines.peer.asked("jwks"))
    for number in range(20):
        await machines.refused(machines.token({"kid": f"k{number}"}), "key_unknown")
    assert len(machines.peer.asked("jwks")) - asked <= 1


async def test_c4_key_id_given_twice(machines: Machines) -> None:
    """A header with two key ids has two meanings."""
    header = f'{{"alg":"RS256","kid":"other","kid":"{machines.key.kid}"}}'.encode()
    await machines.refused(machines.token(header), "token_malformed")
    await machines.refused(machines.token(b'{"alg":"RS256","kid":null}'), "header_refused")


@pytest.mark.parametrize("signed_by", ["attacker", "issuer"])
async def test_c5_key_in_the_header(machines: Machines, trap: OpenIDPeer, signed_by: str) -> None:
    """No address in a token is ever asked and no key in it ever used, even when the signature is right."""
    evil = signing_key(machines.key.kid, number=3)
    key = machines.key if signed_by == "issuer" else evil
    trap.keys = [evil]
    asked = len(machines.peer.calls)
    place = f"{trap.issuer}{trap.jwks_path}"
    for extra in ({"jku": place}, {"x5u": place}, {"jwk": evil.jwk()}, {"x5c": ["MIIB"]}):
        await machines.refused(machines.token(extra, key=key), "header_refused")
    assert trap.calls == []
    assert len(machines.peer.calls) == asked


@pytest.mark.parametrize("crit", [["exp"], ["unknown"], [], "exp", ["b64", "b64"], None])
async def test_c6_critical_headers(machines: Machines, crit: object) -> None:
    """PyJWT CVE-2026-32597: none is understood, so any is refused."""
    header = as_json({"alg": "RS256", "kid": machines.key.kid, "crit": crit})
    await machines.refused(machines.token(header), "header_refused")


async def test_c7_payload_that_is_not_encoded(machines: Machines) -> None:
    """RFC 7797 changes what is signed."""
    await machines.refused(machines.token({"b64": False}), "header_refused")
    await machines.refused(machines.token({"b64": False, "crit": ["b64"]}), "header_refused")


# --- kinds of token ---


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "dpop+jwt", "JOSE", "secevent+jwt", "", 7])
async def test_c8_type(machines: Machines, typ: object) -> None:
    """Tokens for another purpose, however well they are signed."""
    await machines.refused(machines.token({"typ": typ}), "type_refused")
    for good in ("JWT", "at+jwt", "application/at+jwt", None):
        assert await machines.taken(machines.token({"typ": good}))


async def test_c8_proof_of_possession(machines: Machines) -> None:
    """B38: a bound token is worth nothing without its key."""
    await machines.refused(machines.token(cnf={"jkt": "x"}), "proof_needed")


async def test_c9_token_for_somebody_else(machines: Machines) -> None:
    """A logout token, another client's ID token, another service's token; our own client's ID token is taken."""
    await machines.refused(machines.peer.logout_token(), "type_refused")
    await machines.refused(machines.peer.logout_token(header={"typ": None}), "type_refused")
    await machines.refused(machines.peer.id_token(aud="another-client", azp="another-client"), "audience_mismatch")
    await machines.refused(machines.token(aud=["billing", "mail"]), "audience_mismatch")
    assert await machines.taken(machines.peer.id_token())


async def test_c9_access_token_is_no_sign_in(machines: Machines) -> None:
    """A token in the place of the session cookie opens no session."""
    answer = await machines.ask(f"Cookie: authproxy={machines.token()}", "Accept: text/html", target="/both/")
    assert answer.status in (302, 401), answer.head


# --- claims ---


@pytest.mark.parametrize("kind", ["missing", "null", "list", "prefix", "longer", "slash", "case", "empty"])
async def test_c10_issuer(machines: Machines, kind: str) -> None:
    """Byte for byte, or not at all (PyJWT GHSA-75c5-xw7c-p5pm)."""
    right = machines.peer.issuer
    wrong = {
        "missing": LEFT_OUT, "null": None, "list": [right], "prefix": right[:-1], "longer": right + "0",
        "slash": right + "/", "case": right.replace("http", "HTTP"), "empty": "",
    }  # fmt: skip
    await machines.refused(machines.token(iss=wrong[kind]), "issuer_unknown")


@pytest.mark.parametrize(
    "aud", [LEFT_OUT, None, "", [], "ap", "api ", "API", {"api": 1}, ["x"], ["api", 1], "api second"]
)
async def test_c11_audience(machines: Machines, aud: Any) -> None:
    """One of ours, in full; a list may name others beside it."""
    await machines.refused(machines.token(aud=aud), "audience_mismatch")
    assert await machines.taken(machines.token(aud=["else", "api"]))


@pytest.mark.parametrize("exp", [LEFT_OUT, None, "soon", 1.5, 1e300, True, [9], -1, 0, 99_999_999_999])
async def test_c12_expiry(machines: Machines, exp: Any) -> None:
    """A whole number ahead of us, and not for ever."""
    await machines.refused(machines.token(exp=exp), "exp_invalid", "token_expired", "lifetime_too_long")


async def test_c12_expired_by_a_second(machines: Machines) -> None:
    """The leeway is a minute; not one second more, also for a token that was taken before."""
    token = machines.token(exp=int(machines.clock()) + 5)
    assert await machines.taken(token)
    machines.clock.pass_(64)
    assert await machines.taken(token)
    machines.clock.pass_(1)
    await machines.refused(token, "token_expired")
    now = int(machines.clock())
    await machines.refused(machines.token(iat=now, exp=now + 31 * 86400), "lifetime_too_long")
    for text in ("NaN", "Infinity", "1e999", str(float(now + 600))):
        claims = json.dumps(machines.claims(exp=7)).replace(": 7", f": {text}").encode()
        await machines.refused(sign(claims, machines.key), "token_malformed", "exp_invalid")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_c13_future(machines: Machines, claim: str) -> None:
    """A minute ahead is a clock that is off; more is not."""
    now = int(machines.clock())
    ahead: list[dict[str, Any]] = [{claim: now + 60}, {claim: now + 61}, {claim: str(now)}]
    assert await machines.taken(machines.token(**ahead[0]))
    await machines.refused(machines.token(**ahead[1]), "token_from_future", "token_not_yet_valid")
    await machines.refused(machines.token(**ahead[2]), "iat_invalid", "nbf_invalid")


@pytest.mark.parametrize("sub", [LEFT_OUT, None, "", "\x00", "ci\x00", "ci\r\nX-Forwarded-User: root", "s" * 10_000, 7])
async def test_c14_subject(machines: Machines, sub: Any) -> None:
    """Somebody, in one printable line."""
    await machines.refused(machines.token(sub=sub), "sub_invalid")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "scope"])
async def test_c15_claim_given_twice(machines: Machines, name: str) -> None:
    """Neither the first nor the last counts."""
    whole = json.dumps(machines.claims())
    twice = whole[:-1] + "," + json.dumps({name: machines.claims()[name]})[1:]
    await machines.refused(sign(twice.encode(), machines.key), "token_malformed")


# --- form ---


def monsters() -> dict[str, str]:
    """Tokens that could cost much."""
    head, deep = b64(b'{"alg":"RS256"}'), b64(b"[" * 6000 + b"]" * 6000)
    nested, digits = b64(b"{" + b'"a":{' * 2000 + b"}" * 2001), b64(b'{"exp":' + b"9" * 11_000 + b"}")
    return {
        "deep": f"{head}.{deep}.AA",
        "deep header": f"{deep}.{head}.AA",
        "nested": f"{head}.{nested}.AA",
        "large": f"{head}.{'A' * 1_000_000}.AA",
        "digits": f"{head}.{digits}.AA",
    }


@pytest.mark.parametrize("name", sorted(monsters()))
def test_c16_cost(name: str) -> None:
    """Nothing takes more than 5 ms of processor time to refuse."""
    token, spent = monsters()[name], []
    for _ in range(5):
        began = time.process_time()
        with suppress(InvalidToken):
            access.read(token)
            pytest.fail("it was read")
        spent.append(time.process_time() - began)
    assert min(spent) < 0.005


async def test_c16_payload_that_is_no_object(machines: Machines) -> None:
    """An array, another encoding, a mark before the text, deep nesting."""
    right = as_json(machines.claims())
    for payload in (b"[]", b'"x"', b"null", b"\xef\xbb\xbf" + right, right.decode().encode("utf-16"), b"[" * 4000):
        await machines.refused(sign(payload, machines.key), "token_malformed")
    await machines.refused(monsters()["deep"], "token_malformed")
    answer = await machines.bear("eyJ" + "A" * 20_000 + ".e30.AA")
    assert answer.status in (400, 401, 431)
    assert machines.stage.reached() == 1


async def test_c17_compact_form(machines: Machines) -> None:
    """Exactly one text of each token: no padding, no other alphabet, no spare bits, no white space inside."""
    token = machines.token()
    head, payload, signature = token.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spare = signature[:-1] + last[last.index(signature[-1]) + 1]
    await machines.refused(f"{head}.{payload}.{spare}", "token_malformed")
    await machines.refused(f"{head}.{payload}.", "token_malformed")
    await machines.refused(f"{head}..{signature}", "token_malformed")
    for text in (
        f"{token}=", f"{token}==", f"{token}.", f"{token}.AA", f"{head}.{payload}", f".{token}", f"{token} x",
        f"{head}. {payload}.{signature}", token.replace(".", ",", 1), f"{head}.{payload}.{signature[:-2]}+/",
    ):  # fmt: skip
        await machines.not_taken_for_one(f"Authorization: Bearer {text}")
    assert await machines.taken(token)


async def test_c18_encrypted_tokens(machines: Machines) -> None:
    """Five parts are nobody's here: nothing is decrypted, nothing inflated."""
    header = b64(as_json({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31, "p2s": "AA", "zip": "DEF"}))
    await machines.not_taken_for_one(f"Authorization: Bearer {header}.AA.AA.AA.AA")
    await machines.refused(machines.token({"enc": "A128GCM"}), "header_refused")
    await machines.refused(machines.token({"zip": "DEF"}), "header_refused")


@pytest.mark.parametrize(
    "wrong",
    [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"key_ops": []}, {"alg": "RS512"}, {"d": "AA"}],
)
async def test_c19_key_for_another_use(machines: Machines, wrong: dict[str, Any]) -> None:
    """What the key set says that a key is not for, it does not do."""
    other = signing_key("other", number=5)
    machines.peer.jwks_answer = (200, {"keys": [machines.key.jwk(), other.jwk(**wrong)]})
    machines.clock.pass_(11)
    await machines.refused(machines.token(key=other), "key_unknown")
    assert await machines.taken(machines.token())


async def test_c19_length_of_a_signature(machines: Machines) -> None:
    """An ES256 signature has 64 bytes (RFC 7518 section 3.4), and not one more or less; DER is not its form."""
    ec = signing_key("ec", "ES256")
    machines.peer.keys = [machines.key, ec]
    machines.clock.pass_(11)
    unsigned, _, last = machines.token(key=ec).rpartition(".")
    raw = base64.urlsafe_b64decode(last + "==")
    assert await machines.taken(f"{unsigned}.{last}")
    for bad in (raw + b"\0", b"\0" + raw, raw[:-1], b"\0" * 64, raw[32:] + raw[:32], b"0E" + raw):
        await machines.refused(f"{unsigned}.{b64(bad)}", "signature_invalid")


# --- where it is carried ---


async def test_c20_places(machines: Machines) -> None:
    """The one header, once; the scheme in any case."""
    token = machines.token()
    for scheme in ("bearer", "BEARER", "bEaReR"):
        assert (await machines.ask(f"Authorization: {scheme} {token}")).status == 200
    line = f"Authorization: Bearer {token}"
    for second in (line, "Authorization: Basic YTpi", "authorization: Bearer opaque", "Authorization:"):
        await machines.not_taken_for_one(line, second, status=400, code="several_credentials")
        await machines.not_taken_for_one(second, line, status=400, code="several_credentials")
    for wrong in (f"{line}, Bearer {token}", f"Authorization: {token}", f"Authorization: JWT {token}"):
        await machines.not_taken_for_one(wrong)
    for name in ("access_token", "token", "Authorization"):
        assert (await machines.ask(target=f"/?{name}={token}")).status == 401
    body = f"access_token={token}"
    form = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    answer = await send(machines.stage.port(), f"POST / HTTP/1.1\r\nHost: {HOST}\r\n{form}".encode())
    assert answer.status == 401


async def test_c21_token_and_session(machines: Machines) -> None:
    """Where both would count, both are refused; where one is not taken, it is not looked at."""
    stage = machines.stage
    await stage.sign_in("/both/")
    cookie = f"Cookie: {stage.session_cookie()}"
    line = f"Authorization: Bearer {machines.token()}"
    assert (await machines.ask(cookie, target="/both/")).status == 200
    assert (await machines.ask(line, target="/both/")).status == 200
    answer = await machines.ask(cookie, line, target="/both/")
    assert (answer.status, answer.values("Authproxy-Refusal")) == (400, ["several_credentials"])
    assert (await machines.ask(cookie, line)).status == 200
    seen = stage.app.requests[-1]
    assert (seen.get("X-Forwarded-User"), seen.get("Authorization")) == ("ci", None)
    assert (await machines.ask(cookie)).status == 401


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_c23_clock_jumps(machines: Machines, jump: float) -> None:
    """A token counts by the clock as it is now, and the key set goes on."""
    now = int(machines.clock())
    token = machines.token(iat=now - 7200, exp=now + 600)
    assert await machines.taken(token)
    machines.clock.pass_(jump)
    if jump > 0:
        await machines.refused(token, "token_expired")
    else:
        assert await machines.taken(token)
    machines.clock.pass_(-jump)
    assert await machines.taken(token)
    await machines.bear(machines.token({"kid": "unknown"}))  # a throttle bucket from the future counts as full,
    machines.clock.pass_(1)  # and drains as any other
    await machines.refused(machines.token({"kid": "unknown"}), "key_unknown")


async def test_c24_memory_of_another_app(machines: Machines) -> None:
    """A token that one app has taken is judged anew for an app with another audience."""
    token = machines.token(aud="api")
    assert await machines.taken(token)
    await machines.refused(token, "audience_mismatch", host=OTHER)
    assert await machines.taken(token)
    both = await machines.bear(machines.token(aud=["second"]), host=OTHER)
    assert both.status == 502  # let through, to a server that is not there


async def test_c24_key_that_left(machines: Machines) -> None:
    """A token that was taken a moment ago is not, once a key set without its key was read."""
    token = machines.token()
    assert await machines.taken(token)
    fresh = signing_key("fresh", number=8)
    machines.peer.keys = [fresh]
    machines.clock.pass_(11)
    assert await machines.taken(machines.token(key=fresh))
    await machines.refused(token, "key_unknown")


async def test_c25_no_cookie_and_no_redirect(machines: Machines) -> None:
    """A token makes no session, and a browser's words make no redirect of a refusal on a route for machines."""
    navigation = ("Accept: text/html", "Sec-Fetch-Mode: navigate")
    good = await machines.ask(f"Authorization: Bearer {machines.token()}", *navigation)
    assert (good.status, good.values("Set-Cookie")) == (200, [])
    bad = await machines.ask(f"Authorization: Bearer {machines.token(aud='x')}", *navigation)
    none = await machines.ask(*navigation)
    for answer in (bad, none):
        assert answer.status == 401
        assert answer.values("Location") == answer.values("Set-Cookie") == []
        assert answer.values("Content-Type") == ["application/json"]
    assert none.values("WWW-Authenticate") == ["Bearer"]
    assert (await machines.ask(f"Authorization: Bearer {machines.token()}", target=f"{PREFIX}/userinfo")).status == 401


async def test_an_issuer_that_is_down_is_not_a_bad_token(machines: Machines) -> None:
    """Known keys serve on; for a key that cannot be asked for the answer is 503, and the token stays good."""
    token = machines.token(key=signing_key("fresh", number=8))
    await machines.peer.stop()
    machines.clock.pass_(700)
    assert await machines.taken(machines.token())
    answer = await machines.bear(token)
    assert (answer.status, answer.values("Authproxy-Refusal")) == (503, ["issuer_unreachable"])
    assert answer.values("Retry-After") == ["5"]


async def test_a_token_that_is_bound_to_a_cluster_stays_behind_the_wall(machines: Machines) -> None:
    """CONTRACT section 7: its own cluster opens, everything else is 403; a claim that says nothing clear opens none."""
    bound, unbound = machines.token(cluster=["eu", "us"]), machines.token()
    assert await machines.taken(bound, target="/clusters/eu/")
    assert await machines.taken(unbound, target="/clusters/asia/")
    reached = machines.stage.reached()
    for token, target in (
        (bound, "/clusters/asia/"), (bound, "/clusters/EU/"), (bound, "/"),
        (machines.token(cluster="eu us"), "/clusters/eu/"),
        (machines.token(cluster=7), "/clusters/eu/"), (machines.token(cluster=None), "/clusters/eu/"),
    ):  # fmt: skip
        assert (await machines.bear(token, target=target)).status == 403
    assert machines.stage.reached() == reached


async def test_readiness_names_the_issuer(machines: Machines) -> None:
    """An issuer that cannot be asked is waited for at the start, and degrades what runs already."""
    proxy = machines.stage.proxies[0]
    await proxy.startup.done.wait()
    assert "issuer peer" not in proxy.startup.readiness().degraded
    await machines.peer.stop()
    machines.clock.pass_(11)
    assert (await machines.bear(machines.token({"kid": "unknown"}))).status == 503
    assert "refused" in proxy.startup.readiness().degraded["issuer peer"]


async def test_no_token_is_remembered_in_clear(machines: Machines) -> None:
    """Neither the log of requests nor the proxy's memory of proved tokens holds one."""
    token = machines.token()
    assert await machines.taken(token)
    (authenticator,) = [
        one for one in machines.stage.proxies[0].graph.pipeline._chain._authenticators if one.kind == "bearer"
    ]
    keys = list(authenticator._remembered)  # type: ignore[attr-defined]
    assert [key[0] for key in keys][-1] == hashlib.sha256(token.encode()).digest()
    assert token not in repr(keys) + repr(authenticator)


# --- the list ---


def test_every_case_is_covered_or_explained() -> None:
    """Each of C1 to C25 names tests of this file, or says why there are none; and no test is left out."""
    assert list(LISTED) == [f"C{number}" for number in range(1, 26)]
    here = [
        node.name
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_c")
    ]
    for case, entry in LISTED.items():
        own = [f"test_bearer.py::{name}" for name in here if name.startswith(f"test_{case.lower()}_")]
        assert entry.get("tests", []) == own, case
        assert own or len(entry["reason"].split()) >= 2


# --- revocation ---


async def told(machines: Machines, **claims: Any) -> None:
    """The provider says that somebody is signed out."""
    assert (await machines.stage.tell(**claims))[0] == 200


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(
    ("ended", "also"), [({"sub": "sub-alice"}, {}), ({"sid": "s-1"}, {"sid": "s-1"})], ids=["sub", "sid"]
)
async def test_a_logout_ends_bearer_tokens(
    machines: Machines, ended: dict[str, str], also: dict[str, Any], remembered: bool
) -> None:
    """Back-channel logout ends the tokens of the user (by ``sid``: those that carry it), also remembered ones."""
    old, other = machines.token(sub="sub-alice", **also), machines.token(sub="sub-bob", sid="s-2")
    if remembered:
        assert await machines.taken(old)
    machines.clock.pass_(2)
    await told(machines, **ended)
    reached = machines.stage.reached()
    answer = await machines.bear(old)
    assert (answer.status, answer.values("Authproxy-Refusal")) == (401, ["credential_revoked"])
    assert answer.values("WWW-Authenticate") == ['Bearer error="invalid_token"']
    assert machines.stage.reached() == reached
    assert await machines.taken(other)
    assert (await machines.bear(machines.token(sub="sub-alice", iat=LEFT_OUT, **also))).status == 401


async def test_a_token_of_after_the_logout_opens(machines: Machines) -> None:
    """A logout by subject ends what was issued before it, not the user."""
    await told(machines, sub="sub-alice")
    machines.clock.pass_(2)
    assert await machines.taken(machines.token(sub="sub-alice", sid="s-3"))
    await told(machines, sid="s-3")
    assert not await machines.taken(machines.token(sub="sub-alice", sid="s-3"))  # that one is over for good
    assert await machines.taken(machines.token(sub="sub-alice", sid="s-4"))
