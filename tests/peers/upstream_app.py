"""A protected application: it records every request as it arrived and answers with what it saw."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import WSMsgType, web

MEGABYTE = 1 << 20


class Seen(NamedTuple):
    """One request as the application received it."""

    method: str
    target: str  # the request target, byte for byte
    headers: tuple[tuple[str, str], ...]  # in order, duplicates kept
    body_sha256: str
    body_length: int

    def all(self, name: str) -> list[str]:
        """Every value of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.all(name)), None)


def _headers(request: web.Request) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)


class UpstreamApp:
    """An aiohttp server on a free loopback port, or on a Unix socket at ``path``, in the event loop of the test.

    ``/ws`` echoes WebSocket messages; ``/sse?count=N`` sends N events, each after ``next_event`` is set or at once
    without ``&wait``; ``/slow`` answers when ``release`` is set; ``/status/NNN`` answers with that status;
    ``/big?size=N`` sends N bytes; everything else answers with JSON of what it saw.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.requests: list[Seen] = []
        self.release = asyncio.Event()
        self.next_event = asyncio.Semaphore(0)
        self.websockets_closed: list[int | None] = []  # the close code of every WebSocket that has ended
        self.on_request: Callable[[Seen], None] | None = None  # told of every request when it arrives
        self.port = 0
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", self._any)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    def __repr__(self) -> str:
        return f"<UpstreamApp port {self.port}: {len(self.requests)} requests>"

    @property
    def url(self) -> str:
        """Where the proxy reaches it: scheme, host and port, or the socket."""
        return f"unix:{self._path}" if self._path else f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Seen:
        """The newest request."""
        return self.requests[-1]

    def to(self, target: str) -> list[Seen]:
        """The requests whose target was exactly this."""
        return [seen for seen in self.requests if seen.target == target]

    async def _any(self, request: web.Request) -> web.StreamResponse:
        digest, length = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            length += len(piece)
        seen = Seen(request.method, request.raw_path, _headers(request), digest.hexdigest(), length)
        self.requests.append(seen)
        if self.on_request is not None:
            self.on_request(seen)
        return await self._answer(request, seen)

    async def _answer(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        match request.path.strip("/").split("/"):
            case ["ws"]:
                return await self._ws(request)
            case ["sse"]:
                return await self._sse(request)
            case ["slow"]:
                await self.release.wait()
            case ["status", number]:
                return web.Response(status=int(number), text="" if number in ("204", "304") else number)
            case ["big"]:
                return await self._big(request)
            case _:
                pass
        return web.json_response(seen._asdict())

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        finally:
            self.websockets_closed.append(socket.close_code)
        return socket

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for number in range(int(request.query.get("count", "3"))):
            if "wait" in request.query:
                await self.next_event.acquire()
            await response.write(f"data: {json.dumps(number)}\n\n".encode())
        return response

    async def _big(self, request: web.Request) -> web.StreamResponse:
        size = int(request.query.get("size", MEGABYTE))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = size
        await response.prepare(request)
        while size > 0:
            await response.write(b"\0" * min(size, 65536))
            size -= 65536
        return response

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        if self._path is not None:
            await web.UnixSite(self._runner, self._path).start()
            return self
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        await self._runner.cleanup()


def echoed(text: str) -> dict[str, Any]:
    """What the application says it saw, from the text of its answer."""
    value: dict[str, Any] = json.loads(text)
    return value
