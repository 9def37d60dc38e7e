"""Starts the workers, starts them again, passes signals on, and answers for all of them on the admin listener.

Each worker has sockets of its own on the shared port (``SO_REUSEPORT``), which the supervisor keeps open: connections
that wait in their queue are not lost when the process is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from authproxy.changes import Changes
from authproxy.edge.sockets import bound, spelled
from authproxy.errors import SettingsError
from authproxy.observe import figures
from authproxy.ongoing import Ongoing
from authproxy.settings.files import read_by
from authproxy.settings.load import load
from authproxy.settings.schema import Settings
from authproxy.workers.admin import SummedAdmin
from authproxy.workers.worker import Orders, Worker

log = logging.getLogger("authproxy")
START_SECONDS: Final = 60.0
"""How long a replacement may take to be ready."""
_SLACK: Final = 5.0  # seconds beyond the drain time of a worker
_PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before a worker is started again
_STEADY: Final = 30.0  # seconds after which a worker counts as one that works
_READING: Final = 5.0  # seconds between two readings of the figures

Sockets = Mapping[str, socket.socket]


class Slot:
    """A place for one worker after the other, with its sockets."""

    def __init__(self, number: int, sockets: Sockets) -> None:
        self.number: Final = number
        self.sockets: Final = sockets
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.last: figures.Reading = {}
        self.failures = 0
        self.started = 0


class Supervisor:
    """``serve`` for ``listen.workers`` above 1.  Enter it; ``addresses`` says where; ``run`` returns the exit code."""

    def __init__(self, settings: Settings, file: Path) -> None:
        self._settings = settings
        self._file: Final = file
        self._stack: Final = AsyncExitStack()
        self._slots: Final[list[Slot]] = []
        self._stopping: Final = asyncio.Event()
        self._hopeless: Final = asyncio.Event()  # the first start has shown that the settings cannot be served
        self._all_ready: Final = asyncio.Event()
        self._replacing: Final = asyncio.Lock()
        self._past: figures.Reading = {}
        self.addresses: Final[dict[str, str]] = {}
        self._changes: Final = Changes(lambda: {file, *read_by(self._settings)}, watching=lambda: self._settings.reload)

    async def __aenter__(self) -> Supervisor:
        await self._stack.__aenter__()
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="authproxy-")))
            self._alive, self._ours = os.pipe()  # a worker reads: the end is ours
            self._stack.callback(os.close, self._ours)
            self._stack.callback(os.close, self._alive)
            self._open_sockets()
            await self._open_admin()
            self.ongoing = await self._stack.enter_async_context(Ongoing())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    # Sockets

    def _open_sockets(self) -> None:
        listen, count = self._settings.listen, self._settings.listen.workers
        shared = {"public": listen.address} | ({"decisions": listen.decisions} if listen.decisions else {})
        opened = {name: list(_sockets(address, count)) for name, address in shared.items()}
        for number in range(count):
            sockets = {name: found[number] for name, found in opened.items()}
            self._slots.append(Slot(number, sockets))
            for one in sockets.values():
                self._stack.callback(one.close)
        self.addresses.update({name: spelled(found[0]) for name, found in opened.items()})

    async def _open_admin(self) -> None:
        address = self._settings.listen.admin
        if not address:
            return
        admin = SummedAdmin(ready=self.readiness, figures=self.summed, workers=self._running)
        runner = web.AppRunner(admin.application(), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listener = bound(address)
        await web.SockSite(runner, listener).start()
        self.addresses["admin"] = spelled(listener)

    # Workers

    async def run(self) -> int:
        """Look after the workers until a signal says to stop; 2 when the settings cannot be served, else 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._changes.ask)
        loop.add_signal_handler(signal.SIGUSR2, lambda: self.ongoing.begin(self.replace_all))
        for slot in self._slots:
            slot.worker = await self._started(slot)
            self.ongoing.begin(lambda slot=slot: self._tend(slot))  # type: ignore[misc]
        self.ongoing.begin(self._reload_on_changes)
        self.ongoing.begin(self._read_figures)
        self.ongoing.begin(self._await_all)
        stopped, hopeless = (loop.create_task(event.wait()) for event in (self._stopping, self._hopeless))
        await asyncio.wait({stopped, hopeless}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        hopeless.cancel()
        self._stopping.set()
        await self._end_all()
        return 2 if self._hopeless.is_set() else 0

    @property
    def ready(self) -> asyncio.Event:
        """Set when every worker has been ready once."""
        return self._all_ready

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopping.is_set() or number == signal.SIGINT:
            for worker in self._running():
                worker.send(signal.SIGINT)
        self._stopping.set()

    async def _started(self, slot: Slot) -> Worker:
        slot.started += 1
        admin = f"unix:{self._folder}/{slot.number}-{slot.started}.sock"
        orders = Orders({name: one.fileno() for name, one in slot.sockets.items()}, admin, self._alive)
        return await Worker.start(self._file, orders)

    async def _tend(self, slot: Slot) -> None:
        while slot.worker is not None:
            worker = slot.worker
            code = await worker.process.wait()
            self._past = figures.add([self._past, slot.last], gauges=False)
            slot.last = {}
            if self._stopping.is_set():
                return
            if worker.retired and slot.successor is not None:
                slot.worker, slot.successor = slot.successor, None
                continue
            if code == 2 and not worker.was_ready and not self._all_ready.is_set():
                self._hopeless.set()
                return
            log.error("worker %d ended with %s and is started again", slot.number, _told(code))
            await asyncio.sleep(_pause(slot, worker))
            slot.worker = await self._started(slot)

    async def replace_all(self) -> None:
        """A new process for each worker, one after the other: the old one goes when the new one is ready."""
        async with self._replacing:
            for slot in self._slots:
                if not await self._replaced(slot):
                    return

    async def _replaced(self, slot: Slot) -> bool:
        old, new = slot.worker, await self._started(slot)
        if old is None or not await new.ready(START_SECONDS) or self._stopping.is_set():
            log.error("the replacement of worker %d does not become ready; the old one stays", slot.number)
            await new.end(_SLACK)
            return False
        slot.last = await self._reading(old) or slot.last
        slot.successor, old.retired = new, True
        log.info("worker %d is replaced: process %d goes, %d came", slot.number, old.process.pid, new.process.pid)
        await old.end(self._patience())
        return True

    async def _end_all(self) -> None:
        """Each is asked to end by itself; all of them at once."""
        workers = [one for slot in self._slots for one in (slot.worker, slot.successor) if one is not None]
        await asyncio.gather(*(worker.end(self._patience()) for worker in workers))

    def _patience(self) -> float:
        drain = self._settings.listen.drain
        return (drain.pause or 0.0) + drain.timeout + _SLACK

    def _running(self) -> list[Worker]:
        found = [slot.successor or slot.worker for slot in self._slots]
        return [worker for worker in found if worker is not None and worker.process.returncode is None]

    # Changes

    async def _reload_on_changes(self) -> None:
        while True:
            await self._changes.next()
            await self.reload()

    async def reload(self) -> bool:
        """Have every worker read the settings again, one after the other, if they can be used at all."""
        try:
            self._settings = (await asyncio.to_thread(load, self._file)).settings
        except SettingsError as error:
            for problem in error.problems:
                log.error("%s", problem)
            log.error("%s cannot be used as it is now; the former settings stay", self._file)
            return False
        for worker in self._running():
            worker.send(signal.SIGHUP)
            await worker.ready(START_SECONDS)
        return True

    # What is said of them

    async def _await_all(self) -> None:
        while not all(slot.worker and slot.worker.was_ready for slot in self._slots):
            await asyncio.gather(*(worker.readiness() for worker in self._running()))
            await asyncio.sleep(0.05)
        self._all_ready.set()

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Ready when all have been once, and while one is; with what each of them says."""
        workers = [slot.successor or slot.worker for slot in self._slots]
        said = await asyncio.gather(*(worker.readiness() for worker in workers if worker is not None))
        any_ready = any(one and one.get("ready") for one in said)
        ready = self._all_ready.is_set() and any_ready and not self._stopping.is_set()
        merged: dict[str, Any] = {"ready": ready, "waiting_for": {}, "degraded": {}, "workers": {}}
        for number, (worker, one) in enumerate(zip(workers, said, strict=True)):
            told = one or {"ready": False, "waiting_for": {f"worker {number}": "does not answer"}}
            pid = worker.process.pid if worker else 0
            merged["workers"][str(number)] = {"pid": pid, "ready": bool(told.get("ready"))}
            merged["waiting_for"] |= told.get("waiting_for", {})
            merged["degraded"] |= told.get("degraded", {})
        return ready, merged

    async def summed(self) -> bytes:
        """The exposition format of what all workers, also those that have ended, have counted."""
        await self._take_readings()
        total = figures.add([figures.add([self._past], gauges=False), *(slot.last for slot in self._slots)])
        running: dict[figures.Key, float] = {("authproxy_workers", ()): float(len(self._running()))}
        total["authproxy_workers"] = figures.Family("gauge", "Worker processes that run.", running)
        return figures.written(total)

    async def _read_figures(self) -> None:
        while True:
            await asyncio.sleep(_READING)
            await self._take_readings()

    async def _take_readings(self) -> None:
        async def take(slot: Slot) -> None:
            worker = slot.worker
            if worker is not None and not worker.retired:
                reading = await self._reading(worker)
                if reading is not None and slot.worker is worker:
                    slot.last = reading

        await asyncio.gather(*map(take, self._slots))

    @staticmethod
    async def _reading(worker: Worker) -> figures.Reading | None:
        answer = await worker.ask("GET", "/metrics")
        return figures.read(answer.body.decode()) if answer and answer.status == 200 else None

    def __repr__(self) -> str:
        return f"<Supervisor of {len(self._running())} workers>"


def _sockets(address: str, count: int) -> Iterator[socket.socket]:
    """One for each worker on the same port; a unix socket is shared by all."""
    if address.startswith("unix:"):
        shared = bound(address)
        yield from (shared, *(shared.dup() for _ in range(count - 1)))
        return
    host, _, port = address.rpartition(":")
    if port != "0":
        bound(address).close()  # a port that may be shared would let a second instance in without a word
    first = bound(address, reuse_port=True)
    port = spelled(first).rpartition(":")[2]
    yield from (first, *(bound(f"{host}:{port}", reuse_port=True) for _ in range(count - 1)))


def _pause(slot: Slot, worker: Worker) -> float:
    steady = time.monotonic() - worker.began > _STEADY
    slot.failures = 0 if steady else slot.failures + 1
    return _PAUSES[min(slot.failures, len(_PAUSES) - 1)]


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
