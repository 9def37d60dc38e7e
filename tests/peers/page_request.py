"""A request as one of our pages is given it, with a body that comes in pieces."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request


def bringing(*pieces: bytes, end: bool = True, kind: str = "application/json") -> web.Request:
    """A POST whose body is ``pieces``; without ``end`` more was announced and never comes."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.transport = asyncio.Transport()
    reader = StreamReader(protocol, 1 << 20, loop=loop)
    for piece in pieces:
        reader.feed_data(piece)
    if end:
        reader.feed_eof()
    return make_mocked_request("POST", "/", headers={"Content-Type": kind}, payload=reader)
