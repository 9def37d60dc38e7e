"""What the upstream receives and what the client receives: stripped first, ours added, nothing of ours lost."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.errors import Unavailable
from authproxy.model import ANONYMOUS, HeaderList, Headers, Identity, Upstream, UpstreamRequest
from authproxy.mutate import (
    MOST_GROUP_BYTES,
    OwnCookies,
    auth_request_headers,
    forwards_end,
    identity_headers,
    response_fields,
    response_headers,
    upstream_request,
)
from tests.unit.values import changed, info, match, person, values_of

OWN = OwnCookies(b"authproxy")
Line = tuple[str, str]


def sent(
    *lines: Line, who: Identity = ANONYMOUS, strip: bool = False, upstream: dict[str, Any] | None = None, **changed: Any
) -> UpstreamRequest:
    """What the upstream receives of a request with these headers."""
    reached = Upstream(**{"urls": ("http://inside.example:8080",), **(upstream or {})})
    request = info("/a?b", *lines, **changed)
    return upstream_request(request, match(upstream=reached), who, own_cookies=OWN, strip_authorization=strip)


def passed(*lines: Line, **changed: Any) -> list[Line]:
    """The client's headers that reach the upstream, without those that we add."""
    ours = {"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"}
    headers = sent(*lines, **changed).headers
    return [(name.decode(), value.decode("latin-1")) for name, value in headers if name.decode().lower() not in ours]


def returned(*lines: Line, set_cookies: tuple[str, ...] = (), private: bool = False) -> HeaderList:
    """What the client receives of an upstream's headers."""
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines)
    return response_headers(headers, own_cookies=OWN, request_id="rid", set_cookies=set_cookies, private=private)


# -- stripping


CARRY_TRUST = """
Connection Keep-Alive Proxy-Connection Proxy-Authorization Proxy-Authenticate Proxy TE Trailer Transfer-Encoding
Upgrade Content-Length Expect HTTP2-Settings Forwarded X-Forwarded X-Forwarded-For X-Forwarded-Host
X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Server X-Forwarded-Uri X-Forwarded-Method
X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Preferred-Username X-Forwarded-Access-Token
X-Forwarded-Client-Cert X-Forwarded-Tls-Client-Cert X-Forwarded-Groups-Truncated X-Real-IP X-Original-URI
X-Original-URL X-Original-Method X-Rewrite-URL True-Client-IP CF-Connecting-IP X-Client-IP X-Cluster-Client-Ip
Remote-User Remote-Groups Remote-Email Remote-Name X-Remote-User X-Remote-Group X-Remote-Extra-Scopes
SSL-Client-Cert SSL-Client-Verify Impersonate-User Impersonate-Group Impersonate-Uid Impersonate-Extra-scopes
X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups X-Auth-Request-Redirect X-Authproxy-Secret
Authproxy-Refusal X-Request-Id
"""
STRIPPED = CARRY_TRUST.split()

SPELLINGS = [
    str,
    str.lower,
    str.upper,
    lambda name: name.replace("-", "_"),
    lambda name: name.replace("-", "."),
    lambda name: name.replace("-", "_", 1),
    lambda name: name.replace("-", "--"),
    lambda name: name.replace("-", "-_."),
    lambda name: f"_{name}-",
]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("name", STRIPPED)
def test_no_header_that_carries_trust_passes(name: str, spell: Any) -> None:
    """Under no spelling that a lenient server takes for it (E23, H1, CVE-2025-64484)."""
    spelled = spell(name)
    headers = sent((spelled, "evil"), ("Accept", "*/*")).headers
    assert b"evil" not in [value for _, value in headers]
    assert values_of(headers, "Accept") == ["*/*"]


@pytest.mark.parametrize("name", ["_Cookie", "cookie.", "Authorization_", "-authorization", "Host_", "X.Request.Id"])
def test_look_alikes_of_what_is_ours_to_set_do_not_pass(name: str) -> None:
    """Nobody sets beside us what we set, nor takes the place of the true header."""
    assert passed((name, "evil")) == []
    assert passed((name, "evil"), ("Cookie", "a=1")) == [("Cookie", "a=1")]


