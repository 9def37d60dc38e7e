"""Forward-auth: an ingress describes a request, and is told what the pipeline decides about it.

The description is believed only from trusted peers.  Tokens are released only on the decisions listener, or to a caller
that shows the shared secret: through the public port a script in a page could ask as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Final, Protocol

from aiohttp import web

from authproxy.edge.request_info import Raw, Source, TrustedProxies, described
from authproxy.errors import Refusal
from authproxy.model import Answer, RequestInfo
from authproxy.portal.record import RECORDED

_SECRET: Final = b"x-authproxy-secret"


class Decide(Protocol):
    """What the pipeline says about a described request."""

    def __call__(self, info: RequestInfo, *, success: int, release_tokens: bool) -> Awaitable[Answer]: ...


class Decisions:
    """The endpoint that nginx asks."""

    def __init__(
        self, *, info_of: Callable[[web.Request], RequestInfo], decide: Decide,
        refuse: Callable[[Refusal, str], Answer], trusted: TrustedProxies, source: Source, success: int,
        secret: Callable[[], str] | None, public_scheme: str, private_listener: bool,
    ) -> None:  # fmt: skip
        self._info_of: Final = info_of
        self._decide: Final = decide
        self._refuse: Final = refuse
        self._trusted: Final = trusted
        self._source: Final = source
        self._success: Final = success
        self._secret: Final = secret
        self._public_scheme: Final = public_scheme
        self._private: Final = private_listener

    def attach(self, app: web.Application, prefix: str) -> None:
        """Add the route; on a listener of its own the prefix may be left out."""
        for start in {prefix, ""} if self._private else {prefix}:
            app.router.add_route("*", f"{start}/auth", self.auth)

    async def auth(self, request: web.Request) -> web.StreamResponse:
        """nginx ``auth_request``: 2xx, 401 or 403; never a redirect."""
        asking = self._info_of(request)
        try:
            info = self._described(asking)
        except Refusal as refusal:
            return _response(self._refuse(refusal, asking.request_id))
        release = self._private or self._shows_secret(asking)
        request[RECORDED] = True
        return _response(await self._decide(info, success=self._success, release_tokens=release))

    def _described(self, asking: RequestInfo) -> RequestInfo:
        raw = Raw(
            method=asking.method, target=asking.target.encode(), headers=asking.headers, peer=asking.peer,
            tls=asking.scheme == "https", http_version=asking.http_version,
        )  # fmt: skip
        return described(
            raw, trusted=self._trusted, request_id=asking.request_id, public_scheme=self._public_scheme,
            source=self._source,
        )  # fmt: skip

    def _shows_secret(self, asking: RequestInfo) -> bool:
        shown = asking.headers.all(_SECRET)
        if self._secret is None or len(shown) != 1:
            return False
        try:
            return compare_digest(shown[0], self._secret().encode())
        except LookupError:
            return False


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body or None)
    for name, value in answer.headers:
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
