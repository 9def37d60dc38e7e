"""Several processes on one port: supervised, replaced without a refused connection, and counted as one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.hostile.harness import HOST, settings_for
from tests.peers.authproxy_process import AuthproxyProcess, run
from tests.peers.browser_client import Browser
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import within

WORKERS: Final = 2
PUBLIC: Final = "public.corp.test"


def gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Crew:
    """The supervisor, as operators and clients see it."""

    def __init__(self, proxy: AuthproxyProcess, http: aiohttp.ClientSession) -> None:
        self.proxy, self.http = proxy, http

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        """What ``/readyz`` says."""
        async with self.http.get(f"{self.proxy.admin_url}/readyz") as answer:
            return answer.status, await answer.json()

    async def pids(self) -> list[int]:
        """The processes of the workers."""
        return [one["pid"] for one in (await self.readiness())[1]["workers"].values()]

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until readiness says so."""

        async def reached() -> bool:
            return holds((await self.readiness())[1])

        await self.proxy.program.until(reached, "readiness is as wanted")

    async def get(self, session: aiohttp.ClientSession | None = None) -> int:
        """One request to the public app."""
        headers = {"Host": f"{PUBLIC}:{self.proxy.port}"}
        async with (session or self.http).get(f"http://127.0.0.1:{self.proxy.port}/x", headers=headers) as answer:
            await answer.read()
            return answer.status

    async def counted(self) -> float:
        """How many requests to the public app were answered with 200, by ``/metrics``."""
        async with self.http.get(f"{self.proxy.admin_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        wanted = 'authproxy_exchanges_total{app="public",status="200"} '
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    @asynccontextmanager
    async def load(self, statuses: list[int], *, keep_alive: bool) -> AsyncIterator[None]:
        """Requests without a pause, on connections that are kept or on new ones."""
        over = asyncio.Event()

        async def use() -> None:
            connector = aiohttp.TCPConnector(force_close=not keep_alive)
            async with aiohttp.ClientSession(connector=connector) as session:
                while not over.is_set():
                    statuses.append(await self.get(session))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(use())
            try:
                yield
            finally:
                over.set()


@pytest.fixture
async def crew(tmp_path: Path, upstream_app: UpstreamApp, redis_server: RedisServer) -> AsyncIterator[Crew]:
    """Workers over one Redis: an app for people, and one for everybody."""
    async with OpenIDPeer() as peer:
        data = settings_for(
            peer, upstream_app, Path("unused"), store={"redis": {"url": redis_server.url}},
            listen={"workers": WORKERS}, policies={"public": {"anonymous": True}},
            apps={"public": {"host": PUBLIC, "upstream": {"url": upstream_app.url},
                             "routes": [{"path": "/", "policy": "public"}]}},
        )  # fmt: skip
        del data["audit"], data["public_url"], data["listen"]["address"], data["listen"]["admin"]
        connector = aiohttp.TCPConnector(force_close=True)
        async with AuthproxyProcess(tmp_path, data) as proxy, aiohttp.ClientSession(connector=connector) as http:
            yield Crew(proxy, http)


async def test_they_are_counted_as_one(crew: Crew) -> None:
    """Every request is in the sum, also after the worker that counted it was replaced or killed."""
    pids = await crew.pids()
    assert len(set(pids)) == WORKERS
    assert set(await asyncio.gather(*(crew.get() for _ in range(60)))) == {200}
    assert await crew.counted() == 60
    os.kill(pids[0], signal.SIGKILL)
    await crew.until(lambda said: all(one["ready"] and one["pid"] != pids[0] for one in said["workers"].values()))
    assert set(await asyncio.gather(*(crew.get() for _ in range(20)))) == {200}
    assert await crew.counted() == 80


async def test_a_killed_worker_is_replaced(crew: Crew) -> None:
    """The others go on and readiness stays; a new process takes its place, and the log says why."""
    before = await crew.pids()
    os.kill(before[1], signal.SIGKILL)
    await crew.until(lambda said: before[1] not in [one["pid"] for one in said["workers"].values()])
    status, said = await crew.readiness()
    assert (status, said["ready"]) == (200, True)
    await crew.until(lambda said: all(one["ready"] for one in said["workers"].values()))
    after = await crew.pids()
    assert after[0] == before[0]
    assert "worker 1 ended with signal 9" in "\n".join(crew.proxy.program.stderr.all())


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_a_rolling_restart_refuses_nobody(crew: Crew, keep_alive: bool) -> None:
    """SIGUSR2 replaces every process; no request fails meanwhile, on kept connections or on new ones."""
    before, statuses = await crew.pids(), list[int]()
    async with crew.load(statuses, keep_alive=keep_alive):
        crew.proxy.program.send(signal.SIGUSR2)
        await crew.until(lambda said: not {one["pid"] for one in said["workers"].values()} & set(before))
        async with asyncio.timeout(PATIENCE):
            while not all(map(gone, before)):
                await asyncio.sleep(0.05)
    assert set(statuses) == {200}
    assert len(statuses) > 50


async def test_the_queue_of_a_killed_worker_is_served(crew: Crew) -> None:
    """Connections that waited for a process that was killed are answered by the next one; none is refused."""
    before = await crew.pids()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)  # from now on connections wait in the queues
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(crew.get()) for _ in range(30)]
        async with asyncio.timeout(PATIENCE):
            while connected(crew.proxy.port) < 30:
                await asyncio.sleep(0.02)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
    assert [task.result() for task in waiting] == [200] * 30


