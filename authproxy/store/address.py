"""Where a Redis is: from the operator's URL or a node's name to the arguments of a connection.

Knows ``redis://``, ``rediss://`` and ``unix://``.  No message of this room repeats a URL, since it may hold a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from authproxy.settings.redis_url import RedisUrl, parse

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
    found = _parsed(url)
    if found.scheme == "unix":
        kind: type[AbstractConnection] = UnixDomainSocketConnection
        where: dict[str, Any] = {"path": found.path}
    else:
        kind = SSLConnection if found.scheme == "rediss" else Connection
        where = {"host": found.host, "port": found.port} | (_tls(ca) if found.scheme == "rediss" else {})
    where["db"] = found.database
    name = username or found.username or None
    secret = password or ((lambda: found.password) if found.password else None)
    if name or secret:
        where["credential_provider"] = Credentials(name, secret)
    return Address(kind, where)


def _parsed(url: str) -> RedisUrl:
    try:
        return parse(url)
    except ValueError as error:
        raise ValueError(f"the Redis URL {error}") from None


def node_address(
    node: tuple[str, int], *, username: str | None, password: Password | None, tls: bool, ca: str | None
) -> Address:
    """How to connect to ``node`` of a Sentinel set-up or a cluster; ``ca`` asks for TLS as ``tls`` does."""
    host, port = node
    where: dict[str, Any] = {"host": host, "port": port}
    if username or password:
        where["credential_provider"] = Credentials(username, password)
    return Address(SSLConnection, where | _tls(ca)) if tls or ca else Address(Connection, where)


def _tls(ca: str | None) -> dict[str, Any]:
    return {"ssl_ca_certs": ca, "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
