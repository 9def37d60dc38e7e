"""Responses that outlive the identity they were asked by, on raw sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from authproxy.upstream import term
from authproxy.upstream.forward import Delivered
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import House, RawClient, RawConnection, RawUpstream
from tests.unit.upstream.test_passage import Life, Scene

GET = b"GET /events HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"7\r\ndata: 1\r\n"
FRAMINGS = {
    "chunked": (GET, STREAM, EVENT),
    "sized": (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"data: 1"),
    "until close": (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), b"HTTP/1.1 200 OK\r\n\r\n", b"data: 1"),
}


@asynccontextmanager
async def asked(request: bytes = GET) -> AsyncIterator[Scene]:
    """A request that the upstream has and has not answered."""
    arrived: asyncio.Future[RawConnection] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        arrived.set_result(connection)
        await done.wait()

    life = Life()
    async with (
        RawUpstream(script) as upstream,
        House(upstream.url, lifetime=life) as house,
        house.client() as client,
    ):
        await client.send(request)
        yield Scene(house, life, client, await arrived)
        done.set()


@pytest.fixture
def nothing_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No response is too young to be cut."""
    monkeypatch.setattr(term, "SPARED_SECONDS", 0.0)


async def rest_or_reset(client: RawClient) -> bytes:
    """What still comes, with ``!`` for a reset."""
    heard = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while data := await client.reader.read(65536):
                heard += data
    except ConnectionResetError:
        heard += b"!"
    return heard


@pytest.mark.usefixtures("nothing_spared")
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("silent", [True, False])
async def test_a_stream_is_cut_when_its_session_ends(framing: str, silent: bool) -> None:
    """At once, before its first event and after, at both sides; and it never looks whole."""
    request, head, event = FRAMINGS[framing]
    async with asked(request) as at:
        await at.upstream.send(head if silent else head + event)
        await at.client.head()
        if not silent:
            await at.read(len(event))
        at.life.end()
        rest = await rest_or_reset(at.client)
        assert rest == (b"!" if framing == "until close" else b"")  # no last chunk, no whole length, no orderly end
        await at.over()
        await asyncio.wait_for(at.upstream.until_end(), PATIENCE)
        assert at.house.outcomes == [Delivered(200, 0, 0 if silent else 7, complete=False)]  # not: the client left


@pytest.mark.usefixtures("nothing_spared")
async def test_a_stream_is_cut_at_the_absolute_end() -> None:
    """An end that is known beforehand needs no timer: the next piece is not delivered."""
    async with asked() as at:
        await at.upstream.send(STREAM + EVENT)
        await at.client.head()
        await at.read(len(EVENT))
        at.life.ends_at = 1.0
        assert await at.client.nothing()
        await at.upstream.send(EVENT)
        assert await at.client.rest() == b""
        await at.over()
        assert at.house.outcomes == [Delivered(200, 0, 7, complete=False)]


@pytest.mark.usefixtures("nothing_spared")
@pytest.mark.parametrize("known", [True, False])
async def test_an_answer_that_comes_after_the_end(known: bool) -> None:
    """A long poll that the session did not live to see answered is refused, and nothing of the answer is told."""
    async with asked() as at:
        if known:
            at.life.ends_at = 1.0
        else:
            at.life.end()
        await at.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        reply = await at.client.reply()
        assert (reply.status, reply.body) == (401, b"")
        assert at.house.refusals == ["not_signed_in"]


async def test_what_has_just_begun_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that is under way while a person signs out arrives whole."""
    monkeypatch.setattr(term, "SPARED_SECONDS", 600.0)
    async with asked() as at:
        at.life.end()
        await at.upstream.send(STREAM + EVENT)
        await at.client.head()
        await at.read(len(EVENT))
        await at.upstream.send(EVENT + b"0\r\n\r\n")
        assert await at.read(len(EVENT) + 5) == EVENT + b"0\r\n\r\n"
        await at.over()
        assert at.house.outcomes == [Delivered(200, 0, 14)]


@pytest.mark.parametrize("before", [True, False])
async def test_it_is_not_spared_for_long(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was young when its session ended, before or after its head, is cut when it no longer is."""
    monkeypatch.setattr(term, "SPARED_SECONDS", 0.5)
    async with asked() as at:
        if before:
            at.life.end()
        await at.upstream.send(STREAM)
        await at.client.head()
        if not before:
            at.life.end()
        assert await at.client.rest() == b""
        await at.over()


async def test_a_response_in_one_piece_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary answer never asks to be told of the session's end."""

    def registered(_callback: object) -> None:
        raise AssertionError("registered")

    async with asked() as at:
        monkeypatch.setattr(at.life, "on_end", registered)
        await at.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert (await at.client.reply()).body == b"hi"


async def test_nothing_is_kept_of_a_response_that_is_through() -> None:
    """A session that goes on holds no finished response, and its end cuts no later one on the connection."""
    async with asked() as at:
        await at.upstream.send(STREAM)
        await at.client.head()
        assert await at.client.nothing()
        assert len(at.life._callbacks) == 1
        await at.upstream.send(EVENT + b"0\r\n\r\n")
        await at.read(len(EVENT) + 5)
        await at.over()
        assert not at.life._callbacks


async def test_what_was_spared_and_is_through_is_forgotten() -> None:
    """Its connection is not broken off later, in the middle of another answer."""
    life, cut, wrongly = Life(), asyncio.Event(), asyncio.Event()
    life.end()
    through, open_ = (term.Term(life, time.time, asyncio.get_running_loop().time() + 0.05) for _ in range(2))
    through.watch(wrongly.set)
    through.release()
    open_.watch(cut.set)
    await asyncio.wait_for(cut.wait(), PATIENCE)
    assert open_.over
    assert not wrongly.is_set()


@pytest.mark.usefixtures("nothing_spared")
async def test_a_client_that_reads_nothing_is_cut_as_well() -> None:
    """What waits for room ends with the session, and what is held for it does not follow."""
    async with asked() as at:
        at.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.ensure_future(
            at.upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n" + bytes(63_999_999))
        )
        while not at.house.exchanges[0].connection.full:
            await asyncio.sleep(0.01)  # until the kernel takes no more
        at.life.end()
        await at.over()
        at.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await rest_or_reset(at.client)) < 63_999_999
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
