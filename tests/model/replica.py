"""One replica of the product inside the model: the product's own wiring, with two seams replaced.

The seams are the store's opener and the client session for providers; everything between them is as it is served.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final
from unittest.mock import patch

from authproxy import lasting
from authproxy.authn.chain import Proved
from authproxy.errors import Refusal, StoreUnavailable
from authproxy.graph import Graph
from authproxy.lasting import Lasting
from authproxy.model import RequestInfo
from authproxy.oidc import fetch
from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import Ticket
from authproxy.settings.schema import Settings
from authproxy.signin.login import Finished, Started
from authproxy.store.patient import BUDGET_SECONDS, PatientStore
from tests.model.faulty_store import SharedStore, StoreLink
from tests.model.token_peer import CLIENT_ID, ISSUER, TokenPeer, Wire
from tests.unit.values import info

HOST: Final = "app.example.com"
IDLE: Final = 300.0
ABSOLUTE: Final = 1800.0
_KEY: Final = base64.urlsafe_b64encode(bytes(range(32))).decode()
_WRITE_BACK_SECONDS: Final = 15


def settings(*, per_user: bool) -> Settings:
    """What every replica is started with."""
    return Settings.model_validate(
        {
            "public_url": f"https://{HOST}",
            "session": {"keys": [{"value": _KEY}], "idle": f"{IDLE:.0f}s", "absolute": f"{ABSOLUTE:.0f}s"},
            "providers": {
                "dex": {
                    "issuer": ISSUER,
                    "client_id": CLIENT_ID,
                    "refresh_tokens": "per_user" if per_user else "per_session",
                }
            },
            "apps": {
                "app": {
                    "host": HOST,
                    "upstream": {"url": "http://127.0.0.1:1"},
                    "routes": [{"path": "/", "policy": "all"}],
                }
            },
            "policies": {"all": {"any": [{"authenticated": True}]}},
            "audit": {"file": "/dev/null"},
        }
    )


class SessionGraph(Graph):
    """A graph without connections to applications and without pages: only time would be spent on them."""

    async def _build_pipeline(self) -> None: ...

    def _build_portal(self) -> None: ...


class Replica:
    """A process.  ``start`` and ``stop`` it; ``kill`` ends it without a last word."""

    def __init__(self, name: str, shared: SharedStore, peer: TokenPeer, clock: Callable[[], float]) -> None:
        self.name: Final = name
        self._shared: Final = shared
        self._peer: Final = peer
        self._clock: Final = clock
        self._ready = False
        self.link = StoreLink(shared)
        self.wire = Wire(peer, name)
        self.started_at = clock()

    async def start(self) -> None:
        """Begin with an empty memory; the link keeps its fault."""
        former, self.link = self.link, StoreLink(self._shared)
        self.link.state, self.link.delay, self.link.loses_effect = former.state, former.delay, former.loses_effect
        self.wire = Wire(self._peer, self.name)
        self.started_at = self._clock()
        self._ready = False
        shape = settings(per_user=self._peer.per_user)
        with (
            patch.object(lasting, "open_store", self._open_store),
            patch.object(lasting, "open_patient_store", self._open_patient_store),
            patch.object(fetch, "session", self._open_wire),
        ):
            self._lasting = Lasting(shape, clock=self._clock)
            self.graph = await SessionGraph(shape, self._lasting, clock=self._clock).__aenter__()
        graph = self.graph
        self._lasting.on_asked = graph.recall.answer
        self._write_back = asyncio.get_running_loop().create_task(_write_back(graph))

    def _open_store(self, *_arguments: Any, **_options: Any) -> StoreLink:
        return self.link

    def _open_patient_store(self, *_arguments: Any, **_options: Any) -> PatientStore:
        return PatientStore(self.link.with_budget(BUDGET_SECONDS))

    def _open_wire(self, *_arguments: Any, **_options: Any) -> Wire:
        return self.wire

    async def stop(self) -> None:
        """End in order: renewals finish, and what only memory has is written."""
        self._write_back.cancel()
        with suppress(StoreUnavailable):
            await self.graph.resumption.write_back()
        await self.graph.__aexit__(None, None, None)
        self._lasting.audit.close()

    async def kill(self) -> None:
        """End at once: nothing that is left undone has an effect."""
        self.link.gone = self.wire.gone = True
        await self.stop()

    async def ready(self) -> bool:
        """Whether requests may be sent here: the revocations were read once since the start."""
        if not self._ready:
            with suppress(StoreUnavailable):
                await self.graph.marks.sync()
                self._ready = True
        return self._ready

    # What a browser does

    async def request(self, cookies: str) -> Proved:
        """A request with a Cookie header; raises a ``Refusal``."""
        return await self.graph.session.authenticate(_info(cookies), None)

    async def begin_sign_in(self, cookies: str) -> Started:
        """Send the browser to the provider."""
        return await self.graph.login.start(
            _info(cookies), self._provider, target="/", redirect_uri=f"https://{HOST}/oauth2/callback"
        )

    async def finish_sign_in(self, cookies: str, parameters: dict[str, str]) -> Finished:
        """The callback of the provider; raises a ``Refusal``."""
        return await self.graph.login.finish(_info(cookies), self._provider, parameters)

    async def sign_out(self, cookies: str) -> None:
        """End the session of the cookie."""
        await self.graph.logout.end(_info(cookies))

    async def end_by_provider(self, token: str) -> bool:
        """Deliver a back-channel logout token; whether it was obeyed.  It is not while its key cannot be had."""
        try:
            await self.graph.logout.by_provider(token)
        except Refusal:
            return False
        return True

    def ticket(self, cookies: str) -> Ticket | None:
        """What the session cookie holds."""
        found = self.graph.cookie.find(_info(cookies).headers)
        return self.graph.cookie.open(found[0], HOST) if found else None

    @property
    def _provider(self) -> Provider:
        return self.graph.providers["dex"]

    def __repr__(self) -> str:
        return f"<Replica {self.name}>"


async def _write_back(graph: Graph) -> None:
    """As ``app`` does it: shared tokens every second, last uses more seldom."""
    for second in count(1):
        await asyncio.sleep(1.0)
        with suppress(StoreUnavailable):
            await (graph.resumption if second % _WRITE_BACK_SECONDS == 0 else graph.refresher).write_back()


def _info(cookies: str) -> RequestInfo:
    return info("/", ("Cookie", cookies), host=HOST) if cookies else info("/", host=HOST)
