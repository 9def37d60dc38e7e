"""Attacks on what keeps a session alive, and on what ends it: refresh, logout, revocation, changed rights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authproxy.app import Authproxy
from tests.hostile.harness import PREFIX, Set, Stage, StrictBrowser, begins_session, moved, set_cookies
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import within

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
Replica = Callable[..., Awaitable[Authproxy]]
CROSS = {"Sec-Fetch-Site": "cross-site"}
MINUTES = 11 * 60.0  # longer than an ID token of the stage's provider lives


@pytest.fixture
async def pair(stages: Set, redis_server: RedisServer) -> Stage:
    """Two replicas that share a Redis and their keys; the provider rotates refresh tokens strictly."""
    return await stages(replicas=2, store={"redis": {"url": redis_server.url}})


def refreshes(stage: Stage) -> list[int]:
    """The status of every refresh call so far."""
    return [call.status for call in stage.peer.asked("token", grant_type="refresh_token")]


# --- renewal ---


async def test_b26_two_replicas_refresh_at_once(pair: Stage) -> None:
    """Fifty requests over two replicas at the moment of expiry cost one refresh, and all of them are served."""
    await pair.sign_in()
    assert await pair.is_in(replica=1)
    pair.clock.pass_(MINUTES)
    gate = pair.peer.hold("token")
    work = [asyncio.ensure_future(pair.is_in(replica=number % 2)) for number in range(50)]
    await pair.peer.wait_for("token", grant_type="refresh_token")
    gate.set()
    assert all(await asyncio.gather(*work))
    assert refreshes(pair) == [200]


async def test_b26_replicas_take_turns(pair: Stage) -> None:
    """Through many expiries, whichever replica is asked, no dead token is ever sent and nobody is signed out."""
    await pair.sign_in()
    for number in range(8):
        pair.clock.pass_(MINUTES)
        assert await pair.is_in(replica=number % 2)
        assert await pair.is_in(replica=1 - number % 2)
    assert refreshes(pair) == [200] * 8
    assert pair.peer.refreshes == ["rotated"] * 8


@pytest.mark.parametrize(
    "answer", [(500, b""), (503, b"", {"Retry-After": "1"}), (429, b"slow down"), (200, b"<html>")]
)
async def test_b27_a_failing_provider_signs_nobody_out(pair: Stage, answer: Any) -> None:
    """While the token endpoint fails the session goes on, and is renewed as soon as it works again."""
    await pair.sign_in()
    pair.peer.token_answer = answer
    pair.clock.pass_(MINUTES)
    assert await pair.is_in()
    assert await pair.is_in(replica=1)
    pair.peer.token_answer = None
    pair.clock.pass_(3601)  # the longest pause that a provider may ask for
    assert await pair.is_in()
    assert pair.peer.refreshes == ["rotated"]


async def test_b27_an_unreachable_provider_signs_nobody_out(stage: Stage) -> None:
    """The same while the provider is down altogether."""
    await stage.sign_in()
    await stage.peer.stop()
    stage.clock.pass_(MINUTES)
    assert await stage.is_in()
    await stage.peer.start()
    stage.clock.pass_(120)
    assert await stage.is_in()
    assert stage.peer.refreshes == ["rotated"]


@pytest.mark.parametrize("error", ["invalid_grant", "access_denied", "interaction_required"])
async def test_b27_a_dead_token_ends_the_session(pair: Stage, error: str) -> None:
    """When the provider calls the refresh token dead the session is over, everywhere, and it is not asked again."""
    await pair.sign_in()
    assert await pair.is_in(replica=1)
    pair.peer.token_answer = (400, {"error": error})
    pair.clock.pass_(MINUTES)
    assert not await pair.is_in()
    assert not await pair.is_in(replica=1)
    assert not await pair.is_in()
    assert len(refreshes(pair)) == 1


async def test_b27_the_absolute_end_holds_while_the_provider_is_down(stages: Set) -> None:
    """A failing provider prolongs nothing beyond the session's own end."""
    stage = await stages(session={"absolute": "2h", "idle": "1h"})
    await stage.sign_in()
    await stage.peer.stop()
    for _ in range(2):
        stage.clock.pass_(3500)
        assert await stage.is_in()
    stage.clock.pass_(300)
    assert not await stage.is_in()


