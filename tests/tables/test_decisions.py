"""The table of decisions, row by row: what ``explain`` says, and what a running proxy decides of real credentials."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import bcrypt
import pytest
import yaml

from authproxy.app import Authproxy
from authproxy.assumed import assumed
from authproxy.edge.request_info import Raw, describe
from authproxy.errors import Refusal
from authproxy.explain import Explanation, explain, raw_request
from authproxy.jose.sign import new_signing_key
from authproxy.model import Headers, Identity, RequestInfo
from authproxy.pipeline import Permit
from authproxy.settings.load import Loaded, from_mapping, load
from tests.hostile.harness import StrictBrowser
from tests.peers.openid_grants import Person
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import free_port
from tests.peers.self_signed import self_signed

TABLE: Final[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("decisions.yaml").read_text(encoding="utf-8"))
WHO: Final[dict[str, dict[str, Any]]] = TABLE["who"]
HOMES: Final = {"company": "dashboard.corp.test", "partner": "partners.corp.test"}


class Row(NamedTuple):
    """One question and its answer."""

    heading: str
    method: str
    url: str
    who: str
    outcome: str
    why: str
    client: str
    headers: list[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.heading}: {self.method} {self.url} by {self.who} from {self.client} {self.headers or ''}"

    @property
    def kind(self) -> str:
        """The credential kind of the caller; "" for nobody."""
        return "" if self.who == "nobody" else str(WHO[self.who]["as"]).partition(":")[0]


def _row(table: Mapping[str, Any], cells: list[Any]) -> Row:
    asked, who, outcome, why, *rest = cells
    extra = rest[0] if rest else {}
    method, _, target = asked.partition(" ")
    headers = list(extra.get("headers", {}).items())
    url = f"http://{table['host']}{target}"
    return Row(table["heading"], method, url, who, outcome, why, extra.get("client", "127.0.0.1"), headers)


ROWS: Final = [_row(table, cells) for table in TABLE["tables"] for cells in table["rows"]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The settings of the table, as ``explain`` reads them."""
    file = tmp_path_factory.mktemp("decisions") / "authproxy.yaml"
    file.write_text(yaml.safe_dump(TABLE["settings"], sort_keys=False), encoding="utf-8")
    return load(file, {}, to_serve=False)


def identity_of(loaded: Loaded, row: Row) -> Identity | None:
    """Who asks, as ``explain`` assumes it."""
    if row.who == "nobody":
        return None
    who = WHO[row.who]
    return assumed(loaded.settings, who["as"], who.get("claims", {}))


def explained(loaded: Loaded, row: Row) -> Explanation:
    """What ``explain`` says about a row."""
    identity = identity_of(loaded, row)
    return explain(loaded, row.method, row.url, identity=identity, headers=row.headers, client=row.client)


def outcome_of(found: Explanation) -> str:
    """In the words of the table."""
    return "allowed" if found.allowed else f"{found.status} {found.code}"


def deciding(found: Explanation) -> str:
    """The reason of the step that decided."""
    steps = {step.name: step for step in found.steps}
    refused = [step for step in found.steps if step.verdict == "refused" and step.name != "answer"]
    return (steps["policy"] if found.allowed else refused[0]).reason


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_explain_says_what_the_table_says(row: Row, loaded: Loaded) -> None:
    """The outcome, and a reason that names what decided; each step past the first stands in a line of the file."""
    found = explained(loaded, row)
    assert outcome_of(found) == row.outcome, found
    assert row.why in deciding(found), found
    assert found.status == (200 if found.allowed else int(row.outcome[:3]))
    assert all(step.line for step in found.steps[1:]), found


# The running proxy


REAL: Final = ("", "session", "token", "bearer", "basic", "certificate", "enrolled", "enrollment")
"""The kinds of credentials that the running proxy is given here; "" for nobody."""