def test_everything_else_passes_as_it_came() -> None:
    """Spelling, order, duplicates, empty values and foreign bytes (E38)."""
    lines = [
        ("accept", "*/*"),
        ("X-b", "1"),
        ("x-B", "2"),
        ("X-b", ""),
        ("X_Own_Header", "3"),
        ("Referer", "é"),
        ("Sec-WebSocket-Key", "k"),
        ("X-HTTP-Method-Override", "PUT"),
        ("X-Forwardedness", "no family"),
        ("Content-Type", "text/plain"),
        ("Range", "bytes=0-1"),
    ]
    assert passed(*lines) == lines


def test_a_public_route_is_stripped_like_every_other() -> None:
    """There is no side door on which identity headers pass (H6)."""
    assert passed(("X-Forwarded-User", "root"), ("Remote-User", "root"), method="OPTIONS") == []


def test_connection_names_headers_of_this_hop() -> None:
    """They end here, in every spelling; the rest passes."""
    lines = [
        ("Connection", "close, X-Hop"),
        ("Connection", "\tx-other "),
        ("X-Hop", "1"),
        ("X_Other", "2"),
        ("X-End", "3"),
    ]
    assert passed(*lines) == [("X-End", "3")]


@pytest.mark.parametrize("usual", ["keep-alive", "Keep-Alive", "close", "", "upgrade"])
def test_usual_words_in_connection_name_nothing(usual: str) -> None:
    """They are options, not headers."""
    assert passed(("Connection", usual), ("Accept", "*/*")) == [("Accept", "*/*")]


def test_connection_cannot_name_what_we_add() -> None:
    """Nominated names are stripped before anything of ours is there (E24)."""
    named = "Host, Authorization, Cookie, X-Forwarded-For, X-Forwarded-User, X-Forwarded-Proto, X-Request-Id"
    plain = sent(who=person(id_token="t"), upstream={"authorization": "id_token"})
    nominated = sent(("Connection", named), who=person(id_token="t"), upstream={"authorization": "id_token"})
    assert nominated.headers == plain.headers
    assert values_of(nominated.headers, "Authorization") == ["Bearer t"]


def test_the_clients_own_cookie_may_be_named() -> None:
    """What it sends and takes back is its own affair."""
    assert passed(("Connection", "cookie, authorization"), ("Cookie", "a=1"), ("Authorization", "Basic x")) == []


# -- what is added


def test_the_upstream_learns_who_asks_and_from_where() -> None:
    """Host first, then the client's headers, then ours, Authorization last."""
    found = sent(("Accept", "*/*"), who=person(id_token="t"), upstream={"authorization": "id_token"})
    assert found.headers == (
        (b"Host", b"app.example.com"),
        (b"Accept", b"*/*"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"app.example.com"),
        (b"X-Request-Id", b"fresh"),
        (b"X-Forwarded-User", b"alice@example.com"),
        (b"X-Forwarded-Email", b"alice@example.com"),
        (b"X-Forwarded-Preferred-Username", b"alice"),
        (b"X-Forwarded-Groups", b"staff"),
        (b"Authorization", b"Bearer t"),
    )
    assert (found.method, found.target, found.upgrade) == ("GET", "/a?b", "")


def test_nobody_has_no_name() -> None:
    """On a public route no identity header is there at all, whatever the identity was made with."""
    assert sent(who=Identity(kind="anonymous", user="x")).headers == sent().headers
    assert [name for name, _ in sent().headers] == [
        b"Host",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"X-Request-Id",
    ]


