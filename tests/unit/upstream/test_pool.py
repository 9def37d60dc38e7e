"""Pools: turns, rest, TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from authproxy.model import Upstream
from authproxy.upstream.pool import REST_SECONDS, Pools, address_of
from tests.peers.raw_wire import House, RawUpstream, answering
from tests.peers.self_signed import self_signed

GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Clock:
    """A clock that tests move."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _ports(pools: Pools, upstream: Upstream) -> list[int | None]:
    return [url.port for url in pools.of(upstream).candidates()]


async def test_turns() -> None:
    """Every request starts with the next URL."""
    upstream = Upstream(urls=("http://a:1", "http://a:2", "http://a:3"))
    async with Pools() as pools:
        assert [_ports(pools, upstream) for _ in range(4)] == [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]


async def test_rest() -> None:
    """A URL that failed goes to the end for 5 s, and none is ever left out."""
    clock = Clock()
    upstream = Upstream(urls=("http://a:1", "http://a:2"))
    async with Pools(clock) as pools:
        pool = pools.of(upstream)
        pool.rest(pool.candidates()[0])
        assert [_ports(pools, upstream) for _ in range(2)] == [[2, 1], [2, 1]]
        pool.rest(pool.candidates()[0])
        assert sorted(port or 0 for port in _ports(pools, upstream)) == [1, 2]
        clock.now += REST_SECONDS
        assert _ports(pools, upstream) != _ports(pools, upstream)


def test_an_address_is_what_the_url_says() -> None:
    """Scheme, host, port and the Host that goes with them; both spellings of a Unix socket are the same place."""
    assert address_of("http://app") == (False, "app", 80, b"app")
    assert address_of("https://[2001:db8::1]:8443") == (True, "2001:db8::1", 8443, b"[2001:db8::1]:8443")
    assert address_of("unix:/run/app.sock") == (False, "/run/app.sock", 0, b"localhost")
    assert address_of("unix:///run/app.sock") == address_of("unix:/run/app.sock")


async def test_one_pool_for_each_upstream() -> None:
    """Apps that name the same server share its connections; another TLS identity does not."""
    async with Pools() as pools:
        first = pools.of(Upstream(urls=("https://a:1",)))
        assert pools.of(Upstream(urls=("https://a:1",), timeout=1)) is first
        assert pools.of(Upstream(urls=("https://a:1",), server_name="b")) is not first


async def test_dead_url_is_passed_over() -> None:
    """A request whose first URL cannot be connected to goes to the next, body and all."""

    async with (
        RawUpstream(answering(OK)) as upstream,
        House("http://127.0.0.1:9", upstream.url) as house,
        house.client() as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 2\r\n\r\nab")
        assert (await client.reply()).status == 200
    assert upstream.seen.endswith(b"\r\n\r\nab")


@pytest.mark.parametrize(("upgrade"), [False, True])
@pytest.mark.parametrize(("trusted", "server_name"), [(True, "app.test"), (False, "app.test"), (True, "other.test")])
async def test_upstream_tls(tmp_path: Path, trusted: bool, server_name: str, upgrade: bool) -> None:
    """The upstream's certificate is checked against its own CA and name; no fallback, with or without Upgrade."""
    certificate, key = self_signed(tmp_path, "app.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with RawUpstream(answering(OK), tls=context) as upstream, House() as house, house.client() as client:
        house.upstream = Upstream(
            urls=(upstream.url.replace("http:", "https:"),),
            ca=str(certificate) if trusted else None,
            server_name=server_name,
            timeout=5,
        )
        await client.send(GET[:-2] + (b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" if upgrade else b"\r\n"))
        reply = await client.reply()
        await asyncio.sleep(0)
    good = trusted and server_name == "app.test"
    assert reply.status == (200 if good else 502)
    assert house.refusals == ([] if good else ["upstream_tls"])
    assert (b"GET" in upstream.seen) == good
