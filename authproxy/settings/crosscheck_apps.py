"""Checks of apps and routes: names, hosts, paths, upstreams, and routes that can never match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authproxy.settings import grammar
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import AppShape, RouteShape, UpstreamShape
from authproxy.settings.scope import Scope, accepted

_SECTIONS: Final = {
    "bearer": "issuers",
    "token": "tokens",
    "enrolled": "enrollment",
    "certificate": "certificates",
    "basic": "basic",
}
"""The section without which nobody can hold a credential of that kind."""


def check(scope: Scope) -> None:
    """Report what is wrong with each app, and between apps."""
    for name, app in scope.settings.apps.items():
        path: KeyPath = ("apps", name)
        _app(scope, path, app)
        _upstream(scope, (*path, "upstream"), app.upstream)
        for index, route in enumerate(app.routes):
            _route(scope, (*path, "routes", index), app, route)
        if not scope.broken("apps", name, "routes"):
            _shadows(scope, path, app.routes)
    _same_place(scope)


def _app(scope: Scope, path: KeyPath, app: AppShape) -> None:
    if app.host is not None:
        scope.error((*path, "host"), grammar.host(app.host))
    if app.host is None and app.path == "/":
        scope.error(path, 'needs a host, or a path below /; for every host write host: "*"')
    fault = grammar.plain_path(app.path) or ("must not have captures" if "{" in app.path else "")
    scope.error((*path, "path"), fault or _reserved(scope, app.path))
    _references(scope, path, app)


def _reserved(scope: Scope, text: str) -> str:
    prefix = scope.settings.prefix
    if text == prefix or text.startswith(f"{prefix}/"):
        return f"lies under {prefix}, where authproxy answers itself; change it, or change prefix"
    return ""


def _references(scope: Scope, path: KeyPath, app: AppShape) -> None:
    if isinstance(app.provider, str):
        scope.name((*path, "provider"), app.provider, "providers")
    elif app.provider is not None:
        for index, name in enumerate(app.provider):
            scope.name((*path, "provider", index), name, "providers")
        if not app.provider:
            scope.error((*path, "provider"), "must not be empty; leave it out when nobody signs in")
    elif len(scope.names("providers")) > 1 and scope.takes_sessions(app):
        known = ", ".join(scope.names("providers"))
        scope.warn((*path, "provider"), f"is left out, so that sessions of every provider open the app: {known}")
    for index, name in enumerate(app.bearer.issuers or []):
        scope.name((*path, "bearer", "issuers", index), name, "issuers")
    _audiences(scope, (*path, "bearer"), app)


def _audiences(scope: Scope, path: KeyPath, app: AppShape) -> None:
    issuers = scope.settings.issuers
    taken = issuers if app.bearer.issuers is None else [name for name in app.bearer.issuers if name in issuers]
    known = {audience for name in taken for audience in issuers[name].audiences}
    for index, audience in enumerate(app.bearer.audiences or []):
        if scope.has("issuers") and not scope.broken("issuers") and audience not in known:
            scope.error((*path, "audiences", index), "is an audience of none of the issuers that the app takes")


def _outside(app: str, route: str) -> bool:
    """Whether no path of the app is one of the route; route paths are whole paths, not relative ones."""
    inside = app.rstrip("/") + "/"
    known = route.partition("{")[0]
    reaches = known.startswith(inside) or inside.startswith(known)
    return not (reaches if route.endswith("/") or known != route else route == app or route.startswith(inside))


def _upstream(scope: Scope, path: KeyPath, upstream: UpstreamShape) -> None:
    if upstream.url is not None:
        scope.error((*path, "url"), grammar.upstream(upstream.url))
    if upstream.urls == []:
        scope.error((*path, "urls"), "must have at least one entry")
    for index, url in enumerate(upstream.urls or []):
        scope.error((*path, "urls", index), grammar.upstream(url))
    if upstream.server_name is not None:
        scope.error((*path, "server_name"), grammar.server_name(upstream.server_name))
    if all(grammar.is_socket(url) for url in upstream.urls or [upstream.url or ""]):
        for name in ("ca", "tls", "server_name"):
            if getattr(upstream, name) is not None:
                scope.error((*path, name), "is for https; no TLS is spoken on a unix socket, so leave it out")


def _route(scope: Scope, path: KeyPath, app: AppShape, route: RouteShape) -> None:
    fault = grammar.path(route.path)
    scope.error((*path, "path"), fault or _reserved(scope, route.path))
    if not fault and app.path.startswith("/") and _outside(app.path, route.path):
        scope.warn((*path, "path"), f"can never match: it lies outside {app.path}, the path of the app")
    scope.name((*path, "policy"), route.policy, "policies")
    if route.methods is not None:
        scope.error((*path, "methods"), grammar.methods(route.methods))
    if scope.is_public(route):
        return
    if route.accept == []:
        scope.error((*path, "accept"), f"is empty, but policy {route.policy} needs to know who is asking; name a kind")
    _reachable(scope, path, route)
    if "enrollment" in accepted(route):
        _registration(scope, path, route)
    _own_cluster(scope, path, route)


def _reachable(scope: Scope, path: KeyPath, route: RouteShape) -> None:
    kinds = accepted(route)
    place = (*path, "accept") if route.accept is not None else path
    if "session" in kinds and not scope.names("providers"):
        said = "accepts session" if route.accept is not None else "accepts session, since accept is left out,"
        scope.error(place, f"{said} but nobody can sign in; add a provider, or name other kinds in accept")
    for kind in kinds:
        section = _SECTIONS.get(kind)
        if section and not scope.has(section):
            scope.warn(place, f"accepts {kind}, but there is no section {section}; nobody can hold such a credential")


def _registration(scope: Scope, path: KeyPath, route: RouteShape) -> None:
    """An enrollment token guards one registration route, and must never come to open more."""
    accept = (*path, "accept")
    if not scope.has("enrollment"):
        scope.error(accept, "accepts enrollment, but there is no section enrollment; add it, with tokens")
    if "session" in accepted(route):
        scope.error(accept, "has enrollment beside session; give connectors a route of their own")
    if route.path.endswith("/"):
        scope.error((*path, "path"), "accepts enrollment, and so must be one exact path, without / at the end")
    if not route.methods:
        scope.error((*path, "methods"), "is missing; a route that accepts enrollment says which, such as [POST]")
    enrollment = scope.settings.enrollment
    bound = [name for name, token in enrollment.tokens.items() if token.clusters] if enrollment else []
    if bound and "{cluster}" not in route.path.split("/"):
        said = f"the wall refuses tokens that are bound to clusters here: {', '.join(bound)}; write {{cluster}}"
        scope.warn((*path, "path"), said)


def _own_cluster(scope: Scope, path: KeyPath, route: RouteShape) -> None:
    policy = scope.settings.policies[route.policy]
    rules = policy.any or []
    if rules and all(rule.cluster for rule in rules) and "{cluster}" not in route.path.split("/"):
        scope.warn((*path, "path"), f"allows nobody: policy {route.policy} asks for the own cluster; write {{cluster}}")


def _same_place(scope: Scope) -> None:
    first: dict[tuple[str, str], str] = {}
    for name, app in scope.settings.apps.items():
        other = first.setdefault((grammar.canonical_host(app.host or "*"), app.path.rstrip("/")), name)
        if other != name:
            key = "host" if app.host is not None else "path"
            scope.error(("apps", name, key), f"is where apps.{other} is already; give one of them another host or path")


def _shadows(scope: Scope, path: KeyPath, routes: list[RouteShape]) -> None:
    for index, route in enumerate(routes):
        earlier = [(before, routes[before]) for before in range(index) if covers(routes[before].path, route.path)]
        hiding = _hiding(route, earlier)
        if hiding is not None:
            scope.warn((*path, "routes", index), f"can never match: routes[{hiding}] takes its requests; move it up")


def _hiding(route: RouteShape, earlier: list[tuple[int, RouteShape]]) -> int | None:
    """The first of ``earlier`` at which every method of ``route`` is taken; None when some are left."""
    taken: set[str] = set()
    for index, before in earlier:
        if not before.methods:
            return index
        taken |= set(before.methods) | ({"HEAD"} if "GET" in before.methods else set())
        if route.methods and set(route.methods) <= taken:
            return index
    return None


def covers(wide: str, narrow: str) -> bool:
    """Whether every path that ``narrow`` matches is matched by ``wide`` too.  In doubt, no."""
    if grammar.path(wide) or grammar.path(narrow):
        return False
    outer, inner = list(_segments(wide)), list(_segments(narrow))
    if wide.endswith("/"):
        long_enough = len(inner) >= len(outer) + (not narrow.endswith("/"))
    else:
        long_enough = len(inner) == len(outer) and not narrow.endswith("/")
    return long_enough and all(a.startswith("{") or a == b for a, b in zip(outer, inner, strict=False))


def _segments(path: str) -> Iterator[str]:
    return (segment for segment in path.split("/") if segment)
