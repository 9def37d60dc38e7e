"""The endpoints of an OpenID peer: what a correct provider answers, and the knobs that make it wrong.

No network here: ``openid_provider`` serves what these functions answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode

from aiohttp import web

from tests.peers.openid_grants import PEOPLE, Consent, Family, Person, RefreshTokens
from tests.peers.openid_pages import LOGIN_FORM, applied, challenge_of, form_post, pairs_of
from tests.peers.openid_signing import SigningKey, half_hash, sign, signing_key

CLIENT_ID: Final = "authproxy"
CLIENT_SECRET: Final = "the secret/of+the client: 100%"  # every character that form-urlencoding is about
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
Overrides = dict[str, Any]  # None leaves the member out; a list of text repeats a parameter
Answer = web.Response | tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
Hook = Answer | Callable[["Call"], Answer | None] | None


@dataclass
class Call:
    """One request as it came, and the status and OAuth error of what was answered (0 while it is under way)."""

    endpoint: str
    method: str
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[str, str]
    path: str
    status: int = 0
    error: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """Query and form together."""
        return self.query | self.form


class Endpoints:
    """The state of a provider and its answers."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        client_id: str = CLIENT_ID,
        client_secret: str | None = CLIENT_SECRET,
        redirect_uris: tuple[str, ...] | None = None,
        id_token_lifetime: float = 600.0,
        access_token_lifetime: float = 600.0,
        rotate: bool = True,
        reuse_interval: float = 0.0,
        one_refresh_token_per_user: bool = False,
        dex: bool = False,
        alg: str = "RS256",
        path: str = "",
        port: int = 0,
    ) -> None:
        self.clock = clock
        self.client_id, self.client_secret = client_id, client_secret  # secret None: a public client
        self.redirect_uris = redirect_uris  # None: any
        self.backchannel_logout_uri: str | None = None  # told when somebody signs out at the end-session endpoint
        self.people: dict[str, Person] = dict(PEOPLE)
        self.current_user: str | None = "alice"
        self.id_token_lifetime, self.access_token_lifetime = id_token_lifetime, access_token_lifetime
        self.code_lifetime = 60.0
        self.refresh_tokens = RefreshTokens(
            rotate=rotate, reuse_interval=reuse_interval, one_per_user=one_refresh_token_per_user
        )
        self.dex = dex
        self.issuer_parameter = not dex  # RFC 9207
        self.require_pkce = True
        self.offline_needs_scope = True
        self.id_token_on_refresh = True
        self.nonce_on_refresh = dex
        self.acr: str | None = None  # what sign-ins are said to have used; None: the first of acr_values

        self.alg = alg
        self.keys: list[SigningKey] = [signing_key("key-0", alg)]  # the last one signs, all are published
        self.rotate_before_signing = False  # once: right before the next ID token is made
        self.forge: SigningKey | None = None

        self.discovery_overrides: Overrides = {}
        self.callback_overrides: Overrides = {}
        self.userinfo_overrides: Overrides = {}
        self.end_session_overrides: Overrides = {}
        self.authorize_error = ""
        self.mangle_id_token: Callable[[dict[str, Any], dict[str, Any]], object] | None = None
        self.mangle_token_text: Callable[[str], str] | None = None
        self.discovery_answer: Hook = None
        self.jwks_answer: Hook = None
        self.authorize_answer: Hook = None
        self.token_answer: Hook = None
        self.userinfo_answer: Hook = None
        self.revocation_answer: Hook = None
        self.end_session_answer: Hook = None
        self.delay: dict[str, float] = {}
        self.lose_answers: dict[str, int] = {}  # endpoint: how many answers are lost after the work was done

        self.calls: list[Call] = []
        self.refreshes: list[str] = []  # what came of each refresh: rotated, repeated or dead
        self.issued: list[dict[str, Any]] = []  # every answer of the token endpoint that brought tokens
        self.active_sids: list[str] = []  # the provider's sessions, newest last
        self._path, self._port = path, port
        self._codes: dict[str, Consent] = {}
        self._access: dict[str, tuple[Consent, float]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._news = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.jwks_path = f"/keys/{secrets.token_hex(4)}"  # another one each run: it must be taken from discovery

    @property
    def issuer(self) -> str:
        """The issuer, known once it listens."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    def rotate_keys(self, *, keep_old: bool = True) -> SigningKey:
        """Sign with a new key from now on; the old ones stay published, or go."""
        number = 1 + max(int(str(key.kid).rpartition("-")[2]) for key in self.keys)
        fresh = signing_key(f"key-{number}", self.alg, number=number)
        self.keys = [*self.keys, fresh] if keep_old else [fresh]
        return fresh

    def jwks(self) -> dict[str, Any]:
        """The published keys."""
        return {"keys": [key.jwk() for key in self.keys]}

    def _table(self) -> list[tuple[str, str, str, Callable[[Call], Answer]]]:
        return [
            ("GET", "/.well-known/openid-configuration", "discovery", self._discovery),
            ("GET", self.jwks_path, "jwks", lambda _call: (200, self.jwks())),
            ("GET", "/auth", "authorize", self._authorize),
            ("POST", "/auth", "authorize", self._authorize),
            ("POST", "/token", "token", self._token),
            ("GET", "/userinfo", "userinfo", self._userinfo),
            ("POST", "/userinfo", "userinfo", self._userinfo),
            ("POST", "/revoke", "revocation", self._revoke),
            ("GET", "/end_session", "end_session", self._end_session),
            ("POST", "/end_session", "end_session", self._end_session),
        ]

    def _discovery(self, _call: Call) -> Answer:
        here = self.issuer
        document: Overrides = {
            "issuer": here,
            "authorization_endpoint": f"{here}/auth",
            "token_endpoint": f"{here}/token",
            "jwks_uri": here + self.jwks_path,
            "userinfo_endpoint": f"{here}/userinfo",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.alg],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": self.issuer_parameter,
        }
        if not self.dex:
            document |= {
                "end_session_endpoint": f"{here}/end_session",
                "revocation_endpoint": f"{here}/revoke",
                "backchannel_logout_supported": True,
                "backchannel_logout_session_supported": True,
            }
        return 200, applied(document, self.discovery_overrides)

    def _authorize(self, call: Call) -> Answer:
        asked = call.query
        wrong = self._wrong_request(asked)
        if wrong:
            return 400, f"<p>{wrong}</p>", {"Content-Type": "text/html"}
        error = self.authorize_error or self._refusal(asked)
        if error:
            return self._callback(asked, {"error": error, "state": asked.get("state")})
        username = self._who(call)
        if username is None:
            if asked.get("prompt") == "none":
                return self._callback(asked, {"error": "login_required", "state": asked.get("state")})
            return 200, LOGIN_FORM, {"Content-Type": "text/html"}
        return self._callback(asked, {"code": self._code(asked, username), "state": asked.get("state")})

    def _wrong_request(self, asked: Mapping[str, str]) -> str:
        """What must not even be told to the redirect URI (RFC 6749 section 4.1.2.1)."""
        if asked.get("client_id") != self.client_id:
            return "unknown client"
        allowed = self.redirect_uris is None or asked.get("redirect_uri") in self.redirect_uris
        return "" if asked.get("redirect_uri") and allowed else "unregistered redirect_uri"

    def _refusal(self, asked: Mapping[str, str]) -> str:
        if asked.get("response_type") != "code":
            return "unsupported_response_type"
        if "openid" not in asked.get("scope", "").split():
            return "invalid_scope"
        if self.require_pkce and not (asked.get("code_challenge") and asked.get("code_challenge_method") == "S256"):
            return "invalid_request"
        return ""

    def _who(self, call: Call) -> str | None:
        person = self.people.get(call.form.get("username", ""))
        if person and secrets.compare_digest(person.password, call.form.get("password", "")):
            return person.username
        return self.current_user

    def _code(self, asked: Mapping[str, str], username: str) -> str:
        code = secrets.token_urlsafe(16)
        now = self.clock()
        self.active_sids.append(f"sid-{secrets.token_hex(8)}")
        self._codes[code] = Consent(
            username=username,
            client_id=asked["client_id"],
            scope=tuple(asked.get("scope", "").split()),
            sid=self.active_sids[-1],
            auth_time=now,
            nonce=asked.get("nonce"),
            acr=self.acr or next(iter(asked.get("acr_values", "").split()), None),
            redirect_uri=asked["redirect_uri"],
            challenge=asked.get("code_challenge", ""),
            expires_at=now + self.code_lifetime,
        )
        return code

    def _callback(self, asked: Mapping[str, str], parameters: Overrides) -> Answer:
        if self.issuer_parameter:
            parameters = parameters | {"iss": self.issuer}
        pairs = pairs_of(applied(parameters, self.callback_overrides))
        place = asked["redirect_uri"]
        if asked.get("response_mode") == "form_post":
            return 200, form_post(place, pairs), {"Content-Type": "text/html", "Cache-Control": "no-store"}
        return 302, b"", {"Location": f"{place}{'&' if '?' in place else '?'}{urlencode(pairs)}"}

    def _token(self, call: Call) -> Answer:
        if not self._is_client(call):
            return 401, {"error": "invalid_client"}, {"WWW-Authenticate": "Basic"}
        grants: dict[str, Callable[[Call], Answer]] = {
            "authorization_code": self._redeem,
            "refresh_token": self._refresh,
            "password": self._password,
        }
        work = grants.get(call.form.get("grant_type", ""))
        return work(call) if work else (400, {"error": "unsupported_grant_type"})

    def _is_client(self, call: Call) -> bool:
        scheme, _, encoded = call.headers.get("authorization", "").partition(" ")
        pair = (call.form.get("client_id", ""), call.form.get("client_secret", ""))
        if scheme.lower() == "basic":
            client, _, secret = base64.b64decode(encoded).decode().partition(":")
            pair = unquote_plus(client), unquote_plus(secret)
        return pair == (self.client_id, self.client_secret or "")

    def _redeem(self, call: Call) -> Answer:
        consent = self._codes.get(call.form.get("code", ""))
        if consent is None or consent.expires_at < self.clock():
            return 400, {"error": "invalid_grant"}
        if consent.spent:  # RFC 6749 section 4.1.2: what it brought is revoked
            self.refresh_tokens.kill(sid=consent.sid)
            return 400, {"error": "invalid_grant"}
        verifier = call.form.get("code_verifier", "")
        proved = not consent.challenge or challenge_of(verifier) == consent.challenge
        if not proved or call.form.get("redirect_uri") != consent.redirect_uri:
            return 400, {"error": "invalid_grant"}
        consent.spent = True
        return self._tokens(consent, call.form["code"], self._first_refresh_token(consent))

    def _password(self, call: Call) -> Answer:
        person = self.people.get(call.form.get("username", ""))
        if person is None or person.password != call.form.get("password"):
            return (401, {"error": "access_denied"}) if self.dex else (400, {"error": "invalid_grant"})
        self.active_sids.append(f"sid-{secrets.token_hex(8)}")
        scope = tuple(call.form.get("scope", "").split())
        consent = Consent(person.username, self.client_id, scope, self.active_sids[-1], self.clock())
        return self._tokens(consent, "", self._first_refresh_token(consent))

    def _refresh(self, call: Call) -> Answer:
        found = self.refresh_tokens.spend(call.form.get("refresh_token", ""), self.client_id, self.clock())
        self.refreshes.append(found[1] if found else "dead")
        if found is None:
            text = "Refresh token is invalid or has already been claimed by another client."
            if self.dex:
                return 400, {"error": "invalid_request", "error_description": text}
            return 400, {"error": "invalid_grant"}
        family: Family = found[0]
        return self._tokens(family.consent, "", family.current, again=True)

    def _first_refresh_token(self, consent: Consent) -> str:
        wanted = "offline_access" in consent.scope or not self.offline_needs_scope
        return self.refresh_tokens.issue(consent, self.clock()) if wanted else ""

    def _tokens(self, consent: Consent, code: str, refresh_token: str, *, again: bool = False) -> Answer:
        access = secrets.token_urlsafe(24)
        self._access[access] = consent, self.clock() + self.access_token_lifetime
        answer: Overrides = {
            "access_token": access, "token_type": "Bearer", "expires_in": int(self.access_token_lifetime),
            "scope": " ".join(consent.scope),
        }  # fmt: skip
        if refresh_token:
            answer["refresh_token"] = refresh_token
        if not again or self.id_token_on_refresh:
            hidden: Overrides = {"nonce": None} if again and not self.nonce_on_refresh else {}
            answer["id_token"] = self._id_token(consent, access, code, hidden)
        self.issued.append(answer)
        return 200, answer

    def _id_token(self, consent: Consent, access: str, code: str, changes: Overrides) -> str:
        if self.rotate_before_signing:
            self.rotate_before_signing = False
            self.rotate_keys()
        key = self.forge or self.keys[-1]
        now = int(self.clock())
        hashes = {"at_hash": half_hash(access, key.alg) if access else None,
                  "c_hash": half_hash(code, key.alg) if code else None}  # fmt: skip
        claims: dict[str, Any] = {
            "iss": self.issuer, "aud": consent.client_id, "iat": now, "exp": now + int(self.id_token_lifetime),
            "nonce": consent.nonce, "auth_time": int(consent.auth_time), "sid": consent.sid, "acr": consent.acr,
        }  # fmt: skip
        if self.dex:
            claims |= {"sid": None, "auth_time": None, "acr": None}
        claims = applied(claims | hashes | self._person(consent), changes)
        header: dict[str, Any] = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
        if self.mangle_id_token is not None:
            self.mangle_id_token(claims, header)
        text = sign(applied(claims, {}), key, json.dumps(applied(header, {})).encode())
        return self.mangle_token_text(text) if self.mangle_token_text else text

    def _person(self, consent: Consent) -> dict[str, Any]:
        known = self.people[consent.username].claims
        scoped = {"email": "email", "email_verified": "email", "groups": "groups", "address": "address",
                  "phone_number": "phone", "phone_number_verified": "phone"}  # fmt: skip
        return {
            name: value
            for name, value in known.items()
            if name == "sub" or scoped.get(name, "profile") in consent.scope
        }

    def _userinfo(self, call: Call) -> Answer:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = call.form.get("access_token", "")
        consent, expires_at = self._access.get(token, (None, 0.0))
        if consent is None or expires_at <= self.clock():
            return 401, {"error": "invalid_token"}, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return 200, applied(self._person(consent), self.userinfo_overrides)

    def _revoke(self, call: Call) -> Answer:
        if not self._is_client(call):
            return 401, {"error": "invalid_client"}
        token = call.form.get("token", "")
        self._access.pop(token, None)
        self.refresh_tokens.kill(token=token)
        return 200, b""

    def _end_session(self, call: Call) -> Answer:
        sid = self.hinted_sid(call)
        self.active_sids = [one for one in self.active_sids if one != sid]
        place = call.parameters.get("post_logout_redirect_uri")
        if not place:
            return 200, "<p>You are signed out.</p>", {"Content-Type": "text/html"}
        back = pairs_of(applied({"state": call.parameters.get("state")}, self.end_session_overrides))
        query = f"{'&' if '?' in place else '?'}{urlencode(back)}" if back else ""
        return 302, b"", {"Location": place + query}

    def hinted_sid(self, call: Call) -> str:
        """The ``sid`` in the ID token of ``id_token_hint``; its signature is not looked at here."""
        payload = (call.parameters.get("id_token_hint", "") + "..").split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(payload + "==") or b"{}").get("sid", ""))
