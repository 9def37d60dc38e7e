"""The bounds on connections, on raw sockets: who is one too many, what it hears, and that nobody else notices."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import uvloop

from authproxy.edge import handshakes, limits
from authproxy.edge.connections import Bounds, Connections
from authproxy.edge.departure import Departure
from authproxy.edge.hops import TrustedProxies
from authproxy.edge.wire import ClientConnection
from authproxy.model import Answer
from tests.peers.fake_clock import FakeClock
from tests.peers.fake_transport import FakeTransport
from tests.peers.raw_wire import PATIENCE, House, RawClient, RawConnection, RawUpstream, answering
from tests.peers.self_signed import self_signed

GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NOBODY = TrustedProxies()
PROXY = TrustedProxies([ip_network("127.0.0.9")])


def counting(house: House) -> Connections:
    """What the house counts with."""
    connections = house.door._connections
    assert connections is not None
    return connections


async def until(reached: Callable[[], bool]) -> None:
    """Wait for what the other side has to notice first."""
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.001)


async def served(client: RawClient) -> bool:
    """Whether the client is answered by the application."""
    await client.send(GET)
    return (await client.reply()).body == b"hi"


async def refused(client: RawClient) -> bool:
    """Whether the client hears that there are too many, and the end of the connection."""
    await client.send(GET)
    reply = await client.reply()
    assert reply.status == 503
    assert (reply.get(b"retry-after"), reply.get(b"connection"), reply.body) == (b"5", b"close", b"full")
    return await client.rest() == b""


async def entered(stack: AsyncExitStack, house: House, number: int, source: str | None = None) -> list[RawClient]:
    """So many clients, each of which the house has noticed."""
    made = []
    for _ in range(number):
        made.append(await stack.enter_async_context(house.client(source)))
        assert await served(made[-1])
    return made


async def test_one_more_than_in_all() -> None:
    """The one beyond ``total`` is told so and closed; the others go on, and when one leaves another is welcome."""
    bounds = Bounds(3, 100, NOBODY)
    async with (
        RawUpstream(answering(OK)) as upstream,
        House(upstream.url, bounds=bounds) as house,
        AsyncExitStack() as stack,
    ):
        clients = await entered(stack, house, 3)
        for _ in range(2):
            async with house.client() as late:
                assert await refused(late)
        assert [await served(one) for one in clients] == [True] * 3
        await clients[0].__aexit__(None, None, None)
        await until(lambda: len(counting(house)) == 2)
        assert await served((await entered(stack, house, 1))[0])
        assert house.crowded == ["total", "total"]
        assert len(house.infos) == 3 + 3 + 2, "a request of one that was turned away was looked at"


async def test_one_more_than_a_client_may_have() -> None:
    """The one beyond ``per_client`` is turned away; another address is served, and the first again when it has room."""
    async with (
        RawUpstream(answering(OK)) as upstream,
        House(upstream.url, bounds=Bounds(100, 2, NOBODY)) as house,
        AsyncExitStack() as stack,
    ):
        clients = await entered(stack, house, 2, "127.0.0.2")
        async with house.client("127.0.0.2") as late:
            assert await refused(late)
        await entered(stack, house, 2, "127.0.0.3")
        async with house.client("127.0.0.3") as late:
            assert await refused(late)
        await clients[0].__aexit__(None, None, None)
        await until(lambda: len(counting(house)) == 3)
        await entered(stack, house, 1, "127.0.0.2")
        assert house.crowded == ["per_client", "per_client"]


async def test_behind_a_proxy_only_the_total_counts() -> None:
    """A trusted proxy speaks for many clients: it may have more than one client, and not more than all."""
    async with (
        RawUpstream(answering(OK)) as upstream,
        House(upstream.url, bounds=Bounds(5, 1, PROXY)) as house,
        AsyncExitStack() as stack,
    ):
        await entered(stack, house, 4, "127.0.0.9")
        await entered(stack, house, 1, "127.0.0.2")
        for source in ("127.0.0.9", "127.0.0.3"):
            async with house.client(source) as late:
                assert await refused(late)
        assert house.crowded == ["total", "total"]


async def test_a_unix_socket_is_bounded_in_all(tmp_path: Path) -> None:
    """Whoever connects there has no address, and is one of many."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url, bounds=Bounds(3, 1, NOBODY)) as house:
        path = f"unix:{tmp_path / 'front.sock'}"
        await house.door.listen(path)
        async with RawClient(path) as one, RawClient(path) as two, RawClient(path) as three, RawClient(path) as late:
            assert [await served(client) for client in (one, two, three)] == [True] * 3
            assert await refused(late)


