"""A connection that is neither network nor loop: it notes what is asked of it, and what was written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any


class FakeTransport(asyncio.Transport):
    """``said`` is what was written; ``pauses`` what was asked about reading; ``ended`` is "", "close" or "abort"."""

    def __init__(self, address: str = "192.0.2.1", extra: Mapping[str, Any] | None = None) -> None:
        super().__init__({"peername": (address, 40000), **(extra or {})})
        self.said = b""
        self.writes: list[bytes] = []
        self.reading = True
        self.pauses: list[str] = []
        self.eof = False
        self.ended = ""
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Noted, and lost after the end."""
        assert not self.eof, "nothing may follow the end"
        if not self.ended:
            self.writes.append(bytes(data))
            self.said += bytes(data)

    def write_eof(self) -> None:
        """No more will be written."""
        self.eof = True

    def can_write_eof(self) -> bool:
        """As with TCP."""
        return not self.get_extra_info("sslcontext")

    def is_reading(self) -> bool:
        """Whether what comes would be passed on."""
        return self.reading

    def pause_reading(self) -> None:
        """Read no more; asked again, nothing more happens."""
        if self.reading:
            self.reading = False
            self.pauses.append("pause")

    def resume_reading(self) -> None:
        """Read on; asked again, nothing more happens."""
        if not self.reading:
            self.reading = True
            self.pauses.append("resume")

    def is_closing(self) -> bool:
        """Whether it has ended, from this side."""
        return bool(self.ended)

    def close(self) -> None:
        """An orderly end."""
        self.ended = self.ended or "close"

    def abort(self) -> None:
        """Broken off."""
        self.ended = "abort"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another one minds it."""
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        """Everything has gone out."""
        return 0
