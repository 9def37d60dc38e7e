"""The locks are complete, install alone, and install with the pip that a new virtual environment brings.

``.ci/run`` proves it with the real locks: it starts from nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.peers.package_index import Wheel, package_index

ROOT: Final = Path(__file__).parent.parent.parent
INSTALLS: Final = re.compile(
    r"\bpip3?\b[^\n]*\binstall\b|\$\{pip\[@\]\}|\bnpm (?:ci|install)\b|\buv pip (?:sync|install)\b"
)
FORMATS: Final = frozenset({"", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"})

MACHINES: Final[dict[str, dict[str, str]]] = {
    f"{system} {python}": {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        "os_name": "nt" if system == "win32" else "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    for system, python in [
        ("linux", "3.11.0"),
        ("linux", "3.11.9"),
        ("linux", "3.14.0"),
        ("darwin", "3.12.1"),
        ("win32", "3.13.0"),
    ]
}
"""Markers are evaluated for each: a lock is complete for every machine that it is for, not only for this one."""


def locked(text: str) -> dict[str, Requirement]:
    """The entries of a lock by name."""
    lines = re.findall(r"^([a-z0-9][^\s\\]*==[^\\\n]*?)\s*\\?$", text, re.MULTILINE)
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def roots(*groups: str) -> list[str]:
    """What a lock starts from: the entries of pyproject.toml, as requirements/lock reads them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"], "editables"]
    return lines + [line for group in groups for line in project["dependency-groups"][group]]


def holds(marker: Marker | None, machine: dict[str, str], extras: set[str]) -> bool:
    """Whether a requirement applies on a machine, for one of these extras."""
    environment = {**{name: str(value) for name, value in default_environment().items()}, **machine}
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in extras or {""})


