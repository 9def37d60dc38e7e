"""The proxies that are always measured: plain nginx, authproxy, and the textbook one.

Each is a process, looked at from outside.  A candidate is entered when it answers and, where there is something to sign
in to, when the person has signed in.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from benchmarks import textbook
from benchmarks.nginx import listening, plain_proxy
from benchmarks.processes import family, pinned
from benchmarks.request import HOST, headers_for
from benchmarks.stage import GROUPS, USER, Stage
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.program import Program, free_port

T = TypeVar("T")
ROOT: Final = Path(__file__).parent.parent
REFERENCE: Final = "nginx"
TRIES: Final = 4
STATIC: Final = "a-static-token-of-more-than-32-characters"


class Candidate(NamedTuple):
    """A running proxy, and how it is asked."""

    name: str
    port: int
    pid: int  # of the first of its processes
    headers: Mapping[str, str]
    identifies: bool = False  # whether the application is told who asks

    def url(self, target: str) -> str:
        """The address of a target."""
        return f"http://127.0.0.1:{self.port}{target}"

    def pids(self) -> list[int]:
        """All its processes."""
        return family(self.pid)


class Authproxy(NamedTuple):
    """authproxy with both of its doors."""

    proxied: Candidate
    decisions: Candidate
    audit: Path


Entered = AbstractAsyncContextManager[Candidate]


async def started(stage: Stage, start: Callable[[], Awaitable[T]]) -> T:
    """What ``start`` returns, on the proxy's core; again on other ports when somebody else took one meanwhile."""
    with pinned(stage.cores.proxy):
        for _ in range(TRIES - 1):
            try:
                return await start()
            except AssertionError as error:
                if "address already in use" not in str(error).lower():
                    raise
        return await start()


@asynccontextmanager
async def nginx(stage: Stage, *, workers: int = 1) -> AsyncIterator[Candidate]:
    """The reference: it judges nobody, and adds the usual X-Forwarded headers."""
    folder, upstream = stage.folder / f"nginx{workers}", stage.application.port
    proxy = await started(stage, lambda: plain_proxy(folder, upstream=upstream, workers=workers).__aenter__())
    try:
        yield Candidate(REFERENCE, proxy.port, proxy.program.pid, headers_for(proxy.port, {"session": "x" * 900}))
    finally:
        await proxy.__aexit__()


def settings_for(stage: Stage, audit: Path, *, decisions: int, workers: int) -> dict[str, Any]:
    """An application as companies have them: several routes and rules, people and machines, everything recorded."""
    return {
        "listen": {"decisions": f"127.0.0.1:{decisions}", "trusted_proxies": ["127.0.0.1/32"], "workers": workers},
        "store": {"redis": {"url": stage.redis.url}},
        "providers": {"peer": stage.peer.settings(scopes=["openid", "profile", "email", "groups", "offline_access"])},
        "issuers": {"peer": {"issuer": stage.peer.issuer, "audiences": [stage.peer.client_id]}},
        "tokens": {"ci": {"secrets": [{"value": STATIC}], "scopes": ["read"]}},
        "policies": {
            "public": {"anonymous": True},
            "auditors": {"any": [{"groups": ["auditors"]}, {"scopes": ["read"]}]},
            "staff": {"any": [{"emails": ["*@corp.example.com"]}, {"groups": ["staff"], "networks": ["127.0.0.0/8"]}]},
        },
        "apps": {
            "other": {
                "host": "other.test", "provider": "peer", "upstream": {"url": stage.application.url},
                "routes": [{"path": "/", "policy": "staff"}],
            },
            "dashboard": {
                "host": HOST, "provider": "peer",
                "upstream": {"url": stage.application.url, "authorization": "id_token"},
                "routes": [
                    {"path": "/healthz", "policy": "public"},
                    {"path": "/reports/{year}/", "accept": ["session", "token"], "policy": "auditors"},
                    {"path": "/", "accept": ["session", "bearer"], "policy": "staff"},
                ],
            },
        },
        "audit": {"file": str(audit)},
    }  # fmt: skip


@asynccontextmanager
async def authproxy(
    stage: Stage, *, workers: int = 1, kind: type[AuthproxyProcess] = AuthproxyProcess
) -> AsyncIterator[Authproxy]:
    """Ours, with a live session, Redis, policies, identity headers, the ID token, metrics and audit.

    ``kind`` is how the process is started.
    """
    folder = stage.folder / f"authproxy{workers}"
    folder.mkdir()
    audit = folder / "audit.jsonl"

    async def start() -> tuple[AuthproxyProcess, int]:
        port = free_port()
        return await kind(folder, settings_for(stage, audit, decisions=port, workers=workers)).start(), port

    proxy, decisions = await started(stage, start)
    try:
        cookies = await stage.sign_in(proxy.port)
        asked, pid = headers_for(proxy.port, cookies), proxy.program.pid
        described = {
            **asked, "Host": f"127.0.0.1:{decisions}", "X-Forwarded-Method": "GET", "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": asked["Host"], "X-Forwarded-Uri": "/1k", "X-Forwarded-For": "127.0.0.1",
        }  # fmt: skip
        proxied = Candidate("authproxy", proxy.port, pid, asked, identifies=True)
        yield Authproxy(proxied, Candidate("authproxy, forward-auth", decisions, pid, described), audit)
    finally:
        await proxy.stop()


async def _textbook(stage: Stage) -> tuple[Program, int]:
    port = free_port()
    words = ("-m", "benchmarks.textbook", str(port), stage.redis.url, stage.application.url)
    program = Program(sys.executable, *words, cwd=ROOT).start()
    try:
        await listening(port, program)
    except BaseException:
        await program.stop()
        raise
    return program, port


@asynccontextmanager
async def textbook_proxy(stage: Stage) -> AsyncIterator[Candidate]:
    """The textbook one; its session is put into Redis, since it signs nobody in."""
    session = {
        "user": USER, "email": "grace@example.com", "groups": GROUPS, "expires": time.time() + 86_400,
        "id_token": stage.peer.id_token(USER),
    }  # fmt: skip
    key = "s3cr3t" * 7
    stage.redis.command("SET", textbook.PREFIX + key, json.dumps(session))
    program, port = await started(stage, lambda: _textbook(stage))
    try:
        yield Candidate(
            "textbook aiohttp", port, program.pid, headers_for(port, {textbook.COOKIE: key}), identifies=True
        )
    finally:
        await program.stop()
