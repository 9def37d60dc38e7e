"""The gate by itself: which addresses are private, which hosts are ours, and a secret that is rotated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from authproxy.admin.gate import Gate
from authproxy.errors import Refusal
from authproxy.settings.schema import SecretRef

OLD, NEW = "old-admin-secret-" + "o" * 32, "new-admin-secret-" + "n" * 32


def said(gate: Gate, host: str | None = "localhost", **headers: str) -> str:
    """What the gate says to a GET: a code, or "" when it lets it in."""
    sent = {**({"Host": host} if host is not None else {}), **headers}
    try:
        gate.admit(make_mocked_request("GET", "/enrollment", headers=sent))
    except Refusal as refusal:
        return refusal.code
    return ""


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9090", "127.8.0.1:1", "[::1]:9090", "localhost:9090", "LOCALHOST:9090", "unix:/run/a.sock"]
)
def test_private_addresses_need_no_secret(address: str) -> None:
    """Loopback and unix sockets."""
    assert said(Gate(address, None)) == ""


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9090", "[::]:9090", ":9090", "", "10.1.2.3:9090", "192.168.0.1:9090", "admin.example.com:9090",
     "localhost.example.com:9090", "127.0.0.1.example.com:9090", "[::ffff:10.0.0.1]:9090", "169.254.1.1:1"],
)  # fmt: skip
def test_other_addresses_do(address: str) -> None:
    """Everything that another machine may reach, or that a name may lead to."""
    assert said(Gate(address, None)) == "administration_closed"


@pytest.mark.parametrize(
    ("host", "code"),
    [("localhost:9090", ""), ("LocalHost", ""), ("127.0.0.1", ""), ("10.1.2.3:9090", ""), ("[::1]:9090", ""),
     ("admin.example.com:1", ""), ("ADMIN.example.com", ""), ("example.com", "host_refused"), ("", "host_refused"),
     (None, "host_refused"), ("localhost.", "host_refused"), ("x.admin.example.com", "host_refused")],
)  # fmt: skip
def test_hosts(host: str | None, code: str) -> None:
    """An address, localhost, or the host of the settings; no other name, which could lead here by its DNS."""
    secret = SecretRef(value=OLD)
    assert said(Gate("admin.example.com:9090", secret), host, Authorization=f"Bearer {OLD}") == code


def test_a_secret_is_rotated_by_its_file(tmp_path: Path) -> None:
    """The new one counts and the old one does not; a file that is gone or too weak leaves things as they are."""
    now = [0.0]
    file = tmp_path / "secret"
    file.write_text(OLD)
    gate = Gate("0.0.0.0:9090", SecretRef.model_validate({"file": str(file)}), clock=lambda: now[0])

    def tried() -> tuple[str, str]:
        now[0] += 2
        return said(gate, Authorization=f"Bearer {OLD}"), said(gate, Authorization=f"bearer {NEW}")

    assert tried() == ("", "admin_secret_refused")
    fresh = tmp_path / "fresh"
    fresh.write_text(NEW)
    os.replace(fresh, file)
    assert tried() == ("admin_secret_refused", "")
    file.write_text("change-me")
    assert tried() == ("admin_secret_refused", "")
    file.unlink()
    assert tried() == ("admin_secret_refused", "")


@pytest.mark.parametrize("text", [None, "short", "change-me-" + "x" * 40])
def test_a_secret_that_was_never_fit_closes_it(text: str | None, tmp_path: Path) -> None:
    """On loopback as well: the operator asked for a secret, and there is none."""
    if text is not None:
        (tmp_path / "secret").write_text(text)
    gate = Gate("127.0.0.1:9090", SecretRef.model_validate({"file": str(tmp_path / "secret")}))
    assert said(gate, Authorization=f"Bearer {text}") == "administration_closed"


def test_two_secrets_are_none() -> None:
    """An Authorization that stands twice is refused, whichever is right."""
    gate = Gate("127.0.0.1:9090", SecretRef(value=OLD))
    request = make_mocked_request("GET", "/enrollment", headers={"Host": "localhost"})
    both = request.clone(headers=_twice(OLD))
    with pytest.raises(Refusal) as caught:
        gate.admit(both)
    assert caught.value.code == "admin_secret_refused"
    assert OLD not in f"{gate!r} {caught.value}"


def _twice(secret: str) -> list[tuple[str, str]]:
    return [("Host", "localhost"), ("Authorization", f"Bearer {secret}"), ("Authorization", f"Bearer {secret}")]
