"""Many clients that are slow in every way hold on, and the others work as before; what the slow ones hold is bounded.

The sizes here are for every run; ``WIRE_LIMITS=full`` (``make limits``) takes a thousand of them for a minute, so that
those that are cut off come again.  How long the others wait is no claim here: ``make bench SCENES=slow`` measures it.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.gauge import MEBIBYTE, Gauge, connections
from tests.peers.load import Load, person
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE
from tests.peers.slow_clients import SOURCE, SlowClients, manners
from tests.peers.upstream_app import UpstreamApp

FULL: Final = os.environ.get("WIRE_LIMITS") == "full"
SLOW: Final = 999 if FULL else 99
BEFORE: Final = 20.0 if FULL else 1.5  # seconds
DURING: Final = 70.0 if FULL else 3.0  # seconds: in the long run each kind is cut off once
USERS: Final = 50 if FULL else 10
RATE: Final = 200.0 if FULL else 50.0
EACH: Final = MEBIBYTE // 3
"""Octets of memory that a slow client may cost: a reader, that holds what was read from the application in one go."""
SLACK: Final = 8 * MEBIBYTE
HOST: Final = "app.test"
TOKEN: Final = "a-static-token-of-more-than-32-characters"
pytestmark = pytest.mark.timeout(600 if FULL else 300)

Keep = Callable[[str, object], None]


def settings(peer: OpenIDPeer, app: UpstreamApp) -> dict[str, Any]:
    """One application for people, and for machines with a token, which the slow clients are."""
    routes = [{"path": "/", "accept": ["session", "token"], "policy": "known"}]
    return {
        "providers": {"peer": peer.settings()},
        "tokens": {"machine": {"secrets": [{"value": TOKEN}]}},
        "policies": {"known": {"any": [{"authenticated": True}]}},
        "apps": {"app": {"host": HOST, "provider": "peer", "upstream": {"url": app.url}, "routes": routes}},
        "audit": {"file": os.devnull},
    }


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """For this process and the proxy that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def proxy(tmp_path: Path, upstream_app: UpstreamApp) -> AsyncIterator[AuthproxyProcess]:
    """A proxy whose provider knows the people of the load."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenIDPeer())
        peer.current_user = None
        peer.people |= {person(number).username: person(number) for number in range(USERS)}
        yield await stack.enter_async_context(AuthproxyProcess(tmp_path, settings(peer, upstream_app)))


async def until(held: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(PATIENCE):
        while not held():
            await asyncio.sleep(0.1)


class Held(NamedTuple):
    """Connections that the proxy has open."""

    slow: int
    to_the_application: int

    @property
    def few(self) -> bool:
        """No more than the others need."""
        return not self.slow and self.to_the_application <= USERS

    @property
    def many(self) -> bool:
        """Most of the slow clients have begun: all of one kind may have been cut off a moment ago."""
        return self.slow > SLOW * 0.6 and self.to_the_application > SLOW * 0.3


def held(proxy: AuthproxyProcess, app: UpstreamApp) -> Held:
    """Now."""
    known = connections()
    slow = sum(one.port == proxy.port and one.address == SOURCE for one in known)
    return Held(slow, sum(one.to == app.port for one in known))


async def test_slow_clients_harm_nobody(
    proxy: AuthproxyProcess, upstream_app: UpstreamApp, tmp_path: Path, record: Keep
) -> None:
    """No request of the others fails; a slow client costs less than a third of a megabyte, its connection, and one to
    the application; and when they have gone nothing of them is left."""
    lines = f"Host: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    kinds = manners(lines, upload="/upload", download=f"/big?size={64 * MEBIBYTE}")
    async with Load(tmp_path, proxy.at(HOST, "/work"), users=USERS, rate=RATE) as load:
        async with load.phase("before", BEFORE):
            pass
        with Gauge(proxy.program.pid) as gauge:
            slow = await asyncio.to_thread(SlowClients(proxy.port, kinds, SLOW).__enter__)
            try:
                async with load.phase("during", DURING):
                    await until(lambda: held(proxy, upstream_app).many)
                found = held(proxy, upstream_app)
            finally:
                await asyncio.to_thread(slow.__exit__, None, None, None)
        await until(lambda: held(proxy, upstream_app).few)
        async with load.phase("after", BEFORE):
            pass
    for phase in load.phases:
        record(phase, load.report(phase))
    record("held", f"{found}, {gauge!r}, {slow!r} {dict(slow.cut)}")
    assert load.report().unharmed, load.report()
    assert slow.answers.keys() == {("reader", "HTTP/1.1 200")}, slow.answers
    assert FULL or not slow.cut, slow.cut  # to be rid of them at once is another way to stand it, and no claim
    assert found.many
    assert found.slow <= SLOW
    assert found.to_the_application < SLOW * 0.7 + 4 * RATE  # and those of four seconds of the load
    assert gauge.grown < SLACK + SLOW * EACH, gauge
