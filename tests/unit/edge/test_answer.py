"""How a no is worded: by what the client asks for, and never with more than is safe to say."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from authproxy import errors
from authproxy.edge.answer import Answers
from authproxy.edge.origin import Origins
from authproxy.model import Answer, Match, RequestInfo, Route
from authproxy.portal.pages import CSP, Pages
from tests.unit import values

ORIGINS = Origins(public_url="https://auth.example.com", prefix="/oauth2", cookie_domain=None)
ANSWERS = Answers(pages=Pages(prefix="/oauth2"), origins=ORIGINS, csp=CSP)
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
NOT_SIGNED_IN = errors.NotAuthenticated("not_signed_in", "You are not signed in.")


def info(
    path: str = "/", *, query: str = "", method: str = "GET", headers: Mapping[str, str] | None = None
) -> RequestInfo:
    """A request to app.example.com with the id request-1."""
    target = f"{path}?{query}" if query else path
    return values.changed(values.info(target, *(headers or {}).items(), method=method), request_id="request-1")


def headers(answer: Answer) -> dict[str, str]:
    """The headers of an answer by lower-case name."""
    return {name.decode().lower(): value.decode() for name, value in answer.headers}


def an_api_match() -> Match:
    """A match of a route that takes no sessions."""
    route = Route("apps.app.routes[0]", "/", values.STAFF, accept=frozenset({"bearer"}))
    return Match(values.app("app", routes=(route,)), route)


@pytest.mark.parametrize(
    "sent",
    [NAVIGATION, {"Accept": "text/html,application/xhtml+xml"}, {"Sec-Fetch-Mode": "navigate", "Accept": "*/*"}],
)
def test_a_navigation_is_sent_to_sign_in(sent: dict[str, str]) -> None:
    """A browser that opens a page goes to sign-in and comes back to that very page."""
    answer = ANSWERS.refuse(NOT_SIGNED_IN, info(path="/deep", query="a=1", headers=sent))
    assert answer.status == 302
    assert headers(answer)["location"] == "https://app.example.com/oauth2/sign_in?rd=%2Fdeep%3Fa%3D1"
    assert headers(answer)["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("GET", {"Accept": "application/json"}),
        ("GET", {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}),
        ("GET", {"Accept": "text/html", "X-Requested-With": "XMLHttpRequest"}),
        ("GET", {}),
        ("POST", {"Accept": "*/*"}),
    ],
)
def test_b20_a_script_gets_401_json(method: str, sent: dict[str, str]) -> None:
    """What is no navigation is told in JSON, with the address of sign-in, and never redirected."""
    answer = ANSWERS.refuse(NOT_SIGNED_IN, info(method=method, headers=sent))
    said = json.loads(answer.body)
    assert answer.status == 401
    assert "location" not in headers(answer)
    assert said == {
        "error": "not_signed_in", "message": "You are not signed in.", "request_id": "request-1",
        "sign_in": "https://app.example.com/oauth2/sign_in",
    }  # fmt: skip


def test_a_posted_page_gets_a_page_and_no_redirect() -> None:
    """A form that was posted without a session would lose its body in a redirect: it gets a page with a link."""
    answer = ANSWERS.refuse(NOT_SIGNED_IN, info(method="POST", headers=NAVIGATION))
    assert answer.status == 401
    assert headers(answer)["content-type"].startswith("text/html")
    assert headers(answer)["content-security-policy"] == CSP


def test_b21_a_prefetch_is_not_sent_to_sign_in() -> None:
    """A guess of the browser's begins nothing."""
    answer = ANSWERS.refuse(NOT_SIGNED_IN, info(headers={**NAVIGATION, "Sec-Purpose": "prefetch;prerender"}))
    assert answer.status == 401


def test_an_api_route_never_redirects() -> None:
    """Where sessions are not accepted, even a browser gets 401 with the scheme that is (RFC 6750 section 3)."""
    answer = ANSWERS.refuse(NOT_SIGNED_IN, info(headers=NAVIGATION), an_api_match())
    assert answer.status == 401
    assert headers(answer)["www-authenticate"] == "Bearer"
    assert "sign_in" not in json.loads(answer.body)


def test_a_bad_token_is_named_by_its_rfc_code() -> None:
    """The challenge carries the error code of RFC 6750 section 3.1."""
    bad = errors.NotAuthenticated("bad_token", "The token is not valid.", token_error="invalid_token")
    answer = ANSWERS.refuse(bad, info(), an_api_match())
    assert headers(answer)["www-authenticate"] == 'Bearer error="invalid_token"'


