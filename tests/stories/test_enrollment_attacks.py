"""Enrollment under attack, on two processes of the proxy over one real Redis.

The operator types ``authproxy enrollment`` at the first process; a third party on the same Redis makes renewals old.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import pytest

from authproxy.enrollment.families import GRACE
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping
from authproxy.store import keys
from authproxy.store.base import Store
from authproxy.store.opened import open_store
from tests.peers.authproxy_process import SESSION_KEY, AuthproxyProcess, run
from tests.peers.program import PATIENCE
from tests.peers.redis_server import RedisServer
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import within

HOST: Final = "api.corp.test"
PUBLIC: Final = "http://auth.corp.test"
OLD, NEW = "old-fleet-" + "o" * 32, "new-fleet-" + "n" * 32
EU, US = "eu-1.k8s.example.com", "us-1.k8s.example.com"
PROMISED: Final = 1.5
"""Seconds until every process refuses what was revoked: one is promised, the rest is for the requests themselves."""


class Operator:
    """Administers the first process by the command line."""

    def __init__(self, process: AuthproxyProcess, store: Store) -> None:
        self.process, self.store = process, store

    async def types(self, command: str, *words: str) -> str:
        """What ``authproxy enrollment`` prints."""
        done = await asyncio.to_thread(run, "enrollment", command, "-c", self.process.file, *words)
        assert done.exit_code == 0, done.stderr
        return done.stdout.strip()

    async def age(self, credential: str, seconds: float) -> None:
        """Let the latest renewal of this credential's family be ``seconds`` older."""
        key = keys.family(hashlib.sha256(family_of(credential).encode()).hexdigest())
        held = await self.store.get(key)
        assert held is not None
        generation, made = json.loads(held)
        assert await self.store.swap(key, held, json.dumps([generation, made - seconds]).encode(), ttl=600.0)


class Street:
    """Two processes, the API behind them, the operator, and whoever talks to them."""

    def __init__(self, processes: list[AuthproxyProcess], http: aiohttp.ClientSession, folder: Path) -> None:
        self.processes, self.http, self.folder = processes, http, folder
        self.operator: Operator

    async def ask(self, process: int, method: str, path: str, secret: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of one request to one of the processes, on a connection of its own."""
        headers = {"Host": HOST, "Authorization": f"Bearer {secret}"}
        url = f"http://127.0.0.1:{self.processes[process].port}{path}"
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
            return answer.status, json.loads(await answer.read())

    async def enroll(self, token: str, *, name: str = "agent", cluster: str = EU, process: int = 0) -> tuple[int, Any]:
        """POST /enroll."""
        who = {"name": name, "cluster": cluster}
        return await self.ask(process, "POST", "/oauth2/enroll", token, json=who)

    async def given(self, **who: Any) -> dict[str, Any]:
        """What a machine is given that enrolls with the shared token."""
        status, given = await self.enroll(OLD, **who)
        assert status == 201, given
        return cast("dict[str, Any]", given)

    async def renew(self, renewal: str, *, process: int = 0) -> tuple[int, Any]:
        """POST /enroll/renew."""
        return await self.ask(process, "POST", "/oauth2/enroll/renew", renewal)

    async def read(self, credential: str, *, cluster: str = EU, process: int = 0) -> int:
        """The status of a request for a cluster's data."""
        return (await self.ask(process, "GET", f"/clusters/{cluster}/x", credential))[0]

    async def refused(self, credential: str, *, process: int, cluster: str = EU) -> None:
        """Wait until the process refuses the credential: as soon as was promised."""
        with within(PROMISED):
            async with asyncio.timeout(PATIENCE):
                while await self.read(credential, cluster=cluster, process=process) != 401:
                    await asyncio.sleep(0.02)  # another process: there is no event to wait for

    def rotate(self, file: str, secret: str) -> None:
        """Replace a secret file as one step."""
        fresh = self.folder / f"{file}.fresh"
        fresh.write_text(secret)
        os.replace(fresh, self.folder / file)


def family_of(credential: str) -> str:
    """The family that a credential names."""
    payload = credential.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["family"])


