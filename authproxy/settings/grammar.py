"""How hosts, paths, URLs, addresses and patterns are written.

Pure functions of text.  Each returns a sentence that says what is wrong and what to do, or an empty string.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from posixpath import normpath
from typing import Final, NamedTuple

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_SEGMENT: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:@\[\]]*)"
    r"(?::(?P<port>[^/?#]*))?(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9!&',=@_~./{}-]+")
_OF_A_PATTERN: Final = re.compile(r"[*+?:$^|()\[\]<>`\\]")
"""Characters with a meaning in globs, regular expressions and the routes of other programs, and none here."""
_LITERAL_PATH: Final = re.compile(r"/[A-Za-z0-9!&',=@_~./-]*")
_ANCHORS: Final = "^$~= \\"  # what other programs write around a path without changing which paths it matches
_EVERYTHING: Final = ("*", "**", "**/*", ".*", ".+", "(.*)", ".*$", "*path")
_SHOWN: Final = 60  # characters of a path that a message repeats
_EMAIL_PART: Final = re.compile(r"[^\s@*,;<>]+")
_OTHER_SOCKET: Final = re.compile(r"https?://unix:|(?:https?\+)?unix[:@/]|/")  # as other programs write it
_SOCKET_MEANT: Final = "must be unix: and an absolute path, such as unix:/run/app.sock"
_MAX_UNIX_PATH: Final = 107  # bytes, sockaddr_un of Linux without its final NUL

METHODS: Final = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",  # RFC 9110 section 9.3, RFC 5789
    "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH",  # WebDAV
)  # fmt: skip
_REFUSED_METHODS: Final = ("CONNECT", "TRACE", "TRACK")
_EVERY_METHOD: Final = ("*", "ALL", "ANY")  # as other programs write it


class Url(NamedTuple):
    """The pieces of an absolute URL; absent pieces are empty."""

    scheme: str
    user: str
    host: str  # IPv6 without brackets
    port: str
    path: str
    query: str
    fragment: str


def split(text: str) -> Url | None:
    """The pieces of ``text``, or None when it is no absolute URL."""
    found = _URL.fullmatch(text)
    if found is None or found["port"] == "" or not text.isascii() or not text.isprintable() or " " in text:
        return None
    pieces = {name: piece or "" for name, piece in found.groupdict().items()}
    return Url(**{**pieces, "host": pieces["host"].strip("[]")})


def host_of(text: str) -> str:
    """The host of a URL; empty when it is none."""
    url = split(text)
    return url.host if url else ""


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine."""
    if is_address(host):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def host(text: str) -> str:
    """What is wrong with the host of an app."""
    if text == "*" or (is_address(text) and ":" not in text):
        return ""
    if "%" in text:
        return "must be a host without % and without a zone"
    if is_address(text.strip("[]")):
        return "" if text == f"[{text.strip('[]')}]" else f'must have brackets around an IPv6 address: "[{text}]"'
    if "://" in text:
        return "must be a host alone, without http:// or https://"
    if "/" in text:
        return "must be a host alone; write the path under path"
    if text.startswith("*."):
        return 'cannot hold a wildcard; name each host, or write "*" for every host'
    if ":" in text or "[" in text:
        return "must be a host without a port; the port of a request is ignored"
    return _name(text)


def _name(text: str) -> str:
    if not text.isascii():
        return "must be in ASCII; write an international name in its xn-- form"
    if text != text.lower():
        return f"must be in lower case: {text.lower()}"
    if text.endswith("."):
        return "must not end with a dot"
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        return "must be a DNS name, an IP address or *"
    return ""


def server_name(text: str) -> str:
    """What is wrong with the name that a certificate must have."""
    if is_address(text):
        return "" if "%" not in text else "must not have a zone"
    return _name(text).replace("a DNS name, an IP address or *", "the DNS name or address that the certificate is for")


def canonical_host(text: str) -> str:
    """The one spelling of a host that has no fault: an IPv6 address can be written in several ways."""
    bare = text.strip("[]")
    return f"[{ip_address(bare)}]" if ":" in bare and is_address(bare) else text


