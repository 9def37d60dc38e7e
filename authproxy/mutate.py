"""Headers: what the upstream receives, and what the client receives of its answer.

Strip first, then add ours, Authorization last.  Pure: values in, values out.  The room knows which names carry trust;
it does not know how a credential is judged, and framing belongs to the wire.  Method overrides such as
``X-HTTP-Method-Override`` pass untouched: an upstream that obeys them must judge the method that it makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from authproxy.errors import Unavailable
from authproxy.http1 import storing, text, upgrading
from authproxy.model import Fields, HeaderList, Headers, Identity, Match, RequestInfo, Upstream, UpstreamRequest

MOST_GROUP_BYTES: Final = 8192

_SEPARATORS: Final = bytes.maketrans(b"_.", b"--")
_REPEATED: Final = re.compile(rb"-{2,}")
_HARMLESS: Final = re.compile(r"[!-$&-~](?:[ -$&-~]*[!-$&-~])?")  # visible ASCII without "%", blanks inside only

_HOP_BY_HOP: Final = frozenset(  # RFC 9110 section 7.6.1, and framing, which each wire makes itself
    b"connection content-length http2-settings keep-alive te trailer transfer-encoding upgrade".split()
)
_MAX_FORWARDS: Final = b"max-forwards"  # written anew
_NEVER_UP: Final = _HOP_BY_HOP | frozenset(
    b"""
    cf-connecting-ip expect forwarded host impersonate max-forwards proxy remote-email remote-groups remote-name
    remote-user true-client-ip x-client-ip x-cluster-client-ip x-forwarded x-real-ip x-request-id x-rewrite-url
    """.split()
)
_NEVER_UP_FAMILIES: Final = (
    b"authproxy-", b"impersonate-", b"proxy-", b"ssl-client-", b"x-auth-request-", b"x-authproxy-", b"x-forwarded-",
    b"x-original-", b"x-remote-",
)  # fmt: skip
_NEVER_DOWN: Final = _HOP_BY_HOP | {b"x-request-id"}
_NEVER_DOWN_FAMILIES: Final = (b"authproxy-", b"proxy-", b"x-auth-request-", b"x-authproxy-")


class _Fate(Enum):
    KEEP = 0
    DROP = 1
    COOKIE = 2
    AUTHORIZATION = 3
    ENROLLMENT = 4
    ENROLLMENT_LIKE = 5  # another spelling, which we do not judge and a lenient server might


_KEEP, _DROP, _COOKIE, _AUTHORIZATION, _ENROLLMENT, _ENROLLMENT_LIKE = _Fate


class OwnCookies(NamedTuple):
    """Our cookies: ``base`` and every ``base_…``, also behind ``__Host-`` and ``__Secure-``."""

    base: bytes

    def claim(self, pair: bytes) -> bool:
        """Whether ``name=value`` would reach a server as one of ours.

        A cookie without a name (``=authproxy=x``) is sent back as its bare value, and so becomes ours on the way.
        """
        name = pair.lstrip(b"= \t").partition(b"=")[0].rstrip(b" \t")
        bare = name.removeprefix(b"__Host-").removeprefix(b"__Secure-")
        return bare == self.base or bare.startswith(self.base + b"_")


def upstream_request(
    info: RequestInfo, match: Match, identity: Identity, *, own_cookies: OwnCookies, strip_authorization: bool
) -> UpstreamRequest:
    """What the upstream of ``match`` receives: the target byte for byte, the client's headers in order, then ours.

    ``strip_authorization`` says that the client's Authorization was ours to judge; otherwise mode ``none`` lets it
    pass to an app with a scheme of its own.  Mode ``pass`` always lets it pass; the other modes replace it, and send
    none when the identity has no such token.  An enrollment token that was judged passes in mode
    ``pass`` alone, also in ``X-Enrollment-Token``; with other identities that header is the app's.  ``Host`` is that of
    the first URL where the upstream wants its own.

    Raises Unavailable ``upstream_secret`` when the secret for mode ``bearer`` cannot be read.
    """
    upstream = match.app.upstream
    known: _Standing | None = info.headers.facts.get(_STANDING)
    if known is None or not (
        known.upstream is upstream and known.identity is identity and known.stripped is strip_authorization
        and known.own is own_cookies and known.addressed == (info.client, info.scheme, info.authority)
    ):  # fmt: skip
        known = info.headers.facts[_STANDING] = _standing(info, upstream, identity, own_cookies, strip_authorization)
    fields = b"".join((
        known.before, *(_fewer_forwards(info) if known.counted else ()), known.between, info.request_id.encode(),
        b"\r\n", _identity_fields(identity, upstream) if known.identified is None else known.identified,
    ))  # fmt: skip
    upgrade = upgrading.protocol(info) if known.upgrades else ""
    return UpstreamRequest(info.method, info.target, fields, upstream, upgrade)


class _Standing(NamedTuple):
    """What a request's fields come to whatever it asks for: of the same lines, for the same caller, to one upstream."""

    upstream: Upstream
    identity: Identity
    own: OwnCookies
    stripped: bool
    addressed: tuple[str, str, str]  # client, scheme, authority
    before: bytes  # Max-Forwards follows where it is ``counted``
    counted: bool
    between: bytes  # the id of the request follows
    identified: bytes | None  # None: to be asked for again
    upgrades: bool


