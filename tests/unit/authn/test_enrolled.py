"""Credentials of enrolled machines: what is believed, what is refused, and with which code."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from authproxy.errors import BadRequest, NotAuthenticated, Unavailable
from authproxy.jose.sign import load_private
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import SecretRef
from authproxy.store.memory import MemoryStore
from tests.peers.fake_clock import FakeClock
from tests.unit.authn.requests import MATCH, bearer
from tests.unit.enrollment.replicas import EU, KEY, NEXT_KEY, OLD, US, Replica, shape

PUBLIC = dict(load_private(KEY).public)
SECRET_OF_PUBLIC = json.dumps(PUBLIC).encode()


def claims(clock: FakeClock, **changes: Any) -> dict[str, Any]:
    """The claims of a credential that holds."""
    now = int(clock())
    good: dict[str, Any] = {
        "iss": US, "aud": US, "sub": "agent", "iat": now, "exp": now + 900, "family": "f" * 32, "enrolled_at": now,
        "scope": "read", "cluster": EU,
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(said: dict[str, Any], key: str = KEY, **header: Any) -> str:
    """A token of these claims, by ``key``."""
    known = {"typ": "enrolled+jwt", "kid": PUBLIC["kid"], **header}
    material = jwt.PyJWK(json.loads(key)).key
    return jwt.encode(said, material, algorithm="ES256", headers={k: v for k, v in known.items() if v is not None})


def made(header: dict[str, Any], said: dict[str, Any], signature: bytes = b"\0" * 64) -> str:
    """A token written by hand."""
    parts = [json.dumps(header).encode(), json.dumps(said).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def refused(replica: Replica, token: str) -> NotAuthenticated:
    """The refusal that this token meets."""
    with pytest.raises(NotAuthenticated) as caught:
        await replica.authenticator.authenticate(bearer(token), MATCH)
    assert caught.value.token_error == "invalid_token"
    assert token not in str(caught.value) or not token
    return caught.value


async def test_a_credential_is_an_identity() -> None:
    """What was issued is believed: name, cluster, scopes, and when it ends; again from memory."""
    clock = FakeClock()
    replica = Replica(MemoryStore(), clock)
    issued = replica.families.begin("agent", EU)
    for _ in range(2):
        info = bearer(issued.credential)
        assert replica.authenticator.presented(info)
        identity = (await replica.authenticator.authenticate(info, MATCH)).identity
        assert (identity.kind, identity.subject, identity.issuer) == ("enrolled", "agent", US)
        assert (identity.clusters, identity.scopes) == (frozenset({EU}), frozenset({"read"}))
        assert identity.expires_at == int(clock.now) + 900
    free = replica.families.begin("agent", None)
    assert (await replica.authenticator.authenticate(bearer(free.credential), MATCH)).identity.clusters is None


async def test_the_form_of_a_good_token_is_the_one_that_is_attacked() -> None:
    """The tests' own token is believed, so that each refusal below has one cause."""
    clock = FakeClock()
    replica = Replica(MemoryStore(), clock)
    assert (await replica.authenticator.authenticate(bearer(signed(claims(clock))), MATCH)).identity.user == "agent"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://evil.example.com"}, "issuer_mismatch"),
        ({"aud": "https://other.example.com"}, "audience_mismatch"),
        ({"aud": None}, "audience_mismatch"),
        ({"exp": None}, "exp_invalid"),
        ({"sub": ""}, "sub_invalid"),
        ({"sub": "a\0b"}, "sub_invalid"),
        ({"family": None}, "family_invalid"),
        ({"cluster": ["a", "b"]}, "cluster_invalid"),
        ({"cluster": ""}, "cluster_invalid"),
        ({"enrolled_at": "0"}, "enrolled_at_invalid"),
    ],
)
async def test_claims_that_do_not_hold(changes: dict[str, Any], code: str) -> None:
    """Each claim is judged, although the signature holds."""
    clock = FakeClock()
    refusal = await refused(Replica(MemoryStore(), clock), signed(claims(clock, **changes)))
    assert refusal.code == "invalid_token"
    assert refusal.reason.startswith(f"{code}: ")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"typ": "JWT"}, "type_refused"),
        ({"typ": None}, "type_refused"),
        ({"kid": None}, "signature_invalid"),
        ({"kid": "../../../../dev/null"}, "signature_invalid"),
        ({"kid": "' OR 1=1 --"}, "signature_invalid"),
        ({"jwk": json.loads(json.dumps(PUBLIC))}, "header_refused"),
        ({"jku": "https://evil.example.com/jwks"}, "header_refused"),
        ({"x5u": "https://evil.example.com/crt"}, "header_refused"),
        ({"crit": ["exp"]}, "header_refused"),
    ],
)
async def test_headers_that_bring_a_key_or_another_kind(header: dict[str, Any], code: str) -> None:
    """No header makes us look for a key anywhere, and no token of another kind passes for a credential."""
    clock = FakeClock()
    refusal = await refused(Replica(MemoryStore(), clock), signed(claims(clock), **header))
    assert refusal.reason.startswith(f"{code}: ")


