"""Who is kept from administering: browsers, foreign names, other machines, those who do not know the secret."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from authproxy.app import Authproxy
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping
from tests.peers.authproxy_process import SESSION_KEY

SECRET: Final = "the-admin-secret-" + "a" * 32
JSON: Final = {"Content-Type": "application/json"}
MINT: Final = json.dumps({"name": "agent"}).encode()


class Door:
    """A proxy's admin listener, and who knocks."""

    def __init__(self, proxy: Authproxy, http: aiohttp.ClientSession, folder: Path) -> None:
        self.proxy, self._http, self.folder = proxy, http, folder

    async def ask(
        self, method: str = "POST", path: str = "/enrollment/tokens", *, data: bytes | None = MINT, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON of one request; ``X_Y`` in ``headers`` is the header ``X-Y``."""
        where = self.proxy.addresses["admin"]
        base = "http://localhost" if where.startswith("unix:") else f"http://127.0.0.1:{where.rpartition(':')[2]}"
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value}
        async with self._http.request(method, base + path, data=data, headers=sent) as answer:
            text = await answer.text()
            assert answer.content_type == "application/json", (answer.status, text)
            return answer.status, json.loads(text)

    def books(self) -> list[dict[str, Any]]:
        """The audit records so far."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


Open = Callable[..., Any]


@pytest.fixture
def door(tmp_path: Path) -> Open:
    """Opens a proxy with enrollment whose ``listen`` is as given."""

    @asynccontextmanager
    async def opened(*, enrollment: bool = True, **listen: Any) -> AsyncIterator[Door]:
        settings: dict[str, Any] = {
            "public_url": "http://auth.corp.test", "session": {"keys": [{"value": SESSION_KEY}]},
            "listen": {"address": "127.0.0.1:0", "admin": "127.0.0.1:0", **listen},
            "audit": {"file": "audit.jsonl"},
            "policies": {"all": {"anonymous": True}},
            "apps": {
                "a": {"host": "a.corp.test", "upstream": {"url": "http://127.0.0.1:9"},
                      "routes": [{"path": "/", "policy": "all"}]},
            },
        }  # fmt: skip
        if enrollment:
            settings["enrollment"] = {"signing_keys": [{"value": json.dumps(new_signing_key())}]}
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Authproxy(from_mapping(settings, tmp_path, {})))
            where = proxy.addresses["admin"]
            connector = aiohttp.UnixConnector(where.removeprefix("unix:")) if where.startswith("unix:") else None
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            yield Door(proxy, http, tmp_path)

    return opened


async def test_an_operator_on_this_machine_needs_no_secret(door: Open, tmp_path: Path) -> None:
    """Loopback and a unix socket are open to whoever may reach them: mint, list, withdraw, revoke."""
    for admin in ("127.0.0.1:0", f"unix:{tmp_path}/admin.sock", "localhost:0"):
        async with door(admin=admin) as house:
            status, minted = await house.ask(**JSON)
            assert (status, minted["expires_in"]) == (201, 3600)
            _, listed = await house.ask("GET", "/enrollment", data=None)
            assert [one["id"] for one in listed["tokens"]] == [minted["id"]]
            assert minted["token"] not in json.dumps(listed)
            gone = f"/enrollment/tokens/{minted['id']}"
            assert [(await house.ask("DELETE", gone, data=None))[0] for _ in range(2)] == [200, 404]
            status, said = await house.ask(path="/enrollment/revoke", data=b'{"scope": "all"}', **JSON)
            assert (status, said["everywhere"]) == (200, True)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Origin": "http://127.0.0.1:9090"}, 403, "browser_refused"),
        ({"Origin": "null"}, 403, "browser_refused"),
        ({"Sec_Fetch_Site": "same-origin"}, 403, "browser_refused"),
        ({"Sec_Fetch_Site": "none"}, 403, "browser_refused"),
        ({"Host": "rebound.example.com"}, 403, "host_refused"),
        ({"Host": "127.0.0.1.example.com:9090"}, 403, "host_refused"),
        ({"Host": "localhost.example.com"}, 403, "host_refused"),
        ({"Host": "[::1.example.com]"}, 403, "host_refused"),
        ({"Content_Type": "text/plain"}, 400, "not_json"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 400, "not_json"),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 400, "not_json"),
        ({"Content_Type": "application/jsonp"}, 400, "not_json"),
    ],
)  # fmt: skip
async def test_a_browser_on_this_machine_is_refused(
    door: Open, headers: dict[str, str], status: int, code: str
) -> None:
    """Each by itself, with everything else right; nothing is minted, and the books say so."""
    async with door() as house:
        said = await house.ask(**{**JSON, **headers})
        assert (said[0], said[1]["error"]) == (status, code)
        assert set(said[1]) == {"error", "message", "request_id"}
        assert (await house.ask("GET", "/enrollment", data=None))[1]["tokens"] == []
        record = next(one for one in house.books() if one["event"] == "enrollment_mint")
        assert (record["outcome"], record["request_id"]) == (code, said[1]["request_id"])


