"""Which app and route a request selects, and that no request is judged as one path and forwarded as another."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy.errors import BadRequest, MethodNotAllowed, NotFound, Refusal
from authproxy.model import ANONYMOUS, App, Match, Policy, Route
from authproxy.mutate import OwnCookies, upstream_request
from authproxy.routing import RouteTable, compile_apps
from authproxy.settings.schema import SecretRef, Settings
from tests.unit.values import STAFF, app, info

POLICIES = {"staff": STAFF, "public": Policy("public", anonymous=True)}


def found(table: RouteTable, target: str, **changed: Any) -> tuple[str, str]:
    """App and route that a request selects."""
    match = table.match(info(target, **changed))
    return match.app.name, match.route.path


def refused(table: RouteTable, target: str, **changed: Any) -> Refusal:
    """The refusal of a request that selects nothing."""
    with pytest.raises(Refusal) as refusal:
        table.match(info(target, **changed))
    return refusal.value


def methods(name: str, *routes: tuple[str, str]) -> App:
    """An app with routes for methods, given as words."""
    return app(
        name,
        routes=tuple(
            Route(f"apps.{name}.routes[{at}]", path, STAFF, methods=frozenset(words.split()))
            for at, (path, words) in enumerate(routes)
        ),
    )


def test_the_first_route_in_declared_order_wins() -> None:
    """A later route that would fit better is not asked."""
    table = RouteTable([app("app", "/api/", "/api/special", "/")])
    assert found(table, "/api/special") == ("app", "/api/")
    assert found(table, "/other") == ("app", "/")


def test_an_exact_host_goes_before_any_host() -> None:
    """Whatever the order of the file."""
    table = RouteTable([app("any", host="*"), app("none", host=None, path="/n/"), app("exact")])
    assert found(table, "/n/") == ("exact", "/")
    assert found(table, "/", host="other.example.com")[0] == "any"


def test_an_app_without_a_host_is_on_every_host() -> None:
    """Also beside apps whose prefix does not hold the path, and for a request without a host."""
    table = RouteTable([app("pathless", "/n/", host=None, path="/n/"), app("exact", "/x/", path="/x/")])
    assert found(table, "/n/a") == ("pathless", "/n/")
    assert found(table, "/n/a", host="other.example.com") == ("pathless", "/n/")
    assert found(table, "/n/a", host=None, http_version=(1, 0)) == ("pathless", "/n/")
    assert found(table, "/x/") == ("exact", "/x/")


def test_the_longest_prefix_of_a_host_wins() -> None:
    """And then its routes alone are asked."""
    table = RouteTable(
        [
            app("root"),
            app("grafana", "/grafana/api/", path="/grafana/"),
            app("deep", "/grafana/x/y", path="/grafana/x/"),
        ]
    )
    assert found(table, "/grafana/api/1") == ("grafana", "/grafana/api/")
    assert refused(table, "/grafana/other").code == "no_route"
    assert found(table, "/grafana")[0] == "root"
    assert found(table, "/grafana/x/y")[0] == "deep"


def test_a_prefix_without_a_slash_ends_at_a_segment() -> None:
    """/grafana holds itself and what is below, and not /grafana2."""
    table = RouteTable([app("grafana", "/grafana", "/grafana/", path="/grafana")])
    assert found(table, "/grafana")[1] == "/grafana"
    assert found(table, "/grafana/x")[1] == "/grafana/"
    assert refused(table, "/grafana2").code == "no_app"


def test_no_app_and_no_route_are_told_apart_for_the_operator() -> None:
    """Both are 404."""
    table = RouteTable([app("app", "/x")])
    nothing, unknown = refused(table, "/y"), refused(table, "/x", host="other.example.com")
    assert isinstance(nothing, NotFound)
    assert isinstance(unknown, NotFound)
    assert (nothing.code, unknown.code) == ("no_route", "no_app")


def test_an_empty_table_refuses_everything() -> None:
    """No is the default."""
    assert refused(RouteTable([]), "/").code == "no_app"


def test_a_route_for_get_serves_head() -> None:
    """HEAD is GET without the body (RFC 9110 section 9.3.2)."""
    table = RouteTable([methods("app", ("/a", "GET"), ("/b", "HEAD"))])
    assert found(table, "/a", method="HEAD")[1] == "/a"
    assert isinstance(refused(table, "/b", method="GET"), MethodNotAllowed)


def test_a_method_that_a_route_does_not_serve_goes_on_to_the_next() -> None:
    """So that reading and writing can have policies of their own."""
    table = RouteTable([methods("app", ("/api/", "GET"), ("/", ""))])
    assert found(table, "/api/x")[1] == "/api/"
    assert found(table, "/api/x", method="PUT")[1] == "/"


def test_a_known_path_with_a_wrong_method_says_what_is_allowed() -> None:
    """405 with the methods of all routes for the path; 404 where no route has the path."""
    table = RouteTable([methods("app", ("/a", "GET"), ("/a", "PUT POST"), ("/b", "DELETE"))])
    refusal = refused(table, "/a", method="PATCH")
    assert isinstance(refusal, MethodNotAllowed)
    assert refusal.code == "method_not_allowed"
    assert refusal.allow == ("GET", "HEAD", "POST", "PUT")
    assert refused(table, "/c", method="PATCH").code == "no_route"


@pytest.mark.parametrize("target", ["//a", "/%61", "/a%2f", "/c/x%79/", "/c//eu/"])
def test_readings_that_select_differently_are_refused(target: str) -> None:
    """Another route, another capture, or none at all: one of them would be wrong."""
    table = RouteTable([app("app", "/a", "/a/", "/c/{cluster}/", "/z", "/")])
    refusal = refused(table, target)
    assert isinstance(refusal, BadRequest)
    assert refusal.code == "ambiguous_path"


def test_a_reading_that_selects_nothing_makes_the_others_doubtful() -> None:
    """Also where the raw path would be served, or would not."""
    table = RouteTable([app("app", "/a", "/%62")])
    assert refused(table, "/%61").code == "ambiguous_path"
    assert refused(table, "/%62").code == "ambiguous_path"
    assert refused(table, "//zz").code == "no_route"


def test_captures_are_what_the_path_says() -> None:
    """Byte for byte, with the cluster at hand."""
    match = RouteTable([app("app", "/c/{cluster}/{thing}")]).match(info("/c/Prod-EU/x"))
    assert match.captures == (("cluster", "Prod-EU"), ("thing", "x"))
    assert match.cluster == "Prod-EU"


def test_a_table_knows_its_hosts_and_apps() -> None:
    """For the pages that list what is there."""
    table = RouteTable([app("b"), app("a", path="/a/"), app("any", host="*"), app("x", host="x.example.com")])
    assert table.hosts == {"app.example.com", "x.example.com"}
    assert [each.name for each in table.apps_on("app.example.com")] == ["a", "b", "any"]
    assert [each.name for each in table.apps_on("unknown")] == ["any"]
    assert repr(table) == "<RouteTable 2 hosts, 1 apps on any host>"


def test_a_path_that_cannot_be_meant_is_named() -> None:
    """With its place in the file."""
    with pytest.raises(ValueError, match=r"apps\.app\.routes\[1\]\.path: must begin with /"):
        RouteTable([app("app", "/", "x")])


# -- compiling the settings


def compiled(shape: dict[str, Any], **more: Any) -> App:
    """One app of a settings file."""
    body = {"upstream": {"url": "http://u:1/"}, "routes": [{"path": "/", "policy": "staff"}], **shape}
    file = {"public_url": "https://auth.example.com", "providers": more.pop("providers", {}), "apps": {"shop": body}}
    return compile_apps(Settings.model_validate(file), POLICIES, **more)[0]


def only(*words: str) -> tuple[frozenset[str], ...]:
    """A set of words for each argument."""
    return tuple(frozenset(each.split()) for each in words)


PROVIDERS = {name: {"issuer": f"https://{name}.example.com", "client_id": "x"} for name in ("dex", "corp")}


def test_what_is_left_out_has_its_default() -> None:
    """The name as title, sessions only, every provider, all issuers."""
    shop = compiled({}, providers=PROVIDERS)
    assert (shop.name, shop.title, shop.host, shop.path) == ("shop", "shop", None, "/")
    assert shop.providers == {"dex", "corp"}
    assert (shop.bearer_issuers, shop.bearer_audiences) == (None, None)
    assert shop.routes == (Route("apps.shop.routes[0]", "/", STAFF),)
    upstream = shop.upstream
    assert (upstream.urls, upstream.authorization, upstream.bearer) == (("http://u:1",), "none", None)
    assert (upstream.timeout, upstream.preserve_host, upstream.ca, upstream.certificate) == (60.0, True, None, None)


def test_everything_that_is_said_is_kept() -> None:
    """Hosts become canonical, methods upper case."""
    shop = compiled(
        {
            "title": "Shop",
            "host": "Shop.Example.com.:8443",
            "path": "/s/",
            "provider": ["dex"],
            "bearer": {"issuers": ["dex"], "audiences": ["a"]},
            "routes": [{"path": "/s/", "policy": "public", "methods": ["get"], "accept": ["bearer", "token"]}],
            "upstream": {
                "urls": ["https://a", "https://b"],
                "authorization": "pass",
                "timeout": "5s",
                "preserve_host": False,
                "ca": "ca.crt",
                "tls": {"cert": "c", "key": "k"},
                "server_name": "s",
            },
        },
        providers=PROVIDERS,
    )
    assert (shop.title, shop.host, shop.path) == ("Shop", "shop.example.com", "/s/")
    assert (shop.providers, shop.bearer_issuers, shop.bearer_audiences) == only("dex", "dex", "a")
    route = shop.routes[0]
    assert route == Route("apps.shop.routes[0]", "/s/", POLICIES["public"], *only("GET", "bearer token"))
    upstream = shop.upstream
    assert (upstream.urls, upstream.authorization, upstream.timeout) == (("https://a", "https://b"), "pass", 5.0)
    assert (upstream.preserve_host, upstream.ca, upstream.certificate) == (False, "ca.crt", ("c", "k"))
    assert upstream.server_name == "s"


def test_one_provider_is_written_as_a_word() -> None:
    """Not as letters; and an empty list means none."""
    assert compiled({"provider": "dex"}, providers=PROVIDERS).providers == {"dex"}
    assert compiled({"provider": []}, providers=PROVIDERS).providers == frozenset()


def test_any_host_stays_any_host() -> None:
    """The star of a sidecar is no name."""
    assert compiled({"host": "*"}).host == "*"


@pytest.mark.parametrize("host", ["a b", "bücher.example", "https://a", ""])
def test_a_host_that_is_none_is_named(host: str) -> None:
    """With its place in the file."""
    with pytest.raises(ValueError, match=r"apps\.shop\.host"):
        compiled({"host": host})


def test_the_bearer_secret_is_read_by_who_asks() -> None:
    """By default anew each time; a server passes a reader that remembers."""
    shape = {"upstream": {"url": "http://u", "authorization": {"bearer": {"value": "s3cret"}}}}
    shop = compiled(shape)
    assert shop.upstream.authorization == "bearer"
    assert shop.upstream.bearer is not None
    assert shop.upstream.bearer() == "s3cret"
    assert "s3cret" not in repr(shop)
    asked: list[SecretRef] = []

    def reader(ref: SecretRef) -> Any:
        asked.append(ref)
        return lambda: "remembered"

    remembered = compiled(shape, secrets=reader).upstream.bearer
    assert remembered is not None
    assert (remembered(), len(asked)) == ("remembered", 1)


# -- the property


SPITE = ["/", "a", "b", "admin", ";x", "%61", "%2f", "%3b", "//", "%3f", "%2e", "..", "a", "/", "\\", "%252e", "é"]
PATHS = st.lists(st.sampled_from(SPITE), max_size=8).map(lambda parts: "/" + "".join(parts).replace("é", "%C3%A9"))
PARTS = st.sampled_from(["a", "b", "admin", "{cluster}", "{name}"])
PATTERNS = st.builds(
    lambda parts, end: "/" + "".join(part + "/" for part in parts) if end else "/" + "/".join(parts),
    st.lists(PARTS, max_size=3, unique=True),
    st.booleans(),
)
TABLES = st.lists(
    st.builds(
        lambda prefix, paths: (prefix, paths),
        st.sampled_from(["/", "/", "/a/", "/admin/", "/b"]),
        st.lists(PATTERNS, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


def naive_readings(path: str) -> set[str]:
    """The contract's ways to read a path, each spelled out."""
    decoded = unquote(path)
    found = {path, decoded}
    found |= {re.sub(";[^/]*", "", text) for text in found}
    return found | {re.sub("/+", "/", text) for text in found}


