"""Key sets: which keys count, and how often the issuer is asked (B22, B23, B24)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from authproxy.errors import ProviderError
from authproxy.jose import keys
from authproxy.jose.keys import KeySet, parse
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_signing import b64, signing_key
from tests.peers.program import PATIENCE

RSA = signing_key("rsa")
EC = signing_key("ec", "ES256")
ED = signing_key("ed", "EdDSA")


def jwks(*entries: Any) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


class Issuer:
    """Publishes ``entries``; counts how often it is asked; ``error`` or ``body`` replace the answer."""

    def __init__(self, *entries: Any) -> None:
        self.entries = list(entries)
        self.asked = 0
        self.error: Exception | None = None
        self.body: bytes | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return jwks(*self.entries) if self.body is None else self.body


def kids(found: tuple[keys.Key, ...]) -> list[str | None]:
    return [key.kid for key in found]


async def test_the_key_id_and_the_algorithm_select() -> None:
    """A key is a candidate where its id is the token's and its type fits the algorithm."""
    key_set = KeySet(Issuer(RSA.jwk(alg=None), EC.jwk(), ED.jwk()).fetch, clock=FakeClock())
    assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    assert kids(await key_set.candidates("rsa", "PS512")) == ["rsa"]
    assert kids(await key_set.candidates("ec", "ES256")) == ["ec"]
    assert kids(await key_set.candidates("ed", "EdDSA")) == ["ed"]
    assert await key_set.candidates("ec", "RS256") == ()
    assert await key_set.candidates("ec", "ES384") == ()


async def test_without_a_key_id_all_fitting_keys_are_tried_ten_at_most() -> None:
    """A6 and A7: a token without an id is tried with every usable key, with a bound on the work."""
    many = [RSA.jwk(kid=f"k{number}") for number in range(15)]
    key_set = KeySet(Issuer(EC.jwk(), *many).fetch, clock=FakeClock())
    assert len(await key_set.candidates(None, "RS256")) == keys.TRIED


async def test_keys_of_one_id_are_all_candidates() -> None:
    """B24: duplicate ids are not resolved by order."""
    other = signing_key("rsa", number=1)
    key_set = KeySet(Issuer(RSA.jwk(), other.jwk(), EC.jwk(kid="rsa")).fetch, clock=FakeClock())
    assert len(await key_set.candidates("rsa", "RS256")) == 2
    assert len(await key_set.candidates("rsa", "ES256")) == 1


UNUSABLE: dict[str, Any] = {
    "for encryption": RSA.jwk(use="enc"),
    "use is a number": RSA.jwk(use=1),
    "not to verify": RSA.jwk(key_ops=["encrypt"]),
    "to sign only": RSA.jwk(key_ops=["sign"]),
    "operations are text": RSA.jwk(key_ops="verify"),
    "another algorithm": EC.jwk(alg="ES384"),
    "an unknown algorithm": RSA.jwk(alg="RSA-OAEP"),
    "a symmetric algorithm": RSA.jwk(alg="HS256"),
    "algorithm is a list": RSA.jwk(alg=["RS256"]),
    "a shared secret": {"kty": "oct", "k": b64(b"x" * 64), "kid": "oct", "alg": "HS256"},
    "512 bits": signing_key("short", bits=1024).jwk(),
    "no modulus": {"kty": "RSA", "e": "AQAB", "kid": "broken"},
    "an even exponent": RSA.jwk(e="Ag"),
    "modulus is a number": RSA.jwk(n=5),
    "modulus is not base64url": RSA.jwk(n="!!!"),
    "a point off the curve": EC.jwk(x=b64(b"\x01" * 32)),
    "another curve": EC.jwk(crv="P-384"),
    "an unknown curve": EC.jwk(crv="secp256k1"),
    "a short coordinate": EC.jwk(x=b64(b"\x01" * 31)),
    "an unknown type": {"kty": "AKP", "kid": "new"},
    "type is a list": RSA.jwk(kty=["RSA"]),
    "key id is a number": RSA.jwk(kid=7),
    "a published private key": RSA.jwk(d=b64(b"1")),
    "not an object": "RSA",
    "null": None,
}


