"""Attacks on the session cookie, on what stands behind it, and on its end."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from authproxy.app import Authproxy
from authproxy.sessions.sealing import KeyRing
from tests.hostile.harness import (
    HOST,
    PREFIX,
    SESSION,
    Set,
    Stage,
    StrictBrowser,
    begins_session,
    is_session,
    send,
    set_cookies,
)  # fmt: skip
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import within

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
Replica = Callable[..., Awaitable[Authproxy]]
MINUTES = 11 * 60.0
HOURS = 3600.0
NEW_KEY = base64.urlsafe_b64encode(b"n" * 32).rstrip(b"=").decode()


@pytest.fixture
async def pair(stages: Set, redis_server: RedisServer) -> Stage:
    """Two replicas that share a Redis and their keys."""
    return await stages(replicas=2, store={"redis": {"url": redis_server.url}})


def attributes(line: str) -> set[str]:
    """The attributes of a Set-Cookie line, without Max-Age."""
    return {part.strip() for part in line.split(";")[1:] if not part.strip().startswith("Max-Age")}


# --- what is set ---


async def test_d1_cookies_on_https(stages: Set) -> None:
    """On https every cookie of ours is ``__Host-``, Secure, HttpOnly, Lax, for the whole host and for no other."""
    stage = await stages(https=True)
    await stage.sign_in()
    await stage.sign_out()
    lines = [line for page in stage.browser.visited for line in page.headers.getall("Set-Cookie", [])]
    names = {line.partition("=")[0] for line in lines}
    assert "__Host-authproxy" in names
    assert {name[:16] for name in names} == {"__Host-authproxy"}
    for line in lines:
        assert attributes(line) == {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"}
        assert len(line) < 4096


async def test_d1_a_large_ticket_is_split(stages: Set) -> None:
    """A refresh token of many kilobytes is spread over cookies that browsers keep; all of them come back."""
    stage = await stages(https=True, before=_with_large_refresh_tokens)
    await stage.sign_in()
    parts = {name: value for name, value in stage.browser.cookies(stage.at()).items() if is_session(name)}
    assert set(parts) == {"__Host-authproxy", "__Host-authproxy_1"}
    assert all(len(value) < 4000 for value in parts.values())
    cookie = stage.session_cookie()
    assert await stage.in_with(cookie)
    first, second = cookie.split("; ")
    assert not await stage.in_with(first)
    assert not await stage.in_with(second)
    assert not await stage.in_with(f"{first}; {second}; {second[:-1]}x")
    gone = set_cookies(await stage.sign_out())
    assert {name for name in gone if is_session(name)} == set(parts)


def _with_large_refresh_tokens(peer: Any) -> None:
    fresh = peer.refresh_tokens.issue

    def issue(consent: Any, now: float) -> str:
        family = peer.refresh_tokens._families[fresh(consent, now)]
        family.current += "x" * 4000
        peer.refresh_tokens._families[family.current] = family
        return str(family.current)

    peer.refresh_tokens.issue = issue


async def test_d1_a_ticket_that_fits_no_cookie(stages: Set) -> None:
    """A refresh token beyond what browsers keep is refused as the provider's fault, not cut."""

    def huge(peer: Any) -> None:
        peer.refresh_tokens.issue = lambda consent, now: "x" * 30_000

    stage = await stages(before=huge)
    page = await stage.browser.open(stage.at())
    assert (page.status, page.headers["Authproxy-Refusal"]) == (502, "refresh_token_too_large")
    assert not begins_session(page)
    assert not await stage.is_in()
    stage.browser.visited.remove(page)  # meant, and looked at here


