"""Breaking a connection off, whatever state it is in; what one still holds; what the kernel minds for us."""

from __future__ import annotations

import socket
import struct


def abort(transport: object) -> None:
    """Close a transport at once, without flushing; nothing happens where the connection is gone already.

    A TLS transport of asyncio that has lost its protocol raises AttributeError (CPython before 3.11.4).  Transports of
    uvloop are no subclasses of asyncio's, so that the method is all that can be asked for.
    """
    breaking = getattr(transport, "abort", None)
    if breaking is None:
        return
    try:
        breaking()
    except AttributeError:
        return


def held(transport: object) -> int:
    """Octets that were written and have not gone to the operating system, as far as the transport can tell.

    A TLS transport of asyncio counts its own buffer alone, so that the one beneath it is asked as well.  That of uvloop
    does not show what is beneath: at most its high-water mark and one piece are encrypted there and not counted.
    """
    beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    asked = (getattr(one, "get_write_buffer_size", None) for one in (transport, beneath))
    return sum(size() for size in asked if size is not None)


def limit_stall(transport: object, seconds: int) -> None:
    """Let the kernel break off a peer that acknowledges nothing for so long; 0 for never.  TCP on Linux alone."""
    sock = _socket(transport)
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def reset_at_close(transport: object) -> None:
    """From now on the connection ends with a reset (RFC 9293 section 3.10.4)."""
    sock = _socket(transport)
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _socket(transport: object) -> socket.socket | None:
    asked = getattr(transport, "get_extra_info", None)
    found: socket.socket | None = asked("socket") if asked is not None else None
    return found
