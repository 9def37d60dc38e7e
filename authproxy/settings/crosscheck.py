"""Checks between sections: listeners, store, session and cookie, policies; and what is named but never used.

Everything here sees parsed values and says what is wrong with them together.  Nothing is read or connected to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from authproxy.model import Network
from authproxy.settings import (
    crosscheck_apps,
    crosscheck_fallthrough,
    crosscheck_literals,
    crosscheck_machines,
    crosscheck_providers,
    crosscheck_store,
    grammar,
)
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import AppShape, ListenConnections, Redis, RuleShape
from authproxy.settings.scope import Scope

_EVERYBODY: Final = 0  # prefix length of a network that holds every address
_PROXY_PREFIXES: Final[Mapping[int, int]] = {4: 24, 6: 64}  # by IP version: wider networks hold clients
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NAMED: Final = ("issuers", "tokens", "policies", "apps", "workspaces")


def check(scope: Scope) -> None:
    """Report everything that does not fit together."""
    for part in (_names, _listen, _public_url, _redis, _session, _cookie, _policies):
        part(scope)
    crosscheck_providers.check(scope)
    crosscheck_apps.check(scope)
    crosscheck_fallthrough.check(scope)
    crosscheck_literals.check(scope)
    crosscheck_machines.check(scope)
    if scope.whole and not scope.dangling:
        _unused(scope)


def _names(scope: Scope) -> None:
    sections = [*((section,) for section in _NAMED), ("kubernetes", "clusters"), ("enrollment", "tokens")]
    for section in sections:
        for name in scope.names(*section):
            if not _NAME.fullmatch(name):
                scope.error((*section, name), "must be a name of 1 to 64 letters, digits and . _ - @")


def _listen(scope: Scope) -> None:
    listen = scope.settings.listen
    places = {"address": listen.address, "decisions": listen.decisions, "admin": listen.admin}
    for name, address in places.items():
        if address is not None:
            scope.error(("listen", name), grammar.address(address))
    _one_each(scope, {name: address for name, address in places.items() if address})
    _trust(scope)
    _connections(scope, listen.connections)
    if listen.workers > 1 and scope.settings.store.redis is None and not scope.broken("store"):
        scope.error(("listen", "workers"), "more than one process needs store.redis, so that all share the sessions")
    if listen.tls and listen.tls.client_auth == "required" and listen.tls.client_ca is None:
        scope.error(("listen", "tls", "client_auth"), "required needs client_ca, or nobody could connect")


def _connections(scope: Scope, shape: ListenConnections) -> None:
    if "per_client" in shape.model_fields_set and shape.per_client > shape.total:
        scope.warn(("listen", "connections", "per_client"), "never counts: it is above listen.connections.total")


def _one_each(scope: Scope, places: Mapping[str, str]) -> None:
    for name, other in (("decisions", "address"), ("admin", "address"), ("admin", "decisions")):
        if name in places and other in places and grammar.same_listener(places[name], places[other]):
            scope.error(("listen", name), f"is the same as listen.{other}; give each listener its own port")


def _trust(scope: Scope) -> None:
    listen = scope.settings.listen
    path: KeyPath = ("listen", "trusted_proxies")
    if not isinstance(listen.trusted_proxies, list):
        path = (*path, "networks")
    for index, network in enumerate(listen.trusted_networks):
        if network.prefixlen == _EVERYBODY:
            scope.warn((*path, index), "lets everybody speak for any client; name your proxies only")
        else:
            _wide_trust(scope, (*path, index), network)
    if listen.decisions and not listen.trusted_networks and not scope.broken("listen", "trusted_proxies"):
        scope.warn(("listen", "decisions"), "nobody will be believed; name the ingress in listen.trusted_proxies")


def _wide_trust(scope: Scope, path: KeyPath, network: Network) -> None:
    """Warn about a network that holds more than proxies where a rule goes by the client's address."""
    narrowest = _PROXY_PREFIXES[network.version]
    if network.prefixlen >= narrowest:
        return
    rules = [
        f"policies.{name}.any[{index}]"
        for name, policy in scope.settings.policies.items()
        for index, rule in enumerate(policy.any or [])
        if rule.networks
    ]
    if rules:
        scope.warn(
            path,
            f"is wider than /{narrowest}: a client in it chooses its own address and passes {rules[0]}.networks;"
            " name the addresses of your proxies only",
        )


def _public_url(scope: Scope) -> None:
    url = scope.settings.public_url
    fault = grammar.origin(url)
    scope.error(("public_url",), fault)
    if not fault and url.startswith("http:"):
        scope.warn(("public_url",), "over http cookies go without Secure and __Host-; use https outside development")


