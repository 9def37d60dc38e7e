"""How far a provider's clock is from ours (C10)."""

from __future__ import annotations

import logging
import math

import pytest

from authproxy.oidc.skew import ClockSkew

NOW = 1_800_000_000.0


def answered(skew: ClockSkew, difference: float, *, at: float = NOW, took: float = 0.0) -> float:
    """An answer of a provider whose clock is ``difference`` ahead, made in the middle of the exchange."""
    skew.learn(float(math.floor(at + took / 2 + difference)), sent=at, received=at + took)
    return skew.seconds


@pytest.mark.parametrize("difference", [-299.0, -90.4, -30.0, -4.0, 4.0, 30.5, 90.0, 299.0])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_one_answer_is_enough(difference: float, fraction: float) -> None:
    """To a second, whatever part of a second the date has cut off."""
    assert answered(ClockSkew("dex"), difference, at=NOW + fraction) == pytest.approx(difference, abs=0.51)


@pytest.mark.parametrize("difference", [-1.9, -1.0, 0.0, 1.0, 1.9])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_a_small_difference_is_none(difference: float, fraction: float) -> None:
    """A date has whole seconds, and an answer is under way for a while."""
    assert answered(ClockSkew("dex"), difference, at=NOW + fraction) == 0


@pytest.mark.parametrize("took", [0.0, 1.0, 5.0, 15.0])
def test_a_slow_answer_is_no_skew(took: float) -> None:
    """Dex may hold an answer back for seconds: its date lies somewhere between question and answer."""
    for made in (0.0, took / 2, took):
        skew = ClockSkew("dex")
        skew.learn(float(math.floor(NOW + made)), sent=NOW, received=NOW + took)
        assert skew.seconds == 0


def test_the_skew_does_not_flutter() -> None:
    """An answer that agrees with what is known changes nothing: renewal times stay where they are."""
    skew = ClockSkew("dex")
    first = answered(skew, 90.0)
    for number in range(200):
        assert answered(skew, 90.0, at=NOW + number * 0.37, took=number % 7) == first


def test_a_clock_that_is_set_counts_at_once() -> None:
    """A step is no noise: the next answer has it, there and back."""
    skew = ClockSkew("dex")
    assert answered(skew, 90.0) == pytest.approx(90, abs=1)
    assert answered(skew, -30.0) == pytest.approx(-30, abs=1)
    assert answered(skew, 0.0) == 0


@pytest.mark.parametrize("difference", [-1e9, -3600.0, -302.0, 302.0, 3600.0, 1e9])
def test_beyond_five_minutes_nothing_is_believed(difference: float) -> None:
    """What was known before stays."""
    skew = ClockSkew("dex")
    assert answered(skew, difference) == 0
    answered(skew, 90.0)
    assert answered(skew, difference) == pytest.approx(90, abs=1)


@pytest.mark.parametrize("difference", [-300.6, -300.0, 300.0, 300.6])
def test_the_bound_is_five_minutes_exactly(difference: float) -> None:
    """An interval that reaches beyond it is cut there."""
    assert abs(answered(ClockSkew("dex"), difference)) <= 300


def test_no_date_and_a_clock_that_was_set_back_say_nothing() -> None:
    """Without a date there is no measure, and an exchange that ends before it began has none."""
    skew = ClockSkew("dex")
    answered(skew, 90.0)
    skew.learn(0.0, sent=NOW, received=NOW)
    skew.learn(NOW, sent=NOW, received=NOW - 1)
    assert skew.seconds == pytest.approx(90, abs=1)


def test_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond thirty seconds, and beyond five minutes; again only after it was well in between."""
    caplog.set_level(logging.WARNING)
    skew = ClockSkew("dex")
    for _ in range(5):
        answered(skew, 29.0)
    assert caplog.messages == []
    for difference in (90.0, 95.0, 100.0, 90.0):
        answered(skew, difference)
    assert len(caplog.messages) == 1
    assert "provider dex: its clock is ahead of ours by more than 30 s" in caplog.messages[0]
    answered(skew, -90.0)
    assert "behind" in caplog.messages[1]
    for _ in range(5):
        answered(skew, 4000.0)
    assert len(caplog.messages) == 3
    assert "more than 5 minutes apart" in caplog.messages[2]
    answered(skew, 0.0)
    answered(skew, 90.0)
    assert len(caplog.messages) == 4
