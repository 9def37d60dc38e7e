"""Enrollment tokens: shared ones that the settings name, and minted ones that work once.

Knows which machine a token may enroll, by name and cluster; not what the machine is given then.  Of shared tokens only
digests are kept.  Cluster patterns compare byte for byte with the whole name; ``*`` stands for any characters, dots
among them, and no other character is special.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from authproxy.enrollment.stamped import Stamp
from authproxy.errors import BadRequest, Forbidden, NotAuthenticated, StoreUnavailable, Unavailable
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import EnrollmentToken
from authproxy.settings.secret_sources import weakness
from authproxy.store import keys
from authproxy.store.base import Store

PREFIX: Final = "ape_"
LONGEST: Final = 30 * 86400.0
"""Seconds that a minted token may wait for its use."""
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@-]{0,126}[A-Za-z0-9])?", re.ASCII)
_CLUSTER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
_LONGEST_SECRET: Final = 8192  # characters


class _Shared(NamedTuple):
    name: str
    where: str  # the settings entry
    digest: Fresh[bytes]
    clusters: tuple[re.Pattern[str], ...]


class Owner(NamedTuple):
    """Whose shared token it is, and the clusters that it opens here: None for a token that is bound to none."""

    name: str
    clusters: frozenset[str] | None


class Minted(NamedTuple):
    """A single-use token for whoever asked for it; its id is no secret, its text is."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"<Minted {self.id}>"


class _Bound(NamedTuple):
    id: str
    name: str
    cluster: str | None
    expires: float


