"""How a tunnel ends: what a WebSocket is told, and what still passes, on raw sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from authproxy.upstream import passage
from authproxy.upstream.forward import Delivered
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import House, RawClient, RawConnection, RawUpstream
from tests.unit.upstream.test_websocket import frame

ASK = b"GET /ws HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GOING_AWAY = b"\x88\x02\x03\xe9"
POLICY = b"\x88\x02\x03\xf0"
ANSWER = b"\x88\x82\x00\x00\x00\x00\x03\xe9"  # masked with zeros, so that it can be read in what the upstream saw
HELLO = b"\x81\x05hello"
MASKED_HELLO = b"\x81\x85\x00\x00\x00\x00hello"
LONG = 600.0


class Life:
    """A lifetime that tests end."""

    def __init__(self) -> None:
        self.ended = False
        self.ends_at: float | None = None
        self._callbacks: set[Callable[[], None]] = set()

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.add(callback)
        return lambda: self._callbacks.discard(callback)

    def end(self) -> None:
        self.ended = True
        for callback in list(self._callbacks):
            callback()


class Scene(NamedTuple):
    """Both ends of an open tunnel, and what may end it."""

    house: House
    life: Life
    client: RawClient
    upstream: RawConnection

    async def tell(self, data: bytes) -> None:
        """The upstream says ``data``, and the client has it."""
        await self.upstream.send(data)
        assert await self.read(len(data)) == data

    async def read(self, size: int) -> bytes:
        """What the client gets."""
        return await asyncio.wait_for(self.client.reader.readexactly(size), PATIENCE)

    async def heard(self, data: bytes) -> None:
        """The client says ``data``, and the upstream has it."""
        await self.client.send(data)
        await asyncio.wait_for(self.upstream.until(data), PATIENCE)

    async def over(self) -> None:
        """The exchange has ended."""
        await asyncio.wait_for(self.house.ended.wait(), PATIENCE)

    async def upstream_saw(self) -> bytes:
        """All that reached the upstream behind the head."""
        await asyncio.wait_for(self.upstream.until_end(), PATIENCE)
        return self.upstream.seen.partition(b"\r\n\r\n")[2]

    def drain(self, seconds: float = LONG) -> asyncio.Future[None]:
        """Begin to drain."""
        return asyncio.ensure_future(self.house.door.drain(seconds))


def unmasked(sent: bytes) -> bytes:
    """The payload of a masked Close frame."""
    assert sent[:2] == b"\x88\x82"
    return bytes(octet ^ key for octet, key in zip(sent[6:8], sent[2:4], strict=True))


@asynccontextmanager
async def scene(*, protocol: bytes = b"websocket") -> AsyncIterator[Scene]:
    """An open tunnel."""
    switched: asyncio.Future[RawConnection] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(SWITCH.replace(b"websocket", protocol))
        switched.set_result(connection)
        await done.wait()

    life = Life()
    async with (
        RawUpstream(script) as upstream,
        House(upstream.url, lifetime=life) as house,
        house.client() as client,
    ):
        await client.send(ASK.replace(b"websocket", protocol))
        await client.head()
        yield Scene(house, life, client, await switched)
        done.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for an answer to a Close frame."""
    monkeypatch.setattr(passage, "LAST_SECONDS", 0.05)
    monkeypatch.setattr(passage, "ANSWER_SECONDS", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends has not merely become tired of waiting."""
    monkeypatch.setattr(passage, "LAST_SECONDS", LONG)
    monkeypatch.setattr(passage, "ANSWER_SECONDS", LONG)


# The identity ends


@pytest.mark.usefixtures("patient")
async def test_the_end_of_the_identity_is_said() -> None:
    """The client is told 1008 and the upstream 1001; nothing passes any more in either direction."""
    async with scene() as at:
        await at.tell(HELLO)
        await at.heard(MASKED_HELLO)
        at.life.end()
        assert await at.read(4) == POLICY
        await at.upstream.send(HELLO)
        await at.client.send(MASKED_HELLO + ANSWER)
        assert await at.client.rest() == b""
        saw = await at.upstream_saw()
        assert saw.startswith(MASKED_HELLO)
        assert unmasked(saw[len(MASKED_HELLO) :]) == b"\x03\xe9"
        assert len(saw) == len(MASKED_HELLO) + 8
        await at.over()


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_never_answers_is_cut() -> None:
    """A session that has ended does not wait long, whatever the client goes on to say."""
    async with scene() as at:
        at.life.end()
        assert await at.read(4) == POLICY
        await at.client.send(MASKED_HELLO * 1000)
        await at.over()
        assert await at.client.rest() == b""
        assert b"hello" not in await at.upstream_saw()


async def test_inside_a_frame_there_is_nothing_to_say() -> None:
    """Where a Close frame would be read as payload, the connection is cut, and no octet of the rest comes."""
    async with scene() as at:
        whole = frame(0x2, 100_000)
        await at.tell(whole[:50_000])
        at.life.end()
        await at.over()
        assert await at.client.rest() == b""


@pytest.mark.usefixtures("patient")
async def test_what_is_held_for_a_slow_client_never_comes() -> None:
    """Nothing of the application that we still hold is sent after the end, and so no Close frame behind it."""
    async with scene() as at:
        at.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        exchange, whole, sent = at.house.exchanges[0], frame(0x2, 60_000), 0
        while exchange.tunnelled is None or not exchange.tunnelled.held:  # until the kernel takes no more
            await at.upstream.send(whole)
            sent += len(whole)
            while exchange.sent < sent:
                await asyncio.sleep(0)
        at.life.end()
        await at.over()
        at.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        came = await at.client.rest()
        assert len(came) < sent
        assert not came.endswith(POLICY)


@pytest.mark.parametrize("data", [b"\x83\x00", b"\x82\x7f\x80" + b"\x00" * 7, b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_what_is_no_framing_is_cut_without_a_frame(data: bytes) -> None:
    """An upstream that does not speak WebSocket is passed on as it is, and cut."""
    async with scene() as at:
        await at.tell(data + HELLO)
        at.life.end()
        await at.over()
        assert await at.client.rest() == b""


async def test_a_second_close_frame_is_not_sent() -> None:
    """After the upstream's own Close nothing is added (RFC 6455 section 5.5.1)."""
    async with scene() as at:
        await at.tell(b"\x88\x02\x0f\xa0")
        at.life.end()
        await at.over()
        assert await at.client.rest() == b""


async def test_other_protocols_are_cut() -> None:
    """Nobody knows where a frame of SPDY ends."""
    async with scene(protocol=b"SPDY/3.1") as at:
        await at.tell(HELLO)
        at.life.end()
        await at.over()
        assert await at.client.rest() == b""


async def test_an_identity_that_ended_while_the_upstream_answered() -> None:
    """A session that ended before the 101 opens nothing: the callback would never come."""
    life = Life()
    life.ended = True

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(SWITCH)
        await connection.until_end()

    async with (
        RawUpstream(script) as upstream,
        House(upstream.url, lifetime=life) as house,
        house.client() as client,
    ):
        await client.send(ASK)
        assert (await client.rest()).partition(b"\r\n\r\n")[2] in (b"", POLICY)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)


