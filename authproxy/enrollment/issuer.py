"""The credentials of enrolled machines: short-lived ES256 JWTs that name the machine, its cluster and its enrollment.

Knows the signing keys and the claims.  It does not know who may have a credential, nor which were revoked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, NamedTuple

from authproxy.errors import InvalidToken, Unavailable
from authproxy.jose.compact import parse
from authproxy.jose.sign import ALGORITHM, SigningKey, SigningRing, load_private
from authproxy.jose.verify import Claims, check_party, check_times, number, signed_by, text
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import Enrollment

TYPE: Final = "enrolled+jwt"
"""The ``typ`` of our credentials: no token of another kind passes for one (RFC 8725 section 3.11)."""
LEEWAY: Final = 5.0
"""Seconds by which the clocks of two replicas may differ."""
EMPTY_JWKS: Final = json.dumps({"keys": []}).encode()


class Enrolled(NamedTuple):
    """One enrollment: everything that was renewed from it is of its family."""

    family: str
    name: str
    cluster: str | None  # None: bound to no cluster
    began: float  # seconds since the epoch


class Credential(NamedTuple):
    """What a credential that holds says."""

    enrolled: Enrolled
    scopes: frozenset[str]
    expires: float
    kid: str


class Issuer:
    """Signs and verifies.  ``public_url`` is issuer and audience; ``clock`` gives seconds since the epoch.

    Keys are read again when their files change.  Without a usable key nothing is signed or believed, and ``problems``
    says why.
    """

    def __init__(self, settings: Enrollment, *, public_url: str, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self.party: Final = public_url
        self._lifetime: Final = settings.credential.lifetime
        self._scopes: Final = " ".join(settings.credential.scopes)
        self._sources: Final = [Fresh(reference, load_private) for reference in settings.signing_keys]
        self._loaded: list[SigningKey] = []
        self._ring: SigningRing | None = None

    def problems(self) -> list[str]:
        """Which key cannot be used and why; empty when all can."""
        found, loaded = [], []
        for at, source in enumerate(self._sources):
            try:
                loaded.append(source())
            except (LookupError, ValueError) as error:
                found.append(f"enrollment.signing_keys[{at}]: {error.args[0]}")
        if not self._sources:
            found.append("enrollment.signing_keys: is missing; make a key with `authproxy key --signing`")
        if loaded != self._loaded:
            try:
                self._ring = SigningRing(loaded) if loaded else None
                self._loaded = loaded
            except ValueError as error:
                found.append(f"enrollment.signing_keys: {error}")
        return found

    def ring(self) -> SigningRing:
        """The keys of now.  Raises Unavailable when there are none."""
        found = self.problems()
        if self._ring is None:
            raise Unavailable("enrollment_not_ready", "Machines cannot enroll right now.", reason="; ".join(found))
        return self._ring

    def subkeys(self, purpose: str) -> tuple[bytes, ...]:
        """Keys for another use, of each signing key; raises as ``ring``."""
        return self.ring().subkeys(purpose)

    @property
    def kids(self) -> frozenset[str | None]:
        """The ids of the keys of now."""
        self.problems()
        return frozenset(key.kid for key in self._ring.keys) if self._ring else frozenset()

    def jwks(self) -> bytes:
        """What anybody may verify our credentials with; an empty set when there is no key."""
        self.problems()
        return self._ring.published if self._ring else EMPTY_JWKS

    def issue(self, enrolled: Enrolled, *, generation: int, made: float, ends: float) -> tuple[str, float]:
        """The credential of ``generation``, made at ``made``, and when it expires: never after ``ends``."""
        expires = int(min(made + self._lifetime, ends))
        claims: dict[str, object] = {
            "iss": self.party, "aud": self.party, "sub": enrolled.name, "iat": int(made), "exp": expires,
            "jti": f"{enrolled.family}.{generation}", "family": enrolled.family, "enrolled_at": enrolled.began,
            "scope": self._scopes,
        }  # fmt: skip
        if enrolled.cluster is not None:
            claims["cluster"] = enrolled.cluster
        return self.ring().sign(claims, typ=TYPE), expires

    def verify(self, token: str) -> Credential:
        """What ``token`` says, if we signed it and it has not expired.

        Raises InvalidToken with the code of the first rule that is broken, and Unavailable when there is no key.
        """
        compact = parse(token, algorithms={ALGORITHM}, types={TYPE})
        if not signed_by(compact, self.ring().keys):
            raise InvalidToken("signature_invalid", "The credential was not signed here.")
        claims = compact.payload
        check_party(claims, self.party, self.party)
        check_times(claims, self._clock(), LEEWAY)
        scopes = claims.get("scope")
        return Credential(
            _enrolled(claims), frozenset(scopes.split() if isinstance(scopes, str) else ()), number(claims, "exp"),
            str(compact.kid),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Issuer {self.party} with {self._ring!r}>"


def _enrolled(claims: Claims) -> Enrolled:
    cluster = text(claims, "cluster") if "cluster" in claims else None
    return Enrolled(text(claims, "family"), text(claims, "sub"), cluster, number(claims, "enrolled_at"))
