"""The one connection on which a Redis store listens.

Knows channels and callbacks.  A task of its own holds the connection, subscribes to what is wanted, and connects again
when the connection is lost or silent; it is awaited when the last listener goes and at ``close``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from authproxy.store.channels import Callback, Channels

_AGAIN: Final = 0.05  # seconds before the listening task is asked to end once more
IDLE: Final = 5.0  # seconds of silence until we ask whether the server is still there
_FIRST_PAUSE: Final = 0.05  # seconds before the first new connection
_LONGEST_PAUSE: Final = 2.0

log: Final = logging.getLogger(__name__)


class _Silent(Exception):
    """The server did not answer on the listening connection."""


def pause(attempt: int, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait before connecting again: doubling, and spread so that replicas do not arrive together."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))
    return draw(longest / 2, longest)


class Subscriptions:
    """``connect`` makes a fresh ``PubSub``, at once or when awaited.

    ``patience`` is how long a new listener waits for the server.
    """

    def __init__(self, connect: Callable[[], Any], *, patience: float, idle: float = IDLE) -> None:
        self._connect = connect
        self._patience = patience
        self._idle = idle
        self._channels = Channels()
        self._confirmed: dict[str, asyncio.Event] = {}
        self._asked: set[str] = set()  # what this connection was told to subscribe to
        self._nap: asyncio.Timeout | None = None
        self._quiet = False  # asked for a sign of life, and none came yet
        self._renewed = False  # told that the server is another one now
        self._attempt = 0
        self._task: asyncio.Task[None] | None = None
        self._leaving = False  # the connection is being closed

    async def add(self, channel: str, callback: Callback) -> Callable[[], Awaitable[None]]:
        """Listen.  Waits for the server's word for ``patience`` seconds at most, and goes on trying after that."""
        self._channels.add(channel, callback)
        self._start()
        confirmed = self._confirmed.setdefault(channel, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await confirmed.wait()
        return self._ender(channel, callback)

    def _ender(self, channel: str, callback: Callback) -> Callable[[], Awaitable[None]]:
        ended = False

        async def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                await self._remove(channel, callback)

        return end

    async def _remove(self, channel: str, callback: Callback) -> None:
        self._channels.remove(channel, callback)
        if not self._channels.names:
            await self._stop()
        self._wake()

    def renew(self) -> None:
        """Connect again: the server to listen to is another one now."""
        self._renewed = True
        self._wake()

    async def close(self) -> None:
        """End every subscription and the connection."""
        self._channels.clear()
        await self._stop()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis subscriptions")
        self._wake()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        while task is not None and not task.done():
            if not self._leaving:  # to cut that short would leave the connection open
                task.cancel()  # again and again: the client may take one for the end of its own waiting, and go on
            await asyncio.wait([task], timeout=_AGAIN)

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.reschedule(0.0)  # in the past: the wait ends at once

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:
                level = logging.DEBUG if self._attempt else logging.WARNING  # once per outage
                log.log(level, "redis: listening ended (%s), connecting again", type(error).__name__)
            await asyncio.sleep(pause(self._attempt))
            self._attempt += 1

    async def _follow(self) -> None:
        made = self._connect()
        link = await made if inspect.isawaitable(made) else made
        self._renewed = False
        try:
            while True:
                await self._align(link)
                await self._hear(link)
        finally:
            self._leaving = True
            self._lost()
            with contextlib.suppress(Exception):
                await link.aclose()
            self._leaving = False

    def _lost(self) -> None:
        self._asked.clear()
        self._quiet = False
        for confirmed in self._confirmed.values():
            confirmed.clear()

    async def _align(self, link: Any) -> None:
        wanted = self._channels.names
        new, old = wanted - self._asked, self._asked - wanted
        if new:
            self._asked |= new
            await link.subscribe(*new)
        if old:
            self._asked -= old
            await link.unsubscribe(*old)

    async def _hear(self, link: Any) -> None:
        try:
            async with asyncio.timeout(self._idle) as self._nap:
                message = await link.get_message(timeout=None)
        except TimeoutError:
            if self._renewed:
                raise _Silent from None
            if self._channels.names == self._asked:  # silence, not a wake-up
                await self._ask_for_life(link)
        else:
            self._received(message)
        finally:
            self._nap = None

    async def _ask_for_life(self, link: Any) -> None:
        if self._quiet:
            raise _Silent
        self._quiet = True
        await link.ping()

    def _received(self, message: dict[str, Any] | None) -> None:
        self._quiet = False
        self._attempt = 0
        if message is None or message["channel"] is None:
            return
        channel = message["channel"].decode()
        if message["type"] == "subscribe":
            self._confirmed.setdefault(channel, asyncio.Event()).set()
        elif message["type"] == "message":
            self._channels.deliver(channel, message["data"])

    def __repr__(self) -> str:
        up = sorted(name for name, confirmed in self._confirmed.items() if confirmed.is_set())
        return f"<Subscriptions: {len(up)} of {len(self._channels.names)} channels heard>"
