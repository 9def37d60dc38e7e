"""The bodies of requests to our own pages: bounded in size and time, and JSON that means one thing."""

from __future__ import annotations

import pytest

from authproxy import body
from authproxy.errors import BadRequest, ContentTooLarge, Refusal
from tests.peers.page_request import bringing


async def test_a_body_is_read_whole_up_to_its_bound() -> None:
    """In any pieces; one octet more is too large, also when its end never comes."""
    assert await body.octets(bringing(), 10) == b""
    assert await body.octets(bringing(b"01234", b"56789"), 10) == b"0123456789"
    assert await body.octets(bringing(b"01234", b"567890"), 10) is None
    assert await body.octets(bringing(b"01234567890", end=False), 10) is None


async def test_a_body_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then whoever asked says what it is."""
    monkeypatch.setattr(body, "SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await body.octets(bringing(b"0", end=False), 10)
    with pytest.raises(BadRequest) as refused:
        await body.json_object(bringing(b"{", end=False))
    assert refused.value.code == "body_too_slow"


async def test_one_object_is_json() -> None:
    """As large as the bound says."""
    assert await body.json_object(bringing(b'{"name":', b'"a"}')) == {"name": "a"}
    full = b'{"a":"' + b"x" * (body.SIZE - 8) + b'"}'
    assert len(await body.json_object(bringing(full))) == 1
    with pytest.raises(ContentTooLarge) as refused:
        await body.json_object(bringing(full + b" "))
    assert refused.value.code == "body_too_large"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 100])
async def test_what_is_not_one_object(text: bytes) -> None:
    """Is refused, and nothing of it is said again."""
    with pytest.raises(Refusal) as refused:
        await body.json_object(bringing(text))
    assert refused.value.code == "malformed_json"
    assert text.decode("latin-1") not in refused.value.message or not text
