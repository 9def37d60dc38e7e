"""One issuer of bearer JWTs: its name, its keys, and what its claims mean.

This room knows where keys come from: discovery, a configured place, or the Kubernetes cluster that we run in.  It knows
nothing of requests, and it judges no token itself: ``jose.access`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from authproxy.errors import InvalidToken, ProviderError
from authproxy.jose import access, strictjson, verify
from authproxy.jose.compact import Compact
from authproxy.jose.document import Document
from authproxy.jose.keys import KeySet
from authproxy.model import Identity
from authproxy.oidc import fetch, metadata
from authproxy.oidc.identity import find, identity_fields, lines
from authproxy.settings import schema

_REMEMBERED: Final = 3600.0
_REDISCOVERY: Final = 10.0  # seconds; discovery is not fetched again sooner because the keys cannot be had
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ABSENT: Final = object()


class InCluster(NamedTuple):
    """How a pod reaches the API server of its cluster; the files are read for each exchange, since they rotate."""

    url: str = "https://kubernetes.default.svc"
    ca: Path = _ACCOUNT / "ca.crt"
    token: Path = _ACCOUNT / "token"

    def headers(self) -> dict[str, str]:
        """Our own account's credential, which goes to the API server and nowhere else."""
        try:
            return {"Authorization": f"Bearer {self.token.read_text(encoding='ascii').strip()}"}
        except (OSError, ValueError):
            raise ProviderError(f"cannot read {self.token}: is this a pod with a service account?") from None


class Discovered(NamedTuple):
    """What a discovery document says (OpenID Connect Discovery 1.0 section 4.2), as far as it matters here."""

    issuer: str
    jwks: str


class Issuer:
    """A configured issuer.  Enter it as an async context manager; leaving ends a fetch that is under way.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        settings: schema.Issuer,
        *,
        clock: Callable[[], float] = time.time,
        cluster: InCluster | None = None,
    ) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self.audiences: Final = frozenset(settings.audiences)
        self._clock: Final = clock
        self._cluster: Final = (cluster or InCluster()) if settings.kubernetes_service_accounts else None
        self._document: Final = Document(self._discover, clock=clock, max_age=_REMEMBERED)
        self.keys: Final = KeySet(self._fetch_keys, clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keys.aclose()
        await self._document.aclose()

    @property
    def ready(self) -> bool:
        """Whether its keys were had at least once."""
        return self.keys.generation > 0

    @property
    def known(self) -> str | None:
        """The issuer as it stands in its tokens; None until discovery has told."""
        found = self._document.value
        return self.settings.issuer or (found.issuer if found else None)

    @property
    def last_error(self) -> str:
        """Why discovery, or else the key set, could not be had last time; empty when all is well."""
        return self._document.last_error or self.keys.last_error

    def __repr__(self) -> str:
        return f"<Issuer {self.name}: {'ready' if self.ready else 'not ready'}, {self.keys!r}>"

    async def ensure(self) -> None:
        """Have the keys.  Raises ``ProviderError`` when there are none to be had."""
        await self.identifier()
        await self.keys.ensure()

    async def identifier(self) -> str:
        """The issuer as it stands in its tokens.  Raises ``ProviderError`` when only discovery knows, and fails."""
        return self.settings.issuer or (await self._document.get()).issuer

    async def check(self, compact: Compact, audiences: frozenset[str]) -> verify.Claims:
        """The claims of a token of this issuer for one of ``audiences``; raises as ``jose.access.check``.

        A key that is not known while the keys cannot be asked for says nothing about the token: ``ProviderError``.
        """
        rules = access.AccessRules(await self.identifier(), audiences, self.settings.algorithms)
        try:
            return await access.check(compact, self.keys, rules, now=self._clock())
        except InvalidToken as error:
            if error.code == "key_unknown" and self.last_error:
                raise ProviderError(self.last_error) from None
            raise

    def identity(self, claims: verify.Claims) -> Identity:
        """Who the proved ``claims`` are about, by the settings' mapping.

        Scopes are ``scope`` (RFC 8693 section 4.2, separated by spaces) or else ``scp``.  A token without the claim
        that holds clusters is bound to none; one in which that claim cannot be understood is bound to no cluster at
        all, and opens none.
        """
        mapping = self.settings.claims
        fields = identity_fields(
            claims, {name: mapping[name] for name in ("user", "email", "groups") if name in mapping}
        )
        return Identity(
            kind="bearer",
            subject=verify.text(claims, "sub"),
            issuer=str(claims["iss"]),
            **fields._asdict(),
            scopes=scopes_of(claims, mapping.get("scopes")),
            clusters=clusters_of(claims, mapping.get("clusters")),
            expires_at=verify.number(claims, "exp"),
            claims=claims,
        )

    # Where keys come from

    async def _discover(self) -> Discovered:
        options = self.settings
        base = self._cluster.url if self._cluster else options.issuer or ""
        place = metadata.discovery_url(base, schema.Endpoints())
        metadata.check_url(place, "discovery", insecure_http=options.insecure_http)
        return _discovered(await self._get(place), options.issuer)

    async def _fetch_keys(self) -> bytes:
        if self.settings.jwks_url is not None:
            return await self._get(self.settings.jwks_url)
        found = await self._document.get()
        try:
            return await self._get_keys(found)
        except ProviderError:
            moved = await self._moved(found)
            if moved is None:
                raise
        return await self._get_keys(moved)

    async def _moved(self, known: Discovered) -> Discovered | None:
        """Discovery once more, where it names another place for the keys now; fetched at most every ten seconds."""
        if self._document.age < _REDISCOVERY or not await self._document.refetch():
            return None
        found = self._document.value
        return found if found and found.jwks != known.jwks else None

    async def _get_keys(self, found: Discovered) -> bytes:
        # The document may name the API server by an address that a pod cannot reach; its own key set is always here.
        place = f"{self._cluster.url}/openid/v1/jwks" if self._cluster else found.jwks
        return await self._get(metadata.check_url(place, "jwks", insecure_http=self.settings.insecure_http))

    async def _get(self, url: str) -> bytes:
        inside = self._cluster if self._cluster and url.startswith(f"{self._cluster.url}/") else None
        ca = self.settings.ca or (inside.ca if inside else None)
        async with fetch.session(ca) as http:  # a new one each time: it is rare, and authorities rotate
            return await fetch.document(http, url, inside.headers() if inside else None)


def _discovered(raw: bytes, issuer: str | None) -> Discovered:
    try:
        document = strictjson.load_object(raw)
    except ValueError as error:
        raise ProviderError(f"the discovery document is {error}") from None
    named, jwks = document.get("issuer"), document.get("jwks_uri")
    if not isinstance(named, str) or not named or named != (issuer or named):
        raise ProviderError(
            "the discovery document is of another issuer than the configured one, character by character"
        )
    if not isinstance(jwks, str) or not jwks:
        raise ProviderError("the discovery document names no jwks_uri")
    return Discovered(named, jwks)


def scopes_of(claims: Mapping[str, object], name: str | None) -> frozenset[str]:
    """The scopes: one text separated by spaces (RFC 8693 section 4.2), or a list; ``scope`` or ``scp`` unmapped."""
    value = find(claims, name or ("scope" if "scope" in claims else "scp"))
    return frozenset(lines(value.split(" ") if isinstance(value, str) else value))


def clusters_of(claims: Mapping[str, object], name: str | None) -> frozenset[str] | None:
    """The clusters; None without the claim, none at all when it cannot be understood."""
    value = _ABSENT if name is None else find(claims, name, _ABSENT)
    return None if value is _ABSENT else frozenset(lines(value))