def test_every_answer_tells_that_it_is_ours() -> None:
    """Code and request id are in the headers, so that an operator can tell our no from the app's."""
    for refusal in (NOT_SIGNED_IN, errors.Forbidden("not_allowed", "No."), errors.NotFound("no_app", "No.")):
        for sent in (NAVIGATION, {}):
            found = headers(ANSWERS.refuse(refusal, info(headers=sent)))
            assert found["authproxy-refusal"] == refusal.code
            assert found["x-request-id"] == "request-1"


def test_the_throttle_says_how_long() -> None:
    """429 carries whole seconds, as a page and as JSON."""
    for sent in (NAVIGATION, {}):
        answer = ANSWERS.refuse(errors.TooManyAttempts(6), info(headers=sent))
        assert answer.status == 429
        assert headers(answer)["retry-after"] == "6"


def test_405_names_what_is_allowed_and_503_when_to_come_back() -> None:
    """RFC 9110 sections 15.5.6 and 15.6.4."""
    wrong = errors.MethodNotAllowed("method_not_allowed", "No.", allow=("GET", "HEAD"))
    assert headers(ANSWERS.refuse(wrong, info()))["allow"] == "GET, HEAD"
    assert headers(ANSWERS.refuse(errors.Unavailable("x", "Later."), info()))["retry-after"] == "5"


def test_the_reason_stays_with_us() -> None:
    """What is for the audit record alone is in no answer."""
    refusal = errors.Forbidden("not_allowed", "You may not.", reason="internal detail")
    for sent in (NAVIGATION, {}):
        answer = ANSWERS.refuse(refusal, info(headers=sent))
        assert b"internal detail" not in answer.body
        assert "internal detail" not in str(answer.headers)


def test_what_cannot_be_read_is_answered_in_json() -> None:
    """Nothing is known of the sender's wishes; the code and an id to ask about are there all the same."""
    answer = ANSWERS.unread(errors.BadRequest("malformed_request", "This is not a valid request."), "request-2")
    assert answer.status == 400
    assert json.loads(answer.body) == {
        "error": "malformed_request", "message": "This is not a valid request.", "request_id": "request-2",
    }  # fmt: skip
    assert headers(answer)["x-request-id"] == "request-2"


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (NOT_SIGNED_IN, 401),
        (errors.Forbidden("x", "No."), 403),
        (errors.NotFound("no_app", "No."), 403),
        (errors.BadRequest("x", "No."), 403),
        (errors.Unavailable("x", "Later."), 503),
    ],
)
def test_j4_nginx_hears_401_or_403(refusal: errors.Refusal, status: int) -> None:
    """``auth_request`` takes any other 4xx for a failure, and a redirect for one as well."""
    answer = ANSWERS.bare(refusal, "request-1")
    assert answer.status == status
    assert "location" not in headers(answer)


def test_links_help_and_lead_nowhere_else() -> None:
    """A person who may not enter can sign in as somebody else; on our own pages, begin again."""
    forbidden = ANSWERS.refuse(errors.Forbidden("not_allowed", "No."), info(headers=NAVIGATION))
    assert b'href="/oauth2/sign_out"' in forbidden.body
    ours = ANSWERS.refuse(errors.BadRequest("state_unknown", "No."), info(path="/oauth2/callback", headers=NAVIGATION))
    assert b'href="/oauth2/sign_in"' in ours.body
    nothing = ANSWERS.refuse(errors.NotFound("no_app", "No."), info(headers=NAVIGATION))
    assert b"/oauth2/sign" not in nothing.body


BASIC = 'Basic realm="authproxy", charset="UTF-8"'


@pytest.mark.parametrize(
    ("accept", "token_error", "challenges"),
    [
        ({"token"}, "", ["Bearer"]),
        ({"certificate"}, "", ["Bearer"]),
        ({"basic"}, "", [BASIC]),
        ({"basic", "token"}, "", ["Bearer", BASIC]),
        ({"basic", "token"}, "invalid_token", ['Bearer error="invalid_token"', BASIC]),
        ({"basic", "session"}, "", []),
        ({"token", "session"}, "invalid_token", ['Bearer error="invalid_token"']),
    ],
)
def test_a_401_names_what_the_route_takes(accept: set[str], token_error: str, challenges: list[str]) -> None:
    """RFC 9110 section 11.6.1: one challenge per scheme; Basic never where a browser would ask for a password."""
    route = Route("apps.app.routes[0]", "/", values.STAFF, accept=frozenset(accept))
    match = Match(values.app("app", routes=(route,)), route)
    refusal = errors.NotAuthenticated("x", "No.", token_error=token_error)
    for answer in (ANSWERS.refuse(refusal, info(), match), ANSWERS.bare(refusal, "request-1", match)):
        assert [value.decode() for name, value in answer.headers if name == b"WWW-Authenticate"] == challenges
