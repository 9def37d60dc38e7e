"""A Kubernetes API server with one pod, as far as kubectl needs it for exec, attach, cp, port-forward and logs -f.

It speaks both ways of each: WebSocket (``v5`` or ``v4.channel.k8s.io``; for ports, SPDY inside of one) and SPDY/3.1.
The pod's container is this machine: commands run in ``folder``, and ``ports`` says what listens behind the pod's ports.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from tests.peers.kube_channels import SpdyRemote, WebSocketRemote, run_command
from tests.peers.program import PATIENCE
from tests.peers.spdy import Session, Stream
from tests.peers.websocket_frames import Socket

POD: Final = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"containers": [{"name": "app", "image": "app", "stdin": True}]},
    "status": {"phase": "Running"},
}
PODS: Final = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
DOCUMENTS: Final[dict[str, Any]] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [PODS]},
    "/api/v1/namespaces/default/pods/web": POD,
}
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
STREAMS: Final = ("v4.channel.k8s.io", "portforward.k8s.io")
CHANNELS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")


class Asked(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The values of a header, joined."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def verb(self) -> str:
        """What is done with the pod: exec, attach, portforward, log; or the last part of the path."""
        return self.path.rpartition("/")[2]


class KubeApi:
    """The API server on a free loopback port, in the event loop of the test."""

    def __init__(self, folder: Path, ports: dict[int, int]) -> None:
        self.folder, self.ports = folder, ports
        self.requests: list[Asked] = []
        self.protocols: list[str] = []  # what each upgraded connection spoke
        self.log: asyncio.Queue[str | None] = asyncio.Queue()  # lines for ``logs -f``; None ends it
        self.log_left = asyncio.Event()  # nobody reads the log any more
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<KubeApi port {self.port}: {len(self.requests)} requests>"

    @property
    def url(self) -> str:
        """Where the proxy reaches it."""
        return f"http://127.0.0.1:{self.port}"

    def asked(self, verb: str) -> list[Asked]:
        """The requests that did this with the pod."""
        return [one for one in self.requests if one.verb == verb]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.current_task())
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end has gone
        finally:
            await _closed(writer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        pairs = (line.partition(":") for line in head[1:] if line)
        url = urlsplit(target)
        asked = Asked(method, url.path, parse_qs(url.query), tuple((name, value.strip()) for name, _, value in pairs))
        self.requests.append(asked)
        if asked.verb in ("exec", "attach", "portforward"):
            await self._upgraded(asked, reader, writer)
            return False
        if asked.verb == "log":
            await self._follow(reader, writer)
            return False
        known = DOCUMENTS.get(asked.path)
        body = json.dumps(known or {"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}).encode()
        status = "200 OK" if known else "404 Not Found"
        lead = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(lead.encode() + body)
        await writer.drain()
        return True

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = asyncio.ensure_future(reader.read(1))
        left.add_done_callback(lambda _: self.log.put_nowait(None))
        while (line := await self.log.get()) is not None:
            writer.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line.encode()))
            await writer.drain()
        if left.done():
            self.log_left.set()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await left
        writer.write(b"0\r\n\r\n")

    # --- what switches protocols ---

    async def _upgraded(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = asked.query.get("command", ["cat"])  # attach: the container's own program
        if asked.get("Upgrade").lower() == "websocket":
            offered = [one.strip() for one in asked.get("Sec-WebSocket-Protocol").split(",")]
            chosen = next(one for one in offered if one in (TUNNEL, *CHANNELS))
            self._switch(writer, "websocket", accept=asked.get("Sec-WebSocket-Key"), protocol=chosen)
            socket = Socket(reader, writer)
            if chosen == TUNNEL:
                await self._forward(socket.read, socket.send)
            else:
                await run_command(words, self.folder, WebSocketRemote(socket, asked.query))
            await socket.close()
        else:
            known = asked.get("X-Stream-Protocol-Version")
            self._switch(writer, "SPDY/3.1", protocol=next(one for one in STREAMS if one in known))
            await self._spdy(asked, words, reader, writer)

    def _switch(self, writer: asyncio.StreamWriter, upgrade: str, *, accept: str = "", protocol: str) -> None:
        self.protocols.append(f"{upgrade} {protocol}")
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", f"Upgrade: {upgrade}"]
        if accept:
            digest = hashlib.sha1(f"{accept}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
            lines += [
                f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
                f"Sec-WebSocket-Protocol: {protocol}",
            ]
        else:
            lines += [f"X-Stream-Protocol-Version: {protocol}"]
        writer.write("\r\n".join([*lines, "", ""]).encode())

    async def _spdy(
        self, asked: Asked, words: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def read() -> bytes:
            return await reader.read(65536)

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        if asked.verb == "portforward":
            await self._forward(read, send)
            return
        remote = SpdyRemote(asked.query)
        session = asyncio.ensure_future(Session(read, send, remote.opened).run())
        self._keep(session)
        await remote.complete()
        await run_command(words, self.folder, remote)
        await session  # the client leaves when all streams are closed

    async def _forward(self, read: Any, send: Any) -> None:
        async with _tasks() as start:

            def opened(stream: Stream) -> None:
                if stream.headers["streamtype"] == "data":
                    start(self._to_port(stream))
                else:
                    start(stream.write(b"", last=True))

            await Session(read, send, opened).run()

    async def _to_port(self, stream: Stream) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[int(stream.headers["port"])])

        async def back() -> None:
            while piece := await reader.read(65536):
                await stream.write(piece)
            await stream.write(b"", last=True)

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(back())
                while piece := await stream.read():
                    writer.write(piece)
                    await writer.drain()
                writer.write_eof()
        except* OSError:
            pass  # one end broke off: so does the other
        finally:
            await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close it, and be sure that it is: nothing may be left for the next test."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await writer.wait_closed()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _tasks() -> AsyncIterator[Any]:
    """Starts coroutines, and ends what is left of them at the end of the block; a lost connection is no error."""
    tasks: set[asyncio.Future[None]] = set()
    try:
        yield lambda work: tasks.add(asyncio.ensure_future(work))
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome
