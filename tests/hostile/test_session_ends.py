"""A session that ends, ends everywhere; a token that was rotated is kept; a cookie belongs to its host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from authproxy.signin.token_pool import TRIES
from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import HOST, PREFIX, Set, Stage, StrictBrowser, set_cookies
from tests.peers.openid_endpoints import Answer, Call
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer

Somebody = Callable[[Stage], Awaitable[StrictBrowser]]
NEARLY = 570.0  # seconds: an ID token of the provider is due for renewal, and still good
EXPIRED = 660.0


@pytest.fixture
async def pair(stages: Set, redis_server: RedisServer) -> Stage:
    """Two replicas over one Redis; the person is known to both."""
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}})
    await stage.sign_in()
    assert await stage.is_in(replica=1)
    return stage


def refreshes(stage: Stage) -> list[Call]:
    """Every refresh call so far."""
    return stage.peer.asked("token", grant_type="refresh_token")


async def renewed_ahead(stage: Stage, replica: int = 0) -> None:
    """One request starts a renewal ahead of expiry; wait until that has ended."""
    await stage.browser.xhr(stage.at("/inside", replica=replica))
    await stage.proxies[replica].graph.resumption.close()


def of_another(claims: dict[str, Any], _header: dict[str, Any]) -> None:
    """The provider mixes up its users: the refreshed ID token has another subject."""
    claims["sub"] = "sub-mallory"


# --- an end is an end ---


@pytest.mark.parametrize("unacceptable", [False, True], ids=["invalid_grant", "ID token of another subject"])
async def test_an_end_at_a_renewal_ahead_of_expiry_holds_on_every_replica(pair: Stage, unacceptable: bool) -> None:
    """The old ID token is good for another half minute, and no request is served with it any more."""
    cookie = pair.session_cookie()
    pair.clock.pass_(NEARLY)
    if unacceptable:
        pair.peer.mangle_id_token = of_another
    else:
        pair.peer.refresh_tokens.kill(username="alice")
    await renewed_ahead(pair)
    assert len(refreshes(pair)) == 1
    await pair.proxies[1].graph.marks.sync()
    for number in (0, 1, 0, 1):
        assert not await pair.in_with(cookie, replica=number)
        pair.clock.pass_(0.5)
    assert len(refreshes(pair)) == 1


async def test_an_end_is_recorded_once(pair: Stage) -> None:
    """One audit line and one count say which session ended and why; no token is in it."""
    cookie = pair.session_cookie()
    pair.clock.pass_(NEARLY)
    pair.peer.refresh_tokens.kill(username="alice")
    await renewed_ahead(pair)
    for _ in range(3):
        assert not await pair.in_with(cookie)
    ends = [one for one in pair.records() if one["event"] == "session_ended"]
    assert [(one["outcome"], one["subject"], one["provider"]) for one in ends] == [("refused", "sub-alice", "peer")]
    assert "refused the refresh token" in ends[0]["reason"]
    metrics = pair.proxies[0].graph.metrics.text().decode()
    assert 'authproxy_events_total{event="session_ended",outcome="refused"} 1.0' in metrics
    assert 'authproxy_refresh_failures_total{provider="peer",reason="refused"} 1.0' in metrics


async def test_a_lenient_provider_sees_few_refreshes_of_a_session_that_cannot_be_renewed(stages: Set) -> None:
    """It takes the same token again and again, and answers with an ID token that is not acceptable: once is enough."""
    stage = await stages(peer={"rotate": False})
    await stage.sign_in()
    stage.clock.pass_(NEARLY)
    stage.peer.mangle_id_token = of_another
    for _ in range(100):
        await stage.browser.xhr(stage.at("/inside"))
        stage.clock.pass_(0.1)
    assert len(refreshes(stage)) == 1


@pytest.mark.parametrize("fault", [(500, b""), (200, b"<html>"), (401, b'{"error":"invalid_client"}')], ids=str)
async def test_a_failing_provider_is_not_asked_at_every_request(stages: Set, fault: tuple[int, bytes]) -> None:
    """Back-off holds for each session, also for one that is known from its cookie alone."""
    stage = await stages()
    await stage.sign_in()
    for known in (True, False):
        if not known:  # memory and store are lost
            graph = stage.proxies[0].graph
            (session,) = graph.live._sessions.values()
            await graph.vault.forget(session.ticket)
            graph.live.drop(session.id)
        before = len(refreshes(stage))
        stage.clock.pass_(EXPIRED if known else 0.0)
        stage.peer.fail("token", *fault, times=1000)
        for _ in range(50):
            page = await stage.browser.xhr(stage.at("/inside"))
            assert page.status == (200 if known else 503)
            stage.clock.pass_(0.1)
            await stage.proxies[0].graph.resumption.close()
        assert len(refreshes(stage)) - before <= 6


async def test_the_cookie_of_a_session_that_is_over_is_deleted(pair: Stage) -> None:
    """The answer that refuses it deletes it; a cookie that only this replica cannot open stays."""
    pair.clock.pass_(EXPIRED)
    pair.peer.refresh_tokens.kill(username="alice")
    page = await pair.browser.xhr(pair.at("/inside"))
    assert page.status == 401
    assert "Max-Age=0" in set_cookies(page)["authproxy"]
    foreign = await pair.raw("authproxy=" + "A" * 200)
    assert foreign.status == 401
    assert foreign.values("set-cookie") == []


async def test_a_late_request_of_the_former_session_leaves_the_new_cookie_alone(pair: Stage) -> None:
    """A request with the old cookie that is answered after the next sign-in must not delete what that has set."""
    old = pair.session_cookie()
    pair.clock.pass_(60)
    await pair.browser.open(pair.at(f"{PREFIX}/start"))
    assert pair.session_cookie() != old
    late = await pair.raw(old)
    assert late.status == 401
    assert late.values("set-cookie") == []
    assert await pair.is_in()


async def test_a_failing_store_and_provider_delete_no_cookie(pair: Stage, redis_server: RedisServer) -> None:
    """Only an end deletes a cookie: 503 and an outage do not."""
    pair.clock.pass_(EXPIRED)
    redis_server.flush()
    await pair.peer.stop()
    for proxy in pair.proxies:
        proxy.graph.live.renew_all(idle=3600.0, identity=lambda _: None)
    page = await pair.browser.xhr(pair.at("/inside"))
    assert (page.status, page.headers["Authproxy-Refusal"]) == (503, "session_not_restorable")
    assert "Set-Cookie" not in page.headers
    await pair.peer.start()


# --- a rotated token is kept, whatever else the answer is ---

ODD: dict[str, dict[str, Any]] = {
    "a token type that is not Bearer": {"token_type": "mac"},
    "no token type": {"token_type": None},
    "an error beside the tokens": {"error": "server_error"},
    "no access token": {"access_token": None},
    "an access token with a line break": {"access_token": "a\r\nb"},
    "an ID token that is no text": {"id_token": ["a"]},
    "an ID token without a signature": {"id_token": "a.b"},
    "a member twice": {"": ""},
}


@pytest.mark.parametrize("odd", [*ODD, "status 201"])
async def test_a_rotated_token_in_an_answer_that_is_not_understood_is_kept(stages: Set, odd: str) -> None:
    """The provider has rotated and ends reused grants: the next try sends the new token."""
    stage = await stages()
    await stage.sign_in()
    stage.clock.pass_(NEARLY)
    times = iter([1])

    def answer(call: Call) -> Answer | None:
        if call.parameters.get("grant_type") != "refresh_token" or next(times, None) is None:
            return None
        family = stage.peer.refresh_tokens.spend(call.parameters["refresh_token"], stage.peer.client_id, stage.clock())
        assert family is not None
        said = {"token_type": "Bearer", "access_token": "at", "refresh_token": family[0].current, **ODD.get(odd, {})}
        if odd == "an ID token without a signature":
            return 200, said, {}
        text = json.dumps(said).encode()
        if odd == "a member twice":
            text = text[:-1] + b', "token_type": "Bearer"}'
        return (201 if odd == "status 201" else 200), text, {}

    stage.peer.token_answer = answer
    await renewed_ahead(stage)
    if odd == "an ID token without a signature":  # definite: the provider issued what must not be accepted
        assert not await stage.is_in()
        return
    assert await stage.is_in()
    stage.clock.pass_(EXPIRED)
    assert await stage.is_in()
    assert stage.peer.refreshes == ["rotated"], stage.peer.refreshes  # the one that the answer above did not take


@pytest.mark.parametrize("value", ["a b", " leading", "trailing ", "~" * 3000, "ü"])
async def test_any_refresh_token_is_sent_back_as_it_came(stages: Set, value: str) -> None:
    """RFC 6749 appendix A.17 allows every printable ASCII character, the space too; others come from real providers."""
    stage = await stages(peer={"rotate": False})
    peer = stage.peer
    fresh = peer.refresh_tokens.issue

    def issue(consent: Any, now: float) -> str:
        family = peer.refresh_tokens._families.pop(fresh(consent, now))
        family.current = value
        peer.refresh_tokens._families[value] = family
        return value

    peer.refresh_tokens.issue = issue  # type: ignore[method-assign]
    await stage.sign_in()
    stage.clock.pass_(EXPIRED)
    assert await stage.is_in()
    assert [call.parameters["refresh_token"] for call in refreshes(stage)] == [value]


# --- one user, several tokens ---


async def test_other_tokens_of_a_user_are_tried_three_times_a_minute(stages: Set, somebody: Somebody) -> None:
    """The provider refuses six devices: each token is sent once, and at most three others a minute."""
    stage = await stages(peer={"one_refresh_token_per_user": True}, provider={"refresh_tokens": "per_user"})
    for _ in range(6):  # in one second: only the provider can tell which of them it kept
        await stage.sign_in(browser=await somebody(stage))
    stage.peer.refresh_tokens.kill(username="alice")
    stage.clock.pass_(EXPIRED)
    devices = stage.browsers[1:]
    await devices[0].xhr(stage.at("/inside"))
    assert len(refreshes(stage)) == 1 + TRIES
    for _ in range(3):
        stage.clock.pass_(70)
        for device in devices:
            await device.xhr(stage.at("/inside"))
    sent = [call.parameters["refresh_token"] for call in refreshes(stage)]
    assert len(sent) == len(set(sent)) == 6


async def test_per_session_no_other_token_is_tried(stages: Set, somebody: Somebody) -> None:
    """Each session has a grant of its own: a refusal ends it, and another device's token is never sent for it."""
    stage = await stages()
    other = await somebody(stage)
    await stage.sign_in(browser=other)
    await stage.sign_in()
    first = stage.peer.issued[1]["refresh_token"]
    stage.peer.refresh_tokens.kill(token=first)
    stage.clock.pass_(EXPIRED)
    assert not await stage.is_in()
    assert [call.parameters["refresh_token"] for call in refreshes(stage)] == [first]
    assert await stage.is_in(browser=other)


