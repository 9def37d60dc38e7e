"""A session that its provider does not renew, while it renews others: over after the grace, and not in an outage."""

from __future__ import annotations

import pytest

from authproxy.errors import ProviderError
from authproxy.signin.grace import RefreshGrace
from authproxy.store.memory import MemoryStore
from tests.unit.sessions.test_cookie import a_ticket
from tests.unit.sessions.test_live import Clock, a_record

GRACE = 3600.0
DELETED = a_ticket(subject="deleted")
OTHER = a_ticket(subject="other")
FAILED = ProviderError("the token endpoint answered 500", status=500)


def claims(connector: str = "ldap") -> dict[str, object]:
    """What Dex says with the scope ``federated:id``."""
    return {"sub": "s", "federated_claims": {"connector_id": connector, "user_id": "u"}}


RECORD = a_record(claims=claims(), expires_at=1600.0)


class House:
    """Two replicas over one store."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        store = MemoryStore(self.clock)
        self.here, self.there = (RefreshGrace(store, seconds=GRACE, clock=self.clock) for _ in range(2))


@pytest.mark.parametrize("connector", ["ldap", ""])
async def test_it_ends_after_the_grace_when_another_user_was_renewed_on_any_replica(connector: str) -> None:
    """Of the same connector, or where the provider names none, of the same provider."""
    house = House()
    record = a_record(claims=claims() if connector else {"sub": "s"}, expires_at=1600.0)
    house.clock.now = 2000.0
    await house.there.note_renewed(OTHER, record.claims)
    house.clock.now = 1600.0 + GRACE - 1
    assert not await house.here.is_over(DELETED, record.claims, record.expires_at, FAILED)
    house.clock.now += 1
    assert await house.here.is_over(DELETED, record.claims, record.expires_at, FAILED)
    assert await house.there.is_over(DELETED, record.claims, record.expires_at, FAILED)


@pytest.mark.parametrize(
    ("renewed", "at", "connector"),
    [
        (None, 0.0, ""),  # an outage: nobody was renewed
        (DELETED, 2000.0, "ldap"),  # another session of the same user
        (OTHER, 1500.0, "ldap"),  # before the proof ended
        (OTHER, 2000.0, "github"),  # LDAP may be down while GitHub is up
    ],
)
async def test_without_another_user_it_is_an_outage(renewed: object, at: float, connector: str) -> None:
    """Then the session goes on to its absolute end."""
    house = House()
    if renewed is not None:
        house.clock.now = at
        await house.there.note_renewed(DELETED if renewed is DELETED else OTHER, claims(connector))
    house.clock.now = 1600.0 + 100 * GRACE
    assert not await house.here.is_over(DELETED, RECORD.claims, RECORD.expires_at, FAILED)


@pytest.mark.parametrize(
    "error",
    [
        ProviderError("connection refused"),
        ProviderError("limited", status=429, retry_after=5.0),
        ProviderError("the provider has asked to wait", retry_after=5.0),
    ],
)
async def test_only_an_answer_of_the_provider_counts(error: ProviderError) -> None:
    """A network between us and the provider, or a limit, says nothing about the user."""
    house = House()
    house.clock.now = 2000.0
    await house.there.note_renewed(OTHER, claims())
    house.clock.now = 1600.0 + 2 * GRACE
    assert not await house.here.is_over(DELETED, RECORD.claims, RECORD.expires_at, error)
    assert await house.here.is_over(DELETED, RECORD.claims, RECORD.expires_at, FAILED)


async def test_the_store_is_told_now_and_then_and_remembers_two_users() -> None:
    """A hundred renewals a second are one write in half a minute; garbage in the store is as good as nothing."""
    house = House()
    written: list[str] = []
    put = house.here._store.put

    async def counted(key: str, value: bytes, *, ttl: float) -> None:
        written.append(key)
        await put(key, value, ttl=ttl)

    house.here._store.put = counted  # type: ignore[method-assign]
    for number in range(100):
        await house.here.note_renewed(a_ticket(subject=f"user-{number}"), claims())
    assert len(written) == 1
    house.clock.now = 1600.0 + 2 * GRACE
    await house.here.note_renewed(OTHER, claims())
    assert await house.there.is_over(DELETED, RECORD.claims, RECORD.expires_at, FAILED)
    await put(written[0], b"\xff\x00", ttl=60)
    assert not await house.there.is_over(DELETED, RECORD.claims, RECORD.expires_at, FAILED)