async def test_d2_domain_cookies(stages: Set) -> None:
    """With a cookie domain the session is ``__Secure-`` with that domain; whatever else we set stays with its host."""
    stage = await stages(https=True, session={"cookie": {"domain": "corp.test"}})
    page = await stage.sign_in()
    assert page.url == stage.at("/")
    lines = [line for page in stage.browser.visited for line in page.headers.getall("Set-Cookie", [])]
    session = [line for line in lines if is_session(line.partition("=")[0])]
    assert session
    assert all(line.startswith("__Secure-authproxy=") for line in session)
    assert all(
        attributes(line) == {"Path=/", "HttpOnly", "SameSite=Lax", "Secure", "Domain=corp.test"} for line in session
    )
    assert all(line.startswith("__Host-") for line in lines if line not in session)
    callbacks = [page.url for page in stage.browser.visited if "/callback" in page.url]
    assert all(url.startswith("https://auth.corp.test") for url in callbacks)


# --- what is sent ---


async def test_d3_tossed_cookies(stage: Stage, somebody: Somebody) -> None:
    """Two cookies that open two sessions open none; one beside rubbish opens its own, in either order."""
    await stage.sign_in()
    mine = stage.session_cookie()
    attacker = await somebody(stage)
    stage.peer.current_user = "bob"
    await stage.sign_in(browser=attacker)
    other = stage.session_cookie(attacker)
    assert not await stage.in_with(f"{mine}; {other}")
    assert not await stage.in_with(f"{other}; {mine}")
    for rubbish in ("authproxy=", "authproxy=x", "authproxy=4~x", f"{mine[:-2]}xx", "authproxy_1=y"):
        assert await stage.in_with(f"{rubbish}; {mine}"), rubbish
        assert await stage.in_with(f"{mine}; {rubbish}"), rubbish
        assert stage.app.last.get("X-Forwarded-User") == "alice@example.com"
    assert await stage.in_with(f"{mine}; {mine}")


async def test_d3_cookies_on_two_lines(stage: Stage, somebody: Somebody) -> None:
    """Two Cookie lines are read as one."""
    await stage.sign_in()
    attacker = await somebody(stage)
    stage.peer.current_user = "bob"
    await stage.sign_in(browser=attacker)
    mine, other = stage.session_cookie(), stage.session_cookie(attacker)
    assert (await stage.raw(mine, extra=f"Cookie: {other}\r\n")).status == 401
    assert (await stage.raw(mine, extra="cookie: a=b\r\n")).status == 200


async def test_d3_other_names_are_not_ours(stages: Set) -> None:
    """On https a cookie without the prefix, which a sibling site or plain http can set, opens nothing."""
    stage = await stages(https=True)
    await stage.sign_in()
    value = stage.session_cookie().partition("=")[2]
    assert await stage.in_with(f"__Host-authproxy={value}")
    for name in ("authproxy", "__Secure-authproxy", "__host-authproxy", "__HOST-authproxy", " __Host-authproxy\xa0"):
        assert not await stage.in_with(f"{name}={value}"), name


