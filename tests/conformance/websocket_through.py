"""The WebSocket conformance suite against an echo server, directly and through the proxy: the verdicts must be equal.

    python -m tests.conformance.websocket_through [CASE ...]

Two echo servers of different make are asked, each with a weak spot of its own, so that every case is passed by one.
The chapters about compression, which both pass, are asked of the first alone.
The proxy is a process of its own, every handshake carries a live session, and the route asks for one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.upstream_app import UpstreamApp
from tests.peers.websocket_suite import CHAPTERS, COMPRESSED, Handshakes, Verdict, Verdicts, verdicts

HOST: Final = "localhost"
PATH: Final = "/ws"
NOT_RUN: Final = Verdict("NOT RUN", "NOT RUN", None)


class Difference(NamedTuple):
    """A case that went one way directly, and another way through the proxy."""

    case: str
    direct: Verdict
    through: Verdict


class Outcome(NamedTuple):
    """One echo server, asked twice."""

    server: str
    direct: Verdicts
    through: Verdicts

    @property
    def differences(self) -> list[Difference]:
        """Where the two disagree."""
        return differences(self.direct, self.through)


def differences(direct: Verdicts, through: Verdicts) -> list[Difference]:
    """Every case whose verdicts are not equal, in the order of the suite; a case that one side lacks is one of them."""
    pairs = ((case, direct.get(case, NOT_RUN), through.get(case, NOT_RUN)) for case in direct.keys() | through.keys())
    found = [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
    return sorted(found, key=lambda one: [int(number) for number in one.case.split(".")])


def table(found: Iterable[Difference]) -> str:
    """The differing cases, a line each."""
    return "\n".join(f"{case:10} directly: {direct!s:45} through: {through}" for case, direct, through in found)


def summary(outcome: Outcome) -> str:
    """One line, and the table below it when there is something to see."""
    passed = sum(verdict.passed for verdict in outcome.direct.values())
    found = outcome.differences
    count = f"{len(outcome.direct)} cases, {passed} passed directly"
    line = f"{outcome.server}: {count}, {len(found)} differ through the proxy"
    return "\n".join([line, *([table(found)] if found else [])])


async def _echo(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):  # what a case did wrong is the suite's to judge
        async for message in connection:
            await connection.send(message)


@asynccontextmanager
async def echo_servers() -> AsyncIterator[dict[str, int]]:
    """The port of each."""
    async with UpstreamApp() as app, serve(_echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        yield {"websockets": next(iter(server.sockets)).getsockname()[1], "aiohttp": app.port}


def _settings(peer: OpenIDPeer, port: int) -> dict[str, Any]:
    upstream = {"url": f"http://127.0.0.1:{port}"}
    routes = [{"path": "/", "policy": "people"}]
    return {
        "providers": {"peer": peer.settings(title="The peer")},
        "policies": {"people": {"any": [{"authenticated": True}]}},
        "apps": {"echo": {"host": HOST, "provider": "peer", "upstream": upstream, "routes": routes}},
    }


@asynccontextmanager
async def proxied(port: int, folder: Path) -> AsyncIterator[tuple[AuthproxyProcess, Handshakes]]:
    """A proxy before ``port`` where somebody has signed in, and a line to it that carries the session."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        proxy = await stack.enter_async_context(AuthproxyProcess(folder, _settings(peer, port)))
        browser = await stack.enter_async_context(Browser())
        await browser.open(proxy.at(HOST, "/in"))
        cookies = browser.cookies(proxy.at(HOST))
        assert cookies, f"nobody is signed in\n{proxy.program.transcript()}"
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        yield proxy, await stack.enter_async_context(Handshakes(proxy.port, b"Cookie: " + cookie.encode()))


async def _all_audited(proxy: AuthproxyProcess, count: int) -> None:
    """Each case was a tunnel of the signed-in person: none went past the proxy, or in without a session."""
    await proxy.program.until(lambda: len(_tunnels(proxy)) >= count, "each tunnel is in the audit")
    assert {one["kind"] for one in _tunnels(proxy)} == {"session"}


def _tunnels(proxy: AuthproxyProcess) -> list[dict[str, Any]]:
    return [one for one in proxy.audit() if one.get("path") == PATH and one.get("status") == 101]


async def asked_twice(server: str, port: int, folder: Path, cases: Sequence[str] = CHAPTERS) -> Outcome:
    """The suite against one echo server, directly and through the proxy."""
    folder = folder / server
    folder.mkdir()
    direct = await verdicts(f"ws://{HOST}:{port}{PATH}", folder / "direct", cases)
    async with proxied(port, folder) as (proxy, line):
        through = await verdicts(f"ws://{HOST}:{line.port}{PATH}", folder / "through", cases)
        await _all_audited(proxy, len(through))
    return Outcome(server, direct, through)


async def outcomes(folder: Path, cases: Sequence[str] = ()) -> list[Outcome]:
    """Both echo servers, each asked twice; all cases where none are named."""
    found: list[Outcome] = []
    async with echo_servers() as ports:
        for server, port in ports.items():
            every = CHAPTERS if found else CHAPTERS + COMPRESSED
            found.append(await asked_twice(server, port, folder, cases or every))
    return found


def main(cases: Sequence[str]) -> int:
    """Print what came out; 1 when any case differs."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(outcomes(Path(folder), cases))
    sys.stdout.write("\n".join(map(summary, found)) + "\n")
    return 1 if any(outcome.differences for outcome in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
