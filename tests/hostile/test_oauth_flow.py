"""Attacks on the code flow, from the first redirect to the last: RFC 9700, RFC 9207, OpenID Connect Core.

What renews and what ends a session is in ``test_renewal_and_logout``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from html import unescape
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.hostile.harness import (
    HOST,
    PREFIX,
    Set,
    Stage,
    StrictBrowser,
    begins_session,
    moved,
    query,
    set_cookies,
    with_query,
)
from tests.hostile.redirect_targets import origins, targets
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import b64, signing_key
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
CROSS = {"Sec-Fetch-Site": "cross-site"}


# --- the request to the provider ---


async def test_b1_authorization_request(stage: Stage, somebody: Somebody) -> None:
    """A code is asked for, with S256, and with a state, nonce and challenge that no other sign-in has."""
    one = query((await stage.begun("/a")).location or "")
    two = query((await stage.begun("/a", browser=await somebody(stage))).location or "")
    for asked in (one, two):
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert asked["redirect_uri"] == stage.at(f"{PREFIX}/callback/peer")
    for name in ("state", "nonce", "code_challenge"):
        assert len(one[name]) >= 43
        assert one[name] != two[name]
    assert len({one["state"], one["nonce"], one["code_challenge"]}) == 3


@pytest.mark.parametrize("methods", [None, [], ["plain"], "S256 plain"])
async def test_b2_pkce_is_not_talked_down(stages: Set, methods: Any) -> None:
    """Whatever the metadata says about PKCE, S256 is sent; a provider that refuses it gets no second request."""
    stage = await stages(before=lambda peer: peer.discovery_overrides.update(code_challenge_methods_supported=methods))
    stage.peer.authorize_error = "invalid_request"
    await stage.refused_sign_in("provider_refused", status=403, reason="invalid_request")
    (asked,) = stage.peer.asked("authorize")
    assert asked.query["code_challenge_method"] == "S256"


# --- state ---


@pytest.mark.parametrize("state", [None, "", "unknown", "a" * 5000, "\u2603", "%00"])
async def test_b3_state_missing_or_unknown(stage: Stage, state: str | None) -> None:
    """A callback that belongs to no sign-in is refused before its code is looked at."""
    back = with_query(await stage.returning(), state=state)
    page = await stage.browser.navigate(back, headers=CROSS)
    await stage.denied(page, "state_missing", "state_unknown", status=400)
    assert stage.peer.asked("token") == []


async def test_b3_state_expired(stage: Stage) -> None:
    """A sign-in that took longer than a quarter of an hour is refused before its code is looked at."""
    back = await stage.returning()
    stage.clock.pass_(901)
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "state_unknown", status=400)
    assert stage.peer.asked("token") == []


async def test_b3_state_used_twice_on_two_replicas(stages: Set, redis_server: RedisServer) -> None:
    """The same callback at two replicas at the same instant: one token call, one session."""
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}})
    back = await stage.returning()
    cookie = {"Cookie": stage.browser.cookie_header(back)}
    both = [back, moved(back, stage.port(1))]
    pages = await asyncio.gather(*(stage.browser.navigate(url, headers={**CROSS, **cookie}) for url in both))
    assert sorted(page.status for page in pages) == [302, 400]
    assert sum(begins_session(page) for page in pages) == 1
    assert len(stage.peer.asked("token")) == 1


async def test_b4_callback_in_another_browser(stage: Stage, somebody: Somebody) -> None:
    """Whoever is handed the callback of a stranger is not signed in as the stranger, and the code stays unspent."""
    attacker = await somebody(stage)
    back = await stage.returning(browser=attacker)
    page = await stage.browser.navigate(back, headers=CROSS)
    await stage.denied(page, "state_unknown", status=400)
    assert stage.peer.asked("token") == []
    assert (await attacker.settle(await attacker.navigate(back))).status == 200


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
@pytest.mark.parametrize("second", ["same", "other"])
async def test_b5_duplicated_parameters(stage: Stage, name: str, second: str) -> None:
    """A parameter that comes twice is refused, whichever of the two is right."""
    back = await stage.returning()
    told = {"error": "access_denied", **query(back)}[name]
    more = [(name, told if second == "same" else "other")] * (2 if name == "error" else 1)
    page = await stage.browser.navigate(with_query(back, *more), headers=CROSS)
    await stage.denied(page, "duplicate_parameter", status=400)
    assert stage.peer.asked("token") == []


async def test_b6_code_and_error(stage: Stage) -> None:
    """An answer that is a success and an error at once is neither."""
    back = with_query(await stage.returning(), error="access_denied")
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "malformed_callback", status=400)
    assert stage.peer.asked("token") == []


async def test_b6_neither_code_nor_error(stage: Stage) -> None:
    """An answer that is neither is refused."""
    back = with_query(await stage.returning(), code=None)
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "malformed_callback", status=400)


# --- which provider ---


async def test_b7_issuer_parameter_missing(stage: Stage) -> None:
    """A provider that promises ``iss`` in its answers is held to it."""
    back = with_query(await stage.returning(), iss=None)
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "issuer_mismatch", status=400)
    assert stage.peer.asked("token") == []


@pytest.mark.parametrize("promised", [True, False])
@pytest.mark.parametrize("change", ["slash", "case", "other", "empty"])
async def test_b8_issuer_parameter_differs(stages: Set, change: str, promised: bool) -> None:
    """An ``iss`` that is not the issuer, letter by letter, is refused; also where none was promised."""

    def unpromised(peer: OpenIDPeer) -> None:
        peer.discovery_overrides["authorization_response_iss_parameter_supported"] = promised

    stage = await stages(before=unpromised)
    issuer = {"slash": "/", "case": "", "other": ".evil.example", "empty": ""}[change]
    told = {"case": stage.peer.issuer.replace("http", "HTTP"), "empty": ""}.get(change, stage.peer.issuer + issuer)
    back = with_query(await stage.returning(), iss=told)
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "issuer_mismatch", status=400)
    assert stage.peer.asked("token") == []


async def test_b9_mix_up_of_two_providers(stages: Set, cast: AsyncExitStack) -> None:
    """A code of one provider that arrives at the callback of another is given to neither."""
    other = await cast.enter_async_context(OpenIDPeer())
    stage = await stages(providers={"other": other.settings()}, application={"provider": ["peer", "other"]})
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/start?provider=peer"))
    assert query(page.location or "")["redirect_uri"].endswith("/callback/peer")
    answered = await stage.browser.follow(page)
    back = (answered.location or "").replace("/callback/peer", "/callback/other")
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "provider_mismatch", status=400)
    assert stage.peer.asked("token") == []
    assert other.asked("token") == []


# --- the token endpoint ---


def _answered(**changes: Any) -> tuple[int, dict[str, Any]]:
    whole = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": "x.y.z"} | changes
    return 200, {name: value for name, value in whole.items() if value is not None}


NONSENSE: dict[str, Any] = {
    "dpop": _answered(token_type="DPoP"),
    "mac": _answered(token_type="mac"),
    "no_type": _answered(token_type=None),
    "type_is_a_list": _answered(token_type=["Bearer"]),
    "no_id_token": _answered(id_token=None),
    "no_access_token": _answered(access_token=None),
    "access_token_with_line_end": _answered(access_token="a\r\nX: y"),
    "error_in_200": (200, {"error": "invalid_grant"}),
    "html": (200, b"<html>busy</html>", {"Content-Type": "text/html"}),
    "empty": (200, b""),
    "list": (200, b"[]"),
    "text": (200, b'"token"'),
    "nan": (200, b'{"expires_in": NaN}'),
    "twice": (200, b'{"access_token":"a","access_token":"b","token_type":"Bearer","id_token":"x"}'),
    "not_utf8": (200, b'{"access_token":"\xff"}'),
    "five_megabytes": (200, b'{"access_token":"' + b"a" * (5 << 20) + b'"}'),
    "deep": (200, b'{"a":' * 30_000 + b"1" + b"}" * 30_000),
    "redirect_302": (302, b"", {"Location": "/revoke"}),
    "redirect_307": (307, b"", {"Location": "/revoke"}),
    "redirect_308": (308, b"", {"Location": "https://evil.example/"}),
    "gone": (410, b""),
    "failed": (500, b"oops"),
    "invalid_client": (401, {"error": "invalid_client"}),
    "compressed": (200, b"\x1f\x8b\x08\x00", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_b10_token_endpoint_talks_nonsense(stage: Stage, name: str) -> None:
    """Whatever the token endpoint answers, the person gets a page that says so, and nobody is led elsewhere."""
    stage.peer.token_answer = NONSENSE[name]
    page = await stage.refused_sign_in("provider_unreachable", status=502)
    assert "text/html" in page.headers["Content-Type"]
    assert stage.peer.asked("revocation") == []
    assert len(stage.peer.asked("token")) == 1


async def test_b10_invalid_id_token_text(stage: Stage) -> None:
    """An ID token that is no JWT opens nothing."""
    stage.peer.token_answer = _answered()
    await stage.refused_sign_in("invalid_id_token", status=403)


async def test_b11_callback_loaded_twice(stage: Stage) -> None:
    """Going back to a finished callback leads on to the page, without another token call or another session."""
    back = await stage.returning("/deep")
    await stage.browser.settle(await stage.browser.navigate(back, headers=CROSS))
    cookie = stage.session_cookie()
    again = await stage.browser.navigate(back, headers=CROSS)
    assert (again.status, again.location) == (302, stage.at("/deep"))
    assert not begins_session(again)
    assert (stage.session_cookie(), len(stage.peer.asked("token"))) == (cookie, 1)


async def test_b11_callback_loaded_twice_by_a_stranger(stage: Stage, somebody: Somebody) -> None:
    """A finished callback tells a browser without its session nothing, not even where it led."""
    back = await stage.returning("/deep")
    await stage.browser.navigate(back, headers=CROSS)
    other = await somebody(stage)
    page = await other.navigate(back, headers=CROSS)
    assert (page.status, page.location) == (400, None)
    assert not await stage.is_in(browser=other)


async def test_b12_tabs_sign_in_at_once(stage: Stage) -> None:
    """Several tabs that begin together all arrive where they were going."""
    backs = [await stage.returning(f"/tab/{number}") for number in range(6)]
    pages = await asyncio.gather(*(stage.browser.navigate(url, headers=CROSS) for url in backs))
    assert [page.location for page in pages] == [stage.at(f"/tab/{number}") for number in range(6)]
    assert await stage.is_in()


async def test_b12_state_cookies_are_bounded(stage: Stage) -> None:
    """A browser that begins and never finishes keeps few cookies of ours, and its newest sign-in still works."""
    largest = 0
    for number in range(60):
        await stage.begun(f"/{number}/" + "x" * (number * 25))
        largest = max(largest, len(stage.browser.cookie_header(stage.at())))
        stage.clock.pass_(7)
    assert largest < 7000
    assert (await stage.sign_in("/newest")).url == stage.at("/newest")


# --- how the person proved who they are ---


@pytest.mark.parametrize("auth_time", [None, 0, "now", 10_000_000_000])
async def test_b13_max_age(stages: Set, auth_time: Any) -> None:
    """Where a fresh sign-in is asked for, one that is old, undated or of the future is refused."""
    stage = await stages(provider={"max_age": "5m"})
    assert query((await stage.begun()).location or "")["max_age"] == "300"
    stage.peer.mangle_id_token = lambda claims, _: claims.update(auth_time=auth_time)
    await stage.refused_sign_in("invalid_id_token", reason="auth_time")


@pytest.mark.parametrize("acr", [None, "urn:password", "", ["urn:mfa"]])
async def test_b13_acr(stages: Set, acr: Any) -> None:
    """Where a way of signing in is required, another one is refused."""
    stage = await stages(provider={"acr_values": ["urn:mfa"]})
    stage.peer.mangle_id_token = lambda claims, _: claims.update(acr=acr)
    await stage.refused_sign_in("invalid_id_token", reason="acr_mismatch")


@pytest.mark.parametrize(
    "claims",
    [
        {"azp": "other"},
        {"aud": ["authproxy", "other"]},
        {"aud": ["authproxy", "other"], "azp": "other"},
        {"azp": ["authproxy"]},
        {"azp": ""},
    ],
)
async def test_b14_authorized_party(stage: Stage, claims: dict[str, Any]) -> None:
    """A token that was issued to another party, or to several without saying to whom, opens nothing."""
    stage.peer.mangle_id_token = lambda told, _: told.update(claims)
    await stage.refused_sign_in("invalid_id_token", reason="azp_mismatch")


async def test_b15_access_token_of_another(stage: Stage) -> None:
    """An ID token beside an access token that is not its own opens nothing."""

    def swapped(call: Any) -> Any:
        answer = stage.peer._token(call)
        return (answer[0], {**answer[1], "access_token": "of-somebody-else"}) if isinstance(answer, tuple) else answer

    stage.peer.token_answer = swapped
    await stage.refused_sign_in("invalid_id_token", reason="at_hash_mismatch")


# --- where the person goes ---


def _led_home(stage: Stage, given: list[str], locations: list[str]) -> None:
    home = stage.at("")
    for target, location, found in zip(given, locations, origins(stage.at(f"{PREFIX}/x"), locations), strict=True):
        assert found == (home, home), (target, location, found)
        assert location.isprintable(), (target, location)
        assert location.isascii(), (target, location)


def _hostile(stage: Stage) -> list[str]:
    found = targets(stage.scheme, f"{HOST}:{stage.port()}")
    assert len(found) >= 120
    return found


def _encoded(target: str) -> str:
    return quote(target, safe="", errors="surrogateescape")


@pytest.mark.parametrize("place", ["/start", "/sign_in"])
async def test_b16_open_redirect_after_sign_in(stage: Stage, place: str) -> None:
    """No return target that is given to a sign-in leads to another site."""
    given, locations = [t for t in _hostile(stage) if _is_text(t)], []
    for target in given:
        page = await stage.browser.navigate(stage.at(f"{PREFIX}{place}?rd={_encoded(target)}"))
        assert (page.location or "").startswith(stage.peer.issuer), (target, page.status, page.location)
        done = await stage.browser.follow(await stage.browser.follow(page))
        locations.append(done.headers["Location"])
        stage.clock.pass_(7)
    _led_home(stage, given, locations)


async def test_b16_open_redirect_by_password_and_sign_out(stages: Set) -> None:
    """No return target leads to another site, given to the password form or to sign-out."""
    stage = await stages(
        provider={"password_login": True},
        before=lambda peer: peer.discovery_overrides.update(end_session_endpoint=None),
    )
    given, locations, goodbyes = [t for t in _hostile(stage) if _is_text(t)], [], []
    form = (await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in"))).form("csrf_token", "password")
    alice = {"username": "alice", "password": "alice-password"}
    for target in given:
        data = {**form.fields, **alice, "rd": target}
        page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in"), method="POST", data=data)
        assert page.status == 303, (target, page.status, page.body)
        locations.append(page.headers["Location"])
        data = {"csrf_token": form.fields["csrf_token"], "rd": target}
        gone = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_out"), method="POST", data=data)
        goodbyes.append(gone.headers["Location"])
    _led_home(stage, given, locations)
    _led_home(stage, given, goodbyes)


def _is_text(target: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in target)


async def test_b16_links_on_pages_stay_home(stages: Set, cast: AsyncExitStack) -> None:
    """No return target turns a link on the sign-in page, or on the sign-out page, into one to another site."""
    other = await cast.enter_async_context(OpenIDPeer())
    stage = await stages(providers={"other": other.settings()}, application={"provider": ["peer", "other"]})
    links: list[str] = []
    for target in filter(_is_text, _hostile(stage)):
        page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in?rd={_encoded(target)}"))
        assert page.status == 200, (target, page.status)
        links += [unescape(link) for link in re.findall(r'(?:href|action|src)="([^"]*)"', page.text)]
    assert len(links) > 500
    _led_home(stage, links, links)


@pytest.mark.parametrize("target", ["\udcff/", "/\udc80/evil"])
async def test_b16_targets_that_are_no_text(stage: Stage, target: str) -> None:
    """A return target that is not UTF-8 is refused: nobody knows how the next reader would take it."""
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/start?rd={_encoded(target)}"))
    await stage.denied(page, "malformed_form", status=400)


async def test_b16_own_addresses_are_kept(stage: Stage, somebody: Somebody) -> None:
    """What is ours stays reachable: deep links byte for byte, double slashes further on, a fragment, a full address."""
    for target in ("/a//b?c=//d&e=%2F%2f", "/a#/b", "/%E2%98%83", "/?rd=https://evil.example/", stage.at("/full?x=1")):
        page = await stage.browser.navigate(stage.at(f"{PREFIX}/start?rd={quote(target, safe='')}"))
        done = await stage.browser.follow(await stage.browser.follow(page))
        assert done.headers["Location"] == target


@pytest.mark.parametrize("target", ["/" + "x" * 3000, "/?" + "%FF" * 500, "/a#" + "f" * 100, "/\x00\x01\xff"])
async def test_b17_large_and_binary_targets(stage: Stage, target: str) -> None:
    """A target that is long, binary or has a fragment is kept or dropped, and never ends in an error or a loop."""
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/start?rd={_encoded(target)}"))
    done = await stage.browser.follow(await stage.browser.follow(page))
    assert done.headers["Location"] in (target, "/")
    assert (await stage.browser.settle(done)).status == 200


async def test_b17_a_long_deep_link(stage: Stage) -> None:
    """Somebody who opens a very long link without a session signs in, and arrives somewhere."""
    page = await stage.sign_in("/long?" + "x" * 6000)
    assert page.status == 200


async def test_b18_redirect_after_a_post(stages: Set) -> None:
    """What follows a form of ours is fetched, not posted again: 303, so that no password travels on."""
    stage = await stages(provider={"password_login": True})
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in?rd=/next"))
    fields = {**page.form("password").fields, "username": "alice", "password": "alice-password"}
    done = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in"), method="POST", data=fields)
    assert (done.status, done.location) == (303, stage.at("/next"))
    assert (await stage.sign_out()).status == 303


async def test_b19_nothing_leaks_by_referrer(stages: Set) -> None:
    """Every answer of a sign-in hides where it came from, is kept by nobody, and loads nothing from elsewhere."""
    stage = await stages(provider={"password_login": True})
    await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in"))
    await stage.browser.navigate(stage.at(f"{PREFIX}/callback/peer?code=c&state=s"), headers=CROSS)
    await stage.browser.settle(await stage.browser.navigate(stage.at(f"{PREFIX}/start")))
    await stage.sign_out()
    ours = [
        page for page in stage.browser.visited if PREFIX in page.url and page.headers.get("X-Request-Id", "") != "x"
    ]
    assert len(ours) >= 5
    for page in ours:
        assert page.headers["Cache-Control"] == "no-store", page.url
        assert page.headers["Referrer-Policy"] == "no-referrer", page.url
        if "text/html" in page.headers.get("Content-Type", ""):
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert "http" not in page.text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", ""), (
                page.text
            )


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "application/json"},
        {"Accept": "text/html", "Sec-Fetch-Mode": "cors"},
        {"Accept": "text/html", "X-Requested-With": "XMLHttpRequest"},
        {"Accept": "*/*"},
        {"Accept": "text/html", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)
async def test_b20_scripts_are_not_redirected(stage: Stage, headers: dict[str, str]) -> None:
    """What is no navigation gets 401 in JSON with the address to sign in at, and begins no sign-in."""
    page = await stage.browser.request("GET", stage.at("/api"), headers=headers)
    await stage.denied(page, "not_signed_in", status=401)
    assert page.json["sign_in"] == stage.at(f"{PREFIX}/sign_in")
    assert set_cookies(page) == {}


async def test_b20_a_post_is_not_redirected(stage: Stage) -> None:
    """A form that is sent without a session is not turned into a sign-in, which would lose it silently."""
    page = await stage.browser.navigate(stage.at("/form"), method="POST", data={"a": "b"})
    await stage.denied(page, "not_signed_in", status=401)


@pytest.mark.parametrize(
    "headers", [{"Sec-Purpose": "prefetch"}, {"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}]
)
@pytest.mark.parametrize("target", ["/", f"{PREFIX}/start", f"{PREFIX}/sign_in"])
async def test_b21_prefetch_begins_nothing(stage: Stage, headers: dict[str, str], target: str) -> None:
    """A page that the browser only guesses begins no sign-in."""
    page = await stage.browser.navigate(stage.at(target), headers=headers)
    assert page.location is None
    assert set_cookies(page) == {}
    assert stage.peer.asked("authorize") == []


# --- keys and configuration ---


async def test_b22_unknown_key_ids(stage: Stage) -> None:
    """A thousand tokens with made-up key ids cost the provider one look at its key set, and disturb nobody."""
    await stage.sign_in()
    looked = len(stage.peer.asked("jwks"))
    stage.clock.pass_(60)
    token = stage.peer.logout_token()
    for number in range(1000):
        assert (await stage.tell(_renamed(token, number)))[0] == 400
    assert len(stage.peer.asked("jwks")) <= looked + 1
    status, _, _ = await stage.tell(sid=stage.peer.active_sids[-1])
    assert status == 200


async def test_b22_strangers_cannot_keep_a_rotated_key_unknown(stage: Stage, somebody: Somebody) -> None:
    """Anybody can have the key set fetched; who signs in with a key that came a moment later gets in all the same."""
    await stage.sign_in()
    token = stage.peer.logout_token()
    assert (await stage.tell(_renamed(token, 1)))[0] == 400
    for number in range(2, 4):
        stage.peer.rotate_keys(keep_old=False)
        assert (await stage.tell(_renamed(token, number)))[0] == 400
        other = await somebody(stage)
        await stage.sign_in(browser=other)
        assert await stage.is_in(browser=other)


async def test_b22_a_logout_token_that_cannot_be_judged_now_may_come_again(stage: Stage) -> None:
    """Inside the strangers' cool-down a token of a new key is neither obeyed nor refused for good."""
    await stage.sign_in()
    sid = stage.peer.active_sids[-1]
    assert (await stage.tell(_renamed(stage.peer.logout_token(), 1)))[0] == 400
    stage.clock.pass_(4)
    stage.peer.rotate_keys()
    token = stage.peer.logout_token(sid=sid)
    status, headers, body = await stage.tell(token)
    assert (status, headers["Retry-After"]) == (503, "6")
    assert json.loads(body)["error"] == "logout_token_unchecked"
    assert await stage.is_in()
    stage.clock.pass_(6)
    assert (await stage.tell(token))[0] == 200
    assert not await stage.is_in()


