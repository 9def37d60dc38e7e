"""From the settings to a store."""

from __future__ import annotations

import time
from collections.abc import Callable

from authproxy.settings import schema
from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore

BUDGET = 0.15
"""Seconds that a verb may take on Redis, whatever happens."""


def open_store(shape: schema.Store, *, clock: Callable[[], float] = time.time, budget: float = BUDGET) -> Store:
    """The store that ``shape`` describes; it connects at first use.

    Raises LookupError when a secret cannot be read, ValueError when the address cannot.
    """
    redis = shape.redis
    if redis is None:
        return MemoryStore(clock)
    return RedisStore.standalone(
        address_of(shape), username=redis.username, password=redis.password.reveal if redis.password else None,
        ca=str(redis.ca) if redis.ca else None, prefix=redis.prefix, budget=budget,
    )  # fmt: skip


def address_of(shape: schema.Store) -> str:
    """The URL of a standalone server, which may hold a password; empty where there is none.  Raises LookupError."""
    url = shape.redis.url if shape.redis else None
    return url if isinstance(url, str) else url.reveal() if url else ""