ODD: dict[str, bytes] = {
    "empty": b"",
    "nonsense": b"===;;;",
    "thousand": b"; ".join(b"a%d=b" % number for number in range(1000)),
    "thousand_of_ours": b"; ".join([b"authproxy=x"] * 500),
    "thousand_states": b"; ".join(b"authproxy_state_%x_abcdefghij=x" % number for number in range(200)),
    "quotes": b'authproxy="x"; b="',
    "quoted_escape": b'authproxy="\\073\\054"',
    "control": b"authproxy=a\x01b",
    "tab": b"authproxy=a\tb",
    "delete": b"authproxy=\x7f",
    "high_bytes": b"authproxy=\xff\xfe",
    "latin": "authproxy=gr\xfc\xdfe".encode("latin-1"),
    "utf8": "authproxy=größe; \u2603=\u2603".encode(),
    "no_name": b"=authproxy; =; =x",
    "only_semicolons": b";" * 4000,
    "only_equals": b"=" * 4000,
    "spaces": b" " * 4000 + b"authproxy=x",
    "long_value": b"authproxy=" + b"A" * 7000,
    "long_name": b"A" * 7000 + b"=x",
    "chunks_without_end": b"authproxy=4~x; authproxy_1=x; authproxy_2=x",
    "chunk_counts": b"authproxy=9~x; authproxy=-1~x; authproxy=1~x; authproxy=~",
    "all_zero": b"authproxy=" + b"A" * 200,
    "version_byte": b"authproxy=" + base64.urlsafe_b64encode(b"\x02" * 100).rstrip(b"="),
    "comma": b"authproxy=a, authproxy=b",
    "dollar": b"$Version=1; authproxy=x; $Path=/",
    "browser": b"authproxy_browser=x; authproxy_portal=x",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "target", ["/", f"{PREFIX}/sign_in", f"{PREFIX}/userinfo", f"{PREFIX}/callback/peer?state=x&code=y"]
)
async def test_d4_odd_cookies(stage: Stage, name: str, target: str) -> None:
    """No Cookie header, however odd, brings a failure of ours; it is a stranger's, or a bad request."""
    answer = await stage.raw(ODD[name], target=target)
    assert answer.status in (302, 400, 401), answer
    assert stage.reached() == 0


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith(("authproxy", "thousand_of"))])
async def test_d4_odd_cookies_beside_a_session(stage: Stage, name: str) -> None:
    """An odd neighbour does not sign anybody out, unless it poses as our own cookie or breaks the header."""
    await stage.sign_in()
    mine = stage.session_cookie().encode()
    answer = await stage.raw(mine + b"; " + ODD[name])
    assert answer.status in (200, 400, 401), answer
    if b"authproxy" not in ODD[name] and ODD[name].isascii() and len(ODD[name] + mine) < 8000:
        assert answer.status == 200


@pytest.mark.parametrize("size", [9_000, 70_000, 1_000_000])
async def test_d4_giant_cookies(stage: Stage, size: int) -> None:
    """A Cookie header beyond the limit is refused as a bad request, without being read to its end."""
    head = f"GET / HTTP/1.1\r\nHost: app.corp.test\r\nCookie: a={'x' * size}\r\n\r\n".encode()
    try:
        answer = await send(stage.port(), head)
    except (ConnectionError, asyncio.IncompleteReadError):
        return  # closed while we were still sending
    assert answer.status in (302, 400, 401, 431)
    assert stage.reached() == 0


# --- what is stored ---


async def test_d5_the_store_lets_nobody_in(pair: Stage, redis_server: RedisServer) -> None:
    """Nothing in Redis opens a session, and nothing there names one: not the cookie, not an id, not a token."""
    await pair.sign_in()
    cookie = pair.session_cookie()
    sealed = cookie.partition("=")[2]
    ticket = pair.proxies[0].graph.cookie.open(sealed, HOST)
    assert ticket is not None
    assert len(base64.urlsafe_b64decode(ticket.sid + "=")) == len(base64.urlsafe_b64decode(ticket.secret + "=")) == 32
    issued = pair.peer.issued[0]
    secrets = [sealed, ticket.sid, ticket.secret, ticket.token.value, issued["access_token"], issued["id_token"]]
    secrets += ["sub-alice", "alice@example.com", str(pair.peer.active_sids[-1]), str(pair.peer.client_secret)]
    dump = _everything(redis_server)
    assert len(dump) >= 3
    for secret in secrets:
        assert not any(secret.encode() in text for text in dump), secret
    for text in dump:
        for piece in (text, *text.split(b":")):
            if 0 < len(piece) < 6000 and piece.isascii() and b"\n" not in piece and b"\r" not in piece:
                assert not await pair.in_with(f"{SESSION}={piece.decode()}")


def _everything(server: RedisServer) -> list[bytes]:
    keys = server.command("KEYS", "*")
    assert isinstance(keys, list)
    found: list[bytes] = []
    for key in keys:
        assert isinstance(key, bytes)
        found.append(key)
        for words in (
            ("GET", key),
            ("SMEMBERS", key),
            ("XRANGE", key, "-", "+"),
            ("HGETALL", key),
            ("LRANGE", key, 0, -1),
        ):
            try:
                found += _flat(server.command(*words))
            except Exception:
                continue
    return found


