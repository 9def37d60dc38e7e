"""Listening sockets: where they are, who may open them, and what a dead process has left."""

from __future__ import annotations

import resource
import socket
import stat
from pathlib import Path

import pytest

from authproxy.edge.sockets import bound, raise_file_limit, spelled


def test_an_address_is_spelled_as_it_is_bound() -> None:
    """IPv4, IPv6 and every interface, each with the port that the system gave."""
    for address, host in (("127.0.0.1:0", "127.0.0.1:"), ("[::1]:0", "[::1]:")):
        with bound(address) as listener:
            assert spelled(listener).startswith(host)
            assert not spelled(listener).endswith(":0")
    with bound(":0") as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as one:
        assert one.getpeername()[1] == listener.getsockname()[1]


def test_one_port_is_one_listeners_unless_they_share_it() -> None:
    """``reuse_port`` on all of them."""
    with bound("127.0.0.1:0", reuse_port=True) as listener:
        bound(spelled(listener), reuse_port=True).close()
        with pytest.raises(OSError, match="in use"):
            bound(spelled(listener))


def test_a_unix_socket_is_for_its_owner_and_group(tmp_path: Path) -> None:
    """From the first moment on."""
    with bound(f"unix:{tmp_path}/a.sock") as listener:
        assert spelled(listener) == f"unix:{tmp_path}/a.sock"
        assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o660


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    """A socket on which nobody answers; not one on which somebody does, and no file of another kind."""
    path = tmp_path / "a.sock"
    bound(f"unix:{path}").close()
    assert path.is_socket()
    with bound(f"unix:{path}"):
        with pytest.raises(OSError, match="in use"):
            bound(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bound(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


def test_as_many_files_as_may_be() -> None:
    """The soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
