"""A provider in this process: Dex's refresh tokens, or strict rotation, behind a wire that can fail.

With ``per_user`` there is one refresh token for each user (Dex keeps one for each user, connector and client): a
sign-in replaces it, a refresh rotates it, a token that is dead is answered ``400 invalid_request`` and nothing else
dies.  Inside the reuse window the current token is not rotated and the one before it is answered with the current one.
With ``per_session`` each sign-in has a family of tokens; one that comes again after its rotation ends the family.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from multidict import CIMultiDict

from tests.peers.openid_signing import SigningKey, as_json, half_hash, sign, signing_key

ISSUER: Final = "https://dex.example.com"
CLIENT_ID: Final = "authproxy"
LIFETIME: Final = 60
"""Seconds that an ID token lasts."""
USUAL_DELAY: Final = 0.02
"""Seconds until an answer."""
_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

Trouble = Literal["none", "500", "429", "refused", "slow", "stalled", "cut", "dropped"]
"""``stalled`` answers later than any caller waits, ``cut`` loses the answer and ``dropped`` the request."""


class Origin(NamedTuple):
    """The request that led to a call."""

    session: str = ""  # by its name in the model
    cookies: str = ""  # what the request carried


_UNKNOWN: Final = Origin()
origin: ContextVar[Origin] = ContextVar("origin", default=_UNKNOWN)
"""Tasks inherit it from the request that started them."""


@dataclass
class Token:
    """A refresh token that the provider issued, and where it went."""

    text: str
    user: str
    by_sign_in: bool
    issued_at: float
    receiver: str
    delivered_at: float | None = None
    lost: bool = False


@dataclass
class Grant:
    """Consent of one user; with ``per_session``, of one sign-in."""

    user: str
    session: str
    nonce: str
    current: Token
    previous: Token | None = None
    last_used: float = 0.0
    alive: bool = True
    sid: str = ""


class Call(NamedTuple):
    """One refresh call, as it was judged."""

    at: float
    session: str
    replica: str
    token: str
    status: int


@dataclass
class _Code:
    user: str
    nonce: str
    delay: float


class Refused(NamedTuple):
    """A refresh that was answered with 400, and what it was judged by."""

    replica: str
    session: str
    token: str
    grant: Grant | None
    killed: bool
    """Whether the refusal ended the grant."""


@dataclass
class TokenPeer:
    """The provider's state.  ``on_refused`` hears of every refusal before anything else happens."""

    clock: Callable[[], float]
    per_user: bool
    window: float
    trouble: Trouble = "none"
    delay: float = USUAL_DELAY
    on_refused: Callable[[Refused], None] = lambda _refused: None
    on_mixed_up: Callable[[str, str], None] = lambda _session, _replica: None
    """Hears of a session and the replica that was given an ID token of another user for it."""
    calls: list[Call] = field(default_factory=list)
    tokens: dict[str, Token] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    revoked: dict[str, float] = field(default_factory=dict)
    mixed_up: set[str] = field(default_factory=set)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _count: int = 0
    _by_token: dict[str, Grant] = field(default_factory=dict)
    key: SigningKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = signing_key("model", "ES256")

    # What the model asks

    def grant_of(self, user: str, session: str) -> Grant | None:
        """The grant that a session lives by; None when there is none any more."""
        fitting = (
            one for one in reversed(self.grants) if one.user == user and (self.per_user or one.session == session)
        )
        found = next(fitting, None)
        return found if found is not None and found.alive else None

    def grant_of_token(self, text: str) -> Grant | None:
        """The grant that a token is, or was, of."""
        return self._by_token.get(text)

    def revoke(self, user: str) -> None:
        """The administrator removes a user: nothing of this user is good any more."""
        self.revoked[user] = self.clock()
        for grant in self.grants:
            if grant.user == user:
                grant.alive = False

    def logout_token(self, user: str) -> str:
        """A back-channel logout token for every session of a user."""
        now = int(self.clock())
        self._count += 1
        claims = {
            "iss": ISSUER, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": f"logout-{self._count:032d}",
            "events": {_LOGOUT_EVENT: {}}, "sub": user,
        }  # fmt: skip
        return sign(claims, self.key, {"typ": "logout+jwt"})

    def authorize(self, url: str, user: str, *, delay: float) -> dict[str, str]:
        """The user signs in at ``url``; the parameters of the callback.

        The answer to the code comes ``delay`` seconds after its judgement.
        """
        query = dict(parse_qsl(urlsplit(url).query))
        self._count += 1
        code = f"code-{self._count}"
        self._codes[code] = _Code(user, query["nonce"], delay)
        return {"code": code, "state": query["state"]}

    # What the wire asks

    def document(self, path: str) -> dict[str, Any]:
        """Discovery and keys."""
        if path.endswith("/keys"):
            return {"keys": [self.key.jwk()]}
        return {
            "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/auth", "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
        }  # fmt: skip

    def delays_of(self, form: Mapping[str, str]) -> tuple[float, float]:
        """Seconds until a token request is judged, and from there until its answer."""
        code = self._codes.get(form.get("code", ""))
        usual = self.delay / 2
        return {"slow": (2.0, 2.0), "stalled": (2.0, 18.0)}.get(self.trouble, (usual, code.delay if code else usual))

    def token_answer(self, form: Mapping[str, str], replica: str, session: str) -> tuple[int, dict[str, Any]]:
        """The judgement on a token request."""
        if form["grant_type"] == "authorization_code":
            return self._redeem(form, replica, session)
        status, answer = self._refresh(form["refresh_token"], replica, session)
        self.calls.append(Call(self.clock(), session, replica, form["refresh_token"], status))
        return status, answer

    def _redeem(self, form: Mapping[str, str], replica: str, session: str) -> tuple[int, dict[str, Any]]:
        code = self._codes.pop(form["code"], None)
        if code is None:
            return 400, {"error": "invalid_grant"}
        if code.user in self.revoked:
            return 400, {"error": "access_denied"}
        if self.per_user:
            for former in self.grants:
                if former.user == code.user:
                    former.alive = False
        token = self._issue(code.user, replica, by_sign_in=True)
        self._count += 1
        grant = Grant(code.user, session, code.nonce, token, last_used=self.clock(), sid=f"sid-{self._count}")
        self.grants.append(grant)
        self._by_token[token.text] = grant
        return 200, self._tokens(grant, token)

    def _refresh(self, text: str, replica: str, session: str) -> tuple[int, dict[str, Any]]:
        grant = self._by_token.get(text)
        now = self.clock()
        if grant is not None and grant.alive:
            recent = self.window > 0 and now - grant.last_used <= self.window
            if text == grant.current.text:
                token = grant.current if recent else self._rotate(grant, replica)
                return 200, self._tokens(grant, token)
            if recent and grant.previous is not None and text == grant.previous.text:
                return 200, self._tokens(grant, grant.current)
        killed = grant is not None and grant.alive and not self.per_user
        self.on_refused(Refused(replica, session, text, grant, killed))
        if killed and grant is not None:
            grant.alive = False
        if grant is not None and grant.user in self.revoked:
            return 400, {"error": "access_denied"}
        return 400, {"error": "invalid_request" if self.per_user else "invalid_grant"}

    def _rotate(self, grant: Grant, replica: str) -> Token:
        grant.previous, grant.current = grant.current, self._issue(grant.user, replica, by_sign_in=False)
        grant.last_used = self.clock()
        self._by_token[grant.current.text] = grant
        return grant.current

    def _issue(self, user: str, replica: str, *, by_sign_in: bool) -> Token:
        self._count += 1
        token = Token(f"refresh-{self._count:04d}", user, by_sign_in, self.clock(), replica)
        self.tokens[token.text] = token
        return token

    def _tokens(self, grant: Grant, token: Token) -> dict[str, Any]:
        now = int(self.clock())
        self._count += 1
        access = f"access-{self._count:04d}"
        subject = "sub-of-another" if grant.user in self.mixed_up else grant.user
        claims = {
            "iss": ISSUER, "sub": subject, "aud": CLIENT_ID, "iat": now, "exp": now + LIFETIME,
            "nonce": grant.nonce, "email": f"{grant.user}@example.com", "email_verified": True,
            "at_hash": half_hash(access, "ES256"),
            "federated_claims": {"connector_id": "ldap", "user_id": grant.user},
        }  # fmt: skip
        return {
            "access_token": access, "token_type": "bearer", "expires_in": LIFETIME - 1, "refresh_token": token.text,
            "id_token": sign(claims, self.key),
        }  # fmt: skip


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data: Final = data

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._data


