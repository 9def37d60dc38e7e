"""Delivery on raw sockets, both ways: bytes, framing, failures."""

from __future__ import annotations

import asyncio
import gzip
import hashlib

import pytest

from authproxy.errors import UpstreamFailed
from authproxy.upstream.forward import Delivered
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import House, RawConnection, RawUpstream, Script, answering
from tests.peers.yardstick import stretched

HOST = b"Host: app.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
MEGABYTE = bytes(range(256)) * 4096

TARGETS = [
    "/a?", "//x", "/%7e", "/%41", "/a;b", "/a;b=c/d", "/?q=%2F", "/a?x=1?y=2", "/a%20b", "/?a=b&a=b&&", "/a?%zz",
    "/~!$&'()*+,=:@-._", "/?q=/?'()*!", "/a//b///c", "/a/?", "/%C3%A9", "/%e2%98%83?%E2", "/a:b@c", "/?=&=",
]  # fmt: skip


def _unchunked(wire: bytes) -> bytes:
    """The body of one chunked request as it stood on the wire."""
    rest, pieces = wire.split(b"\r\n\r\n", 1)[1], []
    while (size := int(rest.split(b"\r\n", 1)[0], 16)) > 0:
        rest = rest.split(b"\r\n", 1)[1]
        pieces.append(rest[:size])
        rest = rest[size + 2 :]
    assert rest == b"0\r\n\r\n"
    return b"".join(pieces)


@pytest.mark.parametrize("target", TARGETS)
async def test_target_bytes(target: str) -> None:
    """The request target reaches the upstream byte for byte."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"GET " + target.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        reply = await client.reply()
    if reply.status == 400:
        pytest.fail(f"{target} is not accepted: {house.refusals}")
    assert upstream.seen.split(b"\r\n")[0] == b"GET " + target.encode() + b" HTTP/1.1"


async def test_request_headers() -> None:
    """Duplicates of mixed case, order of values, UTF-8 and empty values are kept; nothing is added (finding 3)."""
    lines = b"X-b: 1\r\nx-B: 2\r\nX-Empty: \r\nX-b: 3\r\nCookie: a=1\r\ncookie: b=2\r\nX-Utf: caf\xc3\xa9\r\n"
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + lines + b"\r\n")
        await client.reply()
    head = upstream.seen[:-4].split(b"\r\n")[1:]
    assert head == [
        b"Host: app.example.com", b"X-b: 1", b"x-B: 2", b"X-Empty: ", b"X-b: 3", b"Cookie: a=1", b"cookie: b=2",
        b"X-Utf: caf\xc3\xa9",
    ]  # fmt: skip


async def test_response_headers() -> None:
    """Reach the client byte for byte: order, case, duplicates, octets that are not UTF-8; no banner, no type added."""
    lines = b"X-b: 1\r\nSet-Cookie: a=1; Path=/\r\nx-B: 2\r\nset-cookie: b=2\r\nX-Raw: adm\xffin\r\nDate: then\r\n"
    response = b"HTTP/1.1 200 Anything \xff\r\n" + lines + b"Content-Length: 2\r\n\r\nhi"
    async with RawUpstream(answering(response)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        head = (await client.reply()).head
    assert head == b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_request_bodies(size: int, chunked: bool) -> None:
    """A request body arrives whole, sized when it was sized and chunked when it was chunked."""
    body = MEGABYTE[:size]
    end = b"0\r\n\r\n" if chunked else body
    received = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        while not (connection.seen.endswith(end) if chunked else len(connection.seen.split(b"\r\n\r\n", 1)[1]) == size):
            await connection.more()
        received.set()
        await connection.send(OK)

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n")
        if chunked and size:
            for start in range(0, size, 70000):
                piece = body[start : start + 70000]
                await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        await client.send(end)
        assert (await client.reply()).body == b"hi"
    head, _, sent = upstream.seen.partition(b"\r\n\r\n")
    assert (_unchunked(upstream.seen) if chunked else sent) == body
    assert (b"Transfer-Encoding: chunked" in head) == chunked
    assert (b"Content-Length" in head) != chunked
    assert house.outcomes == [Delivered(200, size, 2)]
    assert (house.exchanges[0].received, house.exchanges[0].sent, house.exchanges[0].status) == (size, 2, 200)


async def test_get_without_body() -> None:
    """Gets no framing at all."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        await client.reply()
    assert b"Content-Length" not in upstream.seen
    assert b"Transfer-Encoding" not in upstream.seen


@pytest.mark.parametrize("framing", ["sized", "chunked", "until close"])
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
async def test_response_bodies(framing: str, size: int) -> None:
    """A response body arrives whole, whatever its framing."""
    body = MEGABYTE[:size]

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        if framing == "sized":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, body))
        elif framing == "chunked":
            last = b"0\r\nX-Trailer: dropped\r\n\r\n"
            piece = b"%x\r\n%s\r\n" % (size, body) if size else b""
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + piece + last)
        else:
            await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        reply = await client.reply()
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(body).digest()
    assert (reply.get(b"content-length") is not None) == (framing == "sized")
    assert reply.get(b"x-trailer") is None