def _flat(reply: Any) -> list[bytes]:
    if isinstance(reply, list):
        return [piece for part in reply for piece in _flat(part)]
    return [reply] if isinstance(reply, bytes) else []


# --- towards the application and back ---


async def test_d6_our_cookies_stay_here(stage: Stage) -> None:
    """The application sees every cookie but ours: byte for byte, in order; no header where nothing is left."""
    await stage.sign_in()
    mine = stage.session_cookie()
    assert stage.app.last.get("Cookie") is None
    theirs = 'z=1; a="q;'
    await stage.raw(f'z=1; {mine}; a="x y"; authproxy_browser=b; b=; authproxyx=1; authproxy_state_1_abc=s; =e; c==d')
    assert stage.app.last.all("Cookie") == ['z=1; a="x y"; b=; authproxyx=1; =e; c==d'], theirs


async def test_d6_our_cookies_on_https_stay_here(stages: Set) -> None:
    """So it is with prefixes, whichever of them."""
    stage = await stages(https=True)
    await stage.sign_in()
    mine = stage.session_cookie()
    await stage.raw(f"a=1; {mine}; __Host-authproxy_browser=b; __Secure-authproxy=s; authproxy=p; __Host-other=1")
    assert stage.app.last.all("Cookie") == ["a=1; __Host-other=1"]


async def test_d7_the_application_cannot_set_our_cookies(stage: Stage) -> None:
    """Set-Cookie lines of the application with our names are dropped; its own pass."""
    await stage.sign_in()
    kept = "theirs=1; Path=/"
    forged = [
        f"{SESSION}=x",
        f"{SESSION}_1=x; Path=/",
        f"__Host-{SESSION}=x; Secure",
        f" {SESSION}=x",
        f"{SESSION}_browser=x",
    ]

    from aiohttp import web

    async def answer(_request: web.Request, _seen: Any) -> web.Response:
        response = web.Response(text="x")
        for line in (*forged, kept):
            response.headers.add("Set-Cookie", line)
        return response

    stage.app._answer = answer  # type: ignore[method-assign, assignment]
    page = await stage.browser.navigate(stage.at("/forges"))
    assert page.headers.getall("Set-Cookie") == [kept]


# --- the end ---


async def test_d8_idle_end(stages: Set) -> None:
    """A session that nobody uses ends; one that is used goes on."""
    stage = await stages(session={"idle": "1h"}, peer={"id_token_lifetime": 12 * HOURS})
    await stage.sign_in()
    for _ in range(3):
        stage.clock.pass_(0.9 * HOURS)
        assert await stage.is_in()
    stage.clock.pass_(1.1 * HOURS)
    assert not await stage.is_in()
    assert not await stage.is_in()


async def test_d8_absolute_end(stages: Set) -> None:
    """However much it is used and renewed, a session ends when it has to, and its cookie says so."""
    stage = await stages(session={"idle": "1h", "absolute": "3h"})
    await stage.sign_in()
    line = next(line for page in stage.browser.visited if (line := set_cookies(page).get(SESSION)))
    assert "Max-Age=10800" in line
    for _ in range(11):
        stage.clock.pass_(0.25 * HOURS)
        assert await stage.is_in()
    assert len(stage.peer.asked("token", grant_type="refresh_token")) >= 5
    cookie = stage.session_cookie()
    stage.clock.pass_(0.25 * HOURS)
    assert not await stage.in_with(cookie)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_d8_idle_end_after_flushall(
    pair: Stage, redis_server: RedisServer, replica: Replica, elsewhere: bool
) -> None:
    """A cookie that was sealed longer ago than ``idle`` opens nothing without its record, however good its token is."""
    await pair.sign_in()
    redis_server.flush()
    pair.clock.pass_(9 * HOURS)
    if elsewhere:
        await replica(pair, store={"redis": {"url": redis_server.url}})
    assert not await pair.is_in(replica=2 if elsewhere else 1)
    assert pair.peer.asked("token", grant_type="refresh_token") == []


