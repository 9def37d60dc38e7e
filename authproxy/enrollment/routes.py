"""``/enroll``, ``/enroll/renew`` and ``/jwks``: JSON in, JSON out.

Handlers read the request, ask the rooms that know, and answer with what they are told.  Refusals are raised; the front
door has them worded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from aiohttp import web

from authproxy.authn import authorization
from authproxy.body import json_object
from authproxy.enrollment.families import Families, Issued
from authproxy.enrollment.inventory import Inventory
from authproxy.enrollment.issuer import Issuer
from authproxy.enrollment.tokens import EnrollmentTokens
from authproxy.errors import BadRequest, NotAuthenticated, Refusal
from authproxy.model import RequestInfo
from authproxy.throttle import Throttle, client_bucket

_SECRET_ANSWER: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Work = Callable[[], Awaitable[Issued]]
Note = Callable[[RequestInfo, str, str, str], None]
"""Told of each attempt: the request, the event, its outcome ("ok" or a code), and who, which cluster and family."""


class Parts(NamedTuple):
    """What the handlers are built from."""

    info_of: Callable[[web.Request], RequestInfo]
    issuer: Issuer
    tokens: EnrollmentTokens
    families: Families
    throttle: Throttle
    note: Note
    inventory: Inventory
    clock: Callable[[], float]


class EnrollmentRoutes:
    """The handlers."""

    def __init__(self, parts: Parts) -> None:
        self._parts: Final = parts

    def problems(self) -> list[str]:
        """Which secret or key is missing or unfit, by its place in the settings; enrollment is ready without any."""
        return [*self._parts.issuer.problems(), *self._parts.tokens.problems()]

    def attach(self, app: web.Application, prefix: str) -> None:
        """Add the routes to the application that serves our pages."""
        app.router.add_post(f"{prefix}/enroll", self.enroll, expect_handler=_expect)
        app.router.add_post(f"{prefix}/enroll/renew", self.renew, expect_handler=_expect)
        app.router.add_get(f"{prefix}/jwks", self.jwks)

    async def enroll(self, request: web.Request) -> web.StreamResponse:
        """201 with a credential for an enrollment token."""
        info = self._parts.info_of(request)
        return await self._attempt(info, "enroll", lambda: self._enroll(info, request))

    async def renew(self, request: web.Request) -> web.StreamResponse:
        """201 with the next credential for a renewal."""
        info = self._parts.info_of(request)
        return await self._attempt(info, "renew", lambda: self._parts.families.renew(_bearer(info)))

    async def jwks(self, _request: web.Request) -> web.StreamResponse:
        """The public keys of what is issued here (RFC 7517 section 5)."""
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=self._parts.issuer.jwks(), headers=headers, content_type="application/json")

    async def _enroll(self, info: RequestInfo, request: web.Request) -> Issued:
        presented = _bearer(info)
        body = await _json(request)
        name, cluster = body.get("name"), body.get("cluster")
        if not isinstance(name, str):
            raise BadRequest("name_invalid", "The body must name the machine: a string, name.")
        if cluster is not None and not isinstance(cluster, str):
            raise BadRequest("cluster_invalid", "The cluster must be a string.")
        await self._parts.tokens.admit(presented, name, cluster)
        return self._parts.families.begin(name, cluster)

    async def _attempt(self, info: RequestInfo, event: str, work: Work) -> web.Response:
        """Charged to the client's address, and given back when it succeeds."""
        bucket = client_bucket(info.client)
        await self._parts.throttle.charge(bucket)
        try:
            issued = await work()
        except Refusal as refusal:
            self._parts.note(info, event, refusal.code, refusal.reason)
            raise
        await self._parts.throttle.give_back(bucket)
        await self._parts.inventory.enrolled(issued)
        enrolled = issued.enrolled
        self._parts.note(info, event, "ok", f"{enrolled.name} of {enrolled.cluster}, family {enrolled.family}")
        return web.json_response(self._told(issued), status=201, headers=_SECRET_ANSWER)

    def _told(self, issued: Issued) -> dict[str, object]:
        now = self._parts.clock()
        return {
            "credential": issued.credential, "expires_in": max(int(issued.expires - now), 0),
            "renewal": issued.renewal, "renewal_expires_in": max(int(issued.renewal_expires - now), 0),
        }  # fmt: skip


async def _expect(_request: web.Request) -> None:
    """Send nothing: the front door says ``100 Continue`` when the body is asked for."""


def _bearer(info: RequestInfo) -> str:
    if not authorization.of_scheme(info.headers, b"bearer"):
        raise NotAuthenticated("not_signed_in", "Please send Authorization: Bearer with a token.")
    return authorization.the_only(info.headers, b"bearer").decode("latin-1")


async def _json(request: web.Request) -> dict[str, object]:
    if request.content_type != "application/json":
        raise BadRequest("not_json", "This address takes application/json.")
    return await json_object(request)
