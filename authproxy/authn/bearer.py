"""A JWT of a configured issuer as a credential: ``Authorization: Bearer`` and nothing else.

Tokens in the query or in a body are never looked at (RFC 6750 section 5.3 and RFC 9700 section 4.3.2).  Tokens that
were proved are remembered by digest for a short while, so that the hot path computes no signature.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, Protocol

from authproxy.authn import authorization
from authproxy.authn.chain import Judging, Proved
from authproxy.errors import InvalidToken, NotAuthenticated, ProviderError, Unavailable
from authproxy.jose import access
from authproxy.jose.compact import Compact
from authproxy.model import App, Kind, Match, RequestInfo
from authproxy.oidc.issuer import Issuer
from authproxy.sessions.marks import Names, of_bearer
from authproxy.throttle import Throttle, client_bucket

SECONDS: Final = 60.0
"""How long a proved token is remembered at most."""
ENTRIES: Final = 10_000
"""How many proved tokens are remembered; the longest unused goes first."""

_BEARER: Final = b"bearer"
_INVALID: Final = "invalid_token"  # RFC 6750 section 3.1


class Ended(Protocol):
    """What this room needs of the revocation marks."""

    def end(self, names: Iterable[tuple[str, str]], since: float) -> bool: ...


class _Remembered(NamedTuple):
    proved: Proved
    ended_by: Names
    issuer: Issuer
    generation: int  # of the issuer's keys; with others the token must be proved anew
    since: float
    until: float


class BearerAuthenticator(Judging):
    """Kind ``bearer``.  ``clock`` gives seconds since the epoch.

    ``elsewhere`` says whether a credential in the form of a JWT belongs to another kind, such as a static token that
    happens to be one.
    """

    kind: Kind = "bearer"

    def __init__(
        self,
        issuers: Iterable[Issuer],
        *,
        clock: Callable[[], float],
        elsewhere: Callable[[bytes], bool] = lambda _credentials: False,
        throttle: Throttle | None = None,
        marks: Ended | None = None,
    ) -> None:
        self._issuers: Final = tuple(issuers)
        self._clock: Final = clock
        self._elsewhere: Final = elsewhere
        self._throttle: Final = throttle
        self._marks: Final = marks
        self._remembered: Final[OrderedDict[tuple[object, ...], _Remembered]] = OrderedDict()

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries a bearer credential that has the form of a JWT."""
        found = authorization.of_scheme(info.headers, _BEARER)
        if not found:
            return False
        return any(authorization.looks_like_jwt(one) and not self._elsewhere(one) for one in found)

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:
        """The identity of the token.

        A token that fails counts by client address.  Raises BadRequest ``several_credentials``, NotAuthenticated
        ``invalid_token`` (the rule that it breaks is in the reason) or ``credential_revoked``, TooManyAttempts, and
        Unavailable ``issuer_unreachable`` when the issuer's keys are not to be had.
        """
        token = authorization.the_only(info.headers, _BEARER)
        # What one app takes, another need not: the policy is part of the key.
        key = (hashlib.sha256(token).digest(), match.app.bearer_issuers, match.app.bearer_audiences)
        known = self._recall(key)
        if known is not None:
            return self._unless_revoked(known.proved, known.ended_by)
        return self._proved_anew(token, key, info, match.app)

    async def _proved_anew(self, token: bytes, key: tuple[object, ...], info: RequestInfo, app: App) -> Proved:
        try:
            issuer, proved = await self._prove(access.read(token.decode("latin-1")), app)
        except InvalidToken as error:
            if self._throttle is not None:
                await self._throttle.charge(client_bucket(info.client))
            reason = f"{error.code}: {error}"
            raise NotAuthenticated("invalid_token", str(error), reason=reason, token_error=_INVALID) from None
        except ProviderError as error:
            raise Unavailable(
                "issuer_unreachable", "The issuer of this token cannot be asked for its keys right now.",
                reason=str(error), retry_after=error.retry_after,
            ) from None  # fmt: skip
        ended_by = of_bearer(proved.identity.issuer, proved.identity.subject, proved.identity.claims.get("sid"))
        self._remember(key, issuer, proved, ended_by)
        return self._unless_revoked(proved, ended_by)

    def _unless_revoked(self, proved: Proved, ended_by: Names) -> Proved:
        """Back-channel logout ends the tokens of a user as it ends the sessions."""
        made = proved.identity.claims.get("iat")
        # A token that does not say when it was made may be older than any mark.
        since = float(made) if isinstance(made, int | float) else 0.0
        if self._marks is not None and self._marks.end(ended_by, since):
            raise NotAuthenticated(
                "credential_revoked", "This token was revoked; please get a new one.", token_error=_INVALID
            )
        return proved

    async def _prove(self, compact: Compact, app: App) -> tuple[Issuer, Proved]:
        issuer = await self._issuer_of(compact, app)
        audiences = issuer.audiences if app.bearer_audiences is None else issuer.audiences & app.bearer_audiences
        return issuer, Proved(issuer.identity(await issuer.check(compact, audiences)))

    async def _issuer_of(self, compact: Compact, app: App) -> Issuer:
        """The one issuer that the token names, exactly, of those that the app takes."""
        claimed = access.claimed_issuer(compact)
        taken = [one for one in self._issuers if app.bearer_issuers is None or one.name in app.bearer_issuers]
        found = [issuer for issuer in taken if issuer.known == claimed]
        if not found:  # one whose name is still to be learned may be the one
            found = [issuer for issuer in taken if issuer.known is None and await issuer.identifier() == claimed]
        if len(found) > 1:
            raise InvalidToken("issuer_ambiguous", "More than one issuer of this name is configured.")
        if not found:
            raise InvalidToken("issuer_unknown", "The token is of an issuer that is not accepted here.")
        return found[0]

    def _recall(self, key: tuple[object, ...]) -> _Remembered | None:
        known = self._remembered.get(key)
        if known is None:
            return None
        # A clock that was set back must not make an entry last.
        if known.since <= self._clock() < known.until and known.generation == known.issuer.keys.generation:
            self._remembered.move_to_end(key)
            return known
        del self._remembered[key]
        return None

    def _remember(self, key: tuple[object, ...], issuer: Issuer, proved: Proved, ended_by: Names) -> None:
        now = self._clock()
        until = min(now + SECONDS, proved.identity.expires_at)
        self._remembered[key] = _Remembered(proved, ended_by, issuer, issuer.keys.generation, now, until)
        if len(self._remembered) > ENTRIES:
            self._remembered.popitem(last=False)

    def __repr__(self) -> str:
        return f"<BearerAuthenticator {len(self._issuers)} issuers, {len(self._remembered)} tokens remembered>"