async def test_d8_a_fresh_cookie_after_flushall(pair: Stage, redis_server: RedisServer) -> None:
    """A cookie that was sealed within ``idle`` makes a new record, by one refresh, on a replica that knows nothing."""
    await pair.sign_in()
    redis_server.flush()
    pair.clock.pass_(7 * HOURS)
    assert await pair.is_in(replica=1)
    assert pair.peer.refreshes == ["rotated"]


async def test_d8_use_on_one_replica_counts_on_the_other(pair: Stage) -> None:
    """Idle time is a fact in the store: what is used here does not end there."""
    await pair.sign_in()
    cookie = pair.session_cookie()
    assert await pair.in_with(cookie, replica=1)
    for _ in range(3):
        pair.clock.pass_(5 * HOURS)
        assert await pair.is_in()
        await pair.proxies[0].graph.resumption.write_back()
    assert await pair.is_in(replica=1)


async def test_d8_the_absolute_end_survives_flushall(stages: Set, redis_server: RedisServer) -> None:
    """The absolute end is in the sealed cookie: an emptied store does not prolong it."""
    stage = await stages(store={"redis": {"url": redis_server.url}}, session={"absolute": "4h", "idle": "3h"})
    await stage.sign_in()
    stage.clock.pass_(2 * HOURS)
    assert await stage.is_in()
    redis_server.flush()
    assert await stage.is_in()
    stage.clock.pass_(2 * HOURS)
    assert not await stage.is_in()


async def test_d9_replay_after_sign_out(pair: Stage) -> None:
    """A copied cookie opens nothing after its owner has signed out: here at once, elsewhere within a second."""
    await pair.sign_in()
    cookie = pair.session_cookie()
    assert await pair.in_with(cookie, replica=1)
    await pair.sign_out()
    assert not await pair.in_with(cookie)
    with within(1.5):
        async with asyncio.timeout(PATIENCE):
            while await pair.in_with(cookie, replica=1):
                await asyncio.sleep(0.02)
    assert not await pair.in_with(cookie, replica=1)


async def test_d9_replay_after_sign_out_and_flushall(pair: Stage, redis_server: RedisServer, replica: Replica) -> None:
    """Emptying the store brings no session back: replicas tell it again what they know, and a new one listens."""
    await pair.sign_in()
    cookie = pair.session_cookie()
    await pair.sign_out()
    await pair.proxies[1].graph.marks.sync()
    redis_server.flush()
    for proxy in pair.proxies:
        await proxy.graph.marks.sync()
    await replica(pair, store={"redis": {"url": redis_server.url}})
    for number in range(3):
        assert not await pair.in_with(cookie, replica=number)
    assert pair.peer.asked("token", grant_type="refresh_token") == []


async def test_d9_older_cookies_of_the_session_end_with_it(stage: Stage) -> None:
    """Sign-out ends every cookie that was ever sealed for the session."""
    await stage.sign_in()
    cookies = [stage.session_cookie()]
    for _ in range(3):
        stage.clock.pass_(MINUTES)
        assert await stage.is_in()
        cookies.append(stage.session_cookie())
    assert len(set(cookies)) == 4
    await stage.sign_out()
    for cookie in cookies:
        assert not await stage.in_with(cookie)


