"""A token endpoint's answer is judged by its status first, and only a definite no ends anything (B10, B27)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from multidict import CIMultiDict

from authproxy.errors import GrantRefused, ProviderError
from authproxy.oidc import grants
from authproxy.oidc.grants import classify

GOOD: dict[str, Any] = {"access_token": "at-1", "token_type": "bearer", "id_token": "a.b.c", "expires_in": 600}


def body(**members: Any) -> bytes:
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def test_a_good_answer_is_read() -> None:
    """RFC 6749 section 5.1; the type is compared without case, and nothing of it is in the repr."""
    answer = classify(200, body(**GOOD, refresh_token="rt-1", scope="openid"), {})
    assert answer == ("at-1", "a.b.c", "rt-1", 600.0, "openid", 0.0)
    assert "at-1" not in repr(answer)
    assert "rt-1" not in repr(answer)
    assert classify(200, body(**GOOD | {"token_type": "BEARER"}), {}).refresh_token == ""


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(600, 600.0), ("600", 600.0), (0.5, 0.5), (True, None), ("soon", None), (-1, None), ([], None)],
)
def test_expires_in_is_a_number_of_seconds_or_unknown(said: object, seconds: float | None) -> None:
    """Nonsense is as good as nothing; it is a hint."""
    assert classify(200, body(**GOOD | {"expires_in": said}), {}).expires_in == seconds


BAD_YES: dict[str, bytes] = {
    "empty": b"",
    "html": b"<html>",
    "array": b"[]",
    "form": b"access_token=a&token_type=bearer",
    "error with 200": body(error="invalid_grant"),
    "error beside tokens": body(**GOOD, error="invalid_grant"),
    "no token type": body(**GOOD | {"token_type": None}),
    "mac": body(**GOOD | {"token_type": "mac"}),
    "DPoP": body(**GOOD | {"token_type": "DPoP"}),
    "token type list": body(**GOOD | {"token_type": ["Bearer"]}),
    "no access token": body(**GOOD | {"access_token": None}),
    "empty access token": body(**GOOD | {"access_token": ""}),
    "access token number": body(**GOOD | {"access_token": 7}),
    "access token with line break": body(**GOOD | {"access_token": "a\r\nX: 1"}),
    "refresh token list": body(**GOOD | {"refresh_token": ["a"]}),
    "refresh token with line break": body(**GOOD | {"refresh_token": "a\nb"}),
    "duplicate member": b'{"access_token":"a","access_token":"b","token_type":"Bearer"}',
    "NaN": b'{"access_token":"a","token_type":"Bearer","expires_in":NaN}',
    "five megabytes": body(**GOOD, pad="a" * 5_000_000),
    "100,000 levels": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("raw", BAD_YES.values(), ids=BAD_YES.keys())
@pytest.mark.parametrize("grant", ["authorization_code", "refresh_token", "password"])
def test_nonsense_with_200_is_the_providers_failure(raw: bytes, grant: grants.Grant) -> None:
    """B10: it says nothing about the user, so it ends nothing."""
    with pytest.raises(ProviderError):
        classify(200, raw, {}, grant=grant)


ANSWERS: list[tuple[int, str | None, str, type[Exception]]] = [
    # status, error, grant, outcome
    (400, "invalid_grant", "authorization_code", GrantRefused),
    (400, "invalid_grant", "refresh_token", GrantRefused),
    (401, "invalid_grant", "refresh_token", GrantRefused),
    (403, "invalid_grant", "refresh_token", GrantRefused),
    (400, "invalid_grant", "password", GrantRefused),
    (401, "access_denied", "password", GrantRefused),
    (400, "access_denied", "refresh_token", GrantRefused),
    (400, "interaction_required", "refresh_token", GrantRefused),
    (400, "invalid_request", "refresh_token", GrantRefused),  # Dex: the refresh token is dead
    (401, "invalid_request", "refresh_token", ProviderError),
    (500, "invalid_request", "refresh_token", ProviderError),  # Dex: its storage is busy
    (500, "invalid_grant", "refresh_token", ProviderError),
    (503, "access_denied", "refresh_token", ProviderError),
    (400, "invalid_request", "authorization_code", ProviderError),
    (400, "invalid_request", "password", ProviderError),
    (401, "invalid_client", "refresh_token", ProviderError),
    (400, "invalid_client", "authorization_code", ProviderError),
    (400, "unauthorized_client", "refresh_token", ProviderError),
    (400, "unsupported_grant_type", "password", ProviderError),
    (400, "invalid_scope", "refresh_token", ProviderError),
    (400, None, "refresh_token", ProviderError),
    (401, None, "refresh_token", ProviderError),
    (429, "invalid_grant", "refresh_token", ProviderError),
    (404, "invalid_grant", "refresh_token", ProviderError),
    (302, "invalid_grant", "refresh_token", ProviderError),
    (307, None, "refresh_token", ProviderError),
    (201, None, "refresh_token", ProviderError),
    (204, None, "refresh_token", ProviderError),
    (502, None, "refresh_token", ProviderError),
]


@pytest.mark.parametrize(("status", "error", "grant", "outcome"), ANSWERS)
def test_who_is_to_blame_is_told_by_the_status_first(
    status: int, error: str | None, grant: grants.Grant, outcome: type[Exception]
) -> None:
    """B27 and Dex's manners: a dead grant is final; the operator's and the provider's failures are not."""
    with pytest.raises(outcome) as caught:
        classify(status, body(error=error, **GOOD) if status < 300 else body(error=error), {}, grant=grant)
    assert type(caught.value) is outcome