def settings_for(redis: RedisServer, app: UpstreamApp) -> dict[str, Any]:
    """One API with a wall between clusters; a fleet token in two files."""
    files = [{"file": "current"}, {"file": "next"}]
    return {
        "public_url": PUBLIC,
        "store": {"redis": {"url": redis.url}},
        "session": {"keys": [{"value": SESSION_KEY}]},
        "enrollment": {
            "tokens": {"fleet": {"secrets": files, "clusters": ["*.k8s.example.com"]}},
            "signing_keys": [{"value": json.dumps(new_signing_key())}],
            "credential": {"lifetime": "15m", "scopes": ["read"]},
        },
        "policies": {"own": {"any": [{"scopes": ["read"], "cluster": "own"}]}},
        "apps": {
            "api": {
                "host": HOST,
                "upstream": {"url": app.url},
                "routes": [{"path": "/clusters/{cluster}/", "accept": ["enrolled"], "policy": "own"}],
            }
        },
    }


@pytest.fixture
async def street(upstream_app: UpstreamApp, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Street]:
    """Both processes are ready; both secret files hold the old fleet token."""
    data = settings_for(redis_server, upstream_app)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        )
        street = Street([AuthproxyProcess(tmp_path, data, name=name) for name in ("one", "two")], http, tmp_path)
        for file in ("current", "next"):
            street.rotate(file, OLD)
        for process in street.processes:
            await stack.enter_async_context(process)
        settings = from_mapping(data, tmp_path, {})
        store = open_store(settings.store, budget=5.0)
        stack.push_async_callback(store.close)
        street.operator = Operator(street.processes[0], store)
        yield street


async def test_a_single_use_token_from_twenty_connections_enrolls_one(street: Street) -> None:
    """Twenty connections over two processes present one minted token at once: one 201, nineteen refused."""
    token = await street.operator.types("mint", "--name", "agent", "--cluster", EU)
    answers = await asyncio.gather(*(street.enroll(token, process=n % 2) for n in range(20)))
    assert sorted(status for status, _ in answers) == [201] + [401] * 19
    assert {said["error"] for status, said in answers if status == 401} == {"enrollment_refused"}


async def test_reuse_inside_the_window_is_the_same_successor(street: Street) -> None:
    """A lost answer is given again by the other process, and the family lives on."""
    first = await street.given()
    _, second = await street.renew(first["renewal"], process=0)
    status, again = await street.renew(first["renewal"], process=1)
    assert (status, again["renewal"]) == (201, second["renewal"])
    assert [await street.read(second["credential"], process=process) for process in (0, 1)] == [200, 200]


async def test_reuse_outside_the_window_ends_the_family(street: Street) -> None:
    """The same renewal again after the window, on the other process: reuse, and nothing of the family is good."""
    first = await street.given()
    _, second = await street.renew(first["renewal"], process=0)
    await street.operator.age(second["credential"], GRACE + 1)
    status, said = await street.renew(first["renewal"], process=1)
    assert (status, said["error"]) == (401, "renewal_reused")
    await street.refused(second["credential"], process=0)
    status, said = await street.renew(second["renewal"], process=0)
    assert (status, said["error"]) == (401, "credential_revoked")


async def test_a_cloned_credential_ends_for_thief_and_owner(street: Street) -> None:
    """The thief renews a copy on one process; when the owner's copy comes back, both are out within a second."""
    stolen = await street.given()
    _, thief = await street.renew(stolen["renewal"], process=1)
    _, thief = await street.renew(thief["renewal"], process=1)
    assert await street.read(thief["credential"], process=1) == 200
    status, said = await street.renew(stolen["renewal"], process=0)
    assert (status, said["error"]) == (401, "renewal_reused")
    await street.refused(thief["credential"], process=1)
    for process in (0, 1):
        assert await street.read(stolen["credential"], process=process) == 401
        assert (await street.renew(thief["renewal"], process=process))[0] == 401
    assert (await street.enroll(OLD, process=1))[0] == 201  # the owner may begin anew


