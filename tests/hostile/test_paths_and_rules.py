"""Paths and rules on the wire: what is judged is what is forwarded, byte for byte, or nothing is (I1-I6)."""

from __future__ import annotations

from typing import Any, Final

import pytest
import yaml

from tests.hostile.wire import BEARER, HOST, READ_ONLY, TABLE, WRITER, Wire, head

ROWS: Final[list[tuple[str, str, str]]] = [
    (host, path, expected)
    for host, rows in yaml.safe_load(TABLE.read_text(encoding="utf-8"))["rows"].items()
    for path, expected in rows
]


@pytest.mark.parametrize(("host", "path", "expected"), ROWS, ids=[f"{host} {path!r}" for host, path, _ in ROWS])
def test_i1_a_spelling_is_judged_and_forwarded_as_it_came(wire: Wire, host: str, path: str, expected: str) -> None:
    """Every row of the table, as bytes: the same target at the upstream by the route of the table, or a refusal."""
    sent = head(host=host, target=path)
    if expected[0].isdigit():
        refused = wire.refused(sent, status=(int(expected[:3]),) if path else (400, 505), closes=False)
        assert refused.status != 404 or refused.get("Authproxy-Refusal") == expected[4:].encode()
        return
    reply, arrived = wire.passed(sent)
    assert arrived.target == (path if path.startswith("/") else _origin_form(path))
    record = wire.audited(b"".join(reply.all("X-Request-Id")).decode())[-1]
    assert record["app"] == expected.split()[0]
    assert record["path"] == arrived.target.partition("?")[0]


def _origin_form(target: str) -> str:
    rest = target.partition("://")[2]
    at = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    return rest[at:] if rest[at:].startswith("/") else "/" + rest[at:]


CONFUSED: Final = [
    "/public/../guarded", "/public/%2e%2e/guarded", "/public/..%2fguarded", "/public/%252e%252e/guarded",
    "/public/..;/guarded",
    "/.;/guarded", "/public/.;/../guarded", "/public\\..\\guarded", "/public/%5c..%5cguarded", "/public%2f..%2fguarded",
    "/public/..%00/guarded", "/public/%c0%ae%c0%ae/guarded", "/public/..%c0%afguarded", "/public/%u002e%u002e/guarded",
    "/public/.%0a./guarded", "/public/..%09/guarded", "/public/%EF%BC%8E%EF%BC%8E/guarded",
    "/public/..%EF%BC%8Fguarded",
    "/public/..%255cguarded", "/public//../guarded", "/public/x/../../guarded", "/public/./../guarded",
    "/%2fpublic/../guarded",
    "//public/../guarded", "/public/..#/guarded", "/public/..?/../guarded", "/public/%2e%2e%2f%2e%2e%2fguarded",
    "/public/..",
]  # fmt: skip
GUARDED: Final = [
    "/guarded?/public/", "/guarded?x=/public/../public/x", "/guarded;/public/", "/guarded%3f/public/x", "/GUARDED",
    "/guarded//", "//guarded", "/%67uarded", "/guarded%20", "/guarded/%2e", "/guarded%23/public/", "/publicity",
    "/public",
    "/Public/x", "/PUBLIC/", "/%70ublic/x", "/public%2fx", "/publi%63/x", "/guarded/public/", "/guarded/%2fpublic/x",
]  # fmt: skip


@pytest.mark.parametrize("target", CONFUSED)
@pytest.mark.parametrize("line", ["X-A: b", BEARER], ids=["nobody", "somebody"])
def test_i1_a_path_that_could_mean_another_is_refused(wire: Wire, target: str, line: str) -> None:
    """400, whoever asks: no server behind us gets to resolve it."""
    wire.refused(head(line, target=target), closes=False)


@pytest.mark.parametrize("target", GUARDED)
def test_i1_i2_nobody_reaches_what_is_guarded_by_spelling(wire: Wire, target: str) -> None:
    """400 or 401; a query is no part of the path that is judged (CVE-2025-54576)."""
    wire.refused(head(target=target), status=(400, 401), closes=False)


@pytest.mark.parametrize(
    "query", ["", "?", "??", "?/../guarded", "?%2e%2e", "?a=b&a=c", "?%zz", "?\\", "?a=b?c", "?;/"]
)
def test_i2_a_query_passes_byte_for_byte(wire: Wire, query: str) -> None:
    """Whatever it says: it is the application's."""
    _, arrived = wire.passed(head(target="/public/x" + query))
    assert arrived.target == "/public/x" + query


def test_i4_head_is_get(wire: Wire) -> None:
    """Where GET may come HEAD may, and nothing else."""
    wire.passed(head(host=READ_ONLY, method="HEAD"), method="HEAD")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        reply = wire.refused(head(host=READ_ONLY, method=method), status=(405,), closes=False)
        assert set((reply.get("Allow") or b"").split(b", ")) == {b"GET", b"HEAD"}


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_i4_an_override_opens_nothing(wire: Wire, name: str) -> None:
    """The method that came is judged and forwarded; what an application makes of the header is its own affair."""
    reader, writer = head(f"{name}: POST", BEARER, target="/written/x"), f"Authorization: Bearer {WRITER}"
    _, arrived = wire.passed(reader)
    assert arrived.method == "GET"
    wire.refused(head(f"{name}: GET", BEARER, method="POST", target="/written/x"), status=(403,), closes=False)
    wire.passed(head(f"{name}: GET", writer, method="POST", target="/written/x"))
    wire.refused(head(f"{name}: GET", method="POST", host=READ_ONLY), status=(405,), closes=False)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/ping", "/oauth2/metrics", "/oauth2/healthz"])
@pytest.mark.parametrize("agent", ["kube-probe/1.31", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Prometheus/3.0"])
def test_i5_no_probe_has_a_side_door(wire: Wire, path: str, agent: str) -> None:
    """On the public port health and metrics are paths like all others, whoever asks (CVE-2026-34457)."""
    reply = wire.refused(head(f"User-Agent: {agent}", target=path), status=(401, 404), closes=False)
    assert b"authproxy_" not in reply.body


def test_i6_no_is_the_default(wire: Wire) -> None:
    """No app, no route, no rule that holds: 404, 404, 403; each under a code of its own."""
    cases: dict[str, Any] = {
        "no_app": head(host="none.example.com"), "no_route": head(host="walled.example.com", target="/x"),
        "not_allowed": head(BEARER, target="/forbidden/x"), "not_signed_in": head(target="/forbidden/x"),
    }  # fmt: skip
    for code, sent in cases.items():
        reply = wire.refused(sent, status=(401, 403, 404), closes=False)
        assert reply.get("Authproxy-Refusal") == code.encode()


def test_i6_a_refusal_leaves_the_connection_in_step(wire: Wire) -> None:
    """Where the end of the request is certain the connection goes on, and nothing of the refusal sticks to it."""
    with wire.line() as line:
        for target, status in (("/guarded", 401), ("/public/x", 200), ("/forbidden/x", 401), ("/public/y", 200)):
            line.send(head(target=target))
            assert line.reply().status == status
        line.send(head(BEARER, target="/forbidden/x") + head(target="/guarded", host=HOST) + head(target="/public/z"))
        assert [line.reply().status for _ in range(3)] == [403, 401, 200]
