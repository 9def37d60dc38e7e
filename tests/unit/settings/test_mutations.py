"""Whatever is broken in a valid file, the answer is a list of problems with places, and no secret."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.errors import Problem, SettingsError
from authproxy.settings.load import inspect, load
from tests.unit.settings.standins import ENVIRON, furnish
from tests.unit.settings.test_examples import COMPLETE

VALID: dict[str, Any] = yaml.safe_load(COMPLETE)
SCALARS: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1.5,
    "",
    "x",
    "*",
    "a\0b",
    "\ud800",
    "9" * 5000 + "d",
    [],
    {},
]
LOOSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path of the data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = list(places(VALID))
values = st.sampled_from(SCALARS) | st.text(max_size=8) | st.lists(st.sampled_from(SCALARS), max_size=2)
mutations = st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", "rename", "retype", "wrap"]), values)


def mutate(data: Any, place: tuple[Any, ...], how: str, value: object) -> None:
    """One mistake; a place that an earlier mistake took away is left alone."""
    try:
        for step in place[:-1]:
            data = data[step]
        old = data[place[-1]]
    except (LookupError, TypeError):
        return
    if isinstance(data, str):
        return
    if how == "drop":
        del data[place[-1]]
    elif how == "rename" and isinstance(data, dict):
        data[f"{place[-1]}s"] = data.pop(place[-1])
    else:
        data[place[-1]] = [old] if how == "wrap" else value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins."""
    return furnish(tmp_path_factory.mktemp("settings"))


@LOOSE
@given(st.lists(mutations, min_size=1, max_size=4))
def test_a_broken_file_is_described(folder: Path, mistakes: list[tuple[tuple[Any, ...], str, object]]) -> None:
    """Nothing but SettingsError is raised, and each problem has a line."""
    data = copy.deepcopy(VALID)
    for place, how, value in mistakes:
        mutate(data, place, how, value)
    file = folder / "authproxy.yaml"
    file.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    problems = inspect(file, ENVIRON)
    assert all(problem.line == 1 and problem.message and "\n" not in str(problem) for problem in problems)
    assert raised(file) == [problem for problem in problems if not problem.warning]


def raised(file: Path) -> list[Problem]:
    """The errors that ``load`` raises for a file, if it does."""
    try:
        assert load(file, ENVIRON).settings
        found = []
    except SettingsError as error:
        found = error.problems or [Problem("", 0, "", "refused without a word")]
    return found


@LOOSE
@given(st.data())
def test_a_mangled_text_is_described(folder: Path, data: st.DataObject) -> None:
    """Cut, doubled or inserted text gives problems or settings, never a traceback."""
    start = data.draw(st.integers(0, len(COMPLETE)))
    end = data.draw(st.integers(start, min(len(COMPLETE), start + 200)))
    middle = data.draw(
        st.sampled_from(["", COMPLETE[start:end] * 2, "{", "]", '"', "\t", "*", "&a ", "!!int ", "%", "\x85"])
    )
    file = folder / "mangled.yaml"
    file.write_text(COMPLETE[:start] + middle + COMPLETE[end:], encoding="utf-8")
    problems = inspect(file, ENVIRON)
    assert all(problem.line > 0 and problem.message for problem in problems)


NAMES = (
    "LISTEN__ADDRESS", "LISTEN__TRUSTED_PROXIES__0", "APPS__DASHBOARD__ROUTES__0", "X", "SESSION__KEYS__0__FILE",
    "AUDIT", "AUDIT__FILE", "STORE__REDIS__URL", "PROVIDERS__DEX__CLAIMS__USER",
)  # fmt: skip
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9)


@LOOSE
@given(st.dictionaries(st.sampled_from(NAMES), texts))
def test_any_variable_is_described(folder: Path, variables: dict[str, str]) -> None:
    """Variables with any value give problems that name them."""
    file = folder / "overridden.yaml"
    file.write_text(COMPLETE, encoding="utf-8")
    environ = {**ENVIRON, **{f"AUTHPROXY__{name}": value for name, value in variables.items()}}
    for problem in inspect(file, environ):
        assert problem.line > 0 or problem.file.startswith("AUTHPROXY__")
