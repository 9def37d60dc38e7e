"""The workshop: opens the listeners, puts a graph behind them, starts, takes new settings, stops.

Nothing here decides about a request.  What is built is entered into one exit stack and left in reverse order.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from aiohttp import web

from authproxy.admin.enrollment import EnrollmentAdministration
from authproxy.admin.gate import Gate
from authproxy.admin.routes import Admin, Readiness
from authproxy.edge.certificate import ServerCertificate
from authproxy.edge.connection import FrontDoor
from authproxy.errors import CannotStart, StoreUnavailable
from authproxy.graph import Graph
from authproxy.lasting import Lasting
from authproxy.ongoing import Ongoing
from authproxy.settings.schema import ListenTls, Settings
from authproxy.startup import Startup

log = logging.getLogger("authproxy")
_RETIRING: Final = 8
_MERGE_SECONDS: Final = 1.0
"""Graphs of earlier settings that may still have exchanges inside; the oldest is then closed upon them."""


class Inherited(NamedTuple):
    """What a worker has from its supervisor: sockets that listen already, by name, and its own admin address."""

    sockets: Mapping[str, socket.socket]
    admin: str | None


class Authproxy:
    """A whole proxy.  Enter it to serve; ``addresses`` says where.

    Entering raises CannotStart, ProviderError or OSError when a file, secret or address cannot be used.
    """

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.time, inherited: Inherited | None = None
    ) -> None:
        self._settings = settings
        self._inherited: Final = inherited or Inherited({}, settings.listen.admin)
        self._clock: Final = clock
        self._stack: Final = AsyncExitStack()
        self._doors: Final[dict[str, FrontDoor]] = {}
        self._stop: Final = asyncio.Event()
        self._hurry: Final = asyncio.Event()
        self._swapping: Final = asyncio.Lock()
        self._retiring: Final[dict[asyncio.Task[None], asyncio.Task[None]]] = {}
        self.addresses: Final[dict[str, str]] = {}

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            await self._build()
        except (LookupError, ValueError) as error:
            await self.__aexit__(None, None, None)
            raise CannotStart(str(error.args[0] if error.args else error)) from error
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def settings(self) -> Settings:
        """What is served now."""
        return self._settings

    def readiness(self) -> Readiness:
        """Whether every part has answered once, and what does not work now."""
        return self.startup.readiness()

    def stop(self) -> None:
        """Ask ``run_until_stopped`` to return."""
        self._stop.set()

    def obey_signals(self) -> None:
        """From now on SIGTERM and SIGINT ask ``run_until_stopped`` to return; SIGINT, or a second signal, at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
            self._stack.callback(loop.remove_signal_handler, number)

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGINT or self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run_until_stopped(self) -> None:
        """Serve until ``stop``, or a signal that is obeyed; then finish what runs."""
        await self._stop.wait()
        await self.drain()

    async def drain(self) -> None:
        """Readiness fails first; after a pause no connection is accepted, and what runs may finish."""
        drain = self._settings.listen.drain
        self.startup.draining = True
        with suppress(TimeoutError):  # who sends us requests needs time to notice
            async with asyncio.timeout(drain.pause or 0.0):
                await self._hurry.wait()
        await asyncio.gather(*(door.drain(drain.timeout) for door in self._doors.values()))
        await self._write_down(self.graph)

    # Building

    async def _build(self) -> None:
        self.lasting = Lasting(self._settings, clock=self._clock)
        self._stack.callback(self.lasting.audit.close)
        self._stack.push_async_callback(self._leave_graphs)
        self.graph = await Graph(self._settings, self.lasting, clock=self._clock).__aenter__()
        self.lasting.on_asked = lambda user, asking: self.graph.recall.answer(user, asking)
        self.ongoing = await self._stack.enter_async_context(Ongoing())
        self.startup = Startup(lambda: self.graph.degraded())
        self.startup.expect([*self.graph.needed(), *self.graph.wanted()])
        await self._open_listeners()
        self._starting = self.ongoing.begin(self._start)
        self.ongoing.begin(self._write_back)

    async def _open_listeners(self) -> None:
        listen = self._settings.listen
        certificate = self._certificate = _certificate(listen.tls) if listen.tls else None
        if certificate:
            self.ongoing.begin(certificate.watch)
        public = self._doors["public"] = FrontDoor(self.graph.public())
        self._stack.push_async_callback(public.close)
        context, sockets = certificate.context if certificate else None, self._inherited.sockets
        self.addresses["public"] = await public.listen(listen.address, context, listener=sockets.get("public"))
        if listen.decisions:
            decisions = self._doors["decisions"] = FrontDoor(self.graph.decisions())
            self._stack.push_async_callback(decisions.close)
            listener = sockets.get("decisions")
            self.addresses["decisions"] = await decisions.listen(listen.decisions, listener=listener)
        self.lasting.metrics.watch_connections(lambda: sum(door.open for door in self._doors.values()))
        if self._inherited.admin:
            self.addresses["admin"] = await self._open_admin(self._inherited.admin)

    async def _open_admin(self, address: str) -> str:
        admin = Admin(readiness=self.readiness, metrics=self.lasting.metrics)
        application = admin.application()
        self._administration().attach(application)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        if address.startswith("unix:"):
            await web.UnixSite(runner, address.removeprefix("unix:")).start()
            return address
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        name = runner.addresses[0]
        return f"{name[0]}:{name[1]}"

    def _administration(self) -> EnrollmentAdministration:
        listen = self._settings.listen  # what the operator wrote, wherever this process really listens
        return EnrollmentAdministration(
            gate=Gate(listen.admin or "", listen.admin_secret), enrollment=lambda: self.graph.enrolling,
            audit=self.lasting.audit, metrics=self.lasting.metrics,
        )  # fmt: skip

    # Other settings

    async def take(self, settings: Settings) -> None:
        """Serve by ``settings`` from now on; what is open finishes by the former ones.

        Listeners stay as they are; of ``settings.listen``, ``trusted_proxies`` and ``connections`` count from now on.
        Raises LookupError, ValueError or OSError when something that they name cannot be used after all; then nothing
        has changed.
        """
        async with self._swapping:
            graph = await Graph(settings, self.lasting, clock=self._clock).__aenter__()
            try:
                self.lasting.reopen_audit(settings)
            except BaseException:
                await graph.__aexit__(None, None, None)
                raise
            left = [await self._doors["public"].lead_to(graph.public())]
            if "decisions" in self._doors:
                left.append(await self._doors["decisions"].lead_to(graph.decisions()))
            former, self.graph, self._settings = self.graph, graph, settings
            self.lasting.live.renew_all(idle=settings.session.idle, identity=graph.identity)
            self._retire(former, left)
            if self._certificate:
                self._certificate.reload()
            await self._start_again()

    def _retire(self, former: Graph, left: list[Callable[[], Awaitable[None]]]) -> None:
        waiting = [emptied for emptied in self._retiring.values() if not emptied.done() and not emptied.cancelling()]
        if len(waiting) >= _RETIRING:  # one that was told before, and is still on its way out, is not told again
            log.warning("too many earlier settings are still in use: what goes on by the oldest is broken off")
            waiting[0].cancel()
        loop = asyncio.get_running_loop()
        emptied = loop.create_task(_all(left))
        task = loop.create_task(self._left(former, emptied))
        self._retiring[task] = emptied
        task.add_done_callback(lambda task: self._retiring.pop(task, None))

    async def _left(self, former: Graph, emptied: asyncio.Task[None]) -> None:
        """Keep a graph until the last exchange has left it.  Only the waiting may be cut short, never the leaving."""
        await asyncio.wait([emptied])
        await self._write_down(former)
        await former.__aexit__(None, None, None)
        self.lasting.live.forget_cookies()  # those that it opened last may have been sealed by a key that is gone

    async def _leave_graphs(self) -> None:
        for emptied in self._retiring.values():
            emptied.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if hasattr(self, "graph"):
            await self.graph.__aexit__(None, None, None)

    # Keeping going

    async def _start(self) -> None:
        await self.startup.run(self.graph.needed(), self.graph.wanted())

    async def _start_again(self) -> None:
        """Ask every part of the new graph; a process that is ready stays so meanwhile."""
        self._starting.cancel()
        await asyncio.gather(self._starting, return_exceptions=True)
        self._starting = self.ongoing.begin(self._start)

    async def _write_back(self) -> None:
        """Write tokens that the store missed every second, and last uses more seldom."""
        now = asyncio.get_running_loop().time
        written_at = now()
        while True:
            await asyncio.sleep(_MERGE_SECONDS)
            with suppress(StoreUnavailable):
                await self.graph.refresher.write_back()
            if now() - written_at >= min(60.0, max(self._settings.session.idle / 20, 1.0)):
                written_at = now()
                await self._write_down(self.graph)

    @staticmethod
    async def _write_down(graph: Graph) -> None:
        with suppress(StoreUnavailable):
            await graph.resumption.write_back()


async def _all(left: list[Callable[[], Awaitable[None]]]) -> None:
    await asyncio.gather(*(each() for each in left))


def _certificate(tls: ListenTls) -> ServerCertificate:
    return ServerCertificate(tls.cert, tls.key, client_ca=tls.client_ca, client_auth=tls.client_auth)
