"""The floor plan of the house as a test: imports point down, and each foreign library is known to one room.

The tables below are the drawing.  A module that is in none of them fails: decide where it lives before it is built.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

HOUSE: Final = Path(__file__).parent.parent / "authproxy"

OUTSIDE: Final = 99
"""The floor of what stands beside the house: it may look in, and only the front desk may call it."""

FLOORS: Final[dict[str, int]] = {
    "cli": 12,
    "__main__": 12,
    "administration": 11,  # asks a running proxy through its admin listener, for a terminal
    "reloading": 11,  # when the settings are read again
    "workers": 11,  # several processes, and the one that looks after them
    "changes": 0,
    "app": 10,
    "graph": 9,  # everything that one reading of the settings makes
    "lasting": 8,  # what goes on when the settings change
    "pipeline": 8,
    "enrolling": 8,  # puts the rooms of enrollment together
    "startup": 8,  # what the workshop waits for
    "connect": 8,  # what `check --connect` tries
    "explain": 8,  # the life of a request, told instead of carried out
    "assumed": 8,  # whom `explain` assumes to ask
    "edge": 7,
    "portal": 7,
    "admin": 7,
    "enrollment.routes": 7,
    "authn": 6,
    "signin": 5,
    "oidc": 4,
    "sessions": 4,
    "throttle": 4,
    "enrollment": 4,
    "body": 4,  # of a request to one of our pages
    "store": 3,
    "upstream": 3,
    "routing": 2,
    "authz": 2,
    "mutate": 2,
    "edge.request_info": 2,
    "http1": 1,  # heads and chunks as octets
    "edge.origin": 2,
    "kube.kubeconfig": 2,
    "edge.path": 1,  # the grammar of paths, hosts and addresses, which deciding is written in
    "edge.host": 1,
    "edge.hops": 1,
    "settings": 1,
    "observe": 1,
    "jose": 0,
    "transport": 0,
    "ongoing": 0,
    "model": 0,
    "exchange": 1,  # what the wire, the pipeline and the upstreams call each other by
    "errors": -1,
    "": 0,  # the package itself: its version
    "demo": OUTSIDE,
    "kube.credential": OUTSIDE,
}
"""Module or room -> floor; the longest name that fits decides."""

LIBRARIES: Final[dict[str, set[str]]] = {
    "redis": {"store"},
    "hiredis": {"store"},
    "jwt": {"jose", "demo"},
    "jwcrypto": {"jose", "demo"},
    "yaml": {"settings"},
    "pydantic": {"settings"},
    "cryptography": {"sessions", "jose", "settings", "demo"},  # sealing; key types and sizes; dates of certificates
    "bcrypt": {"authn"},
    "httptools": {"http1"},
    "jinja2": {"portal", "demo"},
    "prometheus_client": {"observe"},
    "click": {"cli", "administration"},
}
"""One library, one room."""

PURE: Final = frozenset(
    {
        "routing",
        "authz",
        "mutate",
        "edge.request_info",
        "edge.origin",
        "edge.path",
        "edge.host",
        "http1.chunks",
        "http1.heads",
        "http1.storing",
        "http1.upgrading",
        "edge.hops",
        "kube.kubeconfig",
    }
)
"""Rooms that decide: synchronous functions of values."""

IMPURE: Final = frozenset(
    {
        "asyncio",
        "threading",
        "time",
        "datetime",
        "random",
        "secrets",
        "socket",
        "os",
        "pathlib",
        "subprocess",
        "aiohttp",
    }
)
"""No I/O, no clock, no chance: what a pure room does not import."""

STANDARD_LIBRARY_ALONE: Final = frozenset({"model", "errors"})

EMPTY_WORDS: Final = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "handler", "misc"})

LONGEST_FUNCTION: Final = 60
LONGEST_FILE: Final = 400


class Module(NamedTuple):
    """One source file, parsed."""

    name: str  # "edge.answer"; "" for the package itself
    source: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Modules of one room may know each other."""
        return self.name.partition(".")[0]


@cache
def modules(house: Path) -> tuple[Module, ...]:
    """Every module under ``house``, parsed once for all rules."""
    found = []
    for file in sorted(house.rglob("*.py")):
        parts = file.relative_to(house).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = file.read_text(encoding="utf-8")
        found.append(Module(name, source, ast.parse(source)))
    return tuple(found)