class EnrollmentTokens:
    """``keys`` gives the keys that stamp minted tokens; ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        tokens: Mapping[str, EnrollmentToken],
        *,
        store: Store,
        stamping: Callable[[], tuple[bytes, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._stamp: Final = Stamp(PREFIX, stamping)
        self._shared: Final = tuple(
            _Shared(name, f"enrollment.tokens.{name}.secrets[{at}]", Fresh(secret, _digest), patterns(shape.clusters))
            for name, shape in tokens.items()
            for at, secret in enumerate(shape.secrets)
        )

    def problems(self) -> list[str]:
        """Which secret cannot be used, by its place in the settings, and why; empty when all can."""
        found = []
        for entry in self._shared:
            try:
                entry.digest()
            except (LookupError, ValueError) as error:
                found.append(f"{entry.where}: {error.args[0]}")
        return found

    def knows(self, presented: str) -> bool:
        """Whether it is an enrollment token, or looks like one: such a thing must open nothing else."""
        return self._stamp.bears(presented) or bool(self._owners(presented))

    async def admit(self, presented: str, name: str, cluster: str | None) -> str:
        """The name of the token that lets this machine enroll; a minted token is used up by it.

        Raises BadRequest ``name_invalid`` or ``cluster_invalid``, NotAuthenticated ``enrollment_refused``, Forbidden
        ``cluster_refused`` or ``name_refused``, and Unavailable when the store cannot say whether a minted token was
        used: then it may be used up.
        """
        check_names(name, cluster)
        if self._stamp.bears(presented):
            return await self._use(presented, name, cluster)
        owners = self._owners(presented)
        if not owners:
            raise _refused("unknown enrollment token")
        for entry in owners:
            if _allows(entry, cluster):
                return entry.name
        raise Forbidden("cluster_refused", "This enrollment token may not enroll a machine of this cluster.",
                        reason=f"{owners[0].where}: its clusters do not allow it")  # fmt: skip

    def owner(self, presented: str, cluster: str | None) -> Owner:
        """Whose shared token it is, on a route of an app that captures ``cluster`` (None: it captures none).

        Of several owners of one secret one with patterns counts, so that a second name never widens the first.
        Raises NotAuthenticated ``enrollment_refused``, or ``enrollment_token_refused`` for a minted token: to use it
        up here would say nothing about who registers.
        """
        if self._stamp.bears(presented):
            raise NotAuthenticated(
                "enrollment_token_refused", "A single-use token opens nothing here; enroll with it.",
                reason="minted token on a route of an app", token_error="invalid_token",  # noqa: S106 -- a code
            )  # fmt: skip
        owners = self._owners(presented)
        if not owners:
            raise _refused("unknown enrollment token")
        bound = [entry for entry in owners if entry.clusters]
        fitting = [entry for entry in bound if bound_to(entry.clusters, cluster)]
        entry = (fitting or bound or owners)[0]
        return Owner(entry.name, bound_to(entry.clusters, cluster))

    def _owners(self, presented: str) -> list[_Shared]:
        """Every entry is compared, whichever fits: the time tells nothing."""
        if not presented.isascii() or len(presented) > _LONGEST_SECRET:
            return []
        digest = hashlib.sha256(presented.encode("ascii")).digest()
        return [entry for entry in self._shared if hmac.compare_digest(_known(entry), digest)]

    async def _use(self, presented: str, name: str, cluster: str | None) -> str:
        minted = self._read(presented)
        if minted is None or minted.expires <= self._clock():
            raise _refused("minted token: not ours, or expired")
        if name != minted.name:
            raise Forbidden("name_refused", "This enrollment token is for another machine.")
        if cluster != minted.cluster:
            raise Forbidden("cluster_refused", "This enrollment token may not enroll a machine of this cluster.")
        try:
            unused = await self._store.take(minted_key(minted.id))
        except StoreUnavailable:
            raise Unavailable("enrollment_unavailable", "Machines cannot enroll right now.") from None
        if unused is None:  # whoever took it first has it; a store that was emptied refuses as well
            raise _refused("minted token: used, withdrawn, or forgotten by the store")
        return f"minted {minted.id}"

    def _read(self, presented: str) -> _Bound | None:
        values = self._stamp.read(presented)
        return _Bound(*values) if values else None  # type: ignore[arg-type] # only ``mint`` made it

    async def mint(self, name: str, cluster: str | None, *, expires_in: float = 3600.0) -> Minted:
        """A token that enrolls ``name`` into ``cluster`` once, within ``expires_in`` seconds.

        Raises BadRequest when a name is not fit or the time is too long, StoreUnavailable when it cannot be kept.
        """
        check_names(name, cluster)
        if not 0 < expires_in <= LONGEST:
            raise BadRequest("expiry_invalid", "A minted token waits between a moment and 30 days.")
        bound = _Bound(secrets.token_hex(8), name, cluster, self._clock() + expires_in)
        text = self._stamp.make(list(bound))
        await self._store.put(minted_key(bound.id), json.dumps(list(bound)).encode(), ttl=expires_in)
        return Minted(bound.id, text)

    async def withdraw(self, token_id: str) -> bool:
        """Make a minted token useless; whether it was still unused."""
        return await self._store.delete(minted_key(token_id)) > 0

    def __repr__(self) -> str:
        return f"<EnrollmentTokens {len(self._shared)} shared>"


def check_names(name: str, cluster: str | None) -> None:
    """Raises BadRequest for what is no name of a machine or a cluster."""
    if not _NAME.fullmatch(name):
        raise BadRequest("name_invalid", "The name must be 1 to 128 letters, digits and . _ : @ - inside.")
    if cluster is not None and not _CLUSTER.fullmatch(cluster):
        raise BadRequest("cluster_invalid", "The cluster must be 1 to 253 letters, digits and . _ - inside.")


def _allows(entry: _Shared, cluster: str | None) -> bool:
    """A token with patterns enrolls their clusters alone, one without enrolls machines without a cluster alone."""
    if cluster is None:
        return not entry.clusters
    return any(pattern.fullmatch(cluster) for pattern in entry.clusters)


def bound_to(clusters: tuple[re.Pattern[str], ...], cluster: str | None) -> frozenset[str] | None:
    """The clusters of a token with these patterns, where a route captures ``cluster``: that one, if it is allowed.

    None without patterns: such a token is bound to no cluster.
    """
    if not clusters:
        return None
    allowed = cluster is not None and _CLUSTER.fullmatch(cluster) and any(one.fullmatch(cluster) for one in clusters)
    return frozenset({cluster}) if cluster is not None and allowed else frozenset()


def patterns(clusters: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(".*".join(map(re.escape, pattern.split("*")))) for pattern in clusters)


def _digest(text: str) -> bytes:
    if fault := weakness(text):
        raise ValueError(fault)
    return hashlib.sha256(text.encode()).digest()


def _known(entry: _Shared) -> bytes:
    try:
        return entry.digest()
    except (LookupError, ValueError):
        return b""  # ``problems`` says it


def minted_key(token_id: str) -> str:
    """Where a minted token is kept while it is unused: what it is for, never its text."""
    return keys.minted_token(hashlib.sha256(token_id.encode()).hexdigest())


def _refused(reason: str) -> NotAuthenticated:
    # One answer for every bad token: which rule it broke is nobody's business but the operator's.
    return NotAuthenticated(
        "enrollment_refused", "This enrollment token is not valid.", reason=reason, token_error="invalid_token"  # noqa: S106 -- a code
    )  # fmt: skip