@pytest.mark.parametrize("raw", [b"", b"<html>bad gateway</html>", b"[]", b'{"error":["invalid_grant"]}', b"{" * 9999])
def test_a_refusal_that_cannot_be_read_is_not_final(raw: bytes) -> None:
    """An intermediary's 400 page must not sign anybody out."""
    with pytest.raises(ProviderError):
        classify(400, raw, {}, grant="refresh_token")


def test_an_error_code_is_cleaned_and_nothing_else_is_repeated() -> None:
    """Logs get 64 harmless characters of the code, and no description, which may quote the token."""
    with pytest.raises(ProviderError) as caught:
        classify(400, body(error="x\r\n\x1b[31m<script>" + "a" * 100, error_description="token rt-1"), {})
    text = str(caught.value)
    assert "rt-1" not in text
    assert text.isprintable()
    assert "<" not in text
    assert len(grants.clean_error("a" * 100)) == 64


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"Retry-After": "99999999999999"}, 3600.0),
        ({"Retry-After": "Fri, 31 Dec 2027 23:59:50 GMT", "Date": "Fri, 31 Dec 2027 23:59:20 GMT"}, 30.0),
        ({"Retry-After": "Fri, 31 Dec 2027 23:59:50 GMT", "Date": "Fri, 31 Dec 2027 23:59:59 GMT"}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 2027 23:59:50 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "\u0667"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_kept(headers: dict[str, str], seconds: float | None) -> None:
    """Dex's limiter says how long; a date counts on the provider's own clock; an hour at most."""
    for status in (429, 503):
        with pytest.raises(ProviderError) as caught:
            classify(status, b"Too many requests", headers, grant="refresh_token")
        assert caught.value.retry_after == seconds


def test_the_client_says_who_it_is_in_one_way() -> None:
    """A16: both halves are form-urlencoded before base64; a public client has only its id."""
    header = grants.client_header("id:1", "s e+c/%é", "client_secret_basic")["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")) == b"id%3A1:s+e%2Bc%2F%25%C3%A9"
    assert grants.client_form("id:1", "s", "client_secret_basic") == {}
    assert grants.client_form("id:1", "s", "client_secret_post") == {"client_id": "id:1", "client_secret": "s"}
    assert grants.client_header("id:1", "s", "client_secret_post") == {}
    assert grants.client_form("id:1", None, "client_secret_basic") == {"client_id": "id:1"}
    assert grants.client_header("id:1", None, "client_secret_basic") == {}


IMF_DATE = "Sun, 06 Nov 1994 08:49:37 GMT"  # RFC 9110 section 5.6.7: 784111777 seconds after the epoch


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Date": IMF_DATE}, 784111777.0),
        ({"date": IMF_DATE}, 784111777.0),
        ({}, 0.0),
        ({"Date": ""}, 0.0),
        ({"Date": "yesterday"}, 0.0),
        ({"Date": "784111777"}, 0.0),
        ({"Date": "Sunday, 06-Nov-94 08:49:37 GMT"}, 0.0),
        ({"Date": "Sun Nov  6 08:49:37 1994"}, 0.0),
        ({"Date": "Sun, 06 Nov 1994 08:49:37 +0530"}, 0.0),
        ({"Date": "Sun, 06 Nov 1994 08:49:37"}, 0.0),
        ({"Date": "Sun, 31 Feb 1994 08:49:37 GMT"}, 0.0),
        ({"Date": "Sun, 06 Nov 1994 25:49:37 GMT"}, 0.0),
        ({"Date": "Sun, 06 Nov 0000 08:49:37 GMT"}, 0.0),
        ({"Date": "Thu, 01 Jan 1004 00:00:00 GMT"}, 0.0),
        ({"Date": f"{IMF_DATE}, {IMF_DATE}"}, 0.0),
        ({"Date": IMF_DATE, "Age": "0"}, 0.0),
        ({"Date": IMF_DATE, "age": "37"}, 0.0),
    ],
)
def test_the_date_of_an_answer_is_one_exact_date_or_unknown(headers: dict[str, str], seconds: float) -> None:
    """C10: absent, garbled, repeated and cached dates say nothing about the provider's clock."""
    assert grants.answered_at(headers) == seconds
    assert classify(200, body(**GOOD), headers).answered_at == seconds


def test_a_repeated_date_header_is_unknown() -> None:
    """Two header lines are no date, equal or not."""
    headers = CIMultiDict([("Date", IMF_DATE), ("Date", IMF_DATE)])
    assert grants.answered_at(headers) == 0.0


def test_an_unproved_answer_keeps_its_token_out_of_sight() -> None:
    """The token to try next is an attribute, and in no text."""
    error = grants.AnswerUnproved("keys cannot be had", refresh_token="rt-secret")
    assert error.refresh_token == "rt-secret"
    assert "rt-secret" not in f"{error} {error!r}"
