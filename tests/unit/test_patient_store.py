"""The store with patience: a slow answer is waited for, an absent store is not."""

from __future__ import annotations

from typing import Any

import pytest

from authproxy.errors import StoreSlow, StoreUnavailable
from authproxy.store.memory import MemoryStore
from authproxy.store.patient import TRIES, PatientStore


class Troubled(MemoryStore):
    """The embedded store; ``faults`` are raised one after the other, ``done`` says whether the work was done first."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[StoreUnavailable] = []
        self.done = False
        self.calls = 0

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        return bool(await self._faulty(super().swap(key, expected, value, ttl=ttl)))

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        found: int | None = await self._faulty(super().lease(key, owner, ttl=ttl))
        return found

    async def _faulty(self, work: Any) -> Any:
        self.calls += 1
        if not self.faults:
            return await work
        fault = self.faults.pop(0)
        if self.done:
            await work
        else:
            work.close()
        raise fault


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done after all"])
async def test_a_slow_write_is_made_again(done: bool) -> None:
    """Whether or not the first try was carried out: the value is there in the end, and the caller knows it."""
    store = Troubled()
    store.faults, store.done = [StoreSlow("late")] * (TRIES - 1), done
    patient = PatientStore(store)
    assert await patient.swap("k", None, b"new", ttl=60)
    assert await patient.get("k") == b"new"
    assert not await patient.swap("k", b"other", b"newer", ttl=60)
    assert await patient.lease("l", "me", ttl=60) is not None


async def test_another_writer_is_not_taken_for_our_own_late_write() -> None:
    """A value that is not ours means that the swap was lost."""
    store = Troubled()
    await store.put("k", b"theirs", ttl=60)
    store.faults = [StoreSlow("late")]
    assert not await PatientStore(store).swap("k", None, b"new", ttl=60)


@pytest.mark.parametrize(("fault", "calls"), [(StoreSlow("late"), TRIES), (StoreUnavailable("refused"), 1)])
async def test_patience_is_bounded(fault: StoreUnavailable, calls: int) -> None:
    """A store that stays silent is given up after some tries, one that refuses at once."""
    store = Troubled()
    store.faults = [fault] * 10
    with pytest.raises(type(fault)):
        await PatientStore(store).lease("l", "me", ttl=60)
    assert store.calls == calls
