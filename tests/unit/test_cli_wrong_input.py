"""No wrong file, option or address makes a command end with a traceback: exit code 2, and a sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.cli import main
from tests.unit.settings.standins import KEY_A
from tests.unit.test_cli import GOOD as TEMPLATE

GOOD = TEMPLATE.format(key=KEY_A)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WRONG: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)),
    "utf-16": GOOD.encode("utf-16"),
    "latin-1": b"public_url: https://\xe4.example.com\n",
    "zeros": b"\0" * 100,
    "tabs": GOOD.replace("  ", "\t").encode(),
    "a list": b"- a\n- b\n",
    "a scalar": b"hello\n",
    "two documents": f"{GOOD}---\n{GOOD}".encode(),
    "duplicate key": f"{GOOD}prefix: /a\nprefix: /b\n".encode(),
    "merge key": f"{GOOD}listen: {{<<: *x}}\n".encode(),
    "defined merge key": f"x: &x {{a: b}}\n{GOOD}listen: {{<<: *x}}\n".encode(),
    "aliases inside aliases": BOMB.encode(),
    "an alias to itself": b"a: &a [*a]\n",
    "deep": b"[" * 5000 + b"]" * 5000,
    "number as a key": f"{GOOD}1: x\n".encode(),
    "list as a key": f"{GOOD}? [a, b]\n: x\n".encode(),
    "null as a key": f"{GOOD}~: x\n".encode(),
    "a tag": f"{GOOD}prefix: !!python/object/apply:os.system [ls]\n".encode(),
    "a wrong escape": f'{GOOD}prefix: "\\UFFFFFFFF"\n'.encode(),
    "half a surrogate pair": f'{GOOD}prefix: "\\uD800"\n'.encode(),
    "too large": b"#" * (1 << 20) + b"\n#",
    "an open quote": f'{GOOD}prefix: "/a\n'.encode(),
    "a directive": b"%YAML 9.9\n---\n" + GOOD.encode(),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("check", "-c", "FILE"),
    "connect": ("check", "--connect", "-c", "FILE"),
    "serve": ("serve", "-c", "FILE"),
    "explain": ("explain", "-c", "FILE", "GET", "https://app.example.com/"),
    "list": ("enrollment", "list", "-c", "FILE"),
}


def desk(*words: str) -> Result:
    """Run a command; an exception that it does not handle fails the test."""
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file(tmp_path: Path, case: str, command: str) -> None:
    """Each command that reads a settings file says what is wrong with it."""
    file = tmp_path / "authproxy.yaml"
    file.write_bytes(WRONG[case])
    result = desk(*(str(file) if word == "FILE" else word for word in COMMANDS[command]))
    assert result.exit_code == 2
    assert f"{file}:" in result.output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [".", "nowhere.yaml", "good.yaml/x", "", "\udcff.yaml", "x" * 300])
def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str) -> None:
    """A directory, a file that is not there, and what is no name of a file."""
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    result = desk(*(name if word == "FILE" else word for word in COMMANDS[command]))
    assert result.exit_code == 2
    assert result.output


@pytest.mark.parametrize("changed", ["\ufeff{}", "crlf"])
def test_marks_of_editors_are_fine(tmp_path: Path, changed: str) -> None:
    """A byte order mark and line ends of Windows change nothing."""
    file = tmp_path / "authproxy.yaml"
    text = GOOD.replace("\n", "\r\n") if changed == "crlf" else changed.format("") + GOOD
    file.write_bytes(text.encode("utf-8"))
    assert desk("check", "-c", str(file)).exit_code == 0


@pytest.mark.parametrize("port", ["99999", "65536", "0", "-1", "abc", "", "8080.5"])
def test_the_demo_on_a_port_that_cannot_be(port: str) -> None:
    """The range is named."""
    result = desk("demo", f"--port={port}")
    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.output


def test_the_demo_where_no_port_is_free() -> None:
    """A sentence that says which option to use."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 65535))
        taken.listen()
        result = desk("demo", "--port=65535")
    assert result.exit_code == 2
    assert "the demo cannot start: no free port from 65535 on; choose another with --port" in result.output


def test_an_admin_listener_that_does_not_answer(tmp_path: Path) -> None:
    """By file, by address and by socket; and a secret that cannot be read or sent."""
    file = tmp_path / "authproxy.yaml"
    file.write_text(f"{GOOD}listen: {{admin: 'unix:{tmp_path}/none.sock'}}\n", encoding="utf-8")
    (tmp_path / "secret").write_text("a\nb", encoding="utf-8")
    for words in (
        ("-c", str(file)), ("--admin", "http://127.0.0.1:9"), ("--admin", f"unix:{tmp_path}/none.sock"),
        ("--admin", "http://127.0.0.1:99999"), ("--admin", "nonsense"), ("--admin", "http://[::1"),
        ("--admin", "http://127.0.0.1:9", "--secret-file", str(tmp_path)),
        ("--admin", "http://127.0.0.1:9", "--secret-file", str(tmp_path / "secret")),
    ):  # fmt: skip
        result = desk("enrollment", "list", *words)
        assert result.exit_code == 2, words
        assert result.output


words = st.text(st.characters(exclude_categories=[]), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words, words | words.map(lambda text: f"https://app.example.com/{text}"), words, words, words)
def test_any_question_has_an_answer(tmp_path: Path, method: str, url: str, client: str, header: str, who: str) -> None:
    """``explain`` ends with 0, 1 or 2, whatever is asked."""
    file = tmp_path / "authproxy.yaml"
    file.write_text(GOOD, encoding="utf-8")
    options = [f"--client={client}", f"--header=X: {header}", f"--header={header}: x", f"--as=session:{who}"]
    for option in options:
        result = desk("explain", "-c", str(file), option, "--", method, url)
        assert result.exit_code in (0, 1, 2)