# The process goes away


@pytest.mark.usefixtures("patient")
async def test_going_away_is_said_and_answered() -> None:
    """1001 at once; the client's last words and its Close reach the upstream; the drain is over then, not later."""
    async with scene() as at:
        await at.tell(HELLO)
        draining = at.drain()
        assert await at.read(4) == GOING_AWAY
        await at.upstream.send(HELLO)
        await at.client.send(MASKED_HELLO)
        await at.client.send(ANSWER)
        assert await at.client.rest() == b""
        assert await at.upstream_saw() == MASKED_HELLO + ANSWER
        await asyncio.wait_for(draining, PATIENCE)


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_never_answers_does_not_hold_the_drain() -> None:
    """It is cut long before the deadline, and the upstream is told in its place."""
    async with scene() as at:
        draining = at.drain()
        assert await at.read(4) == GOING_AWAY
        await asyncio.wait_for(draining, PATIENCE)
        assert await at.client.rest() == b""
        assert unmasked(await at.upstream_saw()) == b"\x03\xe9"


@pytest.mark.usefixtures("impatient")
async def test_the_upstream_is_told_at_a_boundary_only() -> None:
    """A client that falls silent inside a frame: nothing is put in there."""
    async with scene() as at:
        await at.heard(MASKED_HELLO[:-1])
        await asyncio.wait_for(at.drain(), PATIENCE)
        assert await at.upstream_saw() == MASKED_HELLO[:-1]


