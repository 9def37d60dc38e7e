"""A client of a provider without a proxy: it signs people in at the provider's pages and shows each raw answer."""

from __future__ import annotations

import base64
import json
import secrets
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp

from tests.peers.browser_client import Browser, Page
from tests.peers.dex import CLIENT_ID, CLIENT_SECRET, PASSWORD, login_of
from tests.peers.openid_pages import challenge_of
from tests.peers.program import PATIENCE

REDIRECT_URI: Final = "http://127.0.0.1:9/callback"
"""Nothing listens there: the redirect is read and not followed."""

SCOPES: Final = "openid profile email groups offline_access federated:id"


class TokenAnswer(NamedTuple):
    """One answer of the token endpoint."""

    status: int
    body: dict[str, Any]

    @property
    def refresh_token(self) -> str:
        """The refresh token, or an empty text."""
        return str(self.body.get("refresh_token", ""))

    @property
    def claims(self) -> dict[str, Any]:
        """The payload of the ID token; its signature is not checked here."""
        payload = self.body["id_token"].split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims

    @property
    def error(self) -> tuple[int, str]:
        """The status and the OAuth error code."""
        return self.status, str(self.body.get("error", ""))


async def fill_in(browser: Browser, page: Page, username: str, password: str = PASSWORD) -> Page:
    """Submit the sign-in form of Dex when ``page`` shows it; redirects are not followed beyond the last form."""
    form = page.form("login", "password")
    target = form.action or page.url
    fields = {**form.fields, "login": login_of(username), "password": password}
    return await browser.navigate(_joined(page, target), method="POST", data=fields)


def _joined(page: Page, target: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(page.url)) + target if target.startswith("/") else target


class RelyingParty:
    """A confidential client; an async context manager."""

    def __init__(self, issuer: str, *, client_id: str = CLIENT_ID, client_secret: str = CLIENT_SECRET) -> None:
        self.issuer, self.client_id, self.client_secret = issuer, client_id, client_secret

    def __repr__(self) -> str:
        return f"<RelyingParty {self.client_id} of {self.issuer}>"

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        self.discovery: dict[str, Any] = await (await self._http.get(self._well_known)).json()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    @property
    def _well_known(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"

    async def code(
        self, browser: Browser, username: str = "alice", *, connector: str = "", password: str = PASSWORD
    ) -> tuple[str, str]:
        """Sign in at the provider's pages; the code and the verifier, not yet redeemed."""
        verifier = secrets.token_urlsafe(48)
        asked = {
            "response_type": "code", "client_id": self.client_id, "redirect_uri": REDIRECT_URI, "scope": SCOPES,
            "state": "s", "nonce": secrets.token_urlsafe(8), "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        } | ({"connector_id": connector} if connector else {})  # fmt: skip
        page = await browser.navigate(f"{self.discovery['authorization_endpoint']}?{urlencode(asked)}")
        page = await self._until_back(browser, page)
        if page.location is None:
            page = await self._until_back(browser, await fill_in(browser, page, username, password))
        if page.location is None:
            raise PermissionError(f"{page.status} on {page.url}")
        return dict(parse_qsl(urlsplit(page.location).query))["code"], verifier

    @staticmethod
    async def _until_back(browser: Browser, page: Page) -> Page:
        while page.location is not None and not page.location.startswith(REDIRECT_URI):
            page = await browser.follow(page)
        return page

    async def redeem(self, code: str, verifier: str) -> TokenAnswer:
        """Exchange a code."""
        form = {"code": code, "code_verifier": verifier, "redirect_uri": REDIRECT_URI}
        return await self.token("authorization_code", **form)

    async def sign_in(self, browser: Browser, username: str = "alice", *, connector: str = "") -> TokenAnswer:
        """Sign in and redeem the code."""
        answer = await self.redeem(*await self.code(browser, username, connector=connector))
        assert answer.status == 200, answer
        return answer

    async def refresh(self, refresh_token: str) -> TokenAnswer:
        """Send a refresh token."""
        return await self.token("refresh_token", refresh_token=refresh_token)

    async def token(self, grant_type: str, **form: str) -> TokenAnswer:
        """One request to the token endpoint."""
        form |= {"grant_type": grant_type, "client_id": self.client_id, "client_secret": self.client_secret}
        async with self._http.post(self.discovery["token_endpoint"], data=form) as answer:
            return TokenAnswer(answer.status, await answer.json(content_type=None))