async def test_b23_a_callback_may_come_again_when_the_keys_could_not_be_had(stages: Set) -> None:
    """Nothing is spent while the answer could not be judged: neither the code nor the state."""
    stage = await stages(before=lambda peer: setattr(peer, "jwks_answer", (503, b"")))
    callback = await stage.returning("/deep")
    for _ in range(2):
        page = await stage.browser.navigate(callback, headers={"Sec-Fetch-Site": "cross-site"})
        await stage.denied(page, "provider_unreachable", status=502)
    assert not stage.peer.asked("token")
    stage.peer.jwks_answer = None
    stage.clock.pass_(1)
    page = await stage.browser.navigate(callback, headers={"Sec-Fetch-Site": "cross-site"})
    assert page.status == 302
    assert await stage.is_in()


def _renamed(token: str, number: int) -> str:
    head = b64(json.dumps({"alg": "RS256", "kid": f"made-up-{number}"}).encode())
    return ".".join([head, *token.split(".")[1:]])


BROKEN_SETS: dict[str, Any] = {
    "500": (500, b""),
    "404": (404, b""),
    "garbage": (200, b"\x00\x01"),
    "html": (200, b"<html></html>"),
    "list": (200, b"[]"),
    "empty": (200, {"keys": []}),
    "keys_is_text": (200, {"keys": "none"}),
    "ten_megabytes": (200, b'{"keys":[' + b" " * (10 << 20) + b"]}"),
    "deep": (200, b"[" * 50_000),
    "redirect_to_file": (302, b"", {"Location": "file:///etc/passwd"}),
    "redirect_elsewhere": (302, b"", {"Location": "/userinfo"}),
}


