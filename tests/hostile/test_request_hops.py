"""What belongs to one hop, and what carries trust: neither gets past us, however it is spelled (E23-E25, E31)."""

from __future__ import annotations

import pytest

from tests.hostile.wire import BEARER, HOST, TOKEN, Wire, head

OURS = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"}
ALIASES = [
    "X_Forwarded_User", "X-Forwarded_User", "x-forwarded-USER", "X.Forwarded.User", "X_Forwarded-User",
    "x_forwarded_for",
    "X-Forwarded--User", "X_Auth_Request_User", "x.auth.request.email", "X_Request_Id", "X_Real_Ip", "Impersonate_User",
    "Impersonate.Group", "REMOTE_USER", "X__Forwarded__User", "-X-Forwarded-User", "X-Forwarded-User-",
    "_X_Forwarded_User",
    "Proxy", "PROXY_AUTHORIZATION", "X_Forwarded_Host", "X.Forwarded.Proto", "Ssl_Client_Cert", "X_Original_Url",
]  # fmt: skip


@pytest.mark.parametrize("target", ["/public/x", "/guarded"])
@pytest.mark.parametrize("alias", ALIASES)
def test_e23_no_alias_of_a_trusted_name_arrives(wire: Wire, alias: str, target: str) -> None:
    """The upstream that folds names sees our values alone (CVE-2025-64484, CVE-2026-39858)."""
    _, arrived = wire.passed(head(f"{alias}: root", BEARER, target=target))
    for name, values in arrived.folded().items():
        assert b"root" not in values, (name, values)
        assert len(values) == 1, (name, values)


@pytest.mark.parametrize("name", ["Transfer_Encoding", "Transfer.Encoding", "Content_Length", "Content.Length"])
def test_e23_framing_has_no_alias(wire: Wire, name: str) -> None:
    """An upstream that folds names reads no other length into the request."""
    value = "chunked" if "ncod" in name else "99"
    _, arrived = wire.passed(head(f"{name}: {value}", "Content-Length: 5", method="POST") + b"hello")
    assert arrived.body == b"hello"
    assert arrived.folded()[b"content-length"] == [b"5"]
    assert b"transfer-encoding" not in arrived.folded()


NOMINATED = [
    "Content-Length", "Content-Length, Authorization", "Host", "X-Forwarded-User", "X-Forwarded-For", "X-Request-Id",
    "X-Forwarded-Proto, X-Forwarded-Host", "Cookie", "close, X-Forwarded-For", "keep-alive, Host, Content-Length",
    "x-forwarded-FOR", " , ,X-Forwarded-For,", "X_Forwarded_For", '"X-Forwarded-For"', "X-Forwarded-For;q=1",
]  # fmt: skip


@pytest.mark.parametrize("named", NOMINATED)
def test_e24_connection_takes_nothing_of_ours_away(wire: Wire, named: str) -> None:
    """Framing, Host and what we add are there, whatever the client nominates."""
    _, arrived = wire.passed(
        head(f"Connection: {named}", BEARER, "Content-Length: 5", method="POST", target="/guarded") + b"hello"
    )
    assert arrived.body == b"hello"
    assert {name.lower().decode() for name, _ in arrived.headers} >= OURS | {"host"}
    assert arrived.all("Host") == [HOST.encode()]
    assert arrived.all("X-Forwarded-For") == [b"127.0.0.1"]
    assert arrived.all("X-Forwarded-User") == [b"machine"]
    assert arrived.all("Authorization") == []


def test_e24_what_connection_names_stays_here(wire: Wire) -> None:
    """In every spelling and in several lines; the rest passes."""
    _, arrived = wire.passed(
        head("Connection: X-A, x-b", "X-A: 1", "X-B: 2", "X_A: 3", "Connection: X-C", "X-C: 4", "X-D: 5", "Cookie: e=6")
    )
    assert {name.lower() for name, _ in arrived.headers} - {name.encode() for name in OURS} == {
        b"host",
        b"x-d",
        b"cookie",
    }


def test_e24_naming_a_credential_does_not_hide_it_from_us(wire: Wire) -> None:
    """A token that Connection nominates is judged all the same; none becomes anonymous by it."""
    reply, _ = wire.passed(head("Connection: Authorization", BEARER, target="/guarded"))
    assert reply.status == 200
    two = head("Connection: Authorization", BEARER, f"Authorization: Bearer {TOKEN}x", target="/guarded")
    wire.refused(two, status=(400, 401), closes=False)


HOP = {
    "Keep-Alive": "timeout=5", "Proxy-Connection": "keep-alive", "Proxy-Authorization": "Basic eDp5",
    "Proxy-Authenticate": "Basic", "TE": "trailers, deflate", "Trailer": "X-A", "Upgrade": "foo/1",
    "HTTP2-Settings": "AAMAAABkAAQAAP__", "Proxy-Features": "x", "Expect": "100-continue",
}  # fmt: skip


@pytest.mark.parametrize("name", HOP)
def test_e25_a_field_of_this_hop_stays_here(wire: Wire, name: str) -> None:
    """With and without a nomination in Connection."""
    for lines in ([f"{name}: {HOP[name]}"], [f"{name}: {HOP[name]}", f"Connection: {name}"]):
        if name == "Upgrade" and len(lines) > 1:
            continue  # an upgrade that is asked for properly: G
        _, arrived = wire.passed(head(*lines))
        assert arrived.all(name) == []
        assert HOP[name].encode() not in [value for _, value in arrived.headers]
        assert all(value.lower() == b"keep-alive" for value in arrived.all("Connection"))


# --- Max-Forwards ---

FORWARDS = {"OPTIONS 0": ("0", ()), "OPTIONS 1": ("1", (b"0",)), "OPTIONS 7": ("7", (b"6",))}


@pytest.mark.parametrize("name", FORWARDS)
def test_e31_max_forwards_is_obeyed(wire: Wire, name: str) -> None:
    """OPTIONS with 0 is answered here, with more it arrives with one less (RFC 9110 section 7.6.2)."""
    sent, wanted = FORWARDS[name]
    mark = wire.mark()
    with wire.line() as line:
        line.send(head(f"Max-Forwards: {sent}", method="OPTIONS"))
        assert line.reply().status in (200, 204, 405)
    arrived = wire.settled(mark)[0]
    assert [one.all("Max-Forwards") for one in arrived] == ([list(wanted)] if wanted else [])


def test_e31_on_other_methods_it_is_somebody_elses(wire: Wire) -> None:
    """A GET arrives whatever it says."""
    _, arrived = wire.passed(head("Max-Forwards: 0"))
    assert arrived.method == "GET"