def naive_match(apps: list[tuple[str, list[str]]], path: str) -> tuple[int, int, dict[str, str]] | None:
    """The number of the app, the number of the route, and the captures: by splitting and comparing."""
    by_length = sorted(range(len(apps)), key=lambda number: -len(apps[number][0]))
    for number in by_length:
        prefix, routes = apps[number]
        if not (path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")):
            continue
        for at, route in enumerate(routes):
            captures = naive_captures(route.split("/"), path.split("/"))
            if captures is not None:
                return number, at, captures
        return None
    return None


def naive_captures(wanted: list[str], given: list[str]) -> dict[str, str] | None:
    """Segment by segment; an empty last segment of the pattern takes the rest."""
    if wanted[-1] == "":
        if len(given) < len(wanted):
            return None
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    if len(wanted) != len(given):
        return None
    captures = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and have:
            captures[want[1:-1]] = have
        elif want != have:
            return None
    return captures


def selected(apps: list[App], match: Match) -> tuple[int, int, dict[str, str]]:
    """A match in the words of the reference."""
    return apps.index(match.app), match.app.routes.index(match.route), dict(match.captures)


@settings(max_examples=400)
@given(TABLES, PATHS)
def test_no_request_is_routed_one_way_and_forwarded_another(tables: list[tuple[str, list[str]]], path: str) -> None:
    """Every naive reading of the forwarded bytes selects the route that was judged."""
    apps = [app(f"app{number}", *paths, path=prefix) for number, (prefix, paths) in enumerate(tables)]
    try:
        request = info(path + "?q")
        match = RouteTable(apps).match(request)
    except Refusal:
        return
    for reading in naive_readings(request.raw_path):
        assert naive_match(tables, reading) == selected(apps, match)
    sent = upstream_request(request, match, ANONYMOUS, own_cookies=OwnCookies(b"x"), strip_authorization=False)
    assert sent.target == path + "?q"


@settings(max_examples=200)
@given(TABLES, st.lists(st.sampled_from(["a", "b", "admin"]), max_size=4), st.booleans())
def test_a_plain_path_is_routed_as_the_reference_says(
    tables: list[tuple[str, list[str]]], parts: list[str], end: bool
) -> None:
    """Where nothing is ambiguous, match and refusal agree with the reference."""
    path = "/" + "/".join(parts) + ("/" if end and parts else "")
    apps = [app(f"app{number}", *paths, path=prefix) for number, (prefix, paths) in enumerate(tables)]
    expected = naive_match(tables, path)
    try:
        match = RouteTable(apps).match(info(path))
    except NotFound:
        assert expected is None
        return
    assert selected(apps, match) == expected


def test_paths_that_were_matched_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for ever new paths fills no memory, and what was matched before is matched again."""
    monkeypatch.setattr("authproxy.routing._KNOWN", 10)
    table = RouteTable([app("app", "/a/", "/")])
    first = table.match(info("/a/x"))
    for number in range(25):
        assert table.match(info(f"/b/{number}")).route.path == "/"
        assert len(table._known) <= 10
    assert table.match(info("/a/x")) == first


def test_a_match_is_kept_by_host_method_and_path() -> None:
    """What was found for one method is not found for another."""
    routes = (Route("r0", "/a", STAFF, methods=frozenset({"POST"})), Route("r1", "/", STAFF))
    table = RouteTable([app("app", routes=routes)])
    for _ in range(2):
        assert [table.match(info("/a", method=one)).route.where for one in ("GET", "POST")] == ["r1", "r0"]
