"""The front door on raw sockets: strictness, destinations, framing, shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import stat
from pathlib import Path

import pytest
from aiohttp import web

from authproxy.edge import limits
from authproxy.errors import ClientGone, NotAuthenticated
from authproxy.exchange import Exchange
from authproxy.model import Answer
from tests.peers.program import PATIENCE
from tests.peers.raw_wire import House, RawClient, RawUpstream, answering
from tests.peers.self_signed import self_signed

GET = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HOST = b"Host: app.example.com\r\n"

START = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST

MALFORMED = {
    "length and coding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "coding chain": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "comma coding": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "empty coding, then length": (POST + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\nhi", 400),
    "coding in 1.0": (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "signed length": (POST + b"Content-Length: +1\r\n\r\nx", 400),
    "huge length": (POST + b"Content-Length: 99999999999999999999\r\n\r\nx", 400),
    "folded header": (START + b"X-A: b\r\n c\r\n\r\n", 400),
    "space before colon": (START + b"X-A : b\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: app.example.com\n\n", 400),
    "NUL in header": (START + b"X-A: b\0c\r\n\r\n", 400),
    "lost bytes in header": (START + b"X-A: adm\xffin\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host with a bad port": (b"GET / HTTP/1.1\r\nHost: a:99x\r\n\r\n", 400),
    "fragment": (b"GET /p#f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "dot segments": (b"GET /public/%2e%2e/admin HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "unknown method": (b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "CONNECT": (b"CONNECT app.example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "unknown expectation": (POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417),
    "a line too long": (b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "too many headers": (START + b"".join(b"X-%d: 1\r\n" % n for n in range(140)) + b"\r\n", 431),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),
    "a target of raw bytes": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Is refused with its status, on a connection that closes; no byte goes upstream, no traceback to a log.

    A second request behind it on the connection is never served.
    """
    caplog.set_level(logging.DEBUG)
    sent, status = MALFORMED[name]
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(sent if status == 505 else sent + GET)  # llhttp itself minds what follows another version
        seen = await client.rest()
    assert seen.startswith(b"HTTP/1.1 %d " % status)
    assert seen.count(b"HTTP/1.1 ") == 1
    assert b"Server:" not in seen
    assert seen.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0\r\n" in seen
    assert upstream.seen == b""
    assert len(house.refusals) == 1
    assert not any(record.exc_info for record in caplog.records)
    assert len([record for record in caplog.records if record.name.startswith(("authproxy", "aiohttp"))]) <= 1
    assert b"\r\nConnection: close\r\n" in seen


async def test_target_is_described_as_received() -> None:
    """Path and query reach RequestInfo byte for byte, not decoded and not normalised."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(GET.replace(b"/ ", b"/%7e/a;b?q=%2F& ", 1))
        await client.reply()
    assert house.infos[0].target == "/%7e/a;b?q=%2F&"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/oauth2/who", 200), ("/oauth2/%77ho", 404), ("/oauth2/none", 404), ("/oauth2/of/x", 200), ("/oauth2/form", 405)],
)
async def test_pages(path: str, status: int) -> None:
    """A page of ours is found by its exact path alone; an encoded spelling of it is not that page."""
    async with House() as house, house.client() as client:
        await client.send(GET.replace(b"/ ", path.encode() + b" ", 1))
        reply = await client.reply()
    assert reply.status == status
    assert reply.get(b"server") is None


async def test_page_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Is answered in our words, with one traceback in our log, and never aiohttp's own page."""
    async with House() as house, house.client() as client:
        await client.send(GET.replace(b"/ ", b"/oauth2/broken ", 1))
        reply = await client.reply()
    assert (reply.status, reply.get(b"authproxy-refusal"), reply.body) == (503, b"internal_error", b"")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_failure_after_the_head(caplog: pytest.LogCaptureFixture) -> None:
    """What fails after its head, ours or an exchange, ends truncated: no second head inside the first body."""

    async def half(exchange: Exchange) -> None:
        exchange.start_response(200, (), length=None)
        exchange.write(b"half")
        raise LookupError("an exchange that fails late")

    async with House() as house:
        house.before = half
        for path in (b"/oauth2/half ", b"/proxied "):
            async with house.client() as client:
                await client.send(GET.replace(b"/ ", path, 1))
                seen = await client.rest()
            assert seen.count(b"HTTP/1.1") <= 1
            assert not seen.endswith(b"0\r\n\r\n")
    assert len([record for record in caplog.records if record.exc_info]) == 2


async def test_page_body_too_large() -> None:
    """A form that is larger than a page takes is 413, in our words."""
    async with House() as house, house.client() as client:
        await client.send(
            b"POST /oauth2/form HTTP/1.1\r\n" + HOST + b"Content-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 2000000\r\n\r\na=" + b"x" * 1099998
        )
        reply = await client.reply()
    assert (reply.status, reply.get(b"authproxy-refusal")) == (413, b"body_too_large")


