"""JSON from strangers has one meaning or none."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.jose.strictjson import DEPTH, load_object

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), NESTED, max_size=5))
def test_an_honest_object_is_read_as_it_was_written(value: dict[str, object]) -> None:
    """What a well-behaved peer writes comes out unchanged."""
    assert load_object(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "NaN"),
        (b'{"a": -Infinity}', "NaN"),
        (b'{"a": 1e999}', "too large"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b"\xef\xbb\xbf{}", ""),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'{"a": ' + b"9" * 5000 + b"}", ""),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(raw: bytes, why: str) -> None:
    """Duplicate members, infinite numbers, other encodings and half surrogate pairs are refused (C15, C16)."""
    with pytest.raises(ValueError) as caught:
        load_object(raw)
    assert why in str(caught.value)


def test_a_whole_surrogate_pair_is_text() -> None:
    """Only halves are refused: an escaped pair is an ordinary character."""
    assert load_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_never_reaches_the_parser(opening: bytes) -> None:
    """100,000 levels are refused in milliseconds and without recursion (C16)."""
    began = time.process_time()
    with pytest.raises(ValueError, match="deep"):
        load_object(b'{"a":' + opening * 100_000)
    assert time.process_time() - began < 0.1


def test_the_depth_limit_counts_structure_and_not_text() -> None:
    """Brackets inside strings nest nothing; the limit itself is allowed, one more is not."""
    text = json.dumps({"a": "[{" * 1000 + '\\"['})
    assert load_object(text.encode()) == json.loads(text)
    exact = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    assert load_object(exact)
    with pytest.raises(ValueError, match="deep"):
        load_object(b'{"a":' + exact + b"}")


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 60_000, b'"' * 60_001, b'"\\' * 40_000])
def test_quotes_without_end_cost_linear_time(tail: bytes) -> None:
    """A text made to send a scanner back and forth is refused at once."""
    began = time.process_time()
    with pytest.raises(ValueError, match="not JSON"):
        load_object(b"{" * 20 + tail + b"{" * 20)
    assert time.process_time() - began < 0.5
