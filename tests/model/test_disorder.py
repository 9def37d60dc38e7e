"""A state machine over people, replicas, store and provider: nobody is signed out who should not be.

``MODEL_EXAMPLES`` says how many stories are tried (200 in CI, where they are the same each time; ``make soak`` tries
10,000 others).
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.world import World

EXAMPLES: Final = int(os.environ.get("MODEL_EXAMPLES", "200"))
DEVICES: Final = st.sampled_from(["a1", "a2", "a3", "b1"])
REPLICAS: Final = st.integers(0, 2)
SOME_REPLICAS: Final = st.sampled_from([(0,), (1,), (0, 1), (0, 1, 2)])
MODES: Final = {
    "per_user": (True, 0.0),
    "per_user, 3 s": (True, 3.0),
    "per_user, 120 s": (True, 120.0),
    "per_session": (False, 0.0),
}
"""Kind of refresh tokens, and the provider's reuse window."""
PAIRS: Final = st.lists(st.tuples(DEVICES, REPLICAS), min_size=2, max_size=6)


class Disorder(RuleBasedStateMachine):
    """The rules; ``World`` holds the judgement."""

    world: World
    mode: tuple[bool, float]

    @initialize(replicas=st.sampled_from([2, 1, 3]), devices=st.lists(DEVICES, min_size=1, max_size=4, unique=True))
    def begin(self, replicas: int, devices: list[str]) -> None:
        per_user, window = self.mode
        self.world = World(per_user=per_user, window=window, replicas=replicas)
        self.world.__enter__()
        self.world.note_settings()
        for number, device in enumerate(devices):
            self.world.sign_in(device, [number])
            self.world.pass_time(2.0)

    @rule(device=DEVICES, number=REPLICAS)
    def sign_in(self, device: str, number: int) -> None:
        self.world.sign_in(device, [number])

    @rule(
        device=DEVICES,
        tabs=st.lists(st.tuples(REPLICAS, st.sampled_from([0.02, 0.1, 0.3, 1.0])), min_size=2, max_size=4),
    )
    def sign_in_tabs(self, device: str, tabs: list[tuple[int, float]]) -> None:
        self.world.sign_in(device, [number for number, _ in tabs], delays=[delay for _, delay in tabs])

    @rule(device=DEVICES, number=REPLICAS)
    def request(self, device: str, number: int) -> None:
        self.world.request([(device, number)])

    @rule(pairs=PAIRS)
    def request_at_once(self, pairs: list[tuple[str, int]]) -> None:
        self.world.request(pairs)

    @rule(pairs=PAIRS, patience=st.sampled_from([0.01, 0.1, 1.0]))
    def request_and_go_on(self, pairs: list[tuple[str, int]], patience: float) -> None:
        self.world.request(pairs, patience=patience)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 11.0, 30.0, 50.0, 65.0, 90.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(pairs=PAIRS)
    def expire(self, pairs: list[tuple[str, int]]) -> None:
        """ID tokens expire, and requests come at once."""
        self.world.pass_time(65.0)
        self.world.request(pairs)

    @rule(pairs=PAIRS, seconds=st.sampled_from([0.5, 4.0]))
    def come_due(self, pairs: list[tuple[str, int]], seconds: float) -> None:
        """Renewals are due ahead of expiry: requests come, and again a little later."""
        for _ in range(2):
            self.world.pass_time(51.0)
            self.world.request(pairs)
            self.world.pass_time(seconds)
            self.world.request(pairs)

    @rule(seconds=st.sampled_from([130.0, 310.0]))
    def pause(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(numbers=SOME_REPLICAS)
    def refuse_store(self, numbers: tuple[int, ...]) -> None:
        self.world.set_link(numbers, "refused")

    @rule(numbers=SOME_REPLICAS, loses_effect=st.booleans())
    def silence_store(self, numbers: tuple[int, ...], loses_effect: bool) -> None:
        self.world.set_link(numbers, "silent", loses_effect=loses_effect)

    @rule(numbers=SOME_REPLICAS, delay=st.sampled_from([0.05, 0.3, 0.7]))
    def slow_store(self, numbers: tuple[int, ...], delay: float) -> None:
        self.world.set_link(numbers, "late", delay=delay)

    @rule(numbers=SOME_REPLICAS)
    def heal_store(self, numbers: tuple[int, ...]) -> None:
        self.world.set_link(numbers, "up")

    @rule(seconds=st.sampled_from([None, 1.0, 5.0, 60.0]))
    def lose_data(self, seconds: float | None) -> None:
        self.world.lose_data(seconds)

    @rule(number=REPLICAS, kill=st.booleans())
    def restart(self, number: int, kill: bool) -> None:
        self.world.restart(number, kill=kill)

    @rule(trouble=st.sampled_from(["500", "429", "refused", "slow", "stalled", "cut", "dropped"]))
    def trouble_provider(self, trouble: str) -> None:
        self.world.set_provider(trouble)  # type: ignore[arg-type]

    @rule()
    def heal_provider(self) -> None:
        self.world.set_provider("none")

    @rule(device=DEVICES, number=REPLICAS)
    def sign_out(self, device: str, number: int) -> None:
        self.world.sign_out(device, number)

    @rule(user=st.sampled_from(["alice", "bob"]), number=REPLICAS)
    def end_by_provider(self, user: str, number: int) -> None:
        self.world.end_by_provider(user, number)

    @rule(user=st.sampled_from(["bob", "alice"]))
    def revoke(self, user: str) -> None:
        self.world.revoke(user)

    @precondition(lambda self: any(session.ended for session in self.world.sessions))
    @rule(data=st.data(), number=REPLICAS)
    def reuse_cookie(self, data: st.DataObject, number: int) -> None:
        ended = [session.name for session in self.world.sessions if session.ended]
        self.world.reuse_cookie(data.draw(st.sampled_from(ended)), number)

    @invariant()
    def nothing_failed(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.world.failures:
                self.world.heal()
                self.world.check()
        finally:
            self.world.__exit__()


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 120)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_disorder(mode: tuple[bool, float]) -> None:
    """Whatever happens: a session with a path to the newest token lives, and one that has ended stays ended."""
    run_state_machine_as_test(
        type("Disorder", (Disorder,), {"mode": mode}),
        settings=settings(
            max_examples=max(EXAMPLES // len(MODES), 1),
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize="MODEL_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
