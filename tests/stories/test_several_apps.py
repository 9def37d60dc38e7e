"""Several apps, several providers, one sign-in for a domain: who has to sign in where, and lands where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import free_port
from tests.peers.upstream_app import UpstreamApp

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


class Street:
    """Two providers, three apps and a proxy."""

    def __init__(self, company: OpenIDPeer, partners: OpenIDPeer, upstream: UpstreamApp, folder: Path) -> None:
        self.company, self.partners, self.upstream = company, partners, upstream
        self.port = free_port()
        self.folder = folder

    def at(self, name: str, target: str = "/") -> str:
        """An address on the host ``name.corp.test``."""
        return f"http://{name}.corp.test:{self.port}{target}"

    def settings(self, **session: Any) -> dict[str, Any]:
        """``wiki`` and ``chat`` belong to the company, ``shop`` to the partners, ``club`` to both."""
        upstream, routes = {"url": self.upstream.url}, [{"path": "/", "policy": "people"}]
        owners = {"wiki": "company", "chat": "company", "shop": "partners", "club": ["company", "partners"]}
        return {
            "listen": {"address": f"127.0.0.1:{self.port}", "admin": None},
            "public_url": self.at("auth").rstrip("/"),
            "session": {"keys": [{"value": KEY}], **session},
            "providers": {
                "company": self.company.settings(title="Company login"),
                "partners": self.partners.settings(title="Partner login"),
            },
            "policies": {"people": {"any": [{"authenticated": True}]}},
            "apps": {
                name: {"host": f"{name}.corp.test", "provider": owner, "upstream": upstream, "routes": routes}
                for name, owner in owners.items()
            },
            "audit": {"file": str(self.folder / "audit.jsonl")},
        }


@pytest.fixture
async def street(upstream_app: UpstreamApp, tmp_path: Path) -> AsyncIterator[Street]:
    """The street, without the proxy yet."""
    async with OpenIDPeer() as company, OpenIDPeer() as partners:
        yield Street(company, partners, upstream_app, tmp_path)


@pytest.fixture
async def opened(street: Street) -> AsyncIterator[Any]:
    """Opens the proxy with the given session settings."""
    async with AsyncExitStack() as stack:

        async def open_(**session: Any) -> Authproxy:
            settings = from_mapping(street.settings(**session), street.folder)
            return await stack.enter_async_context(Authproxy(settings))

        yield open_


async def test_one_sign_in_for_a_domain(street: Street, opened: Any, browser: Browser) -> None:
    """With a cookie domain people sign in at the public address, come back, and the next app knows them."""
    await opened(cookie={"domain": "corp.test"})
    page = await browser.open(street.at("wiki", "/deep//link?a=1&b=//x"))
    assert page.status == 200
    assert page.url == street.at("wiki", "/deep//link?a=1&b=//x")
    assert any(seen.url.startswith(street.at("auth", "/oauth2/callback/company")) for seen in browser.visited)
    visits = len(street.company.asked("authorize"))
    assert (await browser.open(street.at("chat"))).status == 200
    assert len(street.company.asked("authorize")) == visits


async def test_without_a_domain_each_app_signs_in_on_its_own_host(
    street: Street, opened: Any, browser: Browser
) -> None:
    """Host-only cookies: the callback is on the app's own host, and the next app asks the provider again."""
    await opened()
    await browser.open(street.at("wiki", "/here"))
    assert any(seen.url.startswith(street.at("wiki", "/oauth2/callback/company")) for seen in browser.visited)
    visits = len(street.company.asked("authorize"))
    assert (await browser.open(street.at("chat"))).status == 200
    assert len(street.company.asked("authorize")) == visits + 1


async def test_a_session_opens_only_the_apps_that_name_its_provider(
    street: Street, opened: Any, browser: Browser
) -> None:
    """A company session is no session for the partners' shop: its users sign in with their own provider."""
    await opened(cookie={"domain": "corp.test"})
    await browser.open(street.at("wiki"))
    refused = await browser.xhr(street.at("shop"))
    assert (refused.status, refused.headers["Authproxy-Refusal"]) == (401, "other_provider")
    assert (await browser.open(street.at("shop"))).status == 200
    assert len(street.partners.asked("authorize")) == 1
    assert (await browser.open(street.at("club"))).status == 200  # either provider's session opens it


async def test_people_choose_where_there_is_a_choice(street: Street, opened: Any, browser: Browser) -> None:
    """An app of two providers shows both; the chosen one brings the person to where they were going."""
    await opened()
    page = await browser.open(street.at("club", "/deep?x=1"))
    assert page.status == 200
    assert "Company login" in page.text
    assert "Partner login" in page.text
    links = [part.split('"')[0].replace("&amp;", "&") for part in page.text.split('href="')[1:]]
    (chosen,) = [link for link in links if "provider=partners" in link]
    landed = await browser.open(street.at("club", chosen))
    assert (landed.status, landed.url) == (200, street.at("club", "/deep?x=1"))
    assert len(street.company.asked("authorize")) == 0


async def test_the_public_address_offers_every_provider(street: Street, opened: Any, browser: Browser) -> None:
    """Whoever comes to the public address itself may choose among all."""
    await opened()
    page = await browser.navigate(street.at("auth", "/oauth2/sign_in"))
    assert "Company login" in page.text
    assert "Partner login" in page.text


@pytest.mark.parametrize("target", ["/oauth2/start?provider=partners", "/oauth2/start?provider=nobody"])
async def test_a_provider_that_does_not_open_the_app_is_not_begun(
    street: Street, opened: Any, browser: Browser, target: str
) -> None:
    """Nobody is sent to a provider whose session would open nothing there."""
    await opened()
    page = await browser.navigate(street.at("wiki", target))
    assert (page.status, page.headers["Authproxy-Refusal"]) == (400, "unknown_provider")


async def test_an_unknown_host_gets_no_sign_in(street: Street, opened: Any, browser: Browser) -> None:
    """A name that points here but is no app's is refused, with sign-in and without."""
    await opened()
    assert (await browser.navigate(street.at("nobody"))).status == 404
    assert (await browser.navigate(street.at("nobody", "/oauth2/sign_in"))).status == 403


async def test_a_strict_cookie_does_not_send_people_in_circles(street: Street, opened: Any, browser: Browser) -> None:
    """``SameSite=Strict`` cookies do not travel along a redirect that another site began: a page of ours goes on."""
    await opened(cookie={"same_site": "strict"})
    page = await browser.open(street.at("wiki", "/deep?x=1&y=2"))
    assert page.status == 200
    assert "/oauth2/callback/company" in page.url
    assert '<meta http-equiv="refresh" content="0; url=/deep?x=1&amp;y=2">' in page.text
    landed = await browser.open(street.at("wiki", "/deep?x=1&y=2"))
    assert landed.url == street.at("wiki", "/deep?x=1&y=2")
