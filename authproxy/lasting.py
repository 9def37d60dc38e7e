"""What goes on while settings change: the sessions in memory, the revocations, the figures, the way to providers.

Graphs come and go; what two of them in a row are to share is taken from here.  It is entered once, and left when the
last graph that uses it is gone.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from authproxy.changes import stamp
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics
from authproxy.ongoing import Ongoing
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.replicas import Replicas
from authproxy.settings import schema
from authproxy.settings.files import named
from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.opened import address_of, open_patient_store, open_store

_T = TypeVar("_T")


class _Shared:
    """Something that is open, what it was made from, and how many graphs use it."""

    def __init__(self, key: tuple[object, ...], value: object, stack: AsyncExitStack) -> None:
        self.key: Final = key
        self.value: Final[Any] = value
        self.stack: Final = stack
        self.users = 0


class SharedState(NamedTuple):
    """What all replicas share: ``store``, and ``patient`` for calls that must not be given up early."""

    store: Store
    patient: Store
    marks: Marks
    replicas: Replicas


class Lasting:
    """``clock`` gives seconds since the epoch."""

    def __init__(self, settings: schema.Settings, *, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self._shared: Final[list[_Shared]] = []
        self._marks: Marks | None = None
        self.on_asked: Callable[[str, str], None] = _ignore_question  # gets the user, and the replica that asks
        self.audit: Final = Audit.open(_audit_file(settings), clock=clock)
        self.metrics: Final = Metrics()
        self.live: Final = LiveView(clock=clock, idle=settings.session.idle)
        self.metrics.watch_sessions(lambda: len(self.live))
        self.metrics.watch_unproved(self.live.count_unproved)
        self.own_key: Final = os.urandom(32)  # seals sessions where the settings name no key
        self.alone: Final = MemoryStore(limit=100_000)  # what the throttle counts while the store is away

    def reopen_audit(self, settings: schema.Settings) -> None:
        """Write to the file that the settings name, anew: it may have been rotated away.  Raises OSError."""
        self.audit.reopen(_audit_file(settings))

    async def take(
        self, user: AsyncExitStack, key: tuple[object, ...], make: Callable[[], AbstractAsyncContextManager[_T]]
    ) -> _T:
        """What was made for an equal ``key``, or else made now; ``user`` gives it back when it is left."""
        shared = next((one for one in self._shared if one.key == key), None)
        if shared is None:
            stack = AsyncExitStack()
            shared = _Shared(key, await stack.enter_async_context(make()), stack)
            self._shared.append(shared)
        shared.users += 1
        user.push_async_callback(self._give_back, shared)
        value: _T = shared.value
        return value

    async def _give_back(self, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            self._shared.remove(shared)
            await shared.stack.aclose()

    async def store(self, user: AsyncExitStack, shape: schema.Store) -> SharedState:
        """The store, the revocations that travel through it, and the other replicas.

        Raises LookupError when a secret cannot be read, ValueError when the address cannot.
        """
        key = ("store", shape, address_of(shape.redis) if shape.redis else "", stamps(shape))
        return await self.take(user, key, lambda: self._opened(shape))

    @asynccontextmanager
    async def _opened(self, shape: schema.Store) -> AsyncIterator[SharedState]:
        store = open_store(shape, clock=self._clock, told=self.metrics.store)
        patient = open_patient_store(shape, store, told=self.metrics.store)
        # A revocation must not be lost because the store is another one now.
        known = self._marks.held() if self._marks else ()
        marks = self._marks = Marks(store, clock=self._clock, on_mark=self.live.apply, known=known)
        replicas = Replicas(patient, on_asked=lambda user, asking: self.on_asked(user, asking))
        try:
            async with Ongoing() as ongoing:
                ongoing.begin(marks.run)
                ongoing.begin(replicas.run)
                yield SharedState(store, patient, marks, replicas)
            await replicas.leave()
        finally:
            await patient.close()
            await store.close()

    def __repr__(self) -> str:
        return f"<Lasting: {len(self._shared)} shared, {self.live!r}>"


def _ignore_question(_user: str, _asking: str) -> None:
    """No session is open yet."""


def stamps(shape: schema.Shape) -> tuple[object, ...]:
    """What changes when a file that ``shape`` names by its path is replaced; secrets are read anew where needed."""
    return tuple(stamp(path) for path in named(shape, Path))


def _audit_file(settings: schema.Settings) -> Path | None:
    return settings.audit.file if isinstance(settings.audit, schema.Audit) else None
