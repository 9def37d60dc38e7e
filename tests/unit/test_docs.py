"""The documents tell the truth: what they show loads, what they link is there, what they list is what the code has."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from authproxy import errors
from authproxy.cli import main
from authproxy.observe.metrics import Metrics
from authproxy.settings.load import inspect
from authproxy.settings.unserved import UNSERVED
from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.ingress_pages import PAGES, IngressPage
from tests.unit.settings.standins import ENVIRON, furnish, settled

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE: Final = ROOT / "docs" / "reference"

# --- settings ---

DOUBTS: Final = {"docs/how-to/password-sign-in.md": ["providers.dex.password_login"]}
"""The warnings that a page shows on purpose."""


class Block(NamedTuple):
    """A fenced block: the page, the line of its fence, what is written behind the fence, and the text."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    """Every block of ``language`` in the documents; "" for blocks that say none."""
    found = []
    for file in DOCS:
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(r"(?ms)^[ ]*```(\w*)([^\n]*)\n(.*?)^[ ]*```$", text):
            line = text.count("\n", 0, match.start()) + 1
            if match[1] == language:
                found.append(Block(str(file.relative_to(ROOT)), line, match[2].strip(), match[3]))
    return found


def named(block: Block) -> str:
    """How pytest calls a block."""
    return str(block)


WHOLE: Final = [block for block in blocks("yaml") if not block.kind]
FRAGMENTS: Final = [block for block in blocks("yaml") if block.kind == "fragment"]


def complaints(text: str, folder: Path) -> list[str]:
    """What ``check`` says about ``text`` when all files and variables are there."""
    file = furnish(folder) / "authproxy.yaml"
    file.write_text(settled(text), encoding="utf-8")
    return [f"{problem.path}: {problem.message}" for problem in inspect(file, ENVIRON)]


@pytest.mark.parametrize("block", WHOLE, ids=named)
def test_settings_can_be_served(block: Block, tmp_path: Path) -> None:
    """A settings file that a page shows is served by this version, without a doubt but those that the page names."""
    assert [said.partition(":")[0] for said in complaints(block.text, tmp_path)] == DOUBTS.get(block.page, [])


@pytest.mark.parametrize("block", FRAGMENTS, ids=named)
def test_fragments_fit(block: Block, tmp_path: Path) -> None:
    """A fragment fits into the settings file that its page shows, or else into the one of the README."""
    homes = [whole for whole in WHOLE if whole.page == block.page] or [w for w in WHOLE if w.page == "README.md"]
    merged = merge(yaml.safe_load(homes[0].text), yaml.safe_load(block.text))
    assert [said for said in complaints(yaml.safe_dump(merged), tmp_path) if "is never used" not in said] == []


def merge(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``, key by key."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merge(below.get(key), value) for key, value in above.items()}}


def test_the_readme_needs_ten_lines() -> None:
    """The configuration of the README has the ten lines that it promises."""
    (block,) = [block for block in WHOLE if block.page == "README.md"]
    assert len(block.text.splitlines()) == 10


def test_every_block_says_what_it_is() -> None:
    """A YAML block is a settings file, a fragment of one, or marked as something else that we know."""
    assert {block.kind for block in blocks("yaml")} <= {"", "fragment", "kubernetes", "dex", "prometheus"}


# --- links ---


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    """Every link of the documents that stays inside the project."""
    for file in DOCS:
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                yield file, target


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    """What a page links to is there, and so is the heading."""
    for page, target in links():
        if page != file:
            continue
        place, _, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_are_named_are_there(file: Path) -> None:
    """A path of the project that stands in a page exists."""
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|authproxy|docs|config|deploy|requirements)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_page_is_found() -> None:
    """Each page of docs/ can be reached from its index."""
    index = ROOT / "docs" / "index.md"
    reached = {(page.parent / target.partition("#")[0]).resolve() for page, target in links() if page == index}
    assert {file for file in DOCS if file.is_relative_to(ROOT / "docs")} - {index} <= reached


# --- what there is, and what not ---

MISSING: Final = {
    "kubernetes": "kubeconfig",
    "workspaces": "workspaces",
}  # fmt: skip
"""How the README calls what the settings know and this version does not serve."""


def test_what_is_missing_is_said() -> None:
    """The README names, in one place, everything that the settings know and this version refuses; and nothing else."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## What is not here yet\n")[1].split("\n## ")[0]
    assert {path[-1] for path in UNSERVED} == set(MISSING)
    assert [words for words in MISSING.values() if words not in section] == []


