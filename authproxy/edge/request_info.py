"""What is true about a request: judged once, here, from the bytes that the wire saw.

Everybody behind this room reads ``RequestInfo`` and nothing else, so that no two rooms can disagree about a host, a
path or a client.  Ambiguity is refused, never repaired.  The room knows nothing of apps, callers or answers; it does
no I/O and reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from authproxy.edge.hops import TrustedProxies, client_address
from authproxy.edge.host import Authority
from authproxy.edge.host import parse as parse_host
from authproxy.edge.path import readings
from authproxy.errors import BadRequest, Forbidden, MethodNotAllowed, VersionNotSupported
from authproxy.model import Headers, RequestInfo

__all__ = ["Raw", "Source", "TrustedProxies", "accepted_request_id", "describe", "described"]

Source = Literal["x-forwarded", "x-original"]

_USUAL: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_KNOWN: Final = frozenset(_USUAL)
_NEVER: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
_METHOD: Final = re.compile(r"[A-Z-]{1,64}")
_VERSIONS: Final = ((1, 1), (1, 0))
_LONGEST_TARGET: Final = 8190  # octets
_ORIGIN_FORM: Final = re.compile(rb'(/[!-"$->@-~]*)(\?([!-"$-~]*))?')  # visible ASCII without "#"
_ABSOLUTE_FORM: Final = re.compile(rb"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}  # some proxies say wss
_NOBODY: Final = Authority("")

_DESCRIBING: Final[dict[Source, tuple[bytes, ...]]] = {
    "x-forwarded": (b"x-forwarded-method", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-uri"),
    "x-original": (b"x-original-method", b"x-original-url"),
}
_RIVALS: Final[dict[Source, tuple[bytes, ...]]] = {  # headers of other sets that could name the method or the URI
    "x-forwarded": (b"x-original-method", b"x-original-uri", b"x-original-url"),
    "x-original": (b"x-forwarded-method", b"x-forwarded-uri", b"x-original-uri"),
}
_END_TO_END: Final = frozenset(
    {b"authorization", b"cookie", b"x-authproxy-secret", b"x-forwarded-for"}.union(
        *_DESCRIBING.values(), *_RIVALS.values()
    )
)
_USUAL_OPTIONS: Final = frozenset({b"", b"close", b"keep-alive", b"upgrade"})  # of Connection
_SEPARATORS: Final = bytes.maketrans(b"_.", b"--")


class Raw(NamedTuple):
    """What the wire saw, before anybody believed it.  ``peer`` is "" on a Unix socket."""

    method: str
    target: bytes
    headers: Headers
    peer: str
    tls: bool
    http_version: tuple[int, int] = (1, 1)
    certificate: Mapping[str, object] | None = None


class _Target(NamedTuple):
    path: str
    query: str
    has_query: bool

    @property
    def text(self) -> str:
        """Path and query as they came."""
        return f"{self.path}?{self.query}" if self.has_query else self.path


def describe(raw: Raw, *, trusted: TrustedProxies, request_id: str, public_scheme: str) -> RequestInfo:
    """What is true about ``raw``.  ``request_id`` is the fresh one, used unless a trusted peer brought its own.

    The scheme is ``https`` on a TLS listener.  On a plain one it is what a trusted peer says in X-Forwarded-Proto, and
    ``http`` when that peer says nothing.  A peer that is not trusted cannot tell us: it may be the client, or a TLS
    terminator that nobody configured.  Then the scheme is that of ``public_url``, so that redirects and cookies are
    right for the address that users type.

    Raises BadRequest (``bad_host``, ``bad_target``, ``bad_path``, ``ambiguous_path``, ``ambiguous_target``,
    ``bad_method``, ``bad_forwarded``), MethodNotAllowed ``method_not_served``, VersionNotSupported.
    """
    told: _Told | None = raw.headers.facts.get(trusted)
    if told is None or not told.holds_for(raw, public_scheme):
        _check_method(raw.method)
        told = raw.headers.facts[trusted] = _Told(raw, trusted, public_scheme)
    if told.target is not raw.target or told.method is not raw.method:
        _check_method(raw.method)
        told.take(raw)
    return RequestInfo(
        raw.method, told.scheme, told.host, told.authority, told.path, told.readings, told.query, told.has_query,
        told.client, raw.peer, raw.headers,
        told.request_id or request_id, raw.http_version, raw.certificate,
    )  # fmt: skip


class _Told:
    """What the headers and the connection say, whatever is asked for; and what was asked for last."""

    __slots__ = (
        "_addressed", "_peer", "_public_scheme", "_tls", "_version", "authority", "client", "has_query", "host",
        "method", "path", "query", "readings", "request_id", "scheme", "target",
    )  # fmt: skip

    def __init__(self, raw: Raw, trusted: TrustedProxies, public_scheme: str) -> None:
        _check_version(raw.http_version)
        headers = raw.headers
        self._peer: Final = raw.peer
        self._tls: Final = raw.tls
        self._version: Final = raw.http_version
        self._public_scheme: Final = public_scheme
        self._addressed: Final = _host_header(raw)
        believed = raw.peer in trusted
        authority = _forwarded_host(headers, self._addressed) if believed else self._addressed
        self.host: Final = authority.host
        self.authority: Final = authority.text
        self.scheme: Final = "https" if raw.tls else _forwarded_scheme(headers) if believed else public_scheme
        self.client: Final = client_address(raw.peer, headers, trusted)
        self.request_id: Final = accepted_request_id(headers, "", trusted_peer=believed)
        self.method = ""
        self.target: bytes | None = None

    def holds_for(self, raw: Raw, public_scheme: str) -> bool:
        """Whether nothing else but the target and the method can be different."""
        return (
            self._peer == raw.peer
            and self._tls is raw.tls
            and self._version == raw.http_version
            and self._public_scheme == public_scheme
        )

    def take(self, raw: Raw) -> None:
        """Another target.  Raises BadRequest, and then holds what it held."""
        found = _target(raw.target, self._addressed)
        self.readings = readings(found.path)
        self.path, self.query, self.has_query = found
        self.method, self.target = raw.method, raw.target


def described(
    asking: Raw | RequestInfo,
    *,
    trusted: TrustedProxies,
    request_id: str,
    public_scheme: str,  # noqa: ARG001 - both doors are called alike
    source: Source,
) -> RequestInfo:
    """The request that an ingress asks about: the one that its headers describe, not the one that carries them.

    ``source`` is the one configured set of headers, each of which must be there exactly once.  Every fact has a strict
    grammar of its own; what no honest ingress sends is refused.  The certificate of the connection is the ingress's own
    and proves nothing about the client, so that it is left out.  ``public_scheme`` is not used: the description names
    the scheme.

    Raises Forbidden ``untrusted_caller`` unless the peer is trusted, before anything of the description is read
    (GHSA-7x63-xv5r-3p2x); BadRequest ``bad_description`` when a describing header is missing, repeated, malformed,
    nominated in Connection or has a look-alike beside it, or when the other set contradicts it; else as ``describe``.
    """
    if asking.peer not in trusted:
        raise Forbidden("untrusted_caller", "This address may not ask for decisions.", reason="not in trusted_proxies")
    by, facts = (asking.peer, asking.http_version, trusted, source), asking.headers.facts
    told: _Description | None = facts.get(_DESCRIBED)
    if told is None or told.by != by:
        told = facts[_DESCRIBED] = _Description(asking, trusted, source)
    return RequestInfo(
        told.method, told.scheme, told.authority.host, told.authority.text, told.target.path, told.readings,
        told.target.query, told.target.has_query, told.client, asking.peer, asking.headers,
        told.request_id or request_id, asking.http_version,
    )  # fmt: skip


_DESCRIBED: Final = object()


class _Description:
    """What the headers of a trusted peer describe; the same headers from it always describe the same."""

    __slots__ = ("authority", "by", "client", "method", "readings", "request_id", "scheme", "target")

    def __init__(self, asking: Raw | RequestInfo, trusted: TrustedProxies, source: Source) -> None:
        _check_version(asking.http_version)
        headers = asking.headers
        self.by: Final = asking.peer, asking.http_version, trusted, source
        _refuse_look_alikes(headers, source)
        _refuse_nominations(headers)
        self.method, self.scheme, self.authority, self.target = _description(headers, source)
        _check_method(self.method)
        self._refuse_contradictions(headers, source)
        self.readings: Final = readings(self.target.path)
        self.client: Final = client_address(asking.peer, headers, trusted)
        self.request_id: Final = accepted_request_id(headers, "", trusted_peer=True)

    def _refuse_contradictions(self, headers: Headers, source: Source) -> None:
        """Refuse a header of another set that names another method or another URI: one of the two is wrong."""
        for name in _RIVALS[source]:
            for value in headers.all(name):
                if not self._agrees(name, value):
                    raise BadRequest("bad_description", "The request is described twice.", reason=name.decode())

    def _agrees(self, name: bytes, value: bytes) -> bool:
        if name.endswith(b"-method"):
            return value == self.method.encode()
        if not name.endswith(b"-url"):
            return value == self.target.text.encode()
        try:
            _, authority, target = _described_url(value)
        except BadRequest:
            return False
        return target == self.target and authority.same_as(self.authority, self.scheme)


def accepted_request_id(headers: Headers, fresh: str, trusted_peer: bool) -> str:
    """The X-Request-Id of a trusted peer when it is one token of at most 128 characters; otherwise ``fresh``."""
    values = headers.all(b"x-request-id") if trusted_peer else ()
    return values[0].decode() if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]) else fresh


def _check_version(version: tuple[int, int]) -> None:
    if version not in _VERSIONS:
        raise VersionNotSupported("version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")


def _check_method(method: str) -> None:
    if method in _KNOWN:
        return
    if method in _NEVER:
        raise MethodNotAllowed("method_not_served", "This method is not served here.", allow=_USUAL)
    if not _METHOD.fullmatch(method):
        raise BadRequest("bad_method", "The method is not a word of capital letters.")


def _host_header(raw: Raw) -> Authority:
    """RFC 9112 section 3.2: exactly one Host; HTTP/1.0 may leave it out and then reaches only apps for any host."""
    values = raw.headers.all(b"host")
    if not values and raw.http_version == (1, 0):
        return _NOBODY
    if len(values) != 1:
        raise BadRequest("bad_host", "A request needs exactly one Host header.")
    return parse_host(values[0])


def _target(target: bytes, addressed: Authority) -> _Target:
    if len(target) > _LONGEST_TARGET:
        raise BadRequest("bad_target", "The request target is too long.")
    if target.startswith(b"/"):  # never through a URL parser: "//admin" is a path, not an authority
        return _origin_form(target)
    scheme, authority, rest = _absolute_form(target)
    if not authority.same_as(addressed, scheme):
        raise BadRequest("ambiguous_target", "The request target and the Host header name different hosts.")
    return rest


def _origin_form(target: bytes) -> _Target:
    found = _ORIGIN_FORM.fullmatch(target)
    if found is None:
        raise BadRequest("bad_target", "The request target is malformed.")
    path, mark, query = found.groups()
    return _Target(path.decode(), (query or b"").decode(), mark is not None)


def _absolute_form(target: bytes) -> tuple[str, Authority, _Target]:
    """RFC 9112 section 3.2.2; an empty path is "/" (section 3.2.1)."""
    scheme, authority, rest = _split(target)
    return scheme, parse_host(authority), _origin_form(rest if rest.startswith(b"/") else b"/" + rest)


def _described_url(value: bytes) -> tuple[str, Authority, _Target]:
    """The facts of X-Original-URL, which an ingress puts together from scheme, Host and target.

    The path must not be empty: a target begins with "/", so that a URL without one has a "?" or "#" in its Host.
    """
    if len(value) > _LONGEST_TARGET:
        raise BadRequest("bad_target", "The request target is too long.")
    scheme, authority, rest = _split(value)
    if not rest.startswith(b"/"):
        raise BadRequest("bad_target", "The described address has no path.")
    return scheme, parse_host(authority), _origin_form(rest)


def _split(url: bytes) -> tuple[str, bytes, bytes]:
    found = _ABSOLUTE_FORM.fullmatch(url)
    if found is None:
        raise BadRequest("bad_target", "The request target is malformed.")
    return found[1].decode().lower(), found[2], found[3]


def _forwarded_host(headers: Headers, addressed: Authority) -> Authority:
    values = headers.all(b"x-forwarded-host")
    if not values:
        return addressed
    if len(values) > 1:
        raise BadRequest("bad_host", "X-Forwarded-Host has several values.")
    return parse_host(values[0])


def _forwarded_scheme(headers: Headers) -> str:
    values = headers.all(b"x-forwarded-proto") or (b"http",)
    scheme = _SCHEMES.get(values[0].lower())
    if len(values) > 1 or scheme is None:
        raise BadRequest("bad_forwarded", "X-Forwarded-Proto is neither http nor https.")
    return scheme


def _refuse_look_alikes(headers: Headers, source: Source) -> None:
    # CVE-2026-39858: servers that fold "_" and "." would read X_Forwarded_Uri where we read X-Forwarded-Uri.
    for name, _ in headers:
        if _looks_alike(name, source):
            raise BadRequest("bad_description", "The request is described twice.", reason="look-alike header")


@lru_cache(maxsize=1024)
def _looks_alike(name: bytes, source: Source) -> bool:
    folded = name.lower()
    return folded.translate(_SEPARATORS) in _DESCRIBING[source] and folded not in _DESCRIBING[source]


def _refuse_nominations(headers: Headers) -> None:
    # RFC 9110 section 7.6.1: a proxy on the way drops what Connection names, so that part of the description is missing
    # there.  An ingress sends a Connection of its own; one that names these headers is the client's.
    for value in headers.all(b"connection"):
        options = value.lower()
        if options not in _USUAL_OPTIONS and not _END_TO_END.isdisjoint(
            option.strip(b" \t") for option in options.split(b",")
        ):
            raise BadRequest("bad_description", "Connection names a header of the description.", reason="Connection")


def _description(headers: Headers, source: Source) -> tuple[str, str, Authority, _Target]:
    values = [_single(headers, name) for name in _DESCRIBING[source]]
    method = values[0].decode("latin-1")
    if source == "x-original":
        return method, *_described_url(values[1])
    scheme = _SCHEMES.get(values[1].lower())
    if scheme is None or not values[3].startswith(b"/"):
        raise BadRequest("bad_description", "The description of the request is malformed.")
    return method, scheme, parse_host(values[2]), _target(values[3], _NOBODY)


def _single(headers: Headers, name: bytes) -> bytes:
    values = headers.all(name)
    if len(values) != 1 or not values[0]:
        message = "The request that this is about is not described."
        raise BadRequest("bad_description", message, reason=f"{len(values)} times {name.decode()}")
    return values[0]
