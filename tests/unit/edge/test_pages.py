"""Our own pages behind the front door: their bodies are bounded, their time is, and what fails is said in our words."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from authproxy.edge import pages
from authproxy.edge.connection import info_of
from tests.peers.raw_wire import House, RawClient

HOST = b"Host: app.example.com\r\n"
CHUNKED = b"POST /oauth2/%b HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def house() -> House:
    """With some pages more."""
    one = House()
    one.pages.router.add_post("/oauth2/size", _size)
    one.pages.router.add_get("/oauth2/slow", _slow)
    one.pages.router.add_get("/oauth2/raise/{status}", _raise)
    one.pages.router.add_get("/oauth2/stream", _stream)
    one.pages.router.add_get("/oauth2/seen", _seen)
    return one


async def _size(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def _slow(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def _raise(request: web.Request) -> web.Response:
    kind = {
        "302": web.HTTPFound("/elsewhere"), "404": web.HTTPNotFound(), "418": web.HTTPBadRequest(),
        "413": web.HTTPRequestEntityTooLarge(1, 2), "500": web.HTTPInternalServerError(),
    }[request.match_info["status"]]  # fmt: skip
    raise kind


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in (b"one", b"two"):
        await response.write(piece)
    return response


@web.middleware
async def _passing(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request)


async def _seen(request: web.Request) -> web.Response:
    names = sorted(name.lower() for name in request.headers)
    return web.Response(text=f"{info_of(request).target} {request.rel_url.raw_query_string} {','.join(names)}")


async def got(client: RawClient, target: str, *lines: bytes) -> tuple[int, bytes]:
    """Status and body of a page."""
    await client.send(b"".join((b"GET %b HTTP/1.1\r\n" % target.encode(), HOST, *lines, b"\r\n")))
    reply = await client.reply()
    return reply.status, reply.body


async def test_a_body_of_unknown_length_is_bounded() -> None:
    """Up to the limit it is read whole; beyond it is 413, and the connection ends."""
    async with house() as one:
        async with one.client() as client:
            await client.send(CHUNKED % b"size" + b"100000\r\n" + b"x" * 0x100000 + b"\r\n0\r\n\r\n")
            assert (await client.reply()).body == str(pages.BODY_LIMIT).encode()
        async with one.client() as client:
            await client.send(CHUNKED % b"size" + b"100001\r\n" + b"x" * 0x100001)
            reply = await client.reply()
            assert (reply.status, reply.get(b"connection")) == (413, b"close")
    assert one.refusals == ["body_too_large"]


async def test_a_body_for_no_page_is_not_read() -> None:
    """Whoever sends it hears 404 before it is asked for."""
    async with house() as one, one.client() as client:
        await client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % b"none")
        reply = await client.reply()
        assert reply.status == 404
        assert await client.rest() == b""


async def test_a_page_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is 503, in our words; the connection goes on."""
    monkeypatch.setattr(pages, "PAGE_SECONDS", 0.05)
    async with house() as one, one.client() as client:
        assert (await got(client, "/oauth2/slow"))[0] == 503
        assert (await got(client, "/oauth2/who"))[0] == 200
    assert one.refusals == ["page_timeout"]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [("404", 400, "bad_request"), ("418", 400, "bad_request"), ("413", 413, "body_too_large"),
     ("500", 503, "internal_error")],
)  # fmt: skip
async def test_what_a_page_raises_is_worded_by_us(raised: str, status: int, code: str) -> None:
    """Never aiohttp's own text."""
    async with house() as one, one.client() as client:
        assert await got(client, f"/oauth2/raise/{raised}") == (status, b"")
    assert one.refusals == [code]


async def test_a_redirect_that_is_raised_is_an_answer() -> None:
    """As aiohttp's pages may do."""
    async with house() as one, one.client() as client:
        assert (await got(client, "/oauth2/raise/302"))[0] == 302
    assert one.refusals == []


async def test_a_page_may_be_streamed() -> None:
    """With our framing."""
    async with house() as one, one.client() as client:
        await client.send(b"GET /oauth2/stream HTTP/1.1\r\n" + HOST + b"\r\n")
        reply = await client.reply()
        assert (reply.body, reply.get(b"transfer-encoding")) == (b"onetwo", b"chunked")


async def test_a_page_waits_for_its_reader() -> None:
    """What a client does not read is not written without end."""
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        while written < 1000:
            await response.write(bytes(1 << 16))
            written += 1
        return response

    one = house()
    one.pages.router.add_get("/oauth2/endless", endless)
    async with one, one.client() as client:
        await client.send(b"GET /oauth2/endless HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.head()
        before = -1
        while before != (before := written):
            await asyncio.sleep(0.05)  # until nothing moves any more
        assert written < 1000
        for _ in range(1000):
            assert await client.reader.readuntil(b"\r\n") == b"10000\r\n"
            await client.reader.readexactly((1 << 16) + 2)
        assert written == 1000


async def test_a_page_sees_the_request_without_its_framing() -> None:
    """The query as it came; no header that was for the connection."""
    async with house() as one, one.client() as client:
        hops = (b"Connection: Upgrade\r\n", b"Upgrade: x\r\n", b"X-A: b\r\n")
        assert await got(client, "/oauth2/seen?a=%2F&b", *hops) == (200, b"/oauth2/seen?a=%2F&b a=%2F&b host,x-a")


async def test_a_page_that_was_served_is_let_go() -> None:
    """What a former reading of the settings made does not stay in memory for the pages that it served."""
    one = house()
    one.pages.middlewares.append(_passing)
    async with one, one.client() as client:
        assert (await got(client, "/oauth2/who"))[0] == 200
    known = weakref.ref(one.pages)
    del one, client
    gc.collect()
    assert known() is None
