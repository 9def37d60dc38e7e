"""Hosts: one canonical spelling for every way to write an authority.

Knows RFC 3986 section 3.2 and nothing of requests; whoever compares hosts compares what this room returned.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from authproxy.errors import BadRequest

_AUTHORITY: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,254}))(?::([0-9]{1,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """Where a request is addressed to.  ``host`` is lower case, without a dot at the end, IPv6 without brackets."""

    host: str
    port: int | None = None

    @property
    def text(self) -> str:
        """``host[:port]``, with brackets around IPv6: fit for URLs and for the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def same_as(self, other: Authority, scheme: str) -> bool:
        """Whether both name one place when ``scheme`` supplies the port that is left out."""
        default = _DEFAULT_PORTS[scheme]
        return (self.host, self.port or default) == (other.host, other.port or default)


@lru_cache(maxsize=1024)  # failures are not remembered, so that nobody fills it with garbage
def parse(value: bytes) -> Authority:
    """The authority that a Host header names (RFC 9110 section 7.2).

    Raises BadRequest ``bad_host`` for anything but a DNS name, an IPv4 or a bracketed IPv6 address, with an optional
    port of 1 to 65535: userinfo, zones, percent-escapes and non-ASCII names are refused.
    """
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        raise _bad_host()
    six, name, port = found.groups()
    host = _address(six.decode()) if six else _name(name.decode().lower())
    return Authority(host, None if port is None else _port(int(port)))


def _address(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise _bad_host() from None


def _name(text: str) -> str:
    name = text.removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise _bad_host()
    return name


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise _bad_host()
    return number


def _bad_host() -> BadRequest:
    return BadRequest("bad_host", "The Host header does not name one valid host.")
