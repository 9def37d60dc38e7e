"""Figures for Prometheus.  Labels are names from the settings, statuses and codes; never a user, a path or a host."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class _Exchanges(Collector):
    """Exchanges by app and status, and how long they took: plain numbers, which cost a request next to nothing."""

    def __init__(self, refused: Callable[[str], None]) -> None:
        self._refused: Final = refused
        self._counts: Final[dict[tuple[str, int], int]] = {}
        self._times: Final[dict[str, list[int]]] = {}  # for each app: how many fell into each bucket
        self._sums: Final[dict[str, float]] = {}

    def count(self, app: str, status: int, seconds: float, code: str) -> None:
        """Count one exchange, and the refusal that it ended in."""
        key = (app, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        times = self._times.get(app)
        if times is None:
            times, self._sums[app] = self._times.setdefault(app, [0] * (len(BUCKETS) + 1)), 0.0
        times[bisect_left(BUCKETS, seconds)] += 1
        self._sums[app] += seconds
        if code:
            self._refused(code)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        exchanges = CounterMetricFamily("authproxy_exchanges", "Exchanges by app and status.", labels=["app", "status"])
        for (app, status), number in list(self._counts.items()):
            exchanges.add_metric([app or "-", str(status)], number)
        yield exchanges
        seconds = HistogramMetricFamily(
            "authproxy_exchange_seconds", "Seconds from request head to end of response.", labels=["app"]
        )
        for app, times in list(self._times.items()):
            seconds.add_metric([app or "-"], list(zip(_BOUNDS, accumulate(times), strict=True)), self._sums[app])
        yield seconds


_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")


class Metrics:
    """All figures of one process."""

    def __init__(self) -> None:
        self._registry: Final = CollectorRegistry()
        refusals = Counter("authproxy_refusals", "Refusals by code.", ["code"], registry=self._registry)
        exchanges = _Exchanges(lambda code: refusals.labels(code).inc())
        self._registry.register(exchanges)
        self.exchange: Final = exchanges.count
        self._events: Final = Counter(
            "authproxy_events", "Sign-ins, sign-outs and the like, by outcome.", ["event", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._sessions: Final = Gauge(
            "authproxy_live_sessions", "Sessions that this process holds in memory.", registry=self._registry
        )
        self._unproved: Final = Gauge(
            "authproxy_sessions_unproved", "Live sessions that go on after their ID token expired.",
            registry=self._registry,
        )  # fmt: skip
        self._refreshes: Final = Counter(
            "authproxy_refresh_failures", "Refreshes of a session that failed, by provider and reason.",
            ["provider", "reason"], registry=self._registry,
        )  # fmt: skip
        self._connections: Final = Gauge(
            "authproxy_connections", "Client connections that are open.", registry=self._registry
        )
        self._turned_away: Final = Counter(
            "authproxy_connections_refused", "Client connections beyond listen.connections.", ["bound"],
            registry=self._registry,
        )  # fmt: skip
        self._skews: Final = Gauge(
            "authproxy_provider_clock_skew_seconds",
            "Seconds by which a provider's clock is ahead of ours, as its token endpoint's answers show.",
            ["provider"], registry=self._registry,
        )  # fmt: skip
        self._up: Final = Gauge(
            "authproxy_store_up", "Whether the last call to the shared store was answered.", registry=self._registry
        )
        self._up.set(1)
        self._failed: Final = Counter(
            "authproxy_store_failures", "Failed calls to the shared store.", ["kind"], registry=self._registry
        )

    def connection_refused(self, bound: str) -> None:
        """Count one connection beyond ``bound`` of listen.connections."""
        self._turned_away.labels(bound).inc()

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Take the number of open client connections from ``count`` at each reading."""
        self._connections.set_function(lambda: float(count()))

    def watch_clock_skews(self, skews: Mapping[str, Callable[[], float]]) -> None:
        """Take the skew of each provider's clock, in seconds, from ``skews`` at each reading."""
        self._skews.clear()
        for provider, seconds in skews.items():
            self._skews.labels(provider).set_function(seconds)

    def event(self, name: str, outcome: str) -> None:
        """Count one event."""
        self._events.labels(name, outcome).inc()

    def refresh_failed(self, provider: str, reason: str) -> None:
        """Count one refresh that failed: refused, invalid, limited, unavailable or unusable."""
        self._refreshes.labels(provider, reason).inc()

    def store(self, failure: str) -> None:
        """Note one call to the store: "" or how it failed.  The server's own error is an answer too."""
        self._up.set(failure in ("", "error"))
        if failure:
            self._failed.labels(failure).inc()

    def watch_sessions(self, count: Callable[[], int]) -> None:
        """Take the number of live sessions from ``count`` at each reading."""
        self._sessions.set_function(lambda: float(count()))

    def watch_unproved(self, count: Callable[[], int]) -> None:
        """Take the number of live sessions whose ID token has expired from ``count`` at each reading."""
        self._unproved.set_function(lambda: float(count()))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
