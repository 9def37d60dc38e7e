"""Records and shared tokens: sealed, written by compare-and-set, and of use to nobody who reads the store alone."""

from __future__ import annotations

import os

from authproxy.sessions.records import RefreshToken, SharedTokens
from authproxy.sessions.sealing import KeyRing
from authproxy.sessions.vault import Vault, share_scope
from authproxy.store import keys
from authproxy.store.memory import MemoryStore
from tests.unit.sessions.test_cookie import a_ticket
from tests.unit.sessions.test_live import Clock, a_record

RING = KeyRing([os.urandom(32)])


def a_vault() -> tuple[Vault, MemoryStore]:
    """A vault over an embedded store at 1000."""
    store = MemoryStore(Clock())
    return Vault(store, RING), store


async def test_a_record_opens_with_its_own_ticket_alone() -> None:
    """Another session's secret, or another session's place, opens nothing."""
    vault, store = a_vault()
    ticket, other = a_ticket(), a_ticket()
    assert await vault.save(ticket, a_record(), expected=None, now=1000.0)
    stored = await vault.load(ticket)
    assert stored is not None
    assert stored.record == a_record()
    assert await vault.load(ticket._replace(secret=other.secret)) is None
    await store.put(keys.session(other.user, other.id), stored.raw, ttl=60)
    assert await vault.load(other) is None
    assert await vault.load(other._replace(secret=ticket.secret)) is None  # the id is sealed in as well


async def test_d5_the_store_holds_no_token_and_no_name() -> None:
    """Neither keys nor values hold the session id, a token or the subject."""
    vault, store = a_vault()
    ticket = a_ticket(subject="alice@example.com", refresh_token="refresh-secret")
    await vault.save(ticket, a_record(id_token="id-secret"), expected=None, now=1000.0)
    scope, token = share_scope(client_id="c", scopes=["openid"]), RefreshToken("rt-secret", "f1", 1, 1000.0)
    await vault.update_shared(ticket, scope, lambda held: held.with_token(token), now=1000.0)
    everything = repr(vars(store)) + repr([vars(part) for part in vars(store).values() if hasattr(part, "__dict__")])
    for secret in (ticket.sid, ticket.secret, "refresh-secret", "id-secret", "rt-secret", "alice@example.com"):
        assert secret not in everything


async def test_d14_an_older_writer_does_not_win() -> None:
    """A save that was prepared before another one is refused, so that no update is lost."""
    vault, _ = a_vault()
    ticket = a_ticket()
    await vault.save(ticket, a_record(), expected=None, now=1000.0)
    stored = await vault.load(ticket)
    assert stored is not None
    assert await vault.save(ticket, a_record(generation=2), expected=stored.raw, now=1000.0)
    assert not await vault.save(ticket, a_record(generation=1), expected=stored.raw, now=1000.0)
    assert not await vault.save(ticket, a_record(), expected=None, now=1000.0)


async def test_a_record_ends_with_its_session() -> None:
    """Nothing is written for a session that is past its absolute end."""
    vault, _ = a_vault()
    ticket = a_ticket()
    assert not await vault.save(ticket, a_record(), expected=None, now=ticket.absolute_end)


async def test_forgetting_tells_how_many_sessions_are_left() -> None:
    """The index by subject counts a user's sessions, so that the last sign-out can revoke the shared token."""
    vault, _ = a_vault()
    one, two = a_ticket(), a_ticket()
    await vault.save(one, a_record(), expected=None, now=1000.0)
    await vault.save(two, a_record(), expected=None, now=1000.0)
    await vault.forget(one)
    assert await vault.count(one) == 1
    await vault.forget(two)
    assert await vault.count(two) == 0
    assert await vault.load(one) is None


async def test_the_newest_shared_token_stays() -> None:
    """A step that is behind never replaces a newer one; another scope has its own tokens."""
    vault, _ = a_vault()
    ticket, scope = a_ticket(), share_scope(client_id="c", scopes=["b", "a"])
    three, two = RefreshToken("three", "f1", 3, 1000.0), RefreshToken("two", "f1", 2, 1000.0)
    await vault.update_shared(ticket, scope, lambda held: held.with_token(three), now=1000.0)
    await vault.update_shared(ticket, scope, lambda held: held.with_token(two), now=1000.0)
    assert (await vault.shared(ticket, share_scope(client_id="c", scopes=["a", "b"]))).tokens == (three,)
    assert await vault.shared(ticket, share_scope(client_id="c", scopes=["a"])) == SharedTokens()
    await vault.forget_shared(ticket, scope)
    assert await vault.shared(ticket, scope) == SharedTokens()


async def test_dead_tokens_are_remembered_by_digest() -> None:
    """A buried token is known as dead; others are not."""
    vault, _ = a_vault()
    await vault.bury("dead-token", ttl=60)
    assert await vault.is_dead("dead-token")
    assert not await vault.is_dead("live-token")


def test_no_token_is_shown() -> None:
    """Records and shared tokens keep what they hold out of their repr."""
    token = RefreshToken("secret", "f1")
    assert "secret" not in repr(a_record(id_token="secret", access_token="secret", token=token))
    assert "secret" not in repr(token) + repr(SharedTokens().with_token(token))
