"""The one request that everybody is asked, and a look at the answer to it on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

HOST: Final = "dashboard.test"
BROWSER: Final = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.7",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://dashboard.test/overview?range=24h",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    "Sec-CH-UA": '"Chromium";v="140", "Not=A?Brand";v="24"',
    "Sec-CH-UA-Mobile": "?0",
    "Sec-CH-UA-Platform": '"Linux"',
    "Cache-Control": "no-cache",
}
"""Twelve headers that a browser sends, beside Host and Cookie."""
COOKIES: Final = {"visitor": "GA1.1.1482906325.1762163040", "preferences": "theme-dark.sidebar-narrow.rows-50"}
"""Two that are none of a proxy's business, around the one that is."""
PATIENCE: Final = 30.0


def headers_for(port: int, session: Mapping[str, str]) -> dict[str, str]:
    """Of a request to a listener on ``port``, with the cookies of a session among others."""
    first, last = COOKIES.items()
    cookies = "; ".join(f"{name}={text}" for name, text in [first, *session.items(), last])
    return {"Host": f"{HOST}:{port}", **BROWSER, "Cookie": cookies}


class Answer(NamedTuple):
    """One answer, read to the end of its body."""

    status: int
    head: str
    body: bytes


def written(target: str, headers: Mapping[str, str]) -> bytes:
    """The request as it goes over the wire."""
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def ask(port: int, target: str, headers: Mapping[str, str]) -> Answer:
    """Ask once, on a connection of its own that is not kept."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**21)
        try:
            writer.write(written(target, {**headers, "Connection": "close"}))
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
    text = head.decode("latin-1")
    body = _unchunked(body) if "transfer-encoding: chunked" in text.lower() else body
    return Answer(int(text.split(" ", 2)[1]) if text else 0, text, body)


def _unchunked(body: bytes) -> bytes:
    pieces = []
    while body:
        line, _, rest = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        pieces.append(rest[:size])
        body = rest[size + 2 :]
    return b"".join(pieces)
