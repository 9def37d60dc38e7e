"""The grammar of Redis URLs: ``redis://[user[:password]@]host[:port][/db]``, ``rediss://…`` and ``unix:///path``.

The settings check and the store read a URL by this one function.  No message repeats a part of a URL that may be
secret.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from authproxy.settings import grammar

_SCHEMES: Final = ("redis", "rediss", "unix")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PIECES: Final = re.compile(r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?")
_PLACE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(?::(?P<port>[^:]*))?")
_DATABASE: Final = re.compile(r"[0-9]{1,9}")
_PARAMETERS: Final = ("db", "password")
_OF_CLIENTS: Final = (
    "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile",
    "ssl_min_version", "protocol", "socket_timeout", "socket_connect_timeout", "max_connections", "timeout",
    "health_check_interval", "client_name", "username", "retry_on_timeout", "virtual_host",
)  # fmt: skip
"""Parameters of client libraries: the only words of a query that a message may repeat."""
_ENCODE: Final = (
    "must have user name and password percent-encoded: %25 for %, %2F for /, %3F for ?, %23 for #, %40 for @"
)


class RedisUrl(NamedTuple):
    """What a URL says; absent texts are empty."""

    scheme: str
    host: str  # IPv6 without brackets; empty for unix
    port: int
    path: str  # of the socket; empty unless unix
    username: str
    password: str
    database: int

    def __repr__(self) -> str:
        return f"<RedisUrl {self.scheme}>"


def parse(text: str) -> RedisUrl:
    """Read a URL.  Raises ValueError with a sentence that begins with "must" and repeats no secret."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ValueError("must be a URL such as redis://redis:6379, rediss://… or unix:///run/redis.sock")
    if not text.isprintable() or " " in text:
        raise ValueError("must not hold spaces or control characters; write them as %XX")
    pieces = {name: piece or "" for name, piece in _matched(rest).items()}
    tail = pieces["path"] + pieces["query"] + pieces["fragment"]
    try:
        return _read(scheme.lower(), pieces)
    except ValueError as error:
        if "@" in tail and scheme != "unix":  # the authority ended inside the password
            raise ValueError(_ENCODE) from None
        raise ValueError(*error.args) from None


def _matched(rest: str) -> dict[str, str | None]:
    found = _PIECES.fullmatch(rest)
    if found is None:
        raise ValueError("must not hold line breaks")
    return found.groupdict()


def _read(scheme: str, pieces: dict[str, str]) -> RedisUrl:
    user, _, place = pieces["authority"].rpartition("@")
    username, _, password = user.partition(":")
    if "@" in user:
        raise ValueError(_ENCODE)
    query = _query(pieces["query"].removeprefix("?"))
    if pieces["fragment"]:
        raise ValueError("must not have a #; in a password write %23")
    host, port = ("", 0) if scheme == "unix" else _host(place)
    if scheme == "unix" and (place or not pieces["path"].startswith("/") or pieces["path"] == "/"):
        raise ValueError("must name the socket by its whole path: unix:///path/of/the.sock")
    return RedisUrl(
        scheme, host, port, _decoded(pieces["path"]) if scheme == "unix" else "", _decoded(username),
        query.get("password") or _decoded(password),
        _database("" if scheme == "unix" else pieces["path"], query.get("db", "")),
    )  # fmt: skip


def _host(place: str) -> tuple[str, int]:
    if "," in place:
        raise ValueError("must name one host; for several write store.redis.sentinel or store.redis.cluster")
    found = _PLACE.fullmatch(place)
    if found is None or not found["host"]:
        raise ValueError("must name a host and a port, such as redis://redis:6379")
    host, port = found["host"].strip("[]"), found["port"]
    if host == "*" or (not grammar.is_address(host) and grammar.host(host.lower())):
        raise ValueError("must name a host by its DNS name or its address")
    if port is not None and not grammar.is_port(port):
        raise ValueError("must have a port from 1 to 65535")
    return host.lower(), int(port or 6379)


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=9)
    except ValueError:
        raise ValueError("must have db and password as its only parameters; in a password write %3F for ?") from None
    names = [name for name, _ in pairs]
    for name in names:
        if name in _OF_CLIENTS:
            tls = "; TLS is always verified: write rediss:// and store.redis.ca" if name.startswith("ssl_") else ""
            raise ValueError(f"must not have the parameter {name}{tls}")
    if set(names) - set(_PARAMETERS) or len(set(names)) != len(names):
        raise ValueError("must have db and password as its only parameters, each once")
    return dict(pairs)


def _database(path: str, parameter: str) -> int:
    named = {text for text in (path.strip("/"), parameter) if text}
    if len(named) > 1:
        raise ValueError("must name one database, in its path or as the parameter db")
    text = "".join(named) or "0"
    if not _DATABASE.fullmatch(text) or path.count("/") > 2:
        raise ValueError("must have a number as its database, such as redis://redis:6379/1")
    return int(text)


def _decoded(text: str) -> str:
    if _BROKEN_ESCAPE.search(text):
        raise ValueError(_ENCODE)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(_ENCODE) from None
