"""The certified peer does what the whole-path tests rely on: shown with a client of a few lines and no proxy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.peers.browser_client import Browser
from tests.peers.certified_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    PUBLIC_CLIENT_ID,
    CertifiedProvider,
    missing,
    password_of,
)
from tests.peers.upstream_app import UpstreamApp

VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
async def provider(upstream_app: UpstreamApp) -> AsyncIterator[CertifiedProvider]:
    """The peer, with the recording application as its relying party."""
    assert not missing(), missing()
    relying_party = f"http://app.test:{upstream_app.port}"
    async with CertifiedProvider(
        redirect_uris=[f"{relying_party}/callback"],
        post_logout_redirect_uris=[f"{relying_party}/bye"],
        backchannel_logout_uri=f"{relying_party}/status/200",
    ) as one:
        yield one


def authorization_url(provider: CertifiedProvider, app: UpstreamApp, client_id: str, **extra: str) -> str:
    """Where a sign-in starts."""
    query = {
        "client_id": client_id,
        "response_type": "code",
        "redirect_uri": f"http://app.test:{app.port}/callback",
        "scope": "openid profile email groups",
        "state": "s",
        "nonce": "n",
        **extra,
    }
    return f"{provider.issuer}/auth?{urlencode(query)}"


async def code_for(browser: Browser, url: str, username: str) -> str:
    """Sign in at the provider's form; the code that it sends back."""
    page = await browser.open(url)
    form = page.form("username", "password")
    landed = await browser.submit(page, form, username=username, password=password_of(username))
    return parse_qs(urlsplit(landed.url).query)["code"][0]


async def token_call(browser: Browser, provider: CertifiedProvider, **fields: str) -> dict[str, Any]:
    """One call of the token endpoint."""
    headers = {}
    if fields.get("client_id") != PUBLIC_CLIENT_ID:
        pair = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}"}
    page = await browser.request("POST", f"{provider.issuer}/token", data=fields, headers=headers)
    answer: dict[str, Any] = page.json
    return answer


async def redeem(browser: Browser, provider: CertifiedProvider, app: UpstreamApp, code: str, **extra: str) -> Any:
    """Tokens for a code."""
    return await token_call(
        browser,
        provider,
        grant_type="authorization_code",
        code=code,
        redirect_uri=f"http://app.test:{app.port}/callback",
        code_verifier=VERIFIER,
        **extra,
    )


def claims_of(id_token: str) -> dict[str, Any]:
    """The payload of a token, unverified."""
    middle = id_token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return claims


PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}


async def test_a_person_signs_in_and_tokens_rotate_strictly(
    provider: CertifiedProvider, upstream_app: UpstreamApp, browser: Browser
) -> None:
    """The ID token names the person and the groups; a refresh token that is used twice takes the grant with it."""
    code = await code_for(browser, authorization_url(provider, upstream_app, CLIENT_ID, **PKCE), "alice")
    tokens = await redeem(browser, provider, upstream_app, code)
    claims = claims_of(tokens["id_token"])
    assert claims["sub"] == claims["preferred_username"] == "alice"
    assert claims["groups"] == ["staff", "admins"]
    assert (claims["email"], claims["email_verified"]) == ("alice@example.test", True)

    first = tokens["refresh_token"]
    second = (await token_call(browser, provider, grant_type="refresh_token", refresh_token=first))["refresh_token"]
    assert second != first
    again = await token_call(browser, provider, grant_type="refresh_token", refresh_token=first)
    assert again["error"] == "invalid_grant"
    dead = await token_call(browser, provider, grant_type="refresh_token", refresh_token=second)
    assert dead["error"] == "invalid_grant"
    assert [call["status"] for call in await provider.refreshes()] == [200, 400, 400]


async def test_the_public_client_has_pkce_alone(
    provider: CertifiedProvider, upstream_app: UpstreamApp, browser: Browser
) -> None:
    """The public client redeems its code without a secret; nobody starts without PKCE."""
    url = authorization_url(provider, upstream_app, PUBLIC_CLIENT_ID, **PKCE)
    code = await code_for(browser, url, "bob")
    tokens = await redeem(browser, provider, upstream_app, code, client_id=PUBLIC_CLIENT_ID)
    assert claims_of(tokens["id_token"])["groups"] == ["guests"]

    without = await browser.open(authorization_url(provider, upstream_app, CLIENT_ID))
    assert parse_qs(urlsplit(without.url).query)["error"] == ["invalid_request"]


async def test_a_wrong_password_signs_nobody_in(
    provider: CertifiedProvider, upstream_app: UpstreamApp, browser: Browser
) -> None:
    """The form comes back with 401."""
    page = await browser.open(authorization_url(provider, upstream_app, CLIENT_ID, **PKCE))
    again = await browser.submit(page, page.form("username"), username="alice", password="wrong")
    assert again.status == 401
    assert again.form("username")


async def test_signing_out_at_the_provider_tells_the_client(
    provider: CertifiedProvider, upstream_app: UpstreamApp, browser: Browser
) -> None:
    """The end-session endpoint leads back, and the back channel carries a logout token."""
    code = await code_for(browser, authorization_url(provider, upstream_app, CLIENT_ID, **PKCE), "alice")
    tokens = await redeem(browser, provider, upstream_app, code)
    bye = f"http://app.test:{upstream_app.port}/bye"
    query = urlencode({"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": bye})
    page = await browser.open(f"{provider.issuer}/session/end?{query}")
    landed = await browser.submit(page, page.form("xsrf"), logout="yes")
    assert landed.url == bye
    assert len(upstream_app.to("/status/200")) == 1
    assert [entry["username"] for entry in await provider.log("backchannel")] == ["alice"]