def domain(text: str) -> str:
    """What is wrong with the domain of a cookie (RFC 6265 section 5.2.3)."""
    if text.startswith("."):
        return f"must be written without the dot before it: {text.lstrip('.')}"
    if is_address(text) or text == "*" or _name(text):
        return _name(text) or "must be a DNS name, such as example.com"
    if "." not in text:
        return (
            "must have at least two labels, such as example.com; browsers refuse cookies for a whole top-level domain"
        )
    return ""


def path(text: str) -> str:
    """What is wrong with the path of a route."""
    fault = plain_path(text)
    if fault:
        return fault
    names = [segment for segment in text.split("/") if "{" in segment or "}" in segment]
    if not all(_SEGMENT.fullmatch(name) for name in names):
        return "must have {name} as a whole segment, such as /clusters/{cluster}/"
    if len(set(names)) != len(names):
        return "must not use one {name} twice"
    return ""


def plain_path(text: str) -> str:
    """What is wrong with a path, whether or not it may have captures."""
    if _OF_A_PATTERN.search(text) or text.lstrip(_ANCHORS) != text:
        return _pattern(text)
    if not text.startswith("/"):
        return "must start with /"
    if "#" in text:
        return "must be a path without ? and #; the query plays no part in matching"
    if "//" in text:
        return "must not have empty segments (//)"
    if {".", ".."} & set(text.split("/")):
        return "must not have . or .. as a segment"
    if "%" in text:
        return "must not have percent-escapes: a prefix alone, such as /files/, matches paths with escaped characters"
    if ";" in text:
        return "must not have path parameters (;), which servers read in different ways"
    return "" if _PLAIN.fullmatch(text) else "must hold only characters that clients do not escape"


def _pattern(text: str) -> str:
    """What to write instead of a glob, a regular expression, a ``:name``, or a path with its query."""
    found = _OF_A_PATTERN.search(text.strip(_ANCHORS))
    literal = _LITERAL_PATH.search(text)
    query = literal is not None and text[literal.end() :].startswith("?") and text.startswith("/")
    if query and not _OF_A_PATTERN.search(text.replace("?", "")):
        return f"must be a path without ? and #: the query plays no part in matching; write {_exact(literal)}"
    if found is None:
        return f"looks like a pattern; write {_exact(literal)} for this path alone, or end it with / for all below it"
    folder = literal[0].rpartition("/")[0] if literal else ""
    whole = literal is not None and literal[0].endswith("/") and text[literal.end() :] in _EVERYTHING
    prefix = f"{folder[:_SHOWN]}/" if folder or whole else "a prefix that ends in /, such as /admin/,"
    return (
        f"looks like a pattern, but {found[0]} has no special meaning: write {prefix} to match everything below it,"
        " or {name} for one segment, also one with such characters in it"
    )


def _exact(literal: re.Match[str] | None) -> str:
    return literal[0][:_SHOWN] if literal else "/"


def methods(names: list[str]) -> str:
    """What is wrong with a list of methods."""
    if not names:
        return "must not be empty; leave it out for every method"
    for name in names:
        if name not in METHODS:
            return _method(name)
    return "" if len(set(names)) == len(names) else "names a method twice"


def _method(name: str) -> str:
    upper = name.upper()
    if upper in METHODS:
        return f"must be in upper case: {upper}"
    if upper in _REFUSED_METHODS:
        return f"names {upper}, which authproxy always refuses; remove it"
    if upper in _EVERY_METHOD:
        return f"names {upper}, which is no method; leave methods out for every method"
    return f"names {name[:40]}, which is no method of HTTP"


