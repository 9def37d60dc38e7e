"""No test guesses how fast the machine is: a wait ends with the program or at ``PATIENCE``, a bound has a yardstick."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.peers.program import PATIENCE

TESTS: Final = Path(__file__).parent.parent
LONGEST_TEST_SECONDS: Final = 60.0
"""On an idle machine; the limit of pytest is that of a machine four times as slow."""
MOMENT_SECONDS: Final = 1.0
"""A wait for what must *not* come may take this long: it asserts nothing about speed."""

WAITS: Final = frozenset(
    {
        "ClientTimeout",
        "HTTPConnection",
        "HTTPSConnection",
        "audited",
        "communicate",
        "create_connection",
        "ended",
        "join",
        "line",
        "ready",
        "receive",
        "run",
        "set_default_timeout",
        "settimeout",
        "stop",
        "timeout",
        "urlopen",
        "wait",
        "wait_for",
    }
)
CLOCKS: Final = frozenset({"monotonic", "perf_counter", "time"})
STEADY_CLOCKS: Final = CLOCKS - {"time"}  # a wall-clock time in the future is a claim of a token, too


def called(node: ast.AST) -> str:
    """The last name of what is called; empty for anything but a call."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def seconds(node: ast.AST) -> float:
    """A number that stands there; 0 for anything else."""
    return float(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else 0.0


def deadlines(node: ast.AST) -> Iterator[str]:
    """Waits for a number of seconds, and comparisons of elapsed time with a number."""
    if called(node) in WAITS:
        assert isinstance(node, ast.Call)
        for one in [*node.args, *(word.value for word in node.keywords if word.arg in (None, "timeout", "total"))]:
            if seconds(one) > MOMENT_SECONDS and not is_mark(node):
                yield f"{called(node)} waits {seconds(one)} seconds"
    match node:
        case ast.BinOp(left, ast.Add(), right) if called(left) in STEADY_CLOCKS and seconds(right) > MOMENT_SECONDS:
            yield f"a deadline after {seconds(right)} seconds"
        case ast.Compare(ast.BinOp(left, ast.Sub()), [ast.Lt() | ast.LtE()], [bound]) if called(left) in CLOCKS:
            if getattr(bound, "id", "") != "PATIENCE":
                yield "elapsed time has an upper bound without a yardstick"


def is_mark(node: ast.Call) -> bool:
    """``pytest.mark.timeout``, and waits that count something other than seconds."""
    text = ast.unparse(node)
    return "mark.timeout(" in text or ".wait_for('" in text


def found_in(source: str) -> list[str]:
    """What a file of tests guesses, with its lines."""
    return [f"{getattr(node, 'lineno', 0)}: {what}" for node in ast.walk(ast.parse(source)) for what in deadlines(node)]


@pytest.mark.parametrize("folder", ["conformance", "hostile", "peers", "soak", "stories", "tables", "unit", "fuzz"])
def test_no_wait_has_a_deadline_of_its_own(folder: str) -> None:
    """A busy machine makes every fixed number of seconds too few: none is written down."""
    files = sorted((TESTS / folder).rglob("*.py"))
    assert files
    assert [f"{file}:{what}" for file in files for what in found_in(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "line",
    [
        "asyncio.timeout(20)",
        "asyncio.wait_for(task, 5)",
        "sock.settimeout(10.0)",
        "subprocess.run(words, timeout=30)",
        "aiohttp.ClientTimeout(total=30)",
        "deadline = time.monotonic() + 20",
        "assert time.monotonic() - began < 1.5",
        "assert time.perf_counter() - began <= BOUND",
    ],
)
def test_a_fixed_deadline_is_seen(line: str) -> None:
    """Each form that a deadline has had here is found."""
    assert len(found_in(line)) == 1


@pytest.mark.parametrize(
    "line",
    ["asyncio.timeout(PATIENCE)", "asyncio.timeout(0.05)", "peer.wait_for('token', 2)", "pytest.mark.timeout(300)",
     "assert time.monotonic() - began < PATIENCE", "assert time.time() - began >= 2", "House(url, timeout=2)"],
)  # fmt: skip
def test_what_asserts_nothing_about_speed_is_allowed(line: str) -> None:
    """The limit of a test, a moment of silence, a count, a lower bound, a setting of the product."""
    assert found_in(line) == []


def test_the_limit_of_a_test_is_that_of_a_slow_machine() -> None:
    """Four times the longest test, and more than one wait."""
    options = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    assert options["ini_options"]["timeout"] >= 4 * LONGEST_TEST_SECONDS
    assert options["ini_options"]["timeout"] > PATIENCE
