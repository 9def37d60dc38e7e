"""Sessions while our clock and the provider's differ, and with tokens that do not live (C10)."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import replica as replica
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import Set, Stage
from tests.peers.openid_endpoints import Answer, Call
from tests.peers.redis_server import RedisServer


async def skewed(stages: Set, ahead: float, **peer: Any) -> Stage:
    """A stage whose provider's clock is ``ahead`` seconds ahead of ours."""
    stage = await stages(peer=peer)
    stage.peer.clock = lambda: stage.clock() + ahead
    return stage


def dateless(stage: Stage) -> None:
    """The provider says nothing of its clock: every answer comes with an age, as from a cache."""

    def answer(call: Call) -> Answer:
        status, body = behaved(stage, call)
        return status, body, {"Age": "1"}

    stage.peer.token_answer = answer


def behaved(stage: Stage, call: Call) -> tuple[int, dict[str, Any]]:
    """What the token endpoint answers by itself."""
    answer = stage.peer._token(call)
    assert isinstance(answer, tuple)
    return answer[0], answer[1]


def refreshes(stage: Stage) -> int:
    """How many refreshes the provider has seen."""
    return len(stage.peer.asked("token", grant_type="refresh_token"))


def expiry(stage: Stage) -> float:
    """When the ID token that the application got last expires, by the provider's clock."""
    token = (stage.app.last.get("Authorization") or "").partition(" ")[2]
    payload = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


def ahead_of(clock: Callable[[], float], ahead: float) -> Any:
    """A clock that is ahead of another one."""
    return lambda: clock() + ahead


async def use(stage: Stage, seconds: float, *, step: float, each: Callable[[], None] = lambda: None) -> None:
    """Open the application every ``step`` seconds; background work ends in between."""
    end = stage.clock() + seconds
    while stage.clock() < end:
        assert await stage.is_in()
        each()
        await stage.proxies[0].graph.resumption.close()
        stage.clock.pass_(step)


@pytest.mark.parametrize("ahead", [-290.0, -90.0, -30.0, 0.0, 30.0, 90.0, 290.0])
@pytest.mark.parametrize("lifetime", [60.0, 300.0])
async def test_no_expired_token_reaches_the_application(stages: Set, ahead: float, lifetime: float) -> None:
    """Our clock 30 s behind, and others: by the provider's clock every ID token that goes upstream is good."""
    stage = await skewed(stages, ahead, id_token_lifetime=lifetime)
    await stage.sign_in()

    def good() -> None:
        assert expiry(stage) > stage.peer.clock()

    await use(stage, 4 * lifetime, step=lifetime / 75, each=good)
    assert 3 <= refreshes(stage) <= 5


@pytest.mark.parametrize("ahead", [-290.0, -90.0, 90.0, 290.0])
@pytest.mark.parametrize("lifetime", [60.0, 300.0])
async def test_a_skewed_clock_renews_no_more_often(stages: Set, ahead: float, lifetime: float) -> None:
    """Our clock 90 s ahead, and others: a renewal is due once in a lifetime, and not with every request."""
    stage = await skewed(stages, ahead, id_token_lifetime=lifetime)
    await stage.sign_in()
    await use(stage, 10 * lifetime, step=lifetime / 60)
    assert 9 <= refreshes(stage) <= 13


@pytest.mark.parametrize("ahead", [-59.0, 59.0])
@pytest.mark.parametrize("lifetime", [-1.0, 0.0, 1.0, 20.0, 59.0])
async def test_renewals_are_bounded_whatever_the_clocks_say(stages: Set, ahead: float, lifetime: float) -> None:
    """No usable `Date`, and tokens that expire on arrival or before: one renewal in ten seconds, one in a lifetime."""
    stage = await skewed(stages, ahead, id_token_lifetime=lifetime)
    dateless(stage)
    if lifetime + ahead <= -60:  # refused: expired beyond the leeway
        return
    await stage.sign_in()
    begun = refreshes(stage)
    await use(stage, 60, step=0.5)
    assert refreshes(stage) - begun <= 61
    if lifetime + ahead < 1:
        assert refreshes(stage) - begun <= 8


async def test_a_session_without_times_does_not_renew_with_every_request(stages: Set) -> None:
    """A refresh that brings no ID token, and no `expires_in`, says nothing of how long it holds."""
    stage = await skewed(stages, 0.0, id_token_lifetime=60.0)
    await stage.sign_in()
    stage.peer.id_token_on_refresh = False

    def timeless(call: Call) -> Answer:
        status, body = behaved(stage, call)
        return status, {name: value for name, value in body.items() if name != "expires_in"}

    stage.peer.token_answer = timeless
    stage.clock.pass_(61)
    await use(stage, 60, step=0.5)
    assert 1 <= refreshes(stage) <= 8


@pytest.mark.parametrize("ahead", [-90.0, 90.0])
async def test_replicas_with_clocks_that_differ_agree(
    stages: Set, replica: Callable[..., Awaitable[Any]], redis_server: RedisServer, ahead: float
) -> None:
    """What one replica writes has the provider's times: another one reads it by its own clock."""
    store = {"redis": {"url": redis_server.url}}
    stage = await stages(store=store, peer={"id_token_lifetime": 300.0})
    right: Any = stage.clock
    stage.clock = wrong = ahead_of(right, ahead)
    await replica(stage, store=store)
    stage.clock = right
    await stage.sign_in(replica=1)
    assert stage.proxies[1].graph.providers["peer"].now() == pytest.approx(right(), abs=1)
    assert wrong() == right() + ahead
    for _ in range(300):
        for number in (0, 1):
            assert await stage.is_in(replica=number)
            assert expiry(stage) > stage.peer.clock()
            await stage.proxies[number].graph.resumption.close()
        right.pass_(4)
    assert 3 <= refreshes(stage) <= 6


async def test_the_skew_is_a_metric(stages: Set) -> None:
    """`authproxy_provider_clock_skew_seconds`, by provider."""
    stage = await skewed(stages, 90.0)
    await stage.sign_in()
    (line,) = [
        line
        for line in stage.proxies[0].graph.metrics.text().decode().splitlines()
        if line.startswith("authproxy_provider_clock_skew_seconds{")
    ]
    assert line.startswith('authproxy_provider_clock_skew_seconds{provider="peer"} ')
    assert float(line.rpartition(" ")[2]) == pytest.approx(90, abs=1)