async def test_the_frame_under_way_is_delivered_whole() -> None:
    """However large: then the Close frame, and not an octet of the frame behind it."""
    async with scene() as at:
        whole = frame(0x2, 5_000_000)
        await at.tell(whole[:1000])
        draining = at.drain()
        sending = asyncio.ensure_future(at.upstream.send(whole[1000:] + HELLO))
        assert await at.read(len(whole) - 1000) == whole[1000:]
        assert await at.read(4) == GOING_AWAY
        await at.client.send(ANSWER)
        assert await at.client.rest() == b""
        await asyncio.wait_for(draining, PATIENCE)
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_frame_that_never_ends_is_cut_at_the_deadline() -> None:
    """Without a Close frame inside it."""
    async with scene() as at:
        await at.tell(frame(0x2, 1000)[:500])
        await asyncio.wait_for(at.drain(0.1), PATIENCE)
        assert await at.client.rest() == b""
        await at.over()


async def test_a_frame_that_the_upstream_breaks_off() -> None:
    """An upstream that ends inside a frame while we drain: there is no place for a Close frame, and no wait."""
    async with scene() as at:
        await at.tell(frame(0x2, 1000)[:500])
        draining = at.drain()
        at.upstream.writer.close()
        assert await at.client.rest() == b""
        await asyncio.wait_for(draining, PATIENCE)
        assert at.house.outcomes == [Delivered(101, 0, 500)]


@pytest.mark.parametrize("last", [b"\x01\x03abc", b"\x89\x02hi", b"\x00\x03def"])
async def test_between_the_fragments_of_a_message(last: bytes) -> None:
    """A control frame may stand there (RFC 6455 section 5.4): fragments and pings do not confuse the following."""
    async with scene() as at:
        await at.tell(b"\x01\x00\x89\x00" + last)
        draining = at.drain()
        assert await at.read(4) == GOING_AWAY
        await at.client.send(ANSWER)
        await asyncio.wait_for(draining, PATIENCE)


async def test_other_protocols_go_on_during_the_drain() -> None:
    """A kubectl exec over SPDY is not disturbed; when it ends by itself, nothing more is waited for."""
    async with scene(protocol=b"SPDY/3.1") as at:
        draining = at.drain()
        await at.tell(b"still")
        await at.heard(b"here")
        assert not draining.done()
        at.upstream.writer.close()
        assert await at.client.rest() == b""
        at.client.writer.write_eof()
        await asyncio.wait_for(draining, PATIENCE)


async def test_other_protocols_are_closed_at_the_deadline() -> None:
    """Nothing of a process that is stopped stays for ever."""
    async with scene(protocol=b"SPDY/3.1") as at:
        await asyncio.wait_for(at.drain(0.05), PATIENCE)
        assert await at.client.rest() == b""
        await at.over()


async def test_a_tunnel_that_opens_during_the_drain() -> None:
    """Is asked to go away as soon as it is open."""
    go = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await go.wait()
        await connection.send(SWITCH)
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(ASK)
        await upstream.arrived.wait()
        draining = asyncio.ensure_future(house.door.drain(LONG))
        await asyncio.sleep(0)
        go.set()
        await client.head()
        assert await asyncio.wait_for(client.reader.readexactly(4), PATIENCE) == GOING_AWAY
        await client.send(ANSWER)
        await asyncio.wait_for(draining, PATIENCE)


@pytest.mark.usefixtures("patient")
async def test_signing_out_during_the_drain() -> None:
    """The farewell is over at once: what the client still says reaches nobody."""
    async with scene() as at:
        draining = at.drain()
        assert await at.read(4) == GOING_AWAY
        at.life.end()
        await asyncio.wait_for(draining, PATIENCE)
        assert await at.client.rest() == b""
        assert at.house.outcomes == [Delivered(101, 0, 0)]


@pytest.mark.usefixtures("patient")
async def test_a_client_that_had_closed_already() -> None:
    """Our Close frame is the answer to its own, and nothing more is waited for."""
    async with scene() as at:
        await at.heard(ANSWER)
        draining = at.drain()
        assert await at.read(4) == GOING_AWAY
        await asyncio.wait_for(draining, PATIENCE)
        assert await at.client.rest() == b""
        assert await at.upstream_saw() == ANSWER


async def test_signing_out_a_half_closed_tunnel() -> None:
    """After the end that the upstream has sent, no Close frame can follow: it is cut."""
    async with scene() as at:
        await at.tell(HELLO)
        at.upstream.writer.write_eof()
        assert await at.client.rest() == b""
        at.life.end()
        await at.over()
        assert at.house.outcomes == [Delivered(101, 0, 7)]
