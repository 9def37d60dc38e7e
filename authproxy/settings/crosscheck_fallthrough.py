"""Warnings about requests that miss a protected route by little, and that a laxer route of the same app decides.

The slash at the end, the case of letters and the method are what programs treat alike and routes do not.  A route is
laxer when it is public, or when its policy allows at least everyone that the other policy allows, and more.  For what
lies below an exact path, a policy for other groups or for a whole domain counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from authproxy.settings.crosscheck_apps import covers
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import PolicyShape, RouteShape, RuleShape
from authproxy.settings.scope import Scope, accepted

_CHANGING: Final = ("POST", "PUT", "PATCH", "DELETE")


class _Miss(NamedTuple):
    """A request beside the path of a route: what to call it, its path, and what to write."""

    what: str
    path: str
    remedy: str
    below: bool = False  # it lies below an exact path


def check(scope: Scope) -> None:
    """Report each protected route beside which a laxer one decides."""
    for name, app in scope.settings.apps.items():
        if scope.broken("apps", name, "routes"):
            continue
        for index, route in enumerate(app.routes):
            if not scope.is_public(route):
                here: KeyPath = ("apps", name, "routes", index)
                _paths(scope, here, route, app.routes)
                _methods(scope, here, route, app.routes)


def _paths(scope: Scope, here: KeyPath, route: RouteShape, routes: list[RouteShape]) -> None:
    method = route.methods[0] if route.methods else "GET"
    reported = set()
    for miss in _misses(route.path):
        found = _deciding(routes, miss.path, method)
        if found is None or miss.what in reported or not _is_laxer(scope, routes[found], route, below=miss.below):
            continue
        reported.add(miss.what)
        where = f"{miss.what} is not matched here: routes[{found}] decides it by policy {routes[found].policy}"
        scope.warn((*here, "path"), f"{where}; {miss.remedy}")


def _misses(path: str) -> Iterator[_Miss]:
    sample = _sample(path)
    if path == "/":
        return
    if path.endswith("/"):
        yield _Miss(f"{path[:-1]} without / at the end", sample[:-1], f"add a route with path: {path[:-1]}")
    else:
        what, remedy = f"what lies below {path}", f"add a route with path: {path}/"
        below = "." not in path.rpartition("/")[2]  # /openapi.yaml is a file, and nothing lies below it
        yield _Miss(what, f"{sample}/", remedy, below=below)
        yield _Miss(what, f"{sample}/x", remedy, below=below)
    lower = "/".join(part if part.startswith("{") else part.lower() for part in path.split("/"))
    if lower != path:
        remedy = f"add a route with path: {lower}, if the server ignores the case of letters"
        yield _Miss(f"{lower} in lower case", sample.lower(), remedy)


def _sample(path: str) -> str:
    """A path that a route of ``path`` matches."""
    return "/".join("some-name" if segment.startswith("{") else segment for segment in path.split("/"))


def _methods(scope: Scope, here: KeyPath, route: RouteShape, routes: list[RouteShape]) -> None:
    open_to: dict[int, list[str]] = {}
    for method in _CHANGING if route.methods else ():
        found = _deciding(routes, _sample(route.path), method)
        if found is not None and method not in (route.methods or ()) and _is_laxer(scope, routes[found], route):
            open_to.setdefault(found, []).append(method)
    for found, methods in open_to.items():
        where = f"leaves out {', '.join(methods)}: routes[{found}] decides by policy {routes[found].policy}"
        scope.warn((*here, "methods"), f"{where}; name all methods that change something, or leave methods out")


def _deciding(routes: list[RouteShape], path: str, method: str) -> int | None:
    """The position of the route that a request selects: the first that matches."""
    for index, route in enumerate(routes):
        if covers(route.path, path) and (not route.methods or method in route.methods):
            return index
    return None


def _is_laxer(scope: Scope, other: RouteShape, route: RouteShape, *, below: bool = False) -> bool:
    if scope.is_public(other):
        return other.policy in scope.settings.policies
    if other.policy == route.policy or not set(accepted(other)) & set(accepted(route)):
        return False
    theirs, ours = (scope.settings.policies[one.policy] for one in (other, route))
    if _allows_all_of(ours, theirs):
        return False
    return _allows_all_of(theirs, ours) or (below and _names_people(ours) and _names_many(theirs))


def _allows_all_of(wide: PolicyShape, narrow: PolicyShape) -> bool:
    """Whether every rule of ``narrow`` is at least as strict as some rule of ``wide``.  In doubt, no."""
    return all(any(_holds_whenever(loose, strict) for loose in wide.any or []) for strict in narrow.any or [])


def _holds_whenever(loose: RuleShape, strict: RuleShape) -> bool:
    """Whether ``loose`` holds for everyone for whom ``strict`` does."""
    # A rule about the own cluster is for other callers than a rule without: the cluster wall decides there.
    same_cluster = loose.cluster == strict.cluster
    return same_cluster and all(_contains(getattr(loose, key), getattr(strict, key)) for key in _keys(loose))


def _keys(rule: RuleShape) -> list[str]:
    # Every rule demands a caller who is known, so that authenticated: true demands nothing more.
    return [key for key in type(rule).model_fields if key != "authenticated" and getattr(rule, key) is not None]


def _contains(wide: object, narrow: object) -> bool:
    if isinstance(wide, list) and isinstance(narrow, list):
        return all(one in wide for one in narrow)
    return wide == narrow


def _names_people(policy: PolicyShape) -> bool:
    return bool(policy.any) and all(rule.groups or rule.users or rule.emails for rule in policy.any or [])


def _names_many(policy: PolicyShape) -> bool:
    """Whether a rule lets in a group, or a whole domain."""
    return any(rule.groups or any(one.startswith("*@") for one in rule.emails or []) for rule in policy.any or [])
