"""Explanations: what is said beside the outcome.  The outcomes themselves are in ``tests/tables/decisions.yaml``."""

from __future__ import annotations

from pathlib import Path

import pytest

from authproxy.assumed import assumed
from authproxy.errors import SettingsError
from authproxy.explain import Explanation, Step, explain
from authproxy.model import ANONYMOUS
from authproxy.settings.load import Loaded, load
from authproxy.settings.unserved import UNSERVED

SETTINGS = """\
public_url: https://auth.example.com
listen: {trusted_proxies: [192.0.2.0/24]}
session: {cookie: {domain: example.com}}
providers:
  dex: {issuer: https://dex.example.com, client_id: a, claims: {user: sub, groups: roles}}
  other: {issuer: https://other.example.com, client_id: a}
issuers:
  ci: {issuer: https://ci.example.com, audiences: [api], claims: {clusters: cluster}}
  lab: {issuer: https://lab.example.com, audiences: [lab]}
tokens:
  eu: {secrets: [{file: not-here}], scopes: [read], clusters: [eu-1]}
policies:
  public: {anonymous: true}
  staff: {any: [{groups: [ops]}, {groups: [staff]}]}
  anyone: {any: [{authenticated: true}]}
apps:
  app:
    host: app.example.com
    provider: dex
    bearer: {audiences: [lab]}
    upstream: {url: http://app:8080, authorization: MODE}
    routes:
      - {path: /open, policy: public}
      - {path: "/clusters/{cluster}/", methods: [GET], accept: [token], policy: anyone}
      - {path: /clusters/, methods: [PUT], accept: [token], policy: anyone}
      - {path: /jwt, accept: [bearer], policy: anyone}
      - {path: /, accept: [session, token], policy: staff}
  below:
    host: below.example.com
    path: /inside/
    provider: [dex, other]
    upstream: {url: http://below:8080}
    routes: [{path: /inside/a, methods: [GET], policy: staff}]
"""
APP = "https://app.example.com"


def settings(folder: Path, mode: str = "none") -> Loaded:
    """The settings above, from a folder in which no secret is."""
    file = folder / "authproxy.yaml"
    file.write_text(SETTINGS.replace("MODE", mode), encoding="utf-8")
    return load(file, {}, to_serve=False)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """The settings above."""
    return settings(tmp_path)


def told(
    loaded: Loaded,
    asked: str,
    who: str = "",
    client: str = "127.0.0.1",
    headers: tuple[tuple[str, str], ...] = (),
    **claims: object,
) -> Explanation:
    """The explanation of ``METHOD URL``."""
    method, _, url = asked.partition(" ")
    identity = assumed(loaded.settings, who, claims) if who else None
    return explain(loaded, method, url, identity=identity, headers=headers, client=client)


def step(found: Explanation, name: str) -> Step:
    """The one step of that name."""
    (one,) = [one for one in found.steps if one.name == name]
    return one


def test_what_is_not_needed_to_explain_is_not_asked_for(loaded: Loaded, tmp_path: Path) -> None:
    """A secret that is missing ends ``serve``, and not ``explain``; what is not served is a warning there."""
    with pytest.raises(SettingsError, match="the secret cannot be used"):
        load(tmp_path / "authproxy.yaml", {})
    file = tmp_path / "authproxy.yaml"
    file.write_text(SETTINGS.replace("MODE", "none") + "reload: true\n", encoding="utf-8")
    warned = [warning.path for warning in load(file, {}, to_serve=False).warnings]
    assert ("reload" in warned) == (("reload",) in UNSERVED)


def test_the_steps_are_the_life_of_a_request(loaded: Loaded) -> None:
    """In order, each with its line; the policy names the rule that held."""
    found = told(loaded, f"GET {APP}/x", "session:dex/ann", roles=["staff"])
    assert [(one.name, one.setting, one.line) for one in found.steps] == [
        ("request", "", 0),
        ("route", "apps.app.routes[4]", 27),
        ("who", "apps.app.routes[4].accept", 27),
        ("policy", "policies.staff.any[1]", 14),
        ("upstream", "apps.app.upstream.authorization", 21),
    ]
    assert "session ann, groups staff" in step(found, "who").reason


def test_the_wall_is_a_step_of_its_own(loaded: Loaded) -> None:
    """With the line that binds the credential, whether it lets through or not."""
    inside, outside = (
        told(loaded, f"GET {APP}/clusters/eu-1/", "token:eu"),
        told(loaded, f"GET {APP}/clusters/us-1/", "token:eu"),
    )
    assert (step(inside, "wall").setting, step(inside, "wall").line) == ("tokens.eu.clusters", 11)
    assert (inside.allowed, outside.allowed, step(outside, "wall").verdict) == (True, False, "refused")
    assert [one.name for one in outside.steps] == ["request", "route", "who", "wall"]
    assert "wall" not in [one.name for one in told(loaded, f"GET {APP}/open", "token:eu").steps]


