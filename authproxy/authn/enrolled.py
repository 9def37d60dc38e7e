"""The credential of an enrolled machine: ``Authorization: Bearer`` with a JWT that we signed ourselves.

Enrollment tokens and renewals are refused here by name: they open no data path.  Credentials that were proved are
remembered by digest; expiry, keys and revocation marks are looked at each time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from authproxy.authn import authorization
from authproxy.authn.chain import Judging, Proved
from authproxy.enrollment.families import Families
from authproxy.enrollment.issuer import TYPE, Credential, Enrolled, Issuer
from authproxy.enrollment.tokens import EnrollmentTokens
from authproxy.errors import InvalidToken, NotAuthenticated
from authproxy.model import Identity, Kind, Match, RequestInfo

ENTRIES: Final = 10_000
"""How many proved credentials are remembered; the longest unused goes first."""

_BEARER: Final = b"bearer"
_INVALID: Final = "invalid_token"  # RFC 6750 section 3.1
_LONGEST: Final = 8192  # octets; nothing of ours is longer


class _Remembered(NamedTuple):
    proved: Proved
    credential: Credential


class EnrolledAuthenticator(Judging):
    """Kind ``enrolled``.  ``clock`` gives seconds since the epoch."""

    kind: Kind = "enrolled"

    def __init__(
        self, issuer: Issuer, tokens: EnrollmentTokens, families: Families, *, clock: Callable[[], float]
    ) -> None:
        self._issuer: Final = issuer
        self._tokens: Final = tokens
        self._families: Final = families
        self._clock: Final = clock
        self._remembered: Final[OrderedDict[bytes, _Remembered]] = OrderedDict()

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries a bearer credential that has to do with enrollment."""
        return any(self.claims(one) for one in authorization.of_scheme(info.headers, _BEARER))

    def claims(self, credentials: bytes) -> bool:
        """Whether what follows ``Bearer`` is ours to judge: no other kind should."""
        return _has_our_type(credentials) or self._enrolls(credentials)

    def yields(self, info: RequestInfo) -> bool:
        """Whether all that is presented are enrollment tokens: a route that accepts these has them judged there."""
        shown = [one for one in authorization.of_scheme(info.headers, _BEARER) if self.claims(one)]
        return all(self._tokens.knows(one.decode("latin-1")) for one in shown)

    def _enrolls(self, credentials: bytes) -> bool:
        text = credentials.decode("latin-1")
        return self._tokens.knows(text) or self._families.knows(text)

    def judge(self, info: RequestInfo, match: Match) -> Proved:  # noqa: ARG002 - all kinds are asked alike
        """The identity of the machine.

        Raises BadRequest ``several_credentials``, NotAuthenticated ``enrollment_token_refused``, ``invalid_token`` or
        ``credential_revoked``, and Unavailable when there is no signing key.
        """
        token = authorization.the_only(info.headers, _BEARER)
        if self._enrolls(token):
            raise NotAuthenticated(
                "enrollment_token_refused", "An enrollment token or a renewal opens nothing here; enroll with it.",
                token_error=_INVALID,
            )  # fmt: skip
        found = self._recall(token) or self._prove(token)
        if self._families.revoked(found.credential.enrolled):
            raise NotAuthenticated("credential_revoked", "This credential was revoked.", token_error=_INVALID)
        return found.proved

    def _recall(self, token: bytes) -> _Remembered | None:
        digest = hashlib.sha256(token).digest()
        known = self._remembered.get(digest)
        if known is None:
            return None
        if known.credential.expires <= self._clock() or known.credential.kid not in self._issuer.kids:
            del self._remembered[digest]
            return None
        self._remembered.move_to_end(digest)
        return known

    def _prove(self, token: bytes) -> _Remembered:
        try:
            credential = self._issuer.verify(token.decode("latin-1"))
        except InvalidToken as error:
            reason = f"{error.code}: {error}"
            raise NotAuthenticated("invalid_token", str(error), reason=reason, token_error=_INVALID) from None
        found = _Remembered(Proved(_identity(credential, self._issuer.party)), credential)
        self._remembered[hashlib.sha256(token).digest()] = found
        if len(self._remembered) > ENTRIES:
            self._remembered.popitem(last=False)
        return found

    def __repr__(self) -> str:
        return f"<EnrolledAuthenticator {len(self._remembered)} remembered>"


def _identity(credential: Credential, issuer: str) -> Identity:
    enrolled: Enrolled = credential.enrolled
    clusters = None if enrolled.cluster is None else frozenset({enrolled.cluster})
    return Identity(
        kind="enrolled", subject=enrolled.name, issuer=issuer, user=enrolled.name, scopes=credential.scopes,
        clusters=clusters, expires_at=credential.expires,
    )  # fmt: skip


def _has_our_type(credentials: bytes) -> bool:
    """Whether it says of itself that it is one of ours; nothing is believed of it, it says only who is asked."""
    if len(credentials) > _LONGEST or not authorization.looks_like_jwt(credentials):
        return False
    first = credentials.partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(first + b"=" * (-len(first) % 4)))
    except (ValueError, RecursionError):
        return False
    typ = header.get("typ") if isinstance(header, dict) else None
    return isinstance(typ, str) and typ.lower().removeprefix("application/") == TYPE
