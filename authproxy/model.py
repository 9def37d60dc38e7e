"""The vocabulary of the house: the values that a request becomes on its way.

``request -> RequestInfo -> Match -> Identity -> Decision -> UpstreamRequest -> response``.
Each value is built once and never edited.  This module knows no library and no room; every room knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal, NamedTuple

Kind = Literal["session", "bearer", "token", "enrolled", "enrollment", "certificate", "basic"]
"""What a caller may prove itself with; an app's route lists the kinds it accepts."""

KINDS: Final[tuple[Kind, ...]] = ("session", "bearer", "token", "enrolled", "enrollment", "certificate", "basic")

Network = IPv4Network | IPv6Network
HeaderList = tuple[tuple[bytes, bytes], ...]


class Headers:
    """The header lines of one request, as they came: order, case and duplicates kept.

    Look-ups ignore case (RFC 9110 section 5.1).  Values are bytes; nobody pays for decoding what no rule reads.

    ``facts`` is where a pure room keeps what it has found out from these lines and nothing else, under a key of its
    own: a client that sends the same octets again on its connection gets the same ``Headers``.  ``cookie_facts`` are
    those that follow from the Cookie lines alone; ``like`` are headers that may have the same ones.
    """

    __slots__ = ("_index", "cookie_facts", "facts", "lines")

    def __init__(self, lines: Iterable[tuple[bytes, bytes]] = (), *, like: Headers | None = None) -> None:
        self.lines: Final[HeaderList] = tuple(lines)
        self.facts: Final[dict[object, Any]] = {}
        index: dict[bytes, tuple[bytes, ...]] = {}
        for name, value in self.lines:
            folded = name.lower()
            if folded in index:
                index[folded] += (value,)
            else:
                index[folded] = (value,)
        self._index: Final = index
        same = like is not None and like._index.get(b"cookie") == index.get(b"cookie")
        self.cookie_facts: Final[dict[object, Any]] = like.cookie_facts if like is not None and same else {}

    def all(self, name: bytes) -> tuple[bytes, ...]:
        """Every value of ``name`` (lower case), in order of arrival."""
        return self._index.get(name, ())

    def get(self, name: bytes) -> bytes | None:
        """The first value of ``name`` (lower case), or None."""
        values = self._index.get(name)
        return values[0] if values else None

    def text(self, name: bytes) -> str:
        """The values of ``name`` joined with ``, `` (RFC 9110 section 5.3), as Latin-1 text; empty when absent."""
        return b", ".join(self._index.get(name, ())).decode("latin-1")

    def __contains__(self, name: bytes) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"<Headers {len(self.lines)} lines>"  # values may be credentials


