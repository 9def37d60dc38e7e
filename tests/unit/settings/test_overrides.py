"""Values from the environment: which places they reach, and what they become there."""

from __future__ import annotations

from pathlib import Path

import pytest

from authproxy.settings.load import Loaded, inspect, load
from tests.unit.settings.standins import furnish

FILE = """\
public_url: https://auth.example.com
session: {keys: [{file: key-a}]}
providers: {my-dex: {issuer: https://dex.example.com, client_id: authproxy}}
policies: {staff: {any: [{groups: [staff]}]}, a-b: {any: [{users: [x]}]}, a_b: {any: [{users: [y]}]}}
apps:
  app: {host: app.example.com, upstream: {url: http://app}, routes: [{path: /a/, policy: a-b}, {path: /b/, policy: a_b},
    {path: /, policy: staff}]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid file with names that need folding."""
    path = furnish(tmp_path) / "authproxy.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def with_one(file: Path, name: str, value: str) -> Loaded:
    """The file, loaded with one variable."""
    return load(file, {f"AUTHPROXY__{name}": value})


def refusal(file: Path, name: str, value: str = "x") -> str:
    """What is said about one variable."""
    (problem,) = inspect(file, {f"AUTHPROXY__{name}": value})
    assert (problem.file, problem.line) == (f"AUTHPROXY__{name}", 0)
    return problem.message


def test_a_value_is_replaced_or_added(file: Path) -> None:
    """Sections that the file leaves out are made."""
    assert with_one(file, "LISTEN__ADDRESS", "127.0.0.1:1").settings.listen.address == "127.0.0.1:1"
    assert with_one(file, "SESSION__COOKIE__NAME", "other").settings.session.cookie.name == "other"
    assert with_one(file, "PUBLIC_URL", "https://b.example.com").settings.public_url == "https://b.example.com"


@pytest.mark.parametrize("name", ["PROVIDERS__MY_DEX__TITLE", "providers__my-dex__title", "Providers__My_Dex__Title"])
def test_case_and_dashes_do_not_matter(name: str, file: Path) -> None:
    """Names of the file are found however the variable spells them."""
    assert with_one(file, name, "Dex").settings.providers["my-dex"].title == "Dex"


def test_list_items_are_counted_from_0(file: Path) -> None:
    """An item that is there can be reached."""
    assert with_one(file, "APPS__APP__ROUTES__2__PATH", "/c").settings.apps["app"].routes[2].path == "/c"


def test_values_are_scalars_of_yaml(file: Path) -> None:
    """Numbers, booleans, null and quotes mean what they mean in the file."""
    assert with_one(file, "FORWARD_AUTH__SUCCESS_STATUS", "204").settings.forward_auth.success_status == 204
    assert with_one(file, "PROVIDERS__MY_DEX__USERINFO", "true").settings.providers["my-dex"].userinfo is True
    assert with_one(file, "LISTEN__ADMIN", "null").settings.listen.admin is None
    assert with_one(file, "APPS__APP__HOST", '"*"').settings.apps["app"].host == "*"
    assert with_one(file, "APPS__APP__HOST", "*").settings.apps["app"].host == "*"


def test_text_needs_no_quotes(file: Path) -> None:
    """Where only text is allowed, a number of the environment is text."""
    assert with_one(file, "PROVIDERS__MY_DEX__CLIENT_ID", "12345").settings.providers["my-dex"].client_id == "12345"
    assert with_one(file, "PROVIDERS__MY_DEX__TITLE", "true").settings.providers["my-dex"].title == "true"


def test_an_empty_value_of_the_file_can_be_filled(file: Path) -> None:
    """What the file leaves empty is no fault once a variable gives it."""
    file.write_text(FILE + "listen:\n  address:\n", encoding="utf-8")
    assert with_one(file, "LISTEN__ADDRESS", "127.0.0.1:1").settings.listen.address == "127.0.0.1:1"


def test_what_names_nothing_is_refused(file: Path) -> None:
    """A typing error does not leave the file's value in force unnoticed."""
    assert refusal(file, "LISTEN__ADRESS") == "names no key of the settings; did you mean AUTHPROXY__LISTEN__ADDRESS?"
    assert refusal(file, "PROVIDERS__OTHER__TITLE") == "names no key of the settings"
    assert refusal(file, "PUBLIC_URL__X") == "names no key of the settings"
    assert refusal(file, "") == "names no key of the settings"
    assert refusal(file, "PROVIDERS__MY_DEX") == "names a section or a list; name one single value inside it"
    assert refusal(file, "POLICIES__A_B__ANONYMOUS", "true") == "fits more than one key: a-b, a_b"
    assert refusal(file, "APPS__APP__ROUTES__9__PATH").startswith("must give a position from 0 to 2")
    assert refusal(file, "APPS__APP__ROUTES__x__PATH").startswith("must give a position from 0 to 2")
    assert refusal(file, "LISTEN__ADDRESS", " ") == "is empty; unset the variable or give it a value"
    assert refusal(file, "LISTEN__ADDRESS", "a\nb") == "holds a line break or another control character"


def test_a_section_is_not_put_into_a_value(file: Path) -> None:
    """Where the file has a single value instead of a section, both mistakes are told."""
    file.write_text(FILE + "listen: 5\n", encoding="utf-8")
    problems = [str(problem) for problem in inspect(file, {"AUTHPROXY__LISTEN__ADDRESS": "x"})]
    assert len(problems) == 2
    assert problems[1].startswith("AUTHPROXY__LISTEN__ADDRESS: cannot be set")


def test_a_replaced_value_is_blamed_on_its_variable(file: Path) -> None:
    """Its problems name the variable, and its line is none."""
    (problem,) = inspect(file, {"AUTHPROXY__APPS__APP__HOST": "http://x"})
    assert (problem.file, problem.line, problem.path) == ("AUTHPROXY__APPS__APP__HOST", 0, "apps.app.host")
    assert with_one(file, "APPS__APP__HOST", "x").lines.of("apps.app.host") == 0


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_break_at_the_end_is_dropped(file: Path, end: str) -> None:
    """Variables from files often end with one; a line break inside is refused."""
    assert with_one(file, "LISTEN__ADDRESS", f"127.0.0.1:1{end}").settings.listen.address == "127.0.0.1:1"
    assert "line break" in refusal(file, "LISTEN__ADDRESS", "127.0.0.1\n:1")
    assert "is empty" in refusal(file, "LISTEN__ADDRESS", end)