class _Response:
    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status: Final = status
        self.headers: Final = CIMultiDict(headers)
        self.content: Final = _Body(data)


class Wire:
    """What a replica has instead of an ``aiohttp.ClientSession`` to the provider."""

    def __init__(self, peer: TokenPeer, replica: str) -> None:
        self._peer: Final = peer
        self._replica: Final = replica
        self.gone = False
        """The process is dead: it sends nothing, and hears no answer."""
        self.received: Final[set[str]] = set()
        """Refresh tokens that this process was given."""

    def request(self, method: str, url: Any, **options: Any) -> AbstractAsyncContextManager[_Response]:
        """As ``aiohttp.ClientSession.request``."""
        return self._exchange(str(url), options.get("data"), options["timeout"].total)

    async def close(self) -> None:
        """Nothing is open."""

    @asynccontextmanager
    async def _exchange(self, url: str, form: Mapping[str, str] | None, seconds: float) -> AsyncIterator[_Response]:
        async with asyncio.timeout(seconds):
            response = await self._answer(url, form)
        yield response

    async def _answer(self, url: str, form: Mapping[str, str] | None) -> _Response:
        peer, trouble = self._peer, self._peer.trouble
        if self.gone or trouble == "refused":
            await asyncio.sleep(0.001)
            raise aiohttp.ClientConnectionError
        if form is None:
            await asyncio.sleep(USUAL_DELAY)
            return self._response(200, peer.document(urlsplit(url).path))
        return await self._token_answer(form, trouble)

    async def _token_answer(self, form: Mapping[str, str], trouble: Trouble) -> _Response:
        peer = self._peer
        before, after = peer.delays_of(form)
        await asyncio.sleep(before)
        if self.gone or trouble == "dropped":
            raise aiohttp.ServerDisconnectedError
        if trouble in ("500", "429"):
            retry = {"Retry-After": "5"} if trouble == "429" else {}
            return self._response(int(trouble), {"error": "invalid_request"}, retry)
        status, answer = peer.token_answer(form, self._replica, origin.get().session)
        token = peer.tokens.get(answer.get("refresh_token", ""))
        try:
            if trouble == "cut":
                raise aiohttp.ServerDisconnectedError
            await asyncio.sleep(after)
            if self.gone:
                raise aiohttp.ServerDisconnectedError
        except BaseException:  # a caller that is cancelled or out of time has lost the answer, too
            if token is not None and token.delivered_at is None:
                token.lost = True
            raise
        if token is not None:
            token.lost, token.delivered_at = False, token.delivered_at or peer.clock()
            self.received.add(token.text)
            if token.user in peer.mixed_up:
                peer.on_mixed_up(origin.get().session, self._replica)
        return self._response(status, answer)

    def _response(self, status: int, answer: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> _Response:
        date = formatdate(int(self._peer.clock()), usegmt=True)
        return _Response(status, {"Date": date, "Content-Type": "application/json", **(headers or {})}, as_json(answer))