def connected(port: int) -> int:
    """How many connections to a port are open, accepted or not."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(words[2].endswith(f":{port:04X}") and words[3] == "01" for words in lines)


async def test_a_person_is_known_to_all(crew: Crew) -> None:
    """A sign-in on one worker holds on every other, a sign-out ends the session on all within a second."""
    async with Browser() as browser:
        assert (await browser.open(crew.proxy.at(HOST))).status == 200
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies(crew.proxy.at(HOST)).items())

        async def statuses() -> set[int]:
            url, headers = f"http://127.0.0.1:{crew.proxy.port}/inside", {"Cookie": cookie}
            headers["Host"] = f"{HOST}:{crew.proxy.port}"
            found = set()
            for _ in range(12):  # each on a connection of its own: the kernel spreads them
                async with crew.http.get(url, headers=headers, allow_redirects=False) as answer:
                    found.add(answer.status)
            return found

        assert await statuses() == {200}
        page = await browser.navigate(crew.proxy.at(HOST, "/oauth2/sign_out"))
        await browser.submit(page, page.form("csrf_token"))
        with within(5.0):
            async with asyncio.timeout(PATIENCE):
                while 200 in await statuses():
                    pass
        assert await statuses() == {401}


async def test_settings_reach_all(crew: Crew, upstream_app: UpstreamApp) -> None:
    """SIGHUP has each worker read the settings; a file that cannot be used reaches none of them."""
    good = crew.proxy.file.read_text()
    crew.proxy.file.write_text(good.replace("policies:", "polices:"))
    crew.proxy.program.send(signal.SIGHUP)
    await crew.proxy.program.line(lambda line: "the former settings stay" in line or None, error=True)
    assert [one for one in crew.proxy.audit() if one["event"] == "reload"] == []
    crew.proxy.file.write_text(good.replace("anonymous: true", "any: [{groups: [nobody]}]"))
    crew.proxy.program.send(signal.SIGHUP)
    await crew.proxy.program.until(
        lambda: len([one for one in crew.proxy.audit() if one["event"] == "reload"]) >= WORKERS, "each has reloaded"
    )
    assert 200 not in await asyncio.gather(*(crew.get() for _ in range(20)))


async def test_the_end_leaves_nobody(crew: Crew) -> None:
    """SIGTERM ends all of them, and the supervisor with 0."""
    pids = await crew.pids()
    assert await crew.proxy.stop() == 0, crew.proxy.program.transcript()
    assert all(map(gone, pids))


async def test_a_killed_supervisor_leaves_nobody(crew: Crew) -> None:
    """Workers notice that it is gone, and end."""
    pids = await crew.pids()
    await crew.proxy.kill()
    async with asyncio.timeout(PATIENCE):
        while not all(map(gone, pids)):
            await asyncio.sleep(0.05)


async def test_it_answers_for_the_administration(crew: Crew) -> None:
    """A path of the admin listener that is not its own is answered by a worker."""
    async with crew.http.get(f"{crew.proxy.admin_url}/no-such-path") as answer:
        assert answer.status == 404
    async with crew.http.get(f"{crew.proxy.admin_url}/healthz") as answer:
        assert await answer.json() == {"status": "alive"}


async def test_wrong_settings_end_the_start(tmp_path: Path, redis_server: RedisServer) -> None:
    """A port that is taken is said in a sentence, with exit code 2, and no worker is left."""
    data = {"listen": {"workers": 2}, "store": {"redis": {"url": redis_server.url}}}
    proxy = AuthproxyProcess(tmp_path, data, port=redis_server.port)
    proxy.program.start()
    assert await proxy.program.ended() == 2, proxy.program.transcript()
    assert "Traceback" not in proxy.program.transcript()


async def test_a_second_instance_does_not_slip_in(crew: Crew) -> None:
    """The port may be shared by the workers of one instance, and by nobody else."""
    second = crew.proxy.file.with_name("second.yaml")
    second.write_text(crew.proxy.file.read_text().replace(f":{crew.proxy.admin_port}", ":0"))
    ended = await asyncio.to_thread(run, "serve", "-c", second)
    assert ended.exit_code == 2
    assert "cannot start" in ended.stderr


async def test_unix_sockets_and_port_0(tmp_path: Path, redis_server: RedisServer, upstream_app: UpstreamApp) -> None:
    """A unix socket is shared by all; port 0 is one port for all, and the line says which."""
    file = tmp_path / "public.sock"
    data = {
        "listen": {"address": f"unix:{file}", "decisions": "127.0.0.1:0", "workers": WORKERS},
        "store": {"redis": {"url": redis_server.url}}, "policies": {"public": {"anonymous": True}},
        "apps": {"public": {"host": "*", "upstream": {"url": upstream_app.url},
                            "routes": [{"path": "/", "policy": "public"}]}},
    }  # fmt: skip
    async with AuthproxyProcess(tmp_path, data) as proxy:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(file))) as http,
            http.get("http://app.test/") as answer,
        ):
            assert answer.status == 200
        told = re.search(r"decisions listens on .*:(\d+)", proxy.program.transcript())
        assert told, proxy.program.transcript()
        for _ in range(WORKERS * 6):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(told[1]))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 ")
            writer.close()
