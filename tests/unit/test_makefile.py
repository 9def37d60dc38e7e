"""The commands of a developer: each is described, and each that a page names exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def targets() -> set[str]:
    """What ``make help`` lists."""
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in shown.splitlines()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    """What stands in code after ``make`` is a target with a description."""
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) - targets() == set()


def test_the_short_loop_is_listed() -> None:
    """``make quick`` is in the help and on the pages that list commands, and runs what they say."""
    assert "quick" in targets()
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "make quick" in (ROOT / page).read_text(encoding="utf-8")
    steps = subprocess.run(["make", "-n", "quick"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for part in ("ruff check", "ruff format --check", "mypy", "tests/test_architecture.py tests/unit tests/tables"):
        assert part in steps
