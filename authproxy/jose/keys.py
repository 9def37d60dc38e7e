"""The public keys of an issuer: which of a JWKS can be used, and when to ask for it again.

Together with ``verify`` this is the only place that knows PyJWT.  It is given a coroutine that brings the bytes, and
never dereferences an address itself: no token can make it fetch anything but the issuer's own key set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from authproxy.errors import ProviderError
from authproxy.jose import strictjson
from authproxy.jose.document import Document

SIZE: Final = 256 * 1024
"""Largest key set that is read, in bytes."""
KEYS: Final = 100
"""How many entries of a key set are looked at."""
TRIED: Final = 10
"""How many keys one signature is tried with, when the key id is absent or not unique."""
SPACING: Final = 1.0
"""Seconds between two fetches for trusted tokens."""
FETCHES: Final = 3
"""How many fetches one trusted token may cause, where fetches fail."""
PATIENCE: Final = 5.0
"""Seconds after which a trusted token causes no further fetch: the answer to a person, or a renewal, waits for it."""
_REMEMBERED: Final = 1024
_MISSING_SECONDS: Final = 80.0  # a key id that was missing may be published later
_RSA_BITS: Final = range(2048, 16385)
_MEMBERS: Final = ("kty", "crv", "n", "e", "x", "y")
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_FITS: Final[dict[tuple[str, str], tuple[frozenset[str], int]]] = {  # (kty, crv): algorithms, signature bytes
    ("EC", "P-256"): (frozenset({"ES256"}), 64),
    ("EC", "P-384"): (frozenset({"ES384"}), 96),
    ("EC", "P-521"): (frozenset({"ES512"}), 132),
    ("OKP", "Ed25519"): (frozenset({"EdDSA"}), 64),
    ("OKP", "Ed448"): (frozenset({"EdDSA"}), 114),
}
_PARSERS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class Key(NamedTuple):
    """One public key, built once for each fetch."""

    kid: str | None
    algorithms: frozenset[str]  # what it may verify
    signature_length: int  # bytes, exact
    curve: str  # "" for RSA
    material: Any  # what PyJWT's algorithm objects take

    def __repr__(self) -> str:
        return f"<Key {self.kid!r} for {', '.join(sorted(self.algorithms))}>"


class _Missing(NamedTuple):
    since: float
    pause: float  # seconds


class KeySet:
    """An issuer's JWKS, in memory: serves on while the issuer is down, and cannot be made to hammer it.

    ``fetch`` brings the document's bytes and raises ``ProviderError``.  A key id that is not in the set causes a fetch,
    and tokens have two budgets for that, neither of which delays the other:

    - Any client can send a token: one fetch for each ``cooldown`` seconds, and the same unknown id ever more rarely
      (PyJWT GHSA-2gx3-rcp4-g85q).
    - ``trusted`` tokens came from the token endpoint itself, over TLS.  They wait: at most ``FETCHES`` fetches for one
      token, ``SPACING`` seconds apart, and all tokens that wait share them.

    The last good set serves for ``max_stale`` seconds.  ``pause`` waits for a number of seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        clock: Callable[[], float],
        max_age: float = 600.0,
        cooldown: float = 10.0,
        max_stale: float = 86400.0,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._pause: Final = pause
        self._source: Final = fetch
        self._clock: Final = clock
        self._cooldown: Final = cooldown
        self._document: Final = Document(
            self._read, clock=clock, max_age=max_age, max_stale=max_stale, cooldown=cooldown
        )
        self._searched_at: float | None = None  # for a token of any client
        self._spaced_at: float | None = None  # for a trusted token
        self._missing: dict[str | None, _Missing] = {}
        self.generation = 0
        """Grows whenever the keys become others: what was verified before must be verified anew."""

    @property
    def last_error(self) -> str:
        """Why the last fetch failed; empty after a good one."""
        return self._document.last_error

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the usable keys as last fetched: a remembered token dies with its key."""
        return frozenset(key.kid for key in self._document.value or () if key.kid is not None)

    async def ensure(self) -> None:
        """Fetch when nothing was fetched yet.  Raises ``ProviderError`` when there are no keys to be had.

        For trusted callers: a failed fetch is tried again after ``SPACING`` seconds.
        """
        await self._document.get(pause=SPACING)

    async def candidates(self, kid: str | None, alg: str, *, trusted: bool = False) -> tuple[Key, ...]:
        """The keys that may have made a signature with ``alg`` under ``kid``; empty when there are none.

        Without a key id every fitting key is a candidate, ten at most (OIDC Core section 10.1 wants an id when there
        are several keys; providers forget).  Raises ``ProviderError`` when no set was ever fetched.
        """
        found = _select(await self._document.get(pause=SPACING if trusted else None), kid, alg)
        if found or (not trusted and self._names(kid)):
            return found
        return await self.newer(kid, alg, trusted=trusted)

    async def newer(self, kid: str | None, alg: str, *, trusted: bool = False) -> tuple[Key, ...]:
        """Candidates that a fetch brings which were not there before; empty when it brings none, or none is allowed.

        Also for a key that was replaced under the same id, or that has none: its signature fails first.
        """
        before = _select(self._document.value or (), kid, alg)
        if self._document.busy:  # a fetch for another token, which may bring this key as well
            await self._document.refetch()
            found = self._changed(before, kid, alg)
            if found:
                return found
        if trusted:
            return await self._search_patiently(before, kid, alg)
        if not self._may_search(kid):
            return ()
        self._searched_at = self._clock()
        if await self._document.refetch() and not _select(self._document.value or (), kid, alg):
            self._remember_missing(kid)
        return self._changed(before, kid, alg)

    def doubt(self, kid: str | None, *, issued_at: float | None, since: float) -> ProviderError | None:
        """Why it is not certain now whether the issuer has a key ``kid``; None when the keys in memory show it.

        They show it for a token that is older than they are, by its ``issued_at``, when they were fetched after
        ``since``, and when they were fetched for this very id inside the cool-down.  ``retry_after`` is the number of
        seconds until a token of any client may cause a fetch again.
        """
        if self.last_error:
            return ProviderError(self.last_error)
        made, now = self._document.made_at, self._clock()
        if made >= since or (issued_at is not None and issued_at <= made) or self._names(kid):
            return None
        missing = self._missing.get(kid)
        if missing and _left(missing.since, self._cooldown, now):
            return None
        wait = max(self._left_of_cooldown(), self._left_of_missing(kid))
        return ProviderError("the token is newer than the issuer's keys as last fetched", retry_after=wait or None)

    def now(self) -> float:
        """The time, in seconds since the epoch."""
        return self._clock()

    async def _search_patiently(self, before: tuple[Key, ...], kid: str | None, alg: str) -> tuple[Key, ...]:
        if before and self._left_of_spacing():  # most likely the signature is wrong: do not wait
            return ()
        until = self._clock() + PATIENCE
        for _ in range(FETCHES):
            good = await self._fetch_later()
            found = self._changed(before, kid, alg)
            if found or good or self._clock() >= until:
                return found
        return ()

    async def _fetch_later(self) -> bool:
        """Wait for a fetch that starts after this call, and say whether it was good; one under way may be too old."""
        started = self._document.started
        wait = self._left_of_spacing()
        if wait:
            await self._pause(wait)
        if self._document.started == started:
            self._spaced_at = self._clock()
            return await self._document.refetch(pause=0.0)
        if self._document.busy:
            return await self._document.refetch()
        return not self.last_error

    def _names(self, kid: str | None) -> bool:
        return any(key.kid == kid for key in self._document.value or ())

    def _changed(self, before: tuple[Key, ...], kid: str | None, alg: str) -> tuple[Key, ...]:
        found = _select(self._document.value or (), kid, alg)
        return found if found != before else ()

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        await self._document.aclose()

    def _may_search(self, kid: str | None) -> bool:
        return not self._left_of_missing(kid) and not self._left_of_cooldown()

    def _left_of_cooldown(self) -> float:
        return _left(self._searched_at, self._cooldown, self._clock())

    def _left_of_spacing(self) -> float:
        return _left(self._spaced_at, SPACING, self._clock())

    def _left_of_missing(self, kid: str | None) -> float:
        missing = self._missing.get(kid)
        return _left(missing.since, missing.pause, self._clock()) if missing else 0.0

    def _remember_missing(self, kid: str | None) -> None:
        known = self._missing.pop(kid, None)
        pause = min(known.pause * 2, max(_MISSING_SECONDS, self._cooldown)) if known else self._cooldown
        while len(self._missing) >= _REMEMBERED:
            del self._missing[next(iter(self._missing))]
        self._missing[kid] = _Missing(self._clock(), pause)

    async def _read(self) -> tuple[Key, ...]:
        keys = parse(await self._source())
        if keys != self._document.value:
            self.generation += 1
        return keys

    def __repr__(self) -> str:
        keys = self._document.value
        if keys is None:
            return "<KeySet never fetched>"
        return f"<KeySet {len(keys)} keys, fetched {self._document.age:.0f}s ago>"


def parse(raw: bytes) -> tuple[Key, ...]:
    """The usable keys of a JWKS (RFC 7517 section 5: what is not understood is ignored).

    Raises ValueError when it is no JWKS or holds no usable key, so that the last good set is kept.
    """
    if len(raw) > SIZE:
        raise ValueError(f"the key set is larger than {SIZE} bytes")
    try:
        entries = strictjson.load_object(raw).get("keys")
    except ValueError as error:
        raise ValueError(f"the key set is {error}") from None
    if not isinstance(entries, list):
        raise ValueError("the key set has no list of keys")
    keys = tuple(key for key in map(_key, entries[:KEYS]) if key is not None)
    if not keys:
        raise ValueError("the key set holds no usable key")
    return keys


def _left(since: float | None, seconds: float, now: float) -> float:
    """What is left of ``seconds`` at ``now``.  A clock that was set back does not make it longer."""
    return since + seconds - now if since is not None and 0 <= now - since < seconds else 0.0


def _select(keys: tuple[Key, ...], kid: str | None, alg: str) -> tuple[Key, ...]:
    return tuple(key for key in keys if alg in key.algorithms and kid in (None, key.kid))[:TRIED]


def _key(entry: object) -> Key | None:
    if not isinstance(entry, dict) or not _for_signatures(entry):
        return None
    kid = entry.get("kid")
    material = _material(entry)
    if material is None or not (kid is None or isinstance(kid, str)):
        return None
    algorithms, length = _fits(entry, material)
    if "alg" in entry:  # RFC 8725 section 3.1: a key that names its algorithm serves that one alone
        algorithms = algorithms & {entry["alg"]} if isinstance(entry["alg"], str) else frozenset()
    return Key(kid, algorithms, length, str(entry.get("crv", "")), material) if algorithms else None


def _for_signatures(entry: dict[str, object]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    # A published private key proves nothing about who signed, so its public half is not used either.
    return (
        entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and "d" not in entry
    )


def _material(entry: dict[str, object]) -> Any | None:
    parser = _PARSERS.get(str(entry.get("kty")))  # oct is not among them: no shared secret verifies here
    if parser is None:
        return None
    try:
        material = parser({name: entry[name] for name in _MEMBERS if name in entry})
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, OverflowError):
        return None
    return material


def _fits(entry: dict[str, object], material: object) -> tuple[frozenset[str], int]:
    if isinstance(material, RSAPublicKey):
        bits = material.key_size
        return (_RSA if bits in _RSA_BITS else frozenset()), (bits + 7) // 8
    return _FITS.get((str(entry["kty"]), str(entry.get("crv"))), (frozenset(), 0))
