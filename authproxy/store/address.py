"""Where a Redis is: from the operator's URL or a node's name to the arguments of a connection.

Knows ``redis://``, ``rediss://`` and ``unix://``.  No message of this room repeats a URL, since it may hold a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

Password = Callable[[], str]


class Address(NamedTuple):
    """The kind of a connection and its arguments."""

    connection: type[AbstractConnection]
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Address {self.connection.__name__}>"


class Credentials(CredentialProvider):
    """Reads the password anew for every connection, so that a rotated one is used without a restart."""

    def __init__(self, username: str | None, password: Password | None) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._password() if self._password is not None else ""
        except LookupError as error:
            # An error of the library's own kind: only then does it drop the connection that is not signed in.
            raise AuthenticationError(f"the password cannot be read: {error}") from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def __repr__(self) -> str:
        return "<Credentials>"


def address(url: str, *, username: str | None, password: Password | None, ca: str | None) -> Address:
    """Read ``url``; ``username`` and ``password`` go before what it says, ``ca`` is the path of a PEM bundle for TLS.

    Raises ValueError, in words that do not repeat the URL.
    """
    parts, port = _split(url)
    query = _query(parts)
    if parts.scheme == "unix":
        kind, where = _unix(parts)
    else:
        kind, where = _network(parts, port, ca)
    found = query.get("password") or unquote(parts.password or "")
    name = username or unquote(parts.username or "") or None
    secret = password or ((lambda: found) if found else None)
    where["db"] = _database(query.get("db") or (parts.path.strip("/") if parts.scheme != "unix" else ""))
    if name or secret:
        where["credential_provider"] = Credentials(name, secret)
    return Address(kind, where)


def node_address(
    node: tuple[str, int], *, username: str | None, password: Password | None, tls: bool, ca: str | None
) -> Address:
    """How to connect to ``node`` of a Sentinel set-up or a cluster; ``ca`` asks for TLS as ``tls`` does."""
    host, port = node
    where: dict[str, Any] = {"host": host, "port": port}
    if username or password:
        where["credential_provider"] = Credentials(username, password)
    return Address(SSLConnection, where | _tls(ca)) if tls or ca else Address(Connection, where)


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the Redis URL cannot be read; encode special characters of the password as %XX") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("the Redis URL must begin with redis://, rediss:// or unix://")
    return parts, port


def _query(parts: SplitResult) -> dict[str, str]:
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.fragment or query.keys() - {"db", "password"}:
        raise ValueError("the Redis URL may have the parameters db and password, and no other")
    return query


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database in the Redis URL must be a number")
    return int(text)


def _unix(parts: SplitResult) -> tuple[type[AbstractConnection], dict[str, Any]]:
    if not parts.path or parts.hostname:
        raise ValueError("the Redis URL must name the socket: unix:///path/of/the.sock")
    return UnixDomainSocketConnection, {"path": unquote(parts.path)}


def _network(parts: SplitResult, port: int | None, ca: str | None) -> tuple[type[AbstractConnection], dict[str, Any]]:
    where: dict[str, Any] = {"host": parts.hostname or "localhost", "port": port or 6379}
    if parts.scheme == "redis":
        return Connection, where
    return SSLConnection, where | _tls(ca)


def _tls(ca: str | None) -> dict[str, Any]:
    return {"ssl_ca_certs": ca, "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
