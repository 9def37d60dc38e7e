"""Administration of machine enrollment on the admin listener: mint, withdraw, list, revoke.  JSON in, JSON out.

Handlers read the request and ask the rooms that know.  Each operation, done or refused, leaves an audit record and is
counted; no token is in either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web

from authproxy.admin.gate import Gate
from authproxy.body import json_object
from authproxy.enrollment.families import Families, Scope
from authproxy.enrollment.inventory import Inventory
from authproxy.enrollment.tokens import EnrollmentTokens, check_names
from authproxy.errors import (
    BadRequest,
    NotAuthenticated,
    NotFound,
    Refusal,
    StoreUnavailable,
    Unavailable,
)
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics
from authproxy.sessions.sealing import token

_NEVER_KEPT: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_SCOPES: Final[dict[str, Scope]] = {
    "family": "family", "name": "enrolled-name", "cluster": "cluster", "all": "enrolled",
}  # fmt: skip
_ID: Final = re.compile(r"[0-9a-f]{16}")
_FAMILY: Final = re.compile(r"[0-9a-f]{32}")


class Enrollment(Protocol):
    """The rooms of enrollment that serve now."""

    @property
    def tokens(self) -> EnrollmentTokens: ...

    @property
    def families(self) -> Families: ...

    @property
    def inventory(self) -> Inventory: ...


class _Done(NamedTuple):
    """What an operation answers, and what the audit record says of it."""

    content: dict[str, Any]
    detail: str
    status: int = 200


_Work = Callable[[Enrollment], Awaitable[_Done]]


class EnrollmentAdministration:
    """The handlers.  ``enrollment`` gives what serves now, None where the settings have no such section."""

    def __init__(
        self, *, gate: Gate, enrollment: Callable[[], Enrollment | None], audit: Audit, metrics: Metrics
    ) -> None:
        self._gate: Final = gate
        self._enrollment: Final = enrollment
        self._audit: Final = audit
        self._metrics: Final = metrics

    def attach(self, app: web.Application) -> None:
        """Add the routes to the application of the admin listener."""
        app.router.add_get("/enrollment", self.listed, allow_head=False)
        app.router.add_post("/enrollment/tokens", self.mint)
        app.router.add_delete("/enrollment/tokens/{id}", self.withdraw)
        app.router.add_post("/enrollment/revoke", self.revoke)

    async def listed(self, request: web.Request) -> web.Response:
        """200 with unused tokens and enrolled machines."""
        return await self._attempt(request, "enrollment_list", _listed)

    async def mint(self, request: web.Request) -> web.Response:
        """201 with a single-use token."""
        return await self._attempt(request, "enrollment_mint", lambda rooms: _mint(rooms, request))

    async def withdraw(self, request: web.Request) -> web.Response:
        """200 when the token can no longer be used, 404 when it could not anyway."""
        return await self._attempt(request, "enrollment_withdraw", lambda rooms: _withdraw(rooms, request))

    async def revoke(self, request: web.Request) -> web.Response:
        """200 when the credentials are revoked; ``everywhere`` says whether others were told already."""
        return await self._attempt(request, "enrollment_revoke", lambda rooms: _revoke(rooms, request))

    async def _attempt(self, request: web.Request, event: str, work: _Work) -> web.Response:
        """Through the gate, to its end and into the books; each refusal is answered as JSON."""
        request_id = token(12)
        try:
            done = await self._worked(request, work)
        except Refusal as refusal:
            self._book(event, request, request_id, refusal.code, refusal.reason)
            return _refused(refusal, request_id)
        self._book(event, request, request_id, "ok", done.detail)
        return web.json_response(done.content, status=done.status, headers=_NEVER_KEPT | {"X-Request-Id": request_id})

    async def _worked(self, request: web.Request, work: _Work) -> _Done:
        self._gate.admit(request)
        rooms = self._enrollment()
        if rooms is None:
            raise NotFound("no_enrollment", "The settings have no enrollment section.")
        try:
            return await work(rooms)
        except StoreUnavailable:
            raise Unavailable("store_unavailable", "The store does not answer; try again.") from None

    def _book(self, event: str, request: web.Request, request_id: str, outcome: str, detail: str) -> None:
        self._metrics.event(event, outcome)
        self._audit.record(event, request_id=request_id, client=request.remote or "", outcome=outcome, reason=detail)


async def _listed(rooms: Enrollment) -> _Done:
    unused, machines = await rooms.inventory.unused(), await rooms.inventory.machines()
    content = {
        "tokens": [one._asdict() for one in unused.entries], "machines": [one._asdict() for one in machines.entries],
        "more": unused.more or machines.more,
    }  # fmt: skip
    return _Done(content, f"{len(unused.entries)} unused tokens, {len(machines.entries)} machines")


async def _mint(rooms: Enrollment, request: web.Request) -> _Done:
    body = await _fields(request, {"name", "cluster", "expires_in"})
    name, cluster, expires_in = body.get("name"), body.get("cluster"), body.get("expires_in", 3600)
    if not isinstance(name, str):
        raise BadRequest("name_invalid", "The body must name the machine: a string, name.")
    if cluster is not None and not isinstance(cluster, str):
        raise BadRequest("cluster_invalid", "The cluster must be a string.")
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or not math.isfinite(expires_in):
        raise BadRequest("expiry_invalid", "expires_in must be a number of seconds.")
    minted = await rooms.tokens.mint(name, cluster, expires_in=expires_in)
    await rooms.inventory.minted(minted.id)
    content = {"id": minted.id, "token": minted.text, "expires_in": expires_in}
    return _Done(content, f"{name} of {cluster}, token {minted.id}", 201)


async def _withdraw(rooms: Enrollment, request: web.Request) -> _Done:
    token_id = request.match_info["id"]
    if not _ID.fullmatch(token_id) or not await rooms.tokens.withdraw(token_id):
        raise NotFound("token_unknown", "There is no unused token with this id.")
    return _Done({"withdrawn": token_id}, f"token {token_id}")


async def _revoke(rooms: Enrollment, request: web.Request) -> _Done:
    body = await _fields(request, {"scope", "name"})
    scope, name = body.get("scope"), body.get("name")
    if not isinstance(scope, str) or scope not in _SCOPES:
        raise BadRequest("scope_invalid", "The scope must be family, name, cluster or all.")
    _check(scope, name)
    everywhere = await rooms.families.revoke(_SCOPES[scope], "*" if scope == "all" else str(name))
    detail = "all" if scope == "all" else f"{scope} {name}"
    content = {"revoked": {"scope": scope, "name": name}, "everywhere": everywhere}
    return _Done(content, detail if everywhere else f"{detail}; waits for the store")


def _check(scope: str, name: object) -> None:
    """Raises BadRequest for a name that could never be one of this scope: it would revoke nothing."""
    if scope == "all":
        if name is not None:
            raise BadRequest("name_invalid", "The scope all takes no name.")
        return
    if not isinstance(name, str) or (scope == "family" and not _FAMILY.fullmatch(name)):
        raise BadRequest("name_invalid", "The body must name what is revoked: a string, name.")
    check_names(*(("any", name) if scope == "cluster" else (name, None)))


async def _fields(request: web.Request, known: set[str]) -> dict[str, object]:
    """The JSON object of the body.  An unknown field is refused: it may be a known one that was misspelt."""
    fields = await json_object(request)
    if fields.keys() - known:
        raise BadRequest("field_unknown", f"The body takes only {', '.join(sorted(known))}.")
    return fields


def _refused(refusal: Refusal, request_id: str) -> web.Response:
    headers = _NEVER_KEPT | {"X-Request-Id": request_id, "Authproxy-Refusal": refusal.code}
    if isinstance(refusal, NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    content = {"error": refusal.code, "message": refusal.message, "request_id": request_id}
    return web.json_response(content, status=refusal.status, headers=headers)
