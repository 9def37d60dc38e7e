"""An OpenID peer that answers as Dex does, for machines without Dex.  ``test_dex`` holds both to one battery of tests.

The rules were read in Dex's sources and measured with Dex 2.45.1 and with a later one that has browser sessions.
"""

from __future__ import annotations

import asyncio
import html
import json
import secrets
import time
from http.cookies import SimpleCookie
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import jwt

from tests.peers.dex import CLIENT_ID, CLIENT_SECRET, OTHER_CLIENT_ID, PASSWORD, login_of
from tests.peers.openid_endpoints import Answer, Call, Overrides
from tests.peers.openid_grants import Consent, Family, Person, RefreshTokens
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import b64

COOKIE: Final = "dex_session"
PAGE: Final = {"Content-Type": "text/html"}
_FORM: Final = """<!doctype html><title>dex</title><form method="post" action="{action}">
<input name="login" type="text"><input name="password" type="password">
<button type="submit">Login</button></form>"""
_CONFIRM: Final = """<!doctype html><p>Do you want to log out?</p>
<form method="post" action="{action}"><button type="submit">Log Out</button></form>"""
_CLAIMED: Final = "Refresh token is invalid or has already been claimed by another client."


class DexTokens(RefreshTokens):
    """One refresh token per user, connector and client; a new sign-in deletes the one before.

    Codes of one user that are redeemed within ``race_seconds`` race inside Dex: the token of a sign-in that lost stays
    in the storage, but the user's offline session names another one.  Its refresh is answered 500, for good.
    """

    def __init__(self, *, reuse_interval: float, race_seconds: float) -> None:
        super().__init__(rotate=True, reuse_interval=reuse_interval, one_per_user=True)
        self.orphans: set[str] = set()
        self.race_seconds = race_seconds
        self._issued_at: dict[str, float] = {}  # of the first token of each family

    def issue(self, consent: Consent, now: float) -> str:
        """The first refresh token of a sign-in."""
        at = time.monotonic()
        for token, family in list(self._families.items()):
            if family.alive and _key(family.consent) == _key(consent):
                family.alive = False
                if at - self._issued_at.get(token, float("-inf")) < self.race_seconds:
                    self.orphans.add(token)
        token = self.begin(consent, now)
        self._issued_at[token] = at
        return token

    def client_of(self, token: str) -> str:
        """The client of a token that is in the storage, or an empty text."""
        family = self._families.get(token)
        return family.consent.client_id if family and (family.alive or token in self.orphans) else ""


def _key(consent: Consent) -> tuple[str, str, str]:
    return consent.username, consent.connector, consent.client_id


class BrowserSession(NamedTuple):
    """A session of Dex in one browser; ``id`` is the ``sid`` of its tokens."""

    id: str
    username: str
    connector: str
    auth_time: float
    clients: frozenset[str]


def subject_of(user_id: str, connector: str) -> str:
    """``sub`` as Dex makes it: base64url of a protobuf message with user and connector."""
    user, conn = user_id.encode(), connector.encode()
    return b64(b"\x0a" + bytes([len(user)]) + user + b"\x12" + bytes([len(conn)]) + conn)