def floor_of(name: str) -> int | None:
    """The floor of a module, None when the drawing does not show it."""
    while name not in FLOORS and "." in name:
        name = name.rpartition(".")[0]
    return FLOORS.get(name)


def imports(module: Module, names: frozenset[str]) -> Iterator[str]:
    """Full names of what ``module`` imports, anywhere in it: under TYPE_CHECKING and inside functions, too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("authproxy.") in names else node.module


def inside(imported: str) -> str | None:
    """The module of the house that is meant, None for a foreign one."""
    return imported.partition(".")[2] if imported.split(".")[0] == "authproxy" else None


def points_down(module: Module, target: str) -> str:
    """What is wrong with ``module`` importing ``target``; empty when nothing is."""
    here, there = floor_of(module.name), floor_of(target)
    if here is None or there is None:
        return ""  # a module without a floor is reported once, by ``floors``
    same_room = module.room == target.partition(".")[0]
    if there == OUTSIDE and not same_room:
        return "" if module.name == "cli" else "which stands outside the house"
    if there > here:
        return f"which is up, from floor {here} to {there}"
    if there == here and not same_room:
        return f"which is sideways, on floor {here}"
    return ""


def floors(module: Module, names: frozenset[str]) -> Iterator[str]:
    """Imports point down only, never sideways between rooms or up."""
    if floor_of(module.name) is None:
        yield "has no floor"
    for imported in imports(module, names):
        target = inside(imported)
        if target is not None and (wrong := points_down(module, target)):
            yield f"imports {target}, {wrong}"


def libraries(module: Module, names: frozenset[str]) -> Iterator[str]:
    """One library, one room; the vocabulary knows the standard library alone; pure rooms do nothing."""
    for imported in imports(module, names):
        top = imported.partition(".")[0]
        if top in LIBRARIES and module.room not in LIBRARIES[top]:
            yield f"imports {top}, which {' and '.join(sorted(LIBRARIES[top]))} alone may"
        if module.name in STANDARD_LIBRARY_ALONE and top not in sys.stdlib_module_names:
            yield f"imports {imported}, and may import the standard library alone"
        if module.name in PURE and top in IMPURE:
            yield f"imports {top}, and is pure"


def purity(module: Module, names: frozenset[str]) -> Iterator[str]:
    """Pure rooms never wait."""
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    if module.name in PURE and any(isinstance(node, waits) for node in ast.walk(module.tree)):
        yield "waits, and is pure"


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace(".", "_").split("_"))


def naming(module: Module, names: frozenset[str]) -> Iterator[str]:
    """Modules and classes are named for what they are."""
    classes = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    for name in [module.name, *classes]:
        for word in sorted(words(name) & EMPTY_WORDS):
            yield f"{name} is named {word}, which says nothing"


def reading(module: Module, names: frozenset[str]) -> Iterator[str]:
    """Every module says what it knows, and is read in one sitting."""
    if module.source.strip() and ast.get_docstring(module.tree) is None:
        yield "has no docstring"
    length = module.source.count("\n")
    if length > LONGEST_FILE:
        yield f"has {length} lines, more than {LONGEST_FILE}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{node.name} has {length} lines, more than {LONGEST_FUNCTION}"


Rule = Callable[[Module, frozenset[str]], Iterator[str]]
RULES: Final[tuple[Rule, ...]] = (floors, libraries, purity, naming, reading)


def files_of(names: frozenset[str]) -> set[str]:
    """The files of those modules that are built."""
    paths = {f"authproxy/{name.replace('.', '/')}.py" for name in names}
    return {path for path in paths if (HOUSE.parent / path).is_file()}


def violations(house: Path, *rules: Rule) -> list[str]:
    """Everything in ``house`` that breaks one of ``rules``."""
    all_modules = modules(house)
    names = frozenset(module.name for module in all_modules)
    return [
        f"{module.name or '__init__'}: {broken}"
        for module in all_modules
        for rule in rules
        for broken in rule(module, names)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_built_as_drawn(rule: Rule) -> None:
    """No module of the house breaks a rule of the drawing."""
    assert violations(HOUSE, rule) == []


def test_every_pure_room_is_behind_the_coverage_gate() -> None:
    """What decides is listed in the Makefile's PURE, which asks for every branch."""
    makefile = (HOUSE.parent / "Makefile").read_text(encoding="utf-8")
    gate = set(re.findall(r"authproxy/\S+\.py", makefile))
    assert gate == files_of(PURE | STANDARD_LIBRARY_ALONE)


