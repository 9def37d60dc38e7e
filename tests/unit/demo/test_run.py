"""How the demo is put together: a free port, settings that hold, and a terminal text that helps."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from authproxy.demo.people import PEOPLE
from authproxy.demo.run import free_port, settings, welcome
from authproxy.settings.load import from_mapping


def test_a_taken_port_is_passed_over() -> None:
    """The next free one is used, and the terminal says so and how to choose."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
    words = welcome(asked=port, port=port + 1, issuer="http://127.0.0.1:1", audit=Path("/audit"))
    assert f"Port {port} is taken" in words
    assert "--port" in words


def test_a_port_that_is_free_on_one_family_alone_is_not_free() -> None:
    """A browser may ask ``localhost`` over IPv6 first, and would meet somebody else there."""
    with socket.socket(socket.AF_INET6) as taken:
        try:
            taken.bind(("::1", 0))
        except OSError:
            return  # this machine has no IPv6: nobody can be there
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port


def test_no_port_at_all_is_said() -> None:
    """Past the last port there is none, and the error says what to do."""
    with pytest.raises(OSError, match="--port"):
        free_port(65536)


def test_the_settings_hold(tmp_path: Path) -> None:
    """The loader takes them without a complaint: bob's page is guarded, the public page is not."""
    data = settings(
        port=8080, issuer="http://127.0.0.1:8081", client_secret="s" * 32, app="http://127.0.0.1:8082",
        audit=tmp_path / "audit",
    )  # fmt: skip
    served = from_mapping(data, tmp_path)
    policies = {route.path: route.policy for route in served.apps["tideline"].routes}
    assert policies == {"/public": "public", "/static/": "public", "/admin/": "admins", "/": "staff"}
    assert served.listen.address == "127.0.0.1:8080"


def test_the_terminal_says_where_who_and_what() -> None:
    """The address first, each person with the password, plain ASCII for any terminal."""
    words = welcome(asked=8080, port=8080, issuer="http://127.0.0.1:8081", audit=Path("/audit"))
    assert "http://localhost:8080/" in words.strip().splitlines()[0]
    assert all(f"{one.username} / {one.password}" in words for one in PEOPLE)
    assert "taken" not in words
    assert words.isascii()
