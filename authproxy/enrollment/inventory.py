"""What an operator may see of enrollment: minted tokens that are unused, and machines that have enrolled.

A list beside the truth, kept as well as the store allows: a store that is away or was emptied costs entries of this
list, and never an enrollment.  Each renewal writes its entry again.  Nothing that is secret is in it: no token, no
credential and no renewal, only their ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, NamedTuple, TypeVar

from authproxy.enrollment.families import Families, Issued
from authproxy.enrollment.issuer import Enrolled
from authproxy.enrollment.tokens import LONGEST, minted_key
from authproxy.errors import StoreUnavailable
from authproxy.store import keys
from authproxy.store.base import Store

LIMIT: Final = 1000
"""Entries that are listed; more are counted as ``more``."""
_LOOKED_AT: Final = 5 * LIMIT  # ids that one listing asks for; those that are gone are forgotten on the way
_AT_ONCE: Final = 50


class Unused(NamedTuple):
    """A minted token that waits for its use; ``expires`` is in seconds since the epoch."""

    id: str
    name: str
    cluster: str | None
    expires: float


class Machine(NamedTuple):
    """An enrollment that goes on; times are seconds since the epoch."""

    family: str
    name: str
    cluster: str | None
    enrolled: float
    renewed: float
    ends: float


_T = TypeVar("_T", Unused, Machine)


class Listing(NamedTuple, Generic[_T]):
    """Entries in no order; ``more`` says that there may be others, which are not listed."""

    entries: tuple[_T, ...]
    more: bool


class Inventory:
    """``clock`` gives seconds since the epoch."""

    def __init__(self, families: Families, *, store: Store, clock: Callable[[], float]) -> None:
        self._families: Final = families
        self._store: Final = store
        self._clock: Final = clock

    async def minted(self, token_id: str) -> None:
        """Remember that a token was minted."""
        with suppress(StoreUnavailable):
            await self._store.add(keys.minted_tokens(), token_id, ttl=LONGEST)

    async def enrolled(self, issued: Issued) -> None:
        """Remember what a machine was just given a credential for, by enrollment or by renewal."""
        family, name, cluster, began = issued.enrolled
        ttl = max(issued.renewal_expires - self._clock(), 1.0)
        machine = Machine(family, name, cluster, began, self._clock(), issued.renewal_expires)
        with suppress(StoreUnavailable):
            await self._store.put(_key(family), json.dumps(list(machine)).encode(), ttl=ttl)
            await self._store.add(keys.families(), family, ttl=ttl)

    async def unused(self) -> Listing[Unused]:
        """Minted tokens that can still be used.  Raises StoreUnavailable."""
        return await self._listed(keys.minted_tokens(), minted_key, Unused, lambda one: one.expires > self._clock())

    async def machines(self) -> Listing[Machine]:
        """What has enrolled, was not revoked and may still renew.  Raises StoreUnavailable."""
        return await self._listed(keys.families(), _key, Machine, self._goes_on)

    def _goes_on(self, machine: Machine) -> bool:
        enrolled = Enrolled(machine.family, machine.name, machine.cluster, machine.enrolled)
        return machine.ends > self._clock() and not self._families.revoked(enrolled)

    async def _listed(
        self, names: str, key: Callable[[str], str], kind: type[_T], counts: Callable[[_T], bool]
    ) -> Listing[_T]:
        """The entries of a set of ids; ids whose entry is gone are taken out of it."""
        ids = sorted(await self._store.members(names))
        found: list[_T] = []
        at = 0
        while at < min(len(ids), _LOOKED_AT) and len(found) <= LIMIT:
            some = ids[at : at + _AT_ONCE]
            held = await asyncio.gather(*(self._store.get(key(one)) for one in some))
            for one, value in zip(some, held, strict=True):
                if value is None:
                    await self._store.remove(names, one)
            entries = [kind(*json.loads(value)) for value in held if value is not None]
            found += [entry for entry in entries if counts(entry)]
            at += _AT_ONCE
        return Listing(tuple(found[:LIMIT]), more=len(found) > LIMIT or at < len(ids))

    def __repr__(self) -> str:
        return "<Inventory>"


def _key(family: str) -> str:
    return keys.enrolled_family(hashlib.sha256(family.encode()).hexdigest())
