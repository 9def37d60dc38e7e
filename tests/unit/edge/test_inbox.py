"""The heads of one connection: cut where they end, in whatever pieces they come; refused as soon as they cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge import limits
from authproxy.edge.inbox import Inbox
from authproxy.errors import BadRequest, HeadTooLarge, Refusal

ONE = b"GET /one HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
TWO = b"POST /two HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 0\r\n\r\n"


def taken(inbox: Inbox) -> list[bytes]:
    """The targets of the heads that are whole."""
    found = []
    while (head := inbox.head()) is not None:
        found.append(head.target)
    return found


def given_(data: bytes) -> Inbox:
    """An inbox with ``data`` in it."""
    inbox = Inbox()
    inbox.add(data)
    return inbox


@given(st.lists(st.integers(1, len(ONE + TWO) - 1), max_size=8))
def test_heads_are_cut_where_they_end(places: list[int]) -> None:
    """However two heads and the beginning of a third are cut into pieces, the same heads come out, and what is left."""
    wire, inbox, found = ONE + TWO + b"GE", Inbox(), []
    for start, end in zip([0, *sorted(places)], [*sorted(places), len(wire)], strict=True):
        inbox.add(wire[start:end])
        found += taken(inbox)
    assert found == [b"/one", b"/two"]
    assert (inbox.data, inbox.ready) == (b"GE", False)


def test_what_follows_a_head_is_left() -> None:
    """A body, or the next request, is nobody's until it is taken; taking takes all of it."""
    inbox = given_(ONE + b"body")
    assert inbox.ready
    assert inbox.head() is not None
    assert (inbox.take(), inbox.data) == (b"body", b"")


def test_one_empty_line_before_a_request_is_ignored() -> None:
    """RFC 9112 section 2.2: one, in whatever pieces; not two, and one again before the next request."""
    assert taken(given_(b"\r\n" + ONE + b"\r\n" + TWO)) == [b"/one", b"/two"]
    inbox = given_(b"\r")
    assert inbox.head() is None
    inbox.add(b"\n")
    assert inbox.head() is None
    inbox.add(ONE)
    assert taken(inbox) == [b"/one"]
    with pytest.raises(BadRequest):
        given_(b"\r\n\r\n" + ONE).head()
    inbox = given_(b"\r\n")
    assert inbox.head() is None
    inbox.add(b"\r\n" + ONE)
    with pytest.raises(BadRequest):
        inbox.head()


NEVER = {
    "TLS": b"\x16\x03\x01",
    "lower case": b"get / HTTP/1.1\r\n",
    "a space": b" GET / HTTP/1.1\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost",
    "a bare line feed later": b"GET / HTTP/1.1\r\nHost: a\nX",
    "an empty line of one octet": b"\nGET / HTTP/1.1\r\n",
    "a second empty line": b"\r\n\r",
}


@pytest.mark.parametrize("name", NEVER)
def test_what_can_never_be_a_head_is_refused_at_once(name: str) -> None:
    """Its sender does not wait for the end of its time."""
    with pytest.raises(BadRequest) as refused:
        given_(NEVER[name]).head()
    assert refused.value.code == "malformed_request"


def refusal(data: bytes) -> Refusal | None:
    """What is said of ``data``."""
    try:
        given_(data).head()
    except Refusal as error:
        return error
    return None


def test_the_bounds_are_exact() -> None:
    """A line, a head and the number of lines may be as large as the limits say, and not an octet larger."""
    first, host = b"GET / HTTP/1.1\r\n", b"Host: a\r\n"

    def line(octets: int) -> bytes:
        return b"X-A: " + b"b" * (octets - len(b"X-A: ")) + b"\r\n"

    assert refusal(first + host + line(limits.LINE) + b"\r\n") is None
    assert isinstance(refusal(first + host + line(limits.LINE + 1) + b"\r\n"), HeadTooLarge)
    assert refusal(first + b"X: y\r\n" * limits.HEADER_LINES + b"\r\n") is None
    assert isinstance(refusal(first + b"X: y\r\n" * (limits.HEADER_LINES + 1) + b"\r\n"), HeadTooLarge)
    full = first + line(limits.LINE) * 3
    rest = limits.HEAD - len(full) - len(b"\r\n\r\n")
    assert refusal(full + line(rest) + b"\r\n") is None
    assert isinstance(refusal(full + line(rest + 1) + b"\r\n"), HeadTooLarge)


def test_what_grows_without_end_is_refused_before_it_has_one() -> None:
    """A first line without an end, and lines without an end."""
    assert refusal(b"GET /" + b"x" * (limits.LINE - 5)) is None
    assert isinstance(refusal(b"GET /" + b"x" * (limits.LINE - 4)), HeadTooLarge)
    endless = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (limits.HEAD // 6)
    assert isinstance(refusal(endless), HeadTooLarge)


def test_it_says_its_state_and_no_octet_of_it() -> None:
    """What waits may be credentials."""
    assert repr(given_(b"Authorization: secret")) == "<Inbox 21 octets>"
