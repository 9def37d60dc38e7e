"""What is true about a request, from the bytes that the wire saw."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge.request_info import Raw, Source, TrustedProxies, accepted_request_id, describe, described
from authproxy.errors import BadRequest, Forbidden, MethodNotAllowed, Refusal, VersionNotSupported
from authproxy.model import Headers, RequestInfo
from tests.unit.values import info, raw, told

PROXIES = TrustedProxies([ip_network("10.0.0.0/8")])


def believed(*lines: tuple[str, str], target: str = "/", **changed: Any) -> RequestInfo:
    """What is true about a request that a trusted proxy brought."""
    return info(target, *lines, trusted=PROXIES, **{"peer": "10.0.0.1", **changed})


def refused(*given: Any, **changed: Any) -> str:
    """The code with which a request is refused as malformed."""
    with pytest.raises(BadRequest) as refusal:
        info(*given, **changed)
    return refusal.value.code


def test_every_field_says_what_came() -> None:
    """A plain request, field by field."""
    found = info("/a/b?x=1", ("Accept", "*/*"), host="App.Example.com:8443", tls=True, certificate={"subject": ()})
    assert told(found) == {
        "method": "GET",
        "scheme": "https",
        "host": "app.example.com",
        "authority": "app.example.com:8443",
        "raw_path": "/a/b",
        "readings": ("/a/b",),
        "query": "x=1",
        "has_query": True,
        "client": "192.0.2.7",
        "peer": "192.0.2.7",
        "headers": found.headers,
        "request_id": "fresh",
        "http_version": (1, 1),
        "certificate": {"subject": ()},
    }
    assert found.headers.get(b"accept") == b"*/*"
    assert found.target == "/a/b?x=1"


# -- version and method


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (1, 10), (2, 0), (3, 0)])
def test_other_versions_are_not_spoken(version: tuple[int, int]) -> None:
    """Only HTTP/1.0 and HTTP/1.1 (E19)."""
    with pytest.raises(VersionNotSupported) as refusal:
        info(http_version=version)
    assert refusal.value.code == "version_not_supported"


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PROPFIND", "M-SEARCH", "FOO"])
def test_any_word_of_capitals_is_a_method(method: str) -> None:
    """Also unknown ones: a route decides whether they are allowed (E21)."""
    assert info(method=method).method == method


@pytest.mark.parametrize("method", ["", "get", "Get", "G T", "GET\n", "A1", "GÉT", "A" * 65])
def test_other_methods_are_malformed(method: str) -> None:
    """No lower case, no digits, nothing endless."""
    assert refused(method=method) == "bad_method"


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "TRACK"])
def test_methods_that_bypass_an_application_are_not_served(method: str) -> None:
    """Tunnels to anywhere and echoes of credentials (E17, CVE-2026-73547)."""
    with pytest.raises(MethodNotAllowed) as refusal:
        info("app.example.com:443", method=method)
    assert refusal.value.code == "method_not_served"
    assert "GET" in refusal.value.allow


# -- host


def test_a_request_has_exactly_one_host() -> None:
    """None and two are refused (E12, CVE-2026-34525)."""
    assert refused(host=None) == "bad_host"
    assert refused("/", ("host", "app.example.com")) == "bad_host"
    assert refused(host="") == "bad_host"
    assert refused(host="a@b") == "bad_host"


def test_http_1_0_may_leave_the_host_out() -> None:
    """Then it reaches only apps for any host; with two hosts it is refused like everybody."""
    found = info(host=None, http_version=(1, 0))
    assert (found.host, found.authority) == ("", "")
    assert refused("/", ("Host", "x"), http_version=(1, 0)) == "bad_host"


def test_a_forwarded_host_is_believed_from_trusted_proxies_alone() -> None:
    """It replaces host and authority; from anybody else it is not read (H1)."""
    assert believed(("X-Forwarded-Host", "Shop.example.com:8443")).authority == "shop.example.com:8443"
    assert believed().host == "app.example.com"
    assert info("/", ("X-Forwarded-Host", "shop.example.com")).host == "app.example.com"
    assert believed(("X_Forwarded_Host", "shop.example.com")).host == "app.example.com"


@pytest.mark.parametrize(
    "lines",
    [
        [("X-Forwarded-Host", "a.example, b.example")],
        [("X-Forwarded-Host", "a.example"), ("x-forwarded-host", "a.example")],
        [("X-Forwarded-Host", "")],
        [("X-Forwarded-Host", "a/b")],
    ],
)
def test_several_forwarded_hosts_are_ambiguous(lines: list[tuple[str, str]]) -> None:
    """One value, or none at all."""
    with pytest.raises(BadRequest) as refusal:
        believed(*lines)
    assert refusal.value.code == "bad_host"


# -- scheme


@pytest.mark.parametrize(
    ("said", "scheme"), [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("wss", "https"), ("ws", "http")]
)
def test_a_trusted_proxy_says_the_scheme(said: str, scheme: str) -> None:
    """Also for WebSockets, for which some say wss."""
    assert believed(("X-Forwarded-Proto", said)).scheme == scheme


def test_a_trusted_proxy_that_says_nothing_was_spoken_to_in_the_clear() -> None:
    """It could have told us."""
    assert believed().scheme == "http"


def test_on_a_tls_listener_the_scheme_is_known() -> None:
    """Nobody can talk it down."""
    assert believed(("X-Forwarded-Proto", "http"), tls=True).scheme == "https"


def test_an_untrusted_peer_on_a_plain_listener_gets_the_scheme_of_the_public_url() -> None:
    """It may be a terminator that nobody configured; what it says is not read (H5)."""
    lines = ("X-Forwarded-Proto", "https")
    for public in ("http", "https"):
        assert describe(raw("/", lines), trusted=PROXIES, request_id="x", public_scheme=public).scheme == public


@pytest.mark.parametrize(
    "lines",
    [
        [("X-Forwarded-Proto", "https, http")],
        [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")],
        [("X-Forwarded-Proto", "")],
        [("X-Forwarded-Proto", "gopher")],
    ],
)
def test_a_scheme_that_is_not_one_is_refused(lines: list[tuple[str, str]]) -> None:
    """A proxy that contradicts itself is not guessed at."""
    with pytest.raises(BadRequest) as refusal:
        believed(*lines)
    assert refusal.value.code == "bad_forwarded"


# -- client


def test_the_client_is_found_behind_trusted_proxies() -> None:
    """The peer stays what it is."""
    found = believed(("X-Forwarded-For", "203.0.113.9"))
    assert (found.client, found.peer) == ("203.0.113.9", "10.0.0.1")
    assert info("/", ("X-Forwarded-For", "203.0.113.9")).client == "192.0.2.7"


def test_other_sources_of_addresses_are_not_read() -> None:
    """One source, so that two can never contradict each other (H4)."""
    found = believed(("Forwarded", "for=203.0.113.9"), ("X-Real-IP", "203.0.113.9"), ("X_Forwarded_For", "203.0.113.9"))
    assert found.client == "10.0.0.1"


# -- target


@pytest.mark.parametrize(
    ("target", "path", "query", "whole"),
    [
        ("/", "/", "", "/"),
        ("/?", "/", "", "/?"),
        ("/a?b?c", "/a", "b?c", "/a?b?c"),
        ("//evil.example/a", "//evil.example/a", "", "//evil.example/a"),
        ("http://app.example.com", "/", "", "/"),
        ("http://app.example.com?x", "/", "x", "/?x"),
        ("https://APP.example.com.:443/a?b", "/a", "b", "/a?b"),
    ],
)
def test_a_target_is_path_and_query(target: str, path: str, query: str, whole: str) -> None:
    """Origin form as it is; absolute form without the host that Host names too (E15)."""
    found = info(target)
    assert (found.raw_path, found.query, found.target) == (path, query, whole)


def test_an_absolute_target_says_nothing_about_the_scheme() -> None:
    """``https:`` in a target does not make a plain connection safe."""
    assert believed(target="https://app.example.com/").scheme == "http"


@pytest.mark.parametrize(
    "target",
    [
        *("", "*", "a", "?x", "#", "/#", "/a#b", "/?#", "/a b", "/a\tb", "/a?b c", "/\x00", "/\x7f", "/é", "/?é"),
        *(
            "ftp://app.example.com/",
            "app.example.com:443",
            "http:/a",
            "http:a",
            "javascript:x",
            "http://app.example.com#x",
        ),
        "/" + "a" * 8190,
    ],
)
def test_other_targets_are_refused(target: str) -> None:
    """Fragments, blanks, controls, foreign bytes, other forms and other schemes (E16, E18, E20, CVE-2026-41059)."""
    assert refused(target) == "bad_target"


def test_the_longest_target_is_served() -> None:
    """8190 octets."""
    assert len(info("/" + "a" * 8189).target) == 8190


@pytest.mark.parametrize(
    "target", ["http://evil.example/", "http://app.example.com:81/", "https://app.example.com:80/"]
)
def test_an_absolute_target_names_the_host_of_the_host_header(target: str) -> None:
    """Two hosts in one request are one too many."""
    assert refused(target) == "ambiguous_target"


@pytest.mark.parametrize("target", ["http:///", "http://a@app.example.com/", "http://a b/"])
def test_an_absolute_target_names_a_valid_host(target: str) -> None:
    """Userinfo and empty hosts are none."""
    assert refused(target) == "bad_host"


def test_a_path_that_can_be_read_as_another_is_refused() -> None:
    """The path rule holds at the door."""
    assert refused("/a/../b") == "ambiguous_path"
    assert refused("/a%zz") == "bad_path"


@given(
    st.binary(max_size=40),
    st.lists(st.tuples(st.sampled_from([b"Host", b"X-Forwarded-Host", b"X-Forwarded-For"]), st.binary(max_size=20))),
    st.sampled_from(["10.0.0.1", "192.0.2.7", ""]),
)
def test_any_bytes_are_described_or_refused(target: bytes, lines: list[tuple[bytes, bytes]], peer: str) -> None:
    """No request makes this room fail, and an accepted target is forwarded as it came."""
    seen = Raw("GET", b"/" + target, Headers(lines), peer, False, (1, 1), None)
    try:
        found = describe(seen, trusted=PROXIES, request_id="x", public_scheme="https")
    except Refusal:
        return
    assert found.target.encode() == seen.target


# -- request id


@pytest.mark.parametrize("value", ["a", "A-b_c.9", "x" * 128])
def test_a_trusted_peer_may_bring_its_request_id(value: str) -> None:
    """So that one id goes through all logs."""
    assert accepted_request_id(Headers([(b"X-Request-Id", value.encode())]), "fresh", True) == value
    assert accepted_request_id(Headers([(b"X-Request-Id", value.encode())]), "fresh", False) == "fresh"
    assert believed(("X-Request-Id", value)).request_id == value
    assert info("/", ("X-Request-Id", value)).request_id == "fresh"


@pytest.mark.parametrize("values", [[], [b""], [b"x" * 129], [b"a b"], [b"a\n"], [b"\xe9"], [b"a", b"a"], [b"a,b"]])
def test_a_request_id_that_is_none_is_replaced(values: list[bytes]) -> None:
    """One token of at most 128 characters, or a fresh one."""
    assert accepted_request_id(Headers((b"X-Request-Id", value) for value in values), "fresh", True) == "fresh"


# -- forward-auth

FORWARDED = {
    "X-Forwarded-Method": "POST",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example.com",
    "X-Forwarded-Uri": "/a?b=c",
}
ORIGINAL = {"X-Original-Method": "POST", "X-Original-URL": "https://shop.example.com/a?b=c"}


def asked(
    lines: dict[str, str] | list[tuple[str, str]],
    source: Source = "x-forwarded",
    *more: tuple[str, str],
    **changed: Any,
) -> RequestInfo:
    """The request that an ingress at 10.0.0.1 asks about."""
    given = list(lines.items()) if isinstance(lines, dict) else lines
    call = raw("/oauth2/auth", *given, *more, **{"peer": "10.0.0.1", "certificate": {"ingress": 1}, **changed})
    return described(call, trusted=PROXIES, request_id="fresh", public_scheme="http", source=source)


@pytest.mark.parametrize(("lines", "source"), [(FORWARDED, "x-forwarded"), (ORIGINAL, "x-original")])
def test_the_headers_describe_the_request(lines: dict[str, str], source: Source) -> None:
    """Both configured sets tell the same story; the ingress's certificate is not the client's."""
    found = asked(lines, source, ("X-Forwarded-For", "203.0.113.9"), ("X-Request-Id", "abc"))
    assert (found.method, found.scheme, found.host, found.target) == ("POST", "https", "shop.example.com", "/a?b=c")
    assert (found.client, found.peer, found.request_id) == ("203.0.113.9", "10.0.0.1", "abc")
    assert found.certificate is None


@pytest.mark.parametrize("peer", ["192.0.2.7", ""])
def test_a_caller_that_is_not_trusted_is_refused_first(peer: str) -> None:
    """Nothing of its description is read, not even to find it malformed (J1)."""
    with pytest.raises(Forbidden) as refusal:
        asked([("X-Forwarded-Uri", "#")], peer=peer, http_version=(9, 9))
    assert refusal.value.code == "untrusted_caller"


@pytest.mark.parametrize("missing", [*FORWARDED, *ORIGINAL])
@pytest.mark.parametrize("how", ["missing", "empty", "twice", "look-alike", "look-alike beside"])
def test_a_description_is_complete_and_told_once(missing: str, how: str) -> None:
    """Missing, empty, repeated, or with a look-alike: 400 (J2, CVE-2026-39858)."""
    source: Source = "x-forwarded" if missing in FORWARDED else "x-original"
    lines = dict(FORWARDED if missing in FORWARDED else ORIGINAL)
    value = lines[missing]
    alias = missing.replace("-", "_", 1)
    more: list[tuple[str, str]] = []
    if how in ("missing", "look-alike"):
        del lines[missing]
    if how == "empty":
        lines[missing] = ""
    if how == "twice":
        more = [(missing.lower(), value)]
    if how.startswith("look-alike"):
        more = [(alias, value)]
    with pytest.raises(BadRequest) as refusal:
        asked(lines, source, *more)
    assert refusal.value.code == "bad_description"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("X-Forwarded-Method", "get", "bad_method"),
        ("X-Forwarded-Method", "GET, GET", "bad_method"),
        ("X-Forwarded-Method", "\xe9", "bad_method"),
        ("X-Forwarded-Proto", "https, https", "bad_description"),
        ("X-Forwarded-Proto", "ftp", "bad_description"),
        ("X-Forwarded-Host", "a, b", "bad_host"),
        ("X-Forwarded-Host", "a@b", "bad_host"),
        ("X-Forwarded-Uri", "https://shop.example.com/a", "bad_description"),
        ("X-Forwarded-Uri", "a", "bad_description"),
        ("X-Forwarded-Uri", "*", "bad_description"),
        ("X-Forwarded-Uri", "/a#b", "bad_target"),
        ("X-Forwarded-Uri", "/" + "a" * 8190, "bad_target"),
        ("X-Forwarded-Uri", "/a/%2e%2e/b", "ambiguous_path"),
        ("X-Original-Method", "get", "bad_method"),
        ("X-Original-URL", "/a", "bad_target"),
        ("X-Original-URL", "https://shop.example.com/a#b", "bad_target"),
        ("X-Original-URL", "https://a@shop.example.com/a", "bad_host"),
        ("X-Original-URL", "ftp://shop.example.com/a", "bad_target"),
        ("X-Forwarded-Host", "shop.example.com?", "bad_host"),
        ("X-Forwarded-Host", "shop.example.com#", "bad_host"),
        ("X-Forwarded-Host", "shop.example.com/", "bad_host"),
        ("X-Forwarded-Host", "shop.example.com:", "bad_host"),
        ("X-Forwarded-Host", "https://shop.example.com", "bad_host"),
        ("X-Forwarded-Uri", "?b=c", "bad_description"),
        ("X-Forwarded-Uri", "/a b", "bad_target"),
        ("X-Forwarded-Uri", "/a\tb", "bad_target"),
        ("X-Forwarded-Uri", "/a, /b", "bad_target"),
        ("X-Original-URL", "https://shop.example.com", "bad_target"),
        ("X-Original-URL", "https://shop.example.com?/admin/secret", "bad_target"),
        ("X-Original-URL", "https://shop.example.com#/admin/secret", "bad_target"),
        ("X-Original-URL", "https://shop.example.com:/admin/secret", "bad_host"),
        ("X-Original-URL", "https://shop.example.com\\/admin/secret", "bad_host"),
        ("X-Original-URL", "https:///admin/secret", "bad_host"),
        ("X-Original-URL", "https://shop.example.com/a, https://shop.example.com/b", "bad_target"),
        ("X-Original-URL", "https://shop.example.com/" + "a" * 8190, "bad_target"),
    ],
)
def test_a_malformed_description_is_refused(name: str, value: str, code: str) -> None:
    """What would be refused at the front door is refused here (J2)."""
    source: Source = "x-forwarded" if name in FORWARDED else "x-original"
    with pytest.raises(BadRequest) as refusal:
        asked({**(FORWARDED if name in FORWARDED else ORIGINAL), name: value}, source)
    assert refusal.value.code == code


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_a_described_method_that_is_not_served_is_refused(method: str) -> None:
    """A tunnel does not become harmless by being asked about (J6)."""
    with pytest.raises(MethodNotAllowed):
        asked({**FORWARDED, "X-Forwarded-Method": method})


@pytest.mark.parametrize(
    ("source", "name", "value", "consistent"),
    [
        ("x-forwarded", "X-Original-URL", "https://shop.example.com/a?b=c", True),
        ("x-forwarded", "X-Original-URI", "/a?b=c", True),
        ("x-forwarded", "X-Original-URI", "/public", False),
        ("x-forwarded", "X-Original-URL", "https://shop.example.com/public", False),
        ("x-forwarded", "X-Original-URL", "https://shop.example.com?b=c", False),
        ("x-forwarded", "X-Original-URL", "https://wiki.example.com/a?b=c", False),
        ("x-forwarded", "X-Original-URL", "https://shop.example.com:8443/a?b=c", False),
        ("x-forwarded", "X-Original-URL", "https://SHOP.example.com:443/a?b=c", True),
        ("x-forwarded", "X-Original-URL", "/a?b=c", False),
        ("x-forwarded", "X-Original-Method", "POST", True),
        ("x-forwarded", "X-Original-Method", "GET", False),
        ("x-original", "X-Forwarded-Method", "POST", True),
        ("x-original", "X-Forwarded-Method", "GET", False),
        ("x-original", "X-Forwarded-Uri", "/a?b=c", True),
        ("x-original", "X-Forwarded-Uri", "/public", False),
        ("x-original", "X-Original-URI", "/a", False),
    ],
)
def test_another_description_may_not_contradict(source: Source, name: str, value: str, consistent: bool) -> None:
    """Whoever put it there, one of the two lies (J2)."""
    lines = FORWARDED if source == "x-forwarded" else ORIGINAL
    if consistent:
        assert asked(lines, source, (name, value)).target == "/a?b=c"
        return
    with pytest.raises(BadRequest) as refusal:
        asked(lines, source, (name, value))
    assert refusal.value.code == "bad_description"


@pytest.mark.parametrize("byte", range(0x21, 0x7F))
@pytest.mark.parametrize("source", ["x-forwarded", "x-original"])
def test_a_byte_behind_the_host_never_moves_the_path(source: Source, byte: int) -> None:
    """An ingress that passes on any Host describes the path that it serves, or the description is refused."""
    host = f"shop.example.com{chr(byte)}"
    lines = {**FORWARDED, "X-Forwarded-Host": host, "X-Forwarded-Uri": "/admin/secret"}
    if source == "x-original":
        lines = {**ORIGINAL, "X-Original-URL": f"https://{host}/admin/secret"}
    try:
        found = asked(lines, source)
    except BadRequest:
        return
    if source == "x-original" and chr(byte) == "/":  # one URL cannot tell; nginx answers 400 to this Host
        assert found.target == "//admin/secret"
    else:
        assert found.target == "/admin/secret"


@pytest.mark.parametrize(
    "nominated",
    [*FORWARDED, *ORIGINAL, "Cookie", "Authorization", "X-Forwarded-For", "X-Original-URI", "X-Authproxy-Secret"],
)
@pytest.mark.parametrize("how", ["{}", "close, {}", "keep-alive ,\t{}", "{},", "x, {} ,y"])
def test_connection_nominates_nothing_of_a_description(nominated: str, how: str) -> None:
    """A proxy on the way would drop the header; an ingress sends a Connection of its own (RFC 9110 section 7.6.1)."""
    for name in (nominated, nominated.lower()):
        for source, lines in (("x-forwarded", FORWARDED), ("x-original", ORIGINAL)):
            with pytest.raises(BadRequest) as refusal:
                asked(lines, source, ("Connection", how.format(name)))  # type: ignore[arg-type]
            assert refusal.value.code == "bad_description"


@pytest.mark.parametrize("value", ["", "close", "Keep-Alive", "Upgrade", "keep-alive, Upgrade", "X-Trace", "cookies"])
def test_other_options_of_connection_change_nothing(value: str) -> None:
    """What concerns this hop alone is no part of the description."""
    assert asked(FORWARDED, "x-forwarded", ("Connection", value)).target == "/a?b=c"


def test_a_described_request_without_a_query_is_compared_whole() -> None:
    """``/a`` and ``/a?`` are two requests."""
    lines = {**FORWARDED, "X-Forwarded-Uri": "/a"}
    assert asked(lines, "x-forwarded", ("X-Original-URI", "/a")).target == "/a"
    with pytest.raises(BadRequest):
        asked(lines, "x-forwarded", ("X-Original-URI", "/a?"))


def test_a_call_for_a_decision_speaks_http_1() -> None:
    """The version rule holds at this door as well."""
    with pytest.raises(VersionNotSupported):
        asked(FORWARDED, http_version=(2, 0))
