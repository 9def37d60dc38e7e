"""Renewals while the store, and with it the lease, is away: as few as can be, and what comes of one too many."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.errors import StoreUnavailable
from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import Set, Stage
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import within

NEARLY = 570.0  # seconds: an ID token of the stage's provider is due for renewal, and still good
EXPIRED = 660.0


@pytest.fixture
async def pair(stages: Set, redis_server: RedisServer) -> Stage:
    """Two replicas that both know a session; the provider takes a refresh token once."""
    stage = await stages(replicas=2, store={"redis": {"url": redis_server.url}})
    await stage.sign_in()
    assert await stage.is_in(replica=1)
    for proxy in stage.proxies:
        await proxy.graph.replicas.meet()  # as they do every two seconds: whose turn it is depends on who is known
        assert proxy.graph.replicas.others == 1
    return stage


def refreshes(stage: Stage) -> list[int]:
    """The status of every refresh call so far."""
    return [call.status for call in stage.peer.asked("token", grant_type="refresh_token")]


async def used(stage: Stage) -> None:
    """The session is used on both replicas, and what that set going in the background has ended."""
    for number, proxy in enumerate(stage.proxies):
        assert await stage.is_in(replica=number)
        await proxy.graph.resumption.close()


async def reconnected(stage: Stage) -> None:
    """Wait until every replica has found the store again."""
    async with asyncio.timeout(PATIENCE):
        for proxy in stage.proxies:
            while True:
                try:
                    await proxy.graph.store.ping()
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)


async def test_a_renewal_ahead_of_expiry_is_one_replicas(pair: Stage, redis_server: RedisServer) -> None:
    """Without a lease, the replica whose turn it is renews ahead of expiry, and the other waits, also afterwards."""
    redis_server.stop()
    pair.clock.pass_(NEARLY)
    for _ in range(3):
        await used(pair)
    assert refreshes(pair) == [200]
    redis_server.start()
    await reconnected(pair)
    pair.clock.pass_(2)
    await used(pair)
    await used(pair)
    assert refreshes(pair) == [200]


async def test_a_newer_cookie_alone_is_no_reason_to_renew(pair: Stage, redis_server: RedisServer) -> None:
    """Without the store each replica renews an expired token once, and not at every cookie that the other has made."""
    redis_server.stop()
    pair.clock.pass_(EXPIRED)
    for _ in range(4):
        await used(pair)
    assert refreshes(pair) == [200, 200]
    assert pair.peer.refreshes == ["rotated", "rotated"]


async def test_a_store_that_blinks_costs_no_session(pair: Stage, redis_server: RedisServer) -> None:
    """A replica that waits for another's renewal waits on when the store does not answer for a moment."""
    pair.clock.pass_(EXPIRED)
    gate = pair.peer.hold("token")
    first = asyncio.ensure_future(pair.is_in())
    await pair.peer.wait_for("token", grant_type="refresh_token")
    second = asyncio.ensure_future(pair.is_in(replica=1))
    await asyncio.sleep(0.3)  # it waits for the lease
    redis_server.pause()
    await asyncio.sleep(0.8)  # more than three unanswered calls
    gate.set()
    await asyncio.sleep(0.3)
    redis_server.resume()
    assert all(await asyncio.gather(first, second))
    assert refreshes(pair) == [200]


async def test_two_replicas_without_a_store_may_spend_one_token_twice(pair: Stage, redis_server: RedisServer) -> None:
    """What cannot be kept: both renew at the same moment without a lease, and a strict provider ends the grant.

    What happens then: no error; the person signs in again, and is in.
    """
    redis_server.stop()
    pair.clock.pass_(EXPIRED)
    gate = pair.peer.hold("token")
    cookie = pair.session_cookie()
    both = [asyncio.ensure_future(pair.in_with(cookie, replica=number)) for number in range(2)]
    await pair.peer.wait_for("token", 2, grant_type="refresh_token")
    gate.set()
    assert sorted(await asyncio.gather(*both)) == [False, True]
    assert sorted(refreshes(pair)) == [200, 400]
    pair.browser.forget()
    await pair.sign_in()
    assert await pair.is_in(replica=1)


@pytest.mark.parametrize(("reuse_interval", "kept"), [(0.0, False), (3600.0, True)])
async def test_a_rotated_token_that_was_lost_with_its_answer(stages: Set, reuse_interval: float, kept: bool) -> None:
    """What cannot be kept: the provider has rotated and nobody has the new token.  A reuse window saves the session."""
    stage = await stages(peer={"reuse_interval": reuse_interval})
    await stage.sign_in()
    stage.clock.pass_(EXPIRED)
    stage.peer.lose_answers["token"] = 1
    assert await stage.is_in()  # with the old ID token, as while the provider is away
    stage.clock.pass_(60)
    assert await stage.is_in() is kept


async def test_an_emptied_store_between_a_renewal_and_its_answer(pair: Stage, redis_server: RedisServer) -> None:
    """One replica renews, the store is emptied, and the old cookie reaches the other replica: no token is spent twice.

    The other asks who knows the session, before it shows the replaced token to the provider.
    """
    cookie = pair.session_cookie()
    pair.clock.pass_(NEARLY)
    assert await pair.is_in()
    await pair.proxies[0].graph.resumption.close()
    await pair.proxies[0].graph.store.put("unused", b"", ttl=1.0)
    redis_server.flush()
    assert await pair.in_with(cookie, replica=1)
    await pair.proxies[1].graph.resumption.close()
    assert await pair.in_with(cookie, replica=1)
    assert "dead" not in pair.peer.refreshes


async def test_a_slow_provider_is_waited_for_once(pair: Stage) -> None:
    """After one failure nobody waits long for the next try: the old proof goes on, and the new one comes behind it."""
    pair.clock.pass_(EXPIRED)
    pair.peer.break_storage(times=1)
    assert await pair.is_in()
    pair.clock.pass_(60)
    gate = pair.peer.hold("token")
    with within(5.0):
        assert await pair.is_in()
    gate.set()
    await pair.proxies[0].graph.resumption.close()
    assert pair.peer.refreshes == ["rotated"]


async def test_how_long_a_replica_that_is_cut_off_believes(pair: Stage) -> None:
    """It cannot hear of a sign-out: it goes on from memory until the ID token expires; then the provider says no."""
    cookie = pair.session_cookie()
    await pair.proxies[1].graph.store.close()  # from now on it reaches no store
    await pair.sign_out()
    await pair.proxies[0].graph.logout.close()
    assert not await pair.in_with(cookie)
    assert await pair.in_with(cookie, replica=1)
    pair.clock.pass_(EXPIRED)
    assert not await pair.in_with(cookie, replica=1)
