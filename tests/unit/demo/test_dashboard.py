"""The sample app: it shows what it was told, escaped and without secrets, and streams its clock."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from authproxy.demo.dashboard import Dashboard, swell
from authproxy.demo.visitor import claims, lines, text, visitor

NOW = 1_700_000_000
Client = TestClient[web.Request, web.Application]


def token(**extra: object) -> str:
    """An unsigned JWT: the app decodes, the proxy has verified."""
    content = {"sub": "s-1", "iss": "http://issuer", "name": "Ann Example", "iat": NOW - 20, "exp": NOW + 100, **extra}
    return ".".join(base64.urlsafe_b64encode(json.dumps(x).encode()).rstrip(b"=").decode() for x in ({}, content, {}))


HEADERS = {
    "Authorization": f"Bearer {token()}", "X-Forwarded-User": "ann@example.com", "X-Forwarded-Email": "ann@example.com",
    "X-Forwarded-Groups": "staff, admins", "X-Forwarded-Preferred-Username": "ann",
}  # fmt: skip


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """The app, with a clock that stands still and samples that come at once."""
    app = Dashboard(clock=lambda: float(NOW), pause=0.01).application()
    async with TestClient(TestServer(app)) as one:
        yield one


async def page(client: Client, path: str, headers: dict[str, str] | None = None) -> str:
    """The page at ``path``, which must be there."""
    async with client.get(path, headers=headers or {}) as answer:
        assert answer.status == 200
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        return await answer.text()


async def test_the_overview_says_who_you_are(client: Client) -> None:
    """Name, address, groups, subject and issuer; how long the token lasts; nothing of its secret part."""
    shown = await page(client, "/", HEADERS)
    for piece in ("Good to see you, Ann", "ann@example.com", "staff", "admins", "s-1", "http://issuer"):
        assert piece in shown
    assert f'data-expires="{NOW + 100}"' in shown
    assert token() not in shown
    assert token()[24:60] not in shown


@pytest.mark.parametrize("path", ["/", "/reports/harbour?year=2026", "/admin/", "/public"])
async def test_every_page_works_for_nobody(client: Client, path: str) -> None:
    """Without any header of the proxy the pages render, and no inline code is in them."""
    shown = await page(client, path)
    assert "<style" not in shown
    assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=", shown)


async def test_header_values_are_text(client: Client) -> None:
    """What a header or an address holds is shown, and never read as HTML."""
    evil = "<script>alert(1)</script>"
    headers = {**HEADERS, "X-Forwarded-User": evil, "X-Forwarded-Groups": evil, "X-Other": evil, "User-Agent": evil}
    headers["Authorization"] = f"Bearer {token(name=evil, sub=evil, iss=evil)}"
    for path in ("/", "/reports/%3Cscript%3Ealert(1)%3C%2Fscript%3E?%3Cscript%3E=%3Cscript%3E", "/admin/", "/public"):
        shown = await page(client, path, headers)
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown


async def test_a_value_that_is_not_utf8_is_shown_as_such(client: Client) -> None:
    """UTF-8 is read; a stray byte becomes a mark, and the page stays whole."""
    assert text("Jos\udcc3\udca9") == "José"
    assert text("\udcff") == "\ufffd"
    async with client.session.get(client.make_url("/"), headers={"X-Forwarded-User": "José"}) as answer:
        assert "José" in await answer.text()


async def test_a_deep_link_shows_where_it_led(client: Client) -> None:
    """Path and query, as they arrived."""
    shown = await page(client, "/reports/harbour?year=2026&note=a%20b")
    assert "/reports/harbour?year=2026&amp;note=a%20b" in shown
    assert "<dd>a b</dd>" in shown


async def test_the_api_tells_the_time_and_the_user(client: Client) -> None:
    """JSON for the page's script: the user, and the token's life."""
    async with client.get("/api/time", headers=HEADERS) as answer:
        assert await answer.json() == {
            "time": "2023-11-14T22:13:20+00:00", "user": "ann@example.com", "now": NOW,
            "token": {"issued_at": NOW - 20, "expires_at": NOW + 100},
        }  # fmt: skip
        assert answer.headers["Cache-Control"] == "no-store"


async def test_the_clock_streams(client: Client) -> None:
    """Sample after sample over a WebSocket, until the browser closes it."""
    async with client.ws_connect("/clock") as socket:
        for _ in range(3):
            assert await socket.receive_json() == {"time": "22:13:20", "swell": swell(NOW)}


async def test_the_clock_ends_with_the_app() -> None:
    """An open page does not keep the demo from stopping."""
    async with ClientSession() as http:
        server = TestServer(Dashboard(pause=30).application())
        await server.start_server()
        socket = await http.ws_connect(server.make_url("/clock"))
        await socket.receive_json()
        await server.close()
        assert (await socket.receive()).data == 1001


async def test_the_admin_page_has_one_address(client: Client) -> None:
    """The address without slash leads to the one that the proxy guards."""
    async with client.get("/admin", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (308, "/admin/")


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer a.b", "Bearer a.b.c", "Bearer a.W10.c", "Basic YTpi", "Bearer a.eyJ.c",
        "Bearer a." + "W" * 9999 + ".c",
    ],
)  # fmt: skip
def test_what_is_no_token_has_no_claims(header: str) -> None:
    """Junk is no error: the page just knows less."""
    assert claims(header) == {}


@pytest.mark.parametrize("value", [True, "1", None, -1, 1e300, float("nan")])
def test_odd_times_are_no_times(value: object) -> None:
    """A time that cannot be one counts as none, or as a small number."""
    who = visitor({"Authorization": f"Bearer {token(exp=value)}"})
    assert who.expires_at in (0, 1)


def test_lines_hide_secrets_and_put_the_proxy_first() -> None:
    """Authorization is cut short, cookies lose their values, long values end."""
    shown = lines([("Accept", "a" * 500), ("Cookie", "a=secret; b=secret"), ("Authorization", "Bearer " + "s" * 300)])
    assert [line.name for line in shown] == ["Authorization", "Accept", "Cookie"]
    assert shown[0].value == f"Bearer {'s' * 22}… (300 characters)"
    assert shown[2].value == "a=…; b=…"
    assert len(shown[1].value) < 200
