"""An OpenID provider on loopback: correct by default, and wrong in one place at a time where a test asks for it.

    async with OpenIDPeer() as peer:
        peer.mangle_id_token = lambda claims, header: claims.update(iss="https://other.example")
        peer.fail("token", 500, times=2)
        peer.discovery_overrides["issuer"] = peer.issuer + "/"
        ...
        assert len(peer.asked("token", grant_type="refresh_token")) == 1

It speaks the code flow with PKCE (answer by query or form post), refresh with rotation and reuse detection, the
password grant, userinfo, revocation, RP-initiated logout and back-channel logout; ``OpenIDPeer.like_dex()`` has the
manners of Dex.  Every call is recorded with what was answered.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from aiohttp import web

from tests.peers.openid_endpoints import CLIENT_ID as CLIENT_ID
from tests.peers.openid_endpoints import CLIENT_SECRET as CLIENT_SECRET
from tests.peers.openid_endpoints import LOGOUT_EVENT, Answer, Call, Endpoints, Hook, Overrides
from tests.peers.openid_grants import Consent
from tests.peers.openid_pages import form_fields as form_fields
from tests.peers.openid_signing import as_json, sign
from tests.peers.program import PATIENCE


class OpenIDPeer(Endpoints):
    """The provider; enter it as an async context manager, or ``start`` and ``stop`` it to let it be down for a while.

    People: ``people``; ``current_user`` is signed in by the authorization endpoint at once, None shows a login form.
    Faults: ``discovery_overrides``, ``callback_overrides``, ``userinfo_overrides``, ``end_session_overrides``;
    ``mangle_id_token(claims, header)`` edits before and ``mangle_token_text(text)`` after signing; ``forge`` signs with
    a key that is not published; ``discovery_answer``, ``jwks_answer``, ``token_answer``, ``userinfo_answer``,
    ``revocation_answer`` and ``authorize_answer`` replace a whole answer (a tuple of status, body and headers, or a
    callable of the ``Call`` that may return None to behave); ``fail``; ``hold``; ``delay`` (seconds); ``lose_answers``.
    """

    @classmethod
    def like_dex(cls, **options: Any) -> OpenIDPeer:
        """One refresh token for each person and client, 400 invalid_request for a dead one, no revocation."""
        manners: dict[str, Any] = {"dex": True, "one_refresh_token_per_user": True, "path": "/dex"}
        return cls(**manners | options)

    # --- running ---

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a ``stop`` on the same port as before, with everything remembered."""
        app = web.Application()
        for method, place, endpoint, work in self._table():
            app.router.add_route(method, self._path + place, self._recorded(endpoint, work))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Be down: connections are refused."""
        for gate in self._gates.values():
            gate.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def __repr__(self) -> str:
        return f"<OpenIDPeer {self.issuer}: {len(self.calls)} calls>"

    def settings(self, **extra: Any) -> dict[str, Any]:
        """The entry under ``providers`` that signs people in here."""
        named = {"issuer": self.issuer, "client_id": self.client_id}
        secret = {} if self.client_secret is None else {"client_secret": {"value": self.client_secret}}
        return named | secret | extra

    # --- what tests ask and tell ---

    def asked(self, endpoint: str, **parameters: str) -> list[Call]:
        """The calls of an endpoint, of those with these parameters alone."""
        return [
            call
            for call in self.calls
            if call.endpoint == endpoint and all(call.parameters.get(name) == text for name, text in parameters.items())
        ]

    async def wait_for(self, endpoint: str, count: int = 1, **parameters: str) -> list[Call]:
        """Wait until an endpoint was asked ``count`` times."""
        while len(found := self.asked(endpoint, **parameters)) < count:
            self._news.clear()
            await self._news.wait()
        return found

    def fail(self, endpoint: str, status: int, body: Any = b"", *, times: int = 1, **headers: str) -> None:
        """Answer the next ``times`` calls of an endpoint so (``retry_after="7"`` is a header), then behave."""
        left = [times]
        named = {name.replace("_", "-"): text for name, text in headers.items()}

        def hook(_call: Call) -> Answer | None:
            left[0] -= 1
            return (status, body, named) if left[0] >= 0 else None

        setattr(self, f"{endpoint}_answer", hook)

    def limit_rate(self, retry_after: int = 1, times: int = 1) -> None:
        """The token endpoint says 429, as Dex's limiter words it."""
        self.fail("token", 429, b"Too many requests", times=times, Retry_After=str(retry_after))

    def break_storage(self, times: int = 1) -> None:
        """The token endpoint fails as Dex does when its storage is busy: 500 with a misleading code."""
        self.fail("token", 500, {"error": "invalid_request"}, times=times)

    def hold(self, endpoint: str) -> asyncio.Event:
        """Answer calls of an endpoint only when the returned event is set; the call is recorded at once."""
        self._gates[endpoint] = asyncio.Event()
        return self._gates[endpoint]

    def id_token(self, username: str = "alice", **claims: Any) -> str:
        """An ID token out of the blue; a claim that is None is left out."""
        consent = Consent(username, self.client_id, ("openid", "email", "profile", "groups"), "sid-none", self.clock())
        return self._id_token(consent, "", "", claims)

    def logout_token(
        self, *, sub: str | None = "sub-alice", sid: str | None = None, header: Overrides | None = None, **claims: Any
    ) -> str:
        """A back-channel logout token; a claim, or a member of ``header``, that is None is left out."""
        now = int(self.clock())
        whole = {
            "iss": self.issuer, "aud": self.client_id, "iat": now, "exp": now + 120, "jti": secrets.token_hex(16),
            "events": {LOGOUT_EVENT: {}}, "sub": sub, "sid": sid,
        } | claims  # fmt: skip
        typ = {} if self.dex else {"typ": "logout+jwt"}
        whole = {name: value for name, value in whole.items() if value is not None}
        return sign(whole, self.forge or self.keys[-1], {"typ": None} | typ | (header or {}))

    async def send_logout(
        self, url: str, token: str | None = None, **claims: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Deliver a logout token to ``url`` once, as providers do; the status, headers and body of the answer."""
        form = {"logout_token": token if token is not None else self.logout_token(**claims)}
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(url, data=form, allow_redirects=False) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def visit(self, url: str) -> dict[str, str]:
        """Go to an authorization URL as a browser would; the parameters that the callback would get."""
        async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as answer:
            if answer.status in (302, 303):
                return dict(parse_qsl(urlsplit(answer.headers["Location"]).query, keep_blank_values=True))
            return dict(form_fields(await answer.text()))

    def _recorded(
        self, endpoint: str, work: Callable[[Call], Answer]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))
            headers = {name.lower(): text for name, text in request.headers.items()}
            call = Call(endpoint, request.method, dict(request.query), form, headers, request.path)
            self.calls.append(call)
            self._news.set()
            if endpoint in self._gates:
                await self._gates[endpoint].wait()
            if self.delay.get(endpoint):
                await asyncio.sleep(self.delay[endpoint])
            response = self._response(call, self._override(call) or work(call))
            if endpoint == "end_session" and self.backchannel_logout_uri:
                await self.send_logout(self.backchannel_logout_uri, sub=None, sid=self.hinted_sid(call))
            if self.lose_answers.get(endpoint, 0) > 0 and request.transport is not None:
                self.lose_answers[endpoint] -= 1
                request.transport.abort()
            return response

        return serve

    def _override(self, call: Call) -> Answer | None:
        hook: Hook = getattr(self, f"{call.endpoint}_answer", None)
        return hook(call) if callable(hook) and not isinstance(hook, web.Response) else hook

    def _response(self, call: Call, answer: Answer) -> web.Response:
        if isinstance(answer, web.Response):
            call.status = answer.status
            return answer
        call.status, body, headers = answer[0], answer[1], dict(answer[2]) if len(answer) > 2 else {}
        if isinstance(body, dict):
            call.error = str(body.get("error", ""))
            headers = {"Content-Type": "application/json", "Cache-Control": "no-store"} | headers
        if "date" not in {name.lower() for name in headers}:
            headers["Date"] = formatdate(self.clock(), usegmt=True)
        raw = body.encode() if isinstance(body, str) else as_json(body)
        return web.Response(status=call.status, body=raw, headers=headers)
