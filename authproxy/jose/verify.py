"""Whether a token of an identity provider holds: its signature, then its claims, by the rules of its kind.

PyJWT computes the signature; every claim is judged here, because the library takes what OpenID Connect Core section
3.1.3.7 and RFC 8725 do not (text and infinite times, an empty subject, any type).  This module knows no session and no
network but what its ``KeySet`` fetches.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from jwt.algorithms import Algorithm, get_default_algorithms

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose.compact import ASYMMETRIC, Compact, parse
from authproxy.jose.keys import Key, KeySet

LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""The member of ``events`` that makes a token a logout token."""

Claims = dict[str, object]

_ALGORITHMS: Final[dict[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in ASYMMETRIC
}
_ID_TOKEN_TYPES: Final = frozenset({"", "jwt"})
_LOGOUT_TOKEN_TYPES: Final = frozenset({"", "jwt", "logout+jwt"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TEXT_LENGTH: Final = 255  # OpenID Connect Core section 2: a subject has at most 255 ASCII characters


class IdTokenRules(NamedTuple):
    """What an ID token must say (OpenID Connect Core sections 3.1.3.7 and 12.2)."""

    issuer: str
    client_id: str
    algorithms: Collection[str]
    nonce: str | None = None  # None: not checked, the answer to a refresh or a password
    max_age: float | None = None  # seconds since the person last proved who they are
    acr_values: Collection[str] = ()  # one of these; empty: any
    subject: str | None = None  # must be equal when set
    leeway: float = 60.0  # seconds
    skew: float = 0.0  # seconds by which the issuer's clock is ahead of ours, as far as known
    access_token: str | None = None  # compared with at_hash, where the token has one
    code: str | None = None  # compared with c_hash, where the token has one

    def __repr__(self) -> str:
        return f"<IdTokenRules of {self.issuer!r} for {self.client_id!r}>"


class LogoutTokenRules(NamedTuple):
    """What a logout token must say (OpenID Connect Back-Channel Logout 1.0 section 2.6)."""

    issuer: str
    client_id: str
    algorithms: Collection[str]
    leeway: float = 60.0  # seconds
    max_age: float = 300.0  # seconds since it was made; remember its jti at least this long plus twice the leeway


async def id_token(token: str, keys: KeySet, rules: IdTokenRules, *, now: float) -> Claims:
    """The claims of an ID token that holds; it came from the token endpoint itself, so that its key is waited for.

    ``now`` is our time in seconds since the epoch.  A token that holds by our clock or by the issuer's holds, since it
    has just been issued.  Raises ``InvalidToken`` with the code of
    the first rule that is broken, and ``ProviderError`` when it is not certain now whether the issuer has the key.
    """
    compact = parse(token, algorithms=rules.algorithms, types=_ID_TOKEN_TYPES)
    await prove(compact, keys, trusted=True)
    claims = compact.payload
    if "events" in claims:  # a logout token that came without a type must not open a session
        raise InvalidToken("type_refused", "The token is a security event, not an ID token.")
    check_party(claims, rules.issuer, rules.client_id)
    check_times(claims, now, rules.leeway, skew=rules.skew)
    _check_subject(claims, rules.subject)
    _check_nonce(claims, rules.nonce)
    _check_hash(compact, "at_hash", rules.access_token)
    _check_hash(compact, "c_hash", rules.code)
    _check_authentication(claims, rules, now)
    return claims


async def logout_token(token: str, keys: KeySet, rules: LogoutTokenRules, *, now: float) -> Claims:
    """The claims of a back-channel logout token that holds; whether its ``jti`` was seen before is the caller's to ask.

    ``typ`` may be absent, ``JWT`` or ``logout+jwt``; ``exp`` is judged when it is there.  Raises as ``id_token``.
    """
    compact = parse(token, algorithms=rules.algorithms, types=_LOGOUT_TOKEN_TYPES)
    claims = compact.payload
    if claims.get("iss") != rules.issuer:  # before its key is looked for: any client can send any token
        raise InvalidToken("issuer_mismatch", "The token is of another issuer.")
    await prove(compact, keys)
    check_party(claims, rules.issuer, rules.client_id)
    check_times(claims, now, rules.leeway, expires="exp" in claims)
    if now - number(claims, "iat") > rules.max_age + rules.leeway:
        raise InvalidToken("token_too_old", "The logout token was made too long ago.")
    text(claims, "jti")
    _check_event(claims)
    _check_whom(claims)
    return claims


async def prove(compact: Compact, keys: KeySet, *, trusted: bool = False) -> None:
    """Verify the signature with the issuer's keys; raises ``InvalidToken`` with key_unknown or signature_invalid.

    When every known key fails, the key set is fetched again, as far as the token's budget allows: the issuer may have
    replaced a key that has no id, or kept the id.  ``trusted``: the token came from the token endpoint itself.
    Raises ``ProviderError`` when it is not certain now whether the issuer has the key.
    """
    since = keys.now()
    candidates = await keys.candidates(compact.kid, compact.alg, trusted=trusted)
    if any(_signed(compact, key) for key in candidates):
        return
    if not candidates:
        unknown = InvalidToken("key_unknown", "The issuer has no key that could have signed the token.")
        raise keys.doubt(compact.kid, issued_at=_issued_at(compact.payload), since=since) or unknown
    if any(_signed(compact, key) for key in await keys.newer(compact.kid, compact.alg, trusted=trusted)):
        return
    if trusted and keys.last_error:  # the key may have been replaced under its id
        raise ProviderError(keys.last_error)
    raise InvalidToken("signature_invalid", "The token's signature does not hold.")


def _issued_at(claims: Claims) -> float | None:
    with suppress(InvalidToken):
        return number(claims, "iat")
    return None


def signed_by(compact: Compact, ring: Iterable[Key]) -> bool:
    """Whether the key of ``ring`` that the token names has signed it; for keys that are at hand."""
    named = (key for key in ring if key.kid == compact.kid and compact.alg in key.algorithms)
    return any(_signed(compact, key) for key in named)


def _signed(compact: Compact, key: Key) -> bool:
    # The length is part of the form: RFC 7518 section 3.4 (64, 96, 132 bytes), RFC 8017 section 8.2.2 (the modulus).
    if len(compact.signature) != key.signature_length:
        return False
    try:
        return _ALGORITHMS[compact.alg].verify(compact.signing_input, key.material, compact.signature)
    except (ValueError, TypeError):  # numbers that no curve and no modulus has
        return False


def key_id(token: str, algorithms: Collection[str]) -> str | None:
    """The ``kid`` that an ID token names; None when it names none, or is none by its form.  Nothing is proved by it."""
    try:
        return parse(token, algorithms=algorithms, types=_ID_TOKEN_TYPES).kid
    except InvalidToken:
        return None


def unproved(token: str, algorithms: Collection[str]) -> Claims:
    """The claims of an ID token that nothing was proved of yet; raises ``InvalidToken`` when it is none by its form."""
    return parse(token, algorithms=algorithms, types=_ID_TOKEN_TYPES).payload


def check_party(claims: Claims, issuer: str, client_id: str) -> None:
    """``iss`` equals ``issuer``, ``aud`` names ``client_id``, ``azp`` is ``client_id`` where it must be there.

    Compared character by character (OpenID Connect Core section 3.1.3.7, PyJWT GHSA-75c5-xw7c-p5pm).
    """
    if claims.get("iss") != issuer or not isinstance(claims["iss"], str):
        raise InvalidToken("issuer_mismatch", "The token is of another issuer.")
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named) or client_id not in named:
        raise InvalidToken("audience_mismatch", "The token is for another audience.")
    if ("azp" in claims or len(named) > 1) and claims.get("azp") != client_id:
        raise InvalidToken("azp_mismatch", "The token was issued to another party.")


def check_times(claims: Claims, now: float, leeway: float, *, expires: bool = True, skew: float = 0.0) -> None:
    """``exp`` is ahead, ``iat`` and ``nbf`` are not, within ``leeway`` seconds (RFC 7519 sections 4.1.4 to 4.1.6).

    With a ``skew`` each of them is judged by the clock that favours the token: ours, or the one ``skew`` seconds ahead.
    Never give it for a token that a client brought.
    """
    earliest, latest = min(now, now + skew), max(now, now + skew)
    if expires and number(claims, "exp") <= earliest - leeway:
        raise InvalidToken("token_expired", "The token has expired.")
    if number(claims, "iat") > latest + leeway:
        raise InvalidToken("token_from_future", "The token was made in the future: do the clocks agree?")
    if "nbf" in claims and number(claims, "nbf") > latest + leeway:
        raise InvalidToken("token_not_yet_valid", "The token is not valid yet.")


def number(claims: Claims, name: str) -> float:
    """A time that must be there: a finite number, neither text nor truth value (RFC 7519 section 2, NumericDate)."""
    value = claims.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < 1e11
        or not math.isfinite(value)
    ):
        raise InvalidToken(f"{name}_invalid", f"The token's {name} is not a time.")
    return float(value)


def text(claims: Claims, name: str) -> str:
    """A short, printable, non-empty string that must be there."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_LENGTH or _CONTROL.search(value):
        raise InvalidToken(f"{name}_invalid", f"The token's {name} is not a short, printable string.")
    return value


def _check_subject(claims: Claims, expected: str | None) -> None:
    subject = text(claims, "sub")
    if expected is not None and subject != expected:
        raise InvalidToken("subject_mismatch", "The token is about another subject.")


def _check_nonce(claims: Claims, expected: str | None) -> None:
    if expected is None:
        return
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not _equal(nonce, expected):
        raise InvalidToken("nonce_mismatch", "The token does not belong to this sign-in.")


def _check_hash(compact: Compact, name: str, secret: str | None) -> None:
    if secret is None or name not in compact.payload:
        return
    claimed = compact.payload[name]
    if not isinstance(claimed, str) or not _equal(claimed, _half_hash(compact, secret)):
        raise InvalidToken(f"{name}_mismatch", f"The token's {name} belongs to something else.")


def _half_hash(compact: Compact, secret: str) -> str:
    """The left half of the hash that goes with the algorithm, base64url (OpenID Connect Core section 3.1.3.6)."""
    digest = _hash(compact)(secret.encode("utf-8"))
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode("ascii")


def _hash(compact: Compact) -> Callable[[bytes], bytes]:
    if compact.alg == "EdDSA":  # RFC 8032: each curve has its own hash; the signature's length tells which curve it was
        return _shake256 if len(compact.signature) == 114 else _sha("512")
    return _sha(compact.alg[-3:])


def _sha(bits: str) -> Callable[[bytes], bytes]:
    return lambda data: hashlib.new(f"sha{bits}", data).digest()


def _shake256(data: bytes) -> bytes:
    return hashlib.shake_256(data).digest(114)


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8"), other.encode("utf-8"))


def _check_authentication(claims: Claims, rules: IdTokenRules, now: float) -> None:
    if rules.max_age is not None:
        authenticated = number(claims, "auth_time")
        too_old = now + rules.skew - authenticated > rules.max_age + rules.leeway  # by the issuer's clock, which set it
        if too_old or authenticated > max(now, now + rules.skew) + rules.leeway:
            raise InvalidToken("auth_time_too_old", "The person signed in at the provider too long ago.")
    acr = claims.get("acr")
    if rules.acr_values and not (isinstance(acr, str) and acr in rules.acr_values):
        raise InvalidToken("acr_mismatch", "The provider did not use a required way of signing in.")


def _check_event(claims: Claims) -> None:
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise InvalidToken("event_mismatch", "The token is not about a back-channel logout.")
    if "nonce" in claims:  # section 2.4: prohibited, so that no ID token passes for a logout token
        raise InvalidToken("nonce_present", "A logout token must have no nonce.")


def _check_whom(claims: Claims) -> None:
    if "sid" not in claims and "sub" not in claims:
        raise InvalidToken("subject_missing", "The logout token names neither a session nor a subject.")
    for name in ("sid", "sub"):
        if name in claims:
            text(claims, name)
