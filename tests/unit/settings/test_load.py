"""Loading a settings file: what comes out, what is refused before anything can be checked, and where things stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from authproxy.errors import SettingsError
from authproxy.settings.load import MAX_FILE, from_mapping, inspect, load
from tests.unit.settings.standins import KEY_A, furnish

VALID = """\
public_url: https://auth.example.com
session:
  keys: [{file: key-a}]
providers:
  dex: {issuer: https://dex.example.com, client_id: authproxy, password_login: true}
policies:
  staff: {any: [{groups: [staff]}]}
apps:
  dashboard:
    host: dashboard.example.com
    upstream: {url: http://app:8080}
    routes:
      - {path: /a, policy: staff}
      - path: /
        policy: staff
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid settings file among the stand-ins."""
    path = furnish(tmp_path) / "authproxy.yaml"
    path.write_text(VALID, encoding="utf-8")
    return path


def only(path: Path) -> str:
    """The one problem of a file, which ``load`` and ``inspect`` agree upon."""
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert inspect(path, {}) == caught.value.problems
    (problem,) = caught.value.problems
    return str(problem).removeprefix(str(path))


def test_a_valid_file_is_loaded_whole(file: Path) -> None:
    """Settings, warnings and lines come together, and paths are resolved beside the file."""
    loaded = load(file, {})
    assert loaded.settings.apps["dashboard"].routes[1].path == "/"
    assert loaded.settings.session.keys[0].file == file.parent / "key-a"
    assert [(warning.line, warning.path) for warning in loaded.warnings] == [(5, "providers.dex.password_login")]


def test_enrollment_secrets_are_awaited(file: Path) -> None:
    """What enrollment lacks is an error for ``inspect``, but does not keep settings from being served.

    Beside an error that does, it is told with the others.
    """
    lacking = "enrollment: {tokens: {fleet: {secrets: [{file: nowhere}]}}, signing_keys: [{file: nowhere.jwk}]}\n"
    file.write_text(VALID + lacking, encoding="utf-8")
    named = ["enrollment.tokens.fleet.secrets[0]", "enrollment.signing_keys[0]"]
    assert [problem.path for problem in load(file, {}).warnings if problem.awaited] == named
    assert [problem.path for problem in inspect(file, {}) if not problem.warning] == named
    file.write_text(VALID + lacking + "sesion: {}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert [problem.path for problem in caught.value.problems] == [*named, "sesion"]


def test_every_path_has_its_line(file: Path) -> None:
    """Keys and list items stand where they were written; what is absent stands where its section does."""
    lines = load(file, {}).lines
    assert lines.of("apps.dashboard") == 9
    assert lines.of("apps.dashboard.routes[1]") == 14
    assert lines.of("apps.dashboard.routes[1].policy") == 15
    assert lines.of("apps.dashboard.routes[1].accept") == 14
    assert lines.of("apps.dashboard.routes[7].accept[2]") == 12
    assert lines.of("throttle.login.burst") == 1
    assert repr(lines).startswith("<Lines ")


def test_a_name_with_dots_is_found(file: Path) -> None:
    """Dots inside a name do not send the search astray."""
    file.write_text(VALID.replace("dashboard:\n", "a.b:\n"), encoding="utf-8")
    lines = load(file, {}).lines
    assert lines.of("apps.a.b.routes[0].path") == 13
    assert lines.of("apps.a.b.title") == 9


def test_the_name_of_the_file_is_shown_as_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name stays relative in problems, and still finds its neighbours after a change of folder."""
    monkeypatch.chdir(file.parent)
    loaded = load(Path("authproxy.yaml"), {})
    assert loaded.warnings[0].file == "authproxy.yaml"
    monkeypatch.chdir("/")
    assert loaded.settings.session.keys[0].reveal() == KEY_A


def test_errors_are_raised_without_warnings(file: Path) -> None:
    """``load`` raises errors alone; ``inspect`` tells warnings too, in the order of the file."""
    file.write_text(VALID.replace("keys:", "kys:"), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert [problem.path for problem in caught.value.problems] == ["session.kys"]
    assert [(found.line, found.warning) for found in inspect(file, {})] == [(2, True), (3, False), (5, True)]


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    """No traceback for what is not there."""
    assert only(tmp_path / "nowhere.yaml") == ": cannot be read: No such file or directory"


def test_a_folder_is_one_problem(tmp_path: Path) -> None:
    """Nor for a folder."""
    assert only(tmp_path) == ": cannot be read: Is a directory"


def test_a_file_that_is_not_utf8_is_one_problem(file: Path) -> None:
    """The line of the first wrong byte is told."""
    file.write_bytes(b"public_url: https://a.example.com\n# gr\xfc\xdfe\n")
    assert only(file) == ":2: is not UTF-8 text; save it in that encoding"


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    """Some editors write one."""
    file.write_text("\ufeff" + VALID, encoding="utf-8")
    assert load(file, {}).settings.apps


def test_a_huge_file_is_refused_unread(file: Path) -> None:
    """More than 1 MiB is not read to its end."""
    file.write_text("#" * (MAX_FILE + 1), encoding="utf-8")
    assert only(file) == ": is larger than 1 MiB; this is not a settings file"


def test_a_device_is_refused(tmp_path: Path) -> None:
    """An endless file ends."""
    assert "larger than 1 MiB" in only(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{b: " * 2000, "- " * 3000, '"\\UFFFFFFFF"', "a: \x07"])
def test_malicious_yaml_is_one_problem(text: str, file: Path) -> None:
    """Depth, escapes beyond Unicode and control characters end in a sentence."""
    file.write_text(text, encoding="utf-8")
    assert only(file)


def test_problems_never_hold_a_secret(file: Path) -> None:
    """A weak secret is complained about by name, and does not appear in ``repr`` either."""
    file.write_text(VALID + "forward_auth: {secret: {value: hunter2}}\n", encoding="utf-8")
    loaded = load(file, {})
    assert len(loaded.warnings) == 3
    assert "hunter2" not in repr(loaded)


def mapping() -> dict[str, object]:
    """Valid settings as plain data."""
    return {
        "public_url": "http://127.0.0.1:8080",
        "session": {"keys": [{"env": "KEY"}]},
        "providers": {"demo": {"issuer": "http://127.0.0.1:5556", "client_id": "demo"}},
        "policies": {"all": {"any": [{"authenticated": True}]}},
        "apps": {
            "a": {"host": "*", "upstream": {"url": "http://127.0.0.1:1"}, "routes": [{"path": "/", "policy": "all"}]}
        },
    }


def test_plain_data_becomes_settings(tmp_path: Path) -> None:
    """The demo needs no file; what it gave is left as it was."""
    data = mapping()
    assert from_mapping(data, tmp_path, {"KEY": KEY_A}).apps["a"].host == "*"
    assert data == mapping()


def test_plain_data_is_checked_as_a_file_is(tmp_path: Path) -> None:
    """The same problems, without lines."""
    data = mapping() | {"policies": {}}
    with pytest.raises(SettingsError) as caught:
        from_mapping(data, tmp_path, {}, name="demo")
    assert sorted(map(str, caught.value.problems)) == [
        "demo: apps.a.routes[0].policy: names all, which is not in policies; add it to policies",
        "demo: session.keys[0]: the secret cannot be used: the environment variable KEY is not set, or empty",
    ]


def test_the_process_environment_is_the_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping of variables those of the process count."""
    monkeypatch.setenv("AUTHPROXY__LISTEN__ADMIN", "127.0.0.1:9999")
    assert load(file).settings.listen.admin == "127.0.0.1:9999"
    assert os.environ["AUTHPROXY__LISTEN__ADMIN"]
