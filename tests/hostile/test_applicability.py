"""The list of cases is complete, and true: no id is missing, every test that it names exists, none is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent
FAMILIES = {"A": 38, "B": 38, "D": 14}
CASES = [f"{family}{number}" for family, count in FAMILIES.items() for number in range(1, count + 1)]
NAMED = re.compile(r"test_(?:[abd]\d+_(?:to_)?)+")
LISTED: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "applicability.yaml").read_text(encoding="utf-8"))


WIRE_FAMILIES = {"E": 41, "F": 16, "G": 12, "H": 8, "I": 10, "M": 11}
WIRE_CASES = [f"{family}{number}" for family, count in WIRE_FAMILIES.items() for number in range(1, count + 1)]
WIRE_NAMED = re.compile(r"test_(?:[efghim]\d+_(?:to_)?)+")
WIRE: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "applicability_wire.yaml").read_text(encoding="utf-8"))


def _functions() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every test of this folder as ``file::name``."""
    return {
        f"{file.name}::{node.name}": node
        for file in FOLDER.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


FUNCTIONS = _functions()


def test_every_case_is_listed_once() -> None:
    """No id is missing, and none is made up."""
    assert list(LISTED) == CASES


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_covered_or_explained(case: str) -> None:
    """Each id names tests that exist, or says why there are none."""
    entry = LISTED[case]
    assert entry.keys() <= {"tests", "reason"}
    assert entry.get("tests") or len(entry.get("reason", "").split()) >= 2
    assert [name for name in entry.get("tests", []) if name not in FUNCTIONS] == []
    assert len(set(entry.get("tests", []))) == len(entry.get("tests", []))


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if NAMED.match(name.partition("::")[2])))
def test_every_test_is_listed(name: str) -> None:
    """A test that is named for cases is listed under each of them."""
    for case in _cases_of(name.partition("::")[2]):
        assert name in LISTED[case].get("tests", []), case


def _cases_of(name: str, named: re.Pattern[str] = NAMED) -> list[str]:
    found = named.match(name)
    assert found is not None
    words = found[0].removeprefix("test_").strip("_").upper().split("_")
    if "TO" in words:
        first, _, last = words
        return [f"{first[0]}{number}" for number in range(int(first[1:]), int(last[1:]) + 1)]
    return words


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_test_states_its_claim(name: str) -> None:
    """A test without a sentence proves nothing to the reader."""
    assert (ast.get_docstring(FUNCTIONS[name]) or "").strip().endswith(".")


# --- the wire: tests are named by their path under tests/ ---


def test_every_case_of_the_wire_is_listed_once() -> None:
    """No id is missing, and none is made up."""
    assert list(WIRE) == WIRE_CASES


@pytest.mark.parametrize("case", WIRE_CASES)
def test_every_case_of_the_wire_is_covered_or_explained(case: str) -> None:
    """Each id names tests that exist, or says why there are none."""
    entry = WIRE[case]
    assert entry.keys() <= {"tests", "reason"}
    named = entry.get("tests", [])
    assert named or len(entry.get("reason", "").split()) >= 2
    assert len(set(named)) == len(named)
    for name in named:
        file, _, test = name.partition("::")
        assert test in _tests_of(FOLDER.parent / file), name


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if WIRE_NAMED.match(name.partition("::")[2])))
def test_every_test_of_the_wire_is_listed(name: str) -> None:
    """A test that is named for cases is listed under each of them."""
    for case in _cases_of(name.partition("::")[2], WIRE_NAMED):
        assert f"hostile/{name}" in WIRE[case].get("tests", []), case


# --- real ingresses: attacks through the blocks of the documents ---

INGRESS_NAMED = re.compile(r"test_n(\d+)_")
INGRESS: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "applicability_ingress.yaml").read_text(encoding="utf-8"))


def test_every_case_of_real_ingresses_is_listed() -> None:
    """The list has every case of the class once, in order, and each names its tests."""
    named: dict[str, list[str]] = {}
    for name in FUNCTIONS:
        if found := INGRESS_NAMED.match(name.partition("::")[2]):
            named.setdefault(f"N{found[1]}", []).append(name)
    assert list(INGRESS) == [f"N{number}" for number in range(1, len(INGRESS) + 1)]
    assert {case: entry["tests"] for case, entry in INGRESS.items()} == named
    assert {entry["class"] for entry in INGRESS.values()} == {"real ingress"}


@cache
def _tests_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
