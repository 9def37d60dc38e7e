"""Refresh tokens in order, and the stored forms: every version that may still be read has a golden sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.sessions.cookie import Ticket, decode_ticket, encode_ticket
from authproxy.sessions.records import (
    OVERLAP_SECONDS,
    Record,
    RefreshToken,
    SharedTokens,
    decode_record,
    decode_shared,
    encode_record,
    encode_shared,
    newest_first,
)
from authproxy.signin import grace

STORED = Path(__file__).parents[2] / "golden" / "stored"
TOKEN = RefreshToken("refresh-1", "family-1", 2, 900.0)
LEGACY = RefreshToken("refresh-1", "", 3, 0.0)
TICKET = Ticket(
    sid="sid-1", secret="c2VjcmV0", provider="dex", issuer="https://dex.example.com", subject="subject-1",
    host="app.example.com", sealed_at=1000.5, signed_in_at=900.25, absolute_end=605700.25, generation=3, token=TOKEN,
    provider_sid="provider-sid-1",
)  # fmt: skip
RECORD = Record(
    generation=3, token=TOKEN, id_token="id-token-1", access_token="access-token-1",
    claims={"sub": "subject-1", "groups": ["staff"]}, expires_at=1600.0, last_used=1000.5, refreshed_at=1000.0,
)  # fmt: skip
SHARED = SharedTokens(
    (RefreshToken("refresh-2", "family-2", 0, 905.0), TOKEN), {"family-1": 2, "family-2": 0}, (990.0,)
)
READ: dict[str, tuple[Callable[[bytes], Any], Any]] = {
    "ticket.v1": (decode_ticket, TICKET._replace(host="", token=LEGACY)),
    "ticket.v2": (decode_ticket, TICKET),
    "record.v1": (decode_record, RECORD._replace(token=LEGACY)),
    "record.v2": (decode_record, RECORD),
    "shared-tokens.v1": (decode_shared, SharedTokens((LEGACY,), {"": 3})),
    "shared-tokens.v2": (decode_shared, SHARED),
    "renewed-users.v1": (grace.decode, {"user-digest-2": 1000.5, "user-digest-1": 900.0}),
}
WRITTEN = {
    "ticket.v2": encode_ticket(TICKET), "record.v2": encode_record(RECORD), "shared-tokens.v2": encode_shared(SHARED),
}  # fmt: skip
ODD: list[Any] = [None, "text", 7, 1.5, True, [], {}, [[]], {"a": {}}, ["a", 1]]
DECODERS = [decode_ticket, decode_record, decode_shared, grace.decode]


def sample(name: str) -> bytes:
    """One golden sample."""
    return (STORED / f"{name}.json").read_bytes().rstrip(b"\n")


def test_every_sample_is_read_here() -> None:
    """No version is forgotten when its form changes."""
    assert {path.stem for path in STORED.glob("*.json")} == READ.keys()


@pytest.mark.parametrize("name", READ)
def test_every_version_is_read(name: str) -> None:
    """A value that an earlier version of the program wrote means what it meant."""
    decode, expected = READ[name]
    assert decode(sample(name)) == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_has_not_changed(name: str) -> None:
    """Another form needs another version: replicas of two versions share the store."""
    assert WRITTEN[name] == sample(name)


@pytest.mark.parametrize("name", [name for name in READ if name not in ("ticket.v1", "record.v1", "shared-tokens.v1")])
def test_unknown_fields_are_ignored_and_unknown_versions_are_absent(name: str) -> None:
    """A later version may add fields without a new number; a new number is not understood."""
    decode, expected = READ[name]
    fields = json.loads(sample(name))
    assert decode(json.dumps({**fields, "later": [1]}).encode()) == expected
    for version in (0, 99, "2", None, [2]):
        assert not decode(json.dumps({**fields, "v": version}).encode())


@pytest.mark.parametrize("name", READ)
def test_fields_that_are_missing_or_of_another_type_make_it_absent(name: str) -> None:
    """Each field in turn, each in every other type: absent, and never an error."""
    decode, expected = READ[name]
    found = json.loads(sample(name))
    for key in list(found) if isinstance(found, dict) else range(len(found)):
        for value in ODD:
            changed = {**found, key: value} if isinstance(found, dict) else [*found[:key], value, *found[key + 1 :]]
            read = decode(json.dumps(changed).encode())
            assert read is None or isinstance(read, type(expected))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_garbage_is_absent(plain: bytes) -> None:
    """Whatever was sealed: nothing raises."""
    for decode in DECODERS:
        decode(plain)


def test_deep_nesting_is_absent() -> None:
    """JSON that exhausts the parser is garbage as well."""
    for decode in DECODERS:
        assert not decode(b"[" * 100_000)


# --- order ---


def token(value: str, family: str, step: int = 0, issued_at: float = 1000.0) -> RefreshToken:
    """A token of a sign-in."""
    return RefreshToken(value, family, step, issued_at)


def test_rotations_of_one_sign_in_are_ordered_by_step() -> None:
    """A clock that was set back does not make an older rotation the newer one."""
    old, new = token("old", "f", 1, 2000.0), token("new", "f", 2, 1000.0)
    assert newest_first([old, new], {}) == newest_first([new, old], {}) == [new]


def test_sign_ins_are_ordered_by_their_time_of_issue() -> None:
    """Not by how often a token was rotated: a dead token must not outrank the living one."""
    dead, living = token("dead", "first", 70, 1000.0), token("living", "second", 0, 1001.0)
    assert newest_first([dead, living], {}) == [living, dead]


def test_equal_and_unknown_times_keep_every_token() -> None:
    """Then only the provider can tell; the order in which they come stays."""
    one, two, unknown = token("1", "a"), token("2", "b"), token("3", "c", issued_at=0.0)
    assert newest_first([one, two, unknown], {}) == [one, two, unknown]
    assert newest_first([unknown, two, one], {}) == [two, one, unknown]


def test_a_token_that_is_known_to_be_rotated_is_left_out() -> None:
    """Sending it again ends the grant at a strict provider."""
    assert newest_first([token("old", "f", 3)], {"f": 4}) == []
    assert newest_first([token("", "f")], {}) == []


def test_a_later_sign_in_replaces_what_it_made_invalid() -> None:
    """Tokens that were issued at about the same time stay, since their order is not certain."""
    first = SharedTokens().with_token(token("1", "a", issued_at=1000.0))
    near = first.with_token(token("2", "b", issued_at=1000.0 + OVERLAP_SECONDS))
    assert [one.value for one in near.tokens] == ["2", "1"]
    far = near.with_token(token("3", "c", issued_at=1001.0 + OVERLAP_SECONDS))
    assert [one.value for one in far.tokens] == ["3", "2"]
    late = far.with_token(token("0", "d", issued_at=500.0))  # written late, or the provider's clock was set back
    assert [one.value for one in late.tokens] == ["3", "2", "0"]
    assert late.steps.keys() == {"a", "b", "c", "d"}
    assert [one.value for one in late.with_token(token("3", "c", 1, 1040.0)).tokens] == ["3", "2"]


def test_only_what_is_surely_invalid_is_replaced() -> None:
    """Of sign-ins at about the same time, and of unknown times, either may be the one that the provider kept."""
    new = token("new", "n", issued_at=2000.0)
    assert new.replaces(token("old", "o", 50, 2000.0 - OVERLAP_SECONDS - 1))
    assert not new.replaces(token("near", "o", issued_at=2000.0 - OVERLAP_SECONDS))
    assert not new.replaces(token("unknown", "o", issued_at=0.0))
    assert not token("unknown", "n", issued_at=0.0).replaces(token("old", "o"))
    assert token("step", "o", 2, 1.0).replaces(token("old", "o", 1, 9.0))
    assert not token("step", "o", 1).replaces(token("old", "o", 1))


def test_an_older_step_changes_nothing() -> None:
    """A replica that comes late with an older rotation of the same sign-in."""
    shared = SharedTokens().with_token(token("2", "a", 2))
    assert shared.with_token(token("1", "a", 1)) == shared
    assert shared.without("2").with_token(token("1", "a", 1)).tokens == ()


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.integers(0, 5), st.sampled_from([0.0, 1000.0, 1010.0, 2000.0])),
        max_size=40,
    )
)
def test_shared_tokens_are_bounded_and_hold_one_token_of_a_sign_in(added: list[tuple[str, int, float]]) -> None:
    """However many devices sign in."""
    shared = SharedTokens()
    for family, step, issued_at in added:
        shared = shared.with_token(token(f"{family}{step}", family, step, issued_at))
    families = [one.family for one in shared.tokens]
    assert len(families) == len(set(families)) <= 8
    assert len(shared.steps) <= 16
    assert decode_shared(encode_shared(shared)) == shared
