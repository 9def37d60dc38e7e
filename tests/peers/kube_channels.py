"""exec and attach: a command whose standard streams are the channels of a WebSocket, or the streams of SPDY."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from tests.peers.spdy import Stream
from tests.peers.websocket_frames import Socket

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
NAMES: Final = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR}


class Remote(Protocol):
    """What a command is joined to."""

    async def read(self) -> bytes:
        """The next piece of standard input; empty at its end."""

    async def write(self, channel: int, data: bytes) -> None:
        """Output of the command, or the status."""

    async def finish(self) -> None:
        """Close our side of everything."""


def _wanted(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, ["false"])[0] in ("true", "1")


class WebSocketRemote:
    """Each message begins with the number of its channel (``v4`` and ``v5.channel.k8s.io``)."""

    def __init__(self, socket: Socket, query: dict[str, list[str]]) -> None:
        self._socket = socket
        self._stdin = _wanted(query, "stdin")

    async def read(self) -> bytes:
        """See ``Remote``.  ``v5``: a message on channel 255 closes the channel that it names."""
        while self._stdin and (message := await self._socket.read()):
            if message[0] == CLOSE:
                return b""
            if message[0] == STDIN and len(message) > 1:
                return message[1:]
        return b""

    async def write(self, channel: int, data: bytes) -> None:
        """See ``Remote``."""
        await self._socket.send(bytes([channel]) + data)

    async def finish(self) -> None:
        """See ``Remote``: the WebSocket's own end says it."""


class SpdyRemote:
    """Streams that the client opens, each named by its header ``streamtype``."""

    def __init__(self, query: dict[str, list[str]]) -> None:
        self._expected = {"error", *(name for name in ("stdin", "stdout", "stderr") if _wanted(query, name))}
        self._streams: dict[int, Stream] = {}
        self._complete = asyncio.Event()

    def opened(self, stream: Stream) -> None:
        """The client opened a stream."""
        if (name := stream.headers["streamtype"]) in self._expected:
            self._streams[NAMES[name]] = stream
        if len(self._streams) == len(self._expected):
            self._complete.set()

    async def complete(self) -> None:
        """Wait until the client has opened what its request announced."""
        await self._complete.wait()

    async def read(self) -> bytes:
        """See ``Remote``."""
        return await self._streams[STDIN].read() if STDIN in self._streams else b""

    async def write(self, channel: int, data: bytes) -> None:
        """See ``Remote``."""
        if channel in self._streams:
            await self._streams[channel].write(data)

    async def finish(self) -> None:
        """See ``Remote``."""
        for stream in self._streams.values():
            await stream.write(b"", last=True)


async def run_command(words: Sequence[str], folder: Path, remote: Remote) -> None:
    """Run ``words`` in ``folder`` to its end, and report its exit code as the API server does."""
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*words, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe)
    assert program.stdout is not None
    assert program.stderr is not None
    feeding = asyncio.ensure_future(_feed(program, remote))
    try:
        await asyncio.gather(_tell(program.stdout, remote, STDOUT), _tell(program.stderr, remote, STDERR))
        await remote.write(ERROR, json.dumps(_status(await program.wait())).encode())
        await remote.finish()
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        if program.returncode is None:
            program.kill()
            await program.wait()


async def _feed(program: asyncio.subprocess.Process, remote: Remote) -> None:
    assert program.stdin is not None
    with contextlib.suppress(OSError):  # it does not listen any more
        while piece := await remote.read():
            program.stdin.write(piece)
            await program.stdin.drain()
        program.stdin.close()


async def _tell(output: asyncio.StreamReader, remote: Remote, channel: int) -> None:
    while piece := await output.read(32768):
        await remote.write(channel, piece)


def _status(code: int) -> dict[str, object]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    causes = [{"reason": "ExitCode", "message": str(code)}]
    details = {"causes": causes}
    return {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": details, "message": "failed"}
