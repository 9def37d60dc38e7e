"""The body of a request to one of our own pages: bounded in size and in time, and JSON read in the one way it can be.

It knows nothing of what the fields mean.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from authproxy.errors import BadRequest, ContentTooLarge
from authproxy.jose import strictjson

SIZE: Final = 16 * 1024
"""Largest JSON body that is read, in bytes."""
SECONDS: Final = 15.0
"""For the whole of a body."""


async def octets(request: web.Request, most: int) -> bytes | None:
    """The body, or None when it has more than ``most`` bytes.  Raises TimeoutError when it does not arrive in time."""
    body = bytearray()
    async with asyncio.timeout(SECONDS):
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > most:
                return None
    return bytes(body)


async def json_object(request: web.Request) -> dict[str, object]:
    """The JSON object of the body.  Raises BadRequest and ContentTooLarge."""
    try:
        body = await octets(request, SIZE)
    except TimeoutError:
        raise BadRequest("body_too_slow", "The body did not arrive in time.") from None
    if body is None:
        raise ContentTooLarge("body_too_large", "The body is too large.")
    try:
        return strictjson.load_object(body)
    except ValueError as error:
        raise BadRequest("malformed_json", f"The body is {error}.") from None
