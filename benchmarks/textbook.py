"""The authenticating proxy that one would write with aiohttp in an afternoon, to be held against.

    python -m benchmarks.textbook PORT REDIS_URL UPSTREAM_URL

A middleware looks the session up in Redis for every request and checks a group; the request goes on through
``ClientSession`` with a token and identity headers.  It signs nobody in, keeps no metrics, writes no audit, and
merges no slashes: it does less than what it is compared with.  uvloop and hiredis are used, as one would.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import redis.asyncio as redis
import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

COOKIE: Final = "session"
GROUP: Final = "staff"
PREFIX: Final = "session:"
CONNECTIONS: Final = 100
"""To Redis.  redis-py's default pool raises when they are used up; this one waits."""
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade"}
)  # fmt: skip

STORE: Final = web.AppKey("store", redis.Redis)
CLIENT: Final = web.AppKey("client", ClientSession)
UPSTREAM: Final = web.AppKey("upstream", str)
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def authenticated(request: web.Request, handler: Next) -> web.StreamResponse:
    """Only a session that Redis knows, is not over and belongs to the group goes on."""
    stored = await request.app[STORE].get(PREFIX + request.cookies.get(COOKIE, ""))
    session: dict[str, Any] = json.loads(stored) if stored else {}
    if session.get("expires", 0) < time.time():
        raise web.HTTPUnauthorized
    if GROUP not in session["groups"]:
        raise web.HTTPForbidden
    request["session"] = session
    return await handler(request)


def upstream_headers(request: web.Request) -> list[tuple[str, str]]:
    """What the application is sent."""
    session = request["session"]
    kept = [(name, text) for name, text in request.headers.items() if name.lower() not in HOP_BY_HOP]
    return [
        *kept,
        ("Authorization", f"Bearer {session['id_token']}"),
        ("X-Forwarded-User", session["user"]),
        ("X-Forwarded-Email", session["email"]),
        ("X-Forwarded-Groups", ",".join(session["groups"])),
        ("X-Forwarded-For", request.remote or ""),
        ("X-Forwarded-Host", request.host),
    ]


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass it on, and the answer back piece by piece."""
    target = URL(request.app[UPSTREAM] + request.raw_path, encoded=True)
    body = request.content if request.body_exists else None
    async with request.app[CLIENT].request(
        request.method, target, headers=upstream_headers(request), data=body, allow_redirects=False
    ) as answer:
        response = web.StreamResponse(status=answer.status)
        for name, text in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, text)
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


def application(store_url: str, upstream: str) -> web.Application:
    """The whole of it."""

    async def resources(app: web.Application) -> AsyncIterator[None]:
        pool = redis.BlockingConnectionPool.from_url(store_url, max_connections=CONNECTIONS)
        async with (
            redis.Redis(connection_pool=pool) as app[STORE],
            ClientSession(
                connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar(), auto_decompress=False,
                timeout=ClientTimeout(total=60),
            ) as app[CLIENT],
        ):  # fmt: skip
            yield

    app = web.Application(middlewares=[authenticated])
    app[UPSTREAM] = upstream
    app.cleanup_ctx.append(resources)
    app.router.add_route("*", "/{tail:.*}", forward)
    return app


def main(port: int, store_url: str, upstream: str) -> None:
    """Serve until SIGTERM."""
    loop = uvloop.new_event_loop()
    app = application(store_url, upstream)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop, backlog=1024)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