async def test_compressed_bodies_untouched() -> None:
    """Bodies with a Content-Encoding pass byte for byte, both ways (finding 9)."""
    packed = gzip.compress(b"secret " * 1000)

    async def script(connection: RawConnection) -> None:
        await connection.until(packed)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        await connection.send(head + packed)

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        await client.send(head + packed)
        reply = await client.reply()
    assert reply.body == packed
    assert upstream.seen.endswith(b"\r\n\r\n" + packed)


async def test_cookies_never_mix() -> None:
    """A cookie that the upstream set for one client is not sent for another (finding 2)."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: who=first; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with RawUpstream(answering(answer)) as upstream, House(upstream.url) as house:
        for _ in range(2):
            async with house.client() as client:
                await client.send(GET)
                assert (await client.reply()).all(b"set-cookie") == [b"who=first; Path=/"]
    assert b"who=first" not in upstream.seen
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("method", "response", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b"500"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: x\r\n\r\n", b"500"),
    ],
)
async def test_responses_without_body(method: bytes, response: bytes, length: bytes | None) -> None:
    """HEAD, 204 and 304 pass their headers and leave the connection usable."""
    async with RawUpstream(answering(response)) as upstream, House(upstream.url) as house, house.client() as client:
        for _ in range(2):
            await client.send(GET.replace(b"GET", method))
            assert (await client.reply(method=method.decode())).get(b"content-length") == length
        assert await client.nothing()


async def test_expect_is_not_forwarded() -> None:
    """The client's wait is ours to end, once the upstream is connected; the upstream is not asked to wait."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"hello")
        await connection.send(OK)

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.reply()).body == b"hi"
    assert b"Expect" not in upstream.seen


async def test_expect_and_unreachable() -> None:
    """No body is asked for when nobody can take it."""
    async with House() as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.reply()).status == 502
    assert house.refusals == ["upstream_unreachable"]


BAD_RESPONSES = {
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "coding chain": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
    "unsolicited 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "control in header": b"HTTP/1.1 200 OK\r\nX-A: b\x01c\r\nContent-Length: 0\r\n\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70000 + b"\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_RESPONSES)
async def test_bad_response(name: str) -> None:
    """A response that is ambiguous or nonsense is 502, and its connection is not used again."""
    upstream = RawUpstream(answering(BAD_RESPONSES[name]))
    async with upstream, House(upstream.url, timeout=2) as house, house.client() as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.reply()).status == 502
    assert house.refusals == ["upstream_bad_response"] * 2
    assert len(upstream.connections) == 2


async def _hangs_up(connection: RawConnection) -> None:
    await connection.until(b"\r\n\r\n")


async def _hangs(connection: RawConnection) -> None:
    await connection.until_end()


@pytest.mark.parametrize(
    ("script", "code", "status"),
    [(_hangs_up, "upstream_bad_response", 502), (_hangs, "upstream_timeout", 504)],
)
async def test_no_response(script: Script, code: str, status: int) -> None:
    """An upstream that hangs up is 502, one that hangs is 504."""
    async with RawUpstream(script) as upstream, House(upstream.url, timeout=0.1) as house, house.client() as client:
        await client.send(GET)
        assert (await client.reply()).status == status
    assert house.refusals == [code]


async def test_upstream_that_does_not_read() -> None:
    """An upload into an upstream that takes nothing times out too."""

    async def deaf(connection: RawConnection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with RawUpstream(deaf) as upstream, House(upstream.url, timeout=0.3) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 50000000\r\n\r\n")
        sending = asyncio.ensure_future(client.send(b"x" * 50000000))
        assert (await client.reply()).status == 504
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        for task in asyncio.all_tasks():
            if "_run" in repr(task.get_coro()):
                task.cancel()


async def test_slow_client_is_not_a_slow_upstream() -> None:
    """While we wait for the client's body, the upstream's time does not run."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"hello")
        await connection.send(OK)

    limit = stretched(0.2)
    async with RawUpstream(script) as upstream, House(upstream.url, timeout=limit) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n")
        for piece in (b"hel", b"lo"):
            await asyncio.sleep(limit * 1.5)  # longer than the upstream's time: the claim is about real time
            await client.send(piece)
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("head", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
@pytest.mark.parametrize("end", ["closes", "breaks off", "stalls"])
async def test_truncated_response(head: bytes, end: str) -> None:
    """The client sees a truncated response as truncated: no last chunk, the connection closed (F7)."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\n" + head)
        if end == "stalls":
            await connection.until_end()
        elif end == "breaks off":
            await asyncio.sleep(0.02)
            connection.writer.transport.abort()

    async with RawUpstream(script) as upstream, House(upstream.url, timeout=0.2) as house, house.client() as client:
        await client.send(GET)
        seen = await client.rest()
        await asyncio.wait_for(house.ended.wait(), PATIENCE)
    assert seen.startswith(b"HTTP/1.1 200 OK\r\n") or seen == b""  # a broken connection may lose what was buffered
    assert not seen.endswith(b"0\r\n\r\n")
    assert house.outcomes == [Delivered(200, 0, 3, complete=False)]


