"""The forms of our own pages: small, urlencoded, each field once."""

from __future__ import annotations

import pytest

from authproxy import body
from authproxy.errors import Refusal
from authproxy.portal.form import fields, raw_form
from tests.peers.page_request import bringing

FORM = "application/x-www-form-urlencoded"
MOST = 64 * 1024


async def test_a_form_is_read_whole() -> None:
    """As large as it may be; what it says is said once."""
    assert await raw_form(bringing(b"a=1", b"&b=%C3%A9", kind=f"{FORM}; charset=utf-8")) == "a=1&b=%C3%A9"
    assert len(await raw_form(bringing(b"x" * MOST, kind=FORM))) == MOST
    assert fields("a=1&b=%C3%A9&c=") == {"a": "1", "b": "é", "c": ""}


REFUSED = {
    "too large": (b"x" * (MOST + 1), FORM, "form_too_large"),
    "another type": (b"{}", "application/json", "not_a_form"),
    "no text": (b"a=\xff", FORM, "malformed_form"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_form_of_ours(name: str) -> None:
    """Is refused with its code."""
    octets, kind, code = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        await raw_form(bringing(octets, kind=kind))
    assert refused.value.code == code


async def test_a_form_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little of it is missing."""
    monkeypatch.setattr(body, "SECONDS", 0.01)
    with pytest.raises(Refusal) as refused:
        await raw_form(bringing(b"a=1", end=False, kind=FORM))
    assert refused.value.code == "form_too_slow"


@pytest.mark.parametrize(
    ("encoded", "code"),
    [("a=1&a=2", "duplicate_parameter"), ("a=%FF", "malformed_form"), ("&".join("abcdefghij" * 6), "malformed_form")],
)
def test_fields_that_could_be_read_in_two_ways(encoded: str, code: str) -> None:
    """Twice the same name, what is not UTF-8, more fields than any form of ours has."""
    with pytest.raises(Refusal) as refused:
        fields(encoded)
    assert refused.value.code == code
