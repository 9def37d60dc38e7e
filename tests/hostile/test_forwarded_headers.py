"""Who says where a request came from: nobody but a trusted proxy, and by one way alone (H1-H8)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.wire import BEARER, HOST, TRUSTED, Wire, head, opened

TRUST = [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix",
    "X-Forwarded-Server", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-User", "X-Forwarded-Email",
    "X-Forwarded-Groups", "X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token", "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded", "Forwarded", "X-Real-IP",
    "X-Original-URI", "X-Original-URL", "X-Original-Method", "X-Original-Host", "X-Rewrite-URL", "True-Client-IP",
    "CF-Connecting-IP", "X-Client-IP", "X-Cluster-Client-Ip", "Remote-User", "X-Remote-User", "X-Remote-Group",
    "X-Remote-Extra-Scopes", "Remote-Groups", "Remote-Email", "Remote-Name", "SSL-Client-Cert", "SSL-Client-Verify",
    "SSL-Client-S-DN", "X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups",
    "X-Auth-Request-Access-Token", "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-A",
    "X-Authproxy-Secret", "Authproxy-Refusal", "X-Request-Id", "Proxy",
]  # fmt: skip
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str, "lower": str.lower, "upper": str.upper, "underscores": lambda name: name.replace("-", "_"),
    "dots": lambda name: name.replace("-", "."), "one underscore": lambda name: name.replace("-", "_", 1),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("target", ["/public/x", "/guarded"])
def test_h1_a_stranger_says_nothing_about_itself(wire: Wire, spelling: str, target: str) -> None:
    """Every header that somebody trusts is removed, in every spelling; ours are there, once."""
    lines = [f"{SPELLINGS[spelling](name)}: spoofed" for name in TRUST]
    _, arrived = wire.passed(head(BEARER, *lines, target=target))
    folded = arrived.folded()
    assert not any(b"spoofed" in value for values in folded.values() for value in values)
    assert folded[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert folded[b"x-forwarded-proto"] == [b"http"]
    assert folded[b"x-forwarded-host"] == [HOST.encode()]
    assert len(folded[b"x-request-id"]) == 1
    assert folded.get(b"x-forwarded-user", []) == ([b"machine"] if target == "/guarded" else [])


def test_h1_the_audit_has_the_clients_own_address(wire: Wire) -> None:
    """What a stranger claims is not what is written down."""
    with wire.line() as line:
        line.send(head("X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1"))
        reply = line.reply()
    assert wire.audited(b"".join(reply.all("X-Request-Id")).decode())[-1]["client"] == "127.0.0.1"


CHAINS: dict[str, tuple[list[str], str]] = {
    "H2 none": ([], TRUSTED),
    "H2 one": (["198.51.100.1"], "198.51.100.1"),
    "H2 the right-most": (["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
    "H2 behind a trusted one": ([f"203.0.113.9, 198.51.100.1, {TRUSTED}"], "198.51.100.1"),
    "H2 several lines are one list": (["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
    "H2 several lines, the last trusted": (["203.0.113.9", "198.51.100.1", TRUSTED], "198.51.100.1"),
    "H2 trusted ones alone": ([f"{TRUSTED}, {TRUSTED}"], TRUSTED),
    "H3 IPv6": (["2001:db8::1"], "2001:db8::1"),
    "H3 blanks": ([" 203.0.113.9 ,\t198.51.100.1 "], "198.51.100.1"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_h2_h3_the_client_is_the_last_that_no_trusted_proxy_vouches_for(wire: Wire, name: str) -> None:
    """Read from the right, over all lines; the upstream and the audit hear the same."""
    lines, client = CHAINS[name]
    reply, arrived = wire.passed(head(*(f"X-Forwarded-For: {line}" for line in lines)), source=TRUSTED)
    assert arrived.all("X-Forwarded-For") == [client.encode()]
    assert wire.audited(b"".join(reply.all("X-Request-Id")).decode())[-1]["client"] == client


ODD = [
    "", ",", ", ,", "unknown", "_hidden", "198.51.100.1:4711", "[2001:db8::1]:80", "[2001:db8::1", "fe80::1%eth0",
    "::ffff:198.51.100.1", "1.2.3", "1.2.3.4.5", "0x7f.1", "256.1.1.1", "198.51.100.1;x", "localhost", "a" * 4000,
    ",".join(["198.51.100.1"] * 1000), f"198.51.100.1, {'x' * 3000}", "\xc3\xa4",
    '"198.51.100.1"', "127.0.0.1\t127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=[f"{number} {value[:12]!r}" for number, value in enumerate(ODD)])
def test_h3_whatever_stands_there_is_read_or_ends_the_walk(wire: Wire, value: str) -> None:
    """Never a failure; what the upstream is told is one address."""
    _, arrived = wire.passed(head(f"X-Forwarded-For: {value}"), source=TRUSTED)
    (told,) = arrived.all("X-Forwarded-For")
    assert len(told) < 50
    assert not set(told.decode()) & set(' ,;"[]%')


@pytest.mark.parametrize(
    "line",
    [
        "Forwarded: for=203.0.113.9;proto=https;host=evil.example.com",
        "X-Real-IP: 203.0.113.9",
        "X-Client-IP: 203.0.113.9",
    ],
)
def test_h4_there_is_one_source(wire: Wire, line: str) -> None:
    """Another that contradicts it is not read, also from a trusted proxy, and does not arrive."""
    _, arrived = wire.passed(head(line, "X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: http"), source=TRUSTED)
    assert arrived.all("X-Forwarded-For") == [b"198.51.100.1"]
    assert arrived.all("X-Forwarded-Proto") == [b"http"]
    assert b"203.0.113.9" not in arrived.raw


HOPS: dict[str, tuple[object, list[str], str]] = {
    "one hop": ({"networks": ["127.0.0.0/8"], "hops": 1}, ["203.0.113.9, 127.0.0.5"], "127.0.0.5"),
    "two hops": ({"networks": ["127.0.0.2"], "hops": 2}, ["203.0.113.9, 198.51.100.1, 192.0.2.7"], "198.51.100.1"),
}


@pytest.mark.parametrize("case", HOPS)
def test_h2_hops_decide_by_position(case: str, tmp_path: Path) -> None:
    """With hops an internal client has the address that the ingress saw, not one that it wrote; also in rules."""
    trusted, lines, client = HOPS[case]
    rule = {"office": {"any": [{"scopes": ["read"], "networks": ["203.0.113.0/24"]}]}}
    routes = [{"path": "/office", "accept": ["token"], "policy": "office"}, {"path": "/", "policy": "public"}]
    with ExitStack() as stack:
        policies = {"public": {"anonymous": True}, "readers": {"any": [{"scopes": ["read"]}]},
                    "writers": {"any": [{"scopes": ["write"]}]}, **rule}  # fmt: skip
        wire = opened(stack, tmp_path, listen={"trusted_proxies": trusted}, policies=policies, apps={
            "rule": {"host": "rule.example.com", "upstream": {"url": "http://127.0.0.1:1"}, "routes": routes},
        })  # fmt: skip
        forwarded = [f"X-Forwarded-For: {line}" for line in lines]
        _, arrived = wire.passed(head(*forwarded), source=TRUSTED)
        assert arrived.all("X-Forwarded-For") == [client.encode()]
        asked = head(BEARER, *forwarded, host="rule.example.com", target="/office")
        wire.refused(asked, status=(403,), closes=False, source=TRUSTED)


@pytest.mark.parametrize(("source", "scheme"), [("127.0.0.1", b"http"), (TRUSTED, b"https")])
def test_h5_the_scheme_is_said_by_trusted_proxies_alone(wire: Wire, source: str, scheme: bytes) -> None:
    """A stranger's ``https`` makes nothing secure."""
    _, arrived = wire.passed(head("X-Forwarded-Proto: https"), source=source)
    assert arrived.all("X-Forwarded-Proto") == [scheme]


