"""The arithmetic of the benchmarks: medians, spreads, and ratios round by round."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figure, Reading, TooShort, ratios
from benchmarks.report import grid, series_table
from benchmarks.rounds import Series


def series(**cpu: list[float]) -> Series:
    """Rounds that differ in their CPU alone."""
    return Series({label: [Reading(one, 1000.0, 1.5, 9.0, 2.5) for one in values] for label, values in cpu.items()})


def test_a_figure_is_the_median_and_its_bounds() -> None:
    """One round that went wrong does not move it, and shows in the spread."""
    figure = Figure.of([10.0, 50.0, 9.0, 11.0, 10.5])
    assert figure == (10.5, 9.0, 50.0)
    assert figure.spread == pytest.approx(41.0 / 10.5)


def test_nothing_has_no_figure() -> None:
    """A candidate without rounds is an error, not a zero."""
    with pytest.raises(ValueError):
        Figure.of([])


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is half as fast in one round changes no ratio, though it changes every median."""
    assert ratios([20.0, 40.0, 20.0], [10.0, 20.0, 10.0]) == (2.0, 2.0, 2.0)
    assert ratios([20.0, 90.0, 30.0], [10.0, 30.0, 20.0]) == (2.0, 1.5, 3.0)


def test_a_reference_of_zero_is_refused() -> None:
    """Rounds that were too short for the operating system's clock give no ratio."""
    with pytest.raises(TooShort):
        ratios([1.0], [0.0])


def test_rounds_that_do_not_match_are_refused() -> None:
    """A round of one is never held against another round of the other."""
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_the_first_is_the_reference() -> None:
    """Tables and the file hold everybody against the first candidate, in the order of the shots."""
    found = series(nginx=[10.0, 10.0, 10.0], ours=[25.0, 20.0, 30.0])
    assert found.reference == "nginx"
    assert found.as_json()["ours"]["cpu_ratio"] == {"median": 2.5, "low": 2.0, "high": 3.0}
    assert [one["cpu"] for one in found.as_json()["ours"]["rounds"]] == [25.0, 20.0, 30.0]


def test_the_table_says_it() -> None:
    """A row has the median, half the spread, the ratio and the latencies."""
    lines = series_table("Scene", series(nginx=[10.0, 10.0, 10.0], ours=[25.0, 20.0, 30.0])).splitlines()
    assert lines[0] == "Scene"
    assert lines[3].split() == ["ours", "25.0", "±20%", "2.50", "1,000", "1.50", "9.00", "2.50"]


def test_the_grid_says_it() -> None:
    """One column for each scene; whoever is not the reference has the ratio beside it."""
    text = grid("CPU", "cpu", {"1": series(nginx=[10.0], ours=[30.0]), "64": series(nginx=[5.0], ours=[10.0])})
    assert text.splitlines()[3].split() == ["ours", "30.0", "(3.00)", "10.0", "(2.00)"]
