"""Why a request would be allowed or refused: the life of a request, told step by step instead of carried out.

Asks the very functions that judge requests, and says with each step which line of the settings decided.  Works on the
settings alone: no store, no provider, no secret and no upstream is asked.  Who the caller is, is assumed, not proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, cast

from authproxy import authz
from authproxy.authn.chain import Authenticator, Chain, Proved
from authproxy.edge.answer import is_navigation
from authproxy.edge.origin import Origins
from authproxy.edge.path import pattern
from authproxy.edge.request_info import Raw, TrustedProxies, describe
from authproxy.enrollment.tokens import bound_to, patterns
from authproxy.errors import Forbidden, NotAuthenticated, Refusal
from authproxy.model import App, Headers, Identity, Kind, Match, RequestInfo
from authproxy.routing import RouteTable, compile_apps
from authproxy.settings.load import Loaded
from authproxy.settings.schema import Settings

_URL: Final = re.compile(r"(https?)://([^/?#@]+)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_WALL: Final = "cluster wall: "


class Step(NamedTuple):
    """One judgement: what was looked at, what came of it, and where the settings say so."""

    name: str  # "request", "route", "who", "wall", "policy", "upstream", "page", "answer"
    verdict: Literal["passed", "refused"]
    reason: str
    setting: str = ""  # the settings path that decided; "" where nothing is set
    file: str = ""  # or the variable that replaced the value
    line: int = 0


class Explanation(NamedTuple):
    """All steps up to the one that decided.

    ``status`` 200 stands for whatever the upstream answers.  ``code`` is that of the refusal, "" when allowed.
    """

    steps: tuple[Step, ...]
    allowed: bool
    status: int
    code: str

    def as_object(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {
            "allowed": self.allowed, "status": self.status, "code": self.code,
            "steps": [step._asdict() for step in self.steps],
        }  # fmt: skip


def explain(
    loaded: Loaded, method: str, url: str, *, identity: Identity | None, headers: Sequence[tuple[str, str]],
    client: str = "127.0.0.1",
) -> Explanation:  # fmt: skip
    """What would become of ``method url`` with ``headers``, sent from ``client`` by ``identity`` (None: nobody).

    Credentials inside ``headers`` are not judged.  Raises ValueError for a URL that names no scheme and host.
    """
    return _Telling(loaded).tell(raw_request(method, url, headers, client), url, identity)


def raw_request(method: str, url: str, headers: Sequence[tuple[str, str]], client: str) -> Raw:
    """The request as a client would send it for ``url``.  A Host among ``headers`` replaces the one of the URL."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{url!r} is not a URL such as https://app.example.com/path")
    _, authority, target = found.groups()
    own = [] if any(name.lower() == "host" for name, _ in headers) else [("Host", authority)]
    lines = Headers((_octets(name), _octets(value)) for name, value in [*own, *headers])
    sent = target if target.startswith("/") else "/" + target
    return Raw(method, _octets(sent), lines, client, tls=False)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Stop(Exception):
    """The last step is told."""


