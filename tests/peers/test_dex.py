"""One battery for the real Dex and for the peer that stands in for it: what the stories rely on.

``dex`` is a Dex with browser sessions (after 2.45), ``dex-2.45`` one without; each is skipped where it is not on PATH.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.peers.browser_client import Browser, Page
from tests.peers.dex import MOCK_CONNECTOR, OTHER_CLIENT_ID, PUBLIC, Dex, missing
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_dex import DexPeer
from tests.peers.relying_party import REDIRECT_URI, RelyingParty, TokenAnswer

LIFETIME: Final = 60
WINDOW: Final = 2  # seconds in which a token that was rotated may come again
SIGNED_OUT: Final = f"{PUBLIC}/oauth2/signed_out"
CLAIMED: Final = "Refresh token is invalid or has already been claimed by another client."


class Stage(NamedTuple):
    """A provider, a client of it, two browsers, and how time passes for the provider."""

    provider: Dex | DexPeer
    client: RelyingParty
    browsers: tuple[Browser, Browser]
    wait: Callable[[float], Awaitable[None]]
    sessions: bool
    stack: AsyncExitStack


@pytest.fixture(params=["peer", "peer-2.45", "dex", "dex-2.45"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The stage with each provider in turn."""
    kind, sessions, clock = request.param, not request.param.endswith("2.45"), FakeClock()
    async with AsyncExitStack() as stack:
        provider: Dex | DexPeer
        if kind.startswith("peer"):
            provider = DexPeer(
                sessions=sessions, connectors=("local", "mock"), id_tokens=LIFETIME, reuse_interval=WINDOW,
                clock=clock, redirect_uris=(REDIRECT_URI,), post_logout_redirect_uris=(SIGNED_OUT,), race_seconds=5.0,
            )  # fmt: skip
        else:
            if missing(kind):
                pytest.skip(missing(kind))
            provider = Dex(
                tmp_path, id_tokens=f"{LIFETIME}s", reuse_interval=f"{WINDOW}s", sessions=sessions, program=kind,
                redirect_uris=(REDIRECT_URI,), connectors=(MOCK_CONNECTOR,),
            )  # fmt: skip
        await stack.enter_async_context(provider)

        async def wait(seconds: float) -> None:
            if isinstance(provider, DexPeer):
                clock.forward(seconds)
            else:
                await asyncio.sleep(seconds)  # the clock of another program

        client = await stack.enter_async_context(RelyingParty(provider.issuer))
        browsers = [await stack.enter_async_context(Browser()) for _ in range(2)]
        yield Stage(provider, client, (browsers[0], browsers[1]), wait, sessions, stack)


async def sign_in(stage: Stage, browser: int = 0, username: str = "alice") -> TokenAnswer:
    return await stage.client.sign_in(stage.browsers[browser], username, connector="local")


async def another_browser(stage: Stage) -> Browser:
    return await stage.stack.enter_async_context(Browser())


async def test_a_new_sign_in_kills_the_token_of_the_one_before(stage: Stage) -> None:
    """One refresh token per user and client; dead is 400 invalid_request, and another user's token lives."""
    bob = await stage.client.sign_in(await another_browser(stage), "bob", connector="local")
    first = await sign_in(stage)
    if isinstance(stage.provider, DexPeer):
        stage.provider.tokens.race_seconds = 0.0
    second = await sign_in(stage, browser=1)
    refused = await stage.client.refresh(first.refresh_token)
    assert refused.error == (400, "invalid_request")
    assert refused.body["error_description"] == CLAIMED
    assert (await stage.client.refresh(second.refresh_token)).status == 200
    assert (await stage.client.refresh(bob.refresh_token)).status == 200


async def test_the_window_in_which_a_token_may_come_again(stage: Stage) -> None:
    """Within the window nothing is rotated; after it the current token rotates and the former one converges on it."""
    first = await sign_in(stage)
    assert (await stage.client.refresh(first.refresh_token)).refresh_token == first.refresh_token
    await stage.wait(WINDOW + 0.2)
    second = await stage.client.refresh(first.refresh_token)
    assert second.refresh_token != first.refresh_token
    for token in (first.refresh_token, second.refresh_token):
        assert (await stage.client.refresh(token)).refresh_token == second.refresh_token
    await stage.wait(WINDOW + 0.2)
    assert (await stage.client.refresh(first.refresh_token)).error == (400, "invalid_request")
    third = await stage.client.refresh(second.refresh_token)  # the reuse of the first one has killed nothing
    assert third.status == 200
    assert (await stage.client.refresh(first.refresh_token)).error == (400, "invalid_request")


