"""The peer itself: what tests lean on when they say that a provider would refuse."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from tests.peers.fake_clock import FakeClock
from tests.peers.openid_grants import Consent, RefreshTokens
from tests.peers.openid_provider import OpenIDPeer


def consent(username: str = "alice", sid: str = "s-1") -> Consent:
    return Consent(username, "authproxy", ("openid",), sid, 0.0)


def test_strict_rotation_ends_the_family_on_reuse() -> None:
    """A token that was rotated away takes the current one with it."""
    tokens = RefreshTokens(rotate=True, reuse_interval=0, one_per_user=False)
    first = tokens.issue(consent(), 0)
    spent = tokens.spend(first, "authproxy", 1)
    assert spent is not None
    second = spent[0].current
    assert tokens.is_alive(second)
    assert tokens.spend(first, "authproxy", 2) is None
    assert tokens.spend(second, "authproxy", 3) is None


def test_dex_answers_again_inside_the_window_and_kills_nothing() -> None:
    """Previous and current converge for the interval; later the previous is dead and the current lives on."""
    tokens = RefreshTokens(rotate=True, reuse_interval=120, one_per_user=True)
    first = tokens.issue(consent(), 0)
    assert (tokens.spend(first, "authproxy", 60) or ("", ""))[1] == "repeated"
    spent = tokens.spend(first, "authproxy", 200)
    assert spent is not None
    second = spent[0].current
    assert spent[1] == "rotated"
    again = tokens.spend(first, "authproxy", 300)
    assert again is not None
    assert again[0].current == second
    assert tokens.spend(first, "authproxy", 500) is None
    assert tokens.is_alive(second)


def test_one_per_user_means_one() -> None:
    """The second sign-in of a person kills the first one's token, and nobody else's."""
    tokens = RefreshTokens(rotate=True, reuse_interval=0, one_per_user=True)
    alice, bob = tokens.issue(consent(), 0), tokens.issue(consent("bob", "s-2"), 0)
    tokens.issue(consent(sid="s-3"), 1)
    assert not tokens.is_alive(alice)
    assert tokens.is_alive(bob)


async def test_the_login_form_and_the_faults_of_the_callback() -> None:
    """Without a current user a form is shown; callback parameters can be left out, replaced and doubled."""
    async with OpenIDPeer(clock=FakeClock()) as peer, aiohttp.ClientSession() as http:
        peer.current_user = None
        peer.require_pkce = False
        peer.callback_overrides = {"iss": None, "state": ["a", "b"]}
        asked = {
            "client_id": "authproxy",
            "redirect_uri": "https://app.example/cb",
            "response_type": "code",
            "scope": "openid",
        }
        async with http.get(f"{peer.issuer}/auth", params=asked) as page:
            assert "<form" in await page.text()
        form = {"username": "bob", "password": "bob-password"}
        async with http.post(f"{peer.issuer}/auth", params=asked, data=form, allow_redirects=False) as answer:
            place = answer.headers["Location"]
        assert "state=a&state=b" in place
        assert "code=" in place
        assert "iss=" not in place


@pytest.mark.parametrize("endpoint", ["discovery", "jwks", "token", "userinfo", "revocation"])
async def test_a_failure_lasts_as_long_as_it_was_told(endpoint: str) -> None:
    """``fail`` counts down, then the peer behaves."""
    async with OpenIDPeer() as peer, aiohttp.ClientSession() as http:
        peer.fail(endpoint, 599, b"x", times=2, Retry_After="7")
        places = {
            "discovery": "/.well-known/openid-configuration", "jwks": peer.jwks_path, "token": "/token",
            "userinfo": "/userinfo", "revocation": "/revoke",
        }  # fmt: skip
        method = "POST" if endpoint in ("token", "revocation") else "GET"
        statuses = []
        for _ in range(3):
            async with http.request(method, peer.issuer + places[endpoint]) as answer:
                statuses.append(answer.status)
        assert statuses[:2] == [599, 599]
        assert statuses[2] != 599
        assert [call.status for call in peer.asked(endpoint)] == statuses


async def test_logout_tokens_are_delivered_once() -> None:
    """At the end-session endpoint, to the registered address, for the session of the hint."""
    told: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        told.append(str((await request.post())["logout_token"]))
        return web.Response(headers={"Cache-Control": "no-store"})

    app = web.Application()
    app.router.add_post("/backchannel_logout", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with OpenIDPeer() as peer, aiohttp.ClientSession() as http:
            peer.backchannel_logout_uri = f"http://127.0.0.1:{runner.addresses[0][1]}/backchannel_logout"
            status, headers, _ = await peer.send_logout(peer.backchannel_logout_uri, sid="s-9")
            assert (status, headers["Cache-Control"]) == (200, "no-store")
            query = {
                "id_token_hint": peer.id_token(),
                "post_logout_redirect_uri": "https://app.example/bye",
                "state": "x",
            }
            async with http.get(f"{peer.issuer}/end_session", params=query, allow_redirects=False) as answer:
                assert answer.headers["Location"] == "https://app.example/bye?state=x"
            assert len(told) == 2
    finally:
        await runner.cleanup()
