"""The seeds and some thousand mutations of them, the same ones each time; ``make fuzz`` runs a million others."""

from __future__ import annotations

import pytest

from tests.fuzz.mutation import cuts, mutated
from tests.fuzz.targets import TARGETS

CASES = 4000


@pytest.mark.parametrize("name", TARGETS)
async def test_seeds_and_mutations(name: str) -> None:
    """No crash, no hang, and no difference that segments make."""
    target, seeds = TARGETS[name]
    for number, seed in enumerate(seeds):
        target(seed, number)
    for number in range(CASES):
        try:
            target(mutated(seeds, number), number)
        except AssertionError as error:
            pytest.fail(f"case {number}: {error}: {mutated(seeds, number)!r}")


def test_a_number_names_a_case() -> None:
    """For ever, and cutting loses nothing."""
    _, seeds = TARGETS["front door"]
    assert [mutated(seeds, n) for n in range(50)] == [mutated(seeds, n) for n in range(50)]
    assert len({mutated(seeds, n) for n in range(200)}) > 150
    assert all(b"".join(cuts(mutated(seeds, n), n)) == mutated(seeds, n) for n in range(200))