async def test_b28_store_fails_after_the_refresh(pair: Stage, redis_server: RedisServer, replica: Replica) -> None:
    """Redis dies between the provider's rotation and our write: the new token lives on in memory and in the cookie."""
    await pair.sign_in()
    pair.clock.pass_(MINUTES)
    gate = pair.peer.hold("token")
    request = asyncio.ensure_future(pair.browser.xhr(pair.at("/while")))
    await pair.peer.wait_for("token", grant_type="refresh_token")
    redis_server.stop()
    gate.set()
    page = await request
    assert (page.status, begins_session(page)) == (200, True)

    pair.clock.pass_(MINUTES)
    assert await pair.is_in()  # with the token in memory
    redis_server.start()
    pair.clock.pass_(MINUTES)
    await replica(pair, store={"redis": {"url": redis_server.url}})
    assert await pair.is_in(replica=2)  # with the token in the cookie: this one never knew the session
    assert pair.peer.refreshes == ["rotated"] * 3


async def test_b28_the_client_leaves_during_the_refresh(stage: Stage) -> None:
    """A browser that goes away while the provider is asked does not lose the rotated token."""
    await stage.sign_in()
    stage.clock.pass_(MINUTES)
    gate = stage.peer.hold("token")
    request = asyncio.ensure_future(stage.browser.xhr(stage.at("/left")))
    await stage.peer.wait_for("token", grant_type="refresh_token")
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    gate.set()
    stage.clock.pass_(MINUTES)
    assert await stage.is_in()
    assert set(stage.peer.refreshes) == {"rotated"}


# --- logout by the provider ---


def sign_logout(peer: OpenIDPeer, **claims: Any) -> str:
    """A logout token with claims of whatever type."""
    return peer.logout_token(**claims)


WRONG_CLAIMS: dict[str, Callable[[OpenIDPeer], str]] = {
    "no_jti": lambda peer: peer.logout_token(jti=None),
    "empty_jti": lambda peer: peer.logout_token(jti=""),
    "jti_is_number": lambda peer: peer.logout_token(jti=7),
    "no_iat": lambda peer: peer.logout_token(iat=None),
    "iat_is_text": lambda peer: peer.logout_token(iat="now"),
    "iat_old": lambda peer: peer.logout_token(iat=int(peer.clock()) - 3600),
    "iat_future": lambda peer: peer.logout_token(iat=int(peer.clock()) + 3600),
    "exp_past": lambda peer: peer.logout_token(exp=int(peer.clock()) - 120),
    "typ_access": lambda peer: peer.logout_token(header={"typ": "at+jwt"}),
    "typ_secevent": lambda peer: peer.logout_token(header={"typ": "secevent+jwt"}),
    "nobody": lambda peer: peer.logout_token(sub=None, sid=None),
    "sid_is_list": lambda peer: sign_logout(peer, sid=[peer.active_sids[-1]]),
    "sub_empty": lambda peer: peer.logout_token(sub=""),
    "crit": lambda peer: peer.logout_token(header={"crit": ["exp"]}),
    "an_id_token": lambda peer: str(peer.issued[-1]["id_token"]),
    "an_access_token": lambda peer: str(peer.issued[-1]["access_token"]),
    "empty": lambda peer: "",
    "dots": lambda peer: "..",
    "large": lambda peer: "a" * 60_000,
}


@pytest.mark.parametrize("name", WRONG_CLAIMS)
async def test_b29_wrong_logout_tokens(stage: Stage, name: str) -> None:
    """A logout token that lacks or overstates anything is answered with 400 and ends nothing."""
    await stage.sign_in()
    status, headers, _ = await stage.tell(WRONG_CLAIMS[name](stage.peer))
    assert (status, headers["Authproxy-Refusal"]) == (400, "invalid_logout_token")
    assert await stage.is_in()