def test_the_host_is_the_clients_or_the_upstreams_own() -> None:
    """As the settings say; a request without a host gets the upstream's."""
    urls = ("http://user:pw@Inside.example:8080", "http://other")
    assert values_of(sent(host="App.example.com:8443").headers, "host") == ["app.example.com:8443"]
    assert values_of(sent(upstream={"urls": urls, "preserve_host": False}).headers, "host") == ["Inside.example:8080"]
    for socket in ("unix:/run/app.sock", "unix:///run/app.sock"):
        assert values_of(sent(upstream={"urls": (socket,)}).headers, "host") == ["app.example.com"]
        assert values_of(sent(upstream={"urls": (socket,), "preserve_host": False}).headers, "host") == ["localhost"]
    bare = sent(host=None, http_version=(1, 0)).headers
    assert values_of(bare, "host") == ["inside.example:8080"]
    assert values_of(bare, "x-forwarded-host") == []


def test_a_client_without_an_address_is_not_made_up() -> None:
    """On a Unix socket there is none."""
    assert values_of(sent(peer="").headers, "x-forwarded-for") == []


# -- identity headers


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ("alice", "alice"),
        ("Alice B", "Alice B"),
        ("café", "caf%C3%A9"),
        ("100%", "100%25"),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"),
        (" a ", "%20a%20"),
        ("\x7f\t", "%7F%09"),
        ("a,b", "a,b"),
        ("\ud800", "%ED%A0%80"),
        (" ", "%20"),
    ],
)
def test_values_are_percent_encoded_by_one_rule(user: str, header: str) -> None:
    """Everything but visible ASCII and blanks inside; ``%`` too, so that it can be undone (H7)."""
    assert values_of(identity_headers(person(user=user)), "X-Forwarded-User") == [header]


@given(st.text(min_size=1))
def test_the_encoding_can_be_undone(user: str) -> None:
    """And what is sent is always fit for a header."""
    (value,) = values_of(identity_headers(person(user=user)), "X-Forwarded-User")
    assert unquote_to_bytes(value) == user.encode("utf-8", "surrogatepass")
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()


@given(st.lists(st.text(min_size=1), max_size=6).map(tuple))
def test_groups_are_told_apart(groups: tuple[str, ...]) -> None:
    """A comma inside a name never makes two groups of one."""
    values = values_of(identity_headers(person(groups=groups)), "X-Forwarded-Groups")
    listed = [
        unquote_to_bytes(group).decode("utf-8", "surrogatepass") for value in values for group in value.split(",")
    ]
    assert listed == list(groups)


def test_values_that_are_empty_are_left_out() -> None:
    """Also groups without a name."""
    assert identity_headers(person(user="", email="", preferred_username="", groups=("",))) == ()


def test_groups_are_bounded_and_say_so() -> None:
    """Whole groups are left out from the end; the upstream can tell."""
    groups = tuple(f"group-{number:04}" for number in range(1000))
    headers = identity_headers(person(groups=groups))
    (value,) = values_of(headers, "X-Forwarded-Groups")
    assert MOST_GROUP_BYTES - 11 < len(value) <= MOST_GROUP_BYTES
    assert tuple(value.split(",")) == groups[: len(value.split(","))]
    assert values_of(headers, "X-Forwarded-Groups-Truncated") == ["true"]
    exact = identity_headers(person(groups=("g" * MOST_GROUP_BYTES,)))
    assert values_of(exact, "X-Forwarded-Groups-Truncated") == []


def test_an_ingress_gets_all_four_always() -> None:
    """Empty ones too, so that it overwrites what a client sent (J3)."""
    assert auth_request_headers(person(email="", groups=())) == (
        (b"X-Auth-Request-User", b"alice@example.com"),
        (b"X-Auth-Request-Email", b""),
        (b"X-Auth-Request-Preferred-Username", b"alice"),
        (b"X-Auth-Request-Groups", b""),
    )


# -- Authorization