class _Telling:
    def __init__(self, loaded: Loaded) -> None:
        self._lines: Final = loaded.lines
        self._settings: Final = loaded.settings
        self._table: Final = RouteTable(compile_apps(self._settings, authz.compile_policies(self._settings)))
        self._steps: Final[list[Step]] = []
        self._refusal: Refusal | None = None

    def tell(self, raw: Raw, url: str, identity: Identity | None) -> Explanation:
        with suppress(_Stop):
            self._story(raw, url, identity)
        no = self._refusal
        return Explanation(tuple(self._steps), no is None, no.status if no else 200, no.code if no else "")

    def _story(self, raw: Raw, url: str, identity: Identity | None) -> None:
        info = self._request(raw, url)
        match = self._route(info)
        proved = self._who(info, match, identity)
        self._policy(info, match, proved.identity)
        reason = f"{' or '.join(match.app.upstream.urls)}; Authorization: {_authorization(match.app, proved)}"
        self._passed("upstream", reason, f"apps.{match.app.name}.upstream.authorization")

    # What is said

    def _step(self, name: str, verdict: Literal["passed", "refused"], reason: str, setting: str) -> None:
        file, line = self._lines.place(setting) if setting else ("", 0)
        self._steps.append(Step(name, verdict, reason, setting, file, line))

    def _passed(self, name: str, reason: str, setting: str = "") -> None:
        self._step(name, "passed", reason, setting)

    def _refused(self, name: str, no: Refusal, setting: str = "", reason: str = "") -> _Stop:
        self._step(name, "refused", reason or no.reason, setting)
        self._refusal = no
        return _Stop()

    # What is judged

    def _request(self, raw: Raw, url: str) -> RequestInfo:
        listen = self._settings.listen
        trusted = TrustedProxies(listen.trusted_networks, hops=listen.trusted_hops)
        scheme = url.partition(":")[0].lower()
        try:
            info = describe(raw, trusted=trusted, request_id="explain", public_scheme=scheme)
        except Refusal as no:
            raise self._refused("request", no) from None
        through = f" through {info.peer}" if info.client != info.peer and info.peer in trusted else ""
        setting = "listen.trusted_proxies" if through else ""
        self._passed("request", f"{info.method} {info.path} on {info.host} from {info.client}{through}", setting)
        if info.raw_path.startswith(self._settings.prefix + "/"):
            self._passed("page", "authproxy answers this itself", "prefix")
            raise _Stop
        return info

    def _route(self, info: RequestInfo) -> Match:
        try:
            match = self._table.match(info)
        except Refusal as no:
            setting, reason = _unrouted(info, no, self._table.apps_on(info.host))
            raise self._refused("route", no, setting, reason) from None
        self._passed("route", _selected(info, match), match.route.where)
        return match

    def _who(self, info: RequestInfo, match: Match, identity: Identity | None) -> Proved:
        place = f"{match.route.where}.accept"
        said = f"{_described(identity)}; the route accepts {', '.join(sorted(match.route.accept)) or 'nothing'}"
        try:
            proved = _proved(self._settings, info, match, identity)
        except Refusal as no:
            stop = self._refused("who", no, place, f"{said}: {no.reason}" if no.code != "not_signed_in" else said)
            self._answer(info, match, no)
            raise stop from None
        if match.route.policy.anonymous:
            self._passed("who", "nobody is asked", f"policies.{match.route.policy.name}")
        else:
            self._passed("who", said, place)
        return proved

    def _answer(self, info: RequestInfo, match: Match, no: Refusal) -> None:
        """A browser is not refused but sent to sign in."""
        if not isinstance(no, NotAuthenticated) or "session" not in match.route.accept:
            return
        settings = self._settings
        domain = settings.session.cookie.domain
        origins = Origins(public_url=settings.public_url, prefix=settings.prefix, cookie_domain=domain)
        page = origins.sign_in(info)
        words = f"302 to {page}" if is_navigation(info) else f"401 to a script; a browser that navigates: 302 to {page}"
        self._step("answer", "refused", words, "public_url" if domain else "prefix")

    def _policy(self, info: RequestInfo, match: Match, identity: Identity) -> None:
        decision = authz.decide(info, match, identity)
        policy = match.route.policy
        if decision.reason.startswith(_WALL):
            raise self._refused("wall", Forbidden("not_allowed", decision.reason), self._bound_by(identity))
        if identity.clusters is not None and not policy.anonymous:
            self._passed("wall", f"the credential is bound to {match.cluster}", self._bound_by(identity))
        held = [rule.where for rule in policy.rules if decision.reason.startswith(f"rule {rule.where}: ")]
        setting = held[0] if held else f"policies.{policy.name}"
        if not decision.allowed:
            raise self._refused("policy", Forbidden("not_allowed", decision.reason), setting)
        self._passed("policy", decision.reason, setting)

    def _bound_by(self, identity: Identity) -> str:
        """The settings that bind a credential of this kind to clusters."""
        if identity.kind == "token":
            return f"tokens.{identity.subject}.clusters"
        if identity.kind == "enrollment":
            return f"enrollment.tokens.{identity.subject}.clusters"
        if identity.kind == "bearer":
            return next((f"issuers.{name}.claims.clusters" for name in _issuers(self._settings, identity)), "issuers")
        return {"enrolled": "enrollment", "certificate": "certificates.clusters"}.get(identity.kind, "")


class _Assumed:
    """Presents an identity where its kind is asked for, with what authenticators of the kind ask of the app."""

    def __init__(self, settings: Settings, identity: Identity, kind: Kind) -> None:
        self._settings: Final = settings
        self._identity: Final = identity
        self.kind: Final[Kind] = kind

    def presented(self, info: RequestInfo) -> bool:  # noqa: ARG002 - it is assumed
        return True

    def judge(self, info: RequestInfo, match: Match) -> Proved:  # noqa: ARG002 - all kinds are asked alike
        session, app = self._identity.session, match.app
        if session is not None and session.provider not in app.providers:
            raise NotAuthenticated(
                "other_provider", "Please sign in for this application.",
                reason=f"the session is of provider {session.provider}, which does not open this app",
            )  # fmt: skip
        if self.kind == "bearer" and (fault := self._foreign(app)):
            raise NotAuthenticated("invalid_token", fault)
        return Proved(self._here(match))

    def _here(self, match: Match) -> Identity:
        """An enrollment token is bound to the cluster that the path names, if one of its patterns allows it."""
        if self.kind != "enrollment" or self._identity.clusters is None:
            return self._identity
        name = self._identity.subject
        clusters = bound_to(patterns(self._identity.clusters), match.cluster)
        return Identity(kind=self.kind, subject=name, user=name, clusters=clusters)

    def _foreign(self, app: App) -> str:
        """Why the app would not take the token.  Claims that name no audience are taken to name a right one."""
        issuers = _issuers(self._settings, self._identity)
        taken = [name for name in issuers if app.bearer_issuers is None or name in app.bearer_issuers]
        if len(taken) != 1:
            return f"the issuer {' or '.join(issuers)} is not accepted by {app.name}, or not it alone"
        known = frozenset(self._settings.issuers[taken[0]].audiences)
        audiences = known if app.bearer_audiences is None else known & app.bearer_audiences
        claimed = self._identity.claims.get("aud")
        named = {claimed} if isinstance(claimed, str) else set(claimed) if isinstance(claimed, list) else audiences
        return "" if audiences & named else f"the audience is not accepted by {app.name}"


