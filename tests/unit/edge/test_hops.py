"""Who may speak for others, and whose address is the client's."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.edge.hops import _REMEMBERED, TrustedProxies, client_address
from authproxy.model import Headers

TEN = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48")])


def hops(number: int) -> TrustedProxies:
    """So many proxies in front, in the network of TEN."""
    return TrustedProxies([ip_network("10.0.0.0/8")], hops=number)


def walk(*lines: str, peer: str = "10.0.0.1", trusted: TrustedProxies = TEN) -> str:
    """The client's address, given X-Forwarded-For lines."""
    return client_address(peer, Headers((b"X-Forwarded-For", line.encode("latin-1")) for line in lines), trusted)


def test_nobody_is_trusted_by_default() -> None:
    """Without networks no peer may speak for others, and none on a Unix socket."""
    assert "127.0.0.1" not in TrustedProxies()
    assert "" not in TrustedProxies()
    assert "" not in TEN
    assert "" in TrustedProxies(unix=True)


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:ffff::7", "2001:db8:ffff::7%eth0"])
def test_a_network_holds_its_peers_in_every_notation(peer: str) -> None:
    """IPv4 that arrives on an IPv6 socket is IPv4; a zone is no part of an address."""
    assert peer in TEN


@pytest.mark.parametrize("peer", ["11.0.0.1", "::ffff:11.0.0.1", "2001:db8::1", "nonsense", "10.0.0.1, 10.0.0.2"])
def test_everybody_else_is_not_trusted(peer: str) -> None:
    """Also not what is no address at all."""
    assert peer not in TEN


def test_what_is_remembered_is_bounded() -> None:
    """More peers than are remembered change no answer."""
    trusted = TrustedProxies([ip_network("10.0.0.0/8")])
    for number in range(_REMEMBERED + 10):
        assert f"10.{number // 65536}.{number // 256 % 256}.{number % 256}" in trusted
    assert "10.0.0.0" in trusted
    assert "192.0.2.1" not in trusted


def test_the_words_for_a_person_at_a_console_say_the_state() -> None:
    """How many networks, and whether Unix sockets count."""
    assert repr(TEN) == "<TrustedProxies 2 networks>"
    assert repr(TrustedProxies(unix=True)) == "<TrustedProxies 0 networks, unix>"
    assert repr(hops(2)) == "<TrustedProxies 1 networks, 2 hops>"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.1"], "192.0.2.1"),
        (["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.9, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["198.51.100.9", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:443\t"], "2001:db8::1"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, unknown"], "10.0.0.1"),
        (["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.1, _hidden"], "10.0.0.1"),
        (["192.0.2.1, ,"], "10.0.0.1"),
        (["192.0.2.1, 999.1.1.1"], "10.0.0.1"),
        (["192.0.2.1, 010.0.0.2"], "10.0.0.1"),
        (["192.0.2.1, 10.0.0.2:99:1"], "10.0.0.1"),
        (['"192.0.2.1"'], "10.0.0.1"),
        (["\xff"], "10.0.0.1"),
        (["::::"], "10.0.0.1"),
        (["[::1"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_not_ours(lines: list[str], client: str) -> None:
    """All lines are one list, read from the right; what is no address ends the walk (H2, H3)."""
    assert walk(*lines) == client


def test_a_peer_that_is_not_trusted_is_the_client() -> None:
    """What it says about others is not read."""
    assert walk("192.0.2.1", peer="203.0.113.5") == "203.0.113.5"
    assert walk("192.0.2.1", peer="::ffff:203.0.113.5") == "203.0.113.5"
    assert walk("192.0.2.1", peer="") == ""
    assert walk("192.0.2.1", peer="fe80::1%eth0") == "fe80::1"


def test_a_trusted_unix_peer_may_speak() -> None:
    """A proxy on the same machine names the client."""
    assert walk("192.0.2.1", peer="", trusted=TrustedProxies(unix=True)) == "192.0.2.1"


@pytest.mark.parametrize(
    ("number", "lines", "client"),
    [
        (1, [], "10.0.0.1"),
        (1, ["10.5.5.5"], "10.5.5.5"),  # a client in the network of the proxies keeps its address
        (1, ["192.0.2.1, 10.5.5.5"], "10.5.5.5"),  # and cannot choose another
        (1, ["192.0.2.1", "10.5.5.5"], "10.5.5.5"),
        (2, ["192.0.2.1, 203.0.113.9, 198.51.100.7"], "203.0.113.9"),  # the load balancer's address need not be known
        (2, ["192.0.2.1, 10.5.5.5, 10.0.0.2"], "10.5.5.5"),
        (3, ["203.0.113.9, 198.51.100.7"], "203.0.113.9"),  # fewer proxies than counted: the left-most
        (2, ["192.0.2.1, unknown, 198.51.100.7"], "198.51.100.7"),
        (2, ["192.0.2.1, 203.0.113.9, unknown"], "10.0.0.1"),
        (2, ["192.0.2.1, 203.0.113.9:4711, [2001:db8::1]:443"], "203.0.113.9"),
        (100, [", ".join(["192.0.2.1"] + ["10.0.0.9"] * 99)], "192.0.2.1"),
        (100, [", ".join(["192.0.2.1"] + ["10.0.0.9"] * 100)], "10.0.0.9"),
    ],
)
def test_the_client_is_the_entry_at_that_many_hops(number: int, lines: list[str], client: str) -> None:
    """With hops the position decides, not the addresses."""
    assert walk(*lines, trusted=hops(number)) == client


def test_hops_count_from_a_trusted_peer_alone() -> None:
    """Another peer is the client, whatever the header says."""
    assert walk("192.0.2.1", peer="203.0.113.5", trusted=hops(1)) == "203.0.113.5"


@given(st.lists(st.sampled_from(["192.0.2.1", "10.0.0.2", "unknown", ""]), max_size=8), st.integers(1, 4))
def test_a_client_never_chooses_its_address_past_the_hops(spoofed: list[str], number: int) -> None:
    """What stands left of the entries of the proxies changes nothing."""
    added = ["203.0.113.77", *(f"10.0.0.{hop}" for hop in range(2, number + 1))]
    assert walk(", ".join([*spoofed, *added]), trusted=hops(number)) == "203.0.113.77"


def test_at_most_a_hundred_hops_are_looked_at() -> None:
    """The hundredth entry from the right is the last."""
    chain = [f"10.0.{number // 256}.{number % 256}" for number in range(1000)]
    assert walk(", ".join(["192.0.2.1", *chain])) == chain[-100]
    assert walk(", ".join(["192.0.2.1", *chain[-99:]])) == "192.0.2.1"


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_end_the_walk_at_worst(lines: list[bytes]) -> None:
    """No value makes the walk fail."""
    client = client_address("10.0.0.1", Headers((b"x-forwarded-for", line) for line in lines), TEN)
    assert client


@given(st.lists(st.sampled_from(["192.0.2.1", "198.51.100.1", "10.0.0.2", "unknown"]), max_size=8))
def test_what_a_client_writes_never_outweighs_what_a_proxy_adds(spoofed: list[str]) -> None:
    """The entry that our own proxy appended decides, whatever stands left of it."""
    assert walk(", ".join([*spoofed, "203.0.113.77", "10.0.0.9"])) == "203.0.113.77"