@pytest.mark.parametrize(
    ("mode", "strip", "who", "expected"),
    [
        ("none", False, person(), ["Basic x"]),
        ("none", True, person(), []),
        ("pass", False, person(), ["Basic x"]),
        ("pass", True, person(), ["Basic x"]),
        ("id_token", False, person(id_token="i", access_token="a"), ["Bearer i"]),
        ("access_token", True, person(id_token="i", access_token="a"), ["Bearer a"]),
        ("id_token", False, person(), []),
        ("access_token", False, ANONYMOUS, []),
        ("bearer", False, ANONYMOUS, ["Bearer s3cret"]),
        ("bearer", True, person(), ["Bearer s3cret"]),
    ],
)
def test_authorization_follows_the_mode(mode: str, strip: bool, who: Identity, expected: list[str]) -> None:
    """Never the client's beside ours, and never the client's where ours was meant."""
    found = sent(
        ("Authorization", "Basic x"), who=who, strip=strip, upstream={"authorization": mode, "bearer": lambda: "s3cret"}
    )
    assert values_of(found.headers, "Authorization") == expected


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "é", "", "\x00"])
def test_a_token_that_is_none_is_not_sent(token: str) -> None:
    """It would be a header of somebody's making."""
    assert (
        values_of(sent(who=person(id_token=token), upstream={"authorization": "id_token"}).headers, "Authorization")
        == []
    )


ENROLLING: Final = Identity(kind="enrollment", subject="fleet", user="fleet")
IN_HEADERS: Final = (("X-Enrollment-Token", "t"), ("x_enrollment.token", "u"), ("X-Enrollment", "v"))


@pytest.mark.parametrize(
    ("mode", "left"),
    [
        ("none", ["X-Enrollment"]),
        ("pass", ["Authorization", "X-Enrollment-Token", "X-Enrollment"]),
        ("id_token", ["X-Enrollment"]),
    ],
)
def test_an_enrollment_token_that_was_judged_stays_here(mode: str, left: list[str]) -> None:
    """In either header, and under names that a lenient server takes for it; mode ``pass`` passes what was judged."""
    lines = (("Authorization", "Bearer t"), *IN_HEADERS)
    found = passed(*lines, who=ENROLLING, strip=True, upstream={"authorization": mode})
    assert [name for name, _ in found if not name.startswith("X-Forwarded")] == left
    assert passed(*IN_HEADERS) == list(IN_HEADERS)  # nobody judged it: it is the application's own


def test_a_missing_secret_is_an_error_of_ours() -> None:
    """503, and the reason for the operator names the source."""

    def lost() -> str:
        raise LookupError("cannot read /run/secret: gone")

    with pytest.raises(Unavailable) as refusal:
        sent(upstream={"authorization": "bearer", "bearer": lost})
    assert refusal.value.code == "upstream_secret"
    assert refusal.value.reason == "cannot read /run/secret: gone"
    assert "/run" not in refusal.value.message


def test_mode_bearer_without_a_secret_sends_none() -> None:
    """Nothing is made up."""
    assert values_of(sent(upstream={"authorization": "bearer"}).headers, "Authorization") == []


# -- cookies


@pytest.mark.parametrize(
    ("cookie", "left"),
    [
        ("a=1", "a=1"),
        ("authproxy=x", None),
        ("__Host-authproxy=x", None),
        ("__Secure-authproxy=x", None),
        ("authproxy_0=x; authproxy_1=y", None),
        ("__Host-authproxy_csrf=x", None),
        ("a=1; authproxy=x; b=2", "a=1; b=2"),
        ("authproxy=x; b=2", "b=2"),
        ("a=1; authproxy=x", "a=1"),
        ("a=1;authproxy=x;b=2", "a=1;b=2"),
        ("a=1;  b = 2 ; authproxy=x;; c", "a=1;  b = 2 ;; c"),
        ("authproxyx=1", "authproxyx=1"),
        ("xauthproxy=1", "xauthproxy=1"),
        ("Authproxy=1", "Authproxy=1"),
        ("a=authproxy=1", "a=authproxy=1"),
        ("=authproxy=x; a=1", "a=1"),
        ("authproxy; a=1", "a=1"),
        (" authproxy =x; a=1", "a=1"),
        ('a="x; authproxy=y"', 'a="x'),
        ('a=é\t; b="q"', 'a=é\t; b="q"'),
    ],
)
def test_our_cookies_stay_here_and_the_others_pass_untouched(cookie: str, left: str | None) -> None:
    """Byte for byte and in order; a line with nothing left is not sent (D6)."""
    assert passed(("Cookie", cookie)) == ([] if left is None else [("Cookie", left)])