def origin(text: str, *, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """What is wrong with ``scheme://host[:port]``."""
    fault = url(text, schemes=schemes)
    pieces = split(text)
    if fault or pieces is None:
        return fault
    if pieces.path == "/" and not pieces.query + pieces.fragment:
        return "must not end with /"
    if pieces.path or pieces.query or pieces.fragment:
        return "must be scheme, host and port alone, without path, query or fragment"
    return ""


def url(text: str, *, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """What is wrong with an absolute URL."""
    pieces = split(text)
    if pieces is None or pieces.scheme not in schemes or not pieces.host:
        return f"must be a URL such as {schemes[-1]}://host.example.com"
    if pieces.user:
        return "must not hold a user or password"
    if not is_port(pieces.port or "443"):
        return "must have a port from 1 to 65535"
    if "://[" in text and not (":" in pieces.host and is_address(pieces.host)):
        return "must have a valid IPv6 address between [ and ]"
    return (
        "" if is_address(pieces.host) else _name(pieces.host).replace("a DNS name, an IP address or *", "a valid URL")
    )


def is_port(text: str) -> bool:
    """Whether ``text`` is a port from 1 to 65535."""
    return text.isascii() and text.isdecimal() and 0 < int(text[:9]) < 65536


def address(text: str) -> str:
    """What is wrong with what a listener binds: ``host:port`` or ``unix:/path``.  Port 0 is any free port."""
    if text.startswith("unix:"):
        return _socket(text.removeprefix("unix:"), "unix:/run/authproxy.sock")
    name, colon, port = text.rpartition(":")
    if not colon or (":" in name and not name.startswith("[")):
        return "must be host:port, [IPv6]:port or unix:/path"
    if not name:
        return f"must name the host as well; for every interface write 0.0.0.0:{port[:5]}"
    if port != "0" and not is_port(port):
        return "must have a port from 1 to 65535"
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    return "" if is_address(bare) or (bare == name and not _name(name)) else "must be host:port or unix:/path"


def upstream(text: str) -> str:
    """What is wrong with where an upstream is: ``scheme://host[:port]``, ``unix:/path`` or ``unix:///path``."""
    if not is_socket(text):
        return _SOCKET_MEANT if _OTHER_SOCKET.match(text) else origin(text)
    where = text.removeprefix("unix:")
    if where.startswith("//"):
        where = where.removeprefix("//")
    if where.startswith("//"):
        return _SOCKET_MEANT
    if any(character in where for character in "%?#\\") or where.endswith("/"):
        return "must be the path of a socket as it is, without % ? # and \\, and without / at its end"
    return _socket(where, "unix:/run/app.sock")


def is_socket(text: str) -> bool:
    """Whether an upstream is, or is meant to be, a unix socket."""
    return text.startswith("unix:")


def _socket(where: str, example: str) -> str:
    if not where.startswith("/"):
        return f"must be unix: and an absolute path, such as {example}"
    if len(where.encode()) > _MAX_UNIX_PATH:
        return f"must be a path of at most {_MAX_UNIX_PATH} bytes"
    return "" if where.isprintable() else "must not hold control characters"


def node(text: str) -> str:
    """What is wrong with a node of Redis: ``host:port``."""
    fault = address(text)
    return "must be host:port, such as redis-1:6379" if fault or text.startswith("unix:") or text.endswith(":0") else ""


def email(text: str) -> str:
    """What is wrong with an e-mail pattern of a rule."""
    local, at, tail = text.partition("@")
    if not at or not _EMAIL_PART.fullmatch(tail) or not (local == "*" or _EMAIL_PART.fullmatch(local)):
        return 'must be an address such as ann@example.com, or a whole domain such as "*@example.com"'
    return ""


def same_listener(one: str, other: str) -> bool:
    """Whether two addresses cannot be bound at the same time, however they are written."""
    if one.startswith("unix:") or other.startswith("unix:"):
        return normpath(one) == normpath(other)
    (host_a, _, port_a), (host_b, _, port_b) = one.rpartition(":"), other.rpartition(":")
    if not (is_port(port_a) and is_port(port_b)):  # port 0 is another one each time
        return False
    everything = {"0.0.0.0", "[::]"}  # noqa: S104  # compared with, never bound
    hosts_a, hosts_b = _spellings(host_a), _spellings(host_b)
    return int(port_a) == int(port_b) and bool(hosts_a & hosts_b or (hosts_a | hosts_b) & everything)


def _spellings(name: str) -> set[str]:
    """The addresses that a host of a listener stands for, as far as no resolver has to be asked."""
    if name.lower() == "localhost":
        return {"localhost", "127.0.0.1", "[::1]"}
    return {canonical_host(name.lower())}
