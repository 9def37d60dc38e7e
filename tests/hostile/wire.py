"""A proxy as a process, a recording upstream behind it, and clients that are bare sockets.

Everything is looked at from outside: the bytes that the client hears, the bytes that the upstream received, the audit
file, the process's own output.  Nothing here knows how the wire is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.program import free_port
from tests.peers.raw_line import Line as Line
from tests.peers.raw_line import Reply
from tests.peers.recording_upstream import PATIENCE, Arrived, Incoming, RecordingUpstream
from tests.peers.yardstick import stretched

HOST: Final = "app.example.com"
HASTY: Final = "hasty.example.com"  # its upstream has HASTE seconds
DEAD: Final = "dead.example.com"  # nobody is there
READ_ONLY: Final = "read-only.example.com"  # public, for GET and HEAD alone
TOKEN: Final = "a-token-of-one-machine-with-more-than-32-characters"
WRITER: Final = "a-token-of-a-machine-that-writes-of-more-than-32"
BEARER: Final = f"Authorization: Bearer {TOKEN}"
TRUSTED: Final = "127.0.0.2"  # a client from here is a trusted proxy
HASTE: Final = stretched(0.6)
SENTINEL: Final = "/public/sentinel"
TABLE: Final = Path(__file__).parents[1] / "tables" / "paths.yaml"


def head(
    *lines: str, method: str = "GET", target: str = "/public/x", host: str | None = HOST, version: str = "HTTP/1.1"
) -> bytes:
    """A request head; characters stand for octets."""
    named = () if host is None else (f"Host: {host}",)
    return ("\r\n".join((f"{method} {target} {version}", *named, *lines)) + "\r\n\r\n").encode("latin-1")


SECOND: Final = head(target="/public/second")
"""What must never be answered, nor forwarded, behind a request whose end is in doubt."""


class Mark(NamedTuple):
    """A moment: how far everybody's records had come."""

    requests: int
    received: int
    connections: int
    errors: int


class Wire:
    """The proxy and its upstream.  Made by ``opened``."""

    def __init__(self, process: AuthproxyProcess, upstream: RecordingUpstream, audit: Path) -> None:
        self.process, self.upstream, self._audit = process, upstream, audit
        self._sentinels = 0

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return self.process.port

    def line(self, **how: Any) -> Line:
        """A new connection."""
        return Line(self.port, **how)

    # --- what is known ---

    def mark(self) -> Mark:
        """Now."""
        upstream = self.upstream
        errors = len(self.process.program.stderr.all())
        return Mark(len(upstream.requests), upstream.received, len(upstream.connections), errors)

    def records(self) -> list[dict[str, Any]]:
        """The exchanges in the audit file."""
        lines = self._audit.read_bytes().split(b"\n")[:-1] if self._audit.exists() else []
        return [one for one in map(json.loads, lines) if one["event"] == "exchange"]

    def settled(self, mark: Mark, *replies: Reply) -> tuple[list[Arrived], list[dict[str, Any]]]:
        """What the upstream received since ``mark``, and what was audited of ``replies``, once another was served."""
        self._sentinels += 1
        target = f"{SENTINEL}?{self._sentinels}"
        with self.line() as line:
            line.send(head("Connection: close", target=target))
            reply = line.reply()
        assert (reply.status, reply.body) == (200, target.encode()), reply
        ids = {b"".join(one.all("X-Request-Id")).decode() for one in replies}
        audit = self.audited(b"".join(reply.all("X-Request-Id")).decode())
        arrived = self.upstream.requests[mark.requests :]
        assert [one.target for one in arrived if one.target.startswith(SENTINEL)] == [target]
        return [one for one in arrived if one.target != target], [one for one in audit if one["request_id"] in ids]

    def audited(self, request_id: str) -> list[dict[str, Any]]:
        """The audit up to this request's record; waits for it: another process writes the file."""
        deadline = time.monotonic() + PATIENCE
        while True:
            records = self.records()
            at = next((n for n, one in enumerate(records) if one["request_id"] == request_id), None)
            if at is not None:
                return records[: at + 1]
            assert time.monotonic() < deadline, (request_id, records[-3:])
            time.sleep(0.01)

    def sentinel_bytes(self) -> int:
        """How many octets the newest sentinel took at the upstream."""
        return len(self.upstream.to(f"{SENTINEL}?{self._sentinels}")[0].raw)

    def memory(self) -> int:
        """Octets of the proxy that are resident now."""
        status = Path(f"/proc/{self.process.program.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+([0-9]+) kB", status)[0]) * 1024

    def look_back(self, mark: Mark) -> None:
        """Nothing crashed, and nobody wrote a traceback."""
        assert self.process.program.exit_code is None
        said = self.process.program.stderr.all()[mark.errors :]
        assert not [one for one in said if "Traceback" in one or "ERROR" in one or len(one) > 500], said

    # --- what must hold ---

    def refused(
        self, *pieces: bytes, status: tuple[int, ...] = (400,), closes: bool = True, source: str = "127.0.0.1",
        method: str = "GET",
    ) -> Reply:  # fmt: skip
        """A refusal in our words, one audit record, and not a byte at the upstream.

        ``closes``: the end of the request is in doubt, so that the connection ends; otherwise it may go on.
        """
        mark = self.mark()
        with self.line(source=source) as line:
            line.send(*pieces)
            reply = line.reply(method)
            assert reply.status in status, (reply.status, reply.headers, reply.body)
            refusal = reply.get("Authproxy-Refusal")
            assert refusal, reply.head
            if closes:
                assert line.rest() == b"", "something behind the refusal was answered"
                assert reply.closes
        arrived, records = self.settled(mark, reply)
        assert arrived == []
        late = [bytes(one.raw[-300:]) for one in self.upstream.connections[-3:]]
        assert self.upstream.received - mark.received == self.sentinel_bytes(), ("bytes of it reached upstream", late)
        assert [(one["status"], one.get("code")) for one in records] == [(reply.status, refusal.decode())], records
        assert b"Traceback" not in reply.body
        assert b"aiohttp" not in reply.head + reply.body
        return reply

    def never_whole(self, *pieces: bytes, status: tuple[int, ...] = (400,), method: str = "GET") -> Reply:
        """Refused when it may have begun already: the upstream never has the whole of it, and its connection ends."""
        mark = self.mark()
        with self.line() as line:
            line.send(*pieces)
            reply = line.reply(method)
            assert reply.status in status, (reply.status, reply.headers, reply.body)
            assert line.rest() == b"", "something behind the refusal was answered"
        arrived, records = self.settled(mark, reply)
        assert arrived == []
        assert [one["status"] for one in records] == [reply.status], records
        assert self.upstream.wait(lambda: all(one.over for one in self.unfinished())), "left hanging at the upstream"
        return reply

    def unfinished(self) -> list[Incoming]:
        """The upstream connections that brought more than whole requests."""
        whole: dict[int, int] = {}
        for one in self.upstream.requests:
            whole[one.connection] = whole.get(one.connection, 0) + len(one.raw)
        return [one for one in self.upstream.connections if len(one.raw) > whole.get(one.number, 0)]

    def passed(
        self, *pieces: bytes, status: int = 200, method: str = "GET", source: str = "127.0.0.1"
    ) -> tuple[Reply, Arrived]:
        """Answered with ``status``; the one request that the upstream received."""
        mark = self.mark()
        with self.line(source=source) as line:
            line.send(*pieces)
            reply = line.reply(method)
        assert reply.status == status, (reply.status, reply.headers, reply.body)
        arrived, _ = self.settled(mark)
        assert len(arrived) == 1, arrived
        return reply, arrived[0]