async def test_page_with_expect() -> None:
    """A form behind Expect is asked for only when the page exists."""
    head = b"POST %s HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    async with House() as house, house.client() as client:
        await client.send(head % b"/oauth2/form")
        assert (await client.reply()).status == 100
        await client.send(b"a=1")
        assert (await client.reply()).body == b"1"
        await client.send(head % b"/oauth2/none")
        reply = await client.reply()
        assert (reply.status, reply.get(b"connection")) == (404, b"close")


async def test_expect_and_refused() -> None:
    """No 100 Continue before the decision: a refusal comes alone, and the connection closes (finding 1)."""

    async def refuse(exchange: Exchange) -> None:
        raise NotAuthenticated("no_credential", "Sign in first.")

    async with House() as house, house.client() as client:
        house.before = refuse
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, reply.get(b"connection")) == (401, b"close")


async def test_expect_and_allowed() -> None:
    """100 Continue is sent when the body is first asked for, once."""
    decide = asyncio.Event()

    async def read(exchange: Exchange) -> None:
        await decide.wait()
        body = b"".join([piece async for piece in exchange.body()])
        exchange.answer(Answer(200, (), body))

    async with House() as house, house.client() as client:
        house.before = read
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.nothing()
        decide.set()
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.reply()).body == b"hello"


async def test_early_answer_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer before the body was read closes, so that the body is never parsed as a request."""
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.05)

    async def early(exchange: Exchange) -> None:
        exchange.answer(Answer(403, (), b"no"))

    async with House() as house, house.client() as client:
        house.before = early
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n" + GET)
        reply = await client.reply()
        assert (reply.status, reply.get(b"connection"), reply.body) == (403, b"close", b"no")
        assert b"HTTP/1.1" not in await client.rest()
    assert len(house.infos) == 1


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_no_body_where_none_belongs(status: int) -> None:
    """HEAD, 204 and 304 put no body octet on the wire, whatever was written (finding 10)."""

    async def write(exchange: Exchange) -> None:
        exchange.start_response(status, (), length=None)
        exchange.write(b"desync")
        exchange.finish()

    method = b"HEAD" if status == 200 else b"GET"
    async with House() as house, house.client() as client:
        house.before = write
        for _ in range(2):
            await client.send(GET.replace(b"GET", method))
            assert (await client.reply(method=method.decode())).status == status
        assert await client.nothing()


async def test_http10_without_length() -> None:
    """An HTTP/1.0 client knows the end of a body of unknown length by the close."""

    async def write(exchange: Exchange) -> None:
        exchange.start_response(200, (), length=None)
        exchange.write(b"all of it")
        exchange.finish()

    async with House() as house, house.client() as client:
        house.before = write
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n")
        seen = await client.rest()
    assert seen.endswith(b"\r\n\r\nall of it")
    assert b"Connection: close" in seen
    assert b"chunked" not in seen


async def test_http10_keep_alive() -> None:
    """An HTTP/1.0 client that asks for it keeps its connection when the length is known."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n")
            assert (await client.reply()).get(b"connection") == b"keep-alive"


