"""Bearer JWTs: a right one passes, and each single fault is refused by the rule that it breaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose.access import LONGEST, SIZE, AccessRules, check, claimed_issuer, read
from authproxy.jose.keys import KeySet
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_signing import SigningKey, sign, signing_key

NOW = 1_800_000_000
KEY = signing_key("first")
ISSUER = "https://issuer.example"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "api", "sub": "ci", "exp": NOW + 600, "iat": NOW - 1}
RULES = AccessRules(ISSUER, frozenset({"api", "second"}), ["RS256", "ES256"])
LEFT_OUT: Any = object()


def key_set(*keys: SigningKey) -> KeySet:
    """A key set that publishes ``keys``."""

    async def fetch() -> bytes:
        return json.dumps({"keys": [key.jwk() for key in keys or (KEY,)]}).encode()

    return KeySet(fetch, clock=FakeClock(NOW))


def token(header: Mapping[str, Any] | None = None, key: SigningKey = KEY, **changes: Any) -> str:
    """A right token with ``changes``."""
    return sign({name: value for name, value in (CLAIMS | changes).items() if value is not LEFT_OUT}, key, header)


async def code_of(text: str, rules: AccessRules = RULES, keys: KeySet | None = None) -> str:
    """The code that a token is refused with; "" when it holds."""
    try:
        await check(read(text), keys or key_set(), rules, now=NOW)
    except InvalidToken as error:
        return error.code
    return ""


async def test_a_right_token_gives_its_claims() -> None:
    """Everything that was signed comes back."""
    assert await check(read(token()), key_set(), RULES, now=NOW) == CLAIMS
    assert claimed_issuer(read(token())) == ISSUER


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
async def test_these_types_pass(typ: str | None) -> None:
    """Access tokens with and without RFC 9068, and ID tokens."""
    assert await code_of(token({"typ": typ})) == ""


@pytest.mark.parametrize("typ", ["", "JOSE", "logout+jwt", "dpop+jwt", "secevent+jwt", "application/x", 1, ["JWT"]])
async def test_other_types_are_refused(typ: object) -> None:
    """RFC 8725 section 3.11: a token of one kind must not pass for another."""
    assert await code_of(token({"typ": typ})) == "type_refused"


LONG = int(LONGEST)
WRONG_ISSUERS: list[Any] = [LEFT_OUT, [ISSUER], ISSUER + "/", ISSUER.upper(), None]


WRONG: dict[str, tuple[str, list[Any]]] = {  # the code: the claim, and values that it must not have
    "issuer_mismatch": ("iss", WRONG_ISSUERS),
    "audience_mismatch": (
        "aud", [LEFT_OUT, "", [], "other", ["other"], {"api": 1}, ["api", 1], None, "ap", ["api"] * 101]
    ),
    "exp_invalid": ("exp", [LEFT_OUT, str(NOW), NOW + 600.5, float(NOW + 600), 1e300, True, [NOW + 600], -1, None]),
    "token_expired": ("exp", [NOW - 61, NOW - 60, 0]),
    "lifetime_too_long": ("exp", [NOW + LONG]),
    "iat_invalid": ("iat", [str(NOW), True, None, -1, 1e300]),
    "token_from_future": ("iat", [NOW + 61]),
    "token_not_yet_valid": ("nbf", [NOW + 61]),
    "nbf_invalid": ("nbf", [str(NOW), None, []]),
    "sub_invalid": ("sub", [LEFT_OUT, "", "a\x00b", "a\r\nb", "a" * 256, 7, None, ["ci"]]),
    "type_refused": ("events", [{}]),
    "proof_needed": ("cnf", [{"jkt": "x"}, None]),
}  # fmt: skip
FAULTS = [({claim: value}, code) for code, (claim, values) in WRONG.items() for value in values]
FAULTS.append(({"exp": NOW + LONG + 1, "iat": LEFT_OUT}, "lifetime_too_long"))


@pytest.mark.parametrize(("changes", "code"), FAULTS)
async def test_each_fault_is_refused_by_its_rule(changes: dict[str, Any], code: str) -> None:
    """One claim is wrong in a token that is signed well."""
    assert await code_of(token(**changes)) == code


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "second"]},
        {"exp": NOW - 59},
        {"exp": NOW - 1 + int(LONGEST)},
        {"iat": LEFT_OUT},
        {"iat": NOW + 60},
        {"iat": NOW - 0.5},
        {"nbf": NOW + 60},
        {"nonce": "n", "at_hash": "x", "azp": "another"},
    ],
)
async def test_what_is_still_right_passes(changes: dict[str, Any]) -> None:
    """The edges of the leeway, several audiences, no ``iat``, and an ID token that is for us."""
    assert await code_of(token(**changes)) == ""


async def test_a_signature_counts_with_an_algorithm_of_the_issuer_alone() -> None:
    """An algorithm that is asymmetric, but not this issuer's, is refused before any key is asked for."""
    key = signing_key("ps", "PS256")
    assert await code_of(token(key=key), keys=key_set(key)) == "algorithm_refused"
    assert await code_of(token({"alg": "none"})) == "algorithm_refused"
    assert await code_of(token({"alg": "HS256"})) == "algorithm_refused"


async def test_a_foreign_signature_is_refused() -> None:
    """By a key of the same id, and by one that is not published."""
    assert await code_of(token(key=signing_key("first", number=1))) == "signature_invalid"
    assert await code_of(token(key=signing_key("other"))) == "key_unknown"


async def test_a_long_token_is_not_looked_at() -> None:
    """16 KiB is the end."""
    assert await code_of("a" * (SIZE + 1)) == "token_too_large"
    assert await code_of(token(pad="x" * SIZE)) == "token_too_large"


@pytest.mark.parametrize("issuer", [LEFT_OUT, "", None, 1, [ISSUER]])
def test_a_token_without_an_issuer_chooses_nobody(issuer: object) -> None:
    """Only a text can name an issuer."""
    with pytest.raises(InvalidToken, match="does not name its issuer") as refused:
        claimed_issuer(read(token(iss=issuer)))
    assert refused.value.code == "issuer_unknown"


async def test_keys_that_cannot_be_had_say_nothing_about_the_token() -> None:
    """The failure is the issuer's, not the caller's."""

    async def down() -> bytes:
        raise ProviderError("down")

    with pytest.raises(ProviderError, match="down"):
        await check(read(token()), KeySet(down, clock=FakeClock(NOW)), RULES, now=NOW)


async def test_the_generation_grows_with_other_keys_alone() -> None:
    """A fetch that brings the same keys makes nobody verify anew; one that drops a key does."""
    clock, entries = FakeClock(NOW), [KEY.jwk()]

    async def fetch() -> bytes:
        return json.dumps({"keys": entries}).encode()

    keys = KeySet(fetch, clock=clock)
    assert keys.generation == 0
    await keys.ensure()
    assert keys.generation == 1
    clock.forward(5000)
    await keys.ensure()
    assert keys.generation == 1
    entries[:] = [signing_key("next").jwk()]
    clock.forward(5000)
    await keys.ensure()
    assert keys.generation == 2


def test_rules_show_no_more_than_they_must() -> None:
    """For logs."""
    assert repr(RULES) == f"<AccessRules of '{ISSUER}' for 2 audiences>"