async def test_other_bounds_put_nobody_out() -> None:
    """After a change of settings the new bounds hold for those who come; those who are there go on."""
    async with (
        RawUpstream(answering(OK)) as upstream,
        House(upstream.url, bounds=Bounds(3, 3, NOBODY)) as house,
        AsyncExitStack() as stack,
    ):
        clients = await entered(stack, house, 3)
        await house.door.lead_to(house.behind._replace(bounds=Bounds(2, 1, NOBODY)))
        assert [await served(one) for one in clients] == [True] * 3
        async with house.client() as late:
            assert await refused(late)
        await house.door.lead_to(house.behind._replace(bounds=Bounds(4, 4, NOBODY)))
        clients += await entered(stack, house, 1)
        await house.door.lead_to(house.behind._replace(bounds=Bounds(9, 1, PROXY)))
        await entered(stack, house, 2, "127.0.0.9")
        assert [await served(one) for one in clients] == [True] * 4


async def test_who_says_nothing_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for the server to speak first hears the refusal after a moment; HEAD hears no body."""
    async with House(bounds=Bounds(1, 1, NOBODY)) as house, house.client():
        async with house.client() as late:
            await late.send(GET.replace(b"GET", b"HEAD"))
            said = await late.rest()
            assert said.startswith(b"HTTP/1.1 503 ")
            assert said.endswith(b"\r\n\r\n")
        monkeypatch.setattr(limits, "LINGER_SECONDS", 0.05)
        async with house.client() as late:
            said = await late.rest()
            assert said.startswith(b"HTTP/1.1 503 ")
            assert said.endswith(b"\r\n\r\nfull")


async def test_who_was_turned_away_is_seen_off_when_all_others_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else needs to be there for the end of its time to be noticed."""
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.3)
    async with House(bounds=Bounds(1, 1, NOBODY)) as house, AsyncExitStack() as stack:
        await stack.enter_async_context(house.client())
        async with house.client() as late:
            await until(lambda: bool(counting(house)._parting))
            await stack.aclose()
            await until(lambda: not len(counting(house)))
            assert (await late.rest()).startswith(b"HTTP/1.1 503 ")


async def test_those_who_are_turned_away_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many hear why at the same time; the next are closed without a word, and none lingers."""
    monkeypatch.setattr(limits, "PARTING", 1)
    monkeypatch.setattr(limits, "LINGER_SECONDS", 600.0)
    async with House(bounds=Bounds(1, 1, NOBODY)) as house, house.client() as one:
        async with house.client() as first, house.client() as second:
            await until(lambda: len(house.crowded) == 2)
            assert await second.rest() == b""
            assert await refused(first)
        assert await one.nothing()
        await until(lambda: not counting(house)._parting)


async def test_what_a_refused_client_sends_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is thrown away, up to a limit; then the connection is broken off."""
    monkeypatch.setattr(limits, "SWALLOWED", 1000)
    monkeypatch.setattr(limits, "LINGER_SECONDS", 60.0)
    async with House(bounds=Bounds(1, 1, NOBODY)) as house, house.client(), house.client() as late:
        await late.send(GET)
        assert (await late.reply()).status == 503
        await late.send(b"x" * 2000)
        await until(lambda: not counting(house)._parting)


def alone(bounds: Bounds) -> Connections:
    """Connections without a listener."""
    return Connections(
        serve=_nobody, unread=_nobody, ended=_nobody, departure=Departure(), bounds=lambda: bounds,
        crowded=lambda _bound: Answer(503),
    )  # fmt: skip


def _nobody(*_: Any) -> None:
    raise AssertionError("nothing was said")


def arriving(connections: Connections, address: str) -> bool:
    """Whether there is room for one from ``address``."""
    connection = connections()
    connection.connection_made(FakeTransport(address))
    return not connection.gone


async def test_an_ipv6_client_is_its_network() -> None:
    """Addresses of one /64 are one client; IPv4 addresses written as IPv6 are themselves."""
    connections = alone(Bounds(100, 1, NOBODY))
    assert arriving(connections, "2001:db8::1")
    assert not arriving(connections, "2001:db8::ffff:2")
    assert arriving(connections, "2001:db8:0:1::1")
    assert arriving(connections, "::ffff:192.0.2.1")
    assert not arriving(connections, "192.0.2.1")
    assert arriving(connections, "::ffff:192.0.2.2")
    connections.abort_all()


async def test_the_counting_is_bounded() -> None:
    """Ten thousand strangers leave nothing behind: what is known of clients is never more than who is there."""
    connections = alone(Bounds(10, 10, NOBODY))
    for number in range(10_000):
        connection = connections()
        connection.connection_made(FakeTransport(f"10.0.{number // 250}.{number % 250}"))
        assert len(connections._clients) <= 10
        connection.connection_lost(None)
    assert (len(connections), connections._clients) == (0, {})
    connections.abort_all()