def _redis(scope: Scope) -> None:
    redis = scope.settings.store.redis
    if redis is None:
        return
    if isinstance(redis.url, str):
        crosscheck_store.check_url(scope, redis, redis.url)
    for kind, nodes in _nodes(redis).items():
        for index, node in enumerate(nodes):
            scope.error(("store", "redis", kind, "nodes", index), grammar.node(node))


def _nodes(redis: Redis) -> dict[str, list[str]]:
    kinds = {"sentinel": redis.sentinel, "cluster": redis.cluster}
    return {kind: shape.nodes for kind, shape in kinds.items() if shape is not None}


def _session(scope: Scope) -> None:
    session, redis = scope.settings.session, scope.settings.store.redis
    if session.idle > session.absolute and not scope.broken("session", "absolute"):
        scope.error(("session", "idle"), "must not be longer than session.absolute")
    if session.keys or scope.broken("session", "keys") or not scope.has("providers"):
        return
    if redis is not None:
        scope.error(("session", "keys"), "is missing; replicas must share keys: make one with `authproxy key`")
    else:
        scope.warn(("session", "keys"), "is left out: sessions end at restart; make a key with `authproxy key`")


def _cookie(scope: Scope) -> None:
    cookie, public = scope.settings.session.cookie, scope.settings.public_url
    if scope.broken("public_url"):
        public = "https://"
    if cookie.same_site == "none" and not public.startswith("https:"):
        scope.error(
            ("session", "cookie", "same_site"), "none needs an https public_url; browsers refuse it without Secure"
        )
    if cookie.domain is None:
        return
    fault = grammar.domain(cookie.domain)
    scope.error(("session", "cookie", "domain"), fault or _outside(scope, cookie.domain, grammar.host_of(public)))


def _outside(scope: Scope, domain: str, public: str) -> str:
    """Which host the cookie would never reach."""
    if public and not _within(public, domain):
        return f"does not hold the host of public_url, {public}"
    for name, app in scope.settings.apps.items():
        host = app.host if app.host not in (None, "*") else None
        if host and scope.takes_sessions(app) and not _within(host, domain):
            return f"does not hold {host}, the host of apps.{name}; its users could not sign in"
    return ""


def _within(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


def _policies(scope: Scope) -> None:
    for name, policy in scope.settings.policies.items():
        path: KeyPath = ("policies", name)
        if policy.anonymous and policy.any is not None:
            scope.error(path, "has both anonymous and any; anonymous lets everybody in, so keep one of them")
        elif not policy.anonymous and policy.any is None:
            scope.error(path, "allows nobody; add any: with rules, or anonymous: true")
        elif policy.any == []:
            scope.error((*path, "any"), "allows nobody; add a rule")
        for index, rule in enumerate(policy.any or []):
            _rule(scope, (*path, "any", index), rule)


def _rule(scope: Scope, path: KeyPath, rule: RuleShape) -> None:
    written = {key: value for key in type(rule).model_fields if (value := getattr(rule, key)) is not None}
    if not written:
        scope.error(path, "allows nobody; write what must hold, e.g. groups: [staff]; or authenticated: true")
    for key, value in written.items():
        if value == []:
            scope.error((*path, key), "must not be empty; nobody could match")
    for index, pattern in enumerate(rule.emails or []):
        scope.error((*path, "emails", index), grammar.email(pattern))
    for index, text in enumerate(rule.paths or []):
        scope.error((*path, "paths", index), grammar.path(text))
    if rule.methods:
        scope.error((*path, "methods"), grammar.methods(rule.methods))


def _unused(scope: Scope) -> None:
    settings = scope.settings
    kubernetes = settings.kubernetes
    clusters = kubernetes.clusters.values() if kubernetes else ()
    policies = {route.policy for app in settings.apps.values() for route in app.routes}
    policies |= {cluster.policy for cluster in clusters}
    providers = {name for app in settings.apps.values() if _signs_in(scope, app) for name in scope.providers_of(app)}
    providers |= {name for workspace in settings.workspaces.values() for name in workspace.providers}
    providers |= {kubernetes.provider} if kubernetes else set()
    for name in settings.policies.keys() - policies:
        scope.warn(("policies", name), "is never used; remove it, or name it in a route")
    for name in settings.providers.keys() - providers:
        scope.warn(("providers", name), "is never used; remove it, or name it in an app")


def _signs_in(scope: Scope, app: AppShape) -> bool:
    return app.provider is not None or scope.takes_sessions(app)