class DexPeer(OpenIDPeer):
    """The provider; use it as ``OpenIDPeer``.  People sign in by the form, whatever ``current_user`` is.

    ``sessions`` False: Dex 2.45 and before, without sign-out.  ``id_tokens`` and ``reuse_interval`` are seconds.
    """

    def __init__(
        self,
        *,
        sessions: bool = True,
        people: tuple[str, ...] = ("alice", "bob"),
        connectors: tuple[str, ...] = ("local",),
        id_tokens: float = 600.0,
        reuse_interval: float = 30.0,
        race_seconds: float = 0.02,
        redirect_uris: tuple[str, ...] | None = None,
        post_logout_redirect_uris: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(
            dex=True, path="/dex", client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=redirect_uris,
            id_token_lifetime=id_tokens, access_token_lifetime=id_tokens, **options,
        )  # fmt: skip
        self.sessions, self.connectors = sessions, connectors
        self.post_logout_redirect_uris = post_logout_redirect_uris
        self.tokens = DexTokens(reuse_interval=reuse_interval, race_seconds=race_seconds)
        self.refresh_tokens = self.tokens
        self.require_pkce = False
        self.jwks_path = "/keys"
        self.current_user = None
        self.people = {name: Person(name, PASSWORD, {}) for name in (*people, "kilgore")}
        self.forgotten: set[str] = set()  # people whom the directory no longer has
        self.directory_is_up = True
        self.browser_sessions: dict[str, BrowserSession] = {}  # by the value of the cookie
        self._requests: dict[str, dict[str, str]] = {}
        self._last_login: dict[tuple[str, str], float] = {}
        self._deliveries: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<DexPeer {self.issuer}: {len(self.calls)} calls>"

    async def forget(self, username: str) -> None:
        """Delete a user, as an administrator does."""
        self.forgotten.add(username)

    async def stop_directory(self) -> None:
        """The directory is away: no refresh that rotates succeeds."""
        self.directory_is_up = False

    async def stop(self) -> None:
        """Be down: connections are refused."""
        for task in self._deliveries:
            task.cancel()
        await super().stop()

    def _table(self) -> list[Any]:
        return [
            ("GET", "/.well-known/openid-configuration", "discovery", self._discovery),
            ("GET", self.jwks_path, "jwks", lambda _call: (200, self.jwks())),
            ("GET", "/auth", "authorize", self._authorize),
            ("GET", "/auth/{connector}", "authorize", self._at_connector),
            ("GET", "/auth/{connector}/login", "login", self._login),
            ("POST", "/auth/{connector}/login", "login", self._login),
            ("POST", "/token", "token", self._token),
            ("GET", "/userinfo", "userinfo", self._userinfo),
            ("GET", "/logout", "logout", self._logout),
            ("POST", "/logout", "logout", self._logout),
        ]

    def _discovery(self, call: Call) -> Answer:
        sign_out = {
            "end_session_endpoint": f"{self.issuer}/logout",
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
        }
        overrides = self.discovery_overrides
        self.discovery_overrides = sign_out | overrides if self.sessions else overrides
        answer = super()._discovery(call)
        self.discovery_overrides = overrides
        return answer

    # --- sign-in ---

    def _wrong_request(self, asked: Any) -> str:
        if asked.get("client_id") not in (CLIENT_ID, OTHER_CLIENT_ID):
            return "unknown client"
        allowed = self.redirect_uris is None or asked.get("redirect_uri") in self.redirect_uris
        return "" if asked.get("redirect_uri") and allowed else "unregistered redirect_uri"

    def _authorize(self, call: Call) -> Answer:
        wrong = self._wrong_request(call.query)
        if wrong:
            return 400, f"<p>{wrong}</p>", PAGE
        error = self._refusal(call.query)
        if error:
            return self._callback(call.query, {"error": error, "state": call.query.get("state")})
        wanted = call.query.get("connector_id", "")
        if wanted and wanted not in self.connectors:
            return 400, "<p>Connector ID does not match a valid Connector</p>", PAGE
        places = [f"{self.issuer}/auth/{name}?{urlencode(call.query)}" for name in self.connectors]
        if wanted or len(places) == 1:
            return 302, b"", {"Location": places[self.connectors.index(wanted) if wanted else 0]}
        return 200, "".join(f'<a href="{html.escape(place)}">Log in</a>' for place in places), PAGE

    def _at_connector(self, call: Call) -> Answer:
        connector = call.path.rsplit("/", 1)[1]
        session = self._session(call)
        known = session and session.connector == connector and call.query["client_id"] in session.clients
        if session and known and call.query.get("prompt") != "login":
            return self._back(call.query, session.username, connector, session.id)
        name = secrets.token_hex(8)
        self._requests[name] = call.query
        return 302, b"", {"Location": f"{self.issuer}/auth/{connector}/login?{urlencode({'back': '', 'state': name})}"}

    def _login(self, call: Call) -> Answer:
        asked = self._requests.get(call.query.get("state", ""))
        if asked is None:
            return 400, "<p>Requested resource does not exist.</p>", PAGE
        form = _FORM.format(action=html.escape(f"{call.path}?{urlencode(call.query)}"))
        if call.method == "GET":
            return 200, form, PAGE
        username = next((name for name in self.people if login_of(name) == call.form.get("login")), "")
        if username in ("", *self.forgotten) or call.form.get("password") != PASSWORD:
            return 401, form, PAGE
        connector = call.path.rsplit("/", 2)[1]
        self._last_login[username, connector] = self.clock()
        if not self.sessions:
            return self._back(asked, username, connector, "")
        value, session = self._signed_in(call, username, connector, asked["client_id"])
        status, body, headers = self._back(asked, username, connector, session.id)
        return status, body, {**headers, "Set-Cookie": f"{COOKIE}={value}; Path=/dex; HttpOnly; SameSite=Lax"}

    def _session(self, call: Call) -> BrowserSession | None:
        return self.browser_sessions.get(self._cookie(call)) if self.sessions else None

    @staticmethod
    def _cookie(call: Call) -> str:
        found = SimpleCookie(call.headers.get("cookie", "")).get(COOKIE)
        return found.value if found else ""

    def _signed_in(self, call: Call, username: str, connector: str, client_id: str) -> tuple[str, BrowserSession]:
        """The cookie's session goes on for the same user and connector; otherwise another one replaces it."""
        value, now = self._cookie(call), self.clock()
        old = self.browser_sessions.pop(value, None)
        if old and (old.username, old.connector) == (username, connector):
            session = old._replace(auth_time=now, clients=old.clients | {client_id})
        else:
            value = secrets.token_urlsafe(16)
            session = BrowserSession(f"sid-{secrets.token_hex(8)}", username, connector, now, frozenset({client_id}))
        self.browser_sessions[value] = session
        return value, session

    def _back(self, asked: Any, username: str, connector: str, sid: str) -> tuple[int, Any, dict[str, str]]:
        code = self._code(asked, username)
        self._codes[code].connector, self._codes[code].sid = connector, sid
        place = urlencode({"code": code, "state": asked.get("state", "")})
        return 303, b"", {"Location": f"{asked['redirect_uri']}{'&' if '?' in asked['redirect_uri'] else '?'}{place}"}

    # --- tokens ---

    def _is_client(self, call: Call) -> bool:
        return bool(self._client(call))

    def _client(self, call: Call) -> str:
        """The client that the request proves, or an empty text."""
        for name in (CLIENT_ID, OTHER_CLIENT_ID):
            self.client_id = name
            proved = super()._is_client(call)
            self.client_id = CLIENT_ID
            if proved:
                return name
        return ""

    def _refresh(self, call: Call) -> Answer:
        token, client = call.form.get("refresh_token", ""), self._client(call)
        if self.tokens.client_of(token) not in ("", client):
            return 400, {"error": "invalid_grant", "error_description": _CLAIMED}
        if token in self.tokens.orphans:
            self.refreshes.append("orphan")
            return 500, {"error": "invalid_request"}
        username = self._asks_directory(token)
        if username and (username in self.forgotten or not self.directory_is_up):
            self.refreshes.append("unknown")
            return 500, {"error": "invalid_request"}
        found = self.tokens.spend(token, client, self.clock())
        self.refreshes.append(found[1] if found else "dead")
        if found is None:
            return 400, {"error": "invalid_request", "error_description": _CLAIMED}
        family: Family = found[0]
        return self._tokens(family.consent, "", family.current, again=True)

    def _asks_directory(self, token: str) -> str:
        """The user whom a refresh looks up: only when it rotates, and never with browser sessions."""
        if self.sessions:
            return ""
        family = self.tokens.rotates(token, self.clock())
        return family.consent.username if family else ""

    def _id_token(self, consent: Consent, access: str, code: str, changes: Overrides) -> str:
        if self.sessions:
            at = self._last_login[consent.username, consent.connector]
            changes = changes | {"auth_time": int(at), "sid": consent.sid, "jti": secrets.token_hex(16)}
        return super()._id_token(consent, access, code, changes)

    def _person(self, consent: Consent) -> dict[str, Any]:
        user_id = f"id-{consent.username}"
        claims: dict[str, Any] = {"sub": subject_of(user_id, consent.connector), "name": consent.username}
        if "email" in consent.scope:
            claims |= {"email": f"{consent.username}@example.com", "email_verified": True}
        if "groups" in consent.scope:
            claims["groups"] = ["staff"]
        if "federated:id" in consent.scope:
            claims["federated_claims"] = {"connector_id": consent.connector, "user_id": user_id}
        return claims

    # --- sign-out ---

    def _logout(self, call: Call) -> Answer:
        """RP-initiated logout: the cookie says which session ends; the hint says for whom, and spares the question."""
        if not self.sessions:
            return 404, b"404 page not found"
        session, asked = self._session(call), call.parameters
        hint = self._hinted(asked.get("id_token_hint", ""))
        if asked.get("id_token_hint") and hint is None:
            return 400, "<p>Invalid id_token_hint.</p>", PAGE
        vouched = hint is not None and session is not None and hint.get("sid", session.id) == session.id
        if session and not vouched and (hint is not None or call.method == "GET"):
            return 200, _CONFIRM.format(action=urlsplit(self.issuer).path + "/logout"), PAGE
        place = asked.get("post_logout_redirect_uri", "")
        if place and hint is None:
            return 400, "<p>post_logout_redirect_uri requires id_token_hint.</p>", PAGE
        if place and place not in self.post_logout_redirect_uris:
            return 400, "<p>Unregistered post_logout_redirect_uri.</p>", PAGE
        gone = {"Set-Cookie": f"{COOKIE}=; Path=/dex; Max-Age=0"} if session else {}
        if session:
            self._end(call, session)
        if not place:
            return 200, "<p>You have been successfully logged out.</p>", {**PAGE, **gone}
        state = asked.get("state", "")
        query = f"{'&' if '?' in place else '?'}{urlencode({'state': state})}" if state else ""
        return 302, b"", {"Location": place + query, **gone}

    def _hinted(self, hint: str) -> dict[str, Any] | None:
        """The claims of ``id_token_hint`` when a key that is still published signed it; expiry does not count."""
        try:
            kid = jwt.get_unverified_header(hint)["kid"]
            key = next(key for key in self.keys if key.kid == kid)
            whole = jwt.api_jws.decode_complete(hint, key.private.public_key(), algorithms=[key.alg])
        except (jwt.InvalidTokenError, KeyError, StopIteration):
            return None
        claims: dict[str, Any] = json.loads(whole["payload"])
        return claims

    def _end(self, call: Call, session: BrowserSession) -> None:
        del self.browser_sessions[self._cookie(call)]
        if self.backchannel_logout_uri and CLIENT_ID in session.clients:
            token = self.logout_token(sub=subject_of(f"id-{session.username}", session.connector), sid=session.id)
            task = asyncio.get_running_loop().create_task(self.send_logout(self.backchannel_logout_uri, token))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)