def needed_by(name: str) -> list[Requirement]:
    """What an installed distribution requires; nothing for one that this machine does not install."""
    try:
        return [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []


def missing(lock: dict[str, Requirement], start: list[str], machine: dict[str, str]) -> set[str]:
    """What an installation without dependency resolution lacks: requirements that no entry of the lock meets."""
    lacking: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_: list[tuple[Requirement, set[str]]] = [(Requirement(line), set()) for line in start]
    while open_:
        wanted, extras = open_.pop()
        if not holds(wanted.marker, machine, extras) or (key := (str(wanted), str(sorted(extras)))) in seen:
            continue
        seen.add(key)
        entry = lock.get(canonicalize_name(wanted.name))
        if entry is None or not holds(entry.marker, machine, set()):
            lacking.add(str(wanted))
            continue
        (pin,) = entry.specifier
        if not wanted.specifier.contains(pin.version, prereleases=True):
            lacking.add(f"{wanted}, locked at {pin.version}")
        open_ += [(one, set(wanted.extras)) for one in needed_by(wanted.name)]
    return lacking


LOCKS: Final[dict[str, tuple[str, ...]]] = {"run": (), "dev": ("dev",)}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
@pytest.mark.parametrize(("name", "groups"), LOCKS.items(), ids=LOCKS.keys())
def test_a_lock_is_complete(name: str, groups: tuple[str, ...], machine: dict[str, str]) -> None:
    """Installed with ``--no-deps``, it brings every requirement of every package in it, on every supported machine."""
    lock = locked((ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))
    assert missing(lock, roots(*groups), machine) == set()


@pytest.mark.parametrize("absent", ["multidict", "coverage", "editables", "async-timeout"])
def test_an_entry_that_is_absent_is_seen(absent: str) -> None:
    """Direct, transitive, of the build, or of one Python alone: the completeness test names it."""
    lock = locked((ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"))
    lock.pop(absent)
    found = missing(lock, roots("dev"), MACHINES["linux 3.11.0"])
    assert {canonicalize_name(Requirement(line).name) for line in found} == {absent}


def test_the_tool_that_writes_the_locks_is_locked() -> None:
    """``make lock`` runs the same release everywhere, and its file needs nothing else."""
    lock = locked((ROOT / "requirements" / "uv.txt").read_text(encoding="utf-8"))
    assert list(lock) == ["uv"]
    assert "requirements/uv.txt" in (ROOT / "requirements" / "lock").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, str]]:
    """Every line of the project that installs packages, with its file."""
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [one for one in inner if one == ".ci" or (not one.startswith(".") and one != "node_modules")]
        for file in (Path(folder, name) for name in names):
            if file.suffix in FORMATS and file.name != Path(__file__).name:
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                    if INSTALLS.search(line) and "apt-get" not in line:
                        yield file.relative_to(ROOT).as_posix(), line.strip()


def test_every_installation_takes_what_is_locked() -> None:
    """Scripts, image, documents: pip resolves no dependency, and takes pinned releases by hash, or what lies here."""
    found = list(commands())
    expected = {"requirements/venv", "requirements/machine", "requirements/lock", "deploy/Dockerfile"}
    assert {name for name, _ in found} >= expected
    for name, line in found:
        if "npm" in line:
            assert "npm ci" in line, (name, line)
        elif not re.search(r"pip=\(", line):  # the options that all calls of a script share
            assert "--no-deps" in line, (name, line)
            assert re.search(r"--require-hashes -r |--no-build-isolation |==\d", line), (name, line)


BACKEND: Final = """
import pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "sample-0.1-py3-none-any.whl"
    files = {
        "sample.py": "",
        "sample-0.1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: sample\\nVersion: 0.1\\n",
        "sample-0.1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "sample-0.1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return name
"""
PROJECT: Final = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


class Checkout:
    """A small project with the real ``requirements/venv``, and a virtual environment with the bundled pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "requirements").mkdir()
        shutil.copy(ROOT / "requirements" / "venv", folder / "requirements" / "venv")
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "backend.py").write_text(BACKEND)

    def install(self, lock: str, index: str) -> subprocess.CompletedProcess[str]:
        """Run ``requirements/venv run`` for this lock against this index."""
        (self.folder / "requirements" / "run.txt").write_text(lock)
        outside = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PIP_", "HTTP"))}
        mine = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index,
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
            "PYTHON": str(getattr(sys, "_base_executable", sys.executable)),
        }
        return subprocess.run(
            ["bash", str(self.folder / "requirements" / "venv"), "run"],
            env={**outside, **mine, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def version(self, module: str) -> str:
        """The release of a module that is installed."""
        words = [".venv/bin/python", "-c", f"import {module}; print({module}.VERSION)"]
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One checkout for all: making a virtual environment takes seconds."""
    return Checkout(tmp_path_factory.mktemp("checkout"))


def test_a_lock_installs_when_newer_releases_exist(checkout: Checkout) -> None:
    """A package needs an extra of another one, which has a newer release: the locked release is installed.

    In hash mode pip 23 (Python 3.11) does not apply the pin of ``measure`` to ``measure[toml]`` and takes the newest.
    """
    old = Wheel("measure", "1.0", "Provides-Extra: toml\n")
    new = Wheel("measure", "2.0", "Provides-Extra: toml\n")
    user = Wheel("measure-plugin", "1.0", "Requires-Dist: measure[toml] >=1.0\n")
    with package_index(old, new, user, Wheel("measure-plugin", "3.0")) as index:
        done = checkout.install(user.pin() + old.pin(), index.url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert checkout.version("measure") == "1.0"
    assert set(index.requested) == {"measure", "measure-plugin"}


def test_a_lock_that_lacks_a_package_is_refused(checkout: Checkout) -> None:
    """The installation fails and names the package that is missing, also the next time."""
    user = Wheel("lonely", "1.0", "Requires-Dist: absent-friend >=1\n")
    with package_index(user, Wheel("absent-friend", "1.0")) as index:
        for _ in range(2):
            done = checkout.install(user.pin(), index.url)
            assert done.returncode != 0
            assert "lonely 1.0 requires absent-friend" in done.stderr
            assert "make lock" in done.stderr
        assert set(index.requested) == {"lonely"}


CI_MAKE: Final = """#!/bin/sh
{
  echo "arguments: $*"
  echo "environment: $CI $PIP_CACHE_DIR $npm_config_cache"
  ls -A "$PIP_CACHE_DIR" "$npm_config_cache"
  ls -d .venv tests/peers/certified/node_modules 2>/dev/null
} >made.txt
exit 7
"""


def test_ci_starts_from_nothing(tmp_path: Path) -> None:
    """Environments of an earlier run are gone, the caches are new and empty, and the result is passed on."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    for name in (".venv/bin/python", "tests/peers/certified/node_modules/.holds", "bin/make"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(CI_MAKE)
        (tmp_path / name).chmod(0o755)
    full = tmp_path / "full"
    full.mkdir()
    (full / "old.whl").touch()
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PIP_CACHE_DIR": str(full)}
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], env=environment, check=False)
    assert done.returncode == 7
    arguments, seen, *rest = (tmp_path / "made.txt").read_text().splitlines()
    assert arguments == "arguments: test"
    ci, pip_cache, npm_cache = seen.removeprefix("environment: ").split()
    assert (ci, pip_cache != str(full)) == ("true", True)
    assert [line for line in rest if line and not line.endswith(":")] == []  # no file in a cache, no environment
    assert not Path(pip_cache).exists()
    assert not Path(npm_cache).exists()