# --- slowness is not absence ---


@pytest.mark.parametrize("per_user", [False, True], ids=["per_session", "per_user"])
async def test_a_store_that_is_slow_while_a_rotated_token_is_written(
    stages: Set, redis_server: RedisServer, per_user: bool
) -> None:
    """Redis stops for longer than a usual call may take: the write waits, and no token is spent twice."""
    provider = {"refresh_tokens": "per_user" if per_user else "per_session"}
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}}, provider=provider)
    await stage.sign_in()
    assert await stage.is_in(replica=1)
    stage.clock.pass_(EXPIRED)
    cookie = stage.session_cookie()
    gate = stage.peer.hold("token")
    first = asyncio.ensure_future(stage.in_with(cookie))
    await stage.peer.wait_for("token", grant_type="refresh_token")
    redis_server.pause()
    gate.set()
    second = asyncio.ensure_future(stage.in_with(cookie, replica=1))
    await asyncio.wait([first, second], timeout=0.6)
    redis_server.resume()
    assert all(await asyncio.gather(first, second))
    assert stage.peer.refreshes == ["rotated"]


# --- a cookie belongs to its host ---


@pytest.fixture
async def two_hosts(stages: Set) -> Stage:
    """Two applications of one provider, without a cookie domain."""
    app = {"provider": "peer", "upstream": {"url": "http://127.0.0.1:1"}, "routes": [{"path": "/", "policy": "people"}]}
    return await stages(apps={"other": {"host": "other.corp.test", **app}})