_STANDING: Final = object()


def _standing(
    info: RequestInfo, upstream: Upstream, identity: Identity, own: OwnCookies, strip_authorization: bool
) -> _Standing:
    addressed = info.client, info.scheme, info.authority
    keeping = _keeping(upstream.authorization, strip_authorization, identity.kind == "enrollment")
    kept = text.fields(_kept(info.headers, own, keeping))
    return _Standing(
        upstream, identity, own, strip_authorization, addressed,
        before=b"Host: %b\r\n%b" % (_host(info, upstream), kept), counted=_MAX_FORWARDS in info.headers,
        between=_addressed(*addressed) + b"X-Request-Id: ",
        identified=_identity_fields(identity, upstream) if upstream.authorization != "bearer" else None,
        upgrades=b"upgrade" in info.headers,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _addressed(client: str, scheme: str, authority: str) -> bytes:
    """Who asked for what, and how."""
    return text.fields(tuple(_forwarding(client, scheme, authority)))


def forwards_end(info: RequestInfo) -> bool:
    """Whether this is where an OPTIONS request ends: its Max-Forwards is 0 (RFC 9110 section 7.6.2)."""
    return info.method == "OPTIONS" and info.headers.get(_MAX_FORWARDS) in (b"0", b"00")


def _fewer_forwards(info: RequestInfo) -> Iterator[bytes]:
    """Max-Forwards, one less on OPTIONS; on other methods it means nothing to us, and passes."""
    for value in info.headers.all(_MAX_FORWARDS):
        if info.method == "OPTIONS" and value.isdigit() and len(value) < 10:
            value = b"%d" % max(int(value) - 1, 0)
        yield text.fields(((b"Max-Forwards", value),))


def _identity_fields(identity: Identity, upstream: Upstream) -> bytes:
    """Who asks, and the Authorization that we add, last."""
    mode = upstream.authorization
    facts = identity.facts
    if facts is None:
        facts = identity.facts = {}
    known: bytes | None = facts.get(mode)
    if known is None:
        authorization = upstream_authorization(upstream, identity)
        known = text.fields((
            *(() if identity.kind == "anonymous" else identity_headers(identity)),
            *(() if authorization is None else ((b"Authorization", authorization),)),
        ))  # fmt: skip
        if mode != "bearer":  # its secret may change at any time
            facts[mode] = known
    return known


def upstream_authorization(upstream: Upstream, identity: Identity) -> bytes | None:
    """The Authorization that we add by the mode of ``upstream``; None when there is nothing to add."""
    mode = upstream.authorization
    if mode == "id_token":
        return _bearer(identity.id_token)
    if mode == "access_token":
        return _bearer(identity.access_token)
    return _bearer(_secret(upstream)) if mode == "bearer" else None


def identity_headers(identity: Identity) -> HeaderList:
    """``X-Forwarded-User``, ``-Email``, ``-Preferred-Username``, ``-Groups``; those without a value are left out.

    A value is UTF-8 with everything percent-encoded but visible ASCII and blanks inside; ``%`` itself is encoded too,
    so that decoding always gives the original.  In groups, which are joined with ``,``, the comma is encoded as well.
    Groups that do not fit into 8 KiB are left out whole, from the end, and ``X-Forwarded-Groups-Truncated: true``
    says so.
    """
    lines = _identity_lines(b"X-Forwarded-", *_names(identity))
    return tuple(line for line in lines if line[1])


def auth_request_headers(identity: Identity) -> HeaderList:
    """The same as ``X-Auth-Request-…`` for an ingress: always all four, so that it overwrites what a client sent."""
    return _identity_lines(b"X-Auth-Request-", *_names(identity))


def response_headers(
    headers: HeaderList,
    *,
    own_cookies: OwnCookies,
    request_id: str,
    set_cookies: tuple[str, ...],
    private: bool,
) -> HeaderList:
    """What the client receives of the upstream's headers, then ours, ``Set-Cookie`` last.

    ``private``: the answer depends on who asked, so that without any word of the upstream on caching it is marked
    ``private``.  An answer that carries a cookie of ours must never be stored (RFC 9111 section 7.3), whatever the
    upstream says.  ``Alt-Svc`` and ``Strict-Transport-Security`` of the upstream pass.
    """
    kept = _down(headers, own_cookies, private, bool(set_cookies))
    return (*kept, (b"X-Request-Id", request_id.encode()), *_ours(set_cookies))


def response_fields(
    headers: HeaderList,
    facts: dict[object, Any],
    *,
    own_cookies: OwnCookies,
    request_id: str,
    set_cookies: tuple[str, ...],
    private: bool,
) -> Fields:
    """``response_headers`` as octets.  ``facts`` is kept with ``headers``, for when the very same ones come again."""
    key = (own_cookies, private, bool(set_cookies))
    known: Fields | None = facts.get(key)
    if known is None:
        told = text.response_fields(_down(headers, *key))
        known = facts[key] = Fields(told.octets + b"X-Request-Id: ", told.dated)
    octets = b"%b%b\r\n" % (known.octets, request_id.encode())
    return Fields(octets + text.fields(_ours(set_cookies)) if set_cookies else octets, known.dated)


def _down(lines: HeaderList, own: OwnCookies, private: bool, with_cookie: bool) -> HeaderList:
    connection = [value for name, value in lines if text.folded(name) == b"connection"]
    nominated = _nominated(connection)
    kept = []
    for line in lines:
        fate = _fate_client(line[0])
        if fate is _DROP or (nominated and _fold(line[0]) in nominated):
            continue
        if fate is _KEEP or not own.claim(line[1].partition(b";")[0]):
            kept.append(line)
    return storing.told(tuple(kept), private, with_cookie)


def _ours(set_cookies: tuple[str, ...]) -> HeaderList:
    return tuple((b"Set-Cookie", cookie.encode("latin-1")) for cookie in set_cookies)


def _fold(name: bytes) -> bytes:
    """``name`` as a lenient server reads it: CGI and its heirs know no difference between ``-``, ``_`` and ``.``.

    CVE-2025-64484, CVE-2026-39858.
    """
    return _REPEATED.sub(b"-", name.lower().translate(_SEPARATORS)).strip(b"-")


@lru_cache(maxsize=1024)
def _fate_upstream(name: bytes) -> _Fate:
    folded = _fold(name)
    if folded in _NEVER_UP or folded.startswith(_NEVER_UP_FAMILIES):
        return _DROP
    if folded == b"cookie":
        return _COOKIE if name.lower() == folded else _DROP
    if folded == b"x-enrollment-token":
        return _ENROLLMENT if name.lower() == folded else _ENROLLMENT_LIKE
    if folded == b"authorization":
        return _AUTHORIZATION if name.lower() == folded else _DROP
    return _KEEP


@lru_cache(maxsize=1024)
def _fate_client(name: bytes) -> _Fate:
    folded = _fold(name)
    if folded in _NEVER_DOWN or folded.startswith(_NEVER_DOWN_FAMILIES):
        return _DROP
    return _COOKIE if folded == b"set-cookie" else _KEEP


def _nominated(connection: Iterable[bytes]) -> frozenset[bytes]:
    """The names that Connection declares to be for this hop alone (RFC 9110 section 7.6.1), folded."""
    tokens = b",".join(connection).lower()
    if tokens in (b"", b"keep-alive", b"close", b"upgrade"):
        return frozenset()
    return frozenset(_fold(token.strip(b" \t")) for token in tokens.split(b","))


@lru_cache(maxsize=64)
def _keeping(mode: str, strip_authorization: bool, enrolls: bool) -> frozenset[_Fate]:
    """Which credentials pass as they are.  ``enrolls``: an enrollment token was judged, whichever header it came in."""
    passed = mode == "pass"
    own = {_AUTHORIZATION} if passed or (mode == "none" and not strip_authorization) else set()
    tokens = {_ENROLLMENT, _ENROLLMENT_LIKE} if not enrolls else {_ENROLLMENT} if passed else set()
    return frozenset(own | tokens)


def _kept(headers: Headers, own: OwnCookies, keeping: frozenset[_Fate]) -> HeaderList:
    nominated = _nominated(headers.all(b"connection"))
    joined = False
    kept: list[tuple[bytes, bytes]] = []
    for line in headers.lines:
        fate = _fate_upstream(line[0])
        if fate is _DROP or (nominated and _fold(line[0]) in nominated):
            continue
        if fate is _COOKIE:
            if not joined and (cookies := client_cookies(headers, own)):
                kept.append((line[0], cookies))
            joined = True  # further lines are joined into the first (RFC 9113 section 8.2.3)
        elif fate is _KEEP or fate in keeping:
            kept.append(line)
    return tuple(kept)


def client_cookies(headers: Headers, own: OwnCookies) -> bytes:
    """The client's cookies without ours, as one Cookie value; empty when none are left."""
    known: bytes | None = headers.cookie_facts.get(own)
    if known is None:
        values = (_without_ours(value, own) for value in headers.all(b"cookie"))
        known = headers.cookie_facts[own] = b"; ".join(filter(None, values))
    return known


def _without_ours(value: bytes, own: OwnCookies) -> bytes:
    if own.base not in value:
        return value
    return b";".join(pair for pair in value.split(b";") if not own.claim(pair)).lstrip(b" \t")


def _host(info: RequestInfo, upstream: Upstream) -> bytes:
    if upstream.preserve_host and info.authority:
        return info.authority.encode()
    return _network_location(upstream.urls[0])


@lru_cache(maxsize=1024)
def _network_location(url: str) -> bytes:
    return urlsplit(url).netloc.rpartition("@")[2].encode() or b"localhost"  # a Unix socket has no host


def _forwarding(client: str, scheme: str, authority: str) -> Iterator[tuple[bytes, bytes]]:
    if client:
        yield b"X-Forwarded-For", client.encode()
    yield b"X-Forwarded-Proto", scheme.encode()
    if authority:
        yield b"X-Forwarded-Host", authority.encode()


def _names(identity: Identity) -> tuple[str, str, str, tuple[str, ...]]:
    return identity.user, identity.email, identity.preferred_username, identity.groups


@lru_cache(maxsize=4096)
def _identity_lines(prefix: bytes, user: str, email: str, preferred: str, groups: tuple[str, ...]) -> HeaderList:
    listed, whole = _group_list(groups)
    lines = (
        (prefix + b"User", _encoded(user)),
        (prefix + b"Email", _encoded(email)),
        (prefix + b"Preferred-Username", _encoded(preferred)),
        (prefix + b"Groups", listed),
    )
    return lines if whole else (*lines, (prefix + b"Groups-Truncated", b"true"))


def _group_list(groups: tuple[str, ...]) -> tuple[bytes, bool]:
    """The groups that fit, and whether these are all."""
    listed = b""
    for group in filter(None, groups):
        longer = (listed + b"," if listed else b"") + _encoded(group).replace(b",", b"%2C")
        if len(longer) > MOST_GROUP_BYTES:
            return listed, False
        listed = longer
    return listed, True


def _encoded(value: str) -> bytes:
    if _HARMLESS.fullmatch(value):
        return value.encode()
    raw = value.encode("utf-8", "surrogatepass")
    last = len(raw) - 1
    return b"".join(_octet(byte, at in (0, last)) for at, byte in enumerate(raw))


def _octet(byte: int, outermost: bool) -> bytes:
    plain = 0x20 < byte < 0x7F and byte != 0x25
    return bytes((byte,)) if plain or (byte == 0x20 and not outermost) else b"%%%02X" % byte


def _secret(upstream: Upstream) -> str:
    try:
        return upstream.bearer() if upstream.bearer else ""
    except LookupError as error:
        message = "The credential for this service cannot be read."
        raise Unavailable("upstream_secret", message, reason=str(error)) from None


def _bearer(token: str) -> bytes | None:
    # A token is visible ASCII (RFC 6750 section 2.1); anything else would be a header of somebody's making.
    return b"Bearer " + token.encode() if token.isascii() and token.isprintable() and token else None
