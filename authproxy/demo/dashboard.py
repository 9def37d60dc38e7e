"""The sample app behind the proxy: Tideline, a small harbour dashboard.

It has no login and no users.  Who is there stands in the headers of each request; who may open which page is the
proxy's business, so there is no check here either.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from weakref import WeakSet

from aiohttp import WSCloseCode, web

from authproxy.demo.html import page, static
from authproxy.demo.people import PEOPLE
from authproxy.demo.visitor import lines, text, visitor

SAMPLES: Final = 90
_WIDTH: Final = 600
_HEIGHT: Final = 150
_TIDES: Final = (
    ("02:41", "low", "0.6 m"),
    ("08:55", "high", "3.9 m"),
    ("15:07", "low", "0.4 m"),
    ("21:20", "high", "4.1 m"),
)


class Dashboard:
    """The app.  ``clock`` gives seconds since the epoch; ``pause`` is the time between two samples, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time, pause: float = 1.0) -> None:
        self._clock: Final = clock
        self._pause: Final = pause
        self._sockets: Final[WeakSet[web.WebSocketResponse]] = WeakSet()

    def __repr__(self) -> str:
        return f"<Dashboard {len(self._sockets)} clocks>"

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self.overview),
                web.get("/reports/{name}", self.report),
                web.get("/admin", self.to_admin),
                web.get("/admin/", self.admin),
                web.get("/public", self.public),
                web.get("/api/time", self.api_time),
                web.get("/clock", self.stream),
                web.get("/static/{name}", static),
            ]
        )
        app.on_shutdown.append(self._hang_up)
        return app

    async def overview(self, request: web.Request) -> web.Response:
        """Who you are, how long your token lasts, what the app received, and live data."""
        now = self._clock()
        points = [swell(now - age * self._pause) for age in range(SAMPLES - 1, -1, -1)]
        return self._page(
            request, "overview.html", now=now, points=points, line=_polyline(points), width=_WIDTH,
            height=_HEIGHT, received=lines(request.headers.items()),
        )  # fmt: skip

    async def report(self, request: web.Request) -> web.Response:
        """A deep link: path and query must survive a sign-in."""
        asked = [(text(name), text(value)) for name, value in request.query.items()]
        return self._page(
            request, "report.html", name=text(request.match_info["name"]), asked=asked, target=request.path_qs
        )

    async def admin(self, request: web.Request) -> web.Response:
        """For admins, says the proxy's policy; whoever gets here may see it."""
        return self._page(request, "admin.html", people=PEOPLE)

    async def to_admin(self, _request: web.Request) -> web.Response:
        """The address without its slash."""
        return web.Response(status=308, headers={"Location": "/admin/"})

    async def public(self, request: web.Request) -> web.Response:
        """For everybody."""
        return self._page(request, "public.html", tides=_TIDES)

    async def api_time(self, request: web.Request) -> web.Response:
        """What a script of the page asks for."""
        who, now = visitor(request.headers), self._clock()
        return web.json_response(
            {
                "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"), "user": who.user,
                "token": {"issued_at": who.issued_at, "expires_at": who.expires_at}, "now": int(now),
            },
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """The time and the swell, once a second, until one side hangs up."""
        socket = web.WebSocketResponse(heartbeat=20.0, timeout=2.0)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            while not socket.closed:
                await socket.send_str(json.dumps(self._sample()))
                await self._listen(socket)
        except ConnectionError:
            pass  # the browser left
        return socket

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        """Wait for the next sample's time; hear a closing browser meanwhile."""
        try:
            async with asyncio.timeout(self._pause):
                async for _ in socket:
                    pass  # the page has nothing to say
        except TimeoutError:
            pass

    def _sample(self) -> dict[str, object]:
        now = self._clock()
        return {"time": datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S"), "swell": swell(now)}

    async def _hang_up(self, _app: web.Application) -> None:
        for socket in tuple(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the demo ends")

    def _page(self, request: web.Request, template: str, **values: object) -> web.Response:
        common = {"visitor": visitor(request.headers), "here": request.path, "now_text": self._sample()["time"]}
        return page(template, {**common, **values})


def swell(at: float) -> float:
    """The height of the water at ``at`` seconds, in metres: three waves on top of each other."""
    waves = 0.52 * math.sin(at / 9.1) + 0.27 * math.sin(at / 3.7 + 1.2) + 0.09 * math.sin(at / 1.3)
    return round(1.6 + waves, 2)


def _polyline(points: list[float]) -> str:
    step = _WIDTH / (len(points) - 1)
    return " ".join(f"{index * step:.1f},{_HEIGHT - point / 3 * _HEIGHT:.1f}" for index, point in enumerate(points))
