"""How a path is read, and what a pattern of the settings matches."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge.path import pattern, readings
from authproxy.errors import BadRequest

# Everything that has ever told two servers apart, and little else, so that short texts meet often.
SPITE = [
    "/",
    "/",
    ".",
    "..",
    ";",
    "a",
    "%2e",
    "%2f",
    "%5c",
    "%25",
    "%3b",
    "%3f",
    "%00",
    "%c0%ae",
    "%EF%BC%8E",
    "\\",
    "%",
]
SPITEFUL = st.lists(st.sampled_from(SPITE), max_size=12).map(lambda parts: "/" + "".join(parts))


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/b/", "/a.b/c..d", "/~user/x,y", "/a=b&c", "/A-b_c", "/" + "a/" * 4000, "/a@b:c!$'()*+"]
)
def test_a_plain_path_has_one_reading(path: str) -> None:
    """What every server reads alike is read once."""
    assert readings(path) == (path,)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("//a", ("//a", "/a")),
        ("/%61", ("/%61", "/a")),
        ("/a%2f%2fb", ("/a%2f%2fb", "/a//b", "/a/b")),
        ("/a;x/b", ("/a;x/b", "/a/b")),
        ("/;x/b", ("/;x/b", "//b", "/b")),
        ("/.well-known/x", ("/.well-known/x",)),
        ("/caf%C3%A9", ("/caf%C3%A9", "/café")),
        ("/a%EF%BC%8Fb", ("/a%EF%BC%8Fb", "/a\N{FULLWIDTH SOLIDUS}b", "/a/b")),
        ("/a%3fb", ("/a%3fb", "/a?b", "/a")),
        ("/a%23b", ("/a%23b", "/a#b", "/a")),
        ("/a;%2fb", ("/a;%2fb", "/a;/b", "/a", "/a/b")),
        ("/[x]|{y}", ("/[x]|{y}",)),
        ("/a;x%3fy", ("/a;x%3fy", "/a;x?y", "/a", "/a;x")),
        ("/a;x/%62", ("/a;x/%62", "/a;x/b", "/a/%62", "/a/b")),
        ("/%61;%2fb", ("/%61;%2fb", "/a;/b", "/%61", "/a", "/a/b")),
        ("/%2525", ("/%2525", "/%25")),
        ("/%25252525", ("/%25252525", "/%252525")),
    ],
)
def test_the_readings_are_distinct_and_the_raw_one_comes_first(path: str, expected: tuple[str, ...]) -> None:
    """Raw, merged, decoded, without parameters, cut and normalised: each text once."""
    assert readings(path) == expected


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/%", "bad_path"),
        ("/%4", "bad_path"),
        ("/%4g", "bad_path"),
        ("/a%00", "bad_path"),
        ("/a%1f", "bad_path"),
        ("/a%7f", "bad_path"),
        ("/%ff", "bad_path"),
        ("/%c0%af", "bad_path"),
        ("/%ed%a0%80", "bad_path"),
        ("/a/..", "ambiguous_path"),
        ("/a%5cb", "ambiguous_path"),
        ("/%2500", "ambiguous_path"),
        ("/%25ff", "ambiguous_path"),
        ("/" + "%25" + "25" * 8 + "2e", "ambiguous_path"),
        ("/" + "%25" + "25" * 4000 + "2e", "ambiguous_path"),
    ],
)
def test_what_no_two_servers_agree_on_is_refused(path: str, code: str) -> None:
    """Broken escapes, foreign bytes, controls, disguised dots and slashes end the request."""
    with pytest.raises(BadRequest) as refusal:
        readings(path)
    assert refusal.value.code == code


@given(SPITEFUL)
def test_no_accepted_reading_holds_a_dot_segment(path: str) -> None:
    """However often a server decodes, no segment of an accepted path becomes ``.`` or ``..``."""
    try:
        accepted = readings(path)
    except BadRequest:
        return
    for text in accepted:
        for _ in range(6):
            segments = re.split(r"[/\\]", text)
            assert not {".", ".."} & {segment.partition(";")[0] for segment in segments}
            assert "\\" not in text
            text = unquote(text)


@given(SPITEFUL)
def test_the_readings_of_the_contract_are_all_there(path: str) -> None:
    """Raw, merged, decoded, decoded and merged, and the last without parameters, spelled out naively."""
    try:
        accepted = readings(path)
    except BadRequest:
        return
    decoded = unquote(path, errors="strict")
    merged = re.sub("/+", "/", decoded)
    plain = re.sub("/+", "/", re.sub(";[^/]*", "", merged))
    assert accepted[0] == path
    assert {path, re.sub("/+", "/", path), decoded, merged, plain} <= set(accepted)
    assert len(set(accepted)) == len(accepted)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_any_text_that_a_client_escapes_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by a refusal, and then as ambiguous, not as broken."""
    with contextlib.suppress(Ambiguous):
        assert "/" + text in reading(quote(text, safe=""))


class Ambiguous(Exception):
    """The refusal of a path that can be understood in more than one way."""


def reading(escaped: str) -> tuple[str, ...]:
    """The readings, or Ambiguous; every other refusal is a failure."""
    try:
        return readings("/" + escaped)
    except BadRequest as refusal:
        if refusal.code == "ambiguous_path":
            raise Ambiguous from None
        raise


@pytest.mark.parametrize(
    ("spelled", "reading", "expected"),
    [
        ("/", "/anything", ()),
        ("/x/", "/x/", ()),
        ("/x/", "/x/y", ()),
        ("/x/", "/x", None),
        ("/x/", "/xy/", None),
        ("/x", "/x", ()),
        ("/x", "/x/", None),
        ("/x", "/X", None),
        ("/a.c", "/abc", None),
        ("/c/{cluster}/", "/c/eu/nodes", (("cluster", "eu"),)),
        ("/c/{cluster}/", "/c/eu/", (("cluster", "eu"),)),
        ("/c/{cluster}/", "/c/eu", None),
        ("/c/{cluster}/", "/c//", None),
        ("/c/{cluster}/", "/x/c/eu/", None),
        ("/c/{cluster}", "/c/eu", (("cluster", "eu"),)),
        ("/c/{cluster}", "/c/eu/", None),
        ("/c/{cluster}", "/c/eu\n", (("cluster", "eu\n"),)),
        ("/{a}/x.y/{b}", "/1/x.y/2", (("a", "1"), ("b", "2"))),
        ("/{a}/x.y/{b}", "/1/xzy/2", None),
    ],
)
def test_a_pattern_matches_exactly_or_by_prefix(
    spelled: str, reading: str, expected: tuple[tuple[str, str], ...] | None
) -> None:
    """With ``/`` at its end the prefix, otherwise exactly; ``{name}`` is one segment that is not empty."""
    assert pattern(spelled)(reading) == expected


@pytest.mark.parametrize("spelled", ["", "x", "/{}", "/{a}{b}", "/v{a}", "/{a", "/a}", "/{a-b}", "/{a}/{a}"])
def test_a_pattern_that_cannot_be_meant_is_an_error(spelled: str) -> None:
    """The settings hear of it, not the first request."""
    with pytest.raises(ValueError):
        pattern(spelled)
