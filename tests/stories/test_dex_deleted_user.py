"""A user who was deleted in LDAP: Dex without browser sessions answers 500 to that user's refresh and serves others.

Measured with Dex 2.45.1 and OpenLDAP: 500 ``{"error": "invalid_request"}`` at each refresh that rotates, in
milliseconds.  With LDAP away every user's refresh is answered so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.peers import dex, slapd
from tests.peers.dex_stage import Device, DexStage, dex_stage
from tests.peers.redis_server import RedisServer

LIFETIME: Final = 6  # seconds of an ID token
GRACE: Final = 5  # seconds of session.refresh_grace
PATIENCE: Final = 45.0  # seconds, on a busy machine
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["peer-2.45", "dex-2.45"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[DexStage]:
    """Two users of one directory, each with one device, before two replicas."""
    is_real = request.param.startswith("dex")
    lacking = (dex.missing(request.param) or slapd.missing()) if is_real else ""
    if lacking:
        pytest.skip(lacking)
    async with AsyncExitStack() as stack:
        made = await dex_stage(
            stack, tmp_path, redis_server, request.param, people=("alice", "bob"), id_tokens=LIFETIME,
            reuse_interval=1, ldap=is_real, refresh_grace=f"{GRACE}s",
        )  # fmt: skip
        for name in ("alice", "bob"):
            await (await made.device(name)).sign_in()
        yield made


async def goes_on(device: Device) -> None:
    """The device gets its page."""
    assert await device.click() == 200, f"{device}\n{device.stage.transcript()}"


async def test_a_deleted_user_is_out_after_the_grace(stage: DexStage) -> None:
    """The session ends once the refresh has failed for ``refresh_grace`` while another user was refreshed."""
    alice, bob = stage.devices
    await stage.provider.forget("bob")
    await stage.expired()
    failed_at = time.monotonic()
    await goes_on(bob)  # one failure ends nothing
    async with asyncio.timeout(PATIENCE):
        while await bob.click() != 401:
            await goes_on(alice)
            await asyncio.sleep(0.2)  # other processes: there is no event to wait for
    assert time.monotonic() - failed_at >= GRACE - 1
    await stage.expired()
    await goes_on(alice)
    assert await bob.click() == 401


async def test_an_outage_of_the_directory_ends_no_session(stage: DexStage) -> None:
    """No user is refreshed: that is an outage, and every session goes on for much longer than the grace."""
    alice, bob = stage.devices
    await stage.provider.stop_directory()
    await stage.expired()
    until = time.monotonic() + 3 * GRACE
    while time.monotonic() < until:
        await goes_on(alice)
        await goes_on(bob)
        await asyncio.sleep(0.2)  # other processes: there is no event to wait for
