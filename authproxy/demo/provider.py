"""A small OpenID provider for the demo: real protocol, two users, nothing kept.

It stands outside the house and knows nothing of the proxy: discovery, authorization code with PKCE S256, rotating
refresh tokens, password grant, userinfo, revocation and end-session, over HTTP, as any provider would.  It keeps no
session of its own, so that signing out and in again always asks who you are.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote_plus, urlencode

from aiohttp import web

from authproxy.demo.grants import ACCESS_SECONDS, Family, Grants, Refused, Request
from authproxy.demo.html import page, static
from authproxy.demo.people import PEOPLE, Person, person, proved
from authproxy.demo.signing import SigningKey

ID_TOKEN_SECONDS: Final = 120
"""Short, so that a visitor sees the proxy renew it."""

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SCOPES: Final = ("openid", "profile", "email", "groups", "offline_access")


class DemoProvider:
    """The provider at ``issuer``, with one client.

    ``redirect_uris`` are compared character by character (RFC 9700 section 4.1.3), and so are ``goodbye_uris``, the
    addresses that may follow a sign-out.  ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: str,
        redirect_uris: frozenset[str],
        goodbye_uris: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer: Final = issuer
        self._client: Final = (client_id, client_secret)
        self._redirect_uris: Final = redirect_uris
        self._goodbye_uris: Final = goodbye_uris
        self._clock: Final = clock
        self._grants: Final = Grants(clock)
        self._key: Final = SigningKey()

    def __repr__(self) -> str:
        return f"<DemoProvider {self.issuer}: {self._grants!r}>"

    def application(self) -> web.Application:
        """The routes, to be served at the root of ``issuer``."""
        app = web.Application(client_max_size=64 * 1024)
        app.add_routes(
            [
                web.get("/.well-known/openid-configuration", self.discovery),
                web.get("/keys", self.keys),
                web.get("/authorize", self.authorize),
                web.post("/authorize", self.authorize),
                web.post("/login", self.login),
                web.post("/token", self.token),
                web.get("/userinfo", self.userinfo),
                web.post("/userinfo", self.userinfo),
                web.post("/revoke", self.revoke),
                web.get("/end_session", self.end_session),
                web.post("/end_session", self.end_session),
                web.get("/static/{name}", static),
                web.get("/", self.front),
            ]
        )
        return app

    # What is published

    async def discovery(self, _request: web.Request) -> web.Response:
        """OpenID Connect Discovery 1.0 section 3."""
        at = self.issuer
        return web.json_response(
            {
                "issuer": at, "authorization_endpoint": f"{at}/authorize", "token_endpoint": f"{at}/token",
                "userinfo_endpoint": f"{at}/userinfo", "jwks_uri": f"{at}/keys",
                "revocation_endpoint": f"{at}/revoke", "end_session_endpoint": f"{at}/end_session",
                "response_types_supported": ["code"], "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", "refresh_token", "password"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "code_challenge_methods_supported": ["S256"], "scopes_supported": list(_SCOPES),
                "claims_supported": ["sub", "name", "preferred_username", "email", "email_verified", "groups", "sid"],
                "authorization_response_iss_parameter_supported": True,
            }
        )  # fmt: skip

    async def keys(self, _request: web.Request) -> web.Response:
        """The public key."""
        return web.json_response(self._key.jwks)

    async def front(self, _request: web.Request) -> web.Response:
        """For a visitor who wonders what this port is."""
        return _message("This is Demo ID", "The demo's sign-in service. Open the app, and it will send you here.")

    # Signing in

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """OpenID Connect Core section 3.1.2.  Never redirects to an address that is not registered."""
        asked = await _parameters(request)
        redirect_uri = asked.get("redirect_uri", "")
        if asked.get("client_id") != self._client[0] or redirect_uri not in self._redirect_uris:
            return _message("That app is not known here", "Its client ID or its return address is not registered.", 400)
        error = _fault(asked)
        if error:
            return self._back(redirect_uri, {"error": error, "state": asked.get("state", "")})
        pending = Request(
            redirect_uri, asked.get("state", ""), asked.get("nonce", ""), asked["scope"], asked["code_challenge"]
        )
        return _login_page(self._grants.requests.add(pending), username=asked.get("login_hint", ""))

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The login page was sent: a demo user's button, the form, or Cancel."""
        form = await _parameters(request)
        name = form.get("request", "")
        pending = self._grants.requests.get(name)
        if pending is None:
            return _message("This sign-in is too old", "Go back to the app and start again.", 400)
        if "cancel" in form:
            self._grants.requests.pop(name)
            return self._back(pending.redirect_uri, {"error": "access_denied", "state": pending.state})
        who = _chosen(form)
        if who is None:
            return _login_page(name, username=form.get("username", ""), wrong=True)
        self._grants.requests.pop(name)
        return self._back(pending.redirect_uri, {"code": self._grants.code(pending, who), "state": pending.state})

    def _back(self, redirect_uri: str, answer: Mapping[str, str]) -> web.Response:
        query = {name: value for name, value in answer.items() if value} | {"iss": self.issuer}  # RFC 9207
        joint = "&" if "?" in redirect_uri else "?"
        return _redirect(f"{redirect_uri}{joint}{urlencode(query)}")

    # Tokens

    async def token(self, request: web.Request) -> web.Response:
        """RFC 6749 section 5, with the errors of its section 5.2."""
        form = await _parameters(request)
        if not self._is_client(request, form):
            return _json({"error": "invalid_client"}, 401, {"WWW-Authenticate": 'Basic realm="Demo ID"'})
        try:
            return _json(self._granted(form))
        except Refused as refused:
            return _json({"error": str(refused)}, 400)

    def _granted(self, form: Mapping[str, str]) -> dict[str, object]:
        kind = form.get("grant_type", "")
        if kind == "authorization_code":
            family = self._grants.redeem(
                form.get("code", ""), form.get("redirect_uri", ""), form.get("code_verifier", "")
            )
            return self._tokens(family, nonce=family.nonce)
        if kind == "refresh_token":
            return self._tokens(self._grants.renew(form.get("refresh_token", "")))
        if kind == "password":
            who = proved(form.get("username", ""), form.get("password", ""))
            if who is None:
                raise Refused("invalid_grant")
            return self._tokens(self._grants.begin(who, form.get("scope", "openid")))
        raise Refused("unsupported_grant_type")

    def _tokens(self, family: Family, *, nonce: str = "") -> dict[str, object]:
        now = int(self._clock())
        claims: dict[str, object] = {
            "iss": self.issuer, "aud": self._client[0], "iat": now, "exp": now + ID_TOKEN_SECONDS,
            "auth_time": family.auth_time, "sid": family.sid, **family.person.claims,
        }  # fmt: skip
        if nonce:
            claims["nonce"] = nonce
        answer: dict[str, object] = {
            "token_type": "Bearer", "access_token": self._grants.access_token(family), "scope": family.scope,
            "expires_in": int(ACCESS_SECONDS), "id_token": self._key.sign(claims),
        }  # fmt: skip
        if "offline_access" in family.scope.split():
            answer["refresh_token"] = self._grants.rotate(family)
        return answer

    def _is_client(self, request: web.Request, form: Mapping[str, str]) -> bool:
        given = _basic(request.headers.get("Authorization", ""))
        name, secret = given or (form.get("client_id", ""), form.get("client_secret", ""))
        known_name, known_secret = self._client
        return name == known_name and hmac.compare_digest(secret.encode(), known_secret.encode())

    async def userinfo(self, request: web.Request) -> web.Response:
        """OpenID Connect Core section 5.3."""
        kind, _, access_token = request.headers.get("Authorization", "").partition(" ")
        family = self._grants.holder(access_token) if kind.lower() == "bearer" else None
        if family is None:
            return _json({"error": "invalid_token"}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return _json(family.person.claims)

    # Ending

    async def revoke(self, request: web.Request) -> web.Response:
        """RFC 7009 section 2: 200 also for a token that nobody knows."""
        form = await _parameters(request)
        if not self._is_client(request, form):
            return _json({"error": "invalid_client"}, 401)
        self._grants.revoke(form.get("token", ""))
        return _json({})

    async def end_session(self, request: web.Request) -> web.StreamResponse:
        """RP-Initiated Logout 1.0 section 2: ends the hint's sign-in; goes back to a registered address only."""
        asked = await _parameters(request)
        hint = self._key.claims_of(asked.get("id_token_hint", ""))
        self._grants.end(str(hint.get("sid", "")))
        goodbye = asked.get("post_logout_redirect_uri", "")
        if goodbye in self._goodbye_uris and hint.get("aud") == self._client[0]:
            state = asked.get("state", "")
            return _redirect(goodbye + (f"?{urlencode({'state': state})}" if state else ""))
        return _message("You are signed out", "Demo ID has forgotten you. You can close this page.")


def _fault(asked: Mapping[str, str]) -> str:
    """What is wrong with an authorization request of our client, as an error code; empty when it is good."""
    if asked.get("response_type") != "code":
        return "unsupported_response_type"
    if "openid" not in asked.get("scope", "").split():
        return "invalid_scope"
    challenge = asked.get("code_challenge", "")
    if asked.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(challenge):
        return "invalid_request"  # RFC 7636 section 4.4.1: PKCE is required here
    return "login_required" if "none" in asked.get("prompt", "").split() else ""


def _chosen(form: Mapping[str, str]) -> Person | None:
    if "as" in form:  # a button of the demo: everybody may be everybody
        return person(form["as"])
    return proved(form.get("username", ""), form.get("password", ""))


async def _parameters(request: web.Request) -> dict[str, str]:
    sent = await request.post() if request.method == "POST" else request.query
    return {name: value for name, value in sent.items() if isinstance(value, str)}


def _basic(header: str) -> tuple[str, str] | None:
    """Client name and secret, form-encoded before they were joined (RFC 6749 section 2.3.1)."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return unquote_plus(name), unquote_plus(secret)


def _json(content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(content, status=status, headers={"Cache-Control": "no-store", **(headers or {})})


def _redirect(location: str) -> web.Response:
    # 303: the browser must not send the login form on to the app (RFC 9700 section 4.12).
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})


def _login_page(request: str, *, username: str, wrong: bool = False) -> web.Response:
    values = {"people": PEOPLE, "request": request, "username": username, "wrong": wrong}
    return page("login.html", values, status=401 if wrong else 200)


def _message(title: str, text: str, status: int = 200) -> web.Response:
    return page("message.html", {"title": title, "text": text}, status)
