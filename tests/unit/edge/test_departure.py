"""Who is told that a door stops serving, and when."""

from __future__ import annotations

from authproxy.edge.departure import Departure


def test_everybody_is_told_once() -> None:
    """At the beginning, with the deadline; a second beginning changes nothing."""
    one: list[float] = []
    other: list[float] = []
    departure = Departure()
    departure.on_begin(one.append)
    departure.on_begin(other.append)
    assert one == other == []
    departure.begin(30.0)
    departure.begin(60.0)
    assert (one, other, departure.deadline) == ([30.0], [30.0], 30.0)


def test_who_comes_later_is_told_at_once() -> None:
    """A tunnel that opens while the door drains has the same deadline."""
    told: list[float] = []
    departure = Departure()
    departure.begin(30.0)
    departure.on_begin(told.append)()
    assert told == [30.0]


def test_who_has_left_is_not_told() -> None:
    """What was forgotten is not called, and nothing of it is kept."""
    told: list[float] = []
    departure = Departure()
    departure.on_begin(told.append)()
    assert repr(departure) == "<Departure not begun, 0 waiting>"
    departure.begin(30.0)
    assert told == []