def served(peers: Mapping[str, OpenIDPeer]) -> dict[str, Any]:
    """The settings of the table for this machine, with the sections of ``REAL``."""
    port, written = free_port(), TABLE["settings"]
    whole: dict[str, Any] = {key: value for key, value in written.items() if key not in NOT_HERE}
    return whole | {
        "public_url": f"http://auth.corp.test:{port}",
        "listen": {
            "address": f"127.0.0.1:{port}", "admin": None, "trusted_proxies": written["listen"]["trusted_proxies"],
        },
        "providers": {name: shape | peers[name].settings() for name, shape in written["providers"].items()},
        "basic": _users(),
        "enrollment": written["enrollment"] | {"signing_keys": [{"value": SIGNING_KEY}]},
        "issuers": {name: shape | {"issuer": peers[name].issuer} for name, shape in written["issuers"].items()},
    }  # fmt: skip


SIGNING_KEY: Final = json.dumps(new_signing_key())
NOT_HERE: Final = ("certificates",)
PASSWORD: Final = "the password of everybody here"


def _users() -> dict[str, Any]:
    """Password and group files for those who use Basic, with the cheapest bcrypt."""
    people = {who["as"].removeprefix("basic:"): who for who in WHO.values() if who["as"].startswith("basic:")}
    entry = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    groups = [(group, name) for name, who in people.items() for group in who.get("claims", {}).get("groups", ())]
    return {
        "users": {"value": "\n".join(f"{name}:{entry}" for name in people)},
        "groups": {"value": "\n".join(f"{group}: {name}" for group, name in groups)},
    }


class Running(NamedTuple):
    """A proxy that serves the table, and what its people carry."""

    proxy: Authproxy
    cookies: dict[str, str]
    peers: dict[str, OpenIDPeer]

    async def judge(self, row: Row) -> tuple[str, str]:
        """Outcome and reason of the hall of the house, for the caller's real credential."""
        try:
            info = self._info(row)
            match = self.proxy.graph.routes.match(info)
            decided = self.proxy.graph.pipeline.decide(info, match)
            permit = decided if isinstance(decided, Permit) else await decided
        except Refusal as no:
            return f"{no.status} {no.code}", no.reason
        return "allowed", permit.decision.reason

    def _info(self, row: Row) -> RequestInfo:
        raw = raw_request(row.method, row.url, [*row.headers, *self._credential(row)], row.client)
        raw = raw._replace(certificate=_certificate(row))
        return describe(raw, trusted=self.proxy.graph.trusted, request_id="table", public_scheme="http")

    def _credential(self, row: Row) -> list[tuple[str, str]]:
        if row.kind == "session":
            return [("Cookie", self._cookie(row))]
        name = WHO[row.who]["as"].partition(":")[2] if row.kind else ""
        if row.kind == "bearer":
            return [("Authorization", f"Bearer {self._jwt(row.who, name.partition('/')[0])}")]
        if row.kind == "basic":
            pair = base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()
            return [("Authorization", f"Basic {pair}")]
        if row.kind == "enrolled" and self.proxy.graph.enrolling:
            issued = self.proxy.graph.enrolling.families.begin(name, WHO[row.who]["claims"].get("cluster"))
            return [("Authorization", f"Bearer {issued.credential}")]
        if row.kind in ("token", "enrollment"):
            section = TABLE["settings"] if row.kind == "token" else TABLE["settings"]["enrollment"]
            return [("Authorization", f"Bearer {section['tokens'][name]['secrets'][0]['value']}")]
        return []

    def _cookie(self, row: Row) -> str:
        """The cookie as the browser has it at the host of the row: without a cookie domain each host has its own."""
        cookie = self.proxy.graph.cookie
        provider = WHO[row.who]["as"].partition(":")[2].partition("/")[0]
        ticket = cookie.open(self.cookies[row.who].partition("authproxy=")[2].partition(";")[0], HOMES[provider])
        assert ticket is not None
        here = ticket._replace(host=(urlsplit(row.url).hostname or "").rstrip("."))
        return "; ".join(line.partition(";")[0] for line in cookie.write(here, now=ticket.sealed_at))

    def _jwt(self, who: str, issuer: str) -> str:
        self.peers[issuer].people[who] = Person(who, "", WHO[who]["claims"])
        return self.peers[issuer].id_token(who)


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Running]:
    """A proxy for callers with credentials of ``kind``; people have signed in."""
    async with AsyncExitStack() as stack:
        names = [*TABLE["settings"]["providers"], *TABLE["settings"]["issuers"]]
        peers = {name: await stack.enter_async_context(OpenIDPeer()) for name in names}
        data = {**served(peers), "audit": {"file": str(folder / "audit.jsonl")}}
        if kind == "certificate":
            _with_certificates(data, folder)
        proxy = await stack.enter_async_context(Authproxy(from_mapping(data, folder, {})))
        people = {name: who for name, who in WHO.items() if kind == "session" and who["as"].startswith("session:")}
        cookies = {name: await signed_in(stack, proxy, peers, name, who) for name, who in people.items()}
        yield Running(proxy, cookies, peers)


