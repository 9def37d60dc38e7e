"""Who somebody would be: an identity from the settings and from claims that an operator assumes, without any proof.

For ``explain`` alone.  Nothing here may ever stand in the way of a request: what authenticators prove, this only says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from authproxy.model import Identity, Kind, SessionHandle
from authproxy.oidc.identity import identity_fields, lines
from authproxy.oidc.issuer import Issuer
from authproxy.settings.schema import Settings

Claims = Mapping[str, Any]


def assumed(settings: Settings, credential: str, claims: Claims) -> Identity:
    """The identity of ``credential``, which is written ``KIND:NAME``.

    ``session:ann@example.com`` is a person, ``bearer:ci`` the subject of a JWT, with ``claims`` read by the claim
    mapping of the provider or issuer; where there are several of these, ``session:dex/ann@example.com`` says which.
    ``token:NAME`` is an entry of ``tokens``; ``enrollment:NAME`` is one of ``enrollment.tokens``, whose clusters
    are patterns until a route says which; ``enrolled:NAME``, ``certificate:NAME`` and ``basic:NAME`` are named so.

    Raises ValueError, with a sentence for the operator, when the settings know no such credential.
    """
    named, _, name = credential.partition(":")
    kind = next((kind for kind in _KINDS if kind == named), None)
    if kind is None or not name:
        raise ValueError(f"{credential!r} is not KIND:NAME; KIND is one of {', '.join(_KINDS)}")
    return _KINDS[kind](settings, name, claims)


def _session(settings: Settings, name: str, claims: Claims) -> Identity:
    provider, person = _of_one("session", name, settings.providers)
    shape = settings.providers[provider]
    told = _person(person, claims)
    fields = identity_fields(told, {str(key): claim for key, claim in shape.claims.items()})
    handle = SessionHandle(id="assumed", provider=provider, ends_at=float("inf"))
    return Identity(
        kind="session", subject=str(told["sub"]), issuer=shape.issuer, session=handle, claims=told, **fields._asdict()
    )


def _bearer(settings: Settings, name: str, claims: Claims) -> Identity:
    named, subject = _of_one("bearer", name, settings.issuers)
    shape = settings.issuers[named]
    told = {"exp": 0, **_person(subject, claims), "iss": shape.issuer or ""}
    return Issuer(named, shape).identity(told)


def _of_one(kind: str, name: str, entries: Iterable[str]) -> tuple[str, str]:
    """Which provider or issuer, and whose name there."""
    known = list(entries)
    first, _, rest = name.partition("/")
    if first in known:
        return first, rest
    if len(known) == 1:
        return known[0], name
    if not known:
        raise ValueError(f"the settings know nobody who issues a {kind} credential")
    raise ValueError(f"say whose: {' or '.join(f'{kind}:{one}/{name}' for one in known)}")


def _person(name: str, claims: Claims) -> dict[str, Any]:
    """The claims, with what a name alone says: a subject, and an address when it looks like one."""
    address = {"email": name, "email_verified": True} if "@" in name and "email" not in claims else {}
    return {"sub": name or "somebody", **address, **claims}


def _token(settings: Settings, name: str, claims: Claims) -> Identity:
    _no_claims("token", claims)
    if name not in settings.tokens:
        raise ValueError(f"tokens has no entry {name}; it has {', '.join(settings.tokens) or 'none'}")
    shape = settings.tokens[name]
    clusters = None if shape.clusters is None else frozenset(shape.clusters)
    return Identity(kind="token", subject=name, user=name, scopes=frozenset(shape.scopes), clusters=clusters)


def _enrolled(settings: Settings, name: str, claims: Claims) -> Identity:
    if settings.enrollment is None:
        raise ValueError("the settings have no section enrollment")
    _only("enrolled", claims, "cluster")
    scopes = frozenset(settings.enrollment.credential.scopes)
    cluster = claims.get("cluster", name)
    clusters = None if cluster is None else frozenset(lines(cluster))
    return Identity(kind="enrolled", subject=name, user=name, scopes=scopes, clusters=clusters)


def _enrollment(settings: Settings, name: str, claims: Claims) -> Identity:
    _no_claims("enrollment", claims)
    tokens = settings.enrollment.tokens if settings.enrollment else {}
    if name not in tokens:
        raise ValueError(f"enrollment.tokens has no entry {name}; it has {', '.join(tokens) or 'none'}")
    return Identity(kind="enrollment", subject=name, user=name, clusters=frozenset(tokens[name].clusters) or None)


def _certificate(settings: Settings, name: str, claims: Claims) -> Identity:
    shape = settings.certificates
    if shape is None:
        raise ValueError("the settings have no section certificates")
    _only("certificate", claims, "cn", "o", "dns_san", "uri_san")
    fields = {shape.subject: (name,)} | {key: lines(value) for key, value in claims.items()}
    return Identity(
        kind="certificate", subject=name, user=name, scopes=frozenset(shape.scopes),
        groups=fields.get(shape.groups, ()) if shape.groups else (),
        clusters=frozenset(fields.get(shape.clusters, ())) if shape.clusters else None,
    )  # fmt: skip


def _basic(settings: Settings, name: str, claims: Claims) -> Identity:
    if settings.basic is None:
        raise ValueError("the settings have no section basic")
    _only("basic", claims, "groups")
    return Identity(kind="basic", subject=name, user=name, groups=lines(claims.get("groups")))


def _only(kind: str, claims: Claims, *known: str) -> None:
    for name in claims:
        if name not in known:
            raise ValueError(f"--claims: {name} says nothing about {kind}, which takes {', '.join(known)}")


def _no_claims(kind: str, claims: Claims) -> None:
    if claims:
        raise ValueError(f"--claims: {kind} takes none; what it may do stands in the settings")


_KINDS: Final[Mapping[Kind, Callable[[Settings, str, Claims], Identity]]] = {
    "session": _session,
    "bearer": _bearer,
    "token": _token,
    "enrolled": _enrolled,
    "enrollment": _enrollment,
    "certificate": _certificate,
    "basic": _basic,
}