def test_the_house_is_found() -> None:
    """The rules are applied to something: the vocabulary at least is there."""
    assert {"model", "errors"} <= {module.name for module in modules(HOUSE)}


DOC = '"""A room."""\n'
OFFENCES: Final[dict[str, tuple[str, str, str]]] = {
    "up": ("routing", DOC + "from authproxy.pipeline import serve\n", "routing: imports pipeline, which is up"),
    "up inside a room": ("edge/path", DOC + "from authproxy.edge import answer\n", "imports edge.answer, which is up"),
    "sideways": ("store/redis", DOC + "import authproxy.upstream.pool\n", "imports upstream.pool, which is sideways"),
    "sideways between the pure": ("mutate", DOC + "from authproxy import routing\n", "imports routing, which is side"),
    "only for types": (
        "oidc/grants",
        DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from authproxy.signin.login import Login\n",
        "imports signin.login, which is up",
    ),
    "inside a function": ("authz", DOC + "def f():\n    import authproxy.app\n", "imports app, which is up"),
    "the demo": ("app", DOC + "import authproxy.demo.provider\n", "which stands outside the house"),
    "no floor": ("cellar", DOC, "cellar: has no floor"),
    "vocabulary": ("model", DOC + "import yarl\n", "model: imports yarl, and may import the standard library alone"),
    "redis": ("sessions/vault", DOC + "from redis.asyncio import Redis\n", "imports redis, which store alone may"),
    "jwt": ("authn/bearer", DOC + "import jwt\n", "imports jwt, which demo and jose alone may"),
    "yaml": ("cli", DOC + "import yaml\n", "imports yaml, which settings alone may"),
    "clock": ("routing", DOC + "import time\n", "routing: imports time, and is pure"),
    "await": ("authz", DOC + "async def f():\n    pass\n", "authz: waits, and is pure"),
    "empty name": ("store/redis_utils", DOC, "store.redis_utils is named utils, which says nothing"),
    "empty class": ("app", DOC + "class SessionManager:\n    pass\n", "SessionManager is named manager"),
    "silent": ("app", "x = 1\n", "app: has no docstring"),
    "long file": ("app", DOC + "x = 1\n" * 400, "app: has 401 lines, more than 400"),
    "long function": ("app", DOC + "def f():\n" + "    x = 1\n" * 60, "app: f has 61 lines, more than 60"),
}


def build(house: Path, name: str, source: str) -> None:
    """A small house that is in order, and one more file in it."""
    rooms = ("pipeline", "routing", "edge/answer", "jose/keys", "signin/login", "app", "demo/provider")
    for room in rooms:
        file = house / f"{room}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(DOC, encoding="utf-8")
    file = house / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")


@pytest.mark.parametrize(("name", "source", "expected"), OFFENCES.values(), ids=OFFENCES.keys())
def test_an_offence_is_seen(tmp_path: Path, name: str, source: str, expected: str) -> None:
    """Each rule goes red: a tree with one offence is reported for it, and for nothing else."""
    build(tmp_path, name, source)
    found = violations(tmp_path, *RULES)
    assert len(found) == 1, found
    assert expected in found[0]


def test_what_the_drawing_allows_is_allowed(tmp_path: Path) -> None:
    """Down, inside a room, from the front desk to the demo, and from the demo into the house: nothing is reported."""
    build(tmp_path, "edge/answer", DOC + "import authproxy.routing\nfrom authproxy.edge import connection\n")
    build(tmp_path, "edge/connection", DOC + "from authproxy import __version__\n")
    build(tmp_path, "cli", DOC + "from authproxy.demo import provider\nimport click\n")
    build(tmp_path, "demo/site", DOC + "import jwt\nfrom authproxy.app import App\nimport authproxy.demo.provider\n")
    assert violations(tmp_path, *RULES) == []
