"""Claims of any shape become fields that are safe to use, or are left out (B36, B37)."""

from __future__ import annotations

import pytest

from authproxy.oidc.identity import GROUPS, identity_fields

ALICE: dict[str, object] = {
    "sub": "s-1",
    "email": "alice@example.com",
    "email_verified": True,
    "preferred_username": "alice",
    "groups": ["staff", "admins"],
}


def test_the_usual_claims_need_no_mapping() -> None:
    """user is the e-mail address by default."""
    assert identity_fields(ALICE, {}) == ("alice@example.com", "alice@example.com", True, "alice", ("staff", "admins"))


@pytest.mark.parametrize(
    ("changes", "user"),
    [
        ({"email": None}, "alice"),
        ({"email": "", "preferred_username": None}, "s-1"),
        ({"email_verified": False}, "alice"),
        ({"email_verified": "true"}, "alice"),
        ({"email_verified": None, "preferred_username": ""}, "s-1"),
    ],
)
def test_the_default_user_is_the_first_that_is_known_and_not_doubtful(changes: dict[str, object], user: str) -> None:
    """An address that the provider has not verified names nobody."""
    assert identity_fields(ALICE | changes, {}).user == user


def test_an_address_without_a_word_about_verification_counts() -> None:
    """Many providers verify all and say nothing; the verified flag stays false."""
    fields = identity_fields({"sub": "s-1", "email": "a@example.com"}, {})
    assert (fields.user, fields.email_verified) == ("a@example.com", False)


def test_a_mapping_names_other_claims_even_nested_ones() -> None:
    """Dots walk into nested claims, unless a claim has the whole name."""
    claims = ALICE | {"realm": {"roles": ["r1"]}, "https://example.com/groups": "g1", "upn": "alice@corp"}
    mapping = {"user": "upn", "groups": "realm.roles", "email": "upn", "preferred_username": "sub"}
    assert identity_fields(claims, mapping) == ("alice@corp", "alice@corp", True, "s-1", ("r1",))
    assert identity_fields(claims, {"groups": "https://example.com/groups"}).groups == ("g1",)
    assert identity_fields(claims, {"groups": "realm.roles.x.y"}).groups == ()


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ("staff", ("staff",)),
        ("a,b", ("a,b",)),
        ([], ()),
        (None, ()),
        ({"staff": True}, ()),
        (7, ()),
        (["a", 7, None, ["b"], "", "c\r\nX: 1", "c\0", "d"], ("a", "d")),
        (["a", "b", "a"], ("a", "b")),
        (["gruppe-ä"], ("gruppe-ä",)),
    ],
)
def test_groups_come_as_text_or_as_a_list_of_texts(said: object, groups: tuple[str, ...]) -> None:
    """B37: everything else is left out, which can only take access away."""
    assert identity_fields(ALICE | {"groups": said}, {}).groups == groups


def test_groups_are_bounded() -> None:
    """B37: ten thousand are read, no more."""
    assert len(identity_fields({"groups": [str(n) for n in range(GROUPS + 5)]}, {}).groups) == GROUPS


@pytest.mark.parametrize("value", ["a\nb", "a\0", "a\x7f", "a\u2028b", "x" * 2000, 7, ["a"], None, True])
def test_a_field_is_one_printable_line(value: object) -> None:
    """What could break a header or a log line is as good as absent."""
    fields = identity_fields({"sub": "s-1", "email": value, "preferred_username": value}, {})
    assert (fields.user, fields.email, fields.preferred_username) == ("s-1", "", "")


@pytest.mark.parametrize("value", [False, "true", "True", 1, None, [True]])
def test_verified_is_the_json_value_true_alone(value: object) -> None:
    """B36: a text is no truth value."""
    assert identity_fields(ALICE | {"email_verified": value}, {}).email_verified is False
