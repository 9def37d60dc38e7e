"""From the settings to a store."""

from __future__ import annotations

import time
from collections.abc import Callable

from authproxy.settings import schema
from authproxy.settings.values import SecretRef
from authproxy.store import patient as patience
from authproxy.store.address import node_address
from authproxy.store.base import Store
from authproxy.store.links import CONNECTIONS, Node, Reach
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore

BUDGET = 0.15
"""Seconds that a verb may take on Redis, whatever happens."""


def open_store(
    shape: schema.Store, *, clock: Callable[[], float] = time.time, budget: float = BUDGET,
    told: Callable[[str], None] | None = None,
) -> Store:  # fmt: skip
    """The store that ``shape`` describes; it connects at first use.  ``told`` as in ``RedisStore``.

    Raises LookupError when a secret cannot be read, ValueError when the address cannot.
    """
    redis = shape.redis
    if redis is None:
        return MemoryStore(clock)
    store = _redis(redis, budget)
    store.told = told or store.told
    return store


def open_patient_store(shape: schema.Store, store: Store, *, told: Callable[[str], None] | None = None) -> Store:
    """The shared store with patience (``store.patient``); the embedded ``store`` itself, which is never slow.

    Raises as ``open_store``.
    """
    if shape.redis is None:
        return store
    patient = _redis(shape.redis, patience.BUDGET_SECONDS, patience.CONNECTIONS)
    patient.told = told or patient.told
    return patience.PatientStore(patient)


def _redis(redis: schema.Redis, budget: float, connections: int = CONNECTIONS) -> RedisStore:
    if redis.sentinel is not None:
        return _sentinel(redis, redis.sentinel, budget)
    if redis.cluster is not None:
        return RedisStore.cluster(
            _nodes(redis.cluster.nodes), reach=_reach(redis, redis.username, redis.password), prefix=redis.prefix,
            budget=budget,
        )  # fmt: skip
    return RedisStore.standalone(
        address_of(redis), username=redis.username, password=redis.password.reveal if redis.password else None,
        ca=str(redis.ca) if redis.ca else None, prefix=redis.prefix, budget=budget,
        connections=connections,
    )  # fmt: skip


def address_of(redis: schema.Redis) -> str:
    """The URL of a standalone server, which may hold a password; empty where there is none.  Raises LookupError."""
    return redis.url if isinstance(redis.url, str) else redis.url.reveal() if redis.url else ""


def _sentinel(redis: schema.Redis, shape: schema.RedisSentinel, budget: float) -> RedisStore:
    return RedisStore.sentinel(
        _nodes(shape.nodes), shape.service, reach=_reach(redis, redis.username, redis.password),
        ask=_reach(redis, shape.username, shape.password), prefix=redis.prefix, budget=budget,
    )  # fmt: skip


def _nodes(texts: list[str]) -> list[Node]:
    parts = [text.rpartition(":") for text in texts]
    return [(host.strip("[]"), int(port)) for host, _, port in parts]


def _reach(redis: schema.Redis, username: str | None, password: SecretRef | None) -> Reach:
    ca, secret = str(redis.ca) if redis.ca else None, password.reveal if password else None
    return lambda node: node_address(node, username=username, password=secret, tls=redis.tls, ca=ca)