async def test_b29_replayed_logout_token(pair: Stage, somebody: Somebody) -> None:
    """A logout token works once, whichever replica it is brought to."""
    await pair.sign_in()
    token = pair.peer.logout_token(sub="sub-alice")
    assert (await pair.tell(token))[0] == 200
    assert (await pair.tell(token, replica=1))[0] == 400
    assert (await pair.tell(token))[0] == 400


@pytest.mark.parametrize(
    ("method", "content_type", "body", "statuses"),
    [
        ("GET", None, None, {405}),
        ("POST", "application/json", '{"logout_token": "x"}', {400}),
        ("POST", "text/plain", "logout_token=x", {400}),
        ("POST", "application/x-www-form-urlencoded", "logout_token=x&logout_token=y", {400}),
        ("POST", "application/x-www-form-urlencoded", "token=x", {400}),
        ("POST", "application/x-www-form-urlencoded", "", {400}),
        ("POST", "application/x-www-form-urlencoded", "logout_token=%FF", {400}),
        ("POST", "application/x-www-form-urlencoded", "logout_token=" + "a" * 70_000, {413}),
    ],
)
async def test_b29_wrong_logout_requests(
    stage: Stage, method: str, content_type: str | None, body: str | None, statuses: set[int]
) -> None:
    """Only a small form with one logout token is read."""
    headers = {"Content-Type": content_type} if content_type else {}
    url = stage.at(f"{PREFIX}/backchannel_logout")
    page = await stage.browser.request(method, url, headers=headers, data=body)
    assert page.status in statuses
    assert page.headers["Cache-Control"] == "no-store"
    assert len(stage.codes(page)) == 1


async def test_b30_logout_by_subject(stages: Set, redis_server: RedisServer, somebody: Somebody) -> None:
    """A logout token with a subject alone ends the person's three sessions on three replicas; the next one lives."""
    stage = await stages(replicas=3, store={"redis": {"url": redis_server.url}})
    browsers = [stage.browser, await somebody(stage), await somebody(stage)]
    for number, browser in enumerate(browsers):
        await stage.sign_in(browser=browser, replica=number)
    bob = await somebody(stage)
    stage.peer.current_user = "bob"
    await stage.sign_in(browser=bob)
    stage.peer.current_user = "alice"
    stage.clock.pass_(1)
    assert (await stage.tell(sub="sub-alice", replica=1))[0] == 200
    for proxy in stage.proxies:
        await proxy.graph.marks.sync()
    for browser in browsers:
        assert [await stage.is_in(browser=browser, replica=number) for number in range(3)] == [False] * 3
    assert await stage.is_in(browser=bob)
    await stage.sign_in(browser=browsers[0])
    for proxy in stage.proxies:
        await proxy.graph.marks.sync()
    assert [await stage.is_in(browser=browsers[0], replica=number) for number in range(3)] == [True] * 3


async def test_b30_a_mark_arrives_by_itself(pair: Stage) -> None:
    """Nobody has to ask: the other replica learns of a logout within a second, and cuts what hangs on the session."""
    await pair.sign_in()
    assert await pair.is_in(replica=1)
    (live,) = pair.proxies[1].graph.live._sessions.values()
    cut = asyncio.Event()
    live.on_end(cut.set)
    assert (await pair.tell(sid=pair.peer.active_sids[-1]))[0] == 200
    with within(2.0):
        async with asyncio.timeout(PATIENCE):
            await cut.wait()
    assert not await pair.is_in(replica=1)


