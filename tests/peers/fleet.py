"""Replicas behind HAProxy, with a provider, a store and an application: everything that can be broken under load.

The store is a parameter, so that a story is the same on whatever Redis there is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.browser_client import Browser
from tests.peers.haproxy import HAProxy, Replica
from tests.peers.load import Load, person
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE, free_port
from tests.peers.upstream_app import Seen, UpstreamApp
from tests.peers.yardstick import within

HOST = "dashboard.test"


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a JWT; its signature is not looked at."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


class TokenWatch:
    """Looks at every request that reaches the application: was its ID token good when it arrived?"""

    def __init__(self, app: UpstreamApp) -> None:
        self.good = 0
        self.without = 0
        self.expired: list[tuple[float, float]] = []  # when it arrived, and how many seconds too late
        app.on_request = self._see

    def _see(self, seen: Seen) -> None:
        scheme, _, token = (seen.get("Authorization") or "").partition(" ")
        if scheme != "Bearer":
            self.without += 1
            return
        late = time.time() - float(claims_of(token)["exp"])
        if late < 0:
            self.good += 1
        else:
            self.expired.append((time.time(), late))

    @property
    def late(self) -> list[float]:
        """By how many seconds tokens came too late, the latest first."""
        return sorted((round(late, 3) for _, late in self.expired), reverse=True)

    def __repr__(self) -> str:
        return f"<TokenWatch {self.good} good, {len(self.expired)} expired, {self.without} without>"


class Ledger:
    """What the provider was asked for, by refresh token and by sign-in."""

    def __init__(self, peer: OpenIDPeer) -> None:
        calls = peer.asked("token", grant_type="refresh_token")
        self.statuses = Counter(call.status for call in calls)
        self.dead = peer.refreshes.count("dead")
        good = Counter(call.form["refresh_token"] for call in calls if call.status == 200)
        self.spent_twice = [token for token, times in good.items() if times > 1]
        self._made: dict[str, list[int]] = {}
        for answer in peer.issued:
            claims = claims_of(answer["id_token"])
            self._made.setdefault(claims.get("sid") or claims["sub"], []).append(claims["iat"])

    @property
    def refreshes_by_sid(self) -> dict[str, int]:
        """How many refreshes succeeded, for each sign-in that had any."""
        return {sid: len(made) - 1 for sid, made in self._made.items() if len(made) > 1}

    @property
    def first_made(self) -> float:
        """When the first ID token was made, in seconds since the epoch."""
        return min(made[0] for made in self._made.values())

    def refreshed(self, since: float, until: float) -> int:
        """How many refreshes succeeded between two times; times of tokens are whole seconds, doubtful ones are left."""
        again = (at for made in self._made.values() for at in made[1:])
        return sum(since <= at and at + 1 <= until for at in again)

    def too_soon(self, least: float) -> list[tuple[int, int]]:
        """When a refresh succeeded less than ``least`` seconds after the one before, or the sign-in; and that time."""
        pairs = (pair for made in self._made.values() for pair in pairwise(made))
        return [(before, after) for before, after in pairs if after - before < least]

    def __str__(self) -> str:
        return f"refreshes by status {dict(self.statuses)}, {self.dead} with a dead token"


class Fleet:
    """``replicas`` real processes behind ``front``; build it with ``fleet``."""

    def __init__(self, folder: Path, peer: OpenIDPeer, app: UpstreamApp) -> None:
        self.folder, self.peer, self.app = folder, peer, app
        self.replicas: list[AuthproxyProcess] = []
        self.front = HAProxy(folder)
        self.watch = TokenWatch(app)

    def __repr__(self) -> str:
        return f"<Fleet {self.front!r}>"

    def at(self, target: str = "/", *, replica: int | None = None) -> str:
        """The address of ``target`` in the application: through the front, or on one replica."""
        port = self.front.port if replica is None else self.replicas[replica].port
        return f"http://{HOST}:{port}{target}"

    def load(self, *, users: int = 100, rate: float = 200.0) -> Load:
        """People at work; they have signed in when it is entered."""
        self.peer.current_user = None
        self.peer.people |= {person(number).username: person(number) for number in range(users)}
        return Load(self.folder, self.at("/work"), users=users, rate=rate)

    def transcript(self) -> str:
        """What the replicas said on standard error, for the message of a failed assertion."""
        lines = [line for one in self.replicas for line in one.program.stderr.all()]
        return "\n".join(lines[-60:])


def judge(fleet: Fleet, load: Load, record: Callable[[str, object], None]) -> None:
    """Nobody noticed anything, in any phase, and no refresh token was spent twice or dead."""
    for phase in load.phases:
        record(phase, load.report(phase))
    ledger = Ledger(fleet.peer)
    record("provider", ledger)
    record("tokens", fleet.watch)
    for phase in load.phases:
        assert load.report(phase).unharmed, f"{phase}: {load.report(phase)}\n{fleet.transcript()}"
    assert load.report().unharmed, str(load.report())
    assert (ledger.dead, ledger.spent_twice) == (0, [])
    assert fleet.watch.without == 0


class Visitor:
    """Somebody with a browser of their own, beside the people of the load, who keeps the cookie as it was at first."""

    def __init__(self, fleet: Fleet, browser: Browser) -> None:
        self.fleet, self.browser = fleet, browser
        self.cookie = ""

    def __repr__(self) -> str:
        return f"<Visitor {'signed in' if self.cookie else 'not yet signed in'}>"

    async def begin(self) -> None:
        """Sign in, as the provider's ``current_user``; both replicas know the session."""
        assert (await self.browser.open(self.fleet.at("/first"))).status == 200
        found = self.browser.cookies(self.fleet.at()).items()
        self.cookie = "; ".join(f"{name}={value}" for name, value in found)
        assert [await self.status(0), await self.status(1)] == [200, 200]

    async def status(self, replica: int) -> int:
        """What the cookie as it was brings on a replica: 200 or 401."""
        async with Browser() as thief:
            page = await thief.xhr(self.fleet.at("/inside", replica=replica), headers={"Cookie": self.cookie})
        return page.status

    async def sign_out(self) -> None:
        """Sign out on the first replica."""
        page = await self.browser.navigate(self.fleet.at("/oauth2/sign_out", replica=0))
        form = page.form("csrf_token")
        answer = await self.browser.navigate(
            self.fleet.at("/oauth2/sign_out", replica=0),
            method="POST",
            data=form.fields,
            headers={"Sec-Fetch-Site": "same-origin"},
        )
        assert answer.status in (302, 303), answer.text
        assert await self.status(0) == 401

    async def out_within(self, seconds: float, replica: int = 1) -> float:
        """Wait until a replica refuses the cookie; how long that took."""
        began = time.monotonic()
        with within(seconds):
            while await self.status(replica) != 401:
                assert time.monotonic() - began < PATIENCE, f"still in\n{self.fleet.transcript()}"
                await asyncio.sleep(0.02)
        return time.monotonic() - began


