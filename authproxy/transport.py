"""Breaking a connection off, whatever state it is in, and what one still holds."""

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


def held(transport: object) -> int:
    """Octets that were written and have not gone to the operating system, as far as the transport can tell.

    A TLS transport of asyncio counts its own buffer alone, so that the one beneath it is asked as well.  That of uvloop
    does not show what is beneath: at most its high-water mark and one piece are encrypted there and not counted.
    """
    beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    asked = (getattr(one, "get_write_buffer_size", None) for one in (transport, beneath))
    return sum(size() for size in asked if size is not None)