@pytest.mark.parametrize("by", ["sid", "sub"])
async def test_b31_logout_while_the_sign_in_is_under_way(stage: Stage, by: str) -> None:
    """A logout token that overtakes the callback of its own session wins: the session never begins."""
    back = await stage.returning()
    gate = stage.peer.hold("token")
    callback = asyncio.ensure_future(stage.browser.navigate(back, headers=CROSS))
    await stage.peer.wait_for("token")
    stage.clock.pass_(1)
    told = {"sid": stage.peer.active_sids[-1], "sub": None} if by == "sid" else {"sub": "sub-alice"}
    assert (await stage.tell(**told))[0] == 200
    gate.set()
    page = await callback
    if by == "sid":
        await stage.denied(page, "session_revoked", status=403)
    else:  # nothing in the logout token says which of the subject's sign-ins it means: the later one stays
        assert await stage.is_in()


async def test_b31_logout_while_a_refresh_is_under_way(stage: Stage) -> None:
    """A logout token that arrives during a refresh wins: the renewed session is not entered."""
    await stage.sign_in()
    stage.clock.pass_(MINUTES)
    gate = stage.peer.hold("token")
    request = asyncio.ensure_future(stage.browser.xhr(stage.at("/during")))
    await stage.peer.wait_for("token", grant_type="refresh_token")
    assert (await stage.tell(sid=stage.peer.active_sids[-1]))[0] == 200
    seen = stage.reached()
    gate.set()
    assert (await request).status == 401
    assert not await stage.is_in()
    assert stage.reached() == seen


# --- logout by the person ---


