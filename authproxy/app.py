"""The workshop: builds every room from the settings by constructor calls, opens the listeners, starts, stops.

Nothing here decides about a request.  What is built is entered into one exit stack and left in reverse order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp_session
from aiohttp import web

from authproxy import authz, mutate, routing
from authproxy.admin.routes import Admin
from authproxy.authn.basic import BasicAuthenticator
from authproxy.authn.bearer import BearerAuthenticator
from authproxy.authn.certificate import CertificateAuthenticator
from authproxy.authn.chain import Authenticator, Chain
from authproxy.authn.session import SessionAuthenticator
from authproxy.authn.token import TokenAuthenticator
from authproxy.edge.answer import Answers
from authproxy.edge.certificate import ServerCertificate
from authproxy.edge.connection import FrontDoor, info_of
from authproxy.edge.origin import Origins
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.enrolling import Enrolling
from authproxy.errors import Refusal, StoreUnavailable
from authproxy.model import Answer, Exchange, RequestInfo
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics
from authproxy.oidc.issuer import Issuer
from authproxy.oidc.provider import Provider
from authproxy.pipeline import Pipeline
from authproxy.portal.decisions import Decisions
from authproxy.portal.pages import CSP, Pages
from authproxy.portal.record import recording
from authproxy.portal.routes import Parts, Portal
from authproxy.portal.smallstate import SealedStorage
from authproxy.sessions.cookie import Cookies, SessionCookie
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.sealing import KeyRing, decode, token
from authproxy.sessions.vault import Vault
from authproxy.settings.fresh import FreshSecret
from authproxy.settings.schema import Audit as AuditShape
from authproxy.settings.schema import ListenTls, Settings
from authproxy.signin.browser import BrowserCookie
from authproxy.signin.login import Login
from authproxy.signin.logout import Logout
from authproxy.signin.refresh import Refresher
from authproxy.signin.resume import Resumption
from authproxy.signin.state import StateCookies
from authproxy.signin.target import AllowedTargets
from authproxy.startup import Check, Startup
from authproxy.store.opened import open_store
from authproxy.throttle import Throttle
from authproxy.upstream.pool import Pools

log = logging.getLogger("authproxy")
_DRAIN: Final = 30.0


class Authproxy:
    """A whole proxy.  Enter it to serve; ``addresses`` says where."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings: Final = settings
        self._clock: Final = clock
        self._stack: Final = AsyncExitStack()
        self._tasks: Final[list[asyncio.Task[None]]] = []
        self._doors: Final[list[FrontDoor]] = []
        self._stop: Final = asyncio.Event()
        self.addresses: Final[dict[str, str]] = {}

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            await self._build()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.__aexit__(kind, error, trace)

    def readiness(self) -> bool:
        """Whether every part has answered once."""
        return self.startup.done.is_set()

    def stop(self) -> None:
        """Ask ``run_until_stopped`` to return."""
        self._stop.set()

    def obey_signals(self) -> None:
        """From now on SIGTERM and SIGINT ask ``run_until_stopped`` to return."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
            self._stack.callback(loop.remove_signal_handler, number)

    async def run_until_stopped(self) -> None:
        """Serve until ``stop``, or a signal that is obeyed; then finish what runs."""
        await self._stop.wait()
        await self.drain()

    async def drain(self) -> None:
        """Readiness fails first; then no connection is accepted, and what runs may finish."""
        self.startup.draining = True
        await asyncio.gather(*(door.drain(_DRAIN) for door in self._doors))
        with suppress(StoreUnavailable):
            await self.resumption.write_back()

    # Building, from the ground floor up

    async def _build(self) -> None:
        settings, clock = self._settings, self._clock
        self.audit = self._open_audit()
        self.metrics = Metrics()
        self.store = open_store(settings.store, clock=clock, told=self.metrics.store)
        self._stack.push_async_callback(self.store.close)
        self.ring = KeyRing(_session_keys(settings))
        self.providers = {
            name: await self._stack.enter_async_context(Provider(name, shape, clock=clock))
            for name, shape in settings.providers.items()
        }
        self.issuers = {
            name: await self._stack.enter_async_context(Issuer(name, shape, clock=clock))
            for name, shape in settings.issuers.items()
        }
        self._build_sessions()
        self._build_answers()
        self.enrolling = self._build_enrollment()
        await self._build_pipeline()
        self._build_portal()
        self.startup = Startup(self._checks(), self._degraded)
        await self._open_listeners()
        self._begin(self.startup.run)
        self._begin(self.marks.run)
        self._begin(self._write_back)

    def _open_audit(self) -> Audit:
        where = self._settings.audit
        audit = Audit.open(where.file if isinstance(where, AuditShape) else None, clock=self._clock)
        self._stack.callback(audit.close)
        return audit

    def _build_sessions(self) -> None:
        settings, clock, session = self._settings, self._clock, self._settings.session
        secure = settings.public_url.startswith("https://")
        self.cookies = Cookies(session.cookie, secure=secure)
        self.cookie = SessionCookie(self.cookies, self.ring, session.cookie)
        self.vault = Vault(self.store, self.ring)
        self.live = LiveView(clock=clock, idle=session.idle)
        self.metrics.watch_sessions(lambda: len(self.live))
        self.marks = Marks(self.store, clock=clock, on_mark=self.live.apply)
        self.refresher = Refresher(providers=self.providers, vault=self.vault, store=self.store, clock=clock)
        self.resumption = Resumption(
            cookie=self.cookie, live=self.live, vault=self.vault, marks=self.marks, refresher=self.refresher,
            providers=self.providers, idle=session.idle, clock=clock,
        )  # fmt: skip
        self._stack.push_async_callback(self.resumption.close)
        self.session = SessionAuthenticator(cookie=self.cookie, resumption=self.resumption, live=self.live)
        self.throttle = Throttle(self.store, settings.throttle, key=self.ring.subkey("throttle"))
        form_post = any(provider.response_mode == "form_post" for provider in settings.providers.values())
        self.login = Login(
            providers=self.providers, states=StateCookies(self.cookies, self.ring, cross_site=form_post and secure),
            browsers=BrowserCookie(self.cookies, self.ring), cookie=self.cookie, vault=self.vault, live=self.live,
            marks=self.marks, refresher=self.refresher, store=self.store, throttle=self.throttle,
            absolute=session.absolute, clock=clock,
        )  # fmt: skip
        self.logout = Logout(
            providers=self.providers, cookie=self.cookie, vault=self.vault, live=self.live, marks=self.marks,
            refresher=self.refresher, store=self.store, absolute=session.absolute, clock=clock,
        )  # fmt: skip
        self._stack.push_async_callback(self.logout.close)

    def _build_answers(self) -> None:
        settings = self._settings
        self.origins = Origins(
            public_url=settings.public_url, prefix=settings.prefix, cookie_domain=settings.session.cookie.domain
        )
        self.pages = Pages(prefix=settings.prefix)
        self.answers = Answers(pages=self.pages, origins=self.origins, csp=CSP)
        self.trusted = TrustedProxies(settings.listen.trusted_proxies)

    def _build_enrollment(self) -> Enrolling | None:
        if self._settings.enrollment is None:
            return None
        return Enrolling(
            self._settings.enrollment, public_url=self._settings.public_url, info_of=info_of, store=self.store,
            marks=self.marks, throttle=self.throttle, note=self._note_enrollment, clock=self._clock,
        )  # fmt: skip

    def _note_enrollment(self, info: RequestInfo, event: str, outcome: str, detail: str) -> None:
        self.metrics.event(event, outcome)
        self.audit.record(
            event, request_id=info.request_id, client=info.client, host=info.host, outcome=outcome, reason=detail
        )

    async def _build_pipeline(self) -> None:
        policies = authz.compile_policies(self._settings)
        self.routes = routing.RouteTable(routing.compile_apps(self._settings, policies, secrets=FreshSecret))
        pools = await self._stack.enter_async_context(Pools())
        self.pipeline = Pipeline(
            routes=self.routes, chain=Chain([self.session, *self._machines()]), pools=pools, answers=self.answers,
            own_cookies=mutate.OwnCookies(self.cookies.base.encode()), lifetime=self.session.lifetime,
            audit=self.audit, metrics=self.metrics, clock=self._clock,
        )  # fmt: skip

    def _machines(self) -> Iterator[Authenticator]:
        """What machines prove themselves with, each where the settings have it."""
        settings = self._settings
        enrolled = self.enrolling.authenticator if self.enrolling else None
        ours = enrolled.claims if enrolled else _never
        tokens = TokenAuthenticator(settings.tokens, throttle=self.throttle, elsewhere=ours)
        if enrolled:
            yield enrolled
        if settings.tokens:
            yield tokens
        if settings.issuers:
            yield BearerAuthenticator(
                self.issuers.values(), clock=self._clock, throttle=self.throttle,
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
            strict=self._settings.session.cookie.same_site == "strict", audit=self.audit, metrics=self.metrics,
        )  # fmt: skip
        self.portal = Portal(parts)

    def _targets(self) -> AllowedTargets:
        public = urlsplit(self._settings.public_url)
        hosts = {host for host in self.routes.hosts if host != "*"} | {public.hostname or ""}
        return AllowedTargets(scheme=public.scheme, hosts=frozenset(hosts), ports=frozenset({None, public.port}))

    def _decisions(self, *, private_listener: bool) -> Decisions:
        forward_auth = self._settings.forward_auth
        return Decisions(
            info_of=info_of, decide=self.pipeline.forward_auth, refuse=self.answers.bare, trusted=self.trusted,
            source=forward_auth.headers, success=forward_auth.success_status,
            secret=FreshSecret(forward_auth.secret) if forward_auth.secret else None, public_scheme=self.origins.scheme,
            private_listener=private_listener,
        )  # fmt: skip

    # Listeners

    async def _open_listeners(self) -> None:
        listen, prefix = self._settings.listen, self._settings.prefix
        recorded = recording(info_of=info_of, audit=self.audit, metrics=self.metrics, clock=self._clock)
        storage = SealedStorage(self.cookies, self.ring)
        pages = web.Application(middlewares=[recorded, aiohttp_session.session_middleware(storage)])
        self.portal.attach(pages)
        self._decisions(private_listener=False).attach(pages, prefix)
        if self.enrolling:
            self.enrolling.routes.attach(pages, prefix)
        ours = prefix + "/"
        public = self._door(pages, is_ours=lambda info: info.raw_path.startswith(ours), bare=False)
        certificate = _certificate(listen.tls) if listen.tls else None
        if certificate:
            self._begin(certificate.watch)
        self.addresses["public"] = await public.listen(listen.address, certificate.context if certificate else None)
        if listen.decisions:
            application = web.Application(middlewares=[recorded])
            self._decisions(private_listener=True).attach(application, prefix)
            door = self._door(application, is_ours=lambda _info: True, bare=True)
            self.addresses["decisions"] = await door.listen(listen.decisions)
        if listen.admin:
            self.addresses["admin"] = await self._open_admin(listen.admin)

    def _door(self, pages: web.Application, *, is_ours: Callable[[RequestInfo], bool], bare: bool) -> FrontDoor:
        def refused(refusal: Refusal, info: RequestInfo | None, raw: Raw | None) -> Answer:
            request_id = info.request_id if info else token(12)
            self._record_refusal(refusal, info, raw, request_id)
            if bare:
                return self.answers.bare(refusal, request_id)
            return self.answers.refuse(refusal, info) if info else self.answers.unread(refusal, request_id)

        door = FrontDoor(pages, describe=self._describe, is_ours=is_ours, proxied=self._proxied, refused=refused)
        self._doors.append(door)
        self._stack.push_async_callback(door.close)
        return door

    async def _open_admin(self, address: str) -> str:
        admin = Admin(readiness=self.startup.readiness, metrics=self.metrics)
        runner = web.AppRunner(admin.application(), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        if address.startswith("unix:"):
            await web.UnixSite(runner, address.removeprefix("unix:")).start()
            return address
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        name = runner.addresses[0]
        return f"{name[0]}:{name[1]}"

    def _describe(self, raw: Raw) -> RequestInfo:
        return describe(raw, trusted=self.trusted, request_id=token(12), public_scheme=self.origins.scheme)

    async def _proxied(self, exchange: Exchange) -> None:
        await self.pipeline.proxy(exchange)

    def _record_refusal(self, refusal: Refusal, info: RequestInfo | None, raw: Raw | None, request_id: str) -> None:
        """A refusal before or beside the pipeline: one audit line, with its code."""
        client = info.client if info else (raw.peer if raw else "")
        self.metrics.exchange(app="", status=refusal.status, seconds=0.0, code=refusal.code)
        self.audit.record(
            "exchange", request_id=request_id, client=client,
            method=info.method if info else (raw.method if raw else ""), host=info.host if info else "",
            path=info.raw_path if info else "", status=refusal.status, code=refusal.code, reason=refusal.reason,
        )  # fmt: skip

    # Keeping going

    def _checks(self) -> dict[str, Check]:
        checks: dict[str, Check] = {"store": self.marks.sync}
        for name, provider in self.providers.items():
            checks[f"provider {name}"] = provider.metadata
        if self.enrolling:
            checks["enrollment"] = self.enrolling.ready
        checks |= {f"issuer {name}": issuer.ensure for name, issuer in self.issuers.items()}
        return checks

    def _degraded(self) -> dict[str, str]:
        found = {f"provider {name}": p.last_error for name, p in self.providers.items() if p.last_error}
        found |= {f"issuer {name}": one.last_error for name, one in self.issuers.items() if one.last_error}
        if self.marks.synced_at is None or self._clock() - self.marks.synced_at > 3.0:
            found["store"] = "unreachable; sessions go on from memory and from their cookies"
        return found

    def _begin(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(_kept_going(work)))

    async def _write_back(self) -> None:
        pause = min(60.0, max(self._settings.session.idle / 20, 1.0))
        while True:
            await asyncio.sleep(pause)
            with suppress(StoreUnavailable):
                await self.resumption.write_back()


async def _kept_going(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do ``work``; when a mistake of ours ends it, say so and begin again, rather than go on without it."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s failed and begins again", getattr(work, "__qualname__", work))
            await asyncio.sleep(1.0)


def _never(_credentials: bytes) -> bool:
    return False


def _certificate(tls: ListenTls) -> ServerCertificate:
    return ServerCertificate(tls.cert, tls.key, client_ca=tls.client_ca, client_auth=tls.client_auth)


def _session_keys(settings: Settings) -> list[bytes]:
    keys = [decode(reference.reveal().strip().rstrip("=")) for reference in settings.session.keys]
    return [key for key in keys if key] or [os.urandom(32)]
