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


def test_explain_says_where_each_step_stands(good: Path) -> None:
    """Aligned lines with the entry and the line that decided, the outcome last, and exit code 0."""
    question = ("explain", "-c", str(good), "GET", "https://app.example.com/x")
    claims = '{"groups": ["staff"]}'
    result = desk(*question, "--as", "session:ann@example.com", "--claims", claims)
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == ["request", "route", "who", "policy", "upstream", "ALLOWED"]
    assert lines[3].split() == [
        "policy",
        "policies.staff.any[0]",
        f"{good}:5",
        *["rule", "policies.staff.any[0]:", "group", "staff"],
    ]
    assert len({line.find(f"{good}:") for line in lines[1:5]}) == 1


def test_explain_exits_with_1_when_refused(good: Path) -> None:
    """The last line has status and code; a browser is told where it would sign in."""
    result = desk("explain", "-c", str(good), "GET", "https://app.example.com/", "--header", "Accept: text/html")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "REFUSED  401 not_signed_in"
    assert "302 to https://app.example.com/oauth2/sign_in?rd=%2F" in result.output


def test_explain_as_json(good: Path) -> None:
    """The same as one object."""
    result = desk("explain", "-c", str(good), "GET", "https://app.example.com/", "--as", "session:bob", "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["allowed"], found["status"], found["code"]) == (1, False, 403, "not_allowed")
    last = found["steps"][-1]
    assert (last["name"], last["verdict"], last["setting"], last["line"]) == ("policy", "refused", "policies.staff", 5)
    assert "needs group staff" in last["reason"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/path",), "'/path' is not a URL"),
        (("https://app.example.com/", "--as", "ann"), "'ann' is not KIND:NAME; KIND is one of session, bearer"),
        (("https://app.example.com/", "--as", "token:read"), "tokens has no entry read"),
        (("https://app.example.com/", "--claims", "[1]"), "is not a JSON object"),
        (("https://app.example.com/", "--claims", "{"), "is not a JSON object"),
        (("https://app.example.com/", "--header", "Accept"), "is not a header"),
    ],
)
def test_explain_of_a_wrong_question(good: Path, words: tuple[str, ...], said: str) -> None:
    """What cannot be meant is said, with exit code 2."""
    result = desk("explain", "-c", str(good), "GET", *words)
    assert result.exit_code == 2
    assert said in result.output


def test_explain_of_wrong_settings(good: Path) -> None:
    """The problems are listed as ``check`` lists them."""
    good.write_text(good.read_text().replace("policy: staff", "polcy: staff"))
    result = desk("explain", "-c", str(good), "GET", "https://app.example.com/")
    assert result.exit_code == 2
    assert "apps.app.routes[0].polcy: unknown key" in result.output


def test_explain_works_on_the_complete_example() -> None:
    """Elsewhere than where it is served: none of its secrets and files is here, and not all of it is served yet."""
    complete = Path(__file__).parents[2] / "config" / "complete.yaml"
    place = "https://internal-api.example.com/api/v2/flux/clusters/us-east-prod-01.k8s.example.com/inputs"
    result = desk("explain", "-c", str(complete), "GET", place, "--as", "token:eu-01")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "ALLOWED")
