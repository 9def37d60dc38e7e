"""What a provider advertises, compared with what the settings expect of it.

Pure: a discovery document (OpenID Connect Discovery 1.0 section 3) and settings in, sentences out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from authproxy.settings import schema

_METHODS: Final = ("client_secret_basic", "client_secret_post")
_DEX: Final = {
    "authorization_endpoint": "/auth",
    "token_endpoint": "/token",
    "jwks_uri": "/keys",
    "device_authorization_endpoint": "/device/code",
}
"""Endpoints of Dex below its issuer; no other known provider has all four."""
_DEX_SCOPES: Final = ("federated:id", "audience:server:client_id:")  # understood by Dex, and not advertised
_SHOWN: Final = 8  # names that a message repeats
_LONGEST: Final = 40  # characters of a name


class Findings(NamedTuple):
    """What does not fit: ``errors`` keep people from signing in, ``warnings`` may."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def compare(document: Mapping[str, object], settings: schema.Provider) -> Findings:
    """What the settings of a provider ask for and its discovery document does not offer."""
    method = _client_auth(document, settings)
    return Findings(
        errors=tuple(method if settings.client_secret else ()),
        warnings=(
            *(() if settings.client_secret else method),
            *_scopes(document, settings),
            *_refresh(document, settings),
        ),
    )


def is_dex(document: Mapping[str, object]) -> bool:
    """Whether the document is one of Dex, by its endpoints.  Newer versions advertise ``end_session_endpoint`` too."""
    issuer = str(document.get("issuer", "")).rstrip("/")
    return all(document.get(name) == issuer + path for name, path in _DEX.items())


def _client_auth(document: Mapping[str, object], settings: schema.Provider) -> list[str]:
    key = "token_endpoint_auth_methods_supported"
    offered = _names(document, key)
    ours = settings.client_auth if settings.client_secret else "none"
    if key not in document:
        offered = ["client_secret_basic"] if settings.client_secret else [ours]  # the default of section 3
    if ours in offered:
        return []
    if not settings.client_secret:
        return [f"the token endpoint takes {_listed(offered)}; a client without client_secret may be refused"]
    other = next((method for method in _METHODS if method in offered), None)
    remedy = f"write client_auth: {other}" if other else f"this version offers {' and '.join(_METHODS)} alone"
    return [f"the token endpoint does not take {ours}, but {_listed(offered)}: {remedy}"]


def _scopes(document: Mapping[str, object], settings: schema.Provider) -> Iterator[str]:
    if "scopes_supported" not in document:
        return
    offered = _names(document, "scopes_supported")
    dex = is_dex(document)
    for scope in dict.fromkeys(settings.scopes):
        if scope in offered or (dex and scope.startswith(_DEX_SCOPES)):
            continue
        effect = "it may refuse the sign-in"
        if scope == "offline_access":
            effect = "it may refuse the sign-in or give no refresh token, and sessions then end with the ID token"
        yield f"the provider does not advertise the scope {scope[:_LONGEST]}: {effect}; check scopes"


def _refresh(document: Mapping[str, object], settings: schema.Provider) -> Iterator[str]:
    renewing = "offline_access" in settings.scopes
    if renewing and settings.refresh_tokens != "per_user" and is_dex(document):
        yield (
            "this is Dex, which keeps one refresh token for each user, connector and client: a second device would end"
            " the session of the first; write refresh_tokens: per_user"
        )


def _names(document: Mapping[str, object], key: str) -> list[str]:
    value = document.get(key)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _listed(names: list[str]) -> str:
    shown = [name[:_LONGEST] for name in names[:_SHOWN] if name.isprintable()]
    return ", ".join(shown) + (", …" if len(names) > _SHOWN else "") if shown else "nothing"