async def test_response_is_flushed_at_once() -> None:
    """An event reaches the client when it is sent, not when the next one is."""
    received = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await received.wait()
        await connection.send(b"3\r\nabc\r\n")
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        await client.head()
        received.set()
        assert await asyncio.wait_for(client.reader.readuntil(b"abc\r\n"), PATIENCE) == b"3\r\nabc\r\n"


@pytest.mark.parametrize("phase", ["waiting", "uploading", "downloading"])
async def test_client_abort(phase: str) -> None:
    """A client that leaves takes its upstream request with it; a half body never looks whole (E36)."""
    reached = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.until(b"\r\n\r\nab" if phase == "uploading" else b"\r\n\r\n")
        if phase == "downloading":
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        reached.set()
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house:
        async with house.client() as client:
            uploading = phase == "uploading"
            await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nab" if uploading else GET)
            await asyncio.wait_for(reached.wait(), PATIENCE)
        await asyncio.wait_for(upstream.connections[0].ended.wait(), PATIENCE)
    assert b"0\r\n\r\n" not in upstream.seen


async def test_chunked_upload_broken_off() -> None:
    """Never ends upstream with the last chunk."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"ab\r\n")
        client.writer.transport.abort()
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await asyncio.wait_for(upstream.arrived.wait(), PATIENCE)
        await asyncio.wait_for(upstream.connections[0].ended.wait(), PATIENCE)
    assert upstream.seen.endswith(b"2\r\nab\r\n")


async def _stale(connection: RawConnection) -> None:
    """Every connection answers once and is dropped at its second request."""
    await connection.until(b"\r\n\r\n")
    await connection.send(OK)
    await connection.more()


@pytest.mark.parametrize(
    ("method", "body", "status"), [(b"GET", b"", 200), (b"DELETE", b"", 502), (b"GET", b"x", 502), (b"POST", b"", 502)]
)
async def test_stale_connection(method: bytes, body: bytes, status: int) -> None:
    """A kept connection that dies unanswered is tried once more for safe methods without body alone (finding 13)."""
    async with RawUpstream(_stale) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        assert (await client.reply()).status == 200
        framing = b"Content-Length: 1\r\n" if body else b""
        await client.send(method + b" /again HTTP/1.1\r\n" + HOST + framing + b"\r\n" + body)
        assert (await client.reply()).status == status
    assert upstream.seen.count(b"/again") == (2 if status == 200 else 1)


async def test_fresh_connection_is_not_retried() -> None:
    """A new connection that dies unanswered says that the upstream is broken."""
    async with RawUpstream(_hangs_up) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        assert (await client.reply()).status == 502
    assert len(upstream.connections) == 1


async def test_redirects_are_passed_on() -> None:
    """The proxy never follows a redirect."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    async with RawUpstream(answering(answer)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET)
        reply = await client.reply()
    assert (reply.status, reply.get(b"location")) == (302, b"http://127.0.0.1:9/")


async def test_early_response_while_uploading() -> None:
    """An answer before the end of the body reaches the client, and both connections end."""

    async def script(connection: RawConnection) -> None:
        await connection.until(b"ab")
        await connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        await connection.until_end()

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nab")
        reply = await client.reply()
        assert (reply.status, reply.body, reply.get(b"connection")) == (413, b"no", b"close")
        await asyncio.wait_for(upstream.connections[0].ended.wait(), PATIENCE)


async def test_backpressure() -> None:
    """A fast upstream is slowed down to a slow client: what is held stays small."""
    sent = 0

    async def script(connection: RawConnection) -> None:
        nonlocal sent
        await connection.until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)
            sent += 65536

    async with RawUpstream(script) as upstream, House(upstream.url) as house, house.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.1)  # until nothing moves any more
        transport = house.exchanges[0].connection.transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 1 << 20
        assert house.outcomes == []


async def test_bad_header_for_the_upstream() -> None:
    """A 502 names what happened without naming any byte of it."""
    async with (
        RawUpstream(answering(BAD_RESPONSES["control in header"])) as upstream,
        House(upstream.url) as house,
        house.client() as client,
    ):
        await client.send(GET)
        await client.reply()
    failure = house.outcomes[0]
    assert isinstance(failure, UpstreamFailed)
    assert "b\x01c" not in str(failure)