async def test_a_cookie_opens_the_host_that_it_was_made_for_and_no_other(two_hosts: Stage) -> None:
    """A copy of the cookie at another host opens nothing there, and does the session no harm."""
    await two_hosts.sign_in()
    cookie = two_hosts.session_cookie()
    for _ in range(2):
        for host in ("other.corp.test", "OTHER.corp.test.", "auth.corp.test"):
            answer = await with_host(two_hosts, cookie, host)
            assert answer.status in (401, 404), (host, answer.status)
            assert answer.values("set-cookie") == []
        assert await two_hosts.in_with(cookie)


async def with_host(stage: Stage, cookie: str, host: str) -> Any:
    """A request with this cookie for another host."""
    from tests.hostile.harness import send

    head = f"GET {PREFIX}/userinfo HTTP/1.1\r\nHost: {host}:{stage.port()}\r\nConnection: close\r\nCookie: {cookie}"
    return await send(stage.port(), f"{head}\r\n\r\n".encode())


async def test_a_kept_connection_does_not_carry_a_session_to_another_host(two_hosts: Stage) -> None:
    """The same Cookie line on the same connection: what is remembered of it holds for its host alone."""
    await two_hosts.sign_in()
    cookie, port = two_hosts.session_cookie(), two_hosts.port()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for host, wanted in [(HOST, 200), ("other.corp.test", 401)] * 4:
        request = f"GET {PREFIX}/userinfo HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n\r\n"
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        await reader.readexactly(length)
        assert int(head.split()[1]) == wanted, (host, head)
    writer.close()


