"""Return targets: what a browser may be sent to, and a corpus of what it may not."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.signin.target import MAX_LENGTH, AllowedTargets

ALLOWED = AllowedTargets(
    scheme="https", hosts=frozenset({"app.example.com", "auth.example.com", "::1"}), ports=frozenset({None, 8443})
)
HERE = "app.example.com:9000"

GOOD = [
    "/", "/reports//2026?a=1&b=%2F%2Fx&c=//y", "/a/../b", "/a?next=https://evil.example", "/#part", "/a#//b",
    "/%7Euser", "/a;b=c", "/a:b@c", "https://app.example.com/x", "https://auth.example.com", "https://app.example.com?x",
    "https://app.example.com:8443/", "https://app.example.com:9000/here", "https://[::1]/", "/a/./b//c", "/x/%5c",
]  # fmt: skip
BAD = [
    "", "//evil.example", "///evil.example", "/\\evil.example", "/\\/evil.example", "\\\\evil.example", "/\tevil",
    "/%09/evil.example", "/%0a/evil.example", "/%0d/evil.example", "/%2f/evil.example", "/%2fevil.example",
    "/%5cevil.example", "/%5c%5cevil.example", "/%00/evil.example", "/%20/evil.example", "/\n/evil.example",
    "/\r\nLocation: x", "/./\\evil.example", "/.//evil.example", "/..//evil.example", "/./../..//evil.example",
    "/%2e//evil.example", "/%2e%2e//evil.example", "http://app.example.com/", "https:app.example.com",
    "https:/app.example.com", "https:///app.example.com", "https://app.example.com@evil.example/",
    "https://evil.example", "https://evil.example/app.example.com", "https://evil.example?app.example.com",
    "https://evil.example#app.example.com", "https://app.example.com.evil.example", "https://badapp.example.com",
    "https://app.example.com:1", "https://app.example.com:x", "https://app.example.com:99999999/", "https://",
    "https://app.example.com\\.evil.example", "https://app.example.com%2eevil.example", "https://app.example.com%00/",
    "https://APP.example.com\u3002evil.example", "https://\u0430pp.example.com", "javascript:alert(1)",
    "JavaScript:alert(1)//", "data:text/html,x", "ftp://app.example.com/", "app.example.com/", "relative/path", "?x",
    "#x", " /", "/ x", "https://[::1", "https://[evil.example]/", "https://user:pass@app.example.com/", "é", "/é",
    "https://app.example.com:/x@evil.example:443/",
]  # fmt: skip


@pytest.mark.parametrize("target", GOOD)
def test_good_targets_come_back_unchanged(target: str) -> None:
    """A path of the site, or an address of an allowed host, is kept to the letter."""
    assert ALLOWED.accept(target, authority=HERE) == target


@pytest.mark.parametrize("target", BAD)
def test_b16_bad_targets_are_refused(target: str) -> None:
    """Nothing that some browser could take for another place is accepted."""
    assert ALLOWED.accept(target, authority=HERE) is None


def test_b17_the_length_is_bounded() -> None:
    """A target of more than 2 KiB is dropped, never half kept."""
    assert ALLOWED.accept("/" + "a" * (MAX_LENGTH - 1), authority=HERE)
    assert ALLOWED.accept("/" + "a" * MAX_LENGTH, authority=HERE) is None


@given(st.text(alphabet="/\\.:@%2fF5cC09aAdDe?#[]ehtpsvil\t\r\n -", max_size=30))
def test_no_accepted_target_leaves_the_allowed_hosts(target: str) -> None:
    """Whatever is accepted resolves, as a browser would resolve it, to an allowed host with our scheme."""
    accepted = ALLOWED.accept(target, authority=HERE)
    if accepted is None:
        return
    cleaned = accepted.replace("\t", "").replace("\n", "").replace("\r", "").replace("\\", "/")
    landed = urlsplit(urljoin(f"https://{HERE}/oauth2/callback", cleaned))
    assert landed.scheme == "https"
    assert landed.netloc == HERE or landed.hostname in ALLOWED.hosts
