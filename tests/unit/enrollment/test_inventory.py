"""The inventory: what it lists, what it leaves out and forgets, and that it never stands in the way."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.enrollment import inventory
from authproxy.enrollment.inventory import Inventory, Machine, Unused
from authproxy.errors import StoreUnavailable
from authproxy.store import keys
from authproxy.store.memory import MemoryStore
from tests.peers.fake_clock import FakeClock
from tests.peers.redis_server import RedisServer
from tests.unit.enrollment.replicas import EU, Replica


class Away(MemoryStore):
    """A store that answers nothing that the inventory asks."""

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Never."""
        raise StoreUnavailable("away")

    async def add(self, key: str, member: str, *, ttl: float) -> None:
        """Never."""
        raise StoreUnavailable("away")

    async def members(self, key: str) -> frozenset[str]:
        """Never."""
        raise StoreUnavailable("away")


class House:
    """Two replicas and their inventories over one store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.one, self.two = Replica(self.store, self.clock), Replica(self.store, self.clock)
        self.here, self.there = (
            Inventory(one.families, store=self.store, clock=self.clock) for one in (self.one, self.two)
        )

    async def mint(self, name: str = "agent", *, expires_in: float = 60.0) -> tuple[str, str]:
        """Id and text of a token that was minted at the first replica."""
        minted = await self.one.tokens.mint(name, EU, expires_in=expires_in)
        await self.here.minted(minted.id)
        return minted.id, minted.text


async def test_a_minted_token_is_listed_until_it_is_used() -> None:
    """The other replica lists what it is for; used, withdrawn or expired it is gone, and its id is forgotten."""
    house = House()
    (used, text), (withdrawn, _), (late, _) = [await house.mint() for _ in range(3)]
    stays, _ = await house.mint("stays", expires_in=3600)
    before = await house.there.unused()
    assert {one.id for one in before.entries} == {used, withdrawn, late, stays}
    assert Unused(stays, "stays", EU, house.clock.now + 3600) in before.entries
    await house.two.tokens.admit(text, "agent", EU)
    await house.two.tokens.withdraw(withdrawn)
    assert {one.id for one in (await house.there.unused()).entries} == {late, stays}
    house.clock.forward(60)
    assert [one.id for one in (await house.there.unused()).entries] == [stays]
    assert await house.store.members(keys.minted_tokens()) == {stays}


async def test_no_token_is_in_the_list_or_in_a_repr() -> None:
    """What is listed, and how a minted token shows itself, hold nothing that opens anything."""
    house = House()
    minted = await house.one.tokens.mint("agent", EU)
    await house.here.minted(minted.id)
    issued = house.one.families.begin("agent", EU)
    await house.here.enrolled(issued)
    shown = f"{await house.here.unused()} {await house.here.machines()} {minted!r}"
    for secret in (minted.text, issued.credential, issued.renewal):
        assert secret not in shown
        assert secret.rpartition(".")[2] not in shown


async def test_a_machine_is_listed_from_enrollment_to_its_end() -> None:
    """With the times of enrollment, of the last renewal and of the end, which a renewal does not move."""
    house = House()
    began = house.clock.now
    issued = house.one.families.begin("agent", EU)
    await house.here.enrolled(issued)
    house.clock.forward(600)
    await house.there.enrolled(await house.two.families.renew(issued.renewal))
    machine = Machine(issued.enrolled.family, "agent", EU, began, began + 600, began + 2160 * 3600)
    assert await house.there.machines() == ((machine,), False)
    house.clock.forward(2160 * 3600 - 600)
    assert await house.there.machines() == ((), False)
    assert await house.store.members(keys.families()) == frozenset()


async def test_the_clock_here_decides_when_a_machine_has_ended() -> None:
    """An entry that the store keeps longer, by a clock of its own, is not listed after its end."""
    house = House()
    late = FakeClock(house.clock.now + 2160 * 3600)
    await house.here.enrolled(house.one.families.begin("agent", EU))
    ahead = Inventory(house.one.families, store=house.store, clock=late)
    assert (await ahead.machines()).entries == ()


async def test_what_was_revoked_is_not_listed() -> None:
    """By name or by family; the others stay."""
    house = House()
    families = [house.one.families.begin(name, EU) for name in ("agent", "other", "third")]
    for issued in families:
        await house.here.enrolled(issued)
    house.clock.forward(1)
    await house.one.families.revoke("enrolled-name", "agent")
    await house.one.families.revoke("family", families[1].enrolled.family)
    await house.two.marks.sync()
    assert [one.name for one in (await house.there.machines()).entries] == ["third"]


async def test_a_renewal_after_an_emptied_store_is_listed_again() -> None:
    """The list mends itself."""
    house = House()
    issued = house.one.families.begin("agent", EU)
    await house.here.enrolled(issued)
    await house.store.remove(keys.families(), issued.enrolled.family)
    assert (await house.here.machines()).entries == ()
    await house.here.enrolled(await house.one.families.renew(issued.renewal))
    assert len((await house.here.machines()).entries) == 1


async def test_a_store_that_is_away_costs_entries_and_nothing_else() -> None:
    """Remembering is given up in silence; listing says that it cannot."""
    replica = Replica(Away(), FakeClock())
    away = Inventory(replica.families, store=Away(), clock=FakeClock())
    await away.minted("0" * 16)
    await away.enrolled(replica.families.begin("agent", EU))
    for listing in (away.unused, away.machines):
        with pytest.raises(StoreUnavailable):
            await listing()


async def test_a_list_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three with room for two, two are listed and ``more`` is true; with room for three it is false."""
    house = House()
    for _ in range(3):
        await house.mint()
    for limit, expected in ((2, (2, True)), (3, (3, False))):
        monkeypatch.setattr(inventory, "LIMIT", limit)
        listing = await house.here.unused()
        assert (len(listing.entries), listing.more) == expected


async def test_ids_of_the_past_do_not_hide_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing looks at so many ids only, says that there are more, and gets further each time."""
    house = House()
    monkeypatch.setattr(inventory, "_AT_ONCE", 2)
    monkeypatch.setattr(inventory, "_LOOKED_AT", 4)
    for at in range(5):
        await house.here.minted(f"{at:016x}")  # never kept: the store lost them
    token = await house.one.tokens.mint("agent", EU)
    await house.store.add(keys.minted_tokens(), token.id, ttl=60)
    assert (await house.here.unused()).more
    assert [one.id for one in (await house.here.unused()).entries] == [token.id]


async def test_the_inventory_over_a_real_redis(redis_server: RedisServer) -> None:
    """Twenty machines that enroll at once are all listed."""
    from authproxy.store.redis import RedisStore

    clock = FakeClock()
    store = RedisStore.standalone(redis_server.unix_url, budget=5.0)
    try:
        replica = Replica(store, clock)
        found = Inventory(replica.families, store=store, clock=clock)
        await asyncio.gather(*(found.enrolled(replica.families.begin(f"agent-{n}", None)) for n in range(20)))
        assert {one.name for one in (await found.machines()).entries} == {f"agent-{n}" for n in range(20)}
    finally:
        await store.close()
