"""An independent WebSocket conformance suite as a program: it drives a server, and its report says how each case went.

The suite is the package ``kosoku``, which carries the cases of the Autobahn test suite.  Chapter 9 has messages of up
to 16 MiB; 12 and 13 are about compression, which the two ends agree on, so that a proxy must leave it alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

SUITE: Final = Path(sys.executable).with_name("kosoku")
CHAPTERS: Final = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")
COMPRESSED: Final = ("12.*", "13.*")
"""A thousand messages for each case: they take minutes, where all others take seconds."""
AT_ONCE: Final = 4
"""Cases that run at a time."""


class Verdict(NamedTuple):
    """How one case went."""

    behavior: str  # OK, NON-STRICT, INFORMATIONAL, UNIMPLEMENTED, FAILED or ERROR
    close: str  # the same for the closing handshake
    code: int | None  # the close code that the server sent

    def __str__(self) -> str:
        return f"{self.behavior}, close {self.close} {self.code or 'without code'}"

    @property
    def passed(self) -> bool:
        """Nothing in it is held against the server."""
        return {self.behavior, self.close} <= {"OK", "NON-STRICT", "INFORMATIONAL"}


Verdicts = dict[str, Verdict]
"""By the number of the case."""


async def verdicts(url: str, folder: Path, cases: Sequence[str] = CHAPTERS) -> Verdicts:
    """Run ``cases`` (numbers, or patterns such as ``1.*``) against ``url``; the report is left in ``folder``."""
    chosen = [word for case in cases for word in ("--include", case)]
    words = [url, *chosen, "--parallelism", str(AT_ONCE), "--outdir", str(folder)]
    program = await asyncio.create_subprocess_exec(
        SUITE,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await program.communicate()
    report = folder / "index.json"
    assert report.exists(), said.decode(errors="replace")  # the exit code counts failed cases, which are for the caller
    by_agent = json.loads(report.read_bytes())
    return {
        case: Verdict(went["behavior"], went["behaviorClose"], went["remoteCloseCode"])
        for cases_of in by_agent.values()
        for case, went in cases_of.items()
    }


class Handshakes:
    """A line to ``target`` (a port) that adds header lines to the handshake of each connection, and nothing else.

    The suite cannot sign in.  An async context manager in the loop of the caller; half-closed ends are passed on.
    """

    def __init__(self, target: int, *lines: bytes) -> None:
        self.target = target
        self.port = 0
        self.carried = 0
        self._lines = lines
        self._open: set[asyncio.Task[None] | None] = set()

    def __repr__(self) -> str:
        return f"<Handshakes port {self.port} to {self.target}: {self.carried} carried>"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._line, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        left = [task for task in self._open if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._server.wait_closed()

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        try:
            await self._carry(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.carried += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            first = await reader.readuntil(b"\r\n")
            far_writer.write(first + b"".join(line + b"\r\n" for line in self._lines))
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, far_writer))
                both.create_task(_pass_on(far_reader, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one end broke off: so does the other
        finally:
            writer.close()
            far_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
