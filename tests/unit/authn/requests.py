"""What the tests of authenticators ask with: requests, a throttle, and the clock that they share."""

from __future__ import annotations

import base64

from authproxy.model import RequestInfo
from authproxy.settings import schema
from authproxy.store.memory import MemoryStore
from authproxy.throttle import Throttle
from tests.unit import values
from tests.unit.sessions.test_live import Clock as Clock

MATCH = values.match()


def bearer(*secrets: str) -> RequestInfo:
    """A request with an ``Authorization: Bearer`` line for each of ``secrets``."""
    return values.info("/", *(("Authorization", f"Bearer {secret}") for secret in secrets))


def basic(user: str, password: str, *, peer: str = "192.0.2.7") -> RequestInfo:
    """A request with a name and a password."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return values.info("/", ("Authorization", f"Basic {pair}"), peer=peer)


def throttle(clock: Clock, *, user: int = 20, client: int = 1000) -> Throttle:
    """A throttle of its own."""
    limits = schema.Throttle(
        login=schema.Limit.model_construct(burst=user, every=6.0),
        login_per_client=schema.Limit.model_construct(burst=client, every=0.1),
    )
    return Throttle(MemoryStore(clock=clock), limits, key=b"k" * 32)
