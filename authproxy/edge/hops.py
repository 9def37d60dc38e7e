"""Hops: which peers may speak for others, and which address is the client's.

``X-Forwarded-For`` is the one source; ``Forwarded`` and ``X-Real-IP`` are not read, so that two of them can never
contradict each other.  By default nobody is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from authproxy.model import Headers, Network

Address = IPv4Address | IPv6Address

MOST_HOPS: Final = 100
_REMEMBERED: Final = 4096
_HOP: Final = re.compile(
    r"\[([0-9A-Fa-f:.]{2,45})(?:%[\w.-]{1,16})?\](?::\d{1,5})?"  # [2001:db8::1]:443
    r"|([0-9.]{7,15})(?::\d{1,5})?"  # 192.0.2.1:443
    r"|([0-9A-Fa-f:.]{2,45})(?:%[\w.-]{1,16})?",  # 2001:db8::1
    re.ASCII,
)


@lru_cache(maxsize=_REMEMBERED)
def address(text: str) -> Address | None:
    """The IP address that ``text`` spells, or None.  Zones are dropped; IPv4-mapped IPv6 is IPv4 (RFC 4291 2.5.5.2)."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def subscriber(text: str) -> str:
    """Whom the address ``text`` stands for: an IPv6 client is its /64, since it may choose the rest (RFC 4291 2.5.1).

    What is no address stands for itself.
    """
    found = address(text)
    if isinstance(found, IPv6Address):
        return str(ip_network((found.packed, 64), strict=False))
    return text if found is None else str(found)


class TrustedProxies:
    """The peers that may say who their client is: ``peer in trusted``.

    A peer on a Unix socket has the address ``""`` and is trusted only with ``unix=True``.  ``hops`` is the number of
    proxies in front of us, the peer included; 0: each proxy is known by its address.
    """

    __slots__ = ("_known", "_networks", "_unix", "hops")

    def __init__(self, networks: Iterable[Network] = (), *, unix: bool = False, hops: int = 0) -> None:
        self._networks: Final = tuple(networks)
        self._unix: Final = unix
        self.hops: Final = hops
        self._known: Final[dict[str, bool]] = {}  # peers are few; the answer for each never changes

    def __contains__(self, peer: str) -> bool:
        known = self._known.get(peer)
        return self._remember(peer) if known is None else known

    def _remember(self, peer: str) -> bool:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[peer] = answer = self._judge(peer)
        return answer

    def _judge(self, peer: str) -> bool:
        if peer == "":
            return self._unix
        found = address(peer)
        return found is not None and any(found in network for network in self._networks)

    def __repr__(self) -> str:
        hops = f", {self.hops} hops" if self.hops else ""
        return f"<TrustedProxies {len(self._networks)} networks{', unix' if self._unix else ''}{hops}>"


def client_address(peer: str, headers: Headers, trusted: TrustedProxies) -> str:
    """The address of the client of a trusted peer; an untrusted peer is the client.

    Without ``trusted.hops``: the right-most entry of X-Forwarded-For that is not itself a trusted proxy.  With them:
    the entry at that position, counted from the right, whatever addresses stand there; the left-most where there are
    fewer.  Each proxy adds the address of its own peer on the right, so that the client cannot choose that entry.

    Every ``X-Forwarded-For`` line counts, as one list.  An entry that is not an address (``unknown``, ``_hidden``,
    garbage) ends the walk, and so do 100 entries: then the last good hop is the client.
    """
    client = _canonical(peer)
    if peer not in trusted:
        return client
    most = trusted.hops or MOST_HOPS
    for entry in reversed(b",".join(headers.all(b"x-forwarded-for")).rsplit(b",", most)[-most:]):
        hop = _hop(entry)
        if hop is None:
            break
        client = hop
        if not trusted.hops and hop not in trusted:
            break
    return client


@lru_cache(maxsize=_REMEMBERED)
def _canonical(peer: str) -> str:
    found = address(peer)
    return peer if found is None else str(found)


def _hop(entry: bytes) -> str | None:
    found = _HOP.fullmatch(entry.decode("latin-1").strip(" \t"))
    named = found and address(found[1] or found[2] or found[3])
    return str(named) if named else None