class _Refused:
    """A secret where another kind of bearer credential is asked for, which claims it only to refuse it."""

    def __init__(self, kind: Kind, refusal: NotAuthenticated) -> None:
        self.kind: Final[Kind] = kind
        self._refusal: Final = refusal

    def presented(self, info: RequestInfo) -> bool:  # noqa: ARG002 - it is assumed
        return True

    def yields(self, info: RequestInfo) -> bool:  # noqa: ARG002 - it is assumed
        return True

    def judge(self, info: RequestInfo, match: Match) -> Proved:  # noqa: ARG002 - all kinds are asked alike
        raise self._refusal


def _presented(settings: Settings, identity: Identity | None) -> Iterator[Authenticator]:
    if identity is None or identity.kind == "anonymous":
        return
    yield _Assumed(settings, identity, identity.kind)
    if identity.kind == "enrollment":
        said = "An enrollment token opens nothing here; enroll with it."
        yield _Refused("enrolled", NotAuthenticated("enrollment_token_refused", said))
    if identity.kind == "token":
        said = "This enrollment token is not valid."
        yield _Refused("enrollment", NotAuthenticated("enrollment_refused", said))


def _proved(settings: Settings, info: RequestInfo, match: Match, identity: Identity | None) -> Proved:
    """What the chain of authenticators says.  Nothing in it waits here."""
    return cast("Proved", Chain(_presented(settings, identity)).judge(info, match))


def _issuers(settings: Settings, identity: Identity) -> list[str]:
    return [name for name, shape in settings.issuers.items() if (shape.issuer or "") == identity.issuer]


# The words


def _selected(info: RequestInfo, match: Match) -> str:
    captures = " ".join(f"{name}={value}" for name, value in match.captures)
    words = [match.route.path, f"captures {captures}" if captures else "", *_passed_over(info, match)]
    return "  ".join(filter(None, words))


def _passed_over(info: RequestInfo, match: Match) -> list[str]:
    """The earlier routes that have the path, but not the method: often what somebody has overlooked."""
    earlier = match.app.routes[: match.app.routes.index(match.route)]
    over = [route.where.rpartition(".")[2] for route in earlier if pattern(route.path)(info.readings[0]) is not None]
    return [f"(passed over for {info.method}: {', '.join(over)})"] if over else []


def _unrouted(info: RequestInfo, no: Refusal, apps: Sequence[App]) -> tuple[str, str]:
    if no.code == "no_app":
        return "apps", f"no app is at {info.host}{info.path}"
    name = next((app.name for app in apps if _holds(app.path, info.readings[0])), "")
    if no.code == "ambiguous_path" or not name:
        return "apps", no.reason
    setting = f"apps.{name}.routes"
    allowed = ", ".join(getattr(no, "allow", ()))
    return setting, f"the path is served for {allowed} alone" if allowed else f"no route of {name} has this path"


def _holds(prefix: str, reading: str) -> bool:
    return reading.startswith(prefix) if prefix.endswith("/") else f"{reading}/".startswith(f"{prefix}/")


def _described(identity: Identity | None) -> str:
    if identity is None:
        return "nobody"
    facts = {
        "e-mail": [identity.email] if identity.email and identity.email != identity.user else [],
        "groups": identity.groups,
        "scopes": sorted(identity.scopes),
        "clusters": sorted(identity.clusters) if identity.clusters is not None else [],
    }
    told = "".join(f", {name} {' '.join(values)}" for name, values in facts.items() if values)
    unverified = ", e-mail not verified" if identity.email and not identity.email_verified else ""
    return f"{identity.kind} {identity.user or identity.subject}{told}{unverified}"


def _authorization(app: App, proved: Proved) -> str:
    """What the upstream would be sent, by the mode of the app (see ``mutate.upstream_request``)."""
    kind, mode = proved.identity.kind, app.upstream.authorization
    if mode == "bearer":
        return "the secret of the settings"
    if mode in ("id_token", "access_token"):
        word = "ID" if mode == "id_token" else "access"
        return f"the {word} token of the session" if kind == "session" else f"none, since {kind} has no {word} token"
    taken = mode == "none" and proved.presented and kind != "session"
    return "none, the client's own is taken out" if taken else "the client's own, if it sends one"
