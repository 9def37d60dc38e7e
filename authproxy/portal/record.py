"""One audit line for each of our own pages.  What is refused is recorded where it is worded."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from authproxy.model import RequestInfo
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics


def recording(
    *, info_of: Callable[[web.Request], RequestInfo], audit: Audit, metrics: Metrics, clock: Callable[[], float]
) -> Middleware:
    """The middleware that writes it."""

    @web.middleware
    async def recorded(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, info = clock(), info_of(request)
        response = await handler(request)
        seconds = max(clock() - began, 0.0)
        code = response.headers.get("Authproxy-Refusal", "")
        metrics.exchange(app="", status=response.status, seconds=seconds, code=code)
        audit.record(
            "exchange", request_id=info.request_id, client=info.client, method=info.method, host=info.host,
            path=info.raw_path, status=response.status, code=code, ms=round(seconds * 1000, 1),
        )  # fmt: skip
        return response

    return recorded
