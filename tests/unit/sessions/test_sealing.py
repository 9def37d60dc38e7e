"""Sealing: what is sealed opens with its key, purpose and context, and with nothing else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.sessions.sealing import KeyRing, decode, digest, encode, seal, token, unseal

OLD, NEW, STRANGER = os.urandom(32), os.urandom(32), os.urandom(32)


@given(st.binary(max_size=4000), st.text(max_size=30))
def test_what_is_sealed_opens_again(plain: bytes, context: str) -> None:
    """Opening gives the very bytes back, for any content and context."""
    ring = KeyRing([NEW])
    assert ring.open("purpose", ring.seal("purpose", plain, context), context) == plain


def test_every_changed_bit_closes_it() -> None:
    """A sealed text in which any one bit was changed opens nothing."""
    sealed = decode(KeyRing([NEW]).seal("purpose", b"content")) or b""
    ring = KeyRing([NEW])
    for position in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[position] ^= 1 << bit
            assert ring.open("purpose", encode(bytes(changed))) is None


def test_purpose_and_context_are_bound() -> None:
    """A value sealed for one use cannot be brought in as another."""
    ring = KeyRing([NEW])
    sealed = ring.seal("session", b"content", "here")
    assert ring.open("state", sealed, "here") is None
    assert ring.open("session", sealed, "there") is None


def test_the_first_key_seals_and_all_open() -> None:
    """After a rotation the old cookies open; a replica that knows only the old key does not open the new ones."""
    old, both = KeyRing([OLD]), KeyRing([NEW, OLD])
    assert both.open("p", old.seal("p", b"x")) == b"x"
    assert old.open("p", both.seal("p", b"x")) is None
    assert KeyRing([STRANGER]).open("p", both.seal("p", b"x")) is None


@pytest.mark.parametrize("text", ["", "A", "AAAA", "====", "é", "a b", "A" * 200_000, "_" * 90])
def test_garbage_opens_nothing(text: str) -> None:
    """Whatever a client sends as a cookie is refused without an error."""
    assert KeyRing([NEW]).open("p", text) is None


def test_two_sealings_share_nothing() -> None:
    """The same content sealed twice gives two texts: each message has its own key and nonce."""
    ring = KeyRing([NEW])
    assert ring.seal("p", b"x") != ring.seal("p", b"x")


def test_a_record_sealed_under_a_secret_opens_only_under_it() -> None:
    """``seal`` and ``unseal`` under a plain key behave as the ring does."""
    sealed = seal(OLD, "record", b"content", "sid")
    assert unseal(OLD, "record", sealed, "sid") == b"content"
    assert unseal(NEW, "record", sealed, "sid") is None
    assert unseal(OLD, "record", sealed[:10], "sid") is None
    assert unseal(OLD, "record", b"\x02" + sealed[1:], "sid") is None


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD, b""]])
def test_a_ring_needs_whole_keys(keys: list[bytes]) -> None:
    """A ring without keys, or with a key of another length, cannot be made."""
    with pytest.raises(ValueError, match="32 bytes"):
        KeyRing(keys)


@given(st.binary(max_size=64))
def test_encode_and_decode_are_inverse(data: bytes) -> None:
    """Text that ``encode`` wrote is read back."""
    assert decode(encode(data)) == data


@pytest.mark.parametrize("text", ["AB==", "A\n", "+/+/", "AAB", "A"])
def test_decode_takes_only_what_encode_writes(text: str) -> None:
    """Padding, white space, the other alphabet and loose last bits are refused, so that one value has one spelling."""
    assert decode(text) is None


def test_digests_do_not_confuse_their_parts() -> None:
    """Moving a character from one part to the next gives another name."""
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab", "c") == digest("ab", "c")


def test_tokens_are_long_and_different() -> None:
    """A token has 256 bits unless asked otherwise, and no two are equal."""
    made = {token() for _ in range(200)}
    assert len(made) == 200
    assert all(len(one) == 43 for one in made)


def test_no_key_is_shown() -> None:
    """The ring's repr tells how many keys there are, and nothing of them."""
    assert repr(KeyRing([NEW, OLD])) == "<KeyRing 2 keys>"
