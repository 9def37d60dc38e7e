"""What people read when their settings are wrong, word for word: one file of ``tests/golden/settings`` a case.

A case is a settings file, a line ``=====`` and the expected problems.  Comments ``# NAME=value`` at its top set
environment variables.  To add a case, add a file; ``GOLDEN=write pytest`` fills in what follows the line, to be read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from authproxy.settings.load import inspect
from tests.unit.settings.standins import ENVIRON, furnish, settled

GOLDEN = Path(__file__).parents[2] / "golden" / "settings"
CASES = sorted(GOLDEN.glob("*.yaml"))
SEPARATOR = "=====\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_problems_are_worded_exactly_so(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case gives its problems, each with file, line, key and remedy, in order, and no secret."""
    given, _, expected = case.read_text(encoding="utf-8").partition(SEPARATOR)
    monkeypatch.chdir(furnish(tmp_path))
    Path("authproxy.yaml").write_text(settled(given), encoding="utf-8")
    variables = dict(re.findall(r"^# (\w+)=(.*)$", given, re.MULTILINE))
    problems = inspect(Path("authproxy.yaml"), {**ENVIRON, **variables})
    found = "".join(f"{problem}\n" for problem in problems).replace(f"{tmp_path}/", "")
    found = re.sub(r"expired on [0-9-]+", "expired on DATE", found)
    if os.environ.get("GOLDEN") == "write":
        case.write_text(f"{given}{SEPARATOR}{found}", encoding="utf-8")
    assert "hunter2" not in found
    assert found == expected or os.environ.get("GOLDEN") == "write"


def test_there_are_enough_cases() -> None:
    """The corpus was found, and has not shrunk."""
    assert len(CASES) >= 100
