"""May they: the cluster wall, then the rules; always with a reason, and agreeing with a naive reference."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy import authz
from authproxy.authz import compile_policies, decide
from authproxy.model import ANONYMOUS, ASPECTS, Decision, Identity, Match, Policy, RequestInfo, Rule
from authproxy.settings.schema import Settings
from tests.unit.values import PUBLIC, STAFF, info, match, person

HERE = "policies.staff.any[0]"


def judged(rule: dict[str, Any], target: str = "/", *, captures: dict[str, str] | None = None, **who: Any) -> Decision:
    """The decision of a policy with one rule."""
    asked = {key: who.pop(key) for key in ("method", "peer") if key in who}
    policy = Policy("staff", rules=(Rule(HERE, **rule),))
    return decide(info(target, **asked), match(policy, captures), person(**who))


# -- the frame


def test_a_public_route_asks_for_nothing() -> None:
    """Neither of nobody, nor of somebody, nor of a credential behind the wall."""
    for who in (ANONYMOUS, person(), person(clusters=frozenset())):
        assert decide(info(), match(PUBLIC), who) == Decision(True, "policy public asks for no credential")


def test_nobody_is_refused_everywhere_else() -> None:
    """Even where a rule would hold without a name: a rule is about somebody who proved it."""
    anyone = Policy("staff", rules=(Rule(HERE, networks=(ip_network("0.0.0.0/0"),)),))
    for policy in (STAFF, anyone):
        assert decide(info(), match(policy), ANONYMOUS) == Decision(False, "policy staff asks for a credential")


def test_no_rule_allows_nobody() -> None:
    """Nor does a rule without keys."""
    for rules in ((), (Rule(HERE),)):
        found = decide(info(), match(Policy("staff", rules=rules)), person())
        assert found == Decision(False, "policy staff has no rule that could hold")


def test_any_rule_suffices() -> None:
    """The reason names the one that held."""
    rules = (
        Rule("policies.p.any[0]", groups=frozenset({"ops"})),
        Rule("policies.p.any[1]", groups=frozenset({"staff"})),
    )
    found = decide(info(), match(Policy("p", rules=rules)), person())
    assert found == Decision(True, "rule policies.p.any[1]: group staff")


def test_inside_a_rule_every_key_must_hold() -> None:
    """And every one that did is in the reason."""
    rule = {"groups": frozenset({"staff"}), "networks": (ip_network("192.0.2.0/24"),), "methods": frozenset({"GET"})}
    assert judged(rule) == Decision(True, f"rule {HERE}: group staff, network 192.0.2.0/24, method GET")
    assert not judged(rule, method="PUT").allowed
    assert not judged(rule, groups=()).allowed
    assert not judged(rule, peer="198.51.100.1").allowed


def test_a_refusal_says_what_would_help() -> None:
    """All rules, in the words of the settings."""
    rules = (Rule("a", groups=frozenset({"staff"})), Rule("b", emails=("*@example.com",)), Rule("c"))
    found = decide(info(), match(Policy("staff", rules=rules)), person(groups=(), email=""))
    assert found.reason == "no rule of policy staff holds: needs group staff or e-mail *@example.com"
    many = (Rule("a", groups=frozenset({"b", "a"}), authenticated=True, cluster_own=True),)
    found = decide(info(), match(Policy("staff", rules=many)), person())
    needs = "one of the groups a, b and a credential issued for this very cluster and to be signed in"
    assert found.reason == f"no rule of policy staff holds: needs {needs}"


def test_a_reason_is_bounded() -> None:
    """However many groups there are, and however long their names."""
    rules = (Rule("a", groups=frozenset(f"group-{number:03}" for number in range(100))),)
    found = decide(info(), match(Policy("staff", rules=rules)), person())
    assert found.reason.endswith("group-003, group-004, …")
    long = tuple(Rule("a", users=frozenset({f"{number}" + "x" * 500})) for number in range(50))
    assert len(decide(info(), match(Policy("staff", rules=long)), person()).reason) <= 501
    assert len(judged({"groups": frozenset({"g" * 9000})}, groups=("g" * 9000,)).reason) < 150


# -- the cluster wall


def test_a_credential_of_a_cluster_opens_that_cluster_alone() -> None:
    """Before any rule is read, byte for byte."""
    rule = {"authenticated": True}
    eu = frozenset({"prod-eu"})
    assert judged(rule, captures={"cluster": "prod-eu"}, clusters=eu).allowed
    for other in ("prod-us", "PROD-EU", "prod-eu ", "prod-eu.", ""):
        assert not judged(rule, captures={"cluster": other}, clusters=eu).allowed
    assert judged(rule, captures={"cluster": "prod-us"}, clusters=eu).reason == "cluster wall: prod-us not in {prod-eu}"


def test_a_route_without_a_cluster_is_outside_the_wall() -> None:
    """Whatever the rules say; and another capture is no cluster."""
    wall = "cluster wall: the path names no cluster, and the credential is bound to {a, b}"
    for captures in ({}, {"name": "a"}):
        assert judged({"authenticated": True}, captures=captures, clusters=frozenset("ba")) == Decision(False, wall)


def test_a_credential_bound_to_no_cluster_at_all_opens_nothing() -> None:
    """An empty set is not None."""
    found = judged({"authenticated": True}, captures={"cluster": "a"}, clusters=frozenset())
    assert found == Decision(False, "cluster wall: a not in {}")
    assert judged({"authenticated": True}, captures={"cluster": "a"}, clusters=None).allowed


# -- the keys


@pytest.mark.parametrize(
    ("key", "wanted", "holds", "fails"),
    [
        ("groups", {"staff", "ops"}, {"groups": ("x", "ops")}, {"groups": ("Staff", "staff2")}),
        ("users", {"alice@example.com"}, {"user": "alice@example.com"}, {"user": "Alice@example.com"}),
        ("scopes", {"read"}, {"scopes": frozenset({"read", "x"})}, {"scopes": frozenset({"reader"})}),
        ("kinds", {"bearer"}, {"kind": "bearer"}, {"kind": "session"}),
    ],
)
def test_a_list_holds_when_one_of_it_is_there(key: str, wanted: set[str], holds: Any, fails: Any) -> None:
    """Exactly as it is spelled."""
    assert judged({key: frozenset(wanted)}, **holds).allowed
    assert not judged({key: frozenset(wanted)}, **fails).allowed


@pytest.mark.parametrize(
    ("entry", "email", "allowed"),
    [
        ("*@example.com", "bob@example.com", True),
        ("*@Example.COM", "bob@eXample.com", True),
        ("*@example.com", "bob@evilexample.com", False),
        ("*@example.com", "bob@example.com.evil", False),
        ("*@example.com", "bob@sub.example.com", False),
        ("*@example.com", "bob@evil.com@example.com", False),
        ("*@example.com", "bob@example.com@evil.com", False),
        ("*@example.com", "@example.com", False),
        ("*@example.com", "example.com", False),
        ("*@example.com", "bob@", False),
        ("*@", "bob@", False),
        ("*@", "bob@example.com", False),
        ("*@kexample.com", "bob@\N{KELVIN SIGN}example.com", False),
        ("bob@example.com", "bob@example.com", True),
        ("Bob@example.com", "bob@EXAMPLE.com", True),
        ("bob@example.com", "rob@example.com", False),
        ("bob@evil.com@example.com", "bob@evil.com@example.com", False),
        ("*@example.com", "\ud800@example.com", True),
    ],
)
def test_an_address_counts_when_it_is_verified_and_whole(entry: str, email: str, allowed: bool) -> None:
    """Exactly one @, whole domains, ASCII case ignored (B36, GHSA-c5c4-8r6x-56w3)."""
    assert judged({"emails": (entry,)}, email=email).allowed is allowed
    assert not judged({"emails": (entry,)}, email=email, email_verified=False).allowed


@pytest.mark.parametrize("verified", ["true", 1, None])
def test_only_true_is_true(verified: object) -> None:
    """A string in the claim proves nothing."""
    assert not judged({"emails": ("*@example.com",)}, email_verified=verified).allowed


def test_clusters_are_those_of_the_path() -> None:
    """A rule for clusters opens the routes that name one of them."""
    rule = {"clusters": frozenset({"a", "b"})}
    assert judged(rule, captures={"cluster": "a"}).reason == f"rule {HERE}: cluster a"
    assert not judged(rule, captures={"cluster": "c"}).allowed
    assert not judged(rule).allowed


def test_own_asks_for_a_credential_of_this_very_cluster() -> None:
    """One that is bound to none does not have it."""
    rule = {"cluster_own": True}
    assert judged(rule, captures={"cluster": "a"}, clusters=frozenset("a")).allowed
    assert not judged(rule, captures={"cluster": "a"}).allowed
    assert not judged(rule, captures={"cluster": "a"}, clusters=frozenset("b")).allowed


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("10.2.0.1", False),
        ("2001:db9::7", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_a_network_is_about_the_client(client: str, allowed: bool) -> None:
    """IPv4 inside IPv6 is IPv4; what is no address is in no network."""
    networks = (ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))
    assert judged({"networks": networks}, peer=client).allowed is allowed


def test_head_counts_as_get() -> None:
    """And not the other way round (I4)."""
    assert judged({"methods": frozenset({"GET"})}, method="HEAD").allowed
    assert not judged({"methods": frozenset({"HEAD"})}, method="GET").allowed
    assert judged({"methods": frozenset({"HEAD"})}, method="HEAD").allowed


def test_a_path_has_to_hold_for_every_reading() -> None:
    """A rule never opens a path that could be understood as another."""
    rule = {"paths": ("/public/", "/c/{cluster}/")}
    assert judged(rule, "/public/a").reason == f"rule {HERE}: path /public/"
    assert judged(rule, "/public//a%20b").allowed
    assert judged(rule, "/c/eu/x").allowed
    assert not judged(rule, "/other").allowed
    assert not judged(rule, "/p%75blic/a").allowed
    assert not judged(rule, "//public/a").allowed


def test_signed_in_is_anybody_with_a_name() -> None:
    """``authenticated: true``."""
    assert judged({"authenticated": True}).reason == f"rule {HERE}: signed in"


LOOKING: dict[str, dict[str, Any]] = {
    "networks": {"networks": ["10.0.0.0/8"]}, "methods": {"methods": ["GET"]}, "paths": {"paths": ["/a/"]},
    "clusters": {"clusters": ["east"]}, "own": {"cluster": "own"}, "who": {"groups": ["staff"]},
    "all": {"networks": ["10.0.0.0/8"], "methods": ["GET"], "paths": ["/a/"], "clusters": ["east"]},
}  # fmt: skip


@pytest.mark.parametrize("rule", LOOKING)
def test_what_was_decided_before_decides_nothing_else(rule: str) -> None:
    """Whoever has asked for anything else before is answered as somebody who never asked, and the same again."""
    policy = compiled(p={"any": [LOOKING[rule] | {"authenticated": True}]})["p"]
    asked = [
        (info(target, method=method, peer=peer), match(policy, {"cluster": cluster}))
        for target in ("/a/x", "/b") for method in ("GET", "POST") for peer in ("10.1.1.1", "192.0.2.1")
        for cluster in ("east", "west")
    ]  # fmt: skip
    who = {"clusters": frozenset({"east"})} if rule == "own" else {}
    one, seen = person(**who), set()
    for what in [*asked, *asked[::-1], *(each for each in asked for _ in range(2))]:
        found = decide(*what, one)
        assert found == decide(*what, person(**who))
        seen.add(found.allowed)
    assert seen == ({True} if rule == "who" else {True, False})


# -- compiling the settings


def compiled(**policies: Any) -> dict[str, Policy]:
    """The policies of a settings file."""
    return compile_policies(Settings.model_validate({"public_url": "https://a.example.com", "policies": policies}))


def test_policies_are_compiled_with_their_places() -> None:
    """Every key of the file arrives in the rule."""
    rule = {
        "authenticated": True,
        "groups": ["g"],
        "emails": ["*@example.com"],
        "users": ["u"],
        "scopes": ["s"],
        "clusters": ["c"],
        "kinds": ["bearer"],
        "networks": ["10.0.0.0/8"],
        "methods": ["get"],
        "paths": ["/a/"],
        "cluster": "own",
    }
    found = compiled(public={"anonymous": True}, full={"any": [rule, {"groups": ["h"]}]}, none={"any": []})
    assert found["public"] == Policy("public", anonymous=True, reads=frozenset())
    assert found["none"] == Policy("none", reads=frozenset())
    assert found["full"].reads == ASPECTS
    assert found["full"].rules == (
        Rule(
            where="policies.full.any[0]",
            authenticated=True,
            groups=frozenset({"g"}),
            emails=("*@example.com",),
            users=frozenset({"u"}),
            scopes=frozenset({"s"}),
            clusters=frozenset({"c"}),
            kinds=frozenset({"bearer"}),
            networks=(ip_network("10.0.0.0/8"),),
            methods=frozenset({"GET"}),
            paths=("/a/",),
            cluster_own=True,
        ),
        Rule(where="policies.full.any[1]", groups=frozenset({"h"})),
    )


def test_a_rule_with_an_empty_list_never_holds() -> None:
    """``groups: []`` is not the same as no groups; the places of the others stay."""
    found = compiled(p={"any": [{"authenticated": True, "groups": []}, {"users": ["u"]}]})["p"]
    assert [rule.where for rule in found.rules] == ["policies.p.any[1]"]


def test_a_path_that_cannot_be_meant_is_named() -> None:
    """With its place in the file."""
    with pytest.raises(ValueError, match=r"policies\.p\.any\[0\]\.paths: 'x' must begin with /"):
        compiled(p={"any": [{"paths": ["x"]}]})


# -- the reference


def reference(request: RequestInfo, found: Match, who: Identity) -> bool:  # noqa: C901 - plain words, no parts
    """The same question, asked once more in the plainest words."""
    policy, cluster = found.route.policy, dict(found.captures).get("cluster")
    if policy.anonymous:
        return True
    if who.kind == "anonymous" or (who.clusters is not None and cluster not in who.clusters):
        return False
    for rule in policy.rules:
        checks = []
        if rule.authenticated:
            checks.append(True)
        if rule.groups:
            checks.append(any(group in rule.groups for group in who.groups))
        if rule.emails:
            local, at, domain = who.email.lower().rpartition("@")
            whole = who.email_verified is True and who.email.count("@") == 1 and bool(local) and bool(domain)
            checks.append(
                whole and any(entry.lower() in (who.email.lower(), "*" + at + domain) for entry in rule.emails)
            )
        if rule.users:
            checks.append(who.user in rule.users)
        if rule.scopes:
            checks.append(any(scope in rule.scopes for scope in who.scopes))
        if rule.clusters:
            checks.append(cluster in rule.clusters)
        if rule.kinds:
            checks.append(who.kind in rule.kinds)
        if rule.networks:
            checks.append(any(ip_address(request.client) in network for network in rule.networks))
        if rule.methods:
            checks.append({"HEAD": "GET"}.get(request.method, request.method) in rule.methods)
        if rule.paths:
            checks.append(any(request.path.startswith(path) for path in rule.paths))
        if rule.cluster_own:
            checks.append(who.clusters is not None and cluster in who.clusters)
        if checks and all(checks):
            return True
    return False


def some(*values: str) -> st.SearchStrategy[frozenset[str]]:
    """A small set of few names, so that rules and callers meet."""
    return st.frozensets(st.sampled_from(values), max_size=2)


EMAILS = ["a@x.org", "b@x.org", "a@y.org", "a@x.org@y.org", "@x.org", "A@X.org", ""]
RULES = st.builds(
    Rule,
    where=st.just("r"),
    authenticated=st.booleans(),
    groups=some("g", "h"),
    emails=st.lists(st.sampled_from(["a@x.org", "*@x.org", "*@y.org"]), max_size=2).map(tuple),
    users=some("u", "v"),
    scopes=some("read", "write"),
    clusters=some("c", "d"),
    kinds=some("session", "bearer"),
    networks=st.sampled_from([(), (), (ip_network("10.0.0.0/8"),)]),
    methods=some("GET", "PUT"),
    paths=st.sampled_from([(), (), ("/a/",), ("/a/", "/b/")]),
    cluster_own=st.booleans(),
)
# Most keys of most rules are left out, or hardly any rule would ever hold.
SPARSE = st.builds(
    lambda rule, keys: Rule("r", **{key: getattr(rule, key) for key in keys}),
    RULES,
    st.sets(st.sampled_from([name for name in Rule.__slots__ if name != "where"]), max_size=3),
)
PEOPLE = st.builds(
    Identity,
    kind=st.sampled_from(["session", "bearer", "anonymous"]),
    user=st.sampled_from(["u", "w"]),
    email=st.sampled_from(EMAILS),
    email_verified=st.booleans(),
    groups=some("g", "i").map(tuple),
    scopes=some("read", "x"),
    clusters=st.one_of(st.none(), st.none(), some("c", "e")),
)
REQUESTS = st.builds(
    lambda path, method, peer: info(path, method=method, peer=peer),
    st.sampled_from(["/a/x", "/b/x", "/c/x"]),
    st.sampled_from(["GET", "HEAD", "PUT"]),
    st.sampled_from(["10.1.1.1", "192.0.2.1"]),
)
CAPTURES: st.SearchStrategy[dict[str, str]] = st.sampled_from([{}, {"cluster": "c"}, {"cluster": "d"}])


@settings(max_examples=1000)
@given(REQUESTS, st.lists(SPARSE, max_size=3).map(tuple), CAPTURES, PEOPLE, st.booleans())
def test_the_decision_is_that_of_the_reference(
    request: RequestInfo, rules: tuple[Rule, ...], captures: dict[str, str], who: Identity, anonymous: bool
) -> None:
    """For random rules and callers both say the same, with a reason (I7)."""
    found = match(Policy("p", anonymous=anonymous and len(rules) > 1, rules=rules), captures)
    decision = decide(request, found, who)
    assert decision.allowed is reference(request, found, who)
    assert decision.reason


@settings(max_examples=300)
@given(REQUESTS, st.lists(SPARSE, max_size=3).map(tuple), CAPTURES, PEOPLE)
def test_the_wall_stands_before_every_rule(
    request: RequestInfo, rules: tuple[Rule, ...], captures: dict[str, str], who: Identity
) -> None:
    """No set of rules lets a bound credential through to anything but its clusters."""
    found = match(Policy("p", rules=rules), captures)
    if decide(request, found, who).allowed and who.clusters is not None:
        assert found.cluster in who.clusters


def test_what_depends_on_the_caller_alone_is_judged_once() -> None:
    """An identity keeps what was decided about it, and another policy of the same name is judged anew."""
    who = person()
    policies = compiled(staff={"any": [{"groups": ["staff"]}]})
    first = decide(info("/a"), match(policies["staff"]), who)
    assert first.allowed
    assert decide(info("/b"), match(policies["staff"]), who) is first
    changed = compiled(staff={"any": [{"groups": ["others"]}]})
    assert not decide(info("/a"), match(changed["staff"]), who).allowed
    assert decide(info("/a"), match(policies["staff"]), who) == first


@pytest.mark.parametrize(
    "rule", [{"methods": ["GET"]}, {"paths": ["/a/"]}, {"networks": ["192.0.2.0/24"]}, {"clusters": ["a"]}]
)
def test_what_depends_on_the_request_is_judged_each_time(rule: dict[str, Any]) -> None:
    """Nothing of one request is believed for another."""
    policy = compiled(some={"any": [{"groups": ["staff"], **rule}]})["some"]
    who = person()
    fitting = decide(info("/a/x"), match(policy, {"cluster": "a"}), who)
    assert fitting.allowed
    other = info("/b/x", method="POST", peer="198.51.100.9")
    assert not decide(other, match(policy, {"cluster": "b"}), who).allowed
    assert decide(info("/a/x"), match(policy, {"cluster": "a"}), who) == fitting


def test_compiled_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that are read again and again pile nothing up."""
    monkeypatch.setattr("authproxy.authz._MOST_COMPILED", 5)
    kept = []
    for number in range(20):
        policy = Policy(f"p{number}", rules=(Rule(f"r{number}", groups=frozenset({"staff"})),))
        kept.append(policy)
        assert decide(info("/"), match(policy), person()).allowed
    assert len(authz._COMPILED) <= 5
