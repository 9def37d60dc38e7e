"""Static bearer tokens: secrets that the settings name.

Knows their digests, never the secrets themselves, and which name each belongs to.  Several secrets of one name are
valid at once, and a file that changes brings its new secret within a second, so that they rotate without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

from authproxy.authn import authorization
from authproxy.authn.chain import Judging, Proved
from authproxy.errors import NotAuthenticated
from authproxy.model import Identity, Kind, Match, RequestInfo
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import StaticToken
from authproxy.settings.secret_sources import weakness
from authproxy.throttle import Throttle, client_bucket

log = logging.getLogger("authproxy")
_LOOK: Final = 1.0  # seconds between two looks at all sources
_BEARER: Final = b"bearer"


class _Source(NamedTuple):
    name: str
    shape: StaticToken
    digest: Fresh[bytes]


class _Known(NamedTuple):
    digest: bytes
    proved: Proved


class TokenAuthenticator(Judging):
    """Kind ``token``.  ``clock`` is monotonic, in seconds; it paces the looks at files."""

    kind: Kind = "token"

    def __init__(
        self,
        tokens: Mapping[str, StaticToken],
        *,
        throttle: Throttle,
        clock: Callable[[], float] = time.monotonic,
        elsewhere: Callable[[bytes], bool] = lambda _credentials: False,
    ) -> None:
        self._throttle: Final = throttle
        self._elsewhere: Final = elsewhere  # whether a credential belongs to another kind, such as enrollment
        self._clock: Final = clock
        self._sources: Final = tuple(
            _Source(name, shape, Fresh(secret, _digest_of_secret, clock=clock))
            for name, shape in tokens.items()
            for secret in shape.secrets
        )
        self._digests: tuple[bytes | None, ...] = ()
        self._known: dict[bytes, _Known] = {}
        self._looked = float("-inf")
        self._look()

    def presented(self, info: RequestInfo) -> bool:
        """Whether a bearer credential is ours to judge: all but JWTs, and a JWT that is a configured secret."""
        return any(self.claims(credentials) for credentials in authorization.of_scheme(info.headers, _BEARER))

    def claims(self, credentials: bytes) -> bool:
        """Whether what follows ``Bearer`` is ours to judge."""
        if self._elsewhere(credentials):
            return False
        return not authorization.looks_like_jwt(credentials) or self._find(credentials) is not None

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:  # noqa: ARG002 - all kinds are asked alike
        """The identity of the token's names.

        Raises BadRequest ``several_credentials``, NotAuthenticated ``unknown_token``, and TooManyAttempts when this
        client has tried too many unknown ones.
        """
        proved = self._find(authorization.the_only(info.headers, _BEARER))
        return proved or self._refused(info)

    async def _refused(self, info: RequestInfo) -> Proved:
        await self._throttle.charge(client_bucket(info.client))
        raise NotAuthenticated(
            "unknown_token", "This token is not known here.", token_error="invalid_token"  # noqa: S106 -- a code
        )  # fmt: skip

    def _find(self, credentials: bytes) -> Proved | None:
        self._look()
        digest = hashlib.sha256(credentials).digest()
        # The time of the look-up tells at most something about a digest, of which no secret can be made.
        entry = self._known.get(digest)
        return entry.proved if entry is not None and hmac.compare_digest(entry.digest, digest) else None

    def _look(self) -> None:
        """Build the table anew when a secret has changed."""
        if self._clock() - self._looked < _LOOK:
            return
        digests = tuple(_read(source) for source in self._sources)
        self._looked = self._clock()  # after the sources have looked, so that none is asked again too early
        if digests != self._digests:
            self._digests, self._known = digests, _table(zip(self._sources, digests, strict=True))

    def __repr__(self) -> str:
        return f"<TokenAuthenticator {len(self._sources)} sources, {len(self._known)} secrets>"


def _digest_of_secret(text: str) -> bytes:
    """Raises ValueError when the secret that a rotation brought is not fit; the old one then stays."""
    if fault := weakness(text):
        raise ValueError(fault)
    return hashlib.sha256(text.encode()).digest()


def _read(source: _Source) -> bytes | None:
    try:
        return source.digest()
    except (LookupError, ValueError) as error:
        log.error("tokens.%s: the secret cannot be used: %s", source.name, error.args[0])
        return None


def _table(pairs: Iterable[tuple[_Source, bytes | None]]) -> dict[bytes, _Known]:
    owners: dict[bytes, dict[str, StaticToken]] = {}
    for source, digest in pairs:
        if digest is not None:
            owners.setdefault(digest, {})[source.name] = source.shape
    return {digest: _Known(digest, Proved(_identity(names))) for digest, names in owners.items()}


def _identity(names: Mapping[str, StaticToken]) -> Identity:
    """CONTRACT section 2: one secret under several names unites their scopes."""
    user = "+".join(names)
    scopes = frozenset(scope for shape in names.values() for scope in shape.scopes)
    return Identity(kind="token", subject=user, user=user, scopes=scopes, clusters=_clusters(names.values()))


def _clusters(shapes: Iterable[StaticToken]) -> frozenset[str] | None:
    """What all names allow.  They are equal when the settings are checked; a rotation might make them differ later."""
    bound = [frozenset(shape.clusters) for shape in shapes if shape.clusters is not None]
    return frozenset.intersection(*bound) if bound else None