def _with_certificates(data: dict[str, Any], folder: Path) -> None:
    certificate, key = self_signed(folder, "auth.corp.test")
    data["listen"]["tls"] = {"cert": str(certificate), "key": str(key), "client_ca": str(certificate)}
    data["certificates"] = TABLE["settings"]["certificates"]


def _certificate(row: Row) -> dict[str, Any] | None:
    """What the TLS listener says of the caller's certificate once it has verified it."""
    if row.kind != "certificate":
        return None
    who, name = WHO[row.who], WHO[row.who]["as"].partition(":")[2]
    fields = who.get("claims", {})
    subject = [(("commonName", name),), *((("organizationName", unit),) for unit in fields.get("o", ()))]
    alternatives = tuple(("DNS", host) for host in fields.get("dns_san", ()))
    return {"subject": tuple(subject), "subjectAltName": alternatives, "notAfter": "Jan  1 00:00:00 2200 GMT"}


async def signed_in(
    stack: AsyncExitStack, proxy: Authproxy, peers: Mapping[str, OpenIDPeer], name: str, who: Mapping[str, Any]
) -> str:
    """The ``Cookie`` header of somebody who has signed in with these claims."""
    provider = who["as"].partition(":")[2].partition("/")[0]
    peers[provider].people[name] = Person(name, f"{name}-password", dict(who["claims"]))
    peers[provider].current_user = name
    browser = await stack.enter_async_context(StrictBrowser())
    here = f"http://{HOMES[provider]}:{proxy.addresses['public'].rpartition(':')[2]}"
    await browser.open(f"{here}/oauth2/start?rd=/oauth2/userinfo")
    cookie = browser.cookie_header(here)
    assert "authproxy=" in cookie, [(page.url, page.status) for page in browser.visited]
    return cookie


@pytest.mark.parametrize("kind", REAL, ids=["nobody", *REAL[1:]])
async def test_the_running_proxy_decides_as_explain_says(kind: str, tmp_path: Path, loaded: Loaded) -> None:
    """Each row with a real credential: the same outcome, and where a policy was asked the very same reason."""
    rows = [row for row in ROWS if row.kind == kind]
    assert len(rows) >= 4
    differing = []
    async with running(kind, tmp_path) as proxy:
        for row in rows:
            outcome, reason = await proxy.judge(row)
            found = explained(loaded, row)
            same_reason = reason == deciding(found) or outcome[:3] not in ("all", "403")
            if (outcome, True) != (outcome_of(found), same_reason) or outcome != row.outcome:
                differing.append((str(row), outcome, reason, outcome_of(found), deciding(found)))
    assert differing == []


# The table itself


def test_the_table_is_worth_its_name() -> None:
    """At least 150 rows, none of them twice, and nobody is named who never asks."""
    assert len(ROWS) >= 150
    assert len({str(row) for row in ROWS}) == len(ROWS)
    assert {row.who for row in ROWS} == {"nobody", *WHO}
    assert {row.kind for row in ROWS} == set(REAL)


def test_a_request_is_sent_as_it_is_written() -> None:
    """The URL becomes Host and target byte for byte; a fragment stays at home, and a Host that is given counts."""
    raw = raw_request("GET", "https://A.example:8443/x%2fy?q=1#z", [("Accept", "*/*")], "192.0.2.1")
    lines = Headers([(b"Host", b"A.example:8443"), (b"Accept", b"*/*")]).lines
    assert (raw.target, raw.headers.lines, raw.peer) == (b"/x%2fy?q=1", lines, "192.0.2.1")
    other: Raw = raw_request("GET", "https://a.example?q=1", [("host", "b.example")], "192.0.2.1")
    assert (other.target, other.headers.all(b"host")) == (b"/?q=1", (b"b.example",))
