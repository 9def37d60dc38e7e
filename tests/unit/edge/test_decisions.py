"""Forward-auth on raw connections: answered in the call that read it, or by a task, and the same either way."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from authproxy.edge.connection import FrontDoor
from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import HOST, PREFIX, Set, Stage
from tests.peers.raw_wire import RawClient, Reply

FRESH = {b"x-request-id", b"date"}


@pytest.fixture
async def stage(stages: Set) -> Stage:
    """Somebody is signed in at a proxy whose decisions listener is asked from here."""
    built = await stages(
        listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]},
        forward_auth={"success_status": 204},
    )
    await built.sign_in()
    return built


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """An entry for each exchange of any door that had to become a task."""
    begun: list[object] = []
    worked = FrontDoor._worked

    def counted(self: FrontDoor, exchange: Any, work: Awaitable[None], raw: Any) -> Any:
        begun.append(exchange)
        return worked(self, exchange, work, raw)

    monkeypatch.setattr(FrontDoor, "_worked", counted)
    return begun


def asking(stage: Stage, *lines: str, method: str = "GET", target: str = "/deep?x=1", version: str = "1.1") -> bytes:
    """What an ingress asks about a request of the one who is signed in."""
    told = (
        f"{method} {PREFIX}/auth HTTP/{version}", "Host: decisions", f"Cookie: {stage.session_cookie()}",
        "X-Forwarded-Method: GET", "X-Forwarded-Proto: http", f"X-Forwarded-Host: {HOST}",
        f"X-Forwarded-Uri: {target}", *lines, "", "",
    )  # fmt: skip
    return "\r\n".join(told).encode("latin-1")


def client_of(stage: Stage) -> RawClient:
    """A connection to the decisions listener."""
    return RawClient(stage.proxies[0].addresses["decisions"])


def said(reply: Reply) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """All of it, but for what is new each time."""
    return reply.status, [line for line in reply.headers if line[0].lower() not in FRESH], reply.body


async def test_a_live_session_costs_no_task(stage: Stage, tasks: list[object]) -> None:
    """However often it is asked for, on a connection that stays."""
    async with client_of(stage) as client:
        for number in range(3):
            await client.send(asking(stage, target=f"/page/{number}"))
            reply = await client.reply()
            assert (reply.status, reply.get(b"x-auth-request-user")) == (204, b"alice@example.com")
    assert tasks == []


async def test_waiting_comes_to_the_same(stage: Stage, tasks: list[object]) -> None:
    """A session that has to be opened first is answered octet for octet as one that is at hand."""
    async with client_of(stage) as client:
        await client.send(asking(stage))
        at_once = await client.reply()
        assert tasks == []
        stage.proxies[0].lasting.live.forget_cookies()
        await client.send(asking(stage))
        waited = await client.reply()
    assert len(tasks) == 1
    assert said(waited) == said(at_once)


async def test_nobody_is_refused_at_once(stage: Stage, tasks: list[object]) -> None:
    """Without a credential, and by whoever describes nothing, in the same words as ever."""
    async with client_of(stage) as client:
        await client.send(asking(stage).replace(b"Cookie", b"X-Cookie"))
        assert (await client.reply()).status == 401
        await client.send(f"GET {PREFIX}/auth HTTP/1.1\r\nHost: decisions\r\n\r\n".encode())
        reply = await client.reply()
        assert (reply.status, reply.get(b"authproxy-refusal")) == (403, b"bad_description")
    assert tasks == []


async def test_several_in_one_breath(stage: Stage, tasks: list[object]) -> None:
    """Pipelined, they are answered in order, each with the id of its own."""
    async with client_of(stage) as client:
        await client.send(b"".join(asking(stage, target=f"/{number}") for number in range(40)))
        replies = [await client.reply() for _ in range(40)]
    assert {reply.status for reply in replies} == {204}
    assert len({reply.get(b"x-request-id") for reply in replies}) == 40
    assert tasks == []


@pytest.mark.parametrize(
    ("lines", "body", "version", "stays"),
    [
        ((), b"", "1.1", True), (("Connection: close",), b"", "1.1", False), ((), b"", "1.0", False),
        (("Connection: keep-alive",), b"", "1.0", True), (("Content-Length: 5",), b"hello", "1.1", True),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n", "1.1", True),
        (("Connection: Upgrade", "Upgrade: websocket"), b"", "1.1", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_connection_goes_on_where_it_may(
    method: str, lines: tuple[str, ...], body: bytes, version: str, stays: bool, stage: Stage
) -> None:
    """A body means nothing and is read; what the next request is stays in no doubt."""
    async with client_of(stage) as client:
        await client.send(asking(stage, *lines, method=method, version=version) + body)
        reply = await client.reply(method=method)
        assert (reply.status, reply.body) == (204, b"")
        if stays:
            await client.send(asking(stage))
            assert (await client.reply()).status == 204
        else:
            assert await client.rest() == b""


async def test_the_body_is_asked_for_before_the_answer(stage: Stage) -> None:
    """Whoever waits for 100 hears it: the body belongs to this request, and the next begins behind it."""
    async with client_of(stage) as client:
        await client.send(asking(stage, "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert (await client.reply()).status == 100
        await client.send(b"a=1" + asking(stage))
        assert [(await client.reply()).status for _ in range(2)] == [204, 204]
