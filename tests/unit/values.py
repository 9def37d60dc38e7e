"""Values of the house, built short for the tests of its pure rooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.model import App, Headers, Identity, Match, Policy, RequestInfo, Route, Rule, Upstream

NOBODY: Final = TrustedProxies()
PUBLIC: Final = Policy("public", anonymous=True)
STAFF: Final = Policy("staff", rules=(Rule("policies.staff.any[0]", groups=frozenset({"staff"})),))
UPSTREAM: Final = Upstream(urls=("http://upstream.internal:8080",))


def raw(target: str = "/", *lines: tuple[str, str], host: str | None = "app.example.com", **changed: Any) -> Raw:
    """A request as the wire saw it, over plain HTTP from 192.0.2.7."""
    named = [] if host is None else [("Host", host)]
    headers = Headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in [*named, *lines])
    given: dict[str, Any] = {"method": "GET", "peer": "192.0.2.7", "tls": False, **changed}
    return Raw(target=target.encode("latin-1"), headers=headers, **given)


def info(target: str = "/", *lines: tuple[str, str], trusted: TrustedProxies = NOBODY, **changed: Any) -> RequestInfo:
    """What is true about such a request."""
    return describe(raw(target, *lines, **changed), trusted=trusted, request_id="fresh", public_scheme="https")


def told(info: RequestInfo) -> dict[str, Any]:
    """Every field of ``info``."""
    return {name: getattr(info, name) for name in RequestInfo.__slots__}


def changed(info: RequestInfo, **fields: Any) -> RequestInfo:
    """``info`` with other ``fields``."""
    return RequestInfo(**told(info) | fields)


def app(name: str = "app", *paths: str, host: str | None = "app.example.com", path: str = "/", **changed: Any) -> App:
    """An app with a route for each of ``paths``, open to staff."""
    routes = tuple(Route(f"apps.{name}.routes[{at}]", one, STAFF) for at, one in enumerate(paths or ("/",)))
    given: dict[str, Any] = {"routes": routes, "upstream": UPSTREAM, "providers": frozenset(), **changed}
    return App(name=name, title=name, host=host, path=path, **given)


def match(policy: Policy = STAFF, captures: Mapping[str, str] | None = None, *, upstream: Upstream = UPSTREAM) -> Match:
    """A match on a route under ``policy``."""
    route = Route("apps.app.routes[0]", "/", policy)
    return Match(app("app", upstream=upstream, routes=(route,)), route, tuple((captures or {}).items()))


def person(**changed: Any) -> Identity:
    """Alice of the staff, signed in."""
    given: dict[str, Any] = {
        "kind": "session",
        "subject": "alice",
        "user": "alice@example.com",
        "email": "alice@example.com",
        "email_verified": True,
        "preferred_username": "alice",
        "groups": ("staff",),
        **changed,
    }
    return Identity(**given)


def values_of(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    """Every value of ``name`` in ``headers``."""
    return [value.decode("latin-1") for key, value in headers if key.lower() == name.lower().encode()]
