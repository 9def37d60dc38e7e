"""The front desk: what each command prints, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authproxy import __version__
from authproxy.cli import main
from authproxy.sessions.sealing import decode

GOOD = """\
public_url: https://app.example.com
session: {{keys: [{{value: {key}}}]}}
providers:
  dex: {{issuer: "http://127.0.0.1:9/", client_id: authproxy}}
policies: {{staff: {{any: [{{groups: [staff]}}]}}}}
apps:
  app:
    host: app.example.com
    upstream: {{url: "http://127.0.0.1:9"}}
    routes: [{{path: /, policy: staff}}]
"""


def desk(*words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A settings file without errors."""
    file = tmp_path / "authproxy.yaml"
    file.write_text(GOOD.format(key=desk("key").output.strip()))
    return file


def test_key_prints_a_fresh_session_key() -> None:
    """32 random bytes, another each time."""
    one, two = desk("key").output.strip(), desk("key").output.strip()
    assert one != two
    assert len(decode(one) or b"") == 32


def test_key_signing_prints_a_private_jwk() -> None:
    """An ES256 key with a name."""
    made = json.loads(desk("key", "--signing").output)
    assert (made["kty"], made["crv"], made["alg"]) == ("EC", "P-256", "ES256")
    assert made["d"]
    assert made["kid"]


def test_schema_prints_json_schema() -> None:
    """Editors can read it, and it knows the sections."""
    schema = json.loads(desk("schema").output)
    assert {"listen", "providers", "apps", "policies"} <= schema["properties"].keys()


def test_check_of_good_settings(good: Path) -> None:
    """Warnings are shown, and the exit code is 0."""
    result = desk("check", "-c", str(good))
    assert result.exit_code == 0
    assert "the settings are good" in result.output
    assert "warning" in result.output


def test_check_names_every_problem_and_exits_with_2(good: Path) -> None:
    """Two mistakes are both named, each with its line and key; serve refuses the same file in the same words."""
    good.write_text(good.read_text().replace("policy: staff", "polcy: staff").replace("client_id", "cliend_id"))
    checked, served = desk("check", "-c", str(good)), desk("serve", "-c", str(good))
    for result in (checked, served):
        assert result.exit_code == 2
        assert f"{good}:4: providers.dex.cliend_id: unknown key; did you mean client_id?" in result.output
        assert f"{good}:10: apps.app.routes[0].polcy: unknown key; did you mean policy?" in result.output


def test_check_connect_says_what_does_not_answer(good: Path) -> None:
    """Nothing listens on the discard port: the provider and the upstream are named, and the exit code is 2."""
    result = desk("check", "-c", str(good), "--connect")
    assert result.exit_code == 2
    assert "provider dex: " in result.output
    assert "upstream of app (http://127.0.0.1:9): cannot connect" in result.output


def test_version() -> None:
    """The version of the package."""
    assert desk("--version").output.strip() == f"authproxy, version {__version__}"
