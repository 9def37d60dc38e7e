"""The shared store in Redis (6.2 or later): small verbs, each within its budget.

The only room that knows Redis.  Its exceptions stop here: whatever goes wrong becomes ``StoreUnavailable``, in words
that hold no address, no password and no value.  How the server is found (standalone, Sentinel or Cluster) is
the matter of the constructors alone: the verbs ask a ``Client``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis import exceptions as wire

from authproxy.errors import StoreSlow, StoreUnavailable
from authproxy.store import scripts
from authproxy.store.address import address
from authproxy.store.base import Entry, Tally
from authproxy.store.breaker import Breaker
from authproxy.store.cluster import ClusterClient
from authproxy.store.links import CONNECTIONS, HEALTH_CHECK, Client, Node, Reach, client
from authproxy.store.lookup import Nowhere
from authproxy.store.sentinel import SentinelClient
from authproxy.store.subscriptions import Subscriptions

_KEPT_AFTER: Final = 60.0  # seconds that the number of a lease outlives it
_MICRO: Final = 1_000_000
PROBE_SECONDS: Final = 0.25
"""At most this long waits the call that finds out whether a store that did not answer is back."""
_CODE: Final = re.compile(r"[A-Z]{2,20}\b")
_SAID: Final = (
    (wire.AuthenticationError, "the user name or password is refused, or none was given"),
    (wire.NoPermissionError, "the user may not do this"),
    (wire.BusyLoadingError, "still loading its data"),
    (wire.OutOfMemoryError, "out of memory"),
    (wire.ReadOnlyError, "a replica that takes no writes"),
    (wire.TimeoutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (wire.ConnectionError, "no connection"),
    (OSError, "no connection"),
)
_ANSWERED: Final = (wire.ResponseError, wire.AuthenticationError, wire.AuthorizationError, wire.BusyLoadingError)

Argument = str | bytes | int


def _words(error: Exception) -> str:
    """What may be said of ``error``.  Its text is never repeated: an old server quotes the arguments of HELLO."""
    if isinstance(error, Nowhere):
        return str(error)
    for kind, said in _SAID:
        if isinstance(error, kind):
            return said
    code = _CODE.match(str(error)) if isinstance(error, wire.ResponseError) else None
    return f"error {code[0]}" if code else type(error).__name__


def _cancellations() -> int:
    """How often the running task was asked to stop."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _milliseconds(ttl: float) -> int:
    return max(1, math.ceil(ttl * 1000))