@pytest.mark.parametrize("value", ["ftp", "", "https, http", "javascript", "HTTP\t"])
def test_h5_a_scheme_that_is_none(wire: Wire, value: str) -> None:
    """From a trusted proxy it is refused, or read as the one that it names; never passed on."""
    mark = wire.mark()
    with wire.line(source=TRUSTED) as line:
        line.send(head(f"X-Forwarded-Proto: {value}"))
        assert line.reply().status in (200, 400)
    assert all(one.all("X-Forwarded-Proto") in ([b"http"], [b"https"]) for one in wire.settled(mark)[0])


def test_h5_a_forwarded_host_is_believed_from_trusted_proxies_alone(wire: Wire) -> None:
    """From one it selects the app; from a stranger it selects nothing."""
    _, arrived = wire.passed(head(f"X-Forwarded-Host: {HOST}", host="edge.example.com"), source=TRUSTED)
    assert arrived.all("X-Forwarded-Host") == [HOST.encode()]
    wire.refused(head(f"X-Forwarded-Host: {HOST}", host="edge.example.com"), status=(404,), closes=False)
    wire.passed(head("X-Forwarded-Host: edge.example.com"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("target", ["/public/x", "/public/healthz", "/guarded"])
def test_h6_no_route_lets_an_identity_pass(wire: Wire, method: str, target: str) -> None:
    """Public routes, OPTIONS and probes are stripped like every other (there is no side door)."""
    names = ("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Auth-Request-User", "Remote-User")
    _, arrived = wire.passed(
        head(BEARER, *(f"{name}: root" for name in names), method=method, target=target), method=method
    )
    assert b"root" not in arrived.raw
    assert arrived.all("X-Forwarded-User") == ([b"machine"] if target == "/guarded" else [])


def test_h7_an_identity_is_never_more_than_one_value(wire: Wire) -> None:
    """The name that is told is ASCII in one header; the token that proved it is not told."""
    _, arrived = wire.passed(head(BEARER, target="/guarded"))
    assert arrived.all("X-Forwarded-User") == [b"machine"]
    assert arrived.all("Authorization") == []
    assert b"a-token-of-one-machine" not in arrived.raw


@pytest.mark.parametrize("order", [1, -1])
def test_h8_a_decision_sees_every_value(wire: Wire, order: int) -> None:
    """A second Authorization is not overlooked, whichever comes first (CVE-2026-26308)."""
    lines = [BEARER, "Authorization: Bearer another-token-that-nobody-knows-of-32"][::order]
    wire.refused(head(*lines, target="/guarded"), status=(400, 401), closes=False)
    wire.refused(head(*lines, target="/guarded"), status=(400, 401), closes=False, source=TRUSTED)