async def test_b32_a_link_signs_nobody_out(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A link or an image on another site only leads to a question; and the ID token is in no log."""
    await stage.sign_in()
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_out?rd=/x"), headers=CROSS)
    assert page.status == 200
    image = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image", **CROSS}
    await stage.browser.request("GET", stage.at(f"{PREFIX}/sign_out"), headers=image)
    assert await stage.is_in()
    assert set_cookies(page).keys() == {"authproxy_portal"}
    await stage.sign_out()
    id_token = stage.peer.issued[-1]["id_token"]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("authproxy")]
    assert not any(id_token in text or "id_token_hint" in text for text in ours)
    assert id_token not in stage.audits[0].read_text()


@pytest.mark.parametrize("token", [None, "", "wrong", "\x00"])
async def test_b32_a_form_of_another_site_signs_nobody_out(stage: Stage, token: str | None) -> None:
    """A sign-out form without the token of this browser is refused."""
    await stage.sign_in()
    await stage.browser.navigate(stage.at(f"{PREFIX}/sign_out"))
    data = {} if token is None else {"csrf_token": token}
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_out"), method="POST", data={"rd": "/", **data})
    assert (page.status, page.headers["Authproxy-Refusal"]) == (403, "csrf")
    assert await stage.is_in()


async def test_b32_a_token_of_another_browser_signs_nobody_out(stage: Stage, somebody: Somebody) -> None:
    """The attacker's own token does not work in the victim's browser."""
    await stage.sign_in()
    attacker = await somebody(stage)
    await stage.sign_in(browser=attacker)
    token = (await attacker.navigate(stage.at(f"{PREFIX}/sign_out"))).form("csrf_token").fields["csrf_token"]
    page = await stage.browser.navigate(
        stage.at(f"{PREFIX}/sign_out"), method="POST", data={"csrf_token": token}, headers=CROSS
    )
    assert page.headers["Authproxy-Refusal"] == "csrf"
    assert await stage.is_in()


async def test_b33_logout_while_redis_is_down(pair: Stage, redis_server: RedisServer) -> None:
    """Signing out works without Redis: here at once, and on the other replica when Redis is back; the cookie goes."""
    await pair.sign_in()
    assert await pair.is_in(replica=1)
    cookie = pair.session_cookie()
    redis_server.stop()
    page = await pair.sign_out()
    assert page.status == 303
    assert "Max-Age=0" in set_cookies(page)["authproxy"]
    assert not await pair.in_with(cookie)
    redis_server.start()
    await _reconnected(pair.proxies[0])
    await pair.proxies[0].graph.marks.sync()
    await _reconnected(pair.proxies[1])
    await pair.proxies[1].graph.marks.sync()
    assert not await pair.in_with(cookie, replica=1)
    assert not await pair.in_with(cookie)
    await pair.proxies[0].graph.logout.close()
    assert not pair.peer.refresh_tokens.is_alive(pair.peer.issued[0]["refresh_token"])


async def _reconnected(proxy: Authproxy) -> None:
    """Wait until the proxy has found Redis again; its pause after a failure is its own affair."""
    from authproxy.errors import StoreUnavailable

    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await proxy.graph.store.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.1)


# --- whose session ---


async def test_b34_session_fixation(stage: Stage, somebody: Somebody) -> None:
    """Whoever signs in over a planted session gets a new one, and the planted one is over."""
    attacker = await somebody(stage)
    stage.peer.current_user = "bob"
    await stage.sign_in(browser=attacker)
    planted = stage.session_cookie(attacker)
    stage.peer.current_user = "alice"
    stage.browser.put(stage.at(), planted + "; Path=/")
    await stage.browser.open(stage.at(f"{PREFIX}/start"))
    assert stage.app.last.get("X-Forwarded-User") == "alice@example.com"
    assert stage.session_cookie() != planted
    assert not await stage.in_with(planted)
    assert not await stage.is_in(browser=attacker)


@pytest.mark.parametrize("value", ["chosen-by-the-attacker", "A" * 43, "AQAQAQAQ", "2~AAAAAA", "000000000"])
async def test_b34_made_up_session_ids(stage: Stage, value: str) -> None:
    """A session id that somebody else chose is never adopted."""
    stage.browser.put(stage.at(), f"authproxy={value}; Path=/")
    await stage.sign_in()
    assert value not in stage.session_cookie()
    assert not await stage.in_with(f"authproxy={value}")


async def test_b34_state_cookies_of_the_attacker(stage: Stage, somebody: Somebody) -> None:
    """A planted sign-in state signs the victim in as nobody: the portal's cookies of two browsers do not mix."""
    attacker = await somebody(stage)
    back = await stage.returning(browser=attacker)
    states = {name: value for name, value in attacker.cookies(back).items() if "_state_" in name}
    for name, value in states.items():
        stage.browser.put(back, f"{name[:-3]}xyz={value}; Path=/")
    await stage.denied(await stage.browser.navigate(back, headers=CROSS), "state_unknown", status=400)


async def test_b35_changed_groups(stages: Set) -> None:
    """Rights are judged anew with what a refresh brings: who has left the group is refused at once."""
    staff = {"people": {"any": [{"groups": ["staff"]}]}}
    stage = await stages(policies=staff, provider={"scopes": ["openid", "email", "groups", "offline_access"]})
    await stage.sign_in()
    alice = stage.peer.people["alice"]
    stage.peer.people["alice"] = alice._replace(claims={**alice.claims, "groups": ["guests"]})
    assert await stage.is_in()
    seen = stage.reached()
    stage.clock.pass_(MINUTES)
    page = await stage.browser.xhr(stage.at("/staff"))
    assert (page.status, page.headers["Authproxy-Refusal"]) == (403, "not_allowed")
    assert stage.reached() == seen


EMAILS: dict[str, dict[str, Any]] = {
    "unverified": {"email": "alice@example.com", "email_verified": False},
    "not_said": {"email": "alice@example.com", "email_verified": None},
    "verified_as_text": {"email": "alice@example.com", "email_verified": "true"},
    "verified_as_number": {"email": "alice@example.com", "email_verified": 1},
    "two_at": {"email": "alice@evil.example@example.com"},
    "two_at_reversed": {"email": "alice@example.com@evil.example"},
    "suffix": {"email": "alice@evilexample.com"},
    "subdomain": {"email": "alice@sub.example.com"},
    "superdomain": {"email": "alice@example.com.evil.example"},
    "no_local_part": {"email": "@example.com"},
    "no_domain": {"email": "alice"},
    "list": {"email": ["alice@example.com"]},
    "line_end": {"email": "alice@evil.example\n@example.com"},
    "kelvin": {"email": "alice@example.\u212aom"},
    "space": {"email": "alice@example.com "},
    "missing": {"email": None},
}


@pytest.mark.parametrize("name", EMAILS)
async def test_b36_email_policy(stages: Set, name: str) -> None:
    """A policy on e-mail domains believes one verified address with one at sign and exactly that domain."""
    stage = await stages(policies={"people": {"any": [{"emails": ["*@example.com"]}]}})
    stage.peer.mangle_id_token = lambda claims, _: claims.update(EMAILS[name])
    page = await stage.browser.open(stage.at("/mail"))
    assert (page.status, page.headers["Authproxy-Refusal"]) == (403, "not_allowed")
    assert stage.reached() == 0


async def test_b36_email_case(stages: Set) -> None:
    """Case makes no difference to an address."""
    stage = await stages(policies={"people": {"any": [{"emails": ["*@example.com"]}]}})
    stage.peer.mangle_id_token = lambda claims, _: claims.update(email="Alice@EXAMPLE.com")
    await stage.sign_in()


GROUPS: dict[str, tuple[Any, str | None]] = {
    "text": ("staff", "staff"),
    "list": (["staff", "admins"], "staff,admins"),
    "dict": ({"staff": True}, None),
    "number": (7, None),
    "nested": ([["staff"], {"a": 1}, 7, None, "real"], "real"),
    "comma": (["a,b", "c"], "a%2Cb,c"),
    "percent": (["a%2Cb"], None),
    "line_end": (["staff\r\nX-Forwarded-User: root", "c"], "c"),
    "non_ascii": (["größe"], None),
    "empty": (["", "a", ""], "a"),
    "doubled": (["a", "a"], "a"),
}


@pytest.mark.parametrize("name", GROUPS)
async def test_b37_groups_of_any_shape(stage: Stage, name: str) -> None:
    """Groups of whatever shape never break a header, and never read as other groups."""
    value, expected = GROUPS[name]
    stage.peer.mangle_id_token = lambda claims, _: claims.update(groups=value)
    await stage.sign_in()
    (line,) = stage.app.last.all("X-Forwarded-Groups") or [""]
    assert line.isascii()
    if expected is not None:
        assert line == expected
    if name in ("percent", "comma"):
        assert line.split(",")[0] not in ("a,b", "a%2Cb" if name == "percent" else "")
    assert stage.app.last.get("X-Forwarded-User") == "alice@example.com"


async def test_b37_ten_thousand_groups(stages: Set) -> None:
    """A crowd of groups is cut at whole names, and the application is told."""
    stage = await stages(provider={"userinfo": True})
    stage.peer.userinfo_overrides["groups"] = [f"group-{number}" for number in range(10_000)]
    await stage.sign_in()
    line = stage.app.last.get("X-Forwarded-Groups") or ""
    assert 4000 < len(line) <= 8192
    assert all(group == f"group-{number}" for number, group in enumerate(line.split(",")))
    assert stage.app.last.get("X-Forwarded-Groups-Truncated") == "true"


@pytest.mark.parametrize("kind", ["DPoP", "N_A", "bearer x"])
async def test_b38_bound_tokens(stage: Stage, kind: str) -> None:
    """A token endpoint that issues tokens bound to a key that we do not have is not used."""

    def bound(call: Any) -> Any:
        answer = stage.peer._token(call)
        return (answer[0], {**answer[1], "token_type": kind}) if isinstance(answer, tuple) else answer

    stage.peer.token_answer = bound
    await stage.refused_sign_in("provider_unreachable", status=502)


async def test_b_moved_callback_keeps_its_redirect_uri(pair: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A sign-in begun on one replica is finished on another."""
    caplog.set_level(logging.INFO)
    back = moved(await pair.returning("/deep"), pair.port(1))
    page = await pair.browser.navigate(back, headers=CROSS)
    assert (page.status, begins_session(page)) == (302, True)
    assert await pair.is_in()