class RedisStore:
    """All verbs of ``store.base.Store`` on a Redis server.

    ``mode`` names the way to the server, ``client`` answers commands, ``subscriptions`` listens, ``budget`` is how many
    seconds a verb may take, whatever happens, ``breaker`` gives that of the node that holds a key ("":
    of any node), ``state`` says how they are.  ``told`` is called after each verb with "", or with how it failed:
    ``not_asked`` (the breaker is open), ``unanswered``, ``error`` (the server's).
    """

    def __init__(
        self, mode: str, client: Client, subscriptions: Subscriptions, *, prefix: str, budget: float,
        breaker: Callable[[str], Breaker],
        state: Callable[[], str],
    ) -> None:  # fmt: skip
        self._mode = mode
        self._client = client
        self._subscriptions = subscriptions
        self._prefix = prefix
        self._budget = budget
        self._breaker = breaker
        self._state = state
        self._closed = False
        self.told: Callable[[str], None] = lambda _: None

    @classmethod
    def standalone(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: Callable[[], str] | None = None,
        ca: str | None = None,
        prefix: str = "authproxy:",
        budget: float = 0.15,
        connections: int = CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> RedisStore:
        """One server at ``redis://``, ``rediss://`` or ``unix://``; connects at first use.

        ``username`` and ``password`` (read for every new connection) go before those in the URL; ``ca`` is a PEM bundle
        for ``rediss``.  Raises ValueError, without the URL, when that cannot be read.
        """
        where = address(url, username=username, password=password, ca=ca)
        listener = client(where, budget, connections=2)
        subscriptions = Subscriptions(listener.pubsub, patience=budget)
        commands = client(where, budget, connections=connections, health_check=HEALTH_CHECK)
        breaker = Breaker(clock)
        return cls(
            "standalone",
            commands,
            subscriptions,
            prefix=prefix,
            budget=budget,
            breaker=lambda _: breaker,
            state=lambda: breaker.state,
        )

    @classmethod
    def sentinel(
        cls, sentinels: list[Node], service: str, *, reach: Reach, ask: Reach, prefix: str = "authproxy:",
        budget: float = 0.15, clock: Callable[[], float] = time.monotonic,
    ) -> RedisStore:  # fmt: skip
        """The master of ``service``, as the first of ``sentinels`` that answers names it; connects at first use.

        ``reach`` and ``ask`` say how data nodes and sentinels are connected to.
        """
        way = SentinelClient(list(sentinels), service, reach=reach, ask=ask, budget=budget, clock=clock)
        return cls._along("sentinel", way, prefix, budget)

    @classmethod
    def cluster(
        cls, nodes: list[Node], *, reach: Reach, prefix: str = "authproxy:", budget: float = 0.15,
        clock: Callable[[], float] = time.monotonic,
    ) -> RedisStore:  # fmt: skip
        """The cluster that any of ``nodes`` belongs to; connects at first use."""
        way = ClusterClient(list(nodes), reach=reach, budget=budget, clock=clock)
        return cls._along("cluster", way, prefix, budget)

    @classmethod
    def _along(cls, mode: str, way: SentinelClient | ClusterClient, prefix: str, budget: float) -> RedisStore:
        subscriptions = Subscriptions(way.pubsub, patience=budget)
        way.moved = subscriptions.renew
        return cls(mode, way, subscriptions, prefix=prefix, budget=budget, breaker=way.breaker, state=lambda: way.state)

    # -- asking --

    async def _ask(self, *command: Argument, repeat: bool = True) -> Any:
        """One command, within the budget."""
        key = str(command[1]) if len(command) > 1 and command[0] != "PUBLISH" else ""
        return await self._within(lambda: self._client.execute_command(*command), repeat, key)

    async def _call(self, script: scripts.Script, key: str, *arguments: Argument, repeat: bool = True) -> Any:
        """One script on one key, within the budget."""
        full = self._prefix + key
        return await self._within(lambda: self._evaluate(script, (1, full, *arguments)), repeat, full)

    async def _evaluate(self, script: scripts.Script, arguments: tuple[Argument, ...]) -> Any:
        try:
            return await self._client.execute_command("EVALSHA", script.sha, *arguments)
        except wire.NoScriptError:  # first use, restart, SCRIPT FLUSH: nothing was done, the server learns the text
            return await self._client.execute_command("EVAL", script.text, *arguments)

    async def _within(self, do: Callable[[], Awaitable[Any]], repeat: bool, key: str) -> Any:
        if self._closed:
            raise StoreUnavailable("redis: closed")
        breaker = self._breaker(key)
        try:
            probe = breaker.admit()
        except StoreUnavailable:
            self.told("not_asked")
            raise
        before = _cancellations()
        try:
            async with asyncio.timeout(min(self._budget, PROBE_SECONDS) if probe else self._budget):
                answer = await self._try(do, repeat)
            if _cancellations() > before:
                raise asyncio.CancelledError  # the client takes a cancellation for its own zero timeout and goes on
        except Exception as error:  # the wall: errors of the client, the socket and the event loop all end here
            self._judge(breaker, error, probe)
            if _cancellations() > before:
                raise asyncio.CancelledError from None
            slow = isinstance(error, TimeoutError | wire.TimeoutError)
            raise (StoreSlow if slow else StoreUnavailable)(f"redis: {_words(error)}") from None
        except BaseException:
            breaker.abandoned(probe)
            raise
        breaker.answered(probe)
        self.told("")
        return answer

    async def _try(self, do: Callable[[], Awaitable[Any]], repeat: bool) -> Any:
        """Do it; once more on a new connection when the first one broke, and never after a timeout.

        ``repeat`` is False where the second answer would be a lie if the first try was carried out after all.
        """
        try:
            return await do()
        except wire.ConnectionError as error:
            if not repeat or isinstance(error, _ANSWERED):
                raise
        return await do()

    def _judge(self, breaker: Breaker, error: Exception, probe: bool) -> None:
        if isinstance(error, _ANSWERED) and not isinstance(error, wire.ClusterDownError):
            breaker.answered(probe)
            self.told("error")
        else:
            breaker.unanswered(probe)
            self.told("unanswered")

    # -- values --

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask("GET", self._prefix + key)
        return value

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        await self._ask("SET", self._prefix + key, value, "PX", _milliseconds(ttl))

    async def take(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask("GETDEL", self._prefix + key, repeat=False)
        return value

    async def swap(self, key: str, expected: bytes | None, value: bytes, *, ttl: float) -> bool:
        known = (0, b"") if expected is None else (1, expected)
        return bool(await self._call(scripts.SWAP, key, *known, value, _milliseconds(ttl), repeat=False))

    async def delete(self, *keys: str) -> int:
        return sum([int(await self._ask("DEL", self._prefix + key)) for key in keys])

    # -- leases --

    async def lease(self, key: str, owner: str, *, ttl: float) -> int | None:
        kept = _milliseconds(ttl + _KEPT_AFTER)
        fence: int | None = await self._call(scripts.LEASE, key, owner, round(ttl * _MICRO), kept)
        return fence

    async def release(self, key: str, owner: str) -> None:
        await self._call(scripts.RELEASE, key, owner)

    # -- throttle --

    async def tally(self, key: str, *, burst: int, every: float) -> Tally:
        allowed, wait = await self._call(scripts.TALLY, key, round(every * _MICRO), burst)
        return Tally(bool(allowed), wait / _MICRO)

    async def give_back(self, key: str, *, every: float) -> None:
        await self._call(scripts.GIVE_BACK, key, round(every * _MICRO), repeat=False)

    # -- sets --

    async def add(self, key: str, member: str, *, ttl: float) -> None:
        await self._call(scripts.ADD, key, member, _milliseconds(ttl))

    async def remove(self, key: str, member: str) -> None:
        await self._ask("SREM", self._prefix + key, member)

    async def members(self, key: str) -> frozenset[str]:
        return frozenset(member.decode() for member in await self._ask("SMEMBERS", self._prefix + key))

    # -- streams --

    async def append(self, stream: str, value: bytes, *, ttl: float, limit: int = 100_000) -> str:
        entry: bytes = await self._call(scripts.APPEND, stream, value, _milliseconds(ttl), limit)
        return entry.decode()

    async def read(self, stream: str, after: str = "", *, count: int = 1000) -> list[Entry]:
        start = f"({after}" if after else "-"
        found = await self._ask("XRANGE", self._prefix + stream, start, "+", "COUNT", count)
        return [Entry(entry.decode(), fields[b"v"]) for entry, fields in found]

    # -- channels --

    async def publish(self, channel: str, message: bytes) -> None:
        await self._ask("PUBLISH", self._prefix + channel, message)

    async def subscribe(self, channel: str, callback: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        """As the protocol says.  Never raises for a store that is away: the subscription begins when it is back."""
        if self._closed:
            raise StoreUnavailable("redis: closed")
        return await self._subscriptions.add(self._prefix + channel, callback)

    # -- life --

    async def ping(self) -> None:
        await self._ask("PING")

    async def close(self) -> None:
        self._closed = True
        await self._subscriptions.close()
        with contextlib.suppress(wire.RedisError, OSError):
            await self._client.aclose()

    def __repr__(self) -> str:
        return f"<RedisStore {self._mode}: {'closed' if self._closed else self._state()}>"
