"""Signing keys: which are loaded, what is published of them, and what they sign."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from authproxy.jose.sign import SigningRing, load_private, new_signing_key


def changed(**changes: Any) -> str:
    """A good key with members changed, or taken away by None."""
    return json.dumps({name: value for name, value in {**new_signing_key(), **changes}.items() if value is not None})


def test_a_made_key_is_loaded_and_named_by_its_thumbprint() -> None:
    """With or without its id it has the same one (RFC 7638)."""
    key = new_signing_key()
    bare = {name: key[name] for name in ("kty", "crv", "x", "y", "d")}
    assert load_private(json.dumps(key)).kid == load_private(json.dumps(bare)).kid == key["kid"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "not json", "{}", '{"kty":"oct","k":"c2VjcmV0"}', changed(d=None), changed(crv="P-384"),
        changed(alg="HS256"), changed(use="enc"), changed(key_ops=["verify"]), changed(d="AAAA"), changed(kid=7),
        changed(d="A" * 43), changed(x=new_signing_key()["x"]), changed(kid="k" * 300), '{"kty":"EC","kty":"EC"}',
    ],
    ids=range(16),
)  # fmt: skip
def test_what_is_no_private_es256_key_is_refused(text: str) -> None:
    """With a sentence that holds nothing of the key."""
    with pytest.raises(ValueError) as refused:
        load_private(text)
    assert "the key" in str(refused.value)
    assert not any(len(word) > 20 for word in str(refused.value).split())


def test_the_first_signs_and_all_are_published_without_their_private_half() -> None:
    """Another library verifies with what is published; no private member is there."""
    texts = [new_signing_key(), new_signing_key()]
    ring = SigningRing([load_private(json.dumps(one)) for one in texts])
    token = ring.sign({"sub": "a"}, typ="x+jwt")
    published = json.loads(ring.published)["keys"]
    assert [key["kid"] for key in published] == [one["kid"] for one in texts]
    assert not any("d" in key for key in published)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": texts[0]["kid"], "typ": "x+jwt"}
    material = jwt.PyJWK(published[0]).key
    assert jwt.api_jws.decode(token, material, algorithms=["ES256"]) == b'{"sub":"a"}'
    assert ring.sign({"sub": "a"}, typ="x+jwt") == token
    assert texts[0]["d"] not in repr(ring)


def test_a_ring_is_not_empty_and_its_ids_differ() -> None:
    """Two keys under one id would make it a matter of luck which one verifies."""
    key = load_private(json.dumps(new_signing_key()))
    for wrong in ([], [key, key]):
        with pytest.raises(ValueError):
            SigningRing(wrong)


def test_subkeys_differ_by_purpose_and_key() -> None:
    """No use of a key can be mistaken for another."""
    ring = SigningRing([load_private(json.dumps(new_signing_key())) for _ in range(2)])
    assert len({*ring.subkeys("one"), *ring.subkeys("two")}) == 4
    assert ring.subkeys("one") == ring.subkeys("one")
