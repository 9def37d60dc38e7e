"""Heads as octets: order and spelling kept, framing said once, nothing that splits a line."""

from __future__ import annotations

import pytest

from authproxy.http1 import text


def test_a_response_head() -> None:
    """The standard phrase, the lines as they are without what they say of framing, ours at the end."""
    head = text.response_head(
        404,
        ((b"X-b", b"1"), (b"Content-LENGTH", b"9"), (b"x-B", b"\xff"), (b"Date", b"then")),
        b"Content-Length: 2\r\n",
    )
    assert head == b"HTTP/1.1 404 Not Found\r\nX-b: 1\r\nx-B: \xff\r\nDate: then\r\nContent-Length: 2\r\n\r\n"


def test_lines_that_were_written_before() -> None:
    """Come out the same as octets."""
    lines = ((b"X-b", b"1"), (b"Date", b"then"))
    fields = text.response_fields(lines)
    assert text.response_head(200, fields, b"") == text.response_head(200, lines, b"")


@pytest.mark.parametrize("as_octets", [False, True])
def test_a_date_is_added(as_octets: bool) -> None:
    """Where the answer has none, but not to an interim one (RFC 9110 section 6.6.1)."""
    lines = ((b"X", b"1"),)
    headers = text.response_fields(lines) if as_octets else lines
    assert text.response_head(200, headers, b"").count(b"\r\nDate: ") == 1
    assert b"Date" not in text.response_head(101, lines, b"")


def test_a_status_without_a_phrase() -> None:
    """Stands alone."""
    assert text.response_head(299, (), b"").startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("value", [b"a\r\nX: b", b"a\nb", b"a\rb", b"a\0b"])
def test_a_value_that_would_split_a_line(value: bytes) -> None:
    """Is refused, wherever it came from."""
    with pytest.raises(ValueError, match="cannot be sent"):
        text.fields(((b"X", value),))


def test_folded_names_are_bounded() -> None:
    """Whatever names are sent, few are remembered."""
    for number in range(5000):
        assert text.folded(b"X-%d" % number) == b"x-%d" % number
    assert len(text._FOLDED) <= 4096
