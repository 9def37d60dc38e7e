"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Seconds since the epoch; call it for the time."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.start = self.now = now

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"<FakeClock {self.elapsed:.1f}s after its start>"

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return self.now - self.start

    def forward(self, seconds: float) -> None:
        """Move the clock; a negative number sets it back."""
        self.now += seconds
