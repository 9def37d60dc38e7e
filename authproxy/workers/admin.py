"""The admin listener of several workers: the same paths, as if they were one program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from authproxy.observe.metrics import CONTENT_TYPE
from authproxy.workers.worker import Answer, Worker

_SIZE: Final = 64 * 1024  # octets of a request to the administration
_HOP: Final = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "date", "server"}
)

Ready = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]


class SummedAdmin:
    """``ready`` gives the verdict and the JSON, ``figures`` the text of ``/metrics``, ``workers`` those that run."""

    def __init__(
        self, *, ready: Ready, figures: Callable[[], Awaitable[bytes]], workers: Callable[[], list[Worker]]
    ) -> None:
        self._ready: Final = ready
        self._figures: Final = figures
        self._workers: Final = workers

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_SIZE)
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.figures)
        app.router.add_route("*", "/{path:.*}", self.passed_on)
        return app

    async def health(self, _request: web.Request) -> web.Response:
        """The supervisor is alive."""
        return web.json_response({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """200 when requests may be sent here, 503 while not; the JSON says why, and what each worker says."""
        ready, said = await self._ready()
        return web.json_response(said, status=200 if ready else 503)

    async def figures(self, _request: web.Request) -> web.Response:
        """Prometheus text of all."""
        return web.Response(body=await self._figures(), headers={"Content-Type": CONTENT_TYPE})

    async def passed_on(self, request: web.Request) -> web.Response:
        """What any one of them can answer: they share the store."""
        body, headers = await request.read(), _kept(request.headers)
        for worker in self._workers():
            answer = await worker.ask(request.method, request.raw_path, headers=headers, body=body)
            if answer is not None:
                return _relayed(answer)
            if request.method != "GET":
                break  # it may have been done
        return web.json_response({"error": "no_worker", "message": "No worker answers right now."}, status=503)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP}


def _relayed(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_kept(dict(answer.headers)))
