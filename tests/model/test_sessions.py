"""Sessions in disorder: what a state machine tries, and the shortest stories that once signed people out."""

from __future__ import annotations

import pytest

from tests.model.world import World


def test_nothing_broken() -> None:
    """Two devices and another user, for a while: everybody stays in."""
    with World() as world:
        for at, device in enumerate(("a1", "a2", "b1")):
            world.sign_in(device, [at])
        for _ in range(6):
            world.pass_time(40.0)
            world.request([(device, number) for device in ("a1", "a2", "b1") for number in (0, 1)])
            world.check()
        world.sign_out("a1", 0)
        world.heal()
        world.check()


def test_an_emptied_store_and_a_new_sign_in() -> None:
    """Redis is emptied, then the same user signs in on another device: at the next expiry both devices stay in."""
    with World(replicas=1) as world:
        world.sign_in("a1", [0])
        world.pass_time(65.0)
        world.request([("a1", 0)])
        world.lose_data()
        world.sign_in("a2", [0])
        world.pass_time(65.0)
        world.request([("a1", 0), ("a2", 0)])
        world.heal()
        world.check()


@pytest.mark.parametrize("lost", [False, True], ids=["data kept", "data lost"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_sign_in_while_the_store_is_away(replicas: int, lost: bool) -> None:
    """A second device signs in during 5 s without Redis: when it is back, both devices stay in."""
    with World(replicas=replicas) as world:
        world.sign_in("a1", [0])
        world.pass_time(65.0)
        world.request([("a1", 0)])
        world.set_link(range(replicas), "refused")
        world.pass_time(2.0)
        world.sign_in("a2", [replicas - 1])
        world.pass_time(3.0)
        if lost:
            world.lose_data()
        world.set_link(range(replicas), "up")
        world.pass_time(65.0)
        world.request([("a1", 0), ("a2", replicas - 1)])
        world.heal()
        world.check()


@pytest.mark.parametrize(
    "delays",
    [(0.02, 0.02), (0.3, 0.1), (0.1, 0.3), (0.4, 0.3, 0.2, 0.1), (0.1, 0.12, 0.1, 0.12)],
    ids=lambda delays: "-".join(map(str, delays)),
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_tabs_that_sign_in_at_once(replicas: int, delays: tuple[float, ...]) -> None:
    """Several tabs of a browser sign in at once, nothing is broken: the user stays in at the next expiry."""
    with World(replicas=replicas) as world:
        world.sign_in("a1", range(len(delays)), delays=delays)
        world.pass_time(65.0)
        world.request([("a1", 0)])
        world.heal()
        world.check()


@pytest.mark.parametrize("per_user", [False, True], ids=["per_session", "per_user"])
def test_a_slow_store_while_a_rotated_token_is_written(per_user: bool) -> None:
    """The store answers one replica late while it writes a rotated token: the other does not spend the old one."""
    with World(per_user=per_user) as world:
        world.sign_in("a1", [0])
        world.request([("a1", 0), ("a1", 1)])
        world.pass_time(65.0)
        world.peer.delay = 1.0
        world.request([("a1", 0)], patience=0.3)
        world.set_link([0], "late", delay=0.3)
        world.request([("a1", 1)])
        world.heal()
        world.check()


@pytest.mark.parametrize("per_user", [False, True], ids=["per_session", "per_user"])
@pytest.mark.parametrize("mixed_up", [False, True], ids=["refused", "of another"])
def test_an_end_ahead_of_expiry(per_user: bool, mixed_up: bool) -> None:
    """The provider ends a session at a renewal ahead of expiry: no request is served after that, on any replica."""
    with World(per_user=per_user) as world:
        world.sign_in("a1", [0])
        world.request([("a1", 0), ("a1", 1)])
        world.pass_time(30.0)
        (world.mix_up if mixed_up else world.revoke)("alice")
        world.pass_time(21.0)
        for _ in range(4):
            world.request([("a1", 0)])
            world.pass_time(2.0)
            world.request([("a1", 1)])
            world.reuse_cookie("a1.1", 0)
        world.check()


def test_devices_that_are_renewed_at_once() -> None:
    """The sessions of one user expire together: each is renewed once, and its new ID token is the one in use."""
    with World() as world:
        for device in ("a1", "a2", "a3"):
            world.sign_in(device, [0])
        world.pass_time(65.0)
        world.request([("a1", 0), ("a2", 0), ("a3", 0)])
        world.pass_time(2.0)
        world.request([("a1", 0), ("a2", 0), ("a3", 0)])
        world.pass_time(2.0)
        world.request([("a1", 1), ("a2", 1), ("a3", 1)])
        world.check()
        assert [call.status for call in world.peer.calls] == [200, 200, 200]


def test_tabs_that_sign_in_at_once_and_a_fail_over() -> None:
    """Two tabs sign in within one second, and a fail-over loses both writes: the replica still has the living token."""
    with World() as world:
        world.sign_in("a1", [0, 0], delays=[1.0, 0.02])
        world.lose_data(5.0)
        world.heal()
        world.check()


def test_a_renewal_elsewhere_after_a_token_was_handed_on() -> None:
    """One replica renews a session while another hands it the token of its user's other devices: once is enough."""
    with World() as world:
        world.sign_in("a1", [0])
        world.sign_in("a2", [0])
        world.sign_in("a3", [1])
        world.pass_time(51.0)
        pairs = [("a3", 0), ("a1", 0), ("a2", 0), ("a3", 1)]
        world.request(pairs)
        world.pass_time(4.0)
        world.request(pairs)
        world.pass_time(1.0)
        world.check()


@pytest.mark.parametrize("window", [0.0, 3.0])
def test_a_slow_store_while_another_replica_brings_back_what_was_lost(window: float) -> None:
    """The store is emptied and answers the replica that holds the newest token late: the other one waits for it."""
    with World(window=window) as world:
        world.sign_in("a1", [0])
        world.pass_time(2.0)
        world.sign_in("a2", [1])
        world.pass_time(2.0)
        world.set_link([1], "late", delay=0.3)
        world.lose_data()
        world.pass_time(65.0)
        world.request([("a1", 0), ("a1", 0)])
        world.heal()
        world.check()