def test_an_enrollment_token_is_bound_by_its_patterns(tmp_path: Path) -> None:
    """The wall's step names the token's own entry, and the cluster that the path and a pattern agree on."""
    text = SETTINGS.replace("MODE", "none").replace("[token], policy: anyone}", "[enrollment], policy: anyone}", 1)
    section = 'enrollment: {tokens: {fleet: {secrets: [{file: not-here}], clusters: ["eu-*"]}}}\n'
    (tmp_path / "authproxy.yaml").write_text(text.replace("/{cluster}/", "/{cluster}/x") + section, encoding="utf-8")
    loaded = load(tmp_path / "authproxy.yaml", {}, to_serve=False)
    inside = told(loaded, f"GET {APP}/clusters/eu-7/x", "enrollment:fleet")
    assert (inside.allowed, step(inside, "wall").reason) == (True, "the credential is bound to eu-7")
    outside = told(loaded, f"GET {APP}/clusters/us-7/x", "enrollment:fleet")
    assert (outside.allowed, step(outside, "wall").setting) == (False, "enrollment.tokens.fleet.clusters")
    assert "enrollment fleet, clusters eu-*" in step(outside, "who").reason


def test_routes_that_are_passed_over_are_named(loaded: Loaded) -> None:
    """A route that has the path but not the method is what people overlook."""
    assert step(told(loaded, f"PUT {APP}/clusters/eu-1/"), "route").reason.endswith("(passed over for PUT: routes[1])")
    assert "passed over" not in step(told(loaded, f"GET {APP}/clusters/eu-1/"), "route").reason


def test_where_nothing_matches_the_nearest_entry_is_named(loaded: Loaded) -> None:
    """No app, no route of an app, and a route for other methods."""
    places = {
        "GET https://nowhere.example.com/": ("apps", "no app is at nowhere.example.com/"),
        "GET https://below.example.com/": ("apps", "no app is at below.example.com/"),
        "GET https://below.example.com/inside/b": ("apps.below.routes", "no route of below has this path"),
        "POST https://below.example.com/inside/a": ("apps.below.routes", "the path is served for GET, HEAD alone"),
        f"GET {APP}/clu%73ters/eu-1/": ("apps", "The path can be understood in more than one way."),
    }
    for asked, expected in places.items():
        route = step(told(loaded, asked), "route")
        assert (route.setting, route.reason) == expected


def test_our_own_pages_are_answered_by_us(loaded: Loaded) -> None:
    """On every host, below ``prefix``; nothing else of the settings is asked."""
    found = told(loaded, "GET https://nowhere.example.com/oauth2/sign_in")
    assert (found.allowed, found.steps[-1].name, found.steps[-1].setting) == (True, "page", "prefix")


def test_a_browser_is_told_where_to_sign_in(loaded: Loaded) -> None:
    """The redirect for a navigation, 401 with the address for others; a route without sessions has no such page."""
    page = "302 to https://auth.example.com/oauth2/sign_in?rd=https%3A%2F%2Fapp.example.com%2Fx"
    browser = told(loaded, f"GET {APP}/x", headers=(("Accept", "text/html"),))
    script = told(loaded, f"GET {APP}/x")
    assert step(browser, "answer").reason == page
    assert step(script, "answer").reason == f"401 to a script; a browser that navigates: {page}"
    assert (browser.status, browser.code) == (script.status, script.code) == (401, "not_signed_in")
    assert "answer" not in [one.name for one in told(loaded, f"GET {APP}/jwt").steps]


def test_a_trusted_proxy_speaks_for_its_client(loaded: Loaded) -> None:
    """The line that believes it is named."""
    forwarded = (("X-Forwarded-For", "203.0.113.1"),)
    through = step(told(loaded, f"GET {APP}/open", client="192.0.2.1", headers=forwarded), "request")
    assert through.reason.endswith("from 203.0.113.1 through 192.0.2.1")
    assert (through.setting, through.line) == ("listen.trusted_proxies", 2)
    straight = step(told(loaded, f"GET {APP}/open", client="198.51.100.1", headers=forwarded), "request")
    assert straight.reason.endswith("from 198.51.100.1")


