"""The figures of several processes as those of one."""

from __future__ import annotations

from functools import partial

from authproxy.observe import figures
from authproxy.observe.metrics import Metrics


def reading(*statuses: int, sessions: int = 0, up: bool = True) -> figures.Reading:
    """What a process that has answered so says of itself."""
    metrics = Metrics()
    metrics.watch_sessions(lambda: sessions)
    metrics.store("" if up else "unanswered")
    for status in statuses:
        metrics.exchange(app="web", status=status, seconds=0.02, code="" if status == 200 else "not_signed_in")
    return figures.read(metrics.text().decode())


def value(total: figures.Reading, line: str) -> float:
    """The value of a series, as the exposition format spells it."""
    text = figures.written(total).decode().splitlines()
    return float(next(one for one in text if one.startswith(line + " ")).rpartition(" ")[2])


def test_counters_and_histograms_are_summed() -> None:
    """Series by series; those that only one process has are there as well."""
    total = figures.add([reading(200, 200, 401), reading(200)])
    assert value(total, 'authproxy_exchanges_total{app="web",status="200"}') == 3
    assert value(total, 'authproxy_exchanges_total{app="web",status="401"}') == 1
    assert value(total, 'authproxy_exchange_seconds_count{app="web"}') == 4
    assert value(total, 'authproxy_exchange_seconds_bucket{app="web",le="+Inf"}') == 4
    assert value(total, 'authproxy_exchange_seconds_bucket{app="web",le="0.01"}') == 0


def test_gauges() -> None:
    """What is there now is summed; what holds, holds when it holds for all."""
    total = figures.add([reading(sessions=3), reading(sessions=4, up=False)])
    assert value(total, "authproxy_live_sessions") == 7
    assert value(total, "authproxy_store_up") == 0


def test_what_stays_of_a_process_that_has_ended() -> None:
    """Its counters, or the sums would fall; not its gauges."""
    past = figures.add([reading(200, sessions=5)], gauges=False)
    total = figures.add([past, reading(200, sessions=1)])
    assert value(total, 'authproxy_exchanges_total{app="web",status="200"}') == 2
    assert value(total, "authproxy_live_sessions") == 1


def test_the_text_can_be_read_again() -> None:
    """What is written is what was read: names, kinds, sentences and values."""
    total = figures.add([reading(200, 401, sessions=2)])
    assert figures.read(figures.written(total).decode()) == total
    assert b"_created" not in figures.written(total)


def test_adding_changes_nothing() -> None:
    """A reading may be added again and again."""
    one = reading(200)
    figures.add([one, one])
    assert value(figures.add([one]), 'authproxy_exchanges_total{app="web",status="200"}') == 1


def test_a_clock_skew_is_the_greatest_and_no_sum() -> None:
    """C10: each worker measures the same clocks; ahead and behind do not cancel out."""

    def skews(**seconds: float) -> figures.Reading:
        metrics = Metrics()
        metrics.watch_clock_skews({name: partial(float, number) for name, number in seconds.items()})
        return figures.read(metrics.text().decode())

    total = figures.add([skews(dex=0.0, other=3.0), skews(dex=-90.0, other=2.0), skews(dex=30.0)])
    assert value(total, 'authproxy_provider_clock_skew_seconds{provider="dex"}') == -90
    assert value(total, 'authproxy_provider_clock_skew_seconds{provider="other"}') == 3
