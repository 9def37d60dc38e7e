"""The life of one request, top to bottom.

``request -> RequestInfo -> Match -> Identity -> Decision -> UpstreamRequest -> response``.  There are two doors in:
the proxy, which delivers what was decided, and forward-auth, which only says it.  Both ask ``decide``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

from authproxy import authz, mutate
from authproxy.authn.chain import Chain, Proved
from authproxy.edge.answer import Answers
from authproxy.edge.decisions import Verdict, ingress_fields
from authproxy.errors import ClientGone, Forbidden, Refusal, Unavailable
from authproxy.exchange import Exchange, Lifetime
from authproxy.model import Answer, Decision, Fields, HeaderList, Identity, Match, RequestInfo, Route, UpstreamRequest
from authproxy.observe.audit import Audit
from authproxy.observe.audit import told as audit_fields
from authproxy.observe.metrics import Metrics
from authproxy.routing import RouteTable
from authproxy.upstream.forward import Delivery
from authproxy.upstream.head import Delivered, Head, ResponseHeaders
from authproxy.upstream.pool import Pools
from authproxy.upstream.tunnel import carry

_OUTSIDE_AUTHORIZATION: Final = frozenset({"session", "certificate"})  # an Authorization beside them is the app's
_OVERTIME: Final = 3600.0  # seconds that a response may take after the token expired that it was asked for with
_log = logging.getLogger("authproxy")
_CLIENT_GONE: Final = 499  # nginx's word for a client that left before it had its answer


class _Until(NamedTuple):
    """A life whose end is known, and comes neither sooner nor later (model.Lifetime)."""

    ends_at: float
    ended: bool = False

    def on_end(self, _callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Permit:
    """Yes: which app, who, and why."""

    __slots__ = ("decision", "match", "proved")

    def __init__(self, match: Match, proved: Proved, decision: Decision) -> None:
        self.match: Final = match
        self.proved: Final = proved
        self.decision: Final = decision


class Pipeline:
    """Decides every request, and carries out what was decided."""

    def __init__(
        self, *, routes: RouteTable, chain: Chain, pools: Pools, answers: Answers, own_cookies: mutate.OwnCookies,
        lifetime: Callable[[str], Lifetime | None], audit: Audit, metrics: Metrics, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._routes: Final = routes
        self._chain: Final = chain
        self._pools: Final = pools
        self._answers: Final = answers
        self.own_cookies: Final = own_cookies
        self._lifetime: Final = lifetime
        self._audit: Final = audit
        self._metrics: Final = metrics
        self.clock: Final = clock

    def decide(self, info: RequestInfo, match: Match) -> Permit | Awaitable[Permit]:
        """Who is this, and may they?  What still has to be awaited, where memory alone cannot tell.

        Raises the ``Refusal`` that says why not.
        """
        proved = self._chain.judge(info, match)
        return _permit(info, match, proved) if isinstance(proved, Proved) else self._waited(info, match, proved)

    @staticmethod
    async def _waited(info: RequestInfo, match: Match, proved: Awaitable[Proved]) -> Permit:
        return _permit(info, match, await proved)

    def proxy(self, exchange: Exchange) -> Awaitable[None] | None:
        """The first door: decide, then deliver.  One audit record, however it ends.

        What can be decided without waiting is on its way when this returns None; otherwise await the rest.
        """
        course = _Course(self, exchange)
        try:
            course.match = self._routes.match(exchange.info)
            permit = self.decide(exchange.info, course.match)
            return self._deliver(course, permit) if isinstance(permit, Permit) else self._decided(course, permit)
        except Refusal as no:
            course.refuse(no)
            return None

    async def _decided(self, course: _Course, permit: Awaitable[Permit]) -> None:
        try:
            work = self._deliver(course, await permit)
            if work is not None:
                await work
        except Refusal as no:
            course.refuse(no)
        except asyncio.CancelledError:  # the client has left
            course.observe(_CLIENT_GONE)
            raise

    def _deliver(self, course: _Course, permit: Permit) -> Awaitable[None] | None:
        course.permit = permit
        info, identity = course.exchange.info, permit.proved.identity
        if info.method == "OPTIONS" and mutate.forwards_end(info):
            course.answer(Answer(204, ((b"X-Request-Id", info.request_id.encode()),)))
            return None
        request = mutate.upstream_request(
            info, permit.match, identity, own_cookies=self.own_cookies,
            strip_authorization=permit.proved.presented and identity.kind not in _OUTSIDE_AUTHORIZATION,
        )  # fmt: skip
        if request.upgrade:
            return self._tunnelled(course, request, course.headers, self._life_of(identity, tunnel=True))
        lifetime = self._life_of(identity, tunnel=False)
        Delivery(course.exchange, request, self._pools, course.fields, lifetime, self.clock, course.done).begin()
        return None

    async def _tunnelled(
        self, course: _Course, request: UpstreamRequest, response_headers: ResponseHeaders, lifetime: Lifetime | None
    ) -> None:
        try:
            course.done(
                await carry(
                    course.exchange, request, pool=self._pools.of(request.upstream),
                    response_headers=response_headers, lifetime=lifetime, clock=self.clock,
                )
            )  # fmt: skip
        except (Refusal, ClientGone) as error:
            course.done(error)
        except asyncio.CancelledError:
            course.observe(_CLIENT_GONE)
            raise

    def _life_of(self, identity: Identity, *, tunnel: bool) -> Lifetime | None:
        """What a tunnel or a long response of this identity lives by: its session, or the end of what proved it."""
        if identity.session is not None:
            return self._lifetime(identity.session.id) or _Until(identity.session.ends_at, ended=True)
        if not identity.expires_at:
            return None
        return _Until(identity.expires_at if tunnel else identity.expires_at + _OVERTIME)

    def say(self, exchange: Exchange, refusal: Refusal, match: Match | None) -> int:
        """Answer with a refusal; the status, or that the client has left."""
        answer = self._answers.refuse(refusal, exchange.info, match)
        try:
            exchange.answer(answer)
        except ClientGone:
            return _CLIENT_GONE
        return answer.status

    def forward_auth(self, info: RequestInfo, *, success: int, release_tokens: bool) -> Verdict | Awaitable[Verdict]:
        """The second door: say what would be decided for the request that an ingress describes.

        ``release_tokens``: the caller has shown that it is an ingress, and may be given the ID token and the client's
        cookies for the app.
        What still has to be awaited, where memory alone cannot tell.  One audit record, when it is said.
        """
        began, match = self.clock(), None
        try:
            match = self._routes.match(info)
            permit = self.decide(info, match)
        except Refusal as no:
            return self._denied(info, match, None, no, began)
        if isinstance(permit, Permit):
            return self._allowed(info, permit, success, release_tokens, began)
        return self._said_later(info, match, permit, success, release_tokens, began)

    async def _said_later(
        self, info: RequestInfo, match: Match, permit: Awaitable[Permit], success: int, release_tokens: bool,
        began: float,
    ) -> Verdict:  # fmt: skip
        try:
            return self._allowed(info, await permit, success, release_tokens, began)
        except Refusal as no:
            return self._denied(info, match, None, no, began)

    def _allowed(
        self, info: RequestInfo, permit: Permit, success: int, release_tokens: bool, began: float
    ) -> Verdict:  # fmt: skip
        match, proved = permit.match, permit.proved
        upstream = match.app.upstream if release_tokens else None
        try:
            cookies = mutate.client_cookies(info.headers, self.own_cookies) if release_tokens else None
            told = ingress_fields(proved.identity, upstream, info.request_id, proved.set_cookies, cookies)
        except Refusal as no:
            return self._denied(info, match, permit, no, began)
        self.observe(info, match, permit, success, None, began)
        return success, told

    def _denied(
        self, info: RequestInfo, match: Match | None, permit: Permit | None, no: Refusal, began: float
    ) -> Verdict:  # fmt: skip
        answer = self._answers.bare(no, info.request_id, match)
        self.observe(info, match, permit, answer.status, no, began)
        return answer.status, answer.headers

    def observe(
        self, info: RequestInfo, match: Match | None, permit: Permit | None, status: int, refusal: Refusal | None,
        began: float,
    ) -> None:  # fmt: skip
        """One audit record, and the figures."""
        seconds = max(self.clock() - began, 0.0)
        app = match.app.name if match else ""
        code = refusal.code if refusal else ""
        self._metrics.exchange(app, status, seconds, code)
        if permit is not None and not code:
            self._audit.exchange(info, _told(permit), status, seconds)
            return
        identity = permit.proved.identity if permit else None
        self._audit.record(
            "exchange", request_id=info.request_id, client=info.client, method=info.method, host=info.host,
            path=info.raw_path, app=app, route=match.route.where if match else "", status=status, code=code,
            reason=refusal.reason if refusal else "", kind=identity.kind if identity else "",
            subject=identity.subject if identity else "", user=identity.user if identity else "",
            ms=round(seconds * 1000, 1),
        )  # fmt: skip


def _permit(info: RequestInfo, match: Match, proved: Proved) -> Permit:
    decision = authz.decide(info, match, proved.identity)
    if not decision.allowed:
        raise Forbidden("not_allowed", _missing(decision), reason=decision.reason)
    return Permit(match, proved, decision)


_TOLD: Final = object()


def _told(permit: Permit) -> str:
    """What the audit says of every exchange with this permit; kept with the identity, which is asked for again."""
    identity, route, reason = permit.proved.identity, permit.match.route, permit.decision.reason
    facts = identity.facts
    if facts is None:
        facts = identity.facts = {}
    known: tuple[Route, str, str] | None = facts.get(_TOLD)
    if known is None or known[0] is not route or known[1] != reason:
        said = audit_fields(
            app=permit.match.app.name, route=route.where, reason=reason, kind=identity.kind,
            subject=identity.subject, user=identity.user,
        )  # fmt: skip
        known = facts[_TOLD] = route, reason, said
    return known[2]


class _Course:
    """One request at the first door, and what has become of it."""

    __slots__ = ("_began", "_observed", "_pipeline", "exchange", "match", "permit")

    def __init__(self, pipeline: Pipeline, exchange: Exchange) -> None:
        self._pipeline: Final = pipeline
        self._began: Final = pipeline.clock()
        self._observed = False
        self.exchange: Final = exchange
        self.match: Match | None = None
        self.permit: Permit | None = None

    def headers(self, _status: int, lines: HeaderList) -> HeaderList:
        """What the client gets of the upstream's header lines."""
        proved = cast("Permit", self.permit).proved
        return mutate.response_headers(
            lines, own_cookies=self._pipeline.own_cookies, request_id=self.exchange.info.request_id,
            set_cookies=proved.set_cookies, private=proved.presented,
        )  # fmt: skip

    def fields(self, head: Head) -> Fields:
        """The same, as octets."""
        proved = cast("Permit", self.permit).proved
        return mutate.response_fields(
            head.headers, head.facts, own_cookies=self._pipeline.own_cookies,
            request_id=self.exchange.info.request_id, set_cookies=proved.set_cookies, private=proved.presented,
        )  # fmt: skip

    def done(self, result: Delivered | Exception) -> None:
        """The delivery has come to its end."""
        if isinstance(result, Delivered):
            if not self._observed:
                self._observed = True
                self._pipeline.observe(self.exchange.info, self.match, self.permit, result.status, None, self._began)
        elif isinstance(result, Refusal):
            self.refuse(result)
        elif isinstance(result, ClientGone):
            self.observe(_CLIENT_GONE)
        else:  # a mistake of ours
            _log.error("request %s failed", self.exchange.info.request_id, exc_info=result)
            self.refuse(Unavailable("internal_error", "Something went wrong on our side."))

    def answer(self, answer: Answer) -> None:
        """Answer in the upstream's place."""
        try:
            self.exchange.answer(answer)
        except ClientGone:
            self.observe(_CLIENT_GONE)
        else:
            self.observe(answer.status)

    def refuse(self, no: Refusal) -> None:
        """Say it, and note it."""
        self.observe(self._pipeline.say(self.exchange, no, self.match), no)

    def observe(self, status: int, refusal: Refusal | None = None) -> None:
        """One audit record, however often this is asked for."""
        if not self._observed:
            self._observed = True
            self._pipeline.observe(self.exchange.info, self.match, self.permit, status, refusal, self._began)


def _missing(decision: Decision) -> str:
    """What the caller lacks, as a sentence; the settings' own words stay in the audit record."""
    needs = decision.reason.partition(": needs ")[2]
    return f"This needs {needs}." if needs else f"You may not open this: {decision.reason}."
