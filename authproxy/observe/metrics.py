"""Figures for Prometheus.  Labels are names from the settings, statuses and codes; never a user, a path or a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All figures of one process."""

    def __init__(self) -> None:
        self._registry: Final = CollectorRegistry()
        self._children: Final[dict[tuple[str, int], tuple[Counter, Histogram]]] = {}
        self._exchanges: Final = Counter(
            "authproxy_exchanges", "Exchanges by app and status.", ["app", "status"], registry=self._registry
        )
        self._seconds: Final = Histogram(
            "authproxy_exchange_seconds", "Seconds from request head to end of response.", ["app"],
            registry=self._registry,
        )  # fmt: skip
        self._refusals: Final = Counter("authproxy_refusals", "Refusals by code.", ["code"], registry=self._registry)
        self._events: Final = Counter(
            "authproxy_events", "Sign-ins, sign-outs and the like, by outcome.", ["event", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._sessions: Final = Gauge(
            "authproxy_live_sessions", "Sessions that this process holds in memory.", registry=self._registry
        )
        self._up: Final = Gauge(
            "authproxy_store_up", "Whether the last call to the shared store was answered.", registry=self._registry
        )
        self._up.set(1)
        self._failed: Final = Counter(
            "authproxy_store_failures", "Failed calls to the shared store.", ["kind"], registry=self._registry
        )

    def exchange(self, *, app: str, status: int, seconds: float, code: str) -> None:
        """Count one exchange."""
        key = (app, status)
        found = self._children.get(key)
        if found is None:  # apps and statuses are few
            found = self._children[key] = (
                self._exchanges.labels(app or "-", str(status)), self._seconds.labels(app or "-"),
            )  # fmt: skip
        found[0].inc()
        found[1].observe(seconds)
        if code:
            self._refusals.labels(code).inc()

    def event(self, name: str, outcome: str) -> None:
        """Count one event."""
        self._events.labels(name, outcome).inc()

    def store(self, failure: str) -> None:
        """Note one call to the store: "" or how it failed.  The server's own error is an answer too."""
        self._up.set(failure in ("", "error"))
        if failure:
            self._failed.labels(failure).inc()

    def watch_sessions(self, count: Callable[[], int]) -> None:
        """Take the number of live sessions from ``count`` at each reading."""
        self._sessions.set_function(lambda: float(count()))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
