"""May they: the cluster wall first, then the route's policy.

A pure judgement over values that others proved.  The reason names the settings entry that decided, in words that are
safe to show.  Whatever no rule allows is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from authproxy.edge.hops import address
from authproxy.edge.path import pattern
from authproxy.model import Aspect, Decision, Identity, Match, Network, Policy, RequestInfo, Rule
from authproxy.settings.schema import PolicyShape, RuleShape, Settings

_LONGEST_REASON: Final = 500  # characters
_LONGEST_NAME: Final = 64
_MOST_NAMES: Final = 5


def compile_policies(settings: Settings) -> dict[str, Policy]:
    """The policies of ``settings`` by name.  Inside a rule every key must hold; of a list one value suffices.

    A rule with an empty list (``groups: []``) can never hold and is left out.  Raises ValueError for a path pattern
    that cannot be meant.
    """
    return {name: _policy(name, shape) for name, shape in settings.policies.items()}


def _policy(name: str, shape: PolicyShape) -> Policy:
    rules = enumerate(shape.any or ())
    compiled = tuple(_rule(f"policies.{name}.any[{number}]", rule) for number, rule in rules if _can_hold(rule))
    reads = frozenset(aspect for rule in compiled for aspect in _read(rule))
    return Policy(name=name, anonymous=shape.anonymous is True, rules=compiled, reads=reads)


def _read(rule: Rule) -> Iterator[Aspect]:
    if rule.networks:
        yield "client"
    if rule.methods:
        yield "method"
    if rule.paths:
        yield "path"
    if rule.clusters or rule.cluster_own:
        yield "cluster"


def _can_hold(shape: RuleShape) -> bool:
    return all(value != [] for _, value in shape)


def _rule(where: str, shape: RuleShape) -> Rule:
    for path in shape.paths or ():
        _check_pattern(where, path)
    return Rule(
        where=where,
        authenticated=shape.authenticated is True,
        groups=frozenset(shape.groups or ()),
        emails=tuple(shape.emails or ()),
        users=frozenset(shape.users or ()),
        scopes=frozenset(shape.scopes or ()),
        clusters=frozenset(shape.clusters or ()),
        kinds=frozenset(shape.kinds or ()),
        networks=tuple(shape.networks or ()),
        methods=frozenset(method.upper() for method in shape.methods or ()),
        paths=tuple(shape.paths or ()),
        cluster_own=shape.cluster == "own",
    )


def _check_pattern(where: str, path: str) -> None:
    try:
        pattern(path)
    except ValueError as error:
        raise ValueError(f"{where}.paths: {path!r} {error}") from None


_Checks = tuple[tuple[Callable[[Any, "_Asked"], str], Any], ...]
_COMPILED: Final[dict[int, tuple[Rule, _Checks]]] = {}
_MOST_COMPILED: Final = 4096


class _Asked(NamedTuple):
    info: RequestInfo
    match: Match
    identity: Identity


def decide(info: RequestInfo, match: Match, identity: Identity) -> Decision:
    """Whether ``identity`` may do ``info`` on ``match``.  Never raises."""
    policy = match.route.policy
    if policy.anonymous:
        return Decision(True, f"policy {policy.name} asks for no credential")
    if identity.kind == "anonymous":
        return Decision(False, f"policy {policy.name} asks for a credential")
    if identity.clusters is not None and match.cluster not in identity.clusters:
        return Decision(False, _bounded(_wall(match.cluster, identity.clusters)))
    facts = identity.facts
    if facts is None:
        facts = identity.facts = {}
    about = _about(policy.reads, info, match) if policy.reads else None
    known: tuple[Policy, object, Decision] | None = facts.get(id(policy))
    if known is None or known[0] is not policy or known[1] != about:  # the same question has the same answer
        known = facts[id(policy)] = policy, about, _by_rules(policy, _Asked(info, match, identity))
    return known[2]


def _about(reads: frozenset[Aspect], info: RequestInfo, match: Match) -> tuple[object, ...]:
    """All that the rules look at, beside who asks."""
    return (
        info.client if "client" in reads else None, info.method if "method" in reads else None,
        info.readings if "path" in reads else None, match.cluster if "cluster" in reads else None,
    )  # fmt: skip


def _wall(cluster: str | None, bound: frozenset[str]) -> str:
    names = f"{{{_listed(bound)}}}"
    if cluster is None:
        return f"cluster wall: the path names no cluster, and the credential is bound to {names}"
    return f"cluster wall: {_short(cluster)} not in {names}"


def _by_rules(policy: Policy, asked: _Asked) -> Decision:
    for rule in policy.rules:
        facts = _facts(rule, asked)
        if facts:
            return Decision(True, _bounded(f"rule {rule.where}: {', '.join(facts)}"))
    needs = " or ".join(filter(None, map(_needs, policy.rules)))
    if not needs:
        return Decision(False, f"policy {policy.name} has no rule that could hold")
    return Decision(False, _bounded(f"no rule of policy {policy.name} holds: needs {needs}"))


def _facts(rule: Rule, asked: _Asked) -> list[str]:
    """What makes ``rule`` hold, a fact for every key that is set; empty when one fails or none is set."""
    facts = []
    for find, wanted in _checks(rule):
        fact = find(wanted, asked)
        if not fact:
            return []
        facts.append(fact)
    return facts


def _checks(rule: Rule) -> _Checks:
    """The keys of ``rule`` that are set; rules are compiled once and asked often."""
    known = _COMPILED.get(id(rule))
    if known is None or known[0] is not rule:
        checks = tuple((key.find, wanted) for key in _KEYS if (wanted := getattr(rule, key.name)))
        if len(_COMPILED) >= _MOST_COMPILED:
            _COMPILED.clear()
        known = _COMPILED[id(rule)] = rule, checks
    return known[1]


def _needs(rule: Rule) -> str:
    return " and ".join(key.need(getattr(rule, key.name)) for key in _KEYS if getattr(rule, key.name))


def _group(wanted: frozenset[str], asked: _Asked) -> str:
    return _first("group", (group for group in asked.identity.groups if group in wanted))


def _scope(wanted: frozenset[str], asked: _Asked) -> str:
    return _first("scope", sorted(wanted & asked.identity.scopes))


def _user(wanted: frozenset[str], asked: _Asked) -> str:
    return _first("user", (asked.identity.user,) if asked.identity.user in wanted else ())


def _kind(wanted: frozenset[str], asked: _Asked) -> str:
    return _first("kind", (asked.identity.kind,) if asked.identity.kind in wanted else ())


def _email(wanted: tuple[str, ...], asked: _Asked) -> str:
    """Only an address that the issuer verified, with exactly one ``@`` (GHSA-c5c4-8r6x-56w3), and whole domains."""
    identity = asked.identity
    local, _, domain = (given := _folded(identity.email)).partition(b"@")
    if identity.email_verified is not True or not local or not domain or b"@" in domain:
        return ""
    return _first("e-mail", (entry for entry in wanted if _folded(entry) in (given, b"*@" + domain)))


@lru_cache(maxsize=4096)
def _folded(text: str) -> bytes:
    # ASCII alone: folding of other scripts makes different addresses equal (the Kelvin sign becomes a k).
    return text.encode("utf-8", "surrogatepass").lower()


def _cluster(wanted: frozenset[str], asked: _Asked) -> str:
    return _first("cluster", (asked.match.cluster,) if asked.match.cluster in wanted else ())


def _own_cluster(wanted: bool, asked: _Asked) -> str:
    cluster, bound = asked.match.cluster, asked.identity.clusters
    return _first("own cluster", (cluster,) if wanted and bound is not None and cluster in bound else ())


def _network(wanted: tuple[Network, ...], asked: _Asked) -> str:
    client = address(asked.info.client)
    return _first("network", (network for network in wanted if client is not None and client in network))


def _method(wanted: frozenset[str], asked: _Asked) -> str:
    method = asked.info.method
    served = method in wanted or (method == "HEAD" and "GET" in wanted)
    return _first("method", (method,) if served else ())


def _path(wanted: tuple[str, ...], asked: _Asked) -> str:
    """A pattern has to hold for every reading: a rule never opens a path that could be understood as another."""
    readings = asked.info.readings
    return _first("path", (path for path in wanted if all(pattern(path)(reading) is not None for reading in readings)))


def _signed_in(wanted: bool, asked: _Asked) -> str:
    return "signed in" if wanted and asked.identity.kind != "anonymous" else ""


class _Key(NamedTuple):
    """A key of a rule: how to find the fact that makes it hold, and how to say what it asks for."""

    name: str
    find: Callable[[Any, _Asked], str]
    one: str
    many: str = ""

    def need(self, wanted: Any) -> str:
        if not self.many:
            return self.one
        names = wanted if isinstance(wanted, tuple) else sorted(wanted)
        return f"{self.one if len(names) == 1 else self.many} {_listed(names)}"


_KEYS: Final = (
    _Key("groups", _group, "group", "one of the groups"),
    _Key("emails", _email, "e-mail", "one of the e-mail addresses"),
    _Key("users", _user, "user", "one of the users"),
    _Key("scopes", _scope, "scope", "one of the scopes"),
    _Key("clusters", _cluster, "cluster", "one of the clusters"),
    _Key("cluster_own", _own_cluster, "a credential issued for this very cluster"),
    _Key("kinds", _kind, "a credential of kind", "a credential of one of the kinds"),
    _Key("networks", _network, "network", "one of the networks"),
    _Key("methods", _method, "method", "one of the methods"),
    _Key("paths", _path, "path", "one of the paths"),
    _Key("authenticated", _signed_in, "to be signed in"),
)


def _first(noun: str, found: Iterable[object]) -> str:
    for value in found:
        return f"{noun} {_short(str(value))}"
    return ""


def _listed(names: Iterable[object]) -> str:
    ordered = [_short(str(name)) for name in (sorted(names, key=str) if isinstance(names, frozenset) else names)]
    return ", ".join([*ordered[:_MOST_NAMES], *(["…"] if len(ordered) > _MOST_NAMES else [])])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"


def _bounded(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + "…"
