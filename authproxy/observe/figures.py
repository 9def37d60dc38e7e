"""The figures of all workers as those of one program.

Counters and histograms are sums, and a worker that has ended stays in them, or they would fall.  Gauges are sums of
what is there now, but for those that say whether something holds (``_up``): these hold when they hold for all.  A
clock skew is the greatest that a worker found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

Key = tuple[str, tuple[tuple[str, str], ...]]


class Family(NamedTuple):
    """One metric: its samples by name and labels."""

    kind: str
    documentation: str
    samples: dict[Key, float]


Reading = dict[str, Family]


def read(text: str) -> Reading:
    """What a worker's ``/metrics`` says; when each series began is left out."""
    found: Reading = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):
            samples = {(one.name, tuple(sorted(one.labels.items()))): float(one.value) for one in family.samples}
            found[family.name] = Family(family.type, family.documentation, samples)
    return found


def add(readings: Iterable[Reading], *, gauges: bool = True) -> Reading:
    """One reading of several.  Without ``gauges``: what stays when those who gave them have ended."""
    total: Reading = {}
    for reading in readings:
        for name, family in reading.items():
            if family.kind == "gauge" and not gauges:
                continue
            _into(total.setdefault(name, family._replace(samples={})), name, family)
    return total


def _into(total: Family, name: str, family: Family) -> None:
    for key, value in family.samples.items():
        if key not in total.samples:
            total.samples[key] = value
        elif family.kind == "gauge" and name.endswith("_up"):
            total.samples[key] = min(total.samples[key], value)
        elif family.kind == "gauge" and name.endswith("_skew_seconds"):
            total.samples[key] = max(total.samples[key], value, key=abs)
        else:
            total.samples[key] += value


class _Written(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading: Final = reading

    def collect(self) -> Iterator[Metric]:
        for name, family in self._reading.items():
            metric = Metric(name, family.documentation, family.kind)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def written(reading: Reading) -> bytes:
    """The exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Written(reading))
    return generate_latest(registry)
