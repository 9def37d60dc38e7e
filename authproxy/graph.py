"""Everything that decides, built from one reading of the settings by constructor calls.

A graph opens no listener and keeps no background work.  When the settings change, another one takes its place; what
both share comes from ``Lasting``.  Nothing here decides about a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp_session
from aiohttp import web
from aiohttp.typedefs import Middleware

from authproxy import authz, mutate, routing
from authproxy.authn.basic import BasicAuthenticator
from authproxy.authn.bearer import BearerAuthenticator
from authproxy.authn.certificate import CertificateAuthenticator
from authproxy.authn.chain import Authenticator, Chain
from authproxy.authn.session import SessionAuthenticator
from authproxy.authn.token import TokenAuthenticator
from authproxy.edge.answer import Answers
from authproxy.edge.connection import Behind, info_of
from authproxy.edge.connections import Bound, Bounds
from authproxy.edge.decisions import Decisions
from authproxy.edge.origin import Origins
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.enrolling import Enrolling
from authproxy.errors import Refusal, Unavailable
from authproxy.lasting import Lasting, stamps
from authproxy.model import Answer, Identity, RequestInfo
from authproxy.oidc.issuer import Issuer
from authproxy.oidc.provider import Provider
from authproxy.pipeline import Pipeline
from authproxy.portal.pages import CSP, Pages
from authproxy.portal.record import recording
from authproxy.portal.routes import Parts, Portal
from authproxy.portal.smallstate import SealedStorage
from authproxy.sessions.cookie import Cookies, SessionCookie, Ticket
from authproxy.sessions.live import LiveSession
from authproxy.sessions.sealing import KeyRing, Tokens, decode, token
from authproxy.sessions.vault import Vault
from authproxy.settings.fresh import FreshSecret
from authproxy.settings.schema import Settings
from authproxy.settings.scope import is_accepted
from authproxy.signin.browser import BrowserCookie
from authproxy.signin.grace import RefreshGrace
from authproxy.signin.identity import identity_by
from authproxy.signin.login import Login
from authproxy.signin.logout import Logout
from authproxy.signin.recall import Recall
from authproxy.signin.refresh import Refresher, shared_by
from authproxy.signin.resume import Resumption
from authproxy.signin.state import StateCookies
from authproxy.signin.target import AllowedTargets
from authproxy.signin.termination import Cause, Termination
from authproxy.signin.token_pool import TokenPool
from authproxy.throttle import Throttle
from authproxy.upstream.pool import Pools

Check = Callable[[], Awaitable[object]]


class Graph:
    """Enter it to build it.  Leaving it lets renewals finish, and gives back what it shares.

    ``clock`` gives seconds since the epoch.  Entering raises LookupError, ValueError or OSError when a file or secret
    that the settings name cannot be used after all.
    """

    def __init__(self, settings: Settings, lasting: Lasting, *, clock: Callable[[], float]) -> None:
        self.settings: Final = settings
        self._lasting: Final = lasting
        self._clock: Final = clock
        self._stack: Final = AsyncExitStack()
        self.live: Final = lasting.live
        self.audit: Final = lasting.audit
        self.metrics: Final = lasting.metrics

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    # Building, from the ground floor up

    async def _build(self) -> None:
        settings = self.settings
        shared = await self._lasting.store(self._stack, settings.store)
        self.store, self.patient, self.marks, self.replicas = shared
        self.ring = KeyRing(_session_keys(settings) or [self._lasting.own_key])
        self.providers = {name: await self._provider(name) for name in settings.providers}
        self.issuers = {name: await self._issuer(name) for name in settings.issuers}
        self._build_sessions()
        self._build_signing_in()
        self._build_answers()
        self.enrolling = self._build_enrollment()
        await self._build_pipeline()
        self._build_portal()
        skews = {name: partial(getattr, provider, "skew") for name, provider in self.providers.items()}
        self.metrics.watch_clock_skews(skews)

    async def _provider(self, name: str) -> Provider:
        """What is known of a provider, its keys among it, outlives a change of settings that is not about it."""
        shape = self.settings.providers[name]
        key = ("provider", name, shape, stamps(shape))
        return await self._lasting.take(self._stack, key, lambda: Provider(name, shape, clock=self._clock))

    async def _issuer(self, name: str) -> Issuer:
        shape = self.settings.issuers[name]
        key = ("issuer", name, shape, stamps(shape))
        return await self._lasting.take(self._stack, key, lambda: Issuer(name, shape, clock=self._clock))

    def _build_sessions(self) -> None:
        settings, clock, session = self.settings, self._clock, self.settings.session
        secure = settings.public_url.startswith("https://")
        self.cookies = Cookies(session.cookie, secure=secure)
        self.cookie = SessionCookie(self.cookies, self.ring, session.cookie)
        self.vault = Vault(self.store, self.ring)
        patient = Vault(self.patient, self.ring)
        pool = TokenPool(patient, clock=clock)
        self.recall = Recall(
            live=self.live, vault=patient, replicas=self.replicas, pool=pool, clock=clock,
            scope=lambda session: shared_by(self.providers, session.ticket),
        )  # fmt: skip
        self.refresher = Refresher(
            providers=self.providers, vault=patient, store=self.patient, live=self.live, marks=self.marks,
            replicas=self.replicas, recall=self.recall, pool=pool, on_failure=self.metrics.refresh_failed, clock=clock,
            grace=RefreshGrace(self.store, seconds=session.refresh_grace, clock=clock),
        )  # fmt: skip
        self.termination = Termination(marks=self.marks, vault=self.vault, on_end=self._note_end)
        self.resumption = Resumption(
            cookie=self.cookie, live=self.live, vault=self.vault, marks=self.marks, recall=self.recall,
            refresher=self.refresher, termination=self.termination, providers=self.providers, idle=session.idle,
            clock=clock,
        )  # fmt: skip
        self._stack.push_async_callback(self.resumption.close)
        self.session = SessionAuthenticator(cookie=self.cookie, resumption=self.resumption, live=self.live)
        self.throttle = Throttle(
            self.store, settings.throttle, key=self.ring.subkey("throttle"), alone=self._lasting.alone
        )

    def _build_signing_in(self) -> None:
        settings, absolute = self.settings, self.settings.session.absolute
        secure = settings.public_url.startswith("https://")
        form_post = any(provider.response_mode == "form_post" for provider in settings.providers.values())
        self.login = Login(
            providers=self.providers, states=StateCookies(self.cookies, self.ring, cross_site=form_post and secure),
            browsers=BrowserCookie(self.cookies, self.ring), cookie=self.cookie, vault=self.vault, live=self.live,
            marks=self.marks, refresher=self.refresher, termination=self.termination, store=self.store,
            throttle=self.throttle, absolute=absolute, clock=self._clock,
        )  # fmt: skip
        self.logout = Logout(
            providers=self.providers, cookie=self.cookie, vault=self.vault, live=self.live, marks=self.marks,
            refresher=self.refresher, recall=self.recall, termination=self.termination, store=self.store,
            absolute=absolute, clock=self._clock,
        )  # fmt: skip
        self._stack.push_async_callback(self.logout.close)

    def _note_end(self, ticket: Ticket, cause: Cause, reason: str) -> None:
        self.metrics.event("session_ended", cause)
        self.audit.record(
            "session_ended", outcome=cause, provider=ticket.provider, subject=ticket.subject, session=ticket.id[:8],
            reason=reason,
        )  # fmt: skip

    def _build_answers(self) -> None:
        settings = self.settings
        self.origins = Origins(
            public_url=settings.public_url, prefix=settings.prefix, cookie_domain=settings.session.cookie.domain
        )
        self.pages = Pages(prefix=settings.prefix)
        self.answers = Answers(pages=self.pages, origins=self.origins, csp=CSP)
        self.trusted = TrustedProxies(settings.listen.trusted_networks, hops=settings.listen.trusted_hops)

    def _build_enrollment(self) -> Enrolling | None:
        if self.settings.enrollment is None:
            return None
        return Enrolling(
            self.settings.enrollment, public_url=self.settings.public_url, info_of=info_of, store=self.store,
            marks=self.marks, throttle=self.throttle, note=self._note_enrollment, clock=self._clock,
            plain=is_accepted(self.settings, "enrollment"),
        )  # fmt: skip

    def _note_enrollment(self, info: RequestInfo, event: str, outcome: str, detail: str) -> None:
        self.metrics.event(event, outcome)
        self.audit.record(
            event, request_id=info.request_id, client=info.client, host=info.host, outcome=outcome, reason=detail
        )

    async def _build_pipeline(self) -> None:
        policies = authz.compile_policies(self.settings)
        self._ids = Tokens()
        apps = routing.compile_apps(self.settings, policies, secrets=FreshSecret)
        self.routes = routing.RouteTable(apps)
        pools = await self._stack.enter_async_context(Pools())
        for app in apps:  # certificate files that cannot be used end the start, not a request
            pools.of(app.upstream)
        self.pipeline = Pipeline(
            routes=self.routes, chain=Chain([self.session, *self._machines()]), pools=pools, answers=self.answers,
            own_cookies=mutate.OwnCookies(self.cookies.base.encode()), lifetime=self.live.by_id,
            audit=self.audit, metrics=self.metrics, clock=self._clock,
        )  # fmt: skip

    def _machines(self) -> Iterator[Authenticator]:
        """What machines prove themselves with, each where the settings have it."""
        settings = self.settings
        enrolled = self.enrolling.authenticator if self.enrolling else None
        ours = enrolled.claims if enrolled else _never
        tokens = TokenAuthenticator(settings.tokens, throttle=self.throttle, elsewhere=ours)
        if self.enrolling:
            yield self.enrolling.authenticator
            yield self.enrolling.guard
        if settings.tokens:
            yield tokens
        if settings.issuers:
            yield BearerAuthenticator(
                self.issuers.values(), clock=self._clock, throttle=self.throttle, marks=self.marks,
                elsewhere=lambda credentials: ours(credentials) or tokens.claims(credentials),
            )  # fmt: skip
        if settings.basic:
            basic = BasicAuthenticator(settings.basic, throttle=self.throttle)
            self._stack.push_async_callback(basic.close)
            yield basic
        if settings.certificates:
            yield CertificateAuthenticator(settings.certificates, clock=self._clock)

    def _build_portal(self) -> None:
        parts = Parts(
            info_of=info_of, providers=self.providers, routes=self.routes, origins=self.origins,
            targets=self._targets(), pages=self.pages, cookie=self.cookie, session=self.session, login=self.login,
            logout=self.logout,
            strict=self.settings.session.cookie.same_site == "strict", audit=self.audit, metrics=self.metrics,
        )  # fmt: skip
        self.portal = Portal(parts)

    def _targets(self) -> AllowedTargets:
        public = urlsplit(self.settings.public_url)
        hosts = {host for host in self.routes.hosts if host != "*"} | {public.hostname or ""}
        return AllowedTargets(scheme=public.scheme, hosts=frozenset(hosts), ports=frozenset({None, public.port}))

    def _decisions(self, *, private_listener: bool) -> Decisions:
        forward_auth = self.settings.forward_auth
        return Decisions(
            decide=self.pipeline.forward_auth, refuse=self.answers.bare, trusted=self.trusted,
            source=forward_auth.headers, success=forward_auth.success_status,
            secret=FreshSecret(forward_auth.secret) if forward_auth.secret else None, public_scheme=self.origins.scheme,
            private_listener=private_listener, audit=self.audit, metrics=self.metrics,
        )  # fmt: skip

    # What listeners lead to

    def public(self) -> Behind:
        """The pages of ours, and everything that is proxied."""
        prefix = self.settings.prefix
        storage = SealedStorage(self.cookies, self.ring)
        pages = web.Application(middlewares=[self._recorded(), aiohttp_session.session_middleware(storage)])
        self.portal.attach(pages)
        if self.enrolling and self.enrolling.issues:
            self.enrolling.routes.attach(pages, prefix)
        ours = prefix + "/"
        return self._behind(
            pages, self._decisions(private_listener=False), is_ours=lambda info: info.raw_path.startswith(ours),
            bare=False,
        )  # fmt: skip

    def decisions(self) -> Behind:
        """Decisions for ingresses, and nothing else."""
        pages = web.Application(middlewares=[self._recorded()])
        return self._behind(pages, self._decisions(private_listener=True), is_ours=lambda _info: True, bare=True)

    def _recorded(self) -> Middleware:
        return recording(info_of=info_of, audit=self.audit, metrics=self.metrics, clock=self._clock)

    def _behind(
        self, pages: web.Application, decisions: Decisions, *, is_ours: Callable[[RequestInfo], bool], bare: bool
    ) -> Behind:
        def refused(refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> Answer:
            request_id = info.request_id if info else token(12)
            self._record_refusal(refusal, info, raw, request_id)
            if bare:
                return self.answers.bare(refusal, request_id)
            return self.answers.refuse(refusal, info) if info else self.answers.unread(refusal, request_id)

        def crowded(bound: Bound) -> Answer:
            self.metrics.connection_refused(bound)
            refusal = Unavailable("too_many_connections", "Too many connections are open. Please try again soon.")
            return self.answers.bare(refusal, token(12)) if bare else self.answers.unread(refusal, token(12))

        connections = self.settings.listen.connections
        bounds = Bounds(connections.total, connections.per_client, self.trusted)
        at = decisions.paths(self.settings.prefix)
        return Behind(
            pages, self._describe, is_ours, self.pipeline.proxy, refused, bounds, crowded, decisions.asked, at
        )  # fmt: skip

    def _describe(self, raw: Raw) -> RequestInfo:
        return describe(raw, trusted=self.trusted, request_id=self._ids.take(), public_scheme=self.origins.scheme)

    def _record_refusal(self, refusal: Refusal, info: RequestInfo | None, raw: Raw | None, request_id: str) -> None:
        """A refusal before or beside the pipeline: one audit line, with its code."""
        client = info.client if info else (raw.peer if raw else "")
        self.metrics.exchange("", refusal.status, 0.0, refusal.code)
        self.audit.record(
            "exchange", request_id=request_id, client=client,
            method=info.method if info else (raw.method if raw else ""), host=info.host if info else "",
            path=info.raw_path if info else "", status=refusal.status, code=refusal.code, reason=refusal.reason,
        )  # fmt: skip

    # What others ask

    def needed(self) -> dict[str, Check]:
        """What has to have answered once before requests may be sent here, by name; each raises AuthproxyError.

        Without the revocations a session that was ended could come back.  A provider is not needed: whoever is signed
        in goes on without it, also at a process that has just started.
        """
        checks: dict[str, Check] = {"store": self.marks.sync}
        if self.enrolling:
            checks["enrollment"] = self.enrolling.ready
        return checks

    def wanted(self) -> dict[str, Check]:
        """What is asked for early, so that it is there when somebody needs it."""
        checks: dict[str, Check] = {f"provider {name}": one.metadata for name, one in self.providers.items()}
        return checks | {f"issuer {name}": issuer.ensure for name, issuer in self.issuers.items()}

    def degraded(self) -> dict[str, str]:
        """What does not work now, while signed-in users go on, by name."""
        found = {f"provider {name}": p.last_error for name, p in self.providers.items() if p.last_error}
        found |= {f"issuer {name}": one.last_error for name, one in self.issuers.items() if one.last_error}
        if self.marks.synced_at is None or self.marks.behind:
            found["store"] = "unreachable; sessions go on from memory and from their cookies"
        return found

    def identity(self, session: LiveSession) -> Identity | None:
        """The identity of a live session by these settings; None when its provider is not among them."""
        provider = self.providers.get(session.ticket.provider)
        if provider is None or provider.issuer != session.ticket.issuer:
            return None
        return identity_by(session, provider)

    def __repr__(self) -> str:
        return f"<Graph of {self.settings.public_url}: {len(self.settings.apps)} apps>"


def _never(_credentials: bytes) -> bool:
    return False


def _session_keys(settings: Settings) -> list[bytes]:
    keys = []
    for index, reference in enumerate(settings.session.keys):
        key = decode(reference.reveal().strip().rstrip("="))
        if key is None:  # left out, sessions would be sealed by another key than the settings say
            raise ValueError(f"session.keys[{index}] is not 32 bytes in base64url; make a key with `authproxy key`")
        keys.append(key)
    return keys
