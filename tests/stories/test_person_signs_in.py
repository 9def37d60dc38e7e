"""A person and a browser: from a deep link to the provider, back, through a day of work, and out again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import Page, Response

from tests.peers.program import PATIENCE
from tests.stories.conftest import Building, Street, fill_in

DEEP = "/reports//2026?a=1&b=%2F%2Fx&c=//y"
SPEAK = """url => new Promise((resolve, reject) => {
  window.line = new WebSocket(url);
  window.cut = new Promise(done => window.line.addEventListener("close", () => done("cut")));
  window.line.onopen = () => window.line.send("hello");
  window.line.onmessage = event => resolve(event.data);
  window.line.onerror = () => reject(new Error("no WebSocket"));
})"""


async def sign_in(street: Street, tab: Page, target: str = "/", username: str = "alice") -> None:
    """From ``target``, through the provider, to ``target``."""
    await tab.goto(street.at(target))
    assert tab.url.startswith(street.provider.issuer), tab.url
    await fill_in(tab, username)
    assert tab.url == street.at(target)


async def click(street: Street, tab: Page, target: str) -> Response:
    """The next page: its answer, which must come from the application at once.

    Not by way of the provider: its own session would sign the person in again, and nobody would see that we had not.
    """
    response = await tab.goto(street.at(target))
    assert response is not None
    assert response.request.redirected_from is None, street.proxy.program.transcript()
    assert (response.status, tab.url) == (200, street.at(target)), street.proxy.program.transcript()
    return response


def token_claims(street: Street, target: str) -> dict[str, Any]:
    """The payload of the ID token that the newest request for ``target`` brought to the application."""
    header = street.app.to(target)[-1].get("Authorization") or ""
    scheme, _, token = header.partition(" ")
    parts = token.split(".")
    assert (scheme, len(parts)) == ("Bearer", 3)
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return claims


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what other processes do; there is no event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.2)


async def test_a_deep_link_survives_the_sign_in(build: Building, tab: Page) -> None:
    """The very link that was opened is reached after signing in, byte for byte, with the person's ID token."""
    street = await build()
    await sign_in(street, tab, DEEP)
    seen = street.app.to(DEEP)
    assert len(seen) == 1
    assert token_claims(street, DEEP)["sub"] == "alice"
    assert seen[0].get("X-Forwarded-Email") == "alice@example.test"
    assert "authproxy" not in (seen[0].get("Cookie") or "")
    assert [call["grant_type"] for call in await street.provider.log("token")] == ["authorization_code"]


async def test_a_websocket_is_open_until_sign_out(build: Building, tab: Page) -> None:
    """A WebSocket echoes for a signed-in person; signing out in another tab cuts it, and leads to the provider."""
    street = await build()
    await sign_in(street, tab)
    assert await tab.evaluate(SPEAK, f"ws://{street.at('/ws').removeprefix('http://')}") == "hello"

    other = await tab.context.new_page()
    await other.goto(street.at("/oauth2/sign_out"))
    await other.click("form[action$='/sign_out'] button[type=submit]")
    await other.click("button[name=logout]")  # the provider asks once more
    await other.wait_for_url("**/oauth2/signed_out*")
    async with asyncio.timeout(PATIENCE):
        assert await tab.evaluate("window.cut") == "cut"

    await tab.goto(street.at("/next"))
    assert tab.url.startswith(street.provider.issuer)
    assert await tab.locator("input[name=password]").count() == 1
    assert street.app.to("/next") == []
    assert len(await street.provider.log("revocation")) >= 1


async def test_tokens_are_renewed_while_a_person_works(build: Building, tab: Page) -> None:
    """Tokens that live for seconds are renewed on the way; the person sees neither the provider nor an error."""
    street = await build(id_token_ttl=6, access_token_ttl=6)
    await sign_in(street, tab, "/first")
    first = token_claims(street, "/first")["exp"]

    async def a_newer_token() -> bool:
        await click(street, tab, "/again")
        return bool(token_claims(street, "/again")["exp"] > first + 6)

    await until(a_newer_token)
    refreshes = await street.provider.refreshes()
    assert len(refreshes) >= 2
    assert {call["status"] for call in refreshes} == {200}


async def test_an_emptied_redis_signs_nobody_out(build: Building, tab: Page) -> None:
    """After FLUSHALL the next click works; so does the one after the proxy has lost its memory as well."""
    street = await build()
    await sign_in(street, tab)
    street.redis.flush()
    await click(street, tab, "/after-flush")
    await street.proxy.kill()
    street.redis.flush()
    await street.proxy.start()
    await click(street, tab, "/with-nothing-but-the-cookie")
    assert len(await street.provider.refreshes()) == 1
    assert {call["status"] for call in await street.provider.log("token")} == {200}


async def test_a_stopped_redis_stops_nobody(build: Building, tab: Page) -> None:
    """With Redis gone the next click works, and the ones after its return do, too."""
    street = await build()
    await sign_in(street, tab)
    street.redis.stop()
    await click(street, tab, "/without-redis")
    street.redis.start()
    await click(street, tab, "/with-redis-again")


async def test_the_provider_ends_the_session(build: Building, tab: Page) -> None:
    """Signing out at the provider itself reaches the proxy by the back channel: the next click is not served."""
    street = await build()
    await sign_in(street, tab)
    await tab.goto(f"{street.provider.issuer}/session/end")
    await tab.click("button[name=logout]")
    await until(lambda: _told(street))
    await tab.goto(street.at("/next"))
    assert tab.url.startswith(street.provider.issuer)
    assert street.app.to("/next") == []


async def _told(street: Street) -> bool:
    failed = await street.provider.log("backchannel_error")
    assert failed == [], failed
    return bool(await street.provider.log("backchannel"))


async def test_a_guest_is_told_no(build: Building, tab: Page) -> None:
    """Bob signs in and is not staff: 403 from us, nothing at the application."""
    street = await build()
    await tab.goto(street.at("/staff-only"))
    async with tab.expect_response(street.at("/staff-only")) as answer:
        await fill_in(tab, "bob")
    response = await answer.value
    assert response.status == 403
    assert response.headers["authproxy-refusal"] == "not_allowed"
    assert street.app.to("/staff-only") == []
