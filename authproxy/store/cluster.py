"""Redis Cluster: which node holds a key, and what to do when that changes.

The library's own cluster client repeats commands and rebuilds its map of the slots inside a command, asking nodes one
after the other.  Here the map is made beside the commands, once for all of them, and each node has a breaker of its
own: a lost shard costs the keys of that shard alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from redis import exceptions as wire
from redis.crc import key_slot

from authproxy.store.breaker import Breaker
from authproxy.store.links import Link, Node, Reach
from authproxy.store.lookup import Lookup, Nowhere, first_answer

_REDIRECTIONS: Final = 3
_SCRIPTS: Final = ("EVAL", "EVALSHA")
_ANYWHERE: Final = ("PING", "PUBLISH")  # a message is told to all nodes by the cluster itself
_LOST: Final = (wire.ConnectionError, wire.TimeoutError, wire.ClusterDownError, OSError, asyncio.CancelledError)


class ClusterClient:
    """Commands of one key each go to its node.  ``nodes`` are asked for the map until one answers."""

    def __init__(self, nodes: list[Node], *, reach: Reach, budget: float, clock: Callable[[], float]) -> None:
        self._seeds = nodes
        self._reach = reach
        self._budget = budget
        self._clock = clock
        self._links: dict[Node, Link] = {}
        self._ranges: list[tuple[int, int, Node]] = []
        self._doubted = True
        self._nobody = Breaker(clock)
        self._lookup = Lookup(self._find, clock)
        self._listened: Node | None = None
        self.moved: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """In words: ``up``, or how many nodes do not answer."""
        down = sum(link.breaker.state != "up" for link in self._links.values())
        return f"{down} of {len(self._links)} nodes down" if down else self._nobody.state

    def breaker(self, key: str) -> Breaker:
        """The breaker of the node that holds ``key``; "": of any node that answers.  While it is open we search."""
        node = self._owner(key_slot(key.encode())) if key else self._any()
        breaker = self._link(node).breaker if node else self._nobody
        if breaker.state != "up":
            self._doubted = True
            self._lookup.start()
        return breaker

    async def execute_command(self, *args: Any) -> Any:
        node = await self._place(args)
        asking = False
        for _ in range(_REDIRECTIONS):
            try:
                return await self._send(node, args, asking)
            except wire.AskError as error:  # one key on its way to another node
                node, asking = (error.host or node[0], error.port), True
            except wire.MovedError as error:
                node, asking = (error.host or node[0], error.port), False
                self._ranges.insert(0, (error.slot_id, error.slot_id, node))  # until the whole map is there
                self._doubted = True
                self._lookup.start()
        return await self._send(node, args, asking)

    async def _place(self, args: tuple[Any, ...]) -> Node:
        if self._doubted or not self._ranges:
            await self._lookup.wait()
        if args[0] in _ANYWHERE:
            node = self._any()
        else:
            key = args[3] if args[0] in _SCRIPTS else args[1]
            node = self._owner(key_slot(key.encode()))
        if node is None:
            raise Nowhere("no node of the cluster answers, or none holds the key")
        return node

    async def _send(self, node: Node, args: tuple[Any, ...], asking: bool) -> Any:
        commands = self._link(node).commands
        try:
            if not asking:
                return await commands.execute_command(*args)
            async with commands.pipeline(transaction=False) as pipe:  # both on one connection
                pipe.execute_command("ASKING")
                pipe.execute_command(*args)
                answer = (await pipe.execute(raise_on_error=False))[1]
        except _LOST:
            self._doubted = True
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _owner(self, slot: int) -> Node | None:
        return next((node for first, last, node in self._ranges if first <= slot <= last), None)

    def _any(self) -> Node | None:
        nodes = list(dict.fromkeys(node for _, _, node in self._ranges))
        return next((node for node in nodes if self._link(node).breaker.state == "up"), nodes[0] if nodes else None)

    def _link(self, node: Node) -> Link:
        if node not in self._links:
            self._links[node] = Link(node, self._reach(node), self._budget, Breaker(self._clock))
        return self._links[node]

    async def pubsub(self) -> Any:
        """A fresh listener at any node: the cluster brings every message everywhere."""
        if self._doubted or not self._ranges:
            await self._lookup.wait()
        self._listened = self._any()
        if self._listened is None:
            raise Nowhere("no node of the cluster answers")
        return self._link(self._listened).listening.pubsub()

    async def _find(self) -> None:
        known = dict.fromkeys([*(node for _, _, node in self._ranges), *self._seeds])
        nodes = sorted(known, key=lambda node: not self._well(node))
        found = await first_answer([partial(self._map_of, node) for node in nodes])
        if found is None:
            return
        self._ranges, self._doubted = found[1], False
        owners = {node for _, _, node in self._ranges}
        gone = [self._links.pop(node) for node in tuple(self._links) if node not in owners]
        if self._listened not in owners:
            self.moved()
        for link in gone:
            await link.close()

    def _well(self, node: Node) -> bool:
        return node not in self._links or self._links[node].breaker.state == "up"

    async def _map_of(self, node: Node) -> list[tuple[int, int, Node]] | None:
        link = Link(node, self._reach(node), self._budget, Breaker(self._clock))
        try:
            found = await link.commands.execute_command("CLUSTER", "SLOTS")
        except (wire.RedisError, OSError, TimeoutError):
            return None
        finally:
            await link.close()
        if not found:
            return None  # a node that belongs to no cluster (any more)
        return [(first, last, ((host or b"").decode() or node[0], port)) for first, last, (host, port, *_), *_ in found]

    async def aclose(self) -> None:
        await self._lookup.close()
        for link in self._links.values():
            await link.close()

    def __repr__(self) -> str:
        return f"<ClusterClient: {len(self._links)} nodes, map {'in doubt' if self._doubted else 'known'}>"
