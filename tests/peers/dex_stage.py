"""Users with several devices before two replicas, one Redis and one Dex, with the settings of docs/how-to/dashboard.md.

Both blocks of the page are used as they stand, but for addresses, and for times where a test asks for shorter ones.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml
from aiohttp.abc import ResolveResult

from tests.peers.authproxy_process import SESSION_KEY, AuthproxyProcess
from tests.peers.browser_client import Browser, Loopback, Page
from tests.peers.dex import CLIENT_SECRET, PASSWORD, PUBLIC, Dex, block, login_of, missing
from tests.peers.fleet import claims_of
from tests.peers.openid_dex import DexPeer
from tests.peers.program import free_port
from tests.peers.redis_server import RedisServer
from tests.peers.slapd import Slapd
from tests.peers.upstream_app import UpstreamApp

HOST: Final = "localhost"
PROVIDERS: Final = ("peer", "dex", "dex-2.45")
"""``peer`` stands in for a Dex with browser sessions; the others are programs."""


class DexStage:
    """An async context manager; it is built by ``dex_stage``.  Replica 0 is what ``public`` names."""

    def __init__(self, provider: Dex | DexPeer, redis: RedisServer, app: UpstreamApp) -> None:
        self.provider, self.redis, self.app = provider, redis, app
        self.replicas: list[AuthproxyProcess] = []
        self.devices: list[Device] = []
        self.stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<DexStage {self.provider!r}: {len(self.devices)} devices>"

    @property
    def port(self) -> int:
        """The public port."""
        return self.replicas[0].port

    async def device(self, username: str, replica: int | None = None) -> Device:
        """One more browser of a user, which has not signed in; on one replica, or on each in turn."""
        made = Device(self, len(self.devices), username, replica)
        self.devices.append(await self.stack.enter_async_context(made))
        return made

    async def expired(self) -> None:
        """Wait until every ID token that reached the application has expired."""
        last = max((device.claims["exp"] for device in self.devices if device.is_in), default=0)
        await asyncio.sleep(max(0.0, last + 0.2 - time.time()))

    async def click(self) -> dict[str, int]:
        """Every device that has signed in asks for a page at once; the answers that are not 200, by device."""
        devices = [device for device in self.devices if device.is_in]
        statuses = await asyncio.gather(*(device.click() for device in devices))
        return {repr(device): status for device, status in zip(devices, statuses, strict=True) if status != 200}

    async def renewed(self, seconds: float = 25.0) -> None:
        """Click until every device brings an ID token that is good; no answer on the way is anything but 200.

        docs/sessions.md allows an expired token while a renewal is left to another replica, or is tried again.
        """
        deadline = time.monotonic() + seconds
        while True:
            refused = await self.click()
            assert not refused, f"{len(refused)} of {len(self.devices)}: {refused}\n{self.transcript()}"
            stale = [repr(device) for device in self.devices if device.is_in and device.claims["exp"] <= time.time()]
            if not stale:
                return
            assert time.monotonic() < deadline, f"the ID token stays expired: {stale}\n{self.transcript()}"
            await asyncio.sleep(0.3)  # other processes: there is no event to wait for

    def transcript(self) -> str:
        """What the replicas wrote, for the message of a failed assertion: events and errors, without requests."""
        events = [str(record) for one in self.replicas for record in one.audit() if record["event"] != "exchange"]
        lines = [line for one in self.replicas for line in one.program.stderr.all()[-12:]]
        return "\n".join([*events[-12:], *lines])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stack.aclose()


class _ToReplica(Loopback):
    """Resolves the public address to the replica whose turn it is."""

    def __init__(self, device: Device) -> None:
        self._device = device

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if port == self._device.stage.port:
            found[0]["port"] = self._device.next_port()
        return found


class Device(Browser):
    """One browser of a user.  ``replica`` None: each connection goes to the next replica, as a balancer does it."""

    def __init__(self, stage: DexStage, number: int, username: str, replica: int | None) -> None:
        super().__init__()
        self.stage, self.number, self.username, self.replica = stage, number, username, replica
        self.is_in = False
        self._turn = number

    def __repr__(self) -> str:
        return f"device {self.number} of {self.username}"

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(resolver=_ToReplica(self), use_dns_cache=False, force_close=True)

    def next_port(self) -> int:
        """The port of the replica for the next connection."""
        self._turn += 1
        chosen = self._turn % len(self.stage.replicas) if self.replica is None else self.replica
        return self.stage.replicas[chosen].port

    @property
    def target(self) -> str:
        """The page that this device opens; no other device does."""
        return f"/device/{self.number}"

    def at(self, target: str) -> str:
        """The public address of ``target``."""
        return f"http://{HOST}:{self.stage.port}{target}"

    @property
    def claims(self) -> dict[str, Any]:
        """The ID token that the application saw last from this device."""
        seen = self.stage.app.to(self.target)[-1].get("Authorization") or ""
        return claims_of(seen.removeprefix("Bearer "))

    async def sign_in(self, tabs: int = 1, *, may_wait: bool = False) -> None:
        """Sign in, in several tabs at once: each of them shows the application.

        ``may_wait``: 503 is an answer as well.  While Redis is away, the replica that gets the first click may have
        no more than the cookie of a tab whose refresh token another tab's sign-in has killed.
        """
        pages = await asyncio.gather(*(self.open(self.at(self.target)) for _ in range(tabs)))
        ends = await asyncio.gather(*(self._filled_in(page) for page in pages))
        for page in ends:
            if may_wait and page.status == 503:
                continue
            assert page.status == 200, (self, page.url, page.status, page.body[:500], self.stage.transcript())
            assert json.loads(page.body)["target"] == self.target
        self.is_in = True

    async def _filled_in(self, page: Page) -> Page:
        if b'name="password"' not in page.body:
            return page  # Dex knew the browser
        form = page.form("login", "password")
        return await self.submit(page, form, login=login_of(self.username), password=PASSWORD)

    async def click(self) -> int:
        """Ask for the page as a script does; the status, 401 when the session has ended."""
        return (await self.xhr(self.at(self.target))).status

    async def sign_out(self) -> Page:
        """Sign out by the page of ours; where that ends, redirects followed."""
        page = await self.navigate(self.at("/oauth2/sign_out"))
        self.is_in = False
        return await self.submit(page, page.form("csrf_token"))


def settings_of(stage: DexStage, port: int, **session: Any) -> dict[str, Any]:
    """The settings file of the page with our addresses."""
    whole: dict[str, Any] = yaml.safe_load(block("").replace(PUBLIC, f"http://{HOST}:{port}"))
    for name in ("address", "admin"):
        del whole["listen"][name]
    whole["session"] |= session
    whole["providers"]["dex"]["issuer"] = stage.provider.issuer
    app = whole["apps"]["dashboard"]
    app["host"] = HOST
    app["upstream"]["url"] = stage.app.url
    del app["upstream"]["ca"]
    return whole


async def dex_stage(
    stack: AsyncExitStack,
    folder: Path,
    redis: RedisServer,
    kind: str,
    *,
    people: Sequence[str],
    id_tokens: int = 600,
    reuse_interval: int = 30,
    replicas: int = 2,
    race_seconds: float = 0.02,
    ldap: bool = False,
    **session: Any,
) -> DexStage:
    """A stage that leaves with ``stack``.  Times are whole seconds; ``session`` adds to that section.

    ``ldap``: a real Dex has its people in a real OpenLDAP server.
    """
    port = free_port()
    public = f"http://{HOST}:{port}"
    provider: Dex | DexPeer
    if kind.startswith("peer"):
        provider = DexPeer(
            sessions=kind == "peer", people=tuple(people), id_tokens=id_tokens, reuse_interval=reuse_interval,
            redirect_uris=(f"{public}/oauth2/callback/dex",), race_seconds=race_seconds,
            post_logout_redirect_uris=(f"{public}/oauth2/signed_out",), alg="ES256",
        )  # fmt: skip
        provider.backchannel_logout_uri = f"{public}/oauth2/backchannel_logout"
    else:
        assert not missing(kind), missing(kind)
        directory = await stack.enter_async_context(Slapd(folder, people)) if ldap else None
        provider = Dex(
            folder, public=public, people=tuple(people), id_tokens=f"{id_tokens}s",
            reuse_interval=f"{reuse_interval}s", sessions=kind == "dex", program=kind, directory=directory,
        )  # fmt: skip
    await stack.enter_async_context(provider)
    app = await stack.enter_async_context(UpstreamApp())
    stage = await stack.enter_async_context(DexStage(provider, redis, app))
    (folder / "session-key").write_text(SESSION_KEY)
    (folder / "dex-secret").write_text(provider.client_secret or CLIENT_SECRET)
    for number in range(replicas):
        one = AuthproxyProcess(
            folder, settings_of(stage, port, **session), port=port if number == 0 else free_port(),
            env={"REDIS_URL": redis.url}, name=f"replica{number}",
        )  # fmt: skip
        stage.replicas.append(await stage.stack.enter_async_context(one))
    return stage
