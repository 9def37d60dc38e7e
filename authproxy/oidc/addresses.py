"""The addresses at the provider that a browser is sent to.

Pure: an endpoint, settings and values in, a URL out.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from authproxy.settings import schema


def authorization(
    place: str,
    settings: schema.Provider,
    *,
    redirect_uri: str,
    state: str,
    nonce: str,
    code_challenge: str,
    extra: Mapping[str, str],
) -> str:
    """Where a sign-in begins (OpenID Connect Core section 3.1.2.1).

    Code flow with PKCE S256 whatever the metadata says, so that nothing can talk it down (RFC 9700 section 2.1.1).
    ``extra`` overrides the settings' ``authorize``; neither can touch what protects the flow.
    """
    protecting = {
        "response_type": "code",
        "client_id": settings.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "nonce": nonce,
        "code_challenge": code_challenge,
        "code_challenge_method": "S256",
    }
    if settings.response_mode == "form_post":
        protecting["response_mode"] = "form_post"
    return _with_query(place, _wishes(settings) | settings.authorize | dict(extra) | protecting)


def end_session(
    place: str, settings: schema.Provider, *, id_token_hint: str, post_logout_redirect_uri: str, state: str
) -> str:
    """Where the provider ends its own session (OpenID Connect RP-Initiated Logout 1.0 section 2); "" is left out."""
    query = {
        "id_token_hint": id_token_hint,
        "post_logout_redirect_uri": post_logout_redirect_uri,
        "state": state,
        "client_id": settings.client_id,
    }
    return _with_query(place, {name: value for name, value in query.items() if value})


def scope(settings: schema.Provider) -> str:
    """The scopes to ask for; without ``openid`` it would not be OpenID Connect (Core section 3.1.2.1)."""
    return " ".join(dict.fromkeys(["openid", *settings.scopes]))


def _wishes(settings: schema.Provider) -> dict[str, str]:
    wishes = {"scope": scope(settings)}
    if settings.max_age is not None:
        wishes["max_age"] = str(int(settings.max_age))
    if settings.acr_values:
        wishes["acr_values"] = " ".join(settings.acr_values)
    return wishes


def _with_query(place: str, query: Mapping[str, str]) -> str:
    # RFC 6749 section 3.1: a query that the endpoint has of its own is kept.
    return f"{place}{'&' if urlsplit(place).query else '?'}{urlencode(query, quote_via=quote)}"
