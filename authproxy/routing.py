"""Which app and which route a request selects: declared order, the first match wins, and no match is a no.

Every reading of the path has to select the same route with the same captures, or the request is refused: what we
judge and what the upstream understands must be one thing.  The room knows nothing about callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from authproxy.edge.host import parse as parse_host
from authproxy.edge.path import Matcher, pattern
from authproxy.errors import BadRequest, MethodNotAllowed, NotFound
from authproxy.model import App, Match, Policy, RequestInfo, Route, Upstream
from authproxy.settings.schema import AppShape, BearerSecret, RouteShape, SecretRef, Settings, UpstreamShape

_KNOWN: Final = 4096

SecretReader = Callable[[SecretRef], Callable[[], str]]


def compile_apps(
    settings: Settings, policies: Mapping[str, Policy], *, secrets: SecretReader = lambda ref: ref.reveal
) -> tuple[App, ...]:
    """The apps of ``settings`` in declared order.

    ``secrets`` makes the function that yields an upstream's bearer secret; the default reads it anew each time, so
    that a server passes one that remembers.  Raises ValueError for a host or a path that cannot be meant, and
    KeyError for a policy that is not declared.
    """
    everyone = frozenset(settings.providers)
    return tuple(_app(name, shape, everyone, policies, secrets) for name, shape in settings.apps.items())


def _app(
    name: str, shape: AppShape, everyone: frozenset[str], policies: Mapping[str, Policy], secrets: SecretReader
) -> App:
    named = [shape.provider] if isinstance(shape.provider, str) else shape.provider
    return App(
        name=name,
        title=shape.title or name,
        host=_host(name, shape.host),
        path=shape.path,
        providers=everyone if named is None else frozenset(named),
        upstream=_upstream(shape.upstream, secrets),
        routes=tuple(
            _route(f"apps.{name}.routes[{number}]", route, policies) for number, route in enumerate(shape.routes)
        ),
        bearer_issuers=_optional_set(shape.bearer.issuers),
        bearer_audiences=_optional_set(shape.bearer.audiences),
    )


def _optional_set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _host(name: str, host: str | None) -> str | None:
    if host is None or host == "*":
        return host
    try:
        return parse_host(host.encode()).host  # the port is ignored
    except BadRequest:
        raise ValueError(f"apps.{name}.host: {host!r} is not a host name; write other scripts in punycode") from None


def _route(where: str, shape: RouteShape, policies: Mapping[str, Policy]) -> Route:
    methods = frozenset(method.upper() for method in shape.methods or ())
    accept: frozenset[str] = frozenset({"session"} if shape.accept is None else shape.accept)
    return Route(where=where, path=shape.path, policy=policies[shape.policy], methods=methods, accept=accept)


def _upstream(shape: UpstreamShape, secrets: SecretReader) -> Upstream:
    mode = shape.authorization
    secret = secrets(mode.bearer) if isinstance(mode, BearerSecret) else None
    return Upstream(
        urls=tuple(url.rstrip("/") for url in shape.urls or [shape.url or ""]),
        authorization="bearer" if isinstance(mode, BearerSecret) else mode,
        bearer=secret,
        timeout=shape.timeout,
        preserve_host=shape.preserve_host,
        ca=None if shape.ca is None else str(shape.ca),
        certificate=None if shape.tls is None else (str(shape.tls.cert), str(shape.tls.key)),
        server_name=shape.server_name,
    )


class _Entry(NamedTuple):
    route: Route
    matches: Matcher
    methods: frozenset[str]  # empty: all


class _Place(NamedTuple):
    app: App
    contains: Callable[[str], bool]
    entries: tuple[_Entry, ...]


class _Missing(NamedTuple):
    """Why a reading selects nothing."""

    code: str
    allow: tuple[str, ...] = ()


class RouteTable:
    """All apps, compiled.  An exact host goes before apps for any host, a longer path prefix before a shorter one."""

    def __init__(self, apps: Iterable[App]) -> None:
        places = sorted(map(_place, apps), key=lambda place: -len(place.app.path))
        self._anywhere: Final = tuple(place for place in places if place.app.host in (None, "*"))
        self.hosts: Final[frozenset[str]] = frozenset(app.host for app, *_ in places if app.host) - {"*"}
        self._known: Final[dict[tuple[str, str, str], Match]] = {}  # paths that were matched lately
        self._by_host: Final = {host: self._places(places, host) for host in self.hosts}

    def _places(self, places: list[_Place], host: str) -> tuple[_Place, ...]:
        return (*(place for place in places if place.app.host == host), *self._anywhere)

    def match(self, info: RequestInfo) -> Match:
        """The one route that every reading of the path selects.

        The app is the first whose prefix holds the path; then its routes are asked in declared order, and one that
        does not serve the method is passed over.  A route for GET serves HEAD.  Raises NotFound ``no_app`` or
        ``no_route``, MethodNotAllowed ``method_not_allowed``, BadRequest ``ambiguous_path``.
        """
        if len(info.readings) > 1:
            return self._found(info)
        key = (info.host, info.method, info.raw_path)
        match = self._known.get(key)
        if match is None:
            match = self._found(info)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = match
        return match

    def _found(self, info: RequestInfo) -> Match:
        places = self._by_host.get(info.host, self._anywhere)
        found = _select(places, info.readings[0], info.method)
        for reading in info.readings[1:]:
            if _select(places, reading, info.method) != found:
                raise BadRequest("ambiguous_path", "The path can be understood in more than one way.")
        if isinstance(found, Match):
            return found
        raise _refusal(found)

    def apps_on(self, host: str) -> tuple[App, ...]:
        """The apps that a canonical ``host`` can reach, in the order in which they are asked."""
        return tuple(place.app for place in self._by_host.get(host, self._anywhere))

    def __repr__(self) -> str:
        return f"<RouteTable {len(self.hosts)} hosts, {len(self._anywhere)} apps on any host>"


def _place(app: App) -> _Place:
    return _Place(app, _prefix(app.path), tuple(_entry(route) for route in app.routes))


def _prefix(path: str) -> Callable[[str], bool]:
    if path.endswith("/"):
        return lambda reading: reading.startswith(path)
    inside = path + "/"
    return lambda reading: reading == path or reading.startswith(inside)


def _entry(route: Route) -> _Entry:
    try:
        matches = pattern(route.path)
    except ValueError as error:
        raise ValueError(f"{route.where}.path: {error}") from None
    return _Entry(route, matches, route.methods | {"HEAD"} if "GET" in route.methods else route.methods)


def _select(places: tuple[_Place, ...], reading: str, method: str) -> Match | _Missing:
    for place in places:
        if place.contains(reading):
            return _select_route(place, reading, method)
    return _Missing("no_app")


def _select_route(place: _Place, reading: str, method: str) -> Match | _Missing:
    allowed: set[str] = set()
    for entry in place.entries:
        captures = entry.matches(reading)
        if captures is None:
            continue
        if not entry.methods or method in entry.methods:
            return Match(place.app, entry.route, captures)
        allowed |= entry.methods
    return _Missing("method_not_allowed", tuple(sorted(allowed))) if allowed else _Missing("no_route")


def _refusal(missing: _Missing) -> NotFound | MethodNotAllowed:
    if missing.allow:
        return MethodNotAllowed(missing.code, "This method is not allowed here.", allow=missing.allow)
    return NotFound(missing.code, "There is nothing here.", reason=f"{missing.code}: no entry of apps matches")
