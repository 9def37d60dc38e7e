"""One OpenID provider: everything that is said to it, and what its answers prove.

This room knows OpenID Connect and the network, and nothing of browsers, cookies or sessions.  Failures come out as
three: ``ProviderError`` (transient, says nothing about the user), ``GrantRefused`` (this grant is dead) and
``InvalidToken`` (the provider, or somebody in its place, issued what must not be believed).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

import aiohttp

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose import strictjson, verify
from authproxy.jose.document import Document
from authproxy.jose.keys import KeySet
from authproxy.oidc import addresses, fetch, grants, metadata
from authproxy.oidc.identity import IdentityFields as IdentityFields
from authproxy.oidc.identity import identity_fields as identity_fields
from authproxy.oidc.metadata import Metadata
from authproxy.oidc.skew import ClockSkew
from authproxy.settings import schema

_REMEMBERED: Final = 3600.0
_REDISCOVERY: Final = 10.0  # seconds; discovery is not fetched again sooner because a key is unknown
# What only a signature may say; a userinfo answer is asked for the person alone.
_PROTOCOL: Final = frozenset(
    {"iss", "aud", "exp", "iat", "nbf", "jti", "nonce", "azp", "at_hash", "c_hash", "auth_time", "acr", "amr", "sid"}
)


class TokenSet(NamedTuple):
    """What a grant brought, proved.  "" stands for "not given"; the tokens stay out of ``repr``."""

    claims: Mapping[str, object]
    id_token: str
    access_token: str
    refresh_token: str
    expires_at: float  # of the ID token, by the provider's clock, seconds since the epoch; 0 when there is none
    access_expires_at: float = 0.0  # of the access token, by the provider's clock; 0 when it did not say
    issued_at: float = 0.0  # by the provider's clock: `iat` of the ID token in this answer, else its `Date`, else 0

    def __repr__(self) -> str:
        return f"<TokenSet of {self.claims.get('sub', '')!r}, expires {self.expires_at:.0f}>"


class Provider:
    """A configured provider.  Enter it as an async context manager before anything is asked.

    ``clock`` gives seconds since the epoch.  ``secret`` reads the client secret each time it is needed, so that a file
    may change; left out, the settings' own reference is read.  ``http`` is used, and left open, when it is given.
    ``pause`` waits for a number of seconds, before a key is looked for again.
    """

    def __init__(
        self,
        name: str,
        settings: schema.Provider,
        *,
        http: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] = time.time,
        secret: Callable[[], str] | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self._clock: Final = clock
        self._secret: Final = secret or (settings.client_secret.reveal if settings.client_secret else None)
        self._http = http
        self._own: aiohttp.ClientSession | None = None
        self._configured: Final = metadata.configured_alone(settings)
        self._document: Final = Document(self._discover, clock=clock, max_age=_REMEMBERED)
        self.keys: Final = KeySet(self._fetch_keys, clock=clock, pause=pause)
        self._skew: Final = ClockSkew(name)

    async def __aenter__(self) -> Self:
        if self._http is None:
            self._http = self._own = fetch.session(self.settings.ca)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keys.aclose()
        await self._document.aclose()
        if self._own is not None:
            await self._own.close()
            self._http = self._own = None

    @property
    def title(self) -> str:
        """What people read on the sign-in page."""
        return self.settings.title or self.name

    @property
    def issuer(self) -> str:
        """The issuer, exactly as configured."""
        return self.settings.issuer

    @property
    def ready(self) -> bool:
        """Whether it is known where to ask; it may still be down."""
        return self._document.value is not None or self._configured is not None

    @property
    def last_error(self) -> str:
        """Why discovery, or else the key set, could not be had last time; empty when all is well."""
        return self._document.last_error or self.keys.last_error

    def __repr__(self) -> str:
        return f"<Provider {self.name}: {'ready' if self.ready else 'not ready'}, {self.keys!r}>"

    @property
    def skew(self) -> float:
        """Seconds to add to our clock to get the provider's, as its token endpoint's answers show."""
        return self._skew.seconds

    def now(self) -> float:
        """The time by the provider's clock, in seconds since the epoch: what its tokens' times are compared with."""
        return self._clock() + self._skew.seconds

    async def ensure(self) -> None:
        """Have the endpoints and the keys.  Raises ``ProviderError`` when there are none to be had."""
        await self.metadata()
        await self.keys.ensure()

    async def metadata(self) -> Metadata:
        """Where to ask, remembered for an hour and used on while discovery fails.

        Configured endpoints replace discovered ones.  Where they suffice, a discovery that fails is not waited for
        again.  Raises ``ProviderError``.
        """
        fallback = self._configured
        if fallback is not None and self._document.value is None and self._document.last_error:
            self._document.nudge()
            return fallback
        try:
            return await self._document.get()
        except ProviderError:
            if fallback is None:
                raise
            return fallback

    async def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        nonce: str,
        code_challenge: str,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Where a sign-in begins; ``extra`` as in ``addresses.authorization``.  Raises ``ProviderError``."""
        return addresses.authorization(
            (await self.metadata()).authorization,
            self.settings,
            redirect_uri=redirect_uri,
            state=state,
            nonce=nonce,
            code_challenge=code_challenge,
            extra=extra or {},
        )

    async def check_issuer_parameter(self, issuer: str | None) -> None:
        """Judge the callback's ``iss``, None when absent (RFC 9207 section 2.4); ``InvalidToken`` issuer_mismatch."""
        if issuer is None and not (await self.metadata()).issuer_parameter:
            return
        if issuer != self.issuer:
            raise InvalidToken("issuer_mismatch", "The answer to the sign-in is not from the provider that was asked.")

    async def redeem(
        self, *, code: str, verifier: str, redirect_uri: str, nonce: str, max_age: float | None = None
    ) -> TokenSet:
        """Redeem an authorization code and prove the ID token; ``max_age`` (seconds) sharpens the settings' own.

        Raises ``GrantRefused`` for a spent or foreign code, ``InvalidToken`` and ``ProviderError``.
        """
        await self.keys.ensure()  # nothing is spent while it could not be judged
        form = {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri}
        answer = await self._grant("authorization_code", form)
        ages = [age for age in (max_age, self.settings.max_age) if age is not None]
        rules = self._rules(answer)._replace(nonce=nonce, code=code, max_age=min(ages, default=None))
        return await self._proved(answer, rules)

    async def password(self, username: str, password: str) -> TokenSet:
        """The resource owner password grant (RFC 6749 section 4.3); ``GrantRefused`` when the password is wrong."""
        await self.keys.ensure()
        form = {"username": username, "password": password, "scope": addresses.scope(self.settings)}
        answer = await self._grant("password", form)
        return await self._proved(answer, self._rules(answer))

    async def refresh(
        self, refresh_token: str, *, subject: str, previous: Mapping[str, object] | None = None
    ) -> TokenSet:
        """Spend a refresh token; the ID token must be of the same issuer, subject and client as before.

        OpenID Connect Core section 12.2: an ID token is optional, without one ``claims`` are empty.  ``refresh_token``
        of the result is empty when the old one stays good.  ``previous`` are the claims so far: what userinfo said
        stays when it cannot be asked.  Raises ``GrantRefused`` when the token is dead, ``grants.AnswerUnproved`` with
        the token to keep when the answer could not be proved for now, ``ProviderError`` and ``InvalidToken``.
        """
        await self.keys.ensure()
        answer = await self._grant("refresh_token", {"refresh_token": refresh_token})
        if not answer.id_token:
            return self._token_set(answer, {})
        rules = self._rules(answer)._replace(subject=subject, acr_values=())
        kept, issued_at = answer.refresh_token or refresh_token, grants.issued_at(answer, self.settings.algorithms)
        try:
            tokens = await self._proved(answer, rules, previous)
            self._check_repeated_nonce(tokens.claims, previous or {})
        except InvalidToken as error:
            if error.code != "key_unknown":
                raise grants.AnswerInvalid(error, refresh_token=kept, issued_at=issued_at) from None
            raise grants.AnswerUnproved(str(error), refresh_token=kept, issued_at=issued_at) from None
        except ProviderError as error:
            raise grants.AnswerUnproved(str(error), refresh_token=kept, issued_at=issued_at) from None
        return tokens

    async def revoke(self, token: str, hint: str) -> bool:
        """Revoke a token (RFC 7009); whether the provider took it.  False, never an error, when it could not."""
        try:
            place = (await self.metadata()).revocation
            if not place:
                return False
            form, headers = self._client()
            form |= {"token": token, "token_type_hint": hint}
            reply = await fetch.exchange(self._session(), "POST", place, form=form, headers=headers)
        except ProviderError:
            return False
        return reply.status == 200

    async def end_session_url(self, *, hints: Sequence[str], post_logout_redirect_uri: str, state: str) -> str | None:
        """Where to send the browser to end the provider's own session; None where it has no such place.

        ``hints`` are ID tokens, the best one first.  One that was signed with a key of the past is passed over: the
        provider would refuse it, and not sign out.  Raises ``ProviderError`` when that was never known.
        """
        place = (await self.metadata()).end_session
        if not place:
            return None
        known = [hint for hint in hints if self._is_verifiable(hint)]
        id_token_hint = next(iter([*known, *reversed(hints)]), "")
        return addresses.end_session(
            place,
            self.settings,
            id_token_hint=id_token_hint,
            post_logout_redirect_uri=post_logout_redirect_uri,
            state=state,
        )

    def _is_verifiable(self, id_token: str) -> bool:
        kid = verify.key_id(id_token, self.settings.algorithms)
        return kid is None or kid in self.keys.key_ids

    async def logout_token(self, token: str) -> dict[str, object]:
        """The claims of a back-channel logout token of this provider; raises as ``verify.logout_token``."""
        rules = verify.LogoutTokenRules(self.issuer, self.settings.client_id, self.settings.algorithms)
        return await verify.logout_token(token, self.keys, rules, now=self._clock())

    async def _proved(
        self,
        answer: grants.TokenAnswer,
        rules: verify.IdTokenRules,
        previous: Mapping[str, object] | None = None,
    ) -> TokenSet:
        if not answer.id_token:
            raise ProviderError("the token endpoint's answer has no id_token: does the client have the scope openid?")
        claims = await self._proved_claims(answer.id_token, rules)
        if self.settings.userinfo:
            claims = await self._person(claims, answer.access_token, previous) | claims
        return self._token_set(answer, claims)

    async def _proved_claims(self, id_token: str, rules: verify.IdTokenRules) -> verify.Claims:
        """The claims of an ID token; once more where the provider has moved its keys to another place."""
        try:
            return await verify.id_token(id_token, self.keys, rules, now=self._clock())
        except (ProviderError, InvalidToken) as error:
            unproved = isinstance(error, ProviderError) or error.code in ("key_unknown", "signature_invalid")
            if not (unproved and await self._keys_moved()):
                raise
        return await verify.id_token(id_token, self.keys, rules, now=self._clock())

    async def _keys_moved(self) -> bool:
        """Whether discovery names another place for the keys than it did; asked for at most every ten seconds."""
        known = self._document.value
        if known is None or self._document.age < _REDISCOVERY:
            return False
        await self._document.refetch()
        found = self._document.value
        return found is not None and found.jwks != known.jwks

    async def _person(
        self, claims: Mapping[str, object], access_token: str, previous: Mapping[str, object] | None
    ) -> dict[str, object]:
        """What userinfo adds (OpenID Connect Core section 5.3); the ID token's own claims come first."""
        try:
            said: Mapping[str, object] = await self._userinfo(access_token)
        except ProviderError:
            if previous is None:
                raise
            said = previous
        if said.get("sub") != claims["sub"]:  # section 5.3.2: such an answer must not be used (token substitution)
            raise InvalidToken("userinfo_subject_mismatch", "The provider's userinfo is about another subject.")
        return {name: value for name, value in said.items() if name not in _PROTOCOL}

    async def _userinfo(self, access_token: str) -> dict[str, object]:
        place = (await self.metadata()).userinfo
        if not place:
            raise ProviderError("userinfo is asked for, but the provider names no userinfo endpoint")
        headers = {"Authorization": f"Bearer {access_token}"}
        reply = await fetch.exchange(self._session(), "GET", place, headers=headers)
        if reply.status != 200:
            raise ProviderError(
                f"the userinfo endpoint answered {reply.status}", retry_after=grants.retry_after(reply.headers)
            )
        try:
            return strictjson.load_object(reply.body)
        except ValueError as error:
            raise ProviderError(f"the userinfo endpoint's answer is {error}") from None

    async def _grant(self, grant: grants.Grant, form: Mapping[str, str]) -> grants.TokenAnswer:
        place = (await self.metadata()).token
        client, headers = self._client()
        whole = {"grant_type": grant, **form, **client}
        sent = self._clock()
        reply = await fetch.exchange(self._session(), "POST", place, form=whole, headers=headers, timeout=fetch.PATIENT)
        if reply.status == 200 and metadata.is_authenticated(place):
            self._skew.learn(grants.answered_at(reply.headers), sent=sent, received=self._clock())
        return grants.classify(reply.status, reply.body, reply.headers, grant=grant)

    def _client(self) -> tuple[dict[str, str], dict[str, str]]:
        """What says who we are: members of the form, and headers."""
        try:
            secret = self._secret() if self._secret else None
        except LookupError as error:
            raise ProviderError(f"the client secret of provider {self.name} cannot be read: {error}") from None
        client = (self.settings.client_id, secret, self.settings.client_auth)
        return grants.client_form(*client), grants.client_header(*client)

    def _rules(self, answer: grants.TokenAnswer) -> verify.IdTokenRules:
        return verify.IdTokenRules(
            issuer=self.issuer,
            client_id=self.settings.client_id,
            algorithms=self.settings.algorithms,
            acr_values=self.settings.acr_values,
            access_token=answer.access_token,
            skew=self.skew,
        )

    def _check_repeated_nonce(self, claims: Mapping[str, object], previous: Mapping[str, object]) -> None:
        """A refreshed ID token that has a nonce has the first one's (OpenID Connect Core section 12.2)."""
        if self.settings.refresh_tokens == "per_user":  # the shared token repeats the nonce of another session
            return
        if "nonce" in claims and "nonce" in previous and claims["nonce"] != previous["nonce"]:
            raise InvalidToken("nonce_mismatch", "The refreshed token belongs to another sign-in.")

    def _token_set(self, answer: grants.TokenAnswer, claims: Mapping[str, object]) -> TokenSet:
        expires_at = verify.number(dict(claims), "exp") if claims else 0.0
        access = self.now() + answer.expires_in if answer.expires_in is not None else 0.0
        issued_at = verify.number(dict(claims), "iat") if claims else answer.answered_at
        return TokenSet(
            claims,
            id_token=answer.id_token,
            access_token=answer.access_token,
            refresh_token=answer.refresh_token,
            expires_at=expires_at,
            access_expires_at=access,
            issued_at=issued_at,
        )

    async def _discover(self) -> Metadata:
        options = self.settings
        place = metadata.discovery_url(options.issuer, options.endpoints)
        metadata.check_url(place, "discovery", insecure_http=options.insecure_http)
        raw = await fetch.document(self._session(), place)
        return metadata.parse(
            raw, issuer=options.issuer, endpoints=options.endpoints, insecure_http=options.insecure_http
        )

    async def _fetch_keys(self) -> bytes:
        return await fetch.document(self._session(), (await self.metadata()).jwks)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise ProviderError(f"provider {self.name} is closed")
        return self._http
