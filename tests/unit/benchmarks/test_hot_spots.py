"""A profile is told by package and by function, per request."""

from __future__ import annotations

from benchmarks.hot_spots import Timings, package, spots, told

TIMINGS: Timings = {
    ("/x/lib/python3.11/site-packages/aiohttp/client.py", 558, "_request"): (2000, 2000, 0.1, 0.5, {}),
    ("/srv/authproxy/authproxy/edge/exchange.py", 183, "_send"): (1000, 1000, 0.3, 0.4, {}),
    ("/x/lib/python3.11/json/encoder.py", 205, "iterencode"): (1000, 1000, 0.05, 0.05, {}),
    ("~", 0, "<method 'send' of '_socket.socket' objects>"): (1000, 1000, 0.05, 0.05, {}),
}


def test_the_dearest_comes_first() -> None:
    """Functions are in the order of their own time, named from their package on."""
    found = spots(TIMINGS)
    assert [one.place for one in found][:2] == [
        "authproxy/edge/exchange.py:183 _send",
        "aiohttp/client.py:558 _request",
    ]
    assert (found[0].calls, found[0].own) == (1000, 0.3)


def test_everything_belongs_somewhere() -> None:
    """A room of ours, a module of aiohttp, a library, or C."""
    assert [package(one.place) for one in spots(TIMINGS)] == ["authproxy/edge", "aiohttp/client", "json", "C"]


def test_the_tables_say_it() -> None:
    """Share of the whole, microseconds and calls for one request."""
    lines = [line.split() for line in told(spots(TIMINGS), 1000).splitlines()]
    assert ["authproxy/edge", "60.0%", "300.0"] in lines
    assert ["aiohttp/client.py:558", "_request", "20.0%", "100.0", "2.0"] in lines
