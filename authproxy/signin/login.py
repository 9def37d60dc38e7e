"""How a browser session begins: authorization code with PKCE, or the provider's password grant behind our own form.

Everything that counts is checked before the code is redeemed: the browser that comes back is the one that was sent,
``state`` is spent once on all replicas, and the answer is of the provider that was asked.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from authproxy.errors import (
    BadRequest,
    Forbidden,
    GrantRefused,
    InvalidToken,
    NotAuthenticated,
    ProviderError,
    StoreUnavailable,
    Unavailable,
    UpstreamFailed,
)
from authproxy.model import Identity, RequestInfo
from authproxy.oidc.provider import Provider, TokenSet
from authproxy.sessions.cookie import SessionCookie, Ticket, new_ticket
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.records import Record
from authproxy.sessions.sealing import digest, token
from authproxy.sessions.vault import Vault
from authproxy.signin.browser import Browser, BrowserCookie
from authproxy.signin.identity import live_session
from authproxy.signin.refresh import Refresher
from authproxy.signin.state import LIFETIME, SignInState, StateCookies
from authproxy.signin.termination import Termination
from authproxy.store import keys
from authproxy.store.base import Store
from authproxy.throttle import Bucket, Throttle, browser_bucket, client_bucket, device_bucket, user_bucket

log = logging.getLogger("authproxy.signin")

_RACE: Final = 30.0  # seconds in which two tabs of one person finish their sign-ins
_ONCE: Final = frozenset({"code", "state", "iss", "error"})


class Started(NamedTuple):
    """Where to send the browser, and what it must carry."""

    url: str
    set_cookies: tuple[str, ...]


class Finished(NamedTuple):
    """Where the person was going, the cookies, and who it is; ``identity`` None when the session had begun before."""

    target: str
    set_cookies: tuple[str, ...]
    identity: Identity | None


def callback_parameters(encoded: str) -> dict[str, str]:
    """The parameters of a callback.  RFC 6749 section 3.1: none may come twice."""
    try:
        found = parse_qsl(encoded, keep_blank_values=True, max_num_fields=50, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("malformed_callback", "The provider's answer cannot be read.") from None
    names = [name for name, _ in found]
    if any(names.count(name) > 1 for name in _ONCE):
        raise BadRequest("duplicate_parameter", "The provider's answer names a parameter twice.")
    return dict(found)


class Login:
    """Begins and finishes sign-ins."""

    def __init__(
        self, *, providers: Mapping[str, Provider], states: StateCookies, browsers: BrowserCookie,
        cookie: SessionCookie, vault: Vault, live: LiveView, marks: Marks, refresher: Refresher,
        termination: Termination, store: Store, throttle: Throttle, absolute: float, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._providers: Final = providers
        self._states: Final = states
        self._browsers: Final = browsers
        self._cookie: Final = cookie
        self._vault: Final = vault
        self._live: Final = live
        self._marks: Final = marks
        self._refresher: Final = refresher
        self._termination: Final = termination
        self._store: Final = store
        self._throttle: Final = throttle
        self._absolute: Final = absolute
        self._clock: Final = clock

    async def start(self, info: RequestInfo, provider: Provider, *, target: str, redirect_uri: str) -> Started:
        """Send the browser to the provider; throttled per browser, or per address where there is no cookie yet."""
        browser = self._browsers.read(info.headers)
        buckets = self._start_buckets(info, browser)
        await self._throttle.charge(*buckets)
        state, nonce, verifier = token(), token(), token(48)
        content = SignInState(self._clock(), provider.name, nonce, verifier, redirect_uri, target)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        try:
            url = await provider.authorization_url(
                redirect_uri=redirect_uri, state=state, nonce=nonce, code_challenge=challenge
            )
        except ProviderError as error:
            await self._throttle.give_back(*buckets)  # the person did nothing wrong
            raise _provider_away(provider, error) from None
        cookies = self._states.write(info.headers, state, content)
        return Started(url, (*cookies, self._browsers.write(browser)))

    @staticmethod
    def _start_buckets(info: RequestInfo, browser: Browser) -> tuple[Bucket, ...]:
        mine = browser_bucket(browser.id)
        return (mine,) if browser.known else (mine, client_bucket(info.client))

    async def finish(self, info: RequestInfo, provider: Provider, parameters: Mapping[str, str]) -> Finished:
        """The provider sent the browser back.  Raises a ``Refusal`` for everything that is not as it was begun."""
        try:
            return await self._finish(info, provider, parameters)
        except (BadRequest, Forbidden):
            browser = self._browsers.read(info.headers)
            await self._throttle.charge(browser_bucket(browser.id) if browser.known else client_bucket(info.client))
            raise

    async def _finish(self, info: RequestInfo, provider: Provider, parameters: Mapping[str, str]) -> Finished:
        state = parameters.get("state", "")
        if not state:
            raise BadRequest("state_missing", "The answer of the provider belongs to no sign-in that began here.")
        found = self._states.find(info.headers, state, now=self._clock())
        if found is None:
            return await self._seen_before(info, state)
        content, suffix = found
        if content.provider != provider.name:  # mix-up, RFC 9700 section 4.4
            raise BadRequest("provider_mismatch", "The answer came from another provider than the one that was asked.")
        try:
            await provider.ensure()  # nothing is spent while it could not be judged: the same callback can come again
        except ProviderError as error:
            raise _provider_away(provider, error) from None
        if not await self._spend(state, content.target):
            return await self._seen_before(info, state)
        code = await self._code(provider, parameters)
        tokens = await self._redeem(provider, code, content)
        begun = await self._begin(info, provider, tokens, target=content.target)
        browser = self._browsers.read(info.headers)
        if browser.known:
            await self._throttle.give_back(browser_bucket(browser.id))
        return begun._replace(set_cookies=(*begun.set_cookies, self._states.clear(suffix)))

    async def _spend(self, state: str, target: str) -> bool:
        """Use ``state`` up; False when it was used before, on any replica."""
        key, value = keys.spent_state(digest("state", state)), self._states.seal_target(state, target)
        try:
            return await self._store.swap(key, None, value, ttl=LIFETIME)
        except StoreUnavailable:
            return True  # the provider's code is single-use as well, and bound to the verifier in this cookie

    async def _seen_before(self, info: RequestInfo, state: str) -> Finished:
        """A callback that was loaded twice: a browser that is signed in goes on to where it was going."""
        sealed = None
        with suppress(StoreUnavailable):
            sealed = await self._store.get(keys.spent_state(digest("state", state)))
        target = self._states.open_target(state, sealed) if sealed else None
        if target is not None and any(
            self._live_ticket(sealed, info.host) for sealed in self._cookie.find(info.headers)
        ):
            return Finished(target, (), None)
        raise BadRequest(
            "state_unknown", "This sign-in was not begun in this browser, took too long, or was finished already."
        )

    def _live_ticket(self, sealed: str, host: str) -> Ticket | None:
        ticket = self._cookie.open(sealed, host)
        if ticket is None or self._clock() >= ticket.absolute_end or self._marks.revokes(ticket):
            return None
        return ticket

    @staticmethod
    async def _code(provider: Provider, parameters: Mapping[str, str]) -> str:
        code, error = parameters.get("code"), parameters.get("error")
        if code and error:
            raise BadRequest("malformed_callback", "The provider's answer is a success and an error at once.")
        try:
            await provider.check_issuer_parameter(parameters.get("iss"))
        except InvalidToken as wrong:  # RFC 9207 section 2.4
            raise BadRequest(wrong.code, "The answer does not come from the provider that was asked.") from None
        except ProviderError as failed:
            raise _provider_away(provider, failed) from None
        if error:
            clean = "".join(c for c in error if c.isalnum() or c == "_")[:64]
            raise Forbidden("provider_refused", "The provider did not sign you in.", reason=f"provider error {clean}")
        if not code:
            raise BadRequest("malformed_callback", "The provider's answer holds neither a code nor an error.")
        return code

    async def _redeem(self, provider: Provider, code: str, content: SignInState) -> TokenSet:
        try:
            return await provider.redeem(
                code=code, verifier=content.verifier, redirect_uri=content.redirect_uri, nonce=content.nonce
            )
        except GrantRefused as refused:
            raise Forbidden(
                "provider_refused", "The provider did not accept this sign-in.", reason=f"code refused: {refused.error}"
            ) from None
        except InvalidToken as invalid:
            raise Forbidden(
                "invalid_id_token", "The provider's answer could not be verified.", reason=f"{invalid.code}: {invalid}"
            ) from None
        except ProviderError as error:
            raise _provider_away(provider, error) from None

    async def password(
        self, info: RequestInfo, provider: Provider, *, username: str, password: str, target: str
    ) -> Finished:
        """Sign in with the provider's password grant; charged before the check, given back when it succeeds."""
        browser = self._browsers.read(info.headers)
        user = user_bucket(username)
        mine = device_bucket(username, browser.id) if browser.has_signed_in(user.name) else user
        buckets = (mine, client_bucket(info.client))
        await self._throttle.charge(*buckets)
        try:
            tokens = await provider.password(username, password)
        except (GrantRefused, InvalidToken) as refused:
            raise NotAuthenticated(
                "wrong_credentials", "The user name or the password is not right.", reason=str(refused)
            ) from None
        except ProviderError as error:
            await self._throttle.give_back(*buckets)  # nobody's guess was judged
            raise _provider_away(provider, error) from None
        await self._throttle.give_back(*buckets)
        begun = await self._begin(info, provider, tokens, target=target)
        return begun._replace(set_cookies=(*begun.set_cookies, self._browsers.write(browser.with_user(user.name))))

    async def _begin(self, info: RequestInfo, provider: Provider, tokens: TokenSet, *, target: str) -> Finished:
        """A new session, with an id that nobody can have known before (session fixation)."""
        now = self._clock()
        sid = tokens.claims.get("sid")
        ticket = new_ticket(
            provider=provider.name, issuer=provider.issuer, subject=str(tokens.claims["sub"]),
            host=self._cookie.host_of(info.host), now=now, absolute=self._absolute,
            refresh_token=tokens.refresh_token, issued_at=tokens.issued_at,
            provider_sid=sid if isinstance(sid, str) else "",
        )  # fmt: skip
        if self._marks.revokes(ticket):  # signed out at the provider while the callback was on its way
            raise Forbidden("session_revoked", "You were signed out at the provider. Please sign in again.")
        await self._refresher.share(ticket)
        record = Record(
            generation=ticket.generation, token=ticket.token, id_token=tokens.id_token,
            access_token=tokens.access_token, claims=dict(tokens.claims), expires_at=tokens.expires_at,
            last_used=now, refreshed_at=provider.now(),
        )  # fmt: skip
        try:
            await self._vault.save(ticket, record, expected=None, now=now)
        except StoreUnavailable:
            log.warning("session %s begins without a record: the store is away", ticket.id[:8])
        session = live_session(ticket, record, provider, last_used=now)
        self._live.enter(session)
        await self._end_previous(info, ticket)
        try:
            cookies = self._cookie.write(ticket, now=now)
        except ValueError as error:
            raise UpstreamFailed(
                "refresh_token_too_large", "The provider's answer is too large.", reason=str(error)
            ) from None
        return Finished(target, cookies, session.identity)

    async def _end_previous(self, info: RequestInfo, ticket: Ticket) -> None:
        """End the session whose cookie this sign-in overwrites, unless another tab began it a moment ago."""
        for sealed in self._cookie.find(info.headers):
            old = self._cookie.open(sealed, info.host)
            if old is None or (old.user == ticket.user and self._clock() - old.signed_in_at < _RACE):
                continue
            await self._termination.end(old, "replaced", "another sign-in in the same browser")


def _provider_away(provider: Provider, error: ProviderError) -> Unavailable | UpstreamFailed:
    reason = f"provider {provider.name}: {error}"
    if error.retry_after is not None:
        return Unavailable("provider_busy", "The sign-in service is busy. Please try again soon.", reason=reason)
    return UpstreamFailed(
        "provider_unreachable", "The sign-in service cannot be reached or gave a wrong answer.", reason=reason
    )
