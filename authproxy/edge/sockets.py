"""Listening sockets: ``host:port`` and ``unix:/path``.  Knows addresses, not what is spoken on them."""

from __future__ import annotations

import os
import resource
import socket
import stat
from typing import Final

BACKLOG: Final = 1024


def raise_file_limit() -> int:
    """Let this process, and those that it starts, open as many files as it may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # "no limit" is more than some systems take
        return soft
    return hard


def bound(address: str, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens on ``address``.  A host left empty means every interface.  Raises OSError, ValueError."""
    if address.startswith("unix:"):
        return _unix(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    return socket.create_server(
        (host, int(port)), family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=dual
    )


def spelled(listener: socket.socket) -> str:
    """The real address of ``listener``, as ``bound`` takes it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o660)  # before listen(): nobody connects in between
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Unlink the socket that a dead process left; one that somebody answers on is left, and ``bind`` fails."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