@pytest.mark.parametrize(
    ("scope", "name", "other"),
    [("--family", None, {}), ("--name", "agent", {"name": "other"}), ("--cluster", EU, {"cluster": US}),
     ("--all", "", None)],
)  # fmt: skip
async def test_what_is_revoked_is_refused_on_both_processes_within_a_second(
    street: Street, scope: str, name: str | None, other: dict[str, str] | None
) -> None:
    """By family, name, cluster or all: refused everywhere, renewal too; what the scope does not mean goes on."""
    given, spared = await street.given(), await street.given(**(other or {}))
    cluster = (other or {}).get("cluster", EU)
    assert [await street.read(given["credential"], process=process) for process in (0, 1)] == [200, 200]
    meant = family_of(given["credential"]) if name is None else name
    await street.operator.types("revoke", scope, *([meant] if meant else []))
    await asyncio.gather(*(street.refused(given["credential"], process=n) for n in (0, 1)))
    for process in (0, 1):
        assert (await street.renew(given["renewal"], process=process))[0] == 401
        expected = 401 if other is None else 200
        assert await street.read(spared["credential"], cluster=cluster, process=process) == expected


class Connectors:
    """Machines that enroll, read and renew all the time, on both processes, with the token they were told."""

    def __init__(self, street: Street, count: int) -> None:
        self.street, self.told = street, OLD
        self.refused: list[str] = []
        self.rounds = [0] * count
        self.token_of = [""] * count
        self.stopping = False

    async def work(self, me: int) -> None:
        """One connector, until it is told to stop."""
        while not self.stopping:
            token = self.told
            await self._round(me, token)
            self.token_of[me], self.rounds[me] = token, self.rounds[me] + 1

    async def _round(self, me: int, token: str) -> None:
        here, there = me % 2, (me + self.rounds[me] + 1) % 2
        status, given = await self.street.enroll(token, name=f"agent-{me}", process=here)
        self._expect(status, 201, f"enroll with {token[:3]}")
        if status != 201:
            return
        self._expect(await self.street.read(given["credential"], process=there), 200, "read")
        status, renewed = await self.street.renew(given["renewal"], process=there)
        self._expect(status, 201, "renew")
        if status == 201:
            self._expect(await self.street.read(renewed["credential"], process=here), 200, "read renewed")

    def _expect(self, status: int, wanted: int, what: str) -> None:
        if status != wanted:
            self.refused.append(f"{what}: {status}")

    async def another_round(self) -> None:
        """Wait until each has made two more rounds: the second of them began after this was asked."""
        wanted = [made + 2 for made in self.rounds]
        await until(lambda: all(made >= want for made, want in zip(self.rounds, wanted, strict=True)))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what other tasks bring about."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


async def _answers(street: Street, token: str, status: int) -> None:
    """Wait until both processes answer an enrollment with this token so."""
    async with asyncio.timeout(PATIENCE):
        for process in (0, 1):
            while (await street.enroll(token, name="operator", process=process))[0] != status:
                await asyncio.sleep(0.2)  # the files are looked at once a second


async def test_a_rotation_under_constant_traffic_refuses_no_connector(street: Street) -> None:
    """Old, then old and new, then new alone, by files and without a restart, as docs/how-to/enrollment.md says."""
    connectors = Connectors(street, 4)
    async with asyncio.TaskGroup() as group:
        for me in range(4):
            group.create_task(connectors.work(me))
        await connectors.another_round()
        assert (await street.enroll(NEW))[0] == 401
        street.rotate("next", NEW)
        await _answers(street, NEW, 201)
        await connectors.another_round()  # the old one goes on working
        connectors.told = NEW
        await until(lambda: set(connectors.token_of) == {NEW})
        street.rotate("current", NEW)
        await _answers(street, OLD, 401)
        await connectors.another_round()
        connectors.stopping = True
    assert connectors.refused == []
    assert min(connectors.rounds) >= 6