def settings_for(peer: OpenIDPeer, app: UpstreamApp, *, public_url: str, **sections: Any) -> dict[str, Any]:
    """One application for whoever has signed in; ``provider`` adds to the provider's entry."""
    return {
        "public_url": public_url,
        "providers": {"peer": peer.settings(**sections.pop("provider", {}))},
        "policies": {"people": {"any": [{"authenticated": True}]}},
        "apps": {
            "dashboard": {
                "host": HOST,
                "provider": "peer",
                "upstream": {"url": app.url, "authorization": "id_token"},
                "routes": [{"path": "/", "policy": "people"}],
            }
        },
        **sections,
    }


async def fleet(
    stack: AsyncExitStack,
    folder: Path,
    *,
    stores: Sequence[Mapping[str, Any]],
    peer: OpenIDPeer,
    **sections: Any,
) -> Fleet:
    """A fleet with one replica for each of ``stores`` (the section of the settings); leaves with ``stack``.

    ``peer`` is running.  ``sections`` are further sections of the settings; ``provider`` adds to the provider's.
    """
    app = await stack.enter_async_context(UpstreamApp())
    made = Fleet(folder, peer, app)
    public_url = f"http://auth.test:{made.front.port}"
    for number, store in enumerate(stores):
        settings = settings_for(peer, app, public_url=public_url, store=store, **sections)
        one = AuthproxyProcess(folder, settings, port=free_port(), name=f"replica{number}")
        made.replicas.append(await stack.enter_async_context(one))
    made.front.replicas = [Replica(one.port, one.admin_port) for one in made.replicas]
    await stack.enter_async_context(made.front)
    return made