def test_several_cookie_lines_become_one() -> None:
    """At the place of the first, without empty pieces (E39)."""
    lines = [("cookie", "a=1"), ("Accept", "*/*"), ("Cookie", "authproxy=x"), ("COOKIE", "b=2; authproxy_1=y")]
    assert passed(*lines) == [("cookie", "a=1; b=2"), ("Accept", "*/*")]


# -- upgrades


UPGRADE = ("Connection", "keep-alive, Upgrade")


@pytest.mark.parametrize(
    ("protocol", "method", "expected"),
    [
        ("websocket", "GET", "websocket"),
        ("WebSocket", "GET", "websocket"),
        ("SPDY/3.1", "GET", "SPDY/3.1"),
        ("SPDY/3.1", "POST", "SPDY/3.1"),
        (" websocket\t", "GET", "websocket"),
        ("custom", "GET", "custom"),
        ("websocket", "POST", ""),
        ("websocket", "HEAD", ""),
        ("a, websocket", "GET", ""),
        ("websocket,", "GET", ""),
        ("h2c", "GET", ""),
        ("H2", "GET", ""),
        ("HTTP/2.0", "GET", ""),
        ("TLS/1.2", "GET", ""),
        ("", "GET", ""),
        ("web socket", "GET", ""),
    ],
)
def test_one_protocol_may_be_asked_for(protocol: str, method: str, expected: str) -> None:
    """WebSocket, SPDY and others by name; no list, and no second HTTP (G7, G8)."""
    found = sent(UPGRADE, ("Upgrade", protocol), ("HTTP2-Settings", "x"), method=method)
    assert found.upgrade == expected
    assert values_of(found.headers, "Upgrade") == []
    assert values_of(found.headers, "Connection") == []
    assert values_of(found.headers, "HTTP2-Settings") == []


def test_an_upgrade_is_asked_for_properly_or_not_at_all() -> None:
    """HTTP/1.1, Connection says so as a word of its own, and one header line."""
    wanted = ("Upgrade", "websocket")
    assert sent(UPGRADE, wanted, http_version=(1, 0)).upgrade == ""
    assert sent(wanted).upgrade == ""
    assert sent(("Connection", "notupgrade"), wanted).upgrade == ""
    assert sent(UPGRADE, wanted, wanted).upgrade == ""
    assert sent(UPGRADE).upgrade == ""
    assert sent(("Connection", "x"), UPGRADE, wanted, ("Sec-WebSocket-Key", "k")).upgrade == "websocket"


# -- the answer


