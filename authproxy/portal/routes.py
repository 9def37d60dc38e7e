"""Our own pages and endpoints under ``prefix``: sign-in, callback, sign-out, userinfo, back-channel logout, decisions.

Handlers read the request, ask the rooms that know, and answer with what they are told.  Refusals are raised; the front
door has them worded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from aiohttp import web

from authproxy.authn.session import SessionAuthenticator
from authproxy.edge.origin import Origins
from authproxy.errors import BadRequest, Forbidden, NotAuthenticated, NotFound, ProviderError, Refusal, Unavailable
from authproxy.model import Identity, RequestInfo
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics
from authproxy.oidc.provider import Provider
from authproxy.portal import smallstate
from authproxy.portal.form import fields, raw_form
from authproxy.portal.pages import CSP, STATIC, Choice, Pages, PasswordForm
from authproxy.routing import RouteTable
from authproxy.sessions.cookie import SessionCookie
from authproxy.sessions.sealing import token
from authproxy.signin.login import Finished, Login, callback_parameters
from authproxy.signin.logout import Logout
from authproxy.signin.target import AllowedTargets

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_QUANTUM: Final = 0.1  # seconds; a failed password is answered at a multiple of it, whoever the user is
_PAGE: Final = {
    "Content-Security-Policy": CSP, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
}  # fmt: skip


class Parts(NamedTuple):
    """What the portal is built from."""

    info_of: Callable[[web.Request], RequestInfo]
    providers: Mapping[str, Provider]
    routes: RouteTable
    origins: Origins
    targets: AllowedTargets
    pages: Pages
    cookie: SessionCookie
    session: SessionAuthenticator
    login: Login
    logout: Logout
    strict: bool  # the session cookie is SameSite=Strict
    audit: Audit
    metrics: Metrics


class Portal:
    """The handlers."""

    def __init__(self, parts: Parts) -> None:
        self._parts: Final = parts
        self._prefix: Final = parts.origins.prefix

    def attach(self, app: web.Application) -> None:
        """Add the routes to the application that serves our pages."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/sign_in", self.sign_in),
            ("POST", "/sign_in", self.password),
            ("GET", "/start", self.start),
            ("GET", "/callback", self.callback),
            ("POST", "/callback", self.callback),
            ("GET", "/callback/{provider}", self.callback),
            ("POST", "/callback/{provider}", self.callback),
            ("GET", "/userinfo", self.userinfo),
            ("GET", "/sign_out", self.confirm_sign_out),
            ("POST", "/sign_out", self.sign_out),
            ("GET", "/signed_out", self.signed_out),
            ("POST", "/backchannel_logout", self.backchannel_logout),
            ("GET", "/static/{name}", self.static),
        ]
        for method, path, handler in table:
            app.router.add_route(method, self._prefix + path, handler, expect_handler=_expect)

    # Signing in

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """The page with the providers; straight on when there is one, unless it has our own form."""
        info = self._parts.info_of(request)
        query = fields(info.query)
        target, providers = self._aim(info, query.get("rd", ""))
        forms = [provider for provider in providers if provider.settings.password_login]
        if len(providers) == 1 and not forms:
            return await self._start(info, providers[0], target)
        return await self._sign_in_page(request, info, providers, target=target)

    async def _sign_in_page(
        self, request: web.Request, info: RequestInfo, providers: list[Provider], *, target: str,
        error: str = "", username: str = "", status: int = 200,
    ) -> web.Response:  # fmt: skip
        form = None
        for provider in providers:
            if provider.settings.password_login:
                form = PasswordForm(
                    action=f"{self._prefix}/sign_in", provider=provider.name, title=provider.title, username=username,
                    csrf_token=await smallstate.csrf_token(request), rd=target, error=error,
                )  # fmt: skip
                break
        choices = [self._choice(p, target) for p in providers if form is None or p.name != form.provider]
        body = self._parts.pages.sign_in(app_title=self._app_title(info, target), choices=choices, form=form)
        return _page(body, status)

    def _choice(self, provider: Provider, target: str) -> Choice:
        query = urlencode({"provider": provider.name, "rd": target})
        return Choice(title=provider.title, href=f"{self._prefix}/start?{query}", name=provider.name)

    async def start(self, request: web.Request) -> web.StreamResponse:
        """Go to a provider."""
        info = self._parts.info_of(request)
        query = fields(info.query)
        target, providers = self._aim(info, query.get("rd", ""))
        return await self._start(info, _chosen(providers, query.get("provider", "")), target)

    async def _start(self, info: RequestInfo, provider: Provider, target: str) -> web.Response:
        guesses = (info.headers.text(b"sec-purpose"), info.headers.text(b"purpose"))
        if any("prefetch" in guess for guess in guesses):  # a guess of the browser's is no sign-in
            raise Unavailable("prefetch", "Sign-in is not begun ahead of time.")
        redirect_uri = self._parts.origins.callback(info, provider.name)
        started = await self._parts.login.start(info, provider, target=target, redirect_uri=redirect_uri)
        return _redirect(started.url, 302, started.set_cookies)

    async def callback(self, request: web.Request) -> web.StreamResponse:
        """The provider sent the browser back."""
        info = self._parts.info_of(request)
        encoded = await raw_form(request) if request.method == "POST" else info.query
        provider = self._callback_provider(info)
        try:
            parameters = callback_parameters(encoded)
            finished = await self._parts.login.finish(info, provider, parameters)
        except Refusal as refusal:
            self._note(info, "sign_in", refusal.code, provider=provider.name, reason=refusal.reason)
            raise
        return self._finished(info, provider, finished)

    def _callback_provider(self, info: RequestInfo) -> Provider:
        name = unquote(info.raw_path.removeprefix(f"{self._prefix}/callback").strip("/"))
        providers = self._parts.providers
        if not name and len(providers) == 1:
            return next(iter(providers.values()))
        if name not in providers:
            raise NotFound("unknown_provider", "There is no such provider.")
        return providers[name]

    def _finished(self, info: RequestInfo, provider: Provider, finished: Finished) -> web.Response:
        if finished.identity is not None:
            self._note(info, "sign_in", "ok", provider=provider.name, identity=finished.identity)
        if self._parts.strict and finished.identity is not None:
            # A SameSite=Strict cookie does not travel along a redirect that another site began; a page of ours goes on.
            page = _page(self._parts.pages.signed_in(target=finished.target))
            return _carrying(page, finished.set_cookies)
        # 303: the browser must fetch the target, not post to it (RFC 9110 section 15.4.4).
        return _redirect(finished.target, 302 if info.method == "GET" else 303, finished.set_cookies)

    async def password(self, request: web.Request) -> web.StreamResponse:
        """Our own form: the provider's password grant."""
        info, began = self._parts.info_of(request), asyncio.get_running_loop().time()
        form = fields(await raw_form(request))
        await smallstate.check_csrf(request, form.get("csrf_token", ""))
        target, providers = self._aim(info, form.get("rd", ""))
        provider = _chosen([p for p in providers if p.settings.password_login], form.get("provider", ""))
        username, password = form.get("username", ""), form.get("password", "")
        if not username.strip() or not password or len(username) > 256 or len(password) > 1024:
            raise BadRequest("credentials_missing", "Please enter a user name and a password.")
        try:
            finished = await self._parts.login.password(
                info, provider, username=username, password=password, target=target
            )
        except NotAuthenticated as wrong:
            self._note(info, "sign_in", wrong.code, provider=provider.name, reason=wrong.reason)
            await _settle(began)
            page = await self._sign_in_page(
                request, info, providers, target=target, error=wrong.message, username=username, status=401
            )
            page.headers["Authproxy-Refusal"] = wrong.code
            return page
        except Refusal as refusal:
            self._note(info, "sign_in", refusal.code, provider=provider.name, reason=refusal.reason)
            raise
        return self._finished(info, provider, finished)

    # Who am I, and signing out

    async def userinfo(self, request: web.Request) -> web.StreamResponse:
        """The identity as JSON; no token is in it."""
        info = self._parts.info_of(request)
        proved = await self._parts.session.authenticate(info, None)
        response = web.json_response(_described(proved.identity))
        response.headers["Cache-Control"] = "no-store"
        return _carrying(response, proved.set_cookies)

    async def confirm_sign_out(self, request: web.Request) -> web.StreamResponse:
        """Ask, since a link or an image on another site may have brought the browser here."""
        info = self._parts.info_of(request)
        user = ""
        try:
            user = (await self._parts.session.authenticate(info, None)).identity.user
        except NotAuthenticated:
            return _page(self._parts.pages.signed_out(sign_in=f"{self._prefix}/sign_in"))
        rd = self._allowed(info, fields(info.query).get("rd", "")) or ""
        token_ = await smallstate.csrf_token(request)
        return _page(self._parts.pages.sign_out(action=f"{self._prefix}/sign_out", csrf_token=token_, user=user, rd=rd))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """End the session here, everywhere, and at the provider when it has a way."""
        info = self._parts.info_of(request)
        form = fields(await raw_form(request))
        await smallstate.check_csrf(request, form.get("csrf_token", ""))
        rd = self._allowed(info, form.get("rd", "")) or ""
        ticket, hints = await self._parts.logout.end(info)
        goodbye = f"{self._parts.origins.of(info)}{self._prefix}/signed_out"
        url, state = None, token(16)
        provider = self._parts.providers.get(ticket.provider) if ticket else None
        if provider is not None:
            url = await _end_session(provider, hints, back=goodbye, state=state)
        if url is not None and rd:
            await smallstate.remember(request, "after_sign_out", json.dumps([state, rd]))
        self._note(info, "sign_out", "ok", provider=ticket.provider if ticket else "", subject=ticket)
        return _redirect(url or rd or goodbye, 303, self._parts.cookie.clear(info.headers))

    async def signed_out(self, request: web.Request) -> web.StreamResponse:
        """Where a sign-out ends.  A ``state`` that is missing or another's is no error: then the page stays."""
        info = self._parts.info_of(request)
        kept = await smallstate.recall(request, "after_sign_out")
        if kept:
            state, rd = json.loads(kept)
            if fields(info.query).get("state") == state:
                return _redirect(rd, 302, ())
        return _page(self._parts.pages.signed_out(sign_in=f"{self._prefix}/sign_in"))

    async def backchannel_logout(self, request: web.Request) -> web.StreamResponse:
        """OIDC Back-Channel Logout 1.0 section 2.5: one ``logout_token``, 200 or 400, never cached."""
        info = self._parts.info_of(request)
        try:
            form = fields(await raw_form(request))
            ended = await self._parts.logout.by_provider(form.get("logout_token", ""))
        except Refusal as refusal:
            self._note(info, "backchannel_logout", refusal.code, reason=refusal.reason)
            raise
        self._note(info, "backchannel_logout", "ok", reason=f"by {ended}")
        return web.Response(status=200, headers={"Cache-Control": "no-store"})

    async def static(self, request: web.Request) -> web.StreamResponse:
        """The style sheet and the script of our pages."""
        found = STATIC.get(request.match_info["name"])
        if found is None:
            raise NotFound("no_such_page", "There is no such page.")
        kind, content = found
        headers = {"Content-Type": kind, "Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=content, headers=headers)

    # Where to, and with whom

    def _allowed(self, info: RequestInfo, target: str) -> str | None:
        return self._parts.targets.accept(target, authority=info.authority)

    def _aim(self, info: RequestInfo, rd: str) -> tuple[str, list[Provider]]:
        """The target, safe, and the providers whose sessions open it."""
        target = self._allowed(info, rd) or "/"
        host, path = info.host, target
        if not target.startswith("/"):
            parts = urlsplit(target)
            host, path = (parts.hostname or "").lower(), parts.path or "/"
        names: set[str] = set()
        for app in self._parts.routes.apps_on(host):
            if path.startswith(app.path) or path + "/" == app.path:
                names |= app.providers
        if not names and host == self._parts.origins.public_host:
            names = set(self._parts.providers)
        providers = [provider for name, provider in self._parts.providers.items() if name in names]
        if not providers:
            raise Forbidden("no_provider", "Nobody can sign in for this address.")
        return target, providers

    def _app_title(self, info: RequestInfo, target: str) -> str:
        host = info.host if target.startswith("/") else (urlsplit(target).hostname or "")
        return next((app.title for app in self._parts.routes.apps_on(host) if app.title), "")

    def _note(
        self, info: RequestInfo, event: str, outcome: str, *, provider: str = "", reason: str = "",
        identity: Identity | None = None, subject: object = None,
    ) -> None:  # fmt: skip
        self._parts.metrics.event(event, outcome)
        self._parts.audit.record(
            event, request_id=info.request_id, client=info.client, host=info.host, outcome=outcome, provider=provider,
            reason=reason, user=identity.user if identity else "",
            subject=identity.subject if identity else getattr(subject, "subject", ""),
        )  # fmt: skip


async def _expect(_request: web.Request) -> None:
    """Send nothing: the front door says ``100 Continue`` when the body is asked for."""


async def _settle(began: float) -> None:
    """Wait for the next full quantum, so that the answer's time says nothing about the user."""
    passed = asyncio.get_running_loop().time() - began
    await asyncio.sleep(_QUANTUM - passed % _QUANTUM)


async def _end_session(provider: Provider, hints: Sequence[str], *, back: str, state: str) -> str | None:
    """The provider's own sign-out page, if it has one and can be asked."""
    with suppress(ProviderError):
        return await provider.end_session_url(hints=hints, post_logout_redirect_uri=back, state=state)
    return None


def _chosen(providers: list[Provider], name: str) -> Provider:
    if not name and len(providers) == 1:
        return providers[0]
    for provider in providers:
        if provider.name == name:
            return provider
    raise BadRequest("unknown_provider", "Please choose one of the ways to sign in.")


def _page(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, headers=_PAGE, content_type="text/html", charset="utf-8")


def _redirect(url: str, status: int, set_cookies: tuple[str, ...]) -> web.Response:
    headers = {"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return _carrying(web.Response(status=status, headers=headers), set_cookies)


def _carrying(response: web.Response, set_cookies: tuple[str, ...]) -> web.Response:
    for line in set_cookies:
        response.headers.add("Set-Cookie", line)
    return response


def _described(identity: Identity) -> dict[str, object]:
    return {
        "user": identity.user, "email": identity.email, "preferred_username": identity.preferred_username,
        "groups": list(identity.groups), "subject": identity.subject, "issuer": identity.issuer,
        "kind": identity.kind, "expires_at": int(identity.expires_at),
    }  # fmt: skip