@pytest.mark.parametrize("name", BROKEN_SETS)
async def test_b23_key_set_breaks_later(stage: Stage, somebody: Somebody, name: str) -> None:
    """While the key set cannot be had, the last good one serves on."""
    await stage.sign_in()
    stage.peer.jwks_answer = BROKEN_SETS[name]
    for _ in range(3):
        stage.clock.pass_(900)
        assert (await stage.sign_in(browser=await somebody(stage))).status == 200
    assert stage.peer.asked("userinfo") == []


@pytest.mark.parametrize("name", BROKEN_SETS)
async def test_b23_key_set_never_was(stages: Set, name: str) -> None:
    """Without any key nobody signs in, the code is not spent, and it works as soon as there are keys."""
    stage = await stages(before=lambda peer: setattr(peer, "jwks_answer", BROKEN_SETS[name]))
    await stage.refused_sign_in("provider_unreachable", "invalid_id_token", status=(502, 403))
    stage.peer.jwks_answer = None
    stage.clock.pass_(60)
    assert (await stage.sign_in()).status == 200


async def test_b23_key_set_slow(stage: Stage, somebody: Somebody) -> None:
    """A key set that does not answer holds up nobody who can be served with the old one."""
    await stage.sign_in()
    gate = stage.peer.hold("jwks")
    stage.clock.pass_(900)
    async with asyncio.timeout(PATIENCE):
        await stage.sign_in(browser=await somebody(stage))
    gate.set()