def test_an_answer_passes_as_it_came() -> None:
    """Duplicates and order kept; our request id at the end (F9)."""
    lines = (
        ("Content-Type", "text/html"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2; Path=/"),
        ("Server", "x"),
        ("Server", "y"),
    )
    assert returned(*lines) == (
        (b"Content-Type", b"text/html"),
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2; Path=/"),
        (b"Server", b"x"),
        (b"Server", b"y"),
        (b"X-Request-Id", b"rid"),
    )


NOT_FOR_CLIENTS = """
Connection Keep-Alive Proxy-Connection Proxy-Authenticate TE Trailer Transfer-Encoding Upgrade Content-Length
X-Auth-Request-User X-Authproxy-Anything Authproxy-Refusal X-Request-Id x_auth_request_user
"""


@pytest.mark.parametrize("name", NOT_FOR_CLIENTS.split())
def test_what_an_upstream_may_not_say_does_not_come_back(name: str) -> None:
    """Framing, this hop's headers and what only we say (F11)."""
    assert b"evil" not in [value for _, value in returned((name, "evil"))]


def test_an_upstream_names_its_own_hop_too() -> None:
    """Nominated headers end here; ours are added afterwards."""
    lines = (("Connection", "X-Hop, X-Request-Id, Set-Cookie, Cache-Control"), ("X-Hop", "1"), ("X-End", "2"))
    assert returned(*lines, set_cookies=("authproxy=new",)) == (
        (b"X-End", b"2"),
        (b"Cache-Control", b"private, no-store"),
        (b"X-Request-Id", b"rid"),
        (b"Set-Cookie", b"authproxy=new"),
    )


@pytest.mark.parametrize(
    ("cookie", "stays"),
    [
        ("authproxy=evil; Path=/", False),
        ("__Host-authproxy=evil", False),
        ("__Secure-authproxy_1=evil", False),
        (" authproxy = evil", False),
        ("=authproxy=evil", False),
        ("= authproxy=evil", False),
        ("authproxy", False),
        ("authproxy; Path=/", False),
        ("other=authproxy=1", True),
        ("authproxies=1", True),
        ("theme=dark; Path=/authproxy", True),
    ],
)
def test_an_upstream_cannot_set_our_cookies(cookie: str, stays: bool) -> None:
    """Nor by a cookie without a name, which browsers send back as its value (D7)."""
    assert values_of(returned(("Set-Cookie", cookie)), "Set-Cookie") == ([cookie] if stays else [])


@pytest.mark.parametrize(
    ("said", "private", "cookies", "expected"),
    [
        ([], False, (), []),
        ([], True, (), ["private"]),
        (["public, max-age=60"], True, (), ["public, max-age=60"]),
        (["no-cache"], True, (), ["no-cache"]),
        ([], False, ("authproxy=x",), ["private, no-store"]),
        (["public"], True, ("authproxy=x",), ["private, no-store"]),
        (["max-age=60", "public"], True, ("authproxy=x",), ["private, no-store"]),
        (["No-Store"], True, ("authproxy=x",), ["No-Store"]),
        (["private", "max-age=0, no-store "], False, ("authproxy=x",), ["private", "max-age=0, no-store "]),
        (["no-storeroom"], False, ("authproxy=x",), ["private, no-store"]),
    ],
)
def test_what_is_somebodys_own_is_not_stored_for_others(
    said: list[str], private: bool, cookies: tuple[str, ...], expected: list[str]
) -> None:
    """Marked private where the upstream is silent; never stored with a cookie of ours (F13)."""
    found = returned(*(("Cache-Control", value) for value in said), private=private, set_cookies=cookies)
    assert values_of(found, "Cache-Control") == expected
    assert values_of(found, "Set-Cookie") == list(cookies)


def test_rules_for_content_networks_do_not_outlive_our_cookie() -> None:
    """RFC 9213 headers would override Cache-Control there."""
    lines = (("CDN-Cache-Control", "max-age=60"), ("Surrogate-Control", "max-age=60"), ("ETag", "x"))
    assert [name for name, _ in returned(*lines, set_cookies=("authproxy=x",))] == [
        b"ETag",
        b"Cache-Control",
        b"X-Request-Id",
        b"Set-Cookie",
    ]
    assert len(returned(*lines)) == 4


def test_our_cookies_come_last_and_as_they_are() -> None:
    """After those of the upstream, so that ours win."""
    found = returned(("Set-Cookie", "a=1"), set_cookies=("authproxy=1; Path=/", "authproxy_1=2"))
    assert values_of(found, "Set-Cookie") == ["a=1", "authproxy=1; Path=/", "authproxy_1=2"]


# -- properties


NAMES = st.one_of(
    st.sampled_from(STRIPPED),
    st.sampled_from(["Accept", "X-Own", "Cookie", "Authorization", "Connection", "Host-Name"]),
)
SEPARATED = st.builds(
    lambda name, separator, upper: (name.upper() if upper else name).replace("-", separator),
    NAMES,
    st.sampled_from(["-", "_", ".", "--", "-_", "._."]),
    st.booleans(),
)
LINES = st.lists(st.tuples(SEPARATED, st.sampled_from(["evil", "evil, close", "Host", "X-Forwarded-User"])), max_size=8)


def cgi(name: bytes) -> str:
    """What a CGI server makes of a header's name, generously."""
    return "_".join(filter(None, name.decode().lower().replace("-", "_").replace(".", "_").split("_")))


@given(LINES)
def test_stripping_never_leaves_an_alias_of_identity(lines: list[Line]) -> None:
    """To a server that folds names, every name that carries trust has our value alone."""
    headers = sent(*lines, who=person()).headers
    ours = {"host", "x_forwarded_for", "x_forwarded_proto", "x_forwarded_host", "x_request_id"}
    ours |= {f"x_forwarded_{claim}" for claim in ("user", "email", "preferred_username", "groups")}
    seen = [cgi(name) for name, _ in headers]
    trusted = {cgi(name.encode()) for name in STRIPPED} | ours
    assert sorted(name for name in seen if name in trusted) == sorted(ours)


@given(st.lists(st.sampled_from([*STRIPPED, "Host", "Cookie", "Authorization", "close", "", "é", "a b"]), max_size=6))
def test_connection_never_removes_what_is_ours(named: list[str]) -> None:
    """Whatever a client nominates, in however many lines."""
    mode = {"authorization": "id_token"}
    plain = sent(who=person(id_token="t"), upstream=mode)
    lines = [("Connection", ", ".join(named[:3])), ("connection", ",".join(named[3:]))]
    assert sent(*lines, who=person(id_token="t"), upstream=mode).headers == plain.headers


PAIRS = st.lists(
    st.sampled_from(
        ["a=1", " b=2", "authproxy=x", " __Host-authproxy_1=y", "", " ", "c", " =authproxy=z", "d=authproxy"]
    )
)


@given(st.lists(PAIRS.map(";".join), max_size=3))
def test_the_other_cookies_keep_their_bytes_and_order(values: list[str]) -> None:
    """What is left is a subsequence of what came, with every foreign cookie in it."""
    left = [value for _, value in passed(*(("Cookie", value) for value in values))]
    foreign = [
        pair for value in values for pair in value.split(";") if "authproxy" not in pair or pair == "d=authproxy"
    ]
    kept = [pair for value in left for pair in value.split(";")]
    assert [pair.strip() for pair in kept if pair.strip()] == [pair.strip() for pair in foreign if pair.strip()]


@given(st.lists(st.tuples(SEPARATED, st.sampled_from(["a=1", "authproxy=x", "close, set-cookie"])), max_size=6))
def test_an_answer_always_carries_what_is_ours(lines: list[Line]) -> None:
    """The request id once, and our cookie last."""
    found = returned(*lines, set_cookies=("authproxy=new",))
    assert [value for name, value in found if cgi(name) == "x_request_id"] == [b"rid"]
    assert found[-1] == (b"Set-Cookie", b"authproxy=new")


# --- what is kept for when the same comes again ---


def replaced(headers: Headers, mode: Any, who: Identity) -> UpstreamRequest:
    """What the upstream receives of a request with these very headers, in this mode of ``authorization``."""
    upstream = Upstream(urls=("http://inside.example:8080",), authorization=mode)
    asked = changed(info("/"), headers=headers)
    return upstream_request(asked, match(upstream=upstream), who, own_cookies=OWN, strip_authorization=False)


@pytest.mark.parametrize("cookies", [(), ("authproxy=x; Path=/",)])
@pytest.mark.parametrize("private", [False, True])
def test_response_fields_are_the_headers(cookies: tuple[str, ...], private: bool) -> None:
    """As octets and as lines they are the same, the first time and again, for every kind of answer."""
    answers = (
        ((b"X-A", b"1"), (b"Set-Cookie", b"authproxy=stolen"), (b"Set-Cookie", b"app=1"), (b"Connection", b"x-a")),
        ((b"Date", b"then"), (b"Cache-Control", b"public, max-age=60"), (b"X-Auth-Request-User", b"root")),
    )
    for lines in answers:
        facts: dict[object, Any] = {}
        wanted = response_headers(
            lines, own_cookies=OWN, request_id="r-1", set_cookies=cookies, private=private
        )  # fmt: skip
        for _ in range(2):
            found = response_fields(
                lines, facts, own_cookies=OWN, request_id="r-1", set_cookies=cookies, private=private
            )
            assert found.octets == b"".join(b"%b: %b\r\n" % line for line in wanted)
            assert found.dated == any(name == b"Date" for name, _ in lines)
        assert len(facts) == 1


def test_the_same_headers_serve_several_routes() -> None:
    """What is kept with the headers for one way of treating them is not used for another."""
    lines = Headers(((b"Authorization", b"Bearer theirs"), (b"X-A", b"1")))
    for mode, kept in (("none", True), ("id_token", False), ("pass", True), ("none", True)):
        request = replaced(lines, mode, person(id_token="ours"))
        assert ((b"Authorization", b"Bearer theirs") in request.headers) == kept
        assert (b"X-A", b"1") in request.headers


def test_what_stands_is_not_used_for_another() -> None:
    """Whatever else than the target is different, the same lines come to what they come to when they are new."""
    lines = ((b"Authorization", b"Bearer theirs"), (b"Cookie", b"authproxy=x; other=y; app=z"), (b"X-A", b"1"))
    kept, plain = Headers(lines), match()
    other = match(upstream=Upstream(urls=("http://other.example",), preserve_host=False))
    who, own = person(), OwnCookies(b"other")
    ways = [
        (changed(info("/"), **change), target, identity, cookies, strip)
        for change in (
            {"query": ""}, {"client": "192.0.2.9"}, {"scheme": "http"}, {"authority": "b.example"}, {"request_id": "r2"}
        )
        for target in (plain, other) for identity in (who, person(user="bob")) for cookies in (OWN, own)
        for strip in (True, False)
    ]  # fmt: skip
    seen = set()
    for asked, target, identity, cookies, strip in ways * 2:
        said = [
            upstream_request(
                changed(asked, headers=headers), target, identity, own_cookies=cookies, strip_authorization=strip
            ).fields
            for headers in (Headers(lines), kept, kept)
        ]
        assert said == said[:1] * 3
        seen.add(said[0])
    assert len(seen) == len(ways)


def test_the_same_person_at_several_upstreams() -> None:
    """What is kept with an identity for one mode is not used for another."""
    who = person(id_token="id", access_token="access")
    for mode in ("id_token", "access_token", "none", "id_token"):
        found = [value for name, value in replaced(Headers(), mode, who).headers if name == b"Authorization"]
        assert found == {"id_token": [b"Bearer id"], "access_token": [b"Bearer access"], "none": []}[mode]


@pytest.mark.parametrize(
    ("method", "value", "arrives", "ends"),
    [
        ("OPTIONS", "0", "0", True), ("OPTIONS", "1", "0", False), ("OPTIONS", "7", "6", False),
        ("OPTIONS", "much", "much", False), ("OPTIONS", "9" * 20, "9" * 20, False), ("GET", "0", "0", False),
        ("GET", "7", "7", False),
    ],
)  # fmt: skip
def test_max_forwards(method: str, value: str, arrives: str, ends: bool) -> None:
    """Counts on OPTIONS alone (RFC 9110 section 7.6.2); what is no number passes."""
    asked = info("/", ("Max-Forwards", value), method=method)
    assert forwards_end(asked) == ends
    found = upstream_request(asked, match(), person(), own_cookies=OWN, strip_authorization=True)
    assert [text for name, text in found.headers if name == b"Max-Forwards"] == [arrives.encode()]
