"""A real Dex as a peer: the configuration of docs/how-to/dashboard.md, with addresses, people and a storage added.

``dex`` is found on PATH.  A machine without it runs the same stories against ``DexPeer`` (``openid_dex``).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import yaml

from tests.peers.program import PATIENCE, Program, free_port
from tests.peers.slapd import Slapd

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "dashboard.md"
PUBLIC: Final = "https://dashboard.example.com"
"""The address of the dashboard in the page."""

CLIENT_ID: Final = "authproxy"
OTHER_CLIENT_ID: Final = "another-client"
CLIENT_SECRET: Final = "a-secret-between-dex-and-authproxy"
PASSWORD: Final = "password"
_HASH: Final = "$2b$10$ytVNC6UzZKEZbYk7axPeUeqWX89D4/1Olq7ls63GSaN9tXhP2NJ7S"  # of PASSWORD; Dex refuses a lower cost
MOCK_CONNECTOR: Final = {
    "type": "mockPassword", "id": "mock", "name": "Mock", "config": {"username": "kilgore", "password": PASSWORD},
}  # fmt: skip
"""A second connector with one user, ``kilgore``."""


def block(kind: str) -> str:
    """The first YAML block of the page with ``kind`` behind its fence; "" is the settings file."""
    found = re.search(rf"(?ms)^```yaml{' ' + kind if kind else ''}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE} has no block {kind!r}"
    return found[1]


def login_of(username: str) -> str:
    """The text for the field ``login``: Dex knows people of its password database by e-mail address."""
    return username if username == "kilgore" else f"{username}@example.com"


def missing(program: str = "dex") -> str:
    """What this peer lacks on this machine; empty when it can run."""
    return "" if shutil.which(program) else f"{program} is not on PATH"


class Dex:
    """The process; an async context manager.  It can be stopped and started again at the same address.

    ``id_tokens`` and ``reuse_interval`` are durations as Dex writes them, None: those of the page.  ``sessions`` False:
    without the environment variable that enables browser sessions.  ``public`` replaces the page's address of the
    dashboard.  ``storage`` is ``sqlite3``, which survives a restart, or ``memory``.  ``directory`` is where people are,
    instead of Dex's own password database.
    """

    def __init__(
        self,
        folder: Path,
        *,
        public: str = PUBLIC,
        people: tuple[str, ...] = ("alice", "bob"),
        id_tokens: str | None = None,
        reuse_interval: str | None = None,
        sessions: bool = True,
        storage: str = "sqlite3",
        connectors: tuple[Mapping[str, Any], ...] = (),
        redirect_uris: tuple[str, ...] = (),
        program: str = "dex",
        directory: Slapd | None = None,
    ) -> None:
        self.people = list(people)
        self.port = free_port()
        self.client_id, self.client_secret = CLIENT_ID, CLIENT_SECRET
        self._file = folder / "dex.yaml"
        self._page = yaml.safe_load(block("dex").replace(PUBLIC, public))
        self._page["staticClients"][0]["redirectURIs"].extend(redirect_uris)
        self._ids, self._reuse, self._sessions = id_tokens, reuse_interval, sessions
        self._directory = directory
        self._connectors = [directory.connector()] if directory else [dict(one) for one in connectors]
        file = {"config": {"file": str(folder / "dex.db")}} if storage == "sqlite3" else {}
        self._storage = {"type": storage, **file}
        self._program = program
        self.program: Program | None = None

    def __repr__(self) -> str:
        return f"<Dex {self.issuer}: {self.program!r}>"

    @property
    def issuer(self) -> str:
        """The issuer."""
        return f"http://127.0.0.1:{self.port}/dex"

    def settings(self, **extra: Any) -> dict[str, Any]:
        """The entry under ``providers`` that signs people in here."""
        secret = {"value": self.client_secret}
        return {"issuer": self.issuer, "client_id": self.client_id, "client_secret": secret, **extra}

    def config(self) -> dict[str, Any]:
        """The page's configuration with what it leaves to the operator."""
        whole = dict(self._page)
        if not self._sessions:
            del whole["sessions"]
        expiry = {**whole["expiry"], "refreshTokens": dict(whole["expiry"]["refreshTokens"])}
        if self._ids is not None:
            expiry["idTokens"] = self._ids
        if self._reuse is not None:
            expiry["refreshTokens"]["reuseInterval"] = self._reuse
        other = {**whole["staticClients"][0], "id": OTHER_CLIENT_ID}
        return (
            whole
            | {
                "issuer": self.issuer,
                "storage": self._storage,
                "web": {"http": f"127.0.0.1:{self.port}"},
                "logger": {"level": "debug"},
                "expiry": expiry,
                "staticClients": [*whole["staticClients"], other],
                "connectors": self._connectors,
            }
            | ({} if self._directory else self._passwords())
        )

    def _passwords(self) -> dict[str, Any]:
        people = [
            {"email": login_of(name), "hash": _HASH, "username": name, "userID": f"id-{name}", "groups": ["staff"]}
            for name in self.people
        ]
        return {"enablePasswordDB": True, "staticPasswords": people}

    async def forget(self, username: str) -> None:
        """Delete a user: in the directory, or in the file of Dex, which restarts."""
        self.people.remove(username)
        if self._directory:
            await self._directory.delete(username)
            return
        await self.stop()
        await self.start()

    async def stop_directory(self) -> None:
        """The directory is away: no refresh that rotates succeeds."""
        assert self._directory is not None
        await self._directory.stop()

    async def start(self) -> None:
        """Start it; it answers on return."""
        self._file.write_text(yaml.safe_dump(self.config()), encoding="utf-8")
        enabled = {"DEX_SESSIONS_ENABLED": "true"} if self._sessions else {}
        env = {"AUTHPROXY_CLIENT_SECRET": self.client_secret, **enabled}
        self.program = Program(self._program, "serve", self._file, env=env).start()
        deadline = time.monotonic() + PATIENCE
        while not await self._answers():
            alive = self.program.exit_code is None and time.monotonic() < deadline
            assert alive, f"Dex does not answer\n{self.program.transcript()}"
            await asyncio.sleep(0.02)  # another process: there is no event to wait for

    async def _answers(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"{self.issuer}/.well-known/openid-configuration") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """Be down: connections are refused."""
        assert self.program is not None
        await self.program.stop()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            if self.program is not None:
                await self.program.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
