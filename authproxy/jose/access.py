"""Whether a bearer JWT holds: read without belief, then its signature, then its claims.

Pure but for the key set that it is given.  PyJWT takes any type, text as times, an empty subject and a token without
an audience; here each of these is refused by the rule that it breaks (RFC 8725, RFC 9068 section 4).
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Final, NamedTuple

from authproxy.errors import InvalidToken
from authproxy.jose import verify
from authproxy.jose.compact import ASYMMETRIC, Compact, parse
from authproxy.jose.keys import KeySet

SIZE: Final = 16 * 1024
"""Longest token that is looked at, in characters."""
LONGEST: Final = 30 * 86400.0
"""Longest lifetime of a token, in seconds: what is never renewed is not a token but a password."""

_TYPES: Final = frozenset({"", "jwt", "at+jwt"})  # logout+jwt, dpop+jwt and all others are for somebody else
_NAMES: Final = 100  # audiences that are looked at


class AccessRules(NamedTuple):
    """What a token must say."""

    issuer: str
    audiences: Set[str]  # one of these; never empty
    algorithms: Collection[str]
    leeway: float = 60.0  # seconds

    def __repr__(self) -> str:
        return f"<AccessRules of {self.issuer!r} for {len(self.audiences)} audiences>"


def read(token: str) -> Compact:
    """The token taken apart; nothing of it is proved.  Raises ``InvalidToken`` as ``compact.parse``."""
    return parse(token, algorithms=ASYMMETRIC, types=_TYPES, size=SIZE)


def claimed_issuer(compact: Compact) -> str:
    """Whose token it says to be: good for choosing the issuer that has to prove it, and for nothing else."""
    issuer = compact.payload.get("iss")
    if not isinstance(issuer, str) or not issuer:
        raise InvalidToken("issuer_unknown", "The token does not name its issuer.")
    return issuer


async def check(compact: Compact, keys: KeySet, rules: AccessRules, *, now: float) -> verify.Claims:
    """The claims of a token that holds.  ``now`` is in seconds since the epoch.

    Raises ``InvalidToken`` with the code of the first rule that is broken, and ``ProviderError`` when the issuer's keys
    could never be had, which says nothing about the token.
    """
    if compact.alg not in rules.algorithms:
        raise InvalidToken("algorithm_refused", "The token is not signed with an algorithm of its issuer.")
    await verify.prove(compact, keys)
    claims = compact.payload
    _check_issuer(claims, rules.issuer)
    _check_audience(claims, rules.audiences)
    _check_times(claims, now, rules.leeway)
    verify.text(claims, "sub")
    _check_kind(claims)
    return claims


def _check_issuer(claims: verify.Claims, issuer: str) -> None:
    # Character by character (RFC 8725 section 3.8, PyJWT GHSA-75c5-xw7c-p5pm).
    if claims.get("iss") != issuer:
        raise InvalidToken("issuer_mismatch", "The token is of another issuer.")


def _check_audience(claims: verify.Claims, audiences: Set[str]) -> None:
    # RFC 8725 section 3.9: a token for another service must not open this one; one without an audience is for nobody.
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or len(named) > _NAMES or not all(isinstance(name, str) for name in named):
        raise InvalidToken("audience_mismatch", "The token does not say whom it is for.")
    if audiences.isdisjoint(named):
        raise InvalidToken("audience_mismatch", "The token is for another audience.")


def _check_times(claims: verify.Claims, now: float, leeway: float) -> None:
    expires = verify.number(claims, "exp")
    if not isinstance(claims["exp"], int):
        raise InvalidToken("exp_invalid", "The token's exp is not a time in whole seconds.")
    if expires <= now - leeway:
        raise InvalidToken("token_expired", "The token has expired.")
    made = verify.number(claims, "iat") if "iat" in claims else now
    if made > now + leeway:
        raise InvalidToken("token_from_future", "The token was made in the future: do the clocks agree?")
    if "nbf" in claims and verify.number(claims, "nbf") > now + leeway:
        raise InvalidToken("token_not_yet_valid", "The token is not valid yet.")
    if expires - made > LONGEST:
        raise InvalidToken("lifetime_too_long", "The token is valid for longer than 30 days.")


def _check_kind(claims: verify.Claims) -> None:
    if "events" in claims:  # a logout token that came without a type (Back-Channel Logout section 2.4)
        raise InvalidToken("type_refused", "The token is a security event.")
    if "cnf" in claims:  # RFC 7800: worth nothing without the key, and here nobody asks for the key
        raise InvalidToken("proof_needed", "The token needs a proof of possession, which is not served here.")
