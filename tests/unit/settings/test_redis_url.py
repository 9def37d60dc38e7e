"""Redis URLs: what is read, what is refused, and that no message repeats a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.settings.load import inspect
from authproxy.settings.redis_url import parse
from authproxy.store.address import address

FILE = """\
public_url: https://auth.example.com
store: {redis: {url: {env: REDIS_URL}}}
policies: {public: {anonymous: true}}
apps: {app: {host: app.example.com, upstream: {url: "http://app"}, routes: [{path: /, policy: public}]}}
"""
REFUSED = {
    "redis://:hunter/2@h": "percent-encoded",
    "redis://:hunter?2@h": "percent-encoded",
    "redis://:hunter#2@h": "percent-encoded",
    "redis://:hunter@2@h": "percent-encoded",
    "redis://:6379/hunter2@h": "percent-encoded",
    "redis://:hunter%2@h": "percent-encoded",
    "redis://:hunter2%ff@h": "percent-encoded",
    "redis://:hunter2@a:6379,b:6379": "store.redis.sentinel or store.redis.cluster",
    "rediss://:hunter2@h?ssl_cert_reqs=none": "must not have the parameter ssl_cert_reqs; TLS is always verified",
    "redis://:hunter2@h?hunter2=1": "db and password as its only parameters",
    "redis://:hunter2@h?db=1&db=2": "each once",
    "redis://:hunter2@h/1?db=2": "one database",
    "redis://:hunter2@h/hunter2": "a number as its database",
    "redis://:hunter2@h/0/1": "a number as its database",
    "redis://:hunter2@h:0": "a port from 1 to 65535",
    "redis://:hunter2@h:hunter2": "a port from 1 to 65535",
    "redis://:hunter2@": "must name a host",
    "redis://:hunter2@[::1": "must name a host",
    "redis://:hunter2@a b": "spaces or control characters",
    "redis://:hunter2@h\nhunter2": "spaces or control characters",
    "redis://:hunter2@-h": "DNS name",
    "valkey://:hunter2@h": "must be a URL such as redis://redis:6379",
    "redis+sentinel://:hunter2@h": "must be a URL such as redis://redis:6379",
    "hunter2": "must be a URL such as redis://redis:6379",
    "unix://run/hunter2": "unix:///path/of/the.sock",
}


@pytest.mark.parametrize(("url", "said"), REFUSED.items(), ids=[*map(str, range(len(REFUSED)))])
def test_a_url_behind_a_secret_is_checked(tmp_path: Path, url: str, said: str) -> None:
    """``check`` names the cause at the key, and repeats nothing of the secret; the store refuses the same URL."""
    file = tmp_path / "authproxy.yaml"
    file.write_text(FILE, encoding="utf-8")
    (problem,) = [one for one in inspect(file, {"REDIS_URL": url}) if not one.warning]
    assert (problem.line, problem.path) == (2, "store.redis.url")
    assert said in problem.message
    assert "hunter" not in problem.message
    with pytest.raises(ValueError, match="the Redis URL must"):
        address(url, username=None, password=None, ca=None)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h", ("redis", "h", 6379, "", "", "", 0)),
        ("REDISS://me:a%40b:c@H.example.com:1/7", ("rediss", "h.example.com", 1, "", "me", "a@b:c", 7)),
        ("redis://[::1]?password=a@b&db=3", ("redis", "::1", 6379, "", "", "a@b", 3)),
        ("unix:///run/a%20b.sock?db=1", ("unix", "", 0, "/run/a b.sock", "", "", 1)),
    ],
)
def test_what_a_url_says(url: str, found: tuple[object, ...]) -> None:
    """Scheme, host, port, path, user, password, database."""
    assert tuple(parse(url)) == found


@given(st.from_regex(r"(redis|rediss|unix)://[ -~]{0,24}", fullmatch=True))
def test_any_text_is_read_or_refused(url: str) -> None:
    """Nothing but ValueError is raised, and what is read gives the arguments of a connection."""
    try:
        found = parse(url)
    except ValueError:
        return
    where = address(url, username=None, password=None, ca=None).arguments
    assert where["db"] == found.database
    assert (where.get("host", ""), where.get("path", "")) == (found.host, found.path)