def _short_rsa() -> dict[str, str]:
    return {"kty": "RSA", "kid": "short", "use": "sig", "alg": "RS256", "e": "AQAB", "n": b64(b"\xc1" + b"\x55" * 63)}


ODD_KEYS: dict[str, Any] = {
    "no_object": "key",
    "null": None,
    "empty": {},
    "no_kty": {"kid": "x"},
    "unknown_kty": {"kty": "XYZ", "kid": "x"},
    "oct": {"kty": "oct", "k": b64(b"k" * 32), "kid": "key-0", "alg": "HS256"},
    "rsa_512": _short_rsa(),
    "not_base64": {"kty": "RSA", "kid": "x", "n": "!!", "e": "AQAB"},
    "off_curve": {"kty": "EC", "crv": "P-256", "kid": "x", "x": b64(b"\x01" * 32), "y": b64(b"\x01" * 32)},
    "for_encryption": signing_key("key-0", number=5).jwk(use="enc"),
    "not_for_verifying": signing_key("key-0", number=5).jwk(key_ops=["encrypt"]),
    "same_id": signing_key("key-0", number=5).jwk(),
    "same_id_other_kind": signing_key("key-0", "ES256").jwk(),
    "wrong_alg": signing_key("key-0", number=5).jwk(alg="RS512"),
    "kid_is_number": {**signing_key("x", number=5).jwk(), "kid": 7},
    "x5u": {**signing_key("x", number=5).jwk(), "x5u": "http://127.0.0.1:9/"},
}


