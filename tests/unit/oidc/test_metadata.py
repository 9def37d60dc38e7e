"""What a provider says about itself is believed only where it is exact and safe (A17 to A19, B25)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authproxy.errors import ProviderError
from authproxy.oidc import metadata
from authproxy.settings.schema import Endpoints

ISSUER = "https://issuer.example/realm"
DOCUMENT: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://issuer.example/auth?realm=1",
    "token_endpoint": "https://tokens.example:8443/token",
    "jwks_uri": "https://keys.example/jwks",
    "userinfo_endpoint": "https://issuer.example/userinfo",
    "end_session_endpoint": "https://issuer.example/logout",
    "authorization_response_iss_parameter_supported": True,
    "something_unknown": {"a": [1]},
}


def read(document: Any, *, insecure_http: bool = False, **endpoints: str) -> metadata.Metadata:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return metadata.parse(
        raw, issuer=ISSUER, endpoints=Endpoints.model_validate(endpoints), insecure_http=insecure_http
    )


def test_the_document_is_read() -> None:
    """A17, A18: endpoints come from the document, on whatever host they are; what is unknown is ignored."""
    found = read(DOCUMENT)
    assert found.token == "https://tokens.example:8443/token"
    assert found.jwks == "https://keys.example/jwks"
    assert found.revocation == ""
    assert found.issuer_parameter


@pytest.mark.parametrize("issuer", [ISSUER + "/", ISSUER.upper(), "https://issuer.example", "", None, [ISSUER]])
def test_another_issuer_is_refused(issuer: object) -> None:
    """A19, B25: compared character by character, without mercy for slashes and case."""
    with pytest.raises(ProviderError, match="another issuer"):
        read(DOCUMENT | {"issuer": issuer})


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/x",
        "ftp://issuer.example/x",
        "file:///etc/passwd",
        "/relative",
        "//issuer.example/x",
        "https://",
        "https://user:secret@issuer.example/x",
        "https://issuer.example/x#fragment",
        "https://issuer.example/a b",
        "https://issuer.example\\@evil.example/",
        "https://issuer.example:99999/x",
        "https://[::1/x",
        "https://issuer.example/" + "a" * 3000,
        "javascript:alert(1)",
        7,
    ],
)
def test_an_endpoint_that_is_no_place_for_secrets_is_refused(name: str, url: object) -> None:
    """B25: nothing but https, without tricks in the URL."""
    with pytest.raises(ProviderError):
        read(DOCUMENT | {name: url})


def test_plain_http_needs_loopback_or_permission() -> None:
    """http is for this machine, or for an operator who said so."""
    for host in ("localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:1", "peer.localhost"):
        assert read(DOCUMENT | {"token_endpoint": f"http://{host}/token"}).token
    for host in ("localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0"):
        with pytest.raises(ProviderError, match="https"):
            read(DOCUMENT | {"token_endpoint": f"http://{host}/token"})
    assert read(DOCUMENT | {"token_endpoint": "http://dex:5556/token"}, insecure_http=True).token


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"issuer": NaN}',
        b'{"issuer": "' + ISSUER.encode() + b'", "issuer": "' + ISSUER.encode() + b'"}',
        b'{"a":' * 50_000,
        json.dumps(DOCUMENT | {"jwks_uri": None}).encode(),
        json.dumps({name: text for name, text in DOCUMENT.items() if name != "token_endpoint"}).encode(),
    ],
)
def test_nonsense_is_refused(raw: bytes) -> None:
    """B25: duplicate members, NaN, depth and missing endpoints make no document."""
    with pytest.raises(ProviderError):
        read(raw)


def test_configured_endpoints_replace_discovered_ones() -> None:
    """Split horizon: the operator's address wins, and is held to the same rule."""
    found = read(DOCUMENT, token="https://dex.dex.svc/token", revocation="https://dex.dex.svc/revoke")
    assert (found.token, found.revocation) == ("https://dex.dex.svc/token", "https://dex.dex.svc/revoke")
    assert found.jwks == "https://keys.example/jwks"
    with pytest.raises(ProviderError, match="token endpoint is not https"):
        read(DOCUMENT, token="http://dex.dex.svc/token")
    replaced = read(DOCUMENT | {"token_endpoint": "http://inside/token"}, token="https://dex.dex.svc/token")
    assert replaced.token == "https://dex.dex.svc/token"


def test_settings_alone_may_suffice() -> None:
    """With the three endpoints of a sign-in configured, discovery is not needed; with two it is."""
    named = {"authorization": "https://a.example/auth", "token": "https://a.example/t", "jwks": "https://a.example/k"}

    def without(**endpoints: str) -> metadata.Metadata | None:
        return metadata.without_discovery(
            issuer=ISSUER, endpoints=Endpoints.model_validate(endpoints), insecure_http=False
        )

    found = without(**named)
    assert found is not None
    assert (found.issuer, found.jwks) == (ISSUER, "https://a.example/k")
    assert without(token=named["token"], jwks=named["jwks"]) is None


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://a.example", "https://a.example/.well-known/openid-configuration"),
        ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
        ("https://a.example/dex", "https://a.example/dex/.well-known/openid-configuration"),
    ],
)
def test_where_the_document_is(issuer: str, url: str) -> None:
    """OpenID Connect Discovery section 4.1, or where the settings say."""
    assert metadata.discovery_url(issuer, Endpoints()) == url
    assert metadata.discovery_url(issuer, Endpoints(discovery="https://b.example/d")) == "https://b.example/d"