@pytest.mark.parametrize("entry", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_key_is_ignored_and_its_neighbours_serve(entry: Any) -> None:
    """B24: one bad entry takes no other key with it, and is itself never used."""
    good = signing_key("good", number=1)
    assert kids(parse(jwks(entry, good.jwk()))) == ["good"]


@pytest.mark.parametrize(
    "entry", [RSA.jwk(use=None), RSA.jwk(key_ops=["verify", "sign"]), RSA.jwk(alg=None), RSA.jwk(x5c=["MII"], x5t="x")]
)
def test_a_usable_key_may_be_described_in_several_ways(entry: Any) -> None:
    """``use``, ``key_ops`` and ``alg`` may be absent, and unknown members are ignored (RFC 7517 section 5)."""
    assert kids(parse(jwks(entry))) == ["rsa"]


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "not json": b"<html>",
    "an array": b"[]",
    "no keys": b"{}",
    "keys is an object": b'{"keys": {}}',
    "an empty set": jwks(),
    "no usable key": jwks({"kty": "oct", "k": "AA"}),
    "too large": jwks(RSA.jwk()) + b" " * keys.SIZE,
    "a duplicate member": b'{"keys": [], "keys": []}',
    "100,000 levels": b'{"keys":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", BAD_SETS.values(), ids=BAD_SETS.keys())
async def test_garbage_does_not_replace_the_last_good_set(body: bytes) -> None:
    """B23: garbage, an empty set and a huge one leave the keys as they were."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    issuer.body = body
    clock.forward(1300)
    assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    assert issuer.asked == 2
    assert key_set.last_error


async def test_nothing_fetched_and_nothing_to_be_had_is_the_providers_failure() -> None:
    """Without any key nothing is said about the token."""
    issuer = Issuer()
    issuer.error = ProviderError("the issuer is down")
    with pytest.raises(ProviderError, match="down"):
        await KeySet(issuer.fetch, clock=FakeClock()).candidates("rsa", "RS256")


async def test_keys_serve_on_while_the_issuer_is_down_until_max_stale() -> None:
    """B23: an outage of hours refuses nobody; the keys of yesterday are not believed for ever."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, max_stale=86400)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    for _ in range(23):
        clock.forward(3600)
        assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    clock.forward(3601)
    with pytest.raises(ProviderError):
        await key_set.candidates("rsa", "RS256")


async def test_a_rotated_key_is_found_at_once() -> None:
    """A20: the first unknown id asks the issuer, although the set was fetched a moment ago."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.entries.append(signing_key("next", number=1).jwk())
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]
    assert issuer.asked == 2


async def test_a_flood_of_unknown_ids_asks_once_for_each_cooldown() -> None:
    """B22: a thousand made-up ids in a minute cause six fetches, and known ids are not disturbed."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    for number in range(1000):
        assert await key_set.candidates(f"made-up-{number}", "RS256") == ()
        assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
        clock.forward(0.06)
    assert issuer.asked - 1 == 6


async def test_what_is_remembered_of_unknown_ids_is_bounded() -> None:
    """Years of made-up ids do not fill the memory."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, cooldown=0.5)
    for number in range(1100):
        await key_set.candidates(f"made-up-{number}", "RS256")
        clock.forward(0.5)
    assert len(key_set._missing) == 1024


async def test_known_keys_do_not_wait_for_a_search() -> None:
    """B22: while the issuer hangs over an unknown id, tokens with known ids are judged at once."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.gate.clear()
    search = asyncio.ensure_future(key_set.candidates("made-up", "RS256"))
    await asyncio.sleep(0)
    assert kids(await asyncio.wait_for(key_set.candidates("rsa", "RS256"), PATIENCE)) == ["rsa"]
    issuer.gate.set()
    assert await search == ()


async def test_everybody_who_waits_for_one_search_gets_its_find() -> None:
    """Twenty tokens under a new id at the same instant: one fetch, twenty answers."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.entries.append(signing_key("next", number=1).jwk())
    issuer.gate.clear()
    searches = [asyncio.ensure_future(key_set.candidates("next", "RS256")) for _ in range(20)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert [kids(found) for found in await asyncio.gather(*searches)] == [["next"]] * 20
    assert issuer.asked == 2


async def test_one_stale_token_asks_ever_more_rarely() -> None:
    """The same unknown id searches after 10, 20, 40, ... seconds; a new id still has its turn at the next cool-down."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, max_age=1e9)
    await key_set.ensure()
    for _ in range(151):
        await key_set.candidates("gone", "RS256")
        clock.forward(1)
    assert issuer.asked - 1 == 5  # at 0, 10, 30, 70 and 150
    clock.forward(11)
    issuer.entries.append(signing_key("next", number=1).jwk())
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]


async def test_a_known_id_for_another_algorithm_asks_nobody() -> None:
    """A token that names a key of another type is simply wrong."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    assert await key_set.candidates("rsa", "ES256") == ()
    assert issuer.asked == 1


async def test_a_failed_search_keeps_the_set_and_its_id_may_be_searched_again() -> None:
    """An unknown id during an outage is not remembered as missing."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    assert await key_set.candidates("next", "RS256") == ()
    issuer.error = None
    issuer.entries.append(signing_key("next", number=1).jwk())
    clock.forward(10)
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]


async def test_a_withdrawn_key_goes_with_the_next_fetch() -> None:
    """What the issuer no longer publishes is no longer believed, and remembered tokens can see it go."""
    issuer, clock = Issuer(RSA.jwk(), EC.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    assert key_set.key_ids == {"rsa", "ec"}
    issuer.entries.pop(0)
    clock.forward(1300)
    assert await key_set.candidates("rsa", "RS256") == ()
    assert key_set.key_ids == {"ec"}


async def test_repr_says_how_many_and_how_old() -> None:
    """The state at a glance."""
    clock = FakeClock()
    key_set = KeySet(Issuer(RSA.jwk(), EC.jwk(), ED.jwk()).fetch, clock=clock)
    assert repr(key_set) == "<KeySet never fetched>"
    await key_set.ensure()
    clock.forward(41)
    assert repr(key_set) == "<KeySet 3 keys, fetched 41s ago>"