def test_hops_count_in_an_explanation_too(tmp_path: Path) -> None:
    """The client is found as the proxy finds it."""
    text = SETTINGS.replace("MODE", "none").replace("[192.0.2.0/24]", "{networks: [192.0.2.0/24], hops: 1}")
    (tmp_path / "authproxy.yaml").write_text(text, encoding="utf-8")
    loaded = load(tmp_path / "authproxy.yaml", {}, to_serve=False)
    forwarded = (("X-Forwarded-For", "203.0.113.1, 192.0.2.9"),)
    through = step(told(loaded, f"GET {APP}/open", client="192.0.2.1", headers=forwarded), "request")
    assert through.reason.endswith("from 192.0.2.9 through 192.0.2.1")


def test_a_jwt_must_be_for_the_app(loaded: Loaded) -> None:
    """Its issuer and one of its audiences must be such that the app takes them; claims without one name a right one."""
    assert told(loaded, f"GET {APP}/jwt", "bearer:lab/x").allowed
    assert told(loaded, f"GET {APP}/jwt", "bearer:lab/x", aud=["a", "lab"]).allowed
    for who, audience in (("bearer:lab/x", "api"), ("bearer:ci/x", "api"), ("bearer:ci/x", "lab")):
        found = told(loaded, f"GET {APP}/jwt", who, aud=audience)
        assert (found.status, found.code) == (401, "invalid_token")


@pytest.mark.parametrize(
    ("mode", "place", "who", "said"),
    [
        ("none", "/x", "session:dex/ann", "the client's own, if it sends one"),
        ("none", "/clusters/eu-1/", "token:eu", "none, the client's own is taken out"),
        ("none", "/open", "", "the client's own, if it sends one"),
        ("pass", "/clusters/eu-1/", "token:eu", "the client's own, if it sends one"),
        ("id_token", "/x", "session:dex/ann", "the ID token of the session"),
        ("access_token", "/x", "session:dex/ann", "the access token of the session"),
        ("id_token", "/clusters/eu-1/", "token:eu", "none, since token has no ID token"),
        ("{bearer: {file: not-here}}", "/x", "session:dex/ann", "the secret of the settings"),
    ],
)
def test_what_the_upstream_would_be_sent(tmp_path: Path, mode: str, place: str, who: str, said: str) -> None:
    """By the mode of the app and the kind of the credential; no secret is read for it."""
    loaded, claims = settings(tmp_path, mode), {"roles": ["staff"]} if who.startswith("session") else {}
    identity = assumed(loaded.settings, who, claims) if who else None
    found = explain(loaded, "GET", f"{APP}{place}", identity=identity, headers=())
    assert step(found, "upstream").reason == f"http://app:8080; Authorization: {said}"


def test_anonymous_is_nobody(loaded: Loaded) -> None:
    """The identity of a public route is as good as none."""
    found = explain(loaded, "GET", f"{APP}/x", identity=ANONYMOUS, headers=())
    assert (found.status, found.code) == (401, "not_signed_in")


@pytest.mark.parametrize(
    ("who", "claims", "said"),
    [
        ("session:ann", {}, "say whose: session:dex/ann or session:other/ann"),
        ("enrolled:a", {}, "no section enrollment"),
        ("enrollment:a", {}, "enrollment.tokens has no entry a; it has none"),
        ("certificate:a", {}, "no section certificates"),
        ("basic:a", {}, "no section basic"),
        ("token:us", {}, "tokens has no entry us; it has eu"),
        ("token:eu", {"scope": "write"}, "token takes none"),
        ("token:", {}, "is not KIND:NAME"),
        ("anonymous:x", {}, "is not KIND:NAME"),
    ],
)
def test_who_cannot_be_is_said(loaded: Loaded, who: str, claims: dict[str, str], said: str) -> None:
    """A sentence for the operator."""
    with pytest.raises(ValueError, match=said):
        assumed(loaded.settings, who, claims)


def test_a_name_alone_says_something(loaded: Loaded) -> None:
    """A subject; an address that counts as verified; claims outdo both, and a bare entry is somebody there."""
    ann = assumed(loaded.settings, "session:other/ann@example.com", {})
    assert (ann.subject, ann.email, ann.email_verified, ann.issuer) == (
        "ann@example.com", "ann@example.com", True, "https://other.example.com",
    )  # fmt: skip
    assert not assumed(loaded.settings, "session:other/ann@example.com", {"email_verified": False}).email_verified
    assert assumed(loaded.settings, "session:dex", {"sub": "s", "roles": ["a"]}).groups == ("a",)
    assert assumed(loaded.settings, "bearer:ci", {"cluster": "eu-1"}).clusters == frozenset({"eu-1"})
    assert assumed(loaded.settings, "bearer:ci", {}).clusters is None
