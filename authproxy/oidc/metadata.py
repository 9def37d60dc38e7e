"""What a provider says about itself (OpenID Connect Discovery 1.0), judged before anything is sent there.

Pure: bytes and settings in, ``Metadata`` out.  This module fetches nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from authproxy.errors import ProviderError
from authproxy.jose import strictjson
from authproxy.settings.schema import Endpoints, Provider

_NAMES: Final[dict[str, str]] = {  # ours (as in Metadata and the settings): the document's
    "authorization": "authorization_endpoint",
    "token": "token_endpoint",
    "jwks": "jwks_uri",
    "userinfo": "userinfo_endpoint",
    "end_session": "end_session_endpoint",
    "revocation": "revocation_endpoint",
    "device_authorization": "device_authorization_endpoint",
}
_NEEDED: Final = ("authorization", "token", "jwks")
_URL: Final = re.compile(r"[!-~]{1,2048}")


class Metadata(NamedTuple):
    """Where a provider is asked what, and how its answers can be told from another's.  "" stands for "not offered"."""

    issuer: str
    authorization: str
    token: str
    jwks: str
    userinfo: str = ""
    end_session: str = ""
    revocation: str = ""
    device_authorization: str = ""
    issuer_parameter: bool = False  # RFC 9207 section 3: the callback will carry iss
    backchannel_logout: bool = False
    backchannel_logout_session: bool = False  # its logout tokens carry sid


def discovery_url(issuer: str, endpoints: Endpoints) -> str:
    """Where the document is: OpenID Connect Discovery section 4.1, or the configured place."""
    return endpoints.discovery or issuer.rstrip("/") + "/.well-known/openid-configuration"


def parse(raw: bytes, *, issuer: str, endpoints: Endpoints, insecure_http: bool) -> Metadata:
    """The judged document, with the configured endpoints in place of the discovered ones.

    Raises ``ProviderError`` when it is no such document, when its ``issuer`` is not exactly ours (section 4.3; a
    trailing slash or another case makes another issuer), or when an endpoint is not a place to send secrets to.
    """
    try:
        document = strictjson.load_object(raw)
    except ValueError as error:
        raise ProviderError(f"the discovery document is {error}") from None
    if document.get("issuer") != issuer:
        raise ProviderError(
            "the discovery document is of another issuer than the configured one, character by character"
        )
    found = {ours: _text(document, theirs) for ours, theirs in _NAMES.items()}
    return _built(issuer, _judged(found | configured(endpoints), insecure_http))._replace(
        issuer_parameter=document.get("authorization_response_iss_parameter_supported") is True,
        backchannel_logout=document.get("backchannel_logout_supported") is True,
        backchannel_logout_session=document.get("backchannel_logout_session_supported") is True,
    )


def without_discovery(*, issuer: str, endpoints: Endpoints, insecure_http: bool) -> Metadata | None:
    """What the settings alone say; None when they leave out an endpoint that no sign-in can do without."""
    named = configured(endpoints)
    if not all(named.get(name) for name in _NEEDED):
        return None
    return _built(issuer, _judged(named, insecure_http))


def configured_alone(settings: Provider) -> Metadata | None:
    """As ``without_discovery``; None as well where a configured endpoint cannot be used: discovery says so."""
    try:
        return without_discovery(
            issuer=settings.issuer, endpoints=settings.endpoints, insecure_http=settings.insecure_http
        )
    except ProviderError:
        return None


def configured(endpoints: Endpoints) -> dict[str, str]:
    """The endpoints that the operator named."""
    return {name: value for name, value in endpoints.model_dump(exclude={"discovery"}).items() if value}


def check_url(url: str, name: str, *, insecure_http: bool) -> str:
    """``url``, when secrets may be sent there: https, or http where it was allowed or never leaves the machine."""
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        host = parts.hostname if parts else None
        _ = parts.port if parts else None  # raises for a port that is none
    except ValueError:
        parts = host = None
    if parts is None or not host or parts.fragment or "@" in parts.netloc or "\\" in url:
        raise ProviderError(f"the {name} endpoint is not a plain absolute URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and (insecure_http or is_loopback(host))):
        raise ProviderError(f"the {name} endpoint is not https (insecure_http: true would allow it)")
    return url


def is_authenticated(url: str) -> bool:
    """Whether the answers of a judged ``url`` are its own: over TLS, or from this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its own spelling; no name is looked up (RFC 6761 section 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _built(issuer: str, found: Mapping[str, str]) -> Metadata:
    return Metadata(
        issuer,
        authorization=found["authorization"],
        token=found["token"],
        jwks=found["jwks"],
        userinfo=found.get("userinfo", ""),
        end_session=found.get("end_session", ""),
        revocation=found.get("revocation", ""),
        device_authorization=found.get("device_authorization", ""),
    )


def _text(document: Mapping[str, object], name: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str):
        raise ProviderError(f"the discovery document's {name} is not text")
    return value


def _judged(found: Mapping[str, str], insecure_http: bool) -> dict[str, str]:
    missing = [name for name in _NEEDED if not found.get(name)]
    if missing:
        raise ProviderError(f"the discovery document names no {' and no '.join(missing)} endpoint")
    return {name: check_url(url, name, insecure_http=insecure_http) for name, url in found.items() if url}
