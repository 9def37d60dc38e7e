"""Where the frames of a WebSocket end, and the Close frame that may be put in there (RFC 6455 sections 5.2, 5.5.1).

Headers alone are read: opcode and length.  Payloads are stepped over, and nothing is kept but the octets of a header
that has not come whole.  Reserved bits are passed over, so that extensions such as compression do not matter.
"""

from __future__ import annotations

import os
from typing import Final

GOING_AWAY: Final = 1001  # RFC 6455 section 7.4.1: "a server going down"
POLICY_VIOLATION: Final = 1008

_CLOSE: Final = 0x8
_OPCODES: Final = frozenset({0x0, 0x1, 0x2, _CLOSE, 0x9, 0xA})
_EXTENDED: Final = {126: 2, 127: 8}
_CONTROL_LIMIT: Final = 125


class Frames:
    """Follows one direction of a connection.  ``known`` False: not a WebSocket, nothing can be said about it.

    ``closed``: a Close frame has begun.  What breaks the framing ends the following for good.
    """

    __slots__ = ("_head", "_left", "closed", "known")

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.closed = False
        self._head: Final = bytearray()
        self._left = 0  # octets of payload that are still to come

    @property
    def between(self) -> bool:
        """Whether the direction stands between two frames, so that a control frame may follow."""
        return self.known and not self._left and not self._head

    def follow(self, data: bytes) -> None:
        """Step over ``data``, which are the next octets."""
        at, end = 0, len(data)
        while at < end and self.known:
            at = self._step(data, at, end)

    def finish(self, data: bytes) -> int:
        """Step over ``data`` up to the end of the frame under way; how many octets that were, all where unknown."""
        at, end = 0, len(data)
        while at < end and self.known and not self.between:
            at = self._step(data, at, end)
        return at if self.known else end

    def _step(self, data: bytes, at: int, end: int) -> int:
        """One step: of a payload, or of a header.  Returns where it led."""
        if self._left:
            taken = min(self._left, end - at)
            self._left -= taken
            return at + taken
        wanted = at + _size(self._head) - len(self._head)
        self._head.extend(data[at:wanted])
        if len(self._head) == _size(self._head):
            self._begin(bytes(self._head))
            self._head.clear()
        return min(wanted, end)

    def _begin(self, head: bytes) -> None:
        opcode, length = head[0] & 0x0F, head[1] & 0x7F
        size = _EXTENDED.get(length)
        if size:
            length = int.from_bytes(head[2 : 2 + size])
        # RFC 6455 sections 5.2 and 5.5: reserved opcodes fail the connection, the top bit of a length is 0, control
        # frames are short and never in fragments.
        control = opcode & 0x8
        self.known = (
            opcode in _OPCODES
            and not length >> 63
            and not (control and (length > _CONTROL_LIMIT or not head[0] & 0x80))
        )
        self._left = length if self.known else 0
        self.closed = self.closed or (self.known and opcode == _CLOSE)

    def __repr__(self) -> str:
        if not self.known:
            return "<Frames unknown>"
        return f"<Frames {'between two' if self.between else f'{self._left} octets left'}>"


def _size(head: bytearray) -> int:
    """How many octets a header has, as far as what came of it tells."""
    if len(head) < 2:
        return 2
    return 2 + _EXTENDED.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def close_frame(code: int) -> bytes:
    """A Close frame for a client: a server masks nothing (RFC 6455 section 5.1)."""
    return b"\x88\x02" + code.to_bytes(2)


def masked_close_frame(code: int) -> bytes:
    """A Close frame for a server, under a fresh key (RFC 6455 section 5.3)."""
    key = os.urandom(4)
    return b"\x88\x82" + key + bytes(octet ^ mask for octet, mask in zip(code.to_bytes(2), key, strict=False))