class RequestInfo:
    """What is true about a request, whoever sent it.  Made by ``edge.request_info`` alone.

    ``readings`` are the distinct ways in which a server could understand the path (raw, slashes merged, decoded,
    path parameters dropped); the first is the raw one.  Matching looks at all of them, forwarding sends the raw one.
    """

    __slots__ = (
        "authority", "certificate", "client", "has_query", "headers", "host", "http_version", "method", "peer", "query",
        "raw_path", "readings", "request_id", "scheme",
    )  # fmt: skip

    def __init__(
        self, method: str, scheme: str, host: str, authority: str, raw_path: str, readings: tuple[str, ...],
        query: str, has_query: bool, client: str, peer: str, headers: Headers, request_id: str,
        http_version: tuple[int, int] = (1, 1), certificate: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        self.method: Final = method
        self.scheme: Final = scheme  # "http" or "https", as the client spoke it to us or to the trusted proxy before us
        self.host: Final = host  # canonical: lower case, no trailing dot, no port; IPv6 without brackets
        self.authority: Final = authority  # host[:port] as the client addressed it, validated and lower-cased; for URLs
        self.raw_path: Final = raw_path  # origin-form, exactly as received, without the query; what the upstream gets
        self.readings: Final = readings
        self.query: Final = query  # without "?", exactly as received; never part of matching
        self.has_query: Final = has_query  # tells "/a?" from "/a", so that the target is forwarded byte for byte
        self.client: Final = client  # address of the client after the trusted-proxy walk
        self.peer: Final = peer  # address of the TCP peer
        self.headers: Final = headers
        self.request_id: Final = request_id
        self.http_version: Final = http_version
        self.certificate: Final = certificate  # verified, as ssl.getpeercert() gives it

    @property
    def path(self) -> str:
        """The raw path: what is logged, shown and forwarded."""
        return self.raw_path

    @property
    def target(self) -> str:
        """Path and query exactly as received."""
        return f"{self.raw_path}?{self.query}" if self.has_query else self.raw_path

    def __repr__(self) -> str:  # the query may carry codes and tokens
        return f"<RequestInfo {self.request_id} {self.method} {self.host}{self.raw_path} from {self.client}>"


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to be allowed.  Every key that is set must hold; a rule without keys allows nobody."""

    where: str  # the settings path, for reasons: "policies.staff.any[0]"
    authenticated: bool = False
    groups: frozenset[str] = frozenset()
    emails: tuple[str, ...] = ()  # exact addresses or "*@domain"
    users: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    methods: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()  # same grammar as a route's path
    cluster_own: bool = False  # the credential was issued for the very cluster that the path names


Aspect = Literal["client", "method", "path", "cluster"]
"""What a rule may look at beside who asks."""

ASPECTS: Final[frozenset[Aspect]] = frozenset({"client", "method", "path", "cluster"})


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of rules; any rule suffices.  ``anonymous`` asks for no credential at all."""

    name: str
    anonymous: bool = False
    rules: tuple[Rule, ...] = ()
    reads: frozenset[Aspect] = ASPECTS  # what its rules look at beside who asks


@dataclass(frozen=True, slots=True)
class Upstream:
    """The protected server of an app."""

    urls: tuple[str, ...]  # scheme://host[:port] without a path, or unix:/path
    authorization: Literal["none", "id_token", "access_token", "pass", "bearer"] = "none"
    bearer: Callable[[], str] | None = field(default=None, repr=False)  # reads the secret for authorization "bearer"
    timeout: float = 60.0  # seconds until the response head, and between two pieces of the body
    preserve_host: bool = True
    ca: str | None = None  # path of a PEM bundle
    certificate: tuple[str, str] | None = None  # paths of certificate and key for TLS client authentication
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of an app's table: which requests, which credentials, which policy."""

    where: str  # "apps.dashboard.routes[1]"
    path: str  # ends in "/": prefix; otherwise exact; "{name}" matches one segment
    policy: Policy
    methods: frozenset[str] = frozenset()  # empty: all
    accept: frozenset[str] = frozenset({"session"})


@dataclass(frozen=True, slots=True)
class App:
    """A configured application: where it is reached, who signs its users in, and where it lives."""

    name: str
    title: str
    host: str | None  # canonical host, "*" for any, None when only the path decides
    path: str  # prefix, "/" for the whole host
    providers: frozenset[str]  # whose sessions open it
    upstream: Upstream
    routes: tuple[Route, ...]
    bearer_issuers: frozenset[str] | None = None  # None: all
    bearer_audiences: frozenset[str] | None = None  # None: all that the issuers accept


class Match(NamedTuple):
    """Which app and route a request selects, by every reading of its path."""

    app: App
    route: Route
    captures: tuple[tuple[str, str], ...] = ()

    @property
    def cluster(self) -> str | None:
        """The cluster that the path names, or None."""
        return dict(self.captures).get("cluster")


class SessionHandle(NamedTuple):
    """What the rest of the house may know of a browser session."""

    id: str  # digest of the session id: fit for logs, index keys and revocation marks
    provider: str
    ends_at: float  # absolute end, seconds since the epoch


class Identity:
    """Who the caller is, proved.  Never holds the credential that proved it.

    ``id_token`` and ``access_token`` are what an app may ask to receive; they stay out of ``repr``.
    ``clusters`` is None for a credential that is bound to no cluster, and a set, even an empty one, for one that is.
    """

    __slots__ = (
        "access_token", "claims", "clusters", "email", "email_verified", "expires_at", "facts", "groups", "id_token",
        "issuer", "kind", "preferred_username", "scopes", "session", "subject", "user",
    )  # fmt: skip

    def __init__(
        self,
        *,
        kind: Kind | Literal["anonymous"],
        subject: str = "",
        issuer: str = "",
        user: str = "",
        email: str = "",
        email_verified: bool = False,
        preferred_username: str = "",
        groups: tuple[str, ...] = (),
        scopes: frozenset[str] = frozenset(),
        clusters: frozenset[str] | None = None,
        expires_at: float = 0.0,
        session: SessionHandle | None = None,
        id_token: str = "",
        access_token: str = "",
        claims: Mapping[str, object] | None = None,
    ) -> None:
        self.kind: Final = kind
        self.subject: Final = subject
        self.issuer: Final = issuer
        self.user: Final = user
        self.email: Final = email
        self.email_verified: Final = email_verified
        self.preferred_username: Final = preferred_username
        self.groups: Final = groups
        self.scopes: Final = scopes
        self.clusters: Final = clusters
        self.expires_at: Final = expires_at  # of the proof (the ID token of a session), seconds since the epoch
        self.session: Final = session
        self.id_token: Final = id_token
        self.access_token: Final = access_token
        self.claims: Final[Mapping[str, object]] = claims or {}
        self.facts: dict[object, Any] | None = None  # what pure rooms have found out, as in ``Headers``; few need it

    def __repr__(self) -> str:
        return f"<Identity {self.kind} {self.subject!r} of {self.issuer!r}>"


ANONYMOUS: Final = Identity(kind="anonymous")
"""The caller of a public route."""


class Decision(NamedTuple):
    """May they?  With the reason, in words that are safe to show and that name the settings entry that decided."""

    allowed: bool
    reason: str


class UpstreamRequest:
    """The request as the upstream will receive it.

    ``fields`` are whole header lines as octets, without framing: the wire adds its own.
    """

    __slots__ = ("fields", "method", "target", "upgrade", "upstream")

    def __init__(self, method: str, target: str, fields: bytes, upstream: Upstream, upgrade: str = "") -> None:
        self.method: Final = method
        self.target: Final = target
        self.fields: Final = fields
        self.upstream: Final = upstream
        self.upgrade: Final = upgrade  # the protocol of an accepted Upgrade, e.g. "websocket"; empty for others

    @property
    def headers(self) -> HeaderList:
        """``fields``, taken apart again."""
        split = (line.partition(b": ") for line in self.fields.split(b"\r\n")[:-1])
        return tuple((name, value) for name, _, value in split)

    def __repr__(self) -> str:
        return f"<UpstreamRequest {self.method} {len(self.headers)} headers>"


class Fields(NamedTuple):
    """Header lines of a response as octets, without framing."""

    octets: bytes
    dated: bool  # one of them is Date


class Answer(NamedTuple):
    """A whole answer of our own, worded by the edge: a refusal, a page, a redirect."""

    status: int
    headers: HeaderList = ()
    body: bytes = b""
