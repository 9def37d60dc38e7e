"""Bytes both ways after a 101, until both sides have ended, the identity has, or the process goes away.

A WebSocket is told why, by a Close frame at a frame boundary (RFC 6455 section 7.4.1); anything else is cut.  Bytes are
passed on as they come: of frames only the boundaries are known here, and of callers only how long they may stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from authproxy.errors import ClientGone
from authproxy.exchange import Exchange, Lifetime, Tunnel
from authproxy.transport import abort, held
from authproxy.upstream.websocket import GOING_AWAY, POLICY_VIOLATION, Frames, close_frame, masked_close_frame

HALF_OPEN_SECONDS: Final = 60.0  # without a byte, after one side has said that it sends no more
ANSWER_SECONDS: Final = 5.0  # for a client to answer our Close frame when we go away
LAST_SECONDS: Final = 1.0  # for a client to answer it when its identity has ended
_PIECE: Final = 64 * 1024
_NAP_SECONDS: Final = 60.0  # how long a moved clock can go unnoticed

_Task = asyncio.Task[None]


class Passage:
    """A tunnel that is open.  ``received`` and ``sent`` count octets from and to the client."""

    def __init__(
        self,
        client: Tunnel,
        exchange: Exchange,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        websocket: bool,
    ) -> None:
        self._client: Final = client
        self._exchange: Final = exchange
        self._reader: Final = reader
        self._writer: Final = writer
        self._to_client: Final = Frames(known=websocket)
        self._to_upstream: Final = Frames(known=websocket)
        self._parting = False  # nothing goes to the client any more but the rest of the frame under way
        self.received = 0
        self.sent = 0

    async def open_until(self, lifetime: Lifetime | None, clock: Callable[[], float]) -> None:
        """Copy until both directions have ended, the lifetime has, or the client's side is asked to go away."""
        loop = asyncio.get_running_loop()
        up, down = loop.create_task(self._up()), loop.create_task(self._down())
        end = loop.create_task(_ended(lifetime, clock))
        leave: asyncio.Future[float] = loop.create_future()
        forget = self._client.on_leave(leave.set_result)
        clean = False
        try:
            clean = await self._both(up, down, end, leave)
        finally:
            forget()
            await _stopped(up, down, end)
            self._close(clean=clean, at_once=end.done() and not end.cancelled())

    async def _both(self, up: _Task, down: _Task, end: _Task, leave: asyncio.Future[float]) -> bool:
        """True when it ended in order.  After one side has ended, the other may go on as long as it sends."""
        patience, asked = None, False
        while not (up.done() and down.done()):
            if leave.done() and not asked:
                asked = True
                if self._may_tell:
                    return await self._until(end, self._leave(up, down, leave.result()))
            before = self.received + self.sent
            running = {one for one in (up, down, end, leave) if not one.done()}
            news, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                await _stopped(up, down)
                return await self._expel()
            if _failed(up) or _failed(down) or (not news and before == self.received + self.sent):
                return False
            patience = HALF_OPEN_SECONDS if up.done() or down.done() else None
        return True

    @property
    def _may_tell(self) -> bool:
        """Whether a Close frame may come from us, here or at the end of the frame under way."""
        return self._to_client.known and not self._to_client.closed

    async def _until(self, end: _Task, leaving: asyncio.Task[bool]) -> bool:
        """The farewell's own result, unless the identity ends during it."""
        try:
            await asyncio.wait({end, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return leaving.result() if not end.done() else False
        finally:
            await _stopped(leaving)

    def _leave(self, up: _Task, down: _Task, deadline: float) -> asyncio.Task[bool]:
        self._parting = True
        if self._to_client.between:
            down.cancel()
        return asyncio.get_running_loop().create_task(self._left(up, down, deadline))

    async def _left(self, up: _Task, down: _Task, deadline: float) -> bool:
        """Say 1001 after the frame under way, and pass on what the client still says, its own Close the last."""
        await asyncio.wait({down}, timeout=_seconds_until(deadline))
        await _stopped(down, up)
        if not self._to_client.between:
            return False
        try:
            async with asyncio.timeout(min(ANSWER_SECONDS, _seconds_until(deadline))):
                await self._client.write(close_frame(GOING_AWAY))
                return await self._answered(pass_on=True)
        except (TimeoutError, OSError, ClientGone):
            return False
        finally:
            self._tell_upstream()

    async def _expel(self) -> bool:
        """Say 1008, unless something of the application is still on its way to the client: then only cut.

        Nothing is passed on any more, in either direction.
        """
        if not (self._may_tell and self._to_client.between) or self._client.held:
            return False
        if held(self._writer.transport):
            abort(self._writer.transport)
        else:
            self._tell_upstream()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._client.write(close_frame(POLICY_VIOLATION))
                return await self._answered(pass_on=False)
        except (TimeoutError, ClientGone):
            return False

    async def _answered(self, *, pass_on: bool) -> bool:
        """Read on until the client has answered our Close frame with its own, or left (RFC 6455 section 5.5.1)."""
        while not self._to_upstream.closed:
            data = await self._client.read()
            if not data:
                break
            self._to_upstream.follow(data)
            if pass_on:
                self.received += len(data)
                self._writer.write(data)
                await self._writer.drain()
        return True

    def _tell_upstream(self) -> None:
        if self._to_upstream.between and not self._to_upstream.closed:
            self._writer.write(masked_close_frame(GOING_AWAY))

    def _close(self, *, clean: bool, at_once: bool) -> None:
        if clean:
            self._client.close()
        else:
            self._exchange.abort()
        if at_once and not clean:  # nothing that was held back reaches anybody after the identity's end
            abort(self._writer.transport)

    async def _up(self) -> None:
        while data := await self._client.read():
            self._to_upstream.follow(data)
            self._writer.write(data)
            self.received += len(data)
            await self._writer.drain()
        self._to_upstream.known = False
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _down(self) -> None:
        while data := await self._reader.read(_PIECE):
            if self._parting:
                data = data[: self._to_client.finish(data)]
            else:
                self._to_client.follow(data)
            self.sent += len(data)
            await self._client.write(data)
            if self._parting and self._to_client.between:
                return
        self._to_client.known = False  # nothing follows the end
        self._client.write_eof()

    def __repr__(self) -> str:
        return f"<Passage {self.received} in, {self.sent} out, {self._to_client!r}>"


def _seconds_until(deadline: float) -> float:
    return max(deadline - asyncio.get_running_loop().time(), 0.0)


def _failed(task: _Task) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _stopped(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ended(lifetime: Lifetime | None, clock: Callable[[], float]) -> None:
    """Return when the identity ends.  Its end may be moved while we wait, so that it is read again."""
    over = asyncio.Event()
    if lifetime is None:
        await over.wait()
        return
    forget = lifetime.on_end(over.set)
    try:
        while not lifetime.ended and ((ends_at := lifetime.ends_at) is None or ends_at > clock()):
            left = None if ends_at is None else min(ends_at - clock(), _NAP_SECONDS)
            try:
                async with asyncio.timeout(left):
                    await over.wait()
            except TimeoutError:
                continue
            return
    finally:
        forget()