@pytest.mark.parametrize("body", [b"123", b"1234567"])
async def test_answer_of_wrong_length(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A body that is shorter or longer than its announced length breaks the connection off, and is an error."""

    async def wrong(exchange: Exchange) -> None:
        exchange.start_response(200, (), length=5)
        exchange.write(body)
        exchange.finish()

    async with House() as house, house.client() as client:
        house.before = wrong
        await client.send(GET)
        seen = await client.rest()
    assert len(seen.partition(b"\r\n\r\n")[2]) < 5
    assert type(house.outcomes[0]) is ValueError
    assert "ValueError" in caplog.text


async def test_pipelined_requests() -> None:
    """Are answered in order, each on its own."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"".join(GET.replace(b"/ ", b"/%d " % n, 1) for n in range(20)))
        for _ in range(20):
            assert (await client.reply()).body == b"hi"
    assert [info.raw_path for info in house.infos] == [f"/{n}" for n in range(20)]


async def test_client_that_leaves_cancels() -> None:
    """A client that closes ends its exchange."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with House() as house:
        house.before = wait
        async with house.client() as client:
            await client.send(GET)
            await started.wait()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        await asyncio.sleep(0)
        assert house.exchanges[0].gone


async def test_stalled_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that stops coming breaks the connection off."""
    monkeypatch.setattr("authproxy.edge.limits.READ_SECONDS", 0.05)
    async with RawUpstream(answering(b"")) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nab")
        assert await client.rest() == b""
    assert b"0\r\n\r\n" not in upstream.seen


async def test_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads nothing is broken off, and never more than a buffer is held for it."""
    monkeypatch.setattr("authproxy.edge.limits.WRITE_SECONDS", 0.05)

    async def endless(exchange: Exchange) -> None:
        exchange.start_response(200, (), length=None)
        while True:
            exchange.write(b"x" * 65536)
            await exchange.room()

    async with House() as house, house.client() as client:
        house.before = endless
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await asyncio.wait_for(house.ended.wait(), PATIENCE)
    assert isinstance(house.outcomes[0], ClientGone | asyncio.CancelledError)


async def test_malformed_chunks() -> None:
    """A body whose chunks cannot be read is 400, and the upstream never sees a whole request."""
    async with RawUpstream(answering(b"")) as upstream, House(upstream.url) as house, house.client() as client:
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await upstream.arrived.wait()
        await client.send(b"zz\r\n")
        seen = await client.rest()
    assert seen.startswith(b"HTTP/1.1 400 ")
    assert b"malformed_body" in seen
    assert b"0\r\n\r\n" not in upstream.seen


async def test_drain() -> None:
    """Refuses new connections, closes idle ones, finishes what runs with Connection: close."""
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        body = b"".join([piece async for piece in exchange.body()])
        exchange.answer(Answer(200, (), body))

    async with House() as house, house.client() as idle, house.client() as busy:
        house.before = wait
        await busy.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhe")
        while not house.exchanges:
            await asyncio.sleep(0)
        draining = asyncio.ensure_future(house.door.drain(5))
        assert await idle.rest() == b""
        with pytest.raises(OSError):
            await house.client().__aenter__()
        await busy.send(b"llo")  # a running upload goes on
        release.set()
        reply = await busy.reply()
        assert (reply.body, reply.get(b"connection")) == (b"hello", b"close")
        await draining
        assert await busy.rest() == b""


async def test_drain_gives_up() -> None:
    """An exchange that does not end is left to close(), which cancels it."""

    async def forever(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with House() as house, house.client() as client:
        house.before = forever
        await client.send(GET)
        while not house.exchanges:
            await asyncio.sleep(0)
        await house.door.drain(0.01)
        await house.door.close()
        assert isinstance(house.outcomes[0], asyncio.CancelledError)


async def test_unix_socket(tmp_path: Path) -> None:
    """A stale socket file is replaced; ours is for owner and group; one in use is not stolen."""
    path = tmp_path / "door.sock"
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house:
        assert await house.door.listen(f"unix:{path}") == f"unix:{path}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        async with RawClient(f"unix:{path}") as client:
            await client.send(GET)
            assert (await client.reply()).body == b"hi"
        with pytest.raises(OSError):
            await house.door.listen(f"unix:{path}")
    async with House() as other:
        await other.door.listen(f"unix:{path}")


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that drips a head has a fixed time for the whole of it."""
    monkeypatch.setattr(limits, "KEEPALIVE_SECONDS", 0.1)
    async with House() as house, house.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        assert await client.rest() == b""
    assert house.infos == []


async def test_what_leads_elsewhere_judges_anew() -> None:
    """The same octets bring the same headers, with what was found out from them, until the door leads elsewhere."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        for _ in range(2):
            await client.send(GET)
            await client.reply()
        await house.door.lead_to(house.behind)
        for _ in range(2):
            await client.send(GET)
            await client.reply()
    first, second, third, fourth = (info.headers for info in house.infos)
    assert first is second
    assert second is not third
    assert third is fourth
    assert first.cookie_facts is not third.cookie_facts


async def test_refusal_that_cannot_be_worded(caplog: pytest.LogCaptureFixture) -> None:
    """Is a bare 500."""

    def broken(*_: object) -> Answer:
        raise LookupError("no template")

    async with House() as house:
        await house.door.lead_to(house.behind._replace(pages=web.Application(), refused=broken))
        async with house.client() as client:
            await client.send(b"GET /#f HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await client.reply()).status == 500
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_declined_upgrade_closes() -> None:
    """A request that wanted another protocol ends its connection, so that what follows is never taken for HTTP."""
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house, house.client() as client:
        house.before = _plain
        await client.send(GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + GET)
        reply = await client.reply()
        assert (reply.status, reply.get(b"connection"), await client.rest()) == (200, b"close", b"")
    assert len(house.infos) == 1


async def _plain(exchange: Exchange) -> None:
    exchange.answer(Answer(200))


async def test_silent_connection_has_no_exchange() -> None:
    """A connection that says nothing costs no exchange."""
    async with House() as house, house.client():
        assert "0 running" in repr(house.door)
    assert house.infos == []


async def test_tls(tmp_path: Path) -> None:
    """On a TLS listener the request is https, and a verified client certificate is seen; without one there is none."""
    server, client_side = self_signed(tmp_path, "app.example.com"), self_signed(tmp_path, "robot.example.com")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_side[0])
    context.load_cert_chain(*server)
    context.verify_mode = ssl.CERT_OPTIONAL
    anonymous = ssl.create_default_context(cafile=server[0])
    anonymous.check_hostname = False
    known = ssl.create_default_context(cafile=server[0])
    known.check_hostname = False
    known.load_cert_chain(*client_side)
    async with RawUpstream(answering(OK)) as upstream, House(upstream.url) as house:
        address = await house.door.listen("127.0.0.1:0", context)
        for tls in (anonymous, known):
            async with RawClient(address, tls=tls) as client:
                await client.send(GET)
                assert (await client.reply()).body == b"hi"
    assert [info.scheme for info in house.infos] == ["https", "https"]
    assert house.infos[0].certificate is None
    assert house.infos[1].certificate is not None
    assert house.infos[1].certificate["subject"] == ((("commonName", "robot.example.com"),),)
    assert house.infos[1].peer == "127.0.0.1"
