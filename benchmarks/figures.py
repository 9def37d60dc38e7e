"""Medians, spreads and ratios of what several rounds said.  Arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple, Self


class TooShort(ValueError):
    """A round took so little that nothing can be said of it."""


class Figure(NamedTuple):
    """One quantity over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value; raises ValueError for none."""
        if not values:
            raise ValueError("no round has said anything")
        return cls(median(values), min(values), max(values))

    @property
    def spread(self) -> float:
        """How far the rounds are apart, as a share of the median; 0 when the median is."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def as_json(self) -> dict[str, float]:
        """For the file of results."""
        return {"median": self.median, "low": self.low, "high": self.high}


def ratios(values: Sequence[float], reference: Sequence[float]) -> Figure:
    """Each value by the reference of the same round, so that a machine that slows down for a while cancels out.

    Raises ValueError when the rounds do not match, TooShort when a reference is not positive.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} rounds against {len(reference)}")
    if any(one <= 0 for one in reference):
        raise TooShort("the reference of a round is zero: it ran too short to be measured")
    return Figure.of([value / one for value, one in zip(values, reference, strict=True)])


class Reading(NamedTuple):
    """What one candidate did in one round."""

    cpu: float  # microseconds of user and system time per request, of all its processes
    rate: float  # requests per second
    p50: float  # milliseconds
    p99: float  # milliseconds
    flow: float  # MB (10^6 octets) of bodies and heads per second

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return dict(self._asdict())
