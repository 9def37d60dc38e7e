"""Clients of one Redis server each: bounded, and repeating nothing by themselves.

Knows the client library.  Knows nothing of verbs and budgets but their length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from redis import exceptions as wire
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from authproxy.store.address import Address
from authproxy.store.breaker import Breaker

CONNECTIONS: Final = 32  # further callers wait, within their budget
HEALTH_CHECK: Final = 15.0  # seconds of rest after which a connection is tried before use

Node = tuple[str, int]
Reach = Callable[[Node], Address]
"""How a node is connected to: with TLS or without, as whom."""


class Client(Protocol):
    """What the verbs need of a client, whichever way leads to the server."""

    async def execute_command(self, *args: Any) -> Any:
        """Send one command; the parsed answer."""

    async def aclose(self) -> None:
        """Close every connection."""


def client(where: Address, budget: float, *, connections: int, health_check: float = 0.0) -> Redis:
    """A client that never waits for long and never repeats anything by itself: the verbs decide about that."""
    pool = BlockingConnectionPool(
        connection_class=where.connection,
        max_connections=connections,
        timeout=budget,
        socket_timeout=budget + 0.05,  # the budget comes first; these bound what goes on without it
        socket_connect_timeout=budget + 0.05,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=health_check,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        driver_info=None,
        protocol=3,
        **where.arguments,
    )
    return Redis.from_pool(pool)


class Link:
    """One data node: a client for commands, one for listening, and the breaker of this node alone."""

    def __init__(self, node: Node, where: Address, budget: float, breaker: Breaker) -> None:
        self.node = node
        self.breaker = breaker
        self.commands: Any = client(where, budget, connections=CONNECTIONS, health_check=HEALTH_CHECK)
        self.listening: Any = client(where, budget, connections=2)

    async def close(self) -> None:
        """Close every connection; a failure of that is nobody's concern."""
        for one in (self.commands, self.listening):
            with contextlib.suppress(wire.RedisError, OSError):
                await one.aclose()

    def __repr__(self) -> str:
        return f"<Link {self.breaker.state}>"
