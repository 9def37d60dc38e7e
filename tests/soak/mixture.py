"""Everything that people, machines and attackers do with a proxy, in equal rounds, and what the process then holds.

    async with endurance(folder) as run:
        before = await run.sample()
        await run.round(400)
        after = await run.sample()

The parts are real: the proxy as a process, Redis, a provider whose tokens live for seconds, an application.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE, free_port
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp

HOST: Final = "app.test"
GONE: Final = "gone.test"
STATIC: Final = "a-static-token-of-more-than-32-characters"
PEOPLE: Final = 12
POOLED: Final = 32 + PEOPLE + 5
"""Connections that may be kept: those to Redis, and one to the application for each client."""
LIFETIME: Final = 4.0  # seconds of an ID token: every round has renewals
INSIDE: Final = Path(__file__).parent / "inside"
ASKED: Final = {"static": STATIC, "wrong": "b" * 40}
EXPECTED: Final = {
    "signed in": {200}, "sign in": {200}, "sign out": {200}, "signed out": {401}, "nobody": {401}, "forged": {401},
    "unknown": {404}, "ambiguous": {400}, "public": {200}, "gone": {502}, "callback": {400}, "static": {200},
    "wrong": {401}, "jwt": {200}, "bad jwt": {401}, "websocket": {101}, "broken off": {200}, "left": {499},
}  # fmt: skip
"""What each kind of request is answered with."""


class Sample(NamedTuple):
    """What the process holds, all work done and garbage collected."""

    rss: int  # octets
    fds: int  # but those of pooled connections, and of clients
    pooled: int  # connections to Redis and to the application
    objects: int  # that Python's collector follows, but marks
    marks: int  # one for each sign-out, until the session's absolute end
    tasks: int
    graphs: int
    sessions: int

    def __str__(self) -> str:
        return (
            f"{self.rss / 2**20:6.1f} MiB  {self.fds} + {self.pooled:2} fds  {self.objects:,} objects  "
            f"{self.marks:,} marks  {self.tasks} tasks  {self.graphs} graphs  {self.sessions} sessions"
        )

    def grown(self, since: Sample, *, rss: int, objects: int) -> list[str]:
        """What has grown beyond the slack of so many octets and objects; the rest has none."""
        found = []
        if self.rss - since.rss > rss:
            found.append(f"resident memory by {(self.rss - since.rss) / 2**20:.1f} MiB")
        if self.objects - since.objects > objects:
            found.append(f"objects by {self.objects - since.objects:,}")
        if self.pooled > POOLED:
            found.append(f"pooled connections to {self.pooled}")
        counts = {"fds": self.fds - since.fds, "tasks": self.tasks - since.tasks}
        counts |= {"graphs": self.graphs - 1, "sessions": self.sessions - PEOPLE}
        return found + [f"{name} by {more}" for name, more in counts.items() if more > 0]


def settings_for(peer: OpenIDPeer, app: UpstreamApp, redis: RedisServer, *, strict: bool = True) -> dict[str, Any]:
    """One application with every kind of route, and one whose server is down; ``strict`` is what reloads change."""
    staff = {"any": [{"groups": ["staff"]}]} if strict else {"any": [{"groups": ["staff", "owners"]}]}
    accept = ["session", "token", "bearer"]
    return {
        "listen": {"drain": {"timeout": "2s"}},
        "store": {"redis": {"url": redis.url}},
        "providers": {"peer": peer.settings()},
        "issuers": {"peer": {"issuer": peer.issuer, "audiences": [peer.client_id]}},
        "tokens": {"ci": {"secrets": [{"value": STATIC}]}},
        "throttle": {"login_per_client": {"burst": 100_000, "every": "1ms"}},
        "policies": {"people": {"any": [{"authenticated": True}]}, "staff": staff, "public": {"anonymous": True}},
        "apps": {
            "app": {
                "host": HOST, "provider": "peer", "upstream": {"url": app.url, "authorization": "id_token"},
                "routes": [{"path": "/public", "policy": "public"}, {"path": "/staff", "policy": "staff"},
                           {"path": "/", "accept": accept, "policy": "people"}],
            },
            "gone": {
                "host": GONE, "provider": "peer", "upstream": {"url": f"http://127.0.0.1:{free_port()}"},
                "routes": [{"path": "/", "policy": "public"}],
            },
        },
        "audit": {"file": os.devnull},
    }  # fmt: skip


class Endurance:
    """A proxy in use.  ``answers`` counts statuses by what was asked."""

    def __init__(self, proxy: AuthproxyProcess, peer: OpenIDPeer, app: UpstreamApp, redis: RedisServer, probe: Path):
        self.proxy, self.peer, self.app, self.redis = proxy, peer, app, redis
        self._probe: Final = probe
        self._rounds = 0
        self.renewals = 0
        self.people: list[Browser] = []
        self.answers: Counter[tuple[str, int]] = Counter()

    # --- what it holds ---

    async def sample(self) -> Sample:
        """Wait until nothing is under way any more, and look."""
        counts = await self._counted()
        async with asyncio.timeout(PATIENCE):
            while counts != (counts := await self._counted()):
                await asyncio.sleep(0.1)  # another process: there is no event to wait for
        folder = Path(f"/proc/{self.proxy.program.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        fds, connections = [os.readlink(one) for one in (folder / "fd").iterdir()], self._connections()
        kinds = Counter(connections.get(name) for name in fds)
        return Sample(pages * os.sysconf("SC_PAGE_SIZE"), kinds[None], kinds["pooled"], **counts)

    def _connections(self) -> dict[str, str]:
        """The connections of this machine that come and go by design, by the name that a process has for them."""
        found = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            here, there = (int(end.partition(":")[2], 16) for end in fields[1:3])
            if there in (self.redis.port, self.app.port):
                found[f"socket:[{fields[9]}]"] = "pooled"
            elif there and here in (self.proxy.port, self.proxy.admin_port):
                found[f"socket:[{fields[9]}]"] = "client"
        return found

    async def _counted(self) -> dict[str, int]:
        self._probe.unlink(missing_ok=True)
        self.proxy.program.send(signal.SIGUSR2)
        await self.proxy.program.until(self._probe.exists, "it has written the probe")
        counts: dict[str, int] = json.loads(self._probe.read_text())
        return counts

    @property
    def requests(self) -> int:
        """How many were answered so far."""
        return self.answers.total()

    def surprises(self) -> list[str]:
        """Answers that nobody expects of a proxy that is well."""
        return [f"{what}: {status}" for what, status in self.answers if status not in EXPECTED[what]]

    # --- what happens ---

    async def round(self, requests: int) -> None:
        """About so many requests: nine tenths by people who are signed in, the rest everything else."""
        self._rounds += 1
        each, others = round(requests * 0.9 / len(self.people)), max(requests // 100, 2)
        async with asyncio.TaskGroup() as group:
            for browser in self.people:
                group.create_task(self._use(browser, each))
            for work in (self._come_and_go, self._wrong, self._machines, self._sockets, self._broken_off):
                group.create_task(self._repeat(work, others))
            group.create_task(self._reload())
        self._forget()

    def _forget(self) -> None:
        """The other parties keep everything; over an hour that is too much."""
        self.renewals += self.peer.refreshes.count("rotated")
        for kept in (self.peer.calls, self.peer.refreshes, self.peer.issued, self.app.requests):
            kept.clear()
        for browser in self.people:
            browser.visited.clear()

    @staticmethod
    async def _repeat(work: Any, times: int) -> None:
        async with Browser() as browser:
            for _ in range(times):
                await work(browser)

    def _count(self, what: str, status: int) -> None:
        self.answers[what, status] += 1

    async def _get(self, browser: Browser, what: str, target: str, *, host: str = HOST, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self._count(what, (await browser.xhr(self.proxy.at(host, target), headers=named)).status)

    async def _use(self, browser: Browser, times: int) -> None:
        for number in range(times):
            await self._get(browser, "signed in", f"/page/{number % 10}")

    async def _come_and_go(self, browser: Browser) -> None:
        """Sign in, look, sign out, and come again with the cookies of before."""
        browser.forget()
        self._count("sign in", (await browser.open(self.proxy.at(HOST))).status)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies(self.proxy.at(HOST)).items())
        page = await browser.navigate(self.proxy.at(HOST, "/oauth2/sign_out"))
        self._count("sign out", (await browser.submit(page, page.form("csrf_token"))).status)
        browser.forget()
        await self._get(browser, "signed out", "/page", Cookie=cookies)
        browser.visited.clear()

    async def _wrong(self, browser: Browser) -> None:
        """What is refused: nobody, forged cookies, unknown places, two meanings, callbacks out of the blue."""
        browser.forget()
        await self._get(browser, "nobody", "/page")
        await self._get(browser, "forged", "/page", Cookie=f"authproxy={os.urandom(60).hex()}")
        await self._get(browser, "unknown", "/", host="unknown.test")
        await self._get(browser, "ambiguous", "/staff/..%2fpublic")
        await self._get(browser, "public", "/public")
        await self._get(browser, "gone", "/", host=GONE)
        await self._get(browser, "callback", f"/oauth2/callback/peer?state={os.urandom(8).hex()}&code=x")
        browser.visited.clear()

    async def _machines(self, browser: Browser) -> None:
        """Tokens, good and bad; every JWT is another one."""
        browser.forget()
        for what, text in {
            **ASKED,
            "jwt": self.peer.id_token(jti=os.urandom(8).hex()),
            "bad jwt": "e30.e30.e30",
        }.items():
            await self._get(browser, what, "/page", Authorization=f"Bearer {text}")
        browser.visited.clear()

    async def _sockets(self, browser: Browser) -> None:
        """A WebSocket that is closed, and one that is dropped."""
        headers = {"Authorization": f"Bearer {STATIC}"}
        for polite in (True, False):
            async with browser.session.ws_connect(self.proxy.at(HOST, "/ws"), headers=headers) as socket:
                await socket.send_str("hello")
                assert (await socket.receive(timeout=PATIENCE)).type is WSMsgType.TEXT
                self._count("websocket", 101)
                if not polite:
                    socket._response.close()

    async def _broken_off(self, browser: Browser) -> None:
        """A client that leaves in the middle of an answer, and one that leaves before it."""
        headers = {"Authorization": f"Bearer {STATIC}"}
        async with browser.session.get(self.proxy.at(HOST, "/big?size=4000000"), headers=headers) as answer:
            await answer.content.readany()
            self._count("broken off", answer.status)
            answer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05), browser.session.get(self.proxy.at(HOST, "/slow"), headers=headers):
                raise AssertionError("nothing answers there")
        self._count("left", 499)

    async def _reload(self) -> None:
        """Other settings in the middle of it all."""
        wanted = await self._reloads() + 1
        self.proxy.write(settings_for(self.peer, self.app, self.redis, strict=self._rounds % 2 == 0))
        self.proxy.program.send(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            while await self._reloads() < wanted:
                await asyncio.sleep(0.05)

    async def _reloads(self) -> int:
        async with aiohttp.ClientSession() as http, http.get(f"{self.proxy.admin_url}/metrics") as answer:
            found = re.search(r'events_total\{event="reload",outcome="ok"\} (\d+)', await answer.text())
        return int(found[1]) if found else 0


@asynccontextmanager
async def endurance(folder: Path) -> AsyncIterator[Endurance]:
    """Everybody, with people signed in."""
    probe = folder / "probe.json"
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        app = await stack.enter_async_context(UpstreamApp())
        peer = await stack.enter_async_context(OpenIDPeer(id_token_lifetime=LIFETIME))
        environ = {"PYTHONPATH": str(INSIDE), "PROBE": str(probe)}
        settings = settings_for(peer, app, redis)
        proxy = await stack.enter_async_context(AuthproxyProcess(folder, settings, env=environ))
        run = Endurance(proxy, peer, app, redis, probe)
        for _ in range(PEOPLE):
            browser = await stack.enter_async_context(Browser())
            assert (await browser.open(proxy.at(HOST))).status == 200
            run.people.append(browser)
        yield run