def typed(command: str) -> set[str]:
    """The words that follow ``command`` where the pages show what to type."""
    code = [block.text for block in blocks("")]
    for file in DOCS:
        code += re.findall(r"`([^`\n]+)`", file.read_text(encoding="utf-8"))
    return {word for piece in code for word in re.findall(rf"(?m)^{command} ([a-z]+(?:-[a-z]+)*)\b", piece)}


def test_commands_are_there() -> None:
    """Every command that a page tells people to type exists, and the main ones are shown."""
    assert {"serve", "check", "key"} <= typed("authproxy") <= set(main.commands)
    targets = re.findall(r"(?m)^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert {"demo", "test"} <= typed("make") <= set(targets)


# --- refusals ---


class Raised(NamedTuple):
    """A refusal in the code."""

    code: str
    status: int


PASSED_ON: Final = {
    ("routing.py", "missing.code"): {Raised("no_app", 404), Raised("no_route", 404), Raised("method_not_allowed", 405)},
    ("login.py", "wrong.code"): {Raised("issuer_mismatch", 400)},
}
"""Codes that are made elsewhere than where the refusal is raised."""


def refusal_kinds(kind: type[errors.Refusal] = errors.Refusal) -> Iterator[type[errors.Refusal]]:
    """Every kind of refusal."""
    yield kind
    for sub in kind.__subclasses__():
        yield from refusal_kinds(sub)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a plain name or of a method, with that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, node


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Every module of the house; the demo stands outside."""
    for file in sorted((ROOT / "authproxy").rglob("*.py")):
        if "demo" not in file.parts:
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def raised() -> set[Raised]:
    """Every refusal that the code raises: code and status."""
    statuses = {kind.__name__: kind.status for kind in refusal_kinds()}
    found = {Raised("too_many_attempts", errors.TooManyAttempts.status)}  # its own constructor says the code
    for file, tree in sources():
        for name, call in calls(tree):
            if name in statuses and name != "TooManyAttempts" and call.args:
                found |= _codes(file, call.args[0], statuses[name])
    return found


def _codes(file: Path, code: ast.expr, status: int) -> set[Raised]:
    if isinstance(code, ast.Constant):
        return {Raised(str(code.value), status)}
    return {one for one in PASSED_ON[(file.name, ast.unparse(code))] if one.status == status}


def rows(page: str, heading: str = "") -> list[list[str]]:
    """The cells of the tables of a page of the reference, below ``heading`` if one is given; header rows left out."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"(?m)^## ", text.split(f"## {heading}\n")[1])[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_refusal_is_explained() -> None:
    """The reference has every code with its status, and none that nobody raises."""
    told = {
        Raised(code, int(status))
        for cells in rows("errors.md", "Codes")
        for code in names(cells[0])
        for status in cells[1].split(", ")
    }
    assert told == raised()


# --- metrics and audit ---


def test_every_metric_is_explained() -> None:
    """The reference has every metric with its kind and its labels, and none that is not exposed."""
    metrics = Metrics()
    exposed: dict[str, str] = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", metrics.text().decode()))
    told = {names(cells[0])[0]: cells[1] for cells in rows("metrics.md")}
    assert told == {name: kind for name, kind in exposed.items() if not name.endswith("_created")}
    metrics.exchange(app="a", status=200, seconds=0.1, code="")
    labels = {}
    for one in metrics._registry._collector_to_names:
        if hasattr(one, "_labelnames"):
            labels[one._name] = list(one._labelnames)  # type: ignore[attr-defined]
            continue
        for family in one.collect():
            labels[family.name] = [name for name in family.samples[0].labels if name != "le"]
    assert {names(cells[0])[0].removesuffix("_total"): names(cells[2]) for cells in rows("metrics.md")} == labels


def recorded() -> tuple[set[str], set[str]]:
    """The events and the fields of the audit trail, from the calls that write it."""
    events, fields = set(), {"time", "event"}
    for _, tree in sources():
        for name, call in calls(tree):
            if name == "record" and isinstance(call.func, ast.Attribute) and "audit" in ast.unparse(call.func):
                fields |= {keyword.arg for keyword in call.keywords if keyword.arg}
                events |= {str(arg.value) for arg in call.args[:1] if isinstance(arg, ast.Constant)}
            if name in ("_note", "_attempt"):
                events |= {str(arg.value) for arg in call.args[1:2] if isinstance(arg, ast.Constant)}
    return events, fields


def test_the_alerts_are_rules_of_prometheus(tmp_path: Path) -> None:
    """Prometheus reads the rules as the page prints them, and they name metrics that are exposed."""
    (block,) = [block for block in blocks("yaml") if block.kind == "prometheus"]
    file = tmp_path / "rules.yaml"
    file.write_text(block.text, encoding="utf-8")
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    exposed = Metrics().text().decode()
    for metric in re.findall(r"authproxy_\w+", block.text):
        assert f"# TYPE {metric} " in exposed, metric


def test_every_audit_record_is_explained() -> None:
    """The reference has every event and every field of the audit trail, and no other."""
    events, fields = recorded()
    assert {"exchange", "sign_in", "sign_out", "backchannel_logout"} <= events
    assert {names(cells[0])[0] for cells in rows("audit.md", "Events")} == events
    assert {names(cells[0])[0] for cells in rows("audit.md", "Fields")} == fields


# --- endpoints ---


def served() -> set[tuple[str, str]]:
    """Method and path of every page of ours, from the table that makes them routes."""
    tree = ast.parse((ROOT / "authproxy" / "portal" / "routes.py").read_text(encoding="utf-8"))
    tuples = [node for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 3]
    pairs = [[e.value for e in node.elts[:2] if isinstance(e, ast.Constant)] for node in tuples]
    return {(str(p[0]), str(p[1])) for p in pairs if len(p) == 2 and str(p[1]).startswith("/")}


def told_endpoints(heading: str) -> set[tuple[str, str]]:
    """Method and path of what the reference lists below ``heading``."""
    listed = [(names(cells[0])[0], cells[1]) for cells in rows("endpoints.md", heading)]
    return {(method, path) for path, methods in listed if path.startswith("/") for method in methods.split(", ")}


def test_every_endpoint_is_explained() -> None:
    """The reference has every page of ours with its methods, and no other."""
    assert told_endpoints("Pages") == served()
    enrollment = (ROOT / "authproxy" / "enrollment" / "routes.py").read_text(encoding="utf-8")
    made = {(how.upper(), path) for how, path in re.findall(r'add_(\w+)\(f"\{prefix\}([^"]+)"', enrollment)}
    assert told_endpoints("Machines") == made
    assert {path for _, path in told_endpoints("Decisions for an ingress")} == {"/auth"}
    files = sorted((ROOT / "authproxy" / "admin").glob("*.py"))
    admin = {
        (how.upper(), path)
        for file in files
        for how, path in re.findall(r'router\.add_(\w+)\("([^"]+)"', file.read_text(encoding="utf-8"))
    }
    assert {("GET", "/healthz"), ("POST", "/enrollment/revoke")} <= admin
    assert told_endpoints("Admin listener") == admin


# --- ingresses: tests/hostile/test_ingress_pages.py and tests/stories/test_ingress_pages.py run the blocks ---


def shows_an_ingress(file: Path) -> bool:
    """Whether a document has the configuration of an ingress in it."""
    nginx = r"^[#\s]*(auth_request|proxy_set_header|grpc_set_header) [/\w]"
    others = r"^[#\s]*forward_auth [\w:./*@-]+ \{|forwardAuth:|lua\.auth-"
    words = f"{nginx}|{others}"
    return re.search(words, file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_ingress_block_is_run() -> None:
    """No document shows an ingress that the table of pages does not have."""
    folders = [ROOT.glob("*.md"), *(ROOT.glob(f"{folder}/**/*") for folder in ("docs", "config", "deploy"))]
    texts = [file for files in folders for file in files if file.suffix in (".md", ".yaml", ".yml", ".conf")]
    found = {str(file.relative_to(ROOT)) for file in texts if shows_an_ingress(file)}
    assert found == {page.file for page in PAGES}


@pytest.mark.parametrize("page", [page for page in PAGES if page.program == "nginx"], ids=str)
def test_no_ingress_takes_a_name_from_the_client(page: IngressPage) -> None:
    """Names are written out, a fact has a header of its own, and the default server stands before the others."""
    code = re.sub(r"#.*", "", page.block)
    assert re.findall(r"\$(?:http_)?host\b|\$scheme:", code) == []
    assert code.index("default_server") < code.index("server_name")


def test_trusted_proxies_are_placeholders() -> None:
    """No example trusts a network that has clients in it; all name one that is reserved for documents (RFC 5737)."""
    folders = [ROOT.glob("*.md"), *(ROOT.glob(f"{folder}/**/*") for folder in ("docs", "config", "deploy"))]
    texts = [file for files in folders for file in files if file.suffix in (".md", ".yaml")]
    named = [
        (str(file.relative_to(ROOT)), network)
        for file in texts
        for shown in re.findall(r"(?:trusted_proxies|networks): \[([^\]]*)\][^\n]*", file.read_text(encoding="utf-8"))
        for network in shown.split(",")
    ]
    of_rules = {"10.1.0.0/16"}  # which are about clients
    assert {network.strip() for _, network in named} - of_rules - {"…"} == {"192.0.2.0/28"}