@pytest.mark.parametrize(
    "options", [{}, {"https": True}, {"https": True, "session": {"cookie": {"domain": "corp.test"}}}]
)
async def test_d10_sign_out_clears_with_the_same_attributes(stages: Set, options: dict[str, Any]) -> None:
    """The cookie is deleted under the very attributes that it was set with; otherwise browsers keep it."""
    stage = await stages(**options)
    await stage.sign_in()
    given = [line for page in stage.browser.visited for line in page.headers.getall("Set-Cookie", [])]
    begun = next(line for line in given if is_session(line.partition("=")[0]))
    page = await stage.sign_out()
    ended = next(line for name, line in set_cookies(page).items() if is_session(name))
    assert ended.partition("=")[0] == begun.partition("=")[0]
    assert attributes(ended) == attributes(begun)
    assert "Max-Age=0" in ended
    assert stage.session_cookie() == ""


# --- other sites ---


@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
async def test_d11_same_site_of_the_session(stages: Set, same_site: str) -> None:
    """The session cookie says what is configured, and our other cookies stay Lax."""
    stage = await stages(https=True, session={"cookie": {"same_site": same_site}})
    await stage.sign_in()
    lines = [line for page in stage.browser.visited for line in page.headers.getall("Set-Cookie", [])]
    for line in lines:
        wanted = same_site.capitalize() if is_session(line.partition("=")[0]) else "Lax"
        assert f"SameSite={wanted}" in line


async def test_d11_cross_site_post(stages: Set) -> None:
    """A form on another site reaches nothing: the browser keeps the session to itself."""
    stage = await stages(https=True)
    await stage.sign_in()
    seen = stage.reached()
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    page = await stage.browser.navigate(stage.at("/transfer"), method="POST", data={"to": "x"}, headers=headers)
    assert (page.status, stage.reached()) == (401, seen)


async def test_d11_state_cookie_for_form_post(stages: Set) -> None:
    """Only the state of an answer by form post may travel across sites, and only on https."""
    stage = await stages(https=True, provider={"response_mode": "form_post"})
    await stage.sign_in()
    lines = [line for page in stage.browser.visited for line in page.headers.getall("Set-Cookie", [])]
    for line in lines:
        wanted = "None" if "_state_" in line.partition("=")[0] else "Lax"
        assert f"SameSite={wanted}" in line
        assert "Secure" in line


async def test_d11_no_foreign_frame(stages: Set) -> None:
    """Our pages cannot be framed."""
    stage = await stages(provider={"password_login": True})
    page = await stage.browser.navigate(stage.at(f"{PREFIX}/sign_in"))
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


# --- keys and formats ---


def keys(*values: str) -> dict[str, Any]:
    """A session section with these keys."""
    return {"keys": [{"value": value} for value in values]}


async def test_d12_key_rotation(stages: Set, redis_server: RedisServer, replica: Replica) -> None:
    """Through old, mixed and new keys nobody is signed out on any replica; when the old key goes, so do its cookies."""
    shared = {"store": {"redis": {"url": redis_server.url}}}
    stage = await stages(**shared)
    await stage.sign_in()
    old = stage.session_cookie()
    await replica(stage, **shared, session=keys(SESSION_KEY, NEW_KEY))
    await replica(stage, **shared, session=keys(NEW_KEY, SESSION_KEY))
    await replica(stage, **shared, session=keys(NEW_KEY))
    assert await stage.is_in(replica=1)
    assert await stage.is_in(replica=2)
    stage.clock.pass_(3 * HOURS)
    assert await stage.is_in(replica=2)  # sealed again, under the new key
    assert stage.session_cookie() != old
    assert await stage.is_in(replica=3)
    assert await stage.is_in(replica=1)
    assert not await stage.in_with(old, replica=3)