async def test_what_refreshed_tokens_say(stage: Stage) -> None:
    """Whole seconds, the lifetime, the first nonce again, and the sid of the sign-in where there are sessions."""
    first = await sign_in(stage)
    await stage.wait(WINDOW + 0.2)
    second = await stage.client.refresh(first.refresh_token)
    for claims in (first.claims, second.claims):
        assert isinstance(claims["iat"], int)
        assert claims["exp"] - claims["iat"] == LIFETIME
        assert claims["federated_claims"] == {"connector_id": "local", "user_id": "id-alice"}
        assert (claims["email"], claims["groups"]) == ("alice@example.com", ["staff"])
        assert ("sid" in claims, "auth_time" in claims) == (stage.sessions, stage.sessions)
    assert second.claims["iat"] > first.claims["iat"]
    for name in ("sub", "nonce", "sid"):
        assert second.claims.get(name) == first.claims.get(name)
    assert abs(second.claims.get("auth_time", 0) - first.claims.get("auth_time", 0)) <= 1  # Dex takes the time twice


async def test_what_is_refused_and_how(stage: Stage) -> None:
    """A token that is unknown or another client's, and a client that is not itself."""
    token = (await sign_in(stage)).refresh_token
    assert (await stage.client.refresh("unknown")).error == (400, "invalid_request")
    other = await stage.stack.enter_async_context(RelyingParty(stage.provider.issuer, client_id=OTHER_CLIENT_ID))
    assert (await other.refresh(token)).error == (400, "invalid_grant")
    false = await stage.stack.enter_async_context(RelyingParty(stage.provider.issuer, client_secret="wrong"))
    assert (await false.refresh(token)).error == (401, "invalid_client")
    with pytest.raises(PermissionError, match="401"):
        await stage.client.code(stage.browsers[1], connector="local", password="wrong")
    assert (await stage.client.redeem("unknown", "v" * 43)).error == (400, "invalid_grant")


async def test_each_client_and_connector_has_a_token_of_its_own(stage: Stage) -> None:
    """A sign-in for another client, or by another connector, kills nothing."""
    here = await sign_in(stage)
    other = await stage.stack.enter_async_context(RelyingParty(stage.provider.issuer, client_id=OTHER_CLIENT_ID))
    there = await other.sign_in(stage.browsers[1], connector="local")
    mock = await stage.client.sign_in(stage.browsers[1], "kilgore", connector="mock")
    assert mock.claims["federated_claims"]["connector_id"] == "mock"
    for client, answer in ((stage.client, here), (other, there), (stage.client, mock)):
        assert (await client.refresh(answer.refresh_token)).status == 200


async def test_codes_that_are_redeemed_at_once(stage: Stage) -> None:
    """Of four sign-ins at once one token lives; each other one is refused with 400, or with 500 for good."""
    await sign_in(stage)  # the first sign-ins of a user at once are 500 at Dex itself
    tabs = [await another_browser(stage) for _ in range(4)]
    codes = await asyncio.gather(*(stage.client.code(tab, connector="local") for tab in tabs))
    answers = await asyncio.gather(*(stage.client.redeem(*code) for code in codes))
    for _ in range(2):
        errors = [(await stage.client.refresh(answer.refresh_token)).error for answer in answers]
        assert errors.count((200, "")) <= 1
        assert set(errors) <= {(200, ""), (400, "invalid_request"), (500, "invalid_request")}
        await stage.wait(0.1)


async def test_a_user_who_was_deleted(stage: Stage) -> None:
    """Without sessions Dex asks the directory when it rotates: 500 for that user.  With sessions it does not ask."""
    if isinstance(stage.provider, Dex) and not stage.sessions:
        pytest.skip("Dex 2.45 waits for its own SQLite transaction when its password database lacks a user; see LDAP")
    alice, bob = await sign_in(stage), await sign_in(stage, browser=1, username="bob")
    await stage.provider.forget("bob")
    await stage.wait(WINDOW + 0.2)
    for _ in range(2):
        refused = await stage.client.refresh(bob.refresh_token)
        assert refused.error == ((200, "") if stage.sessions else (500, "invalid_request"))
    assert (await stage.client.refresh(alice.refresh_token)).status == 200
    with pytest.raises(PermissionError, match="401"):
        await stage.client.code(await another_browser(stage), "bob", connector="local")