@pytest.mark.parametrize("name", ODD_KEYS)
@pytest.mark.parametrize("first", [True, False])
async def test_b24_odd_keys_beside_a_good_one(stages: Set, name: str, first: bool) -> None:
    """A key that cannot be used is passed over; the good one beside it works, in whatever order."""

    def beside(peer: OpenIDPeer) -> None:
        keys = [ODD_KEYS[name], *peer.jwks()["keys"]]
        peer.jwks_answer = (200, {"keys": keys if first else keys[::-1]})

    stage = await stages(before=beside)
    assert (await stage.sign_in()).status == 200


async def test_b24_an_odd_key_signs_nothing(stages: Set) -> None:
    """A token that is signed with a key for encryption opens nothing, though the key is in the set."""
    stage = await stages(
        before=lambda peer: setattr(peer, "jwks_answer", (200, {"keys": [ODD_KEYS["for_encryption"]]}))
    )
    stage.peer.forge = signing_key("key-0", number=5)
    await stage.refused_sign_in(status=(502, 403))


WRONG_CONFIGURATIONS: dict[str, Any] = {
    "slash": lambda peer: peer.discovery_overrides.update(issuer=peer.issuer + "/"),
    "case": lambda peer: peer.discovery_overrides.update(issuer=peer.issuer.upper()),
    "no_issuer": lambda peer: peer.discovery_overrides.update(issuer=None),
    "http_token": lambda peer: peer.discovery_overrides.update(token_endpoint="http://tokens.example/token"),
    "http_jwks": lambda peer: peer.discovery_overrides.update(jwks_uri="http://keys.example/"),
    "file_jwks": lambda peer: peer.discovery_overrides.update(jwks_uri="file:///etc/passwd"),
    "userinfo_in_url": lambda peer: peer.discovery_overrides.update(token_endpoint="https://a@evil.example/"),
    "no_authorization": lambda peer: peer.discovery_overrides.update(authorization_endpoint=None),
    "endpoint_is_number": lambda peer: peer.discovery_overrides.update(token_endpoint=7),
    "javascript": lambda peer: peer.discovery_overrides.update(authorization_endpoint="javascript:alert(1)"),
    "twice": lambda peer: setattr(peer, "discovery_answer", (200, _doubled(peer))),
    "nan": lambda peer: setattr(peer, "discovery_answer", (200, b'{"issuer": NaN}')),
    "redirect": lambda peer: setattr(peer, "discovery_answer", (302, b"", {"Location": "/userinfo"})),
    "list": lambda peer: setattr(peer, "discovery_answer", (200, b"[]")),
    "large": lambda peer: setattr(peer, "discovery_answer", (200, b" " * (1 << 20))),
}


def _doubled(peer: OpenIDPeer) -> bytes:
    return f'{{"issuer":"https://evil.example","issuer":"{peer.issuer}"}}'.encode()


@pytest.mark.parametrize("name", WRONG_CONFIGURATIONS)
async def test_b25_wrong_configuration(stages: Set, name: str) -> None:
    """A configuration that is not exactly the issuer's, or that names an unsafe place, is not believed."""
    stage = await stages(before=WRONG_CONFIGURATIONS[name])
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/start"))
    await stage.denied(page, "provider_unreachable", status=502)
    assert "provider peer" in stage.proxies[0].readiness().degraded
    assert urlsplit(page.location or "").netloc == ""


async def test_b25_wrong_configuration_heals(stages: Set) -> None:
    """As soon as the configuration is right, people sign in, without a restart."""
    stage = await stages(before=WRONG_CONFIGURATIONS["slash"])
    stage.peer.discovery_overrides.clear()
    stage.clock.pass_(60)
    assert (await stage.sign_in()).status == 200