async def test_d12_a_state_across_rotation(stages: Set, replica: Replica) -> None:
    """A sign-in that began under the old key is finished under the new one."""
    stage = await stages()
    back = await stage.returning()
    await replica(stage, session=keys(NEW_KEY, SESSION_KEY))
    page = await stage.browser.navigate(
        back.replace(str(stage.port()), str(stage.port(1))), headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert (page.status, begins_session(page)) == (302, True)


async def test_d12_an_unknown_key(stages: Set, replica: Replica) -> None:
    """A cookie by an unknown key is a stranger's, who can sign in; of ten thousand, none opens by chance."""
    stage = await stages()
    await stage.sign_in()
    await replica(stage, session=keys(NEW_KEY))
    page = await stage.browser.xhr(stage.at("/", replica=1))
    assert page.status == 401
    assert (await stage.browser.open(stage.at("/", replica=1))).status == 200
    ours, foreign = stage.proxies[0].graph.cookie, KeyRing([b"f" * 32])
    for number in range(10_000):
        forged = foreign.seal("session-cookie", b"[1]")
        assert ours.open(forged, HOST) is None, number


async def test_d12_every_bit_counts(stage: Stage) -> None:
    """A sealed cookie with any character changed opens nothing."""
    await stage.sign_in()
    sealed = stage.session_cookie().partition("=")[2]
    for place in range(len(sealed)):
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        assert stage.proxies[0].graph.cookie.open(changed, HOST) is None, place
    assert not await stage.in_with(f"{SESSION}={sealed}A")
    assert not await stage.in_with(f"{SESSION}={sealed[:-1]}")


@pytest.mark.parametrize("plain", [b"[2]", b"[2,1,2,3]", b"[99]", b'{"v":3}', b'{"v":"2"}', b"not json"])
async def test_d13_newer_versions(stage: Stage, plain: bytes) -> None:
    """A ticket of a newer version is no ticket: one signs in again, nothing breaks."""
    sealed = stage.proxies[0].graph.ring.seal("session-cookie", plain)
    assert (await stage.raw(f"{SESSION}={sealed}")).status == 401
    stage.browser.put(stage.at(), f"{SESSION}={sealed}; Path=/")
    assert (await stage.sign_in()).status == 200


@pytest.mark.parametrize("purpose", ["browser", "portal-state", "sign-in-state", "shared-refresh-token"])
async def test_d13_purposes_do_not_mix(stage: Stage, purpose: str) -> None:
    """What was sealed for one purpose opens nothing for another."""
    await stage.sign_in()
    ring = stage.proxies[0].graph.ring
    plain = ring.open("session-cookie", stage.session_cookie().partition("=")[2])
    assert plain is not None
    assert not await stage.in_with(f"{SESSION}={ring.seal(purpose, plain)}")
    values = stage.browser.cookies(stage.at())
    assert not await stage.in_with(f"{SESSION}={values['authproxy_browser']}")


# --- writers ---


async def test_d14_concurrent_writers(pair: Stage) -> None:
    """Uses, write-backs and renewals on two replicas at once lose no update, and leave the newest tokens."""
    await pair.sign_in()
    assert await pair.is_in(replica=1)
    for _ in range(5):
        pair.clock.pass_(MINUTES)
        work: list[Awaitable[Any]] = [pair.is_in(replica=number % 2) for number in range(10)]
        work += [proxy.graph.resumption.write_back() for proxy in pair.proxies]
        await asyncio.gather(*work)
    ticket = pair.proxies[0].graph.cookie.open(pair.session_cookie().partition("=")[2], HOST)
    assert ticket is not None
    stored = await pair.proxies[0].graph.vault.load(ticket)
    assert stored is not None
    assert stored.record.generation == 6
    assert pair.peer.refresh_tokens.is_alive(stored.record.token.value)
    assert pair.peer.refreshes == ["rotated"] * 5


async def test_d14_a_write_does_not_bring_a_session_back(pair: Stage) -> None:
    """A replica that writes back the last use of a session which has ended meanwhile does not revive it."""
    await pair.sign_in()
    cookie = pair.session_cookie()
    assert await pair.is_in(replica=1)
    pair.clock.pass_(1)
    assert await pair.in_with(cookie, replica=1)
    await pair.sign_out()
    await pair.proxies[1].graph.resumption.write_back()
    await pair.proxies[1].graph.marks.sync()
    assert not await pair.in_with(cookie)
    assert not await pair.in_with(cookie, replica=1)