async def test_a_sign_out_at_another_host_ends_nothing(two_hosts: Stage) -> None:
    """Whoever copies the cookie to another host cannot end the session there either."""
    await two_hosts.sign_in()
    cookie = two_hosts.session_cookie().partition("=")[2]
    graph = two_hosts.proxies[0].graph
    assert graph.cookie.open(cookie, HOST) is not None
    assert graph.cookie.open(cookie, "other.corp.test") is None


async def test_a_host_only_cookie_of_the_first_version_is_refused_once(stages: Set) -> None:
    """It names no host, so it opens none; with a cookie domain it goes on.  Sign-in makes a new one."""
    stage = await stages()
    await stage.sign_in()
    graph = stage.proxies[0].graph
    ticket = graph.cookie.open(stage.session_cookie().partition("=")[2], HOST)
    assert ticket is not None
    old = [
        1, ticket.sid, ticket.secret, ticket.provider, ticket.issuer, ticket.subject, ticket.sealed_at,
        ticket.signed_in_at, ticket.absolute_end, ticket.generation, ticket.token.value, ticket.provider_sid,
    ]  # fmt: skip
    sealed = graph.ring.seal("session-cookie", json.dumps(old).encode())
    assert not await stage.in_with(f"authproxy={sealed}")
    graph.cookie._domain = "corp.test"  # type: ignore[misc]
    opened = graph.cookie.open(sealed, HOST)
    assert opened is not None
    assert (opened.subject, opened.token.value) == (ticket.subject, ticket.token.value)


async def test_signing_out_after_the_store_was_emptied_spares_the_other_device(
    stages: Set, somebody: Somebody, redis_server: RedisServer
) -> None:
    """The index of sessions is lost with the store: the token that two devices share is not revoked."""
    stage = await stages(
        replicas=2,
        store={"redis": {"url": redis_server.url}},
        peer={"one_refresh_token_per_user": True},
        provider={"refresh_tokens": "per_user"},
    )
    other = await somebody(stage)
    await stage.sign_in(browser=other, replica=1)
    stage.clock.pass_(60)
    await stage.sign_in()
    for proxy in stage.proxies:
        await proxy.graph.replicas.meet()
    redis_server.flush()
    await stage.sign_out()
    await stage.proxies[0].graph.logout.close()
    stage.clock.pass_(EXPIRED)
    assert await stage.is_in(browser=other, replica=1)
    await stage.sign_out(browser=other, replica=1)
    await stage.proxies[1].graph.logout.close()
    assert not any(stage.peer.refresh_tokens.is_alive(answer["refresh_token"]) for answer in stage.peer.issued)


async def test_a_websocket_is_closed_at_an_end_ahead_of_expiry_and_does_not_open_again(pair: Stage) -> None:
    """On both replicas: closed once with 1008; the next handshake is refused."""
    cookie = {"Cookie": pair.session_cookie()}
    urls = [pair.at("/ws", replica=number) for number in (0, 1)]
    sockets = [await pair.browser.session.ws_connect(url, headers=cookie) for url in urls]
    pair.clock.pass_(NEARLY)
    pair.peer.refresh_tokens.kill(username="alice")
    await renewed_ahead(pair)
    await pair.proxies[1].graph.marks.sync()
    for socket, url in zip(sockets, urls, strict=True):
        closed = await socket.receive(timeout=PATIENCE)
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1008)
        with pytest.raises(WSServerHandshakeError) as refused:
            await pair.browser.session.ws_connect(url, headers=cookie)
        assert refused.value.status == 401
    assert len(refreshes(pair)) == 1
