"""The vocabulary: what the values say of themselves, and what they never say."""

from __future__ import annotations

from authproxy.errors import (
    GrantRefused,
    InvalidToken,
    MethodNotAllowed,
    NotAuthenticated,
    Problem,
    ProviderError,
    SettingsError,
    TooManyAttempts,
)
from authproxy.model import ANONYMOUS, Headers, Upstream, UpstreamRequest
from tests.unit.values import info, match, person

SECRET = "s3cret-value"
LINES = ((b"Accept", b"a"), (b"ACCEPT", b"b"), (b"Authorization", SECRET.encode()))


def test_headers_keep_order_case_and_duplicates() -> None:
    """Look-ups ignore case; the lines stay as they came."""
    headers = Headers(LINES)
    assert tuple(headers) == LINES
    assert len(headers) == 3
    assert headers.all(b"accept") == (b"a", b"b")
    assert headers.get(b"accept") == b"a"
    assert headers.text(b"accept") == "a, b"
    assert b"authorization" in headers


def test_an_absent_header_is_nothing() -> None:
    """No value, no text, not there."""
    headers = Headers()
    assert headers.get(b"accept") is None
    assert headers.all(b"accept") == ()
    assert headers.text(b"accept") == ""
    assert b"accept" not in headers


def test_what_follows_from_cookies_is_shared_by_equal_cookies_alone() -> None:
    """Another line makes no difference; another cookie, another order, one more line or none does."""
    lines = ((b"Cookie", b"a=1"), (b"X-A", b"1"), (b"cookie", b"b=2"))
    first = Headers(lines)
    for same in (lines, (*lines, (b"X-B", b"2")), ((b"COOKIE", b"a=1"), (b"Cookie", b"b=2"))):
        assert Headers(same, like=first).cookie_facts is first.cookie_facts
        assert Headers(same, like=first).facts is not first.facts
    for other in (lines[:1], lines[::-1], (*lines, lines[0]), ((b"Cookie", b"a=1; b=2"),), ()):
        assert Headers(other, like=first).cookie_facts is not first.cookie_facts
    assert Headers(lines).cookie_facts is not first.cookie_facts


def test_the_target_is_what_was_received() -> None:
    """An empty query is not no query; the path is the raw one."""
    for target in ("/a//b?code=x", "/a//b?", "/a//b"):
        assert info(target).target == target
        assert info(target).path == "/a//b"


def test_a_match_knows_the_cluster_of_its_path() -> None:
    """The capture named ``cluster``, or None."""
    assert match()._replace(captures=(("name", "x"), ("cluster", "eu-1"))).cluster == "eu-1"
    assert match()._replace(captures=(("name", "x"),)).cluster is None


def test_no_repr_holds_a_secret() -> None:
    """What may end in a log says what a value is, and never a header, a query or a token."""
    upstream = Upstream(("http://127.0.0.1:1",), bearer=lambda: SECRET)
    values = (
        Headers(LINES),
        info(f"/?code={SECRET}", ("Authorization", SECRET)),
        person(id_token=SECRET, access_token=SECRET),
        ANONYMOUS,
        UpstreamRequest("GET", f"/?code={SECRET}", b"".join(b"%b: %b\r\n" % line for line in LINES), upstream),
        upstream,
    )
    for value in values:
        assert SECRET not in repr(value)
    assert "alice" in repr(values[2])


def test_a_problem_is_worded_for_a_terminal() -> None:
    """File, line, path and message; without a line when there is none; warnings say that they are."""
    assert str(Problem("a.yaml", 4, "apps.x", "unknown key")) == "a.yaml:4: apps.x: unknown key"
    assert str(Problem("a.yaml", 0, "", "cannot be read")) == "a.yaml: cannot be read"
    assert str(Problem("a.yaml", 1, "x", "unused", warning=True)) == "a.yaml:1: warning: x: unused"


def test_failures_carry_what_their_catcher_needs() -> None:
    """All problems, the OAuth error, the rule that a token broke, the time to wait, the methods that are allowed."""
    problems = [Problem("a.yaml", 4, "apps.x", "unknown key"), Problem("a.yaml", 5, "apps.y", "unknown key")]
    assert SettingsError(problems).problems == problems
    assert str(SettingsError(problems)).count("\n") == 1
    assert GrantRefused("invalid_grant").error == "invalid_grant"
    assert InvalidToken("expired", "The token has expired.").code == "expired"
    assert ProviderError("down", retry_after=3.0).retry_after == 3.0
    refusal = MethodNotAllowed("method_not_allowed", "Not this way.", allow=("GET",))
    assert (refusal.status, refusal.allow, refusal.reason) == (405, ("GET",), "Not this way.")
    assert (TooManyAttempts(7).status, TooManyAttempts(7).retry_after) == (429, 7)
    wrong = NotAuthenticated("expired", "The token has expired.", reason="exp", token_error="invalid_token")
    assert (wrong.status, wrong.token_error, str(wrong)) == (401, "invalid_token", "401 expired: exp")
