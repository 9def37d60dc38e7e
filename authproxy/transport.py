"""Breaking a connection off, whatever state it is in."""

from __future__ import annotations


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