async def test_the_log_hears_of_it_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand refusals in a minute are one line; the next one says how many there were."""
    connections, clock = alone(Bounds(100, 1, NOBODY)), FakeClock(1000.0)
    monkeypatch.setattr(connections, "now", clock)
    assert arriving(connections, "192.0.2.1")
    for _ in range(1000):
        assert not arriving(connections, "192.0.2.1")
    assert len(caplog.records) == 1
    assert "192.0.2.1 has 1" in caplog.text
    assert "listen.connections.per_client" in caplog.text
    clock.forward(limits.REPORT_SECONDS)
    assert not arriving(connections, "192.0.2.1")
    assert len(caplog.records) == 2
    assert "(1000 since" in caplog.messages[1]
    connections.abort_all()


async def switching(connection: RawConnection) -> None:
    """Switches protocols, and stays."""
    await connection.until(b"\r\n\r\n")
    await connection.send(SWITCH)
    await connection.until_end()


async def test_nothing_leaks() -> None:
    """Ends of every kind are counted: orderly, by reset, half-closed, in a request, in a tunnel, turned away."""
    async with RawUpstream(switching) as upstream, House(upstream.url, bounds=Bounds(6, 6, NOBODY)) as house:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(house.client()) for _ in range(6)]
                await until(lambda: len(counting(house)) == 6)
                async with house.client() as late:
                    assert await refused(late)
                await clients[0].send(UPGRADE)
                assert (await clients[0].reply()).status == 101
                await clients[1].send(b"GET / HT")
                await clients[2].send(GET)
                clients[3].writer.write_eof()
                assert await clients[3].rest() == b""
                clients[4].writer.close()
                reset(clients[5])
            await until(lambda: not len(counting(house)))
        assert counting(house)._clients == {}
        assert len(house.crowded) == 3


def reset(client: RawClient) -> None:
    """Break off with a reset."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()


# --- TLS ---


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    certificate, key = self_signed(folder, "127.0.0.1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    client.check_hostname = False
    return server, client


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


@LOOPS
def test_tls_counts_before_the_handshake(tmp_path: Path, loop: Loop) -> None:
    """Who never begins a handshake takes a place like the others; one too many is closed before TLS costs anything."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_tls_counts(tmp_path))


async def _tls_counts(folder: Path) -> None:
    server, client = contexts(folder)
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url, bounds=Bounds(100, 2, NOBODY)) as house:
        address = await house.door.listen("127.0.0.1:0", server)
        async with RawClient(address, tls=client) as one:
            assert await served(one)
            async with RawClient(address) as silent:
                await until(lambda: len(counting(house)) == 2)
                with pytest.raises(OSError):  # closed in the midst of its handshake
                    await RawClient(address, tls=client).__aenter__()
                assert house.crowded == ["per_client"]
                async with RawClient(address, tls=client, source="127.0.0.2") as other:
                    assert await served(other)
                assert await served(one)
                assert await silent.nothing()
            await until(lambda: len(counting(house)) == 1)
            async with RawClient(address) as rude:
                await rude.send(b"GET / HTTP/1.1\r\n\r\n")  # no handshake at all
                await rude.rest()
            await until(lambda: len(counting(house)) == 1)
            async with RawClient(address, tls=client) as two:
                assert await served(two)
        await until(lambda: not len(counting(house)))
        assert counting(house)._clients == {}


@LOOPS
def test_handshakes_end_with_the_listener(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that goes away does not wait for those who never finish theirs, nor says a word of them."""
    monkeypatch.setattr(handshakes, "HANDSHAKE_SECONDS", 1000.0)
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_handshakes_end(tmp_path))
    assert caplog.records == []


async def _handshakes_end(folder: Path) -> None:
    server, client = contexts(folder)
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        async with House() as house:
            address = await house.door.listen("127.0.0.1:0", server)
            silent = [await stack.enter_async_context(RawClient(address)) for _ in range(3)]
            connections = counting(house)
            await until(lambda: len(connections) == 3)
            await house.door.drain(0.01)
            with pytest.raises(OSError):
                await RawClient(address, tls=client).__aenter__()
        assert [await one.rest() for one in silent] == [b""] * 3
        assert len(connections) == 0


class Tired(socket.socket):
    """A listening socket of a process that has run out of file descriptors."""

    failures = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_tls_without_file_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The listener says so, rests, and goes on by itself."""
    monkeypatch.setattr(handshakes, "_REST_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    server, client = contexts(tmp_path)
    listener = Tired(fileno=socket.create_server(("127.0.0.1", 0)).detach())
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house:
        address = await house.door.listen("127.0.0.1:0", server, listener=listener)
        async with RawClient(address, tls=client) as one:
            assert await served(one)
    assert caplog.messages == ["no connection can be accepted: Too many open files"] * 2


async def test_a_connection_that_was_let_in_is_not_judged_twice() -> None:
    """Bounds that shrink while a handshake is under way do not put its client out."""
    bounds = [Bounds(1, 1, NOBODY)]
    connections = Connections(
        serve=_nobody, unread=_nobody, ended=_nobody, departure=Departure(), bounds=lambda: bounds[0],
        crowded=lambda _bound: Answer(503),
    )  # fmt: skip
    connection = ClientConnection(connections)
    assert connections.admit(connection, "192.0.2.1") is None
    bounds[0] = Bounds(0, 0, NOBODY)
    connection.connection_made(FakeTransport("192.0.2.1"))
    assert not connection.gone
    connections.abort_all()
