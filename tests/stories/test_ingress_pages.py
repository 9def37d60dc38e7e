"""Honest clients through the ingress blocks of the documents, run as they stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.hostile.ingress_pages import DOMAIN, PAGES, PATIENCE, Ingress, ingress_of

PEOPLE: Final = [page for page in PAGES if not page.bearer]
MACHINES: Final = [page for page in PAGES if page.bearer]
DEEP: Final = "/deep//link?a=1&b=%2F%2Fx&c=/y"


@pytest.fixture
async def ingress(request: Any, tmp_path: Path) -> AsyncIterator[Ingress]:
    """The ingress of a page."""
    async with ingress_of(request.param, tmp_path) as running:
        yield running


people = pytest.mark.parametrize("ingress", PEOPLE, ids=str, indirect=True)
machines = pytest.mark.parametrize("ingress", MACHINES, ids=str, indirect=True)
everyone = pytest.mark.parametrize("ingress", PAGES, ids=str, indirect=True)


@people
async def test_a_person_signs_in_and_comes_back(ingress: Ingress) -> None:
    """A deep link survives the sign-in whole, a script is told 401 in JSON, and the application learns who it is."""
    browser = ingress.browser
    refused = await browser.xhr(ingress.at("/data"))
    assert (refused.status, refused.json["error"]) == (401, "not_signed_in")
    page = await browser.open(ingress.at(DEEP))
    assert (page.status, page.url) == (200, ingress.at(DEEP))
    seen = ingress.protected.last
    assert seen.target == DEEP
    assert seen.all("X-Forwarded-User") == ["alice@example.com"]
    assert seen.all("X-Forwarded-Groups") == ["staff,admins"]
    wanted = ingress.page.settings["apps"][ingress.page.app]["upstream"].get("authorization", "none")
    assert [value[:7] for value in seen.all("Authorization")] == ([] if wanted == "none" else ["Bearer "])
    assert {visited.host for visited in browser.visited} >= {ingress.page.host, f"auth.{DOMAIN}"}


@people
async def test_a_renewed_cookie_reaches_the_browser(ingress: Ingress) -> None:
    """The session goes on past its first ID token."""
    browser = ingress.browser
    await browser.open(ingress.at("/"))
    before = browser.cookies(ingress.at("/"))
    ingress.clock.pass_(11 * 60)
    assert (await browser.xhr(ingress.at("/later"))).status == 200
    assert browser.cookies(ingress.at("/")) != before
    assert len(ingress.peer.issued) == 2


@people
async def test_a_guest_is_refused(ingress: Ingress) -> None:
    """A person who is signed in and not staff gets 403, and the application sees nothing."""
    ingress.peer.current_user = "bob"
    page = await ingress.browser.open(ingress.at("/staff"))
    assert (page.status, ingress.protected.requests) == (403, [])


@people
async def test_a_person_signs_out(ingress: Ingress) -> None:
    """After the sign-out on the sign-in host, the application asks for a sign-in again."""
    browser = ingress.browser
    await browser.open(ingress.at("/"))
    out = ingress.at("/oauth2/sign_out", f"auth.{DOMAIN}")
    form = (await browser.navigate(out)).form("csrf_token")
    assert (await browser.navigate(out, method="POST", data=form.fields)).status < 400
    ingress.forget()
    assert (await browser.xhr(ingress.at("/"))).status == 401
    assert ingress.protected.requests == []


@people
async def test_the_cookies_of_the_application_stay(ingress: Ingress) -> None:
    """The application receives its own cookies, also long ones, and never ours; nor does a public neighbour."""
    browser = ingress.browser
    for host, app in ((ingress.page.host, ingress.protected), (f"blog.{DOMAIN}", ingress.blog)):
        await browser.open(ingress.at("/", host))
        assert app.last.all("Cookie") == []
        own = {"theme": "dark", "basket": "x" * 7000}
        mine = "; ".join(f"{name}={value}" for name, value in (own | browser.cookies(ingress.at("/", host))).items())
        assert "authproxy" in mine
        page = await browser.xhr(ingress.at("/", host), headers={"Cookie": mine})
        assert page.status == 200, (page.status, page.headers)
        (received,) = app.last.all("Cookie")
        assert sorted(received.split("; ")) == sorted(f"{name}={value}" for name, value in own.items())


@people
async def test_a_websocket_passes(ingress: Ingress) -> None:
    """An upgrade is judged and then tunnelled, where the page passes upgrades."""
    if "$websocket" not in ingress.page.block:
        return
    browser = ingress.browser
    await browser.open(ingress.at("/"))
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies(ingress.at("/")).items())
    async with browser.session.ws_connect(ingress.at("/ws"), headers={"Cookie": cookie}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=PATIENCE) == "hello"


@machines
async def test_a_machine_calls_with_a_token(ingress: Ingress) -> None:
    """A call by HTTP/2 with a token reaches the service; without one, or with the wrong groups, it does not."""
    page = ingress.page
    credential = await ingress.sign_in()
    answers = {}
    for name, lines in {
        "good": [credential.strip()],
        "none": [],
        "wrong": [f"Authorization: Bearer {ingress.peer.id_token('alice', aud='inventory', groups=['others'])}"],
    }.items():
        answers[name] = await call(ingress, *lines)
    assert "grpc-status" not in answers["good"], answers
    assert "grpc-status: 7" in answers["wrong"], answers
    assert "grpc-status: 16" in answers["none"] or "grpc-status: 7" in answers["none"], answers
    assert [seen.target for seen in ingress.protected.requests] == [page.target]
    seen = ingress.protected.last
    assert (seen.all("X-Forwarded-User"), seen.all("Authorization"), seen.all("Host")) == (
        ["alice@example.com"],
        [],
        [page.host],
    )


async def call(ingress: Ingress, *lines: str) -> str:
    """The answer's header lines to a call by HTTP/2, as curl speaks it."""
    words = [
        "curl", "--silent", "--http2", "--include", "--max-time", str(PATIENCE), "--request", "POST", "--data", "",
        "--insecure", "--connect-to", f"::127.0.0.1:{ingress.port}", "--header", "Content-Type: application/grpc",
    ]  # fmt: skip
    for line in lines:
        words += ["--header", line]
    words.append(ingress.at(ingress.page.target))
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out.startswith(b"HTTP/2 "), (out, err)
    return out.decode("latin-1").lower()


@everyone
async def test_other_spellings_of_the_host_are_one(ingress: Ingress) -> None:
    """Capitals, a port and a dot at the end reach the application under the name that the page has."""
    page, credential = ingress.page, await ingress.sign_in()
    for host in (page.host, page.host.upper(), f"{page.host}:443", f"{page.host}."):
        ingress.forget()
        head = f"{page.method} {page.target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n"
        answer = await ingress.send(f"{head}{credential}\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), (host, answer)
        assert ingress.protected.last.all("Host") == [page.host]


@everyone
async def test_the_client_is_who_connects_to_the_ingress(ingress: Ingress, tmp_path: Path) -> None:
    """X-Forwarded-For of the client is replaced: audit and rules have the address that the ingress saw."""
    page, credential = ingress.page, await ingress.sign_in()
    head = f"{page.method} {page.target} HTTP/1.1\r\nHost: {page.host}\r\nConnection: close\r\nContent-Length: 0\r\n"
    await ingress.send(f"{head}X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n{credential}\r\n")
    assert ingress.protected.last.all("X-Forwarded-For") == ["127.0.0.1"]
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {record["client"] for record in records if record.get("event") == "exchange"} == {"127.0.0.1"}
