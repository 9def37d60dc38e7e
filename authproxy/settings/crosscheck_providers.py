"""Checks of the providers that people sign in with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from authproxy.settings import grammar, places
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import Provider
from authproxy.settings.scope import Scope

ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
_OURS: Final = (
    "client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "code_challenge",
    "code_challenge_method", "request", "request_uri",
)  # fmt: skip
_OWN_KEY: Final = {"scope": "scopes", "response_mode": "response_mode", "client_id": "client_id"}
_SCOPE: Final = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")
_IN_A_URL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check(scope: Scope) -> None:
    """Report what is wrong with each provider."""
    for name, provider in scope.settings.providers.items():
        path: KeyPath = ("providers", name)
        if not _IN_A_URL.fullmatch(name):
            scope.error(
                path, "must be a name of 1 to 64 letters, digits and . _ -, since it stands in the callback URL"
            )
        _addresses(scope, path, provider)
        _asking(scope, path, provider)
        algorithms(scope, path, provider.algorithms)
        claims(scope, path, provider.claims)
        if provider.password_login:
            message = "shows users a form that teaches them to give their password away; see RFC 9700 section 2.4"
            scope.warn((*path, "password_login"), message)


def _addresses(scope: Scope, path: KeyPath, provider: Provider) -> None:
    issuer(scope, (*path, "issuer"), provider.issuer, insecure=provider.insecure_http)
    for name in type(provider.endpoints).model_fields:
        text = getattr(provider.endpoints, name)
        if text is not None:
            endpoint(scope, (*path, "endpoints", name), text, insecure=provider.insecure_http)


def issuer(scope: Scope, path: KeyPath, text: str, *, insecure: bool) -> None:
    """Report what is wrong with an issuer (OpenID Connect Discovery 1.0 section 3: no query, no fragment)."""
    pieces = grammar.split(text)
    if pieces and (pieces.query or pieces.fragment):
        scope.error(path, "must be a URL without query or fragment")
    else:
        endpoint(scope, path, text, insecure=insecure)


def endpoint(scope: Scope, path: KeyPath, text: str, *, insecure: bool) -> None:
    """Report what is wrong with an address that tokens or keys come from."""
    fault = grammar.url(text)
    pieces = grammar.split(text)
    if not fault and pieces and pieces.scheme == "http" and not (insecure or grammar.is_loopback(pieces.host)):
        fault = "must be https; http is for loopback, or with insecure_http: true"
    scope.error(path, fault)


def _asking(scope: Scope, path: KeyPath, provider: Provider) -> None:
    """The authorization request: what it asks for, and what must not be replaced in it."""
    if "openid" not in provider.scopes:
        scope.error((*path, "scopes"), "must contain openid")
    for index, text in enumerate(provider.scopes):
        if not _SCOPE.fullmatch(text):  # RFC 6749 section 3.3
            scope.error((*path, "scopes", index), "must be one scope, without spaces and quotes")
    for name in provider.authorize:
        if name in _OURS:
            instead = f"; use {_OWN_KEY[name]}" if name in _OWN_KEY else ""
            scope.error((*path, "authorize", name), f"is set by authproxy for each sign-in; remove it{instead}")
    http = scope.settings.public_url.startswith("http:") and not scope.broken("public_url")
    if provider.response_mode == "form_post" and http:
        message = "form_post needs an https public_url: its state cookie must be SameSite=None and Secure"
        scope.error((*path, "response_mode"), message)


def algorithms(scope: Scope, path: KeyPath, names: list[str]) -> None:
    """Report algorithms with which anybody could sign (RFC 8725 section 3.1)."""
    if not names:
        scope.error((*path, "algorithms"), "must not be empty; leave it out for the usual ones")
    for index, name in enumerate(names):
        if name not in ASYMMETRIC:
            hint = places.near(name, list(ASYMMETRIC)) if not name.startswith("HS") else ""
            message = f"must be an asymmetric algorithm, one of {', '.join(ASYMMETRIC)}{hint}"
            scope.error((*path, "algorithms", index), message)


def claims(scope: Scope, path: KeyPath, names: Mapping[Any, str]) -> None:
    """Report claims without a name."""
    for key, name in names.items():
        if not name.strip():
            scope.error((*path, "claims", key), "must name a claim")