# --- sign-out ---


async def logout(stage: Stage, browser: int, **parameters: str) -> Page:
    """Go to the sign-out page; redirects are not followed."""
    return await stage.browsers[browser].navigate(
        f"{stage.client.discovery['end_session_endpoint']}?{urlencode(parameters)}"
    )


async def asks_for_password(stage: Stage, browser: int) -> bool:
    """Whether a sign-in in this browser shows the form."""
    one = stage.browsers[browser]
    before = len(one.visited)
    await stage.client.code(one, connector="local")
    return any('name="password"' in page.text for page in one.visited[before:])


async def test_discovery_says_whether_there_is_sign_out(stage: Stage) -> None:
    """Dex 2.45 names no place for it, later ones with sessions do; revocation there is none."""
    found = stage.client.discovery
    assert ("end_session_endpoint" in found, "backchannel_logout_supported" in found) == (stage.sessions,) * 2
    assert "revocation_endpoint" not in found


async def test_a_browser_session_spares_the_password_until_sign_out(stage: Stage) -> None:
    """With sessions a second sign-in is silent; after sign-out the form comes, and other devices are as before."""
    if not stage.sessions:
        await sign_in(stage)
        assert await asks_for_password(stage, 0)
        return
    first, second = await sign_in(stage), await sign_in(stage, browser=1)
    assert first.claims["sid"] != second.claims["sid"]
    assert not await asks_for_password(stage, 0)
    page = await logout(
        stage, 0, id_token_hint=first.body["id_token"], post_logout_redirect_uri=SIGNED_OUT, state="kept"
    )
    assert page.location == f"{SIGNED_OUT}?state=kept"
    assert await asks_for_password(stage, 0)
    assert not await asks_for_password(stage, 1)


async def test_a_refresh_token_outlives_sign_out(stage: Stage) -> None:
    """It is ``standalone`` unless the client says otherwise: the user's other devices share it."""
    if not stage.sessions:
        pytest.skip("there is no sign-out")
    first = await sign_in(stage)
    await logout(stage, 0, id_token_hint=first.body["id_token"], post_logout_redirect_uri=SIGNED_OUT)
    assert (await stage.client.refresh(first.refresh_token)).status == 200


async def test_the_hint_of_another_device_asks_and_forgets_where_to_go(stage: Stage) -> None:
    """``sid`` must be that of the browser's own session; the tokens of one refresh token carry the newest sign-in's."""
    if not stage.sessions:
        pytest.skip("there is no sign-out")
    own = await sign_in(stage)
    other = await stage.client.refresh((await sign_in(stage, browser=1)).refresh_token)
    page = await logout(stage, 0, id_token_hint=other.body["id_token"], post_logout_redirect_uri=SIGNED_OUT)
    assert (page.status, page.location) == (200, None)
    assert "Do you want to log out?" in page.text
    assert not await asks_for_password(stage, 0)
    page = await logout(stage, 0, id_token_hint=own.body["id_token"], post_logout_redirect_uri=SIGNED_OUT)
    assert page.location == SIGNED_OUT


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"post_logout_redirect_uri": SIGNED_OUT}, "requires id_token_hint"),
        ({"id_token_hint": "own", "post_logout_redirect_uri": f"{PUBLIC}/elsewhere"}, "Unregistered"),
        ({"id_token_hint": "forged", "post_logout_redirect_uri": SIGNED_OUT}, "Invalid id_token_hint"),
    ],
)
async def test_sign_outs_that_dex_refuses(stage: Stage, parameters: dict[str, str], words: str) -> None:
    """400 on a page of Dex's own: no hint, an address that is not registered, a hint that Dex did not sign."""
    if not stage.sessions:
        pytest.skip("there is no sign-out")
    token = (await sign_in(stage)).body["id_token"]
    hints = {"own": token, "forged": token[:-8] + "A" * 8}
    hint = hints.get(parameters.get("id_token_hint", ""))
    stranger = 1 if words.startswith("requires") else 0  # with a session Dex asks first
    page = await logout(stage, stranger, **parameters | ({"id_token_hint": hint} if hint else {}))
    assert page.status == 400
    assert words in page.text
