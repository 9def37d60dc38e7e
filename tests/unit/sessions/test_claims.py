"""Claims in memory: equal to what the provider said, and there once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authproxy.sessions.claims import TokenClaims, held_once, payload
from authproxy.sessions.sealing import KeyRing, encode
from authproxy.sessions.vault import Vault
from authproxy.store.memory import MemoryStore
from tests.unit.sessions.test_cookie import a_ticket
from tests.unit.sessions.test_live import a_record

CLAIMS: dict[str, Any] = {"sub": "u1", "groups": ["staff", "admins"], "exp": 1600, "realm": {"roles": ["a"]}}


def token_of(claims: object) -> str:
    """What a provider would send, but for the signature."""
    return f"{encode(b'{}')}.{encode(json.dumps(claims).encode())}.{encode(b'signature')}"


def test_the_token_has_them_already() -> None:
    """Claims that stand in the ID token are read out of it; they are what they were, in every way of looking."""
    held = held_once(CLAIMS, token_of(CLAIMS))
    assert isinstance(held, TokenClaims)
    assert held == CLAIMS
    assert dict(held) == CLAIMS
    assert (held["sub"], held.get("none"), len(held), "exp" in held, bool(held)) == ("u1", None, 4, True, True)
    assert held_once(held, token_of(CLAIMS)) == CLAIMS
    assert "u1" not in repr(held)


def test_what_userinfo_added_stays() -> None:
    """Claims that are more than the token's, or others, are kept; their groups are those of all other sessions."""
    more = {**CLAIMS, "name": "Ann"}
    one, two = (held_once(json.loads(json.dumps(more)), token_of(CLAIMS)) for _ in range(2))
    assert one == two == more
    groups = [claims["groups"] for claims in (one, two)]
    assert groups[0][0] is groups[1][0]  # type: ignore[index]
    assert held_once({**CLAIMS, "sub": "u2"}, token_of(CLAIMS))["sub"] == "u2"
    assert held_once({}, token_of(CLAIMS)) == {}


@pytest.mark.parametrize("token", ["", "opaque", "a.b", "a.%.c", f"a.{encode(b'[1]')}.c", f"a.{encode(b'{')}.c"])
def test_what_is_no_token_has_no_claims(token: str) -> None:
    """An ID token that cannot be read gives nothing, and the claims beside it are kept."""
    assert payload(token) == {}
    assert held_once(CLAIMS, token) == CLAIMS


async def test_they_are_stored_whole() -> None:
    """A record that is written from memory is read as it was."""
    vault, ticket = Vault(MemoryStore(), KeyRing([b"k" * 32])), a_ticket(absolute_end=9e9)
    record = a_record(id_token=token_of(CLAIMS), claims=TokenClaims(token_of(CLAIMS)))
    await vault.save(ticket, record, expected=None, now=1000.0)
    stored = await vault.load(ticket)
    assert stored is not None
    assert stored.record == record._replace(claims=CLAIMS)
