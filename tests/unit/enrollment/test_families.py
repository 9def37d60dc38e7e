"""Families: renewal rotates, a lost answer comes again, a copy ends the family, a revocation reaches every replica."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.enrollment.families import Issued, Scope
from authproxy.errors import NotAuthenticated, Refusal, StoreUnavailable, Unavailable
from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from tests.peers.fake_clock import FakeClock
from tests.peers.redis_server import RedisServer
from tests.unit.enrollment.replicas import EU, KEY, NEXT_KEY, Replica, shape


class Away(MemoryStore):
    """A store that does not answer."""

    async def get(self, key: str) -> bytes | None:
        """Never."""
        raise StoreUnavailable("away")


async def refused(replica: Replica, renewal: str) -> str:
    """The code of the refusal."""
    with pytest.raises(NotAuthenticated) as caught:
        await replica.families.renew(renewal)
    return caught.value.code


async def test_renewal_rotates_both() -> None:
    """The successor has another credential and another renewal, the same family, and goes on working."""
    clock = FakeClock()
    replica = Replica(MemoryStore(clock), clock)
    issued = replica.families.begin("agent", EU)
    for _ in range(3):
        clock.forward(600)
        following = await replica.families.renew(issued.renewal)
        assert following.renewal != issued.renewal
        assert following.credential != issued.credential
        assert following.enrolled == issued.enrolled
        assert following.renewal_expires == issued.renewal_expires
        issued = following


async def test_a_lost_answer_comes_again() -> None:
    """Within 60 s another replica gives the very same successor, letter by letter."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = Replica(store, clock), Replica(store, clock)
    issued = one.families.begin("agent", EU)
    clock.forward(600)
    first = await one.families.renew(issued.renewal)
    clock.forward(60)
    again = await two.families.renew(issued.renewal)
    assert (again.renewal, again.credential) == (first.renewal, first.credential)


async def race(first: Store, second: Store) -> set[tuple[str, str]]:
    """The distinct successors that 20 simultaneous renewals on two replicas are given."""
    clock = FakeClock()
    one, two = Replica(first, clock), Replica(second, FakeClock(clock.now + 1))  # so that each would make another
    issued = one.families.begin("agent", EU)
    found = await asyncio.gather(*(replica.families.renew(issued.renewal) for replica in [one, two] * 10))
    return {(one.credential, one.renewal) for one in found}


async def test_simultaneous_renewals_have_one_successor(redis_server: RedisServer) -> None:
    """20 at once on two replicas over a real Redis: one compare-and-swap wins, everybody gets its result."""
    store = MemoryStore()
    assert len(await race(store, store)) == 1
    stores = [RedisStore.standalone(redis_server.unix_url, budget=5.0) for _ in range(2)]
    try:
        assert len(await race(*stores)) == 1
    finally:
        for store_ in stores:
            await store_.close()


@pytest.mark.parametrize("later", [60.002, 3600.0])
async def test_reuse_outside_the_window_ends_the_family(later: float) -> None:
    """The reuse is refused, and from then on so are the good renewal and the credential, on both replicas."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = Replica(store, clock), Replica(store, clock)
    issued = one.families.begin("agent", EU)
    good = await one.families.renew(issued.renewal)
    clock.forward(later)
    assert await refused(two, issued.renewal) == "renewal_reused"
    assert await refused(one, good.renewal) == "credential_revoked"  # the store says it, before any mark is read
    await one.marks.sync()
    assert one.families.revoked(good.enrolled)


async def test_an_older_generation_ends_the_family_at_once() -> None:
    """The window is for the latest renewal alone: one from before it is a copy, however fresh."""
    clock = FakeClock()
    replica = Replica(MemoryStore(clock), clock)
    issued = replica.families.begin("agent", EU)
    following = await replica.families.renew(issued.renewal)
    await replica.families.renew(following.renewal)
    assert await refused(replica, issued.renewal) == "renewal_reused"
    assert await refused(replica, following.renewal) == "credential_revoked"


async def test_a_clone_is_found_out() -> None:
    """Thief and machine hold one renewal: whoever comes second, later than the window, ends it for both."""
    clock = FakeClock()
    replica = Replica(MemoryStore(clock), clock)
    stolen = replica.families.begin("agent", EU)
    thief = await replica.families.renew(stolen.renewal)
    clock.forward(600)
    assert await refused(replica, stolen.renewal) == "renewal_reused"
    assert await refused(replica, thief.renewal) == "credential_revoked"


async def test_an_emptied_store_stops_no_machine() -> None:
    """The latest renewal goes on; an older one that was accepted meanwhile loses against it."""
    clock = FakeClock()
    before = Replica(MemoryStore(clock), clock)
    issued = before.families.begin("agent", EU)
    latest = await before.families.renew((await before.families.renew(issued.renewal)).renewal)
    after = Replica(MemoryStore(clock), clock)
    thief = await after.families.renew(issued.renewal)
    latest = await after.families.renew(latest.renewal)
    assert await refused(after, thief.renewal) == "renewal_reused"
    assert await refused(after, latest.renewal) == "credential_revoked"


SCOPES: list[tuple[Scope, str]] = [("enrolled-name", "agent"), ("cluster", EU), ("enrolled", "*")]


@pytest.mark.parametrize(("scope", "name"), SCOPES)
async def test_revocation_is_seen_by_the_other_replica(scope: Scope, name: str) -> None:
    """After the next reading the other replica refuses what was enrolled before; what enrolls later is not touched."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = Replica(store, clock), Replica(store, clock)
    issued, other = one.families.begin("agent", EU), one.families.begin("other", "us")
    clock.forward(1)
    await one.families.revoke(scope, name)
    assert await refused(one, issued.renewal) == "credential_revoked"
    await two.marks.sync()
    assert await refused(two, issued.renewal) == "credential_revoked"
    assert two.families.revoked(other.enrolled) is (scope == "enrolled")
    assert (await two.families.renew(two.families.begin("agent", EU).renewal)).credential


