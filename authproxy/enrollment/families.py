"""Families of credentials: one enrollment and everything that is renewed from it.

A renewal is a text that only we can make; it names its enrollment and a generation.  The store holds which generation
is the latest and when it was made, changed by one compare-and-swap, so that all replicas agree and a lost answer can
be made again from nothing secret.  An older generation that comes back means that somebody has a copy: the family ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple, Protocol

from authproxy.enrollment.issuer import Enrolled, Issuer
from authproxy.enrollment.stamped import Stamp
from authproxy.errors import NotAuthenticated, StoreUnavailable, Unavailable
from authproxy.settings.schema import EnrollmentCredential
from authproxy.store import keys
from authproxy.store.base import Store

PREFIX: Final = "apr_"
GRACE: Final = 60.0
"""Seconds in which a renewal that was used may be used again, for the same successor."""
Scope = Literal["family", "enrolled-name", "cluster", "enrolled"]
_INVALID: Final = "invalid_token"  # RFC 6750 section 3.1
_TRIES: Final = 20
_DEAD: Final = b"dead"


class Revocations(Protocol):
    """What this room needs of the revocation marks."""

    def revokes_enrolled(self, *, family: str, name: str, cluster: str | None, since: float) -> bool: ...

    def end_enrolled(self, kind: Scope, name: str, *, before: float, until: float) -> Awaitable[bool]: ...


class Issued(NamedTuple):
    """What a machine is given: a credential and what renews it."""

    enrolled: Enrolled
    credential: str
    expires: float
    renewal: str
    renewal_expires: float

    def __repr__(self) -> str:
        return f"<Issued to {self.enrolled.name!r}>"


class _Renewal(NamedTuple):
    family: str
    name: str
    cluster: str | None
    began: float
    generation: int
    ends: float

    @property
    def enrolled(self) -> Enrolled:
        return Enrolled(self.family, self.name, self.cluster, self.began)


class _Latest(NamedTuple):
    generation: int
    made: float

    def packed(self) -> bytes:
        return json.dumps(list(self)).encode()


class Families:
    """``clock`` gives seconds since the epoch.  ``renewable_for`` counts from the enrollment and never slides."""

    def __init__(
        self,
        issuer: Issuer,
        credential: EnrollmentCredential,
        *,
        store: Store,
        revocations: Revocations,
        clock: Callable[[], float],
    ) -> None:
        self._issuer: Final = issuer
        self._store: Final = store
        self._revocations: Final = revocations
        self._clock: Final = clock
        self._renewable_for: Final = credential.renewable_for
        self._lifetime: Final = credential.lifetime
        self._stamp: Final = Stamp(PREFIX, lambda: issuer.subkeys("enrollment renewal"))

    def knows(self, presented: str) -> bool:
        """Whether it looks like a renewal, which must open nothing else."""
        return self._stamp.bears(presented)

    def begin(self, name: str, cluster: str | None) -> Issued:
        """A new family.  Whoever calls it has judged the enrollment token.  Raises Unavailable without a key."""
        now = self._now()
        enrolled = Enrolled(secrets.token_hex(16), name, cluster, now)
        return self._issued(_Renewal(*enrolled, 0, now + self._renewable_for), _Latest(0, now))

    async def renew(self, presented: str) -> Issued:
        """The successor of a renewal; the same one again within 60 s.

        Raises NotAuthenticated with ``renewal_invalid``, ``renewal_expired``, ``credential_revoked`` or
        ``renewal_reused``, which ends the family, and Unavailable when the store does not answer.
        """
        renewal = self._read(presented)
        if renewal.ends <= self._clock():
            raise NotAuthenticated(
                "renewal_expired", "This enrollment has come to its end; please enroll again.", token_error=_INVALID
            )
        if self.revoked(renewal.enrolled):
            raise _revoked()
        try:
            latest = await self._advance(renewal)
        except StoreUnavailable:
            raise Unavailable("enrollment_unavailable", "Credentials cannot be renewed right now.") from None
        return self._issued(renewal, latest)

    def revoked(self, enrolled: Enrolled) -> bool:
        """Whether a mark ends this enrollment."""
        family, name, cluster, since = enrolled
        return self._revocations.revokes_enrolled(family=family, name=name, cluster=cluster, since=since)

    async def revoke(self, scope: Scope, name: str = "*") -> bool:
        """End a family, or all enrollments until now of a name, of a cluster, or at all (``enrolled``, ``*``).

        False when the store is away: then this replica alone honours it until the store is back.
        """
        now = self._now()
        until = now + self._renewable_for + self._lifetime
        if scope == "family":
            await self._bury(name)
        before = until if scope == "family" else now
        return await self._revocations.end_enrolled(scope, name, before=before, until=until)

    async def _bury(self, family: str) -> None:
        """No replica renews it from now on, not even one that has not heard of the mark."""
        try:
            await self._store.put(_key(family), _DEAD, ttl=self._renewable_for)
        except StoreUnavailable:
            return  # the mark waits for the store

    async def _advance(self, renewal: _Renewal) -> _Latest:
        key, ttl = _key(renewal.family), max(renewal.ends - self._clock(), 1.0)
        for _ in range(_TRIES):
            held = await self._store.get(key)
            if held == _DEAD:
                raise _revoked()
            latest = _Latest(*json.loads(held)) if held else None
            # Absent, or behind what we have signed: the store lost it, and what we have signed is the newer truth.
            if latest is None or latest.generation <= renewal.generation:
                following = _Latest(renewal.generation + 1, self._now())
                if await self._store.swap(key, held, following.packed(), ttl=ttl):
                    return following
            elif latest.generation == renewal.generation + 1 and self._clock() - latest.made <= GRACE:
                return latest
            else:
                await self.revoke("family", renewal.family)
                raise NotAuthenticated(
                    "renewal_reused", "This renewal was used before; please enroll again.", token_error=_INVALID
                )
        raise Unavailable("enrollment_unavailable", "Credentials cannot be renewed right now.")

    def _issued(self, renewal: _Renewal, latest: _Latest) -> Issued:
        credential, expires = self._issuer.issue(
            renewal.enrolled, generation=latest.generation, made=latest.made, ends=renewal.ends
        )
        text = self._stamp.make(list(renewal._replace(generation=latest.generation)))
        return Issued(renewal.enrolled, credential, expires, text, renewal.ends)

    def _read(self, presented: str) -> _Renewal:
        values = self._stamp.read(presented)
        if values is None:
            raise NotAuthenticated(
                "renewal_invalid", "This is not a renewal that was issued here.", token_error=_INVALID
            )
        return _Renewal(*values)  # type: ignore[arg-type] # only ``_issued`` made it

    def _now(self) -> float:
        return math.floor(self._clock() * 1000) / 1000  # milliseconds travel unchanged through JSON

    def __repr__(self) -> str:
        return f"<Families renewable for {self._renewable_for:g}s>"


def _key(family: str) -> str:
    return keys.family(hashlib.sha256(family.encode()).hexdigest())


def _revoked() -> NotAuthenticated:
    return NotAuthenticated(
        "credential_revoked", "This credential was revoked; please enroll again.", token_error=_INVALID
    )
