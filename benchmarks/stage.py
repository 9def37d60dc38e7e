"""What all candidates share: Redis, the OpenID provider, the application, the person who is signed in, the cores.

Everything here is off the proxy's core, this process too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.nginx import Nginx, application
from benchmarks.processes import Cores
from benchmarks.request import HOST
from tests.peers.browser_client import Browser
from tests.peers.openid_grants import Person
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.redis_server import RedisServer

LIFETIME: Final = 86_400.0
"""Seconds of tokens: nothing is renewed while it is measured."""
USER: Final = "grace"
GROUPS: Final = ["staff", *(f"oidc:platform-team-{number:03}" for number in range(7))]
"""Eight groups: the ID token has about the size that a company's provider gives it."""


def person() -> Person:
    """Who is signed in everywhere."""
    claims = {
        "sub": "CiQ2ZjhmMDUzLTRmMmUtOWE0Zi0xYzJkM2U0ZjVhNmISBGxkYXA", "email": "grace@example.com",
        "email_verified": True, "name": "Grace Example", "preferred_username": USER, "groups": GROUPS,
    }  # fmt: skip
    return Person(USER, "grace-password", claims)


class Stage(NamedTuple):
    """Where candidates appear."""

    folder: Path
    cores: Cores
    redis: RedisServer
    peer: OpenIDPeer
    application: Nginx

    async def sign_in(self, port: int, target: str = "/1k") -> Mapping[str, str]:
        """Sign the person in through a proxy as a browser does; the cookies that it then sends to the application."""
        url = f"http://{HOST}:{port}{target}"
        async with Browser() as browser:
            page = await browser.open(url)
            assert page.status == 200, f"sign-in through {url} ended with {page.status}: {page.text[:300]}"
            return browser.cookies(url)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Everything but the candidates, running; this process is moved off the proxy's core until it is left."""
    available = os.sched_getaffinity(0)
    cores = Cores.split(available)
    os.sched_setaffinity(0, cores.others)
    peer = OpenIDPeer(client_secret="bench" * 7, id_token_lifetime=LIFETIME, access_token_lifetime=LIFETIME)
    peer.people[USER] = person()
    peer.current_user = USER
    try:
        with RedisServer() as redis:
            async with peer, application(folder / "application") as nginx:
                yield Stage(folder, cores, redis, peer, nginx)
    finally:
        os.sched_setaffinity(0, available)