def settings(upstream: RecordingUpstream, audit: Path, **sections: Any) -> dict[str, Any]:
    """Apps with public and guarded routes, and those of the table of paths."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["apps"]
    routes = [
        {"path": "/public/", "policy": "public"},
        {"path": "/written/", "methods": ["POST"], "accept": ["token"], "policy": "writers"},
        {"path": "/forbidden/", "accept": ["token"], "policy": "writers"},
        {"path": "/", "accept": ["token"], "policy": "readers"},
    ]
    listed = {
        name: {
            **shape,
            "upstream": {"url": upstream.url},
            "routes": [{"path": p, "policy": "public"} for p in shape["routes"]],
        }
        for name, shape in table.items()
    }
    return {
        "listen": {"trusted_proxies": [f"{TRUSTED}/32"], **sections.pop("listen", {})},
        "tokens": {
            "machine": {"secrets": [{"value": TOKEN}], "scopes": ["read"]},
            "writer": {"secrets": [{"value": WRITER}], "scopes": ["read", "write"]},
        },
        "policies": {
            "public": {"anonymous": True},
            "readers": {"any": [{"scopes": ["read"]}]},
            "writers": {"any": [{"scopes": ["write"]}]},
        },
        "apps": {
            "app": {"host": HOST, "upstream": {"url": upstream.url}, "routes": routes},
            "hasty": {"host": HASTY, "upstream": {"url": upstream.url, "timeout": f"{int(HASTE * 1000)}ms"},
                      "routes": routes},
            "dead": {"host": DEAD, "upstream": {"url": f"http://127.0.0.1:{free_port()}"}, "routes": routes},
            "read_only": {"host": READ_ONLY, "upstream": {"url": upstream.url},
                          "routes": [{"path": "/", "methods": ["GET", "HEAD"], "policy": "public"}]},
            **listed,
            **sections.pop("apps", {}),
        },
        "audit": {"file": str(audit)},
        **sections,
    }  # fmt: skip


def opened(stack: ExitStack, folder: Path, **sections: Any) -> Wire:
    """A running proxy; both it and its upstream end with ``stack``."""
    upstream = stack.enter_context(RecordingUpstream())
    audit = folder / "audit.jsonl"
    env = {name: "" for name in os.environ if name.startswith("AUTHPROXY__")}
    process = AuthproxyProcess(folder, settings(upstream, audit, **sections), env=env)
    _outside(process.start)
    stack.callback(_outside, process.stop)
    return Wire(process, upstream, audit)


def _outside(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run in an event loop of its own, whatever loops the caller's thread has."""

    async def done() -> Any:
        return await work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(done())).result()