async def test_algorithms_are_not_the_senders_choice() -> None:
    """``none``, HS256 keyed with our public key, a foreign ES256 key under our id, and a zero signature: refused."""
    clock = FakeClock()
    replica, said = Replica(MemoryStore(), clock), claims(clock)
    head = {"typ": "enrolled+jwt", "kid": PUBLIC["kid"]}
    for alg in ("none", "None", "HS256", "RS256", "ES384"):
        refusal = await refused(replica, made({**head, "alg": alg}, said))
        assert refusal.reason.startswith("algorithm_refused: ")
    for forged in (
        signed(said, NEXT_KEY),
        made({**head, "alg": "ES256"}, said),
        made({**head, "alg": "ES256"}, said, b"\0" * 65),
    ):
        assert (await refused(replica, forged)).reason.startswith("signature_invalid: ")


async def test_an_expired_credential_is_refused_also_from_memory() -> None:
    """Remembered or not, it ends with its time (and the few seconds that clocks may differ, where it is proved)."""
    clock = FakeClock()
    replica, stranger = Replica(MemoryStore(), clock), Replica(MemoryStore(), clock)
    issued = replica.families.begin("agent", EU)
    await replica.authenticator.authenticate(bearer(issued.credential), MATCH)
    clock.forward(906)
    for one in (replica, stranger):
        assert (await refused(one, issued.credential)).reason.startswith("token_expired: ")


async def test_a_revoked_credential_is_refused_by_another_replica() -> None:
    """Proved and remembered there, it is refused as soon as the mark is read."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = Replica(store, clock), Replica(store, clock)
    issued = one.families.begin("agent", EU)
    await two.authenticator.authenticate(bearer(issued.credential), MATCH)
    await one.families.revoke("family", issued.enrolled.family)
    assert (await refused(one, issued.credential)).code == "credential_revoked"
    await two.marks.sync()
    assert (await refused(two, issued.credential)).code == "credential_revoked"


async def test_enrollment_tokens_and_renewals_open_no_data_path() -> None:
    """Shared, minted or a renewal: presented on a data path, each is claimed by this kind, and refused by its name."""
    replica = Replica(MemoryStore(), FakeClock())
    issued = replica.families.begin("agent", EU)
    for token in (OLD, (await replica.tokens.mint("agent", EU)).text, issued.renewal, "ape_anything", "apr_anything"):
        assert replica.authenticator.presented(bearer(token))
        assert (await refused(replica, token)).code == "enrollment_token_refused"


@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "x" * 1_000_000, "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"])
async def test_what_belongs_to_other_kinds_is_left_to_them(token: str) -> None:
    """Static tokens and the JWTs of issuers are not claimed."""
    assert not Replica(MemoryStore(), FakeClock()).authenticator.presented(bearer(token))


async def test_two_credentials_are_refused() -> None:
    """Which one counts is never a matter of order."""
    replica = Replica(MemoryStore(), FakeClock())
    credential = replica.families.begin("agent", EU).credential
    with pytest.raises(BadRequest):
        await replica.authenticator.authenticate(bearer(credential, credential), MATCH)


async def test_without_a_key_nothing_is_believed() -> None:
    """503 rather than 401: the machine is not told to enroll again for our fault."""
    credential = Replica(MemoryStore(), FakeClock()).families.begin("agent", EU).credential
    replica = Replica(MemoryStore(), FakeClock(), shape(signing_keys=[{"env": "NO_SUCH_KEY_HERE"}]))
    with pytest.raises(Unavailable):
        await replica.authenticator.authenticate(bearer(credential), MATCH)


async def test_a_remembered_credential_goes_with_its_key() -> None:
    """When a key leaves the settings, what it signed is refused at once, remembered or not."""
    replica = Replica(MemoryStore(), FakeClock())
    credential = replica.families.begin("agent", EU).credential
    await replica.authenticator.authenticate(bearer(credential), MATCH)
    replica.issuer._sources[:] = [Fresh(SecretRef(value=NEXT_KEY), load_private)]
    assert (await refused(replica, credential)).reason.startswith("signature_invalid: ")


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many credentials the latest are remembered, by digest."""
    monkeypatch.setattr("authproxy.authn.enrolled.ENTRIES", 2)
    replica = Replica(MemoryStore(), FakeClock())
    for number in range(5):
        credential = replica.families.begin(f"agent-{number}", EU).credential
        await replica.authenticator.authenticate(bearer(credential), MATCH)
    assert repr(replica.authenticator) == "<EnrolledAuthenticator 2 remembered>"