async def test_one_family_is_revoked_and_its_sister_is_not() -> None:
    """Two enrollments of one name are two families; the dead one is refused even where the mark was not read yet."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = Replica(store, clock), Replica(store, clock)
    dead, alive = one.families.begin("agent", EU), one.families.begin("agent", EU)
    await one.families.revoke("family", dead.enrolled.family)
    assert await refused(two, dead.renewal) == "credential_revoked"
    assert (await two.families.renew(alive.renewal)).credential


async def test_renewal_ends_with_the_enrollment() -> None:
    """The end never slides, and no credential outlives it."""
    clock = FakeClock()
    section = shape(credential={"lifetime": "15m", "renewable_for": "20m"})
    replica = Replica(MemoryStore(clock), clock, section)
    issued: Issued = replica.families.begin("agent", EU)
    clock.forward(600)
    following = await replica.families.renew(issued.renewal)
    assert following.expires == clock.now + 600
    clock.forward(600)
    assert await refused(replica, following.renewal) == "renewal_expired"


async def test_a_renewal_cannot_be_made_up() -> None:
    """Changed, cut, of another key, or another kind of text: refused, and no family ends for it."""
    clock = FakeClock()
    replica = Replica(MemoryStore(clock), clock)
    issued = replica.families.begin("agent", EU)
    body, _, code = issued.renewal.rpartition(".")
    minted = (await replica.tokens.mint("agent", EU)).text
    stranger = Replica(MemoryStore(clock), clock, shape(NEXT_KEY)).families.begin("agent", EU).renewal
    for forged in ("", "apr_", ".", body, body + ".", body + "." + code[:-1], body + "A." + code, "é" + issued.renewal,
                   stranger, minted, "apr_" + minted[4:], issued.credential, "x" * 100_000):  # fmt: skip
        assert await refused(replica, forged) == "renewal_invalid"
    assert (await replica.families.renew(issued.renewal)).credential


async def test_a_key_rotation_refuses_nobody() -> None:
    """With the new key in front and the old one kept, renewals and credentials of the old one go on."""
    clock = FakeClock()
    store = MemoryStore(clock)
    issued = Replica(store, clock).families.begin("agent", EU)
    rotated = Replica(store, clock, shape(NEXT_KEY, KEY))
    assert rotated.issuer.verify(issued.credential).enrolled == issued.enrolled
    following = await rotated.families.renew(issued.renewal)
    only_new = Replica(store, clock, shape(NEXT_KEY))
    assert only_new.issuer.verify(following.credential).enrolled == issued.enrolled
    assert (await only_new.families.renew(following.renewal)).credential


async def test_the_store_away_judges_nobody() -> None:
    """503, not 401: the machine keeps its renewal and asks again."""
    replica = Replica(Away(), FakeClock())
    issued = replica.families.begin("agent", EU)
    with pytest.raises(Unavailable):
        await replica.families.renew(issued.renewal)


async def test_no_key_is_said_and_nothing_is_issued() -> None:
    """A key that is missing or unfit is named; the room stands, unready, and refuses with 503."""
    for key, said in (({"env": "NO_SUCH_KEY_HERE"}, "NO_SUCH_KEY_HERE"), ({"value": "{}"}, "ES256")):
        replica = Replica(MemoryStore(), FakeClock(), shape(signing_keys=[key]))
        (problem,) = replica.issuer.problems()
        assert problem.startswith("enrollment.signing_keys[0]: ")
        assert said in problem
        with pytest.raises(Refusal) as caught:
            replica.families.begin("agent", EU)
        assert (caught.value.status, caught.value.code) == (503, "enrollment_not_ready")
        assert replica.issuer.jwks() == b'{"keys": []}'
