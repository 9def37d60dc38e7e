"""The life of one request, top to bottom.

``request -> RequestInfo -> Match -> Identity -> Decision -> UpstreamRequest -> response``.  There are two doors in:
the proxy, which delivers what was decided, and forward-auth, which only says it.  Both ask ``decide``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from authproxy import authz, mutate
from authproxy.authn.chain import Chain, Proved
from authproxy.edge.answer import Answers
from authproxy.errors import ClientGone, Forbidden, Refusal
from authproxy.model import Answer, Decision, Exchange, HeaderList, Identity, Lifetime, Match, RequestInfo
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics
from authproxy.routing import RouteTable
from authproxy.upstream.forward import deliver
from authproxy.upstream.pool import Pools

_OUTSIDE_AUTHORIZATION: Final = frozenset({"session", "certificate"})  # an Authorization beside them is the app's
_OVERTIME: Final = 3600.0  # seconds that a response may take after the token expired that it was asked for with
_CLIENT_GONE: Final = 499  # nginx's word for a client that left before it had its answer


class _Until(NamedTuple):
    """A life whose end is known, and comes neither sooner nor later (model.Lifetime)."""

    ends_at: float
    ended: bool = False

    def on_end(self, _callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Permit(NamedTuple):
    """Yes: which app, who, and why."""

    match: Match
    proved: Proved
    decision: Decision


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
        self._own_cookies: Final = own_cookies
        self._lifetime: Final = lifetime
        self._audit: Final = audit
        self._metrics: Final = metrics
        self._clock: Final = clock

    async def decide(self, info: RequestInfo, match: Match) -> Permit:
        """Who is this, and may they?  Raises the ``Refusal`` that says why not."""
        proved = await self._chain.authenticate(info, match)
        decision = authz.decide(info, match, proved.identity)
        if not decision.allowed:
            raise Forbidden("not_allowed", _missing(decision), reason=decision.reason)
        return Permit(match, proved, decision)

    async def proxy(self, exchange: Exchange) -> None:
        """The first door: decide, then deliver.  One audit record, however it ends."""
        info, began = exchange.info, self._clock()
        match = permit = refusal = None
        status: int | None = _CLIENT_GONE
        try:
            match = self._routes.match(info)
            permit = await self.decide(info, match)
            status = await self._deliver(exchange, permit)
        except Refusal as no:
            refusal = no
            status = await self._say(exchange, no, match)
        except ClientGone:
            pass
        except Exception:
            status = None  # a mistake of ours: the front door words and records it
            raise
        finally:  # also when the client's leaving cancels this
            if status is not None:
                self._observe(info, match, permit, status, refusal, began)

    async def _deliver(self, exchange: Exchange, permit: Permit) -> int:
        info, identity, cookies = exchange.info, permit.proved.identity, permit.proved.set_cookies
        request = mutate.upstream_request(
            info, permit.match, identity, own_cookies=self._own_cookies,
            strip_authorization=permit.proved.presented and identity.kind not in _OUTSIDE_AUTHORIZATION,
        )  # fmt: skip

        def response_headers(_status: int, headers: HeaderList) -> HeaderList:
            return mutate.response_headers(
                headers, own_cookies=self._own_cookies, request_id=info.request_id, set_cookies=cookies,
                private=permit.proved.presented,
            )  # fmt: skip

        delivered = await deliver(
            exchange, request, pools=self._pools, response_headers=response_headers, clock=self._clock,
            lifetime=self._life_of(identity, tunnel=bool(request.upgrade)),
        )  # fmt: skip
        return delivered.status

    def _life_of(self, identity: Identity, *, tunnel: bool) -> Lifetime | None:
        """What a tunnel or a long response of this identity lives by: its session, or the end of what proved it."""
        if identity.session is not None:
            return self._lifetime(identity.session.id) or _Until(identity.session.ends_at, ended=True)
        if not identity.expires_at:
            return None
        return _Until(identity.expires_at if tunnel else identity.expires_at + _OVERTIME)

    async def _say(self, exchange: Exchange, refusal: Refusal, match: Match | None) -> int:
        answer = self._answers.refuse(refusal, exchange.info, match)
        try:
            await exchange.answer(answer)
        except ClientGone:
            return _CLIENT_GONE
        return answer.status

    async def forward_auth(self, info: RequestInfo, *, success: int, release_tokens: bool) -> Answer:
        """The second door: say what would be decided for the request that an ingress describes.

        ``release_tokens``: the caller has shown that it is an ingress, and may be given the ID token for the app.
        """
        began, match, permit, refusal = self._clock(), None, None, None
        try:
            match = self._routes.match(info)
            permit = await self.decide(info, match)
            answer = self._permitted(info, permit, success, release_tokens)
        except Refusal as no:
            refusal = no
            answer = self._answers.bare(no, info.request_id, match)
        self._observe(info, match, permit, answer.status, refusal, began)
        return answer

    @staticmethod
    def _permitted(info: RequestInfo, permit: Permit, success: int, release_tokens: bool) -> Answer:
        identity = permit.proved.identity
        headers = list(mutate.auth_request_headers(identity))
        headers += [(b"Set-Cookie", cookie.encode()) for cookie in permit.proved.set_cookies]
        authorization = mutate.upstream_authorization(permit.match.app.upstream, identity) if release_tokens else None
        if authorization is not None:
            headers.append((b"Authorization", authorization))
        headers += [(b"X-Request-Id", info.request_id.encode()), (b"Cache-Control", b"no-store")]
        return Answer(success, tuple(headers))

    def _observe(
        self, info: RequestInfo, match: Match | None, permit: Permit | None, status: int, refusal: Refusal | None,
        began: float,
    ) -> None:  # fmt: skip
        seconds = max(self._clock() - began, 0.0)
        app = match.app.name if match else ""
        code = refusal.code if refusal else ""
        identity = permit.proved.identity if permit else None
        self._metrics.exchange(app=app, status=status, seconds=seconds, code=code)
        self._audit.record(
            "exchange", request_id=info.request_id, client=info.client, method=info.method, host=info.host,
            path=info.raw_path, app=app, route=match.route.where if match else "", status=status, code=code,
            reason=refusal.reason if refusal else (permit.decision.reason if permit else ""),
            kind=identity.kind if identity else "", subject=identity.subject if identity else "",
            user=identity.user if identity else "", ms=round(seconds * 1000, 1),
        )  # fmt: skip


def _missing(decision: Decision) -> str:
    """What the caller lacks, as a sentence; the settings' own words stay in the audit record."""
    needs = decision.reason.partition(": needs ")[2]
    return f"This needs {needs}." if needs else f"You may not open this: {decision.reason}."
