"""The master of a service, as Redis Sentinel names it.

The library's own Sentinel client asks the sentinels one after the other inside a command, with retries of its own,
for each new connection: one that hangs costs every command.  Here one search is made for all, beside the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from redis import exceptions as wire

from authproxy.store.breaker import Breaker
from authproxy.store.links import Client, Link, Node, Reach, client
from authproxy.store.lookup import Lookup, Nowhere, first_answer


class SentinelClient:
    """Commands go to the master.  A connection that breaks, a late answer and READONLY put the master in doubt.

    ``sentinels`` in the order to ask; ``reach`` leads to data nodes, ``ask`` to sentinels.
    """

    def __init__(
        self, sentinels: list[Node], service: str, *, reach: Reach, ask: Reach, budget: float,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._sentinels = sentinels
        self._service = service
        self._reach = reach
        self._ask = ask
        self._budget = budget
        self._clock = clock
        self._link: Link | None = None
        self._doubted = True
        self._nobody = Breaker(clock)
        self._lookup = Lookup(self._find, clock)
        self.moved: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """In words, as ``Breaker`` says it."""
        return (self._link.breaker if self._link else self._nobody).state

    def breaker(self, key: str) -> Breaker:
        """The breaker of the master: a new master begins with a new one.  While it is open we search."""
        del key
        breaker = self._link.breaker if self._link else self._nobody
        if breaker.state != "up":
            self._doubted = True
            self._lookup.start()
        return breaker

    async def execute_command(self, *args: Any) -> Any:
        link = await self._master()
        try:
            return await self._send(link, args)
        except wire.ReadOnlyError:  # refused by a demoted master: nothing was done
            await link.commands.connection_pool.disconnect()
            again = await self._master()
            if again is link:
                raise
            return await self._send(again, args)

    async def _send(self, link: Link, args: tuple[Any, ...]) -> Any:
        try:
            return await link.commands.execute_command(*args)
        except (wire.ConnectionError, wire.TimeoutError, wire.ReadOnlyError, OSError, asyncio.CancelledError):
            self._doubted = True
            raise

    async def pubsub(self) -> Any:
        """A fresh listener at the master."""
        return (await self._master()).listening.pubsub()

    async def _master(self) -> Link:
        if self._doubted or self._link is None:
            await self._lookup.wait()
        if self._link is None:
            raise Nowhere("no sentinel names a master: all away, another service, or a password of their own")
        return self._link

    async def _find(self) -> None:
        found = await first_answer([partial(self._named_by, one) for one in self._sentinels])
        if found is None:
            return
        place, node = found
        self._sentinels = self._sentinels[place:] + self._sentinels[:place]  # who did not answer is asked last
        self._doubted = False
        if self._link is not None and self._link.node == node:
            return
        before, self._link = self._link, Link(node, self._reach(node), self._budget, Breaker(self._clock))
        if before is not None:
            self.moved()
            await before.close()

    async def _named_by(self, sentinel: Node) -> Node | None:
        asked: Client = client(self._ask(sentinel), self._budget, connections=1)
        try:
            found = await asked.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except (wire.RedisError, OSError, TimeoutError):
            return None
        finally:
            with contextlib.suppress(wire.RedisError, OSError):
                await asked.aclose()
        return (found[0].decode(), int(found[1])) if found else None

    async def aclose(self) -> None:
        await self._lookup.close()
        if self._link is not None:
            await self._link.close()

    def __repr__(self) -> str:
        return f"<SentinelClient: master {'in doubt' if self._doubted else 'known'}>"