async def test_every_operation_goes_through_the_gate(door: Open) -> None:
    """Listing, withdrawing and revoking are refused as minting is; health, readiness and figures are not."""
    async with door() as house:
        for method, path in (
            ("GET", "/enrollment"), ("DELETE", f"/enrollment/tokens/{'0' * 16}"), ("POST", "/enrollment/revoke"),
        ):  # fmt: skip
            data = None if method != "POST" else b'{"scope": "all"}'
            said = await house.ask(method, path, data=data, Origin="http://example.com", **JSON)
            assert (said[0], said[1]["error"]) == (403, "browser_refused")
        assert (await house.ask("GET", "/healthz", data=None, Origin="http://example.com"))[0] == 200


async def test_an_address_that_others_reach_is_closed_without_a_secret(door: Open) -> None:
    """It says what to set; asking from loopback, or with a made-up secret, changes nothing; health stays open."""
    async with door(admin="0.0.0.0:0") as house:
        for authorization in ("", f"Bearer {SECRET}"):
            status, said = await house.ask(Authorization=authorization, **JSON)
            assert (status, said["error"]) == (403, "administration_closed")
            assert "listen.admin_secret" in said["message"]
        assert (await house.ask("GET", "/healthz", data=None))[0] == 200


@pytest.mark.parametrize("admin", ["0.0.0.0:0", "127.0.0.1:0", "unix"])
@pytest.mark.parametrize(
    "presented",
    ["", "Bearer", "Bearer ", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET, "Bearer é",
     f"Bearer {SECRET.upper()}"],
)  # fmt: skip
async def test_with_a_secret_it_is_asked_for_everywhere(
    door: Open, tmp_path: Path, admin: str, presented: str, caplog: pytest.LogCaptureFixture
) -> None:
    """None, a wrong one, another scheme: 401 on every kind of address; the right one opens; no log has either."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "secret").write_text(SECRET)
    where = f"unix:{tmp_path}/admin.sock" if admin == "unix" else admin
    async with door(admin=where, admin_secret={"file": "secret"}) as house:
        status, said = await house.ask(Authorization=presented, **JSON)
        assert (status, said["error"]) == (401, "admin_secret_refused")
        status, minted = await house.ask(Authorization=f"Bearer {SECRET}", **JSON)
        assert status == 201
        written = f"{house.books()} {house.proxy.lasting.metrics.text()!r} {caplog.text}"
        assert "enrollment_mint" in written
        for secret in (SECRET, SECRET[:-1], minted["token"]):
            assert secret not in written


async def test_the_secret_does_not_open_it_to_browsers(door: Open, tmp_path: Path) -> None:
    """What is refused to a browser is refused with the right secret, too."""
    (tmp_path / "secret").write_text(SECRET)
    async with door(admin="0.0.0.0:0", admin_secret={"file": "secret"}) as house:
        for lie in ({"Origin": "http://example.com"}, {"Host": "rebound.example.com"}, {"Content_Type": "text/plain"}):
            assert (await house.ask(Authorization=f"Bearer {SECRET}", **{**JSON, **lie}))[0] in (400, 403)


async def test_without_enrollment_it_says_so(door: Open) -> None:
    """404 as JSON."""
    async with door(enrollment=False) as house:
        status, said = await house.ask("GET", "/enrollment", data=None)
        assert (status, said["error"]) == (404, "no_enrollment")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/enrollment/tokens", b"", "malformed_json"),
        ("/enrollment/tokens", b"[]", "malformed_json"),
        ("/enrollment/tokens", b'{"name": "a", "name": "b"}', "malformed_json"),
        ("/enrollment/tokens", b"{}", "name_invalid"),
        ("/enrollment/tokens", b'{"name": "a b"}', "name_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "cluster": 1}', "cluster_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "cluster": "*"}', "cluster_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "expires_in": true}', "expiry_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "expires_in": 0}', "expiry_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "expires_in": 1e9}', "expiry_invalid"),
        ("/enrollment/tokens", b'{"name": "a", "expires": 60}', "field_unknown"),
        ("/enrollment/revoke", b'{"scope": "everything"}', "scope_invalid"),
        ("/enrollment/revoke", b'{"scope": ["all"]}', "scope_invalid"),
        ("/enrollment/revoke", b'{"scope": "all", "name": "agent"}', "name_invalid"),
        ("/enrollment/revoke", b'{"scope": "name"}', "name_invalid"),
        ("/enrollment/revoke", b'{"scope": "family", "name": "agent"}', "name_invalid"),
        ("/enrollment/revoke", b'{"scope": "cluster", "name": "*"}', "cluster_invalid"),
        ("/enrollment/revoke", b'{"name": "agent"}', "scope_invalid"),
    ],
)  # fmt: skip
async def test_nonsense_is_refused_and_does_nothing(door: Open, path: str, body: bytes, code: str) -> None:
    """400 that says what is wrong; a misspelt field is not passed over."""
    async with door() as house:
        status, said = await house.ask(path=path, data=body, **JSON)
        assert (status, said["error"]) == (400, code)
        status, said = await house.ask(path=path, data=b" " * 20_000, **JSON)
        assert (status, said["error"]) == (413, "body_too_large")
