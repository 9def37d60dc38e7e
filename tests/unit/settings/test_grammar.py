"""How hosts, paths and addresses are written; and that a route called hidden is hidden indeed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge.host import parse
from authproxy.edge.path import pattern, readings
from authproxy.settings import grammar
from authproxy.settings.crosscheck_apps import covers

segments = st.sampled_from(["a", "b", "{x}", "{y}"])
patterns = st.builds(
    lambda parts, end: "/" + "/".join(parts) + (end if parts else ""),
    st.lists(segments, max_size=3, unique=True),
    st.sampled_from(["", "/"]),
)
paths = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(patterns, patterns, st.lists(paths, max_size=20))
def test_a_covered_pattern_matches_nothing_of_its_own(wide: str, narrow: str, samples: list[str]) -> None:
    """Whatever the covered route matches, the covering one matches too."""
    if covers(wide, narrow):
        for sample in samples:
            assert pattern(narrow)(sample) is None or pattern(wide)(sample) is not None


@given(patterns)
def test_every_pattern_covers_itself(one: str) -> None:
    """The same route twice: the second can never match."""
    assert covers(one, one)
    assert covers("/", one)


@given(st.text(max_size=30))
def test_a_path_that_passes_compiles(text: str) -> None:
    """What the grammar lets through, the matcher understands."""
    if not grammar.path(text):
        pattern(text)


@given(st.from_regex(r"/[ -~]{0,12}", fullmatch=True))
def test_a_path_that_passes_can_match(text: str) -> None:
    """A request with the path as it is written selects the route, in every reading."""
    if not grammar.path(text):
        sample = "/".join("x" if part.startswith("{") else part for part in text.split("/"))
        assert all(pattern(text)(reading) is not None for reading in readings(sample))


@given(st.from_regex(r"/[a-z/]{0,6}", fullmatch=True), st.sampled_from("*+?:$^|()[]<>\\`"), st.text("ab/", max_size=3))
def test_a_character_of_a_pattern_never_passes(before: str, character: str, after: str) -> None:
    """A glob, a regular expression or a ``:name`` is never taken literally."""
    assert grammar.path(before + character + after)


@given(st.text(max_size=30))
def test_nothing_breaks_the_grammar(text: str) -> None:
    """Every text has an answer, a sentence or none."""
    for rule in (
        grammar.host,
        grammar.domain,
        grammar.path,
        grammar.origin,
        grammar.upstream,
        grammar.url,
        grammar.address,
        grammar.email,
    ):
        assert isinstance(rule(text), str)
        assert isinstance(rule(f"http://{text}"), str)


@pytest.mark.parametrize(
    "good", ["*", "a.example.com", "localhost", "10.0.0.1", "[::1]", "a_b.example.com", "xn--bcher-kva.example.com"]
)
def test_good_hosts(good: str) -> None:
    """What operators write for hosts."""
    assert grammar.host(good) == ""


@given(
    st.from_regex(r"[a-z0-9_.:%\[\]-]{1,12}", fullmatch=True)
    | st.ip_addresses(v=6).map(lambda address: f"[{address.exploded}]")
    | st.just("[fe80::1%eth0]")
)
def test_a_host_that_passes_is_read_from_requests(text: str) -> None:
    """The router reads it from a Host header as the same host; a zone, which no request carries, does not pass."""
    if not grammar.host(text) and text != "*":
        assert parse(text.encode()).host == grammar.canonical_host(text).strip("[]")


@pytest.mark.parametrize(
    "good", ["127.0.0.1:8080", "[::]:8080", "localhost:0", "unix:/run/authproxy.sock", "0.0.0.0:65535"]
)
def test_good_addresses(good: str) -> None:
    """What operators write for listeners."""
    assert grammar.address(good) == ""


@pytest.mark.parametrize(
    "bad", ["", "80", ":80", "::1:80", "h:", "h:x", "h:65536", "h:-1", "h:00", "a b:1", "unix:", "unix:run", "[::1:80"]
)
def test_bad_addresses(bad: str) -> None:
    """What cannot be bound."""
    assert grammar.address(bad)


def test_a_socket_path_fits_the_kernel() -> None:
    """A path that no socket address can hold is refused before anything is bound."""
    assert grammar.address("unix:/" + "a" * 106) == ""
    assert grammar.address("unix:/" + "a" * 107)


@pytest.mark.parametrize(
    "bad",
    ["", "a", "ftp://a", "http://", "http://:80", "http://a:", "http://a:0", "http://[x]", "http://a b", "http://u@a"],
)
def test_bad_origins(bad: str) -> None:
    """What is no scheme, host and port."""
    assert grammar.origin(bad)


@pytest.mark.parametrize(
    ("host", "yes"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback(host: str, yes: bool) -> None:
    """Http is allowed to this machine alone."""
    assert grammar.is_loopback(host) is yes


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("127.0.0.2:80", "127.0.0.1:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "0.0.0.0:80", False),
    ],
)
def test_listeners_that_collide(one: str, other: str, same: bool) -> None:
    """Two listeners cannot share a port, also when one of them listens everywhere."""
    assert grammar.same_listener(one, other) is same
