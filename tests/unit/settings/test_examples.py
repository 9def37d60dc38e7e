"""The files of ``config/`` and the settings of the reference: what people copy must load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from authproxy.cli import main
from authproxy.settings import places
from authproxy.settings.load import inspect, load
from authproxy.settings.unserved import UNSERVED
from tests.unit.settings.standins import ENVIRON, furnish, settled

CONFIG = Path(__file__).parents[3] / "config"
COMPLETE = settled((CONFIG / "complete.yaml").read_text(encoding="utf-8"))
WHOLE = Path(__file__).parents[2] / "golden" / "settings" / "whole-example.yaml"


def problems_of(text: str, folder: Path) -> list[str]:
    """What is said about ``text`` when all files and variables are there: key and message."""
    file = furnish(folder) / "authproxy.yaml"
    file.write_text(settled(text), encoding="utf-8")
    return [f"{problem.path}: {problem.message}" for problem in inspect(file, ENVIRON)]


def unserved(*paths: str) -> list[str]:
    """The refusals of ``paths``, in the order of the file."""
    return [f"{path}: {UNSERVED[tuple(path.split('.'))]}" for path in paths]


EXPECTED = ("kubernetes", "workspaces")


def test_the_complete_example_has_only_what_is_not_served_yet(tmp_path: Path) -> None:
    """The annotated example parses whole; nothing is wrong or doubtful in it but the unserved entries."""
    assert problems_of(COMPLETE, tmp_path) == unserved(*EXPECTED)


def checked(text: str, folder: Path) -> Result:
    """What the command ``check`` makes of ``text`` when all files and variables are there."""
    file = folder / "authproxy.yaml"
    file.write_text(settled(text), encoding="utf-8")
    return CliRunner(env=ENVIRON).invoke(main, ["check", "-c", str(file)], catch_exceptions=False)


def test_the_whole_example_is_good_but_for_two_sections(tmp_path: Path) -> None:
    """``check`` on the example that users rely on names the two sections that are not served, and nothing else; without
    these it says no word but that all is good.
    """
    given, _, told = WHOLE.read_text(encoding="utf-8").partition("=====\n")
    result = checked(given, furnish(tmp_path))
    assert (result.exit_code, result.output) == (2, told.replace("authproxy.yaml:", f"{tmp_path}/authproxy.yaml:"))
    assert re.findall(r"(?m)^authproxy\.yaml:[0-9]+: (\w+): ", told) == list(EXPECTED)
    served = {name: section for name, section in yaml.safe_load(given).items() if name not in EXPECTED}
    result = checked(yaml.safe_dump(served, sort_keys=False, allow_unicode=True), tmp_path)
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/authproxy.yaml: the settings are good\n")


def missing(whole: Any, found: Any, place: str = "") -> list[str]:
    """Where ``found`` does not say what ``whole`` says."""
    if isinstance(whole, dict) and isinstance(found, dict):
        return [gone for key in whole for gone in missing(whole[key], found.get(key), f"{place}.{key}")]
    return [] if whole == found else [place]


def test_the_annotated_example_says_all_of_it() -> None:
    """What ``config/complete.yaml`` adds are keys alone."""
    given = yaml.safe_load(WHOLE.read_text(encoding="utf-8").partition("=====\n")[0])
    assert missing(given, yaml.safe_load((CONFIG / "complete.yaml").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_the_other_ways_to_redis_parse(kind: str, tmp_path: Path) -> None:
    """The commented alternatives of ``store.redis`` hold."""
    (tmp_path / "redis-secret").write_text("x")
    active = re.sub(r"(?m)^  redis: .*$", "", COMPLETE)
    text = active.replace(f"# redis: {{{kind}", f"redis: {{{kind}").replace("{file: …}", "{file: redis-secret}")
    assert problems_of(text, tmp_path) == unserved(*EXPECTED)


def test_service_accounts_need_no_issuer(tmp_path: Path) -> None:
    """The commented issuer of the cluster itself holds."""
    text = COMPLETE.replace("  # kubernetes: {kub", "  kubernetes: {kub")
    assert text != COMPLETE
    assert problems_of(text, tmp_path) == unserved(*EXPECTED)


@pytest.mark.parametrize("name", ["minimal", "sidecar", "ingress", "resourceset", "connectors"])
def test_an_example_loads_without_a_word(name: str, tmp_path: Path) -> None:
    """Every other example is served as it is."""
    file = furnish(tmp_path) / f"{name}.yaml"
    file.write_text((CONFIG / f"{name}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert inspect(file, ENVIRON) == []
    assert load(file, ENVIRON).settings.apps


def test_the_complete_example_names_every_key() -> None:
    """A key of the schema stands in the example, if only in a comment."""
    words = set(re.findall(r"[a-z_]+", COMPLETE))
    keys = {re.split(r"[.\]]", path)[-1] for path in places.every()}
    assert keys - words == set()
