"""The second listener, for operators: health, readiness, metrics.  Never on the public port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from aiohttp import web

from authproxy.observe.metrics import CONTENT_TYPE, Metrics


class Readiness(NamedTuple):
    """Whether requests should be sent here, and what is missing or degraded, by name."""

    ready: bool
    waiting_for: dict[str, str]  # since the start; until it is empty once, this process is not ready
    degraded: dict[str, str]  # what does not work now, while signed-in users go on


class Admin:
    """The handlers."""

    def __init__(self, *, readiness: Callable[[], Readiness], metrics: Metrics) -> None:
        self._readiness: Final = readiness
        self._metrics: Final = metrics

    def application(self) -> web.Application:
        """The aiohttp application of the admin listener."""
        app = web.Application()
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.figures)
        return app

    async def health(self, _request: web.Request) -> web.Response:
        """Alive: the event loop answers.  Says nothing about others."""
        return web.json_response({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """200 when requests may be sent here, 503 while not; the JSON says why."""
        now = self._readiness()
        content = {"ready": now.ready, "waiting_for": now.waiting_for, "degraded": now.degraded}
        return web.json_response(content, status=200 if now.ready else 503)

    async def figures(self, _request: web.Request) -> web.Response:
        """Prometheus text."""
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
