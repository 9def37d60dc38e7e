"""Forward-auth behind a real nginx: it asks us about every request, and serves the application itself."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.conftest import cast as cast
from tests.hostile.conftest import stages as stages
from tests.hostile.harness import HOST, PREFIX, Raw, Set, Stage, send
from tests.peers.program import Program, free_port

SECRET = "a-secret-that-only-the-ingress-knows-0123"
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    merge_slashes off;
    location {prefix}/ {{
      proxy_pass http://{public};
      proxy_set_header Host $http_host;
    }}
    location = /decision {{
      internal;
      proxy_pass http://{decisions}{prefix}/auth;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Forwarded-Method $request_method;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Uri $request_uri;
    }}
    location / {{
      auth_request /decision;
      auth_request_set $who $upstream_http_x_auth_request_user;
      auth_request_set $groups $upstream_http_x_auth_request_groups;
      auth_request_set $token $upstream_http_authorization;
      auth_request_set $renewed $upstream_http_set_cookie;
      add_header Set-Cookie $renewed;
      error_page 401 = @sign_in;
      proxy_set_header Host $http_host;
      proxy_set_header X-Auth-Request-User $who;
      proxy_set_header X-Auth-Request-Groups $groups;
      proxy_set_header Authorization $token;
      proxy_pass http://{application};
    }}
    location @sign_in {{ return 302 {prefix}/sign_in?rd=$request_uri; }}
  }}
}}
"""


class Ingress:
    """A running nginx in front of a stage."""

    def __init__(self, stage: Stage, port: int) -> None:
        self.stage, self.port = stage, port

    def at(self, target: str = "/") -> str:
        """The address of ``target`` through nginx."""
        return f"http://{HOST}:{self.port}{target}"


@pytest.fixture
async def ingress(stages: Set, tmp_path: Path) -> AsyncIterator[Ingress]:
    """nginx, which the proxy trusts, with the decisions listener behind it."""
    stage = await stages(
        listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]},
        policies={"people": {"any": [{"groups": ["staff"]}]}},
        provider={"scopes": ["openid", "email", "groups", "offline_access"]},
    )
    port, addresses = free_port(), stage.proxies[0].addresses
    file = tmp_path / "nginx.conf"
    application = stage.app.url.removeprefix("http://")
    file.write_text(NGINX.format(folder=tmp_path, port=port, prefix=PREFIX, application=application, **addresses))
    async with Program("/usr/sbin/nginx", "-p", tmp_path, "-c", file, "-e", "stderr") as nginx:
        await _listening(port, nginx)
        yield Ingress(stage, port)


async def _listening(port: int, nginx: Program) -> None:
    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await nginx.until(accepts, "it accepts connections")


async def test_a_person_signs_in_through_nginx(ingress: Ingress) -> None:
    """Without a session nginx leads to sign-in; with one the application is told who it is, and gets the ID token."""
    stage = ingress.stage
    first = await stage.browser.navigate(ingress.at("/deep/link?x=1"))
    assert first.location == ingress.at(f"{PREFIX}/sign_in?rd=/deep/link?x=1")
    assert stage.reached() == 0
    page = await stage.browser.settle(first)
    assert (page.status, page.url) == (200, ingress.at("/deep/link?x=1"))
    seen = stage.app.last
    assert seen.all("X-Auth-Request-User") == ["alice@example.com"]
    assert seen.all("X-Auth-Request-Groups") == ["staff,admins"]
    scheme, _, token = (seen.get("Authorization") or "").partition(" ")
    payload = token.split(".")[1]
    assert scheme == "Bearer"
    assert json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"] == "sub-alice"


async def test_what_the_client_claims_is_overwritten(ingress: Ingress) -> None:
    """Describing and identity headers of the client change neither the decision nor what the application is told."""
    stage = ingress.stage
    await stage.browser.open(ingress.at())
    lies = {
        "X-Auth-Request-User": "root", "X-Auth-Request-Groups": "wheel", "Authorization": "Bearer forged",
        "X-Forwarded-Uri": "/other", "X-Forwarded-Host": "evil.example", "X-Forwarded-Method": "OPTIONS",
    }  # fmt: skip
    page = await stage.browser.xhr(ingress.at("/lied-to"), headers=lies)
    assert page.status == 200
    assert stage.app.last.all("X-Auth-Request-User") == ["alice@example.com"]
    assert "forged" not in (stage.app.last.get("Authorization") or "")


async def test_a_guest_is_refused(ingress: Ingress) -> None:
    """Whoever is signed in and may not is told 403 by nginx, and nothing reaches the application."""
    stage = ingress.stage
    stage.peer.current_user = "bob"
    page = await stage.browser.open(ingress.at("/staff"))
    assert (page.status, stage.reached()) == (403, 0)


async def test_renewed_cookies_travel_back(ingress: Ingress) -> None:
    """When a request renews the session, nginx hands the new cookie to the browser."""
    stage = ingress.stage
    await stage.browser.open(ingress.at())
    before = stage.session_cookie()
    stage.clock.pass_(11 * 60)
    assert (await stage.browser.xhr(ingress.at("/later"))).status == 200
    assert stage.session_cookie() != before
    assert stage.app.last.get("Authorization") == f"Bearer {stage.peer.issued[-1]['id_token']}"


async def test_signing_out_through_nginx(ingress: Ingress) -> None:
    """After sign-out nginx leads to sign-in again."""
    stage = ingress.stage
    await stage.browser.open(ingress.at())
    page = await stage.browser.navigate(ingress.at(f"{PREFIX}/sign_out"))
    data = page.form("csrf_token").fields
    await stage.browser.navigate(ingress.at(f"{PREFIX}/sign_out"), method="POST", data=data)
    page = await stage.browser.navigate(ingress.at("/again"))
    assert page.location == ingress.at(f"{PREFIX}/sign_in?rd=/again")


async def test_a_strange_path_is_refused(ingress: Ingress) -> None:
    """A path that nginx and the application could read differently is refused, though the session is good."""
    stage = ingress.stage
    await stage.browser.open(ingress.at())
    seen = stage.reached()
    page = await stage.browser.xhr(ingress.at("/public/%2e%2e/admin"))
    assert (page.status, stage.reached()) == (403, seen)


# --- without an ingress ---


DESCRIBED = {"Method": "GET", "Proto": "http", "Host": HOST, "Uri": "/inside"}


def described(**changes: str | None) -> dict[str, str]:
    """What an ingress says about a GET of the application; None leaves a header out."""
    whole: dict[str, str | None] = {f"X-Forwarded-{name}": value for name, value in DESCRIBED.items()}
    told = whole | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in told.items() if value is not None}


async def ask(
    stage: Stage,
    headers: Mapping[str, str],
    *,
    listener: str = "decisions",
    extra: str = "",
    target: str = f"{PREFIX}/auth",
) -> Raw:
    """Ask one of the listeners for a decision, with the browser's session."""
    port = int(stage.proxies[0].addresses[listener].rpartition(":")[2])
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    cookie = f"Cookie: {stage.session_cookie()}\r\n" if stage.session_cookie() else ""
    head = f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{cookie}{lines}{extra}\r\n"
    return await send(port, head.encode("latin-1"))


@pytest.fixture
async def stage(stages: Set) -> Stage:
    """A signed-in browser, and a proxy that trusts this machine and knows a secret of its ingress."""
    one = await stages(
        listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]},
        forward_auth={"secret": {"value": SECRET}},
    )
    await one.sign_in()
    return one


async def test_success(stage: Stage) -> None:
    """Yes is 202 with all four names, uncached, and with the token."""
    answer = await ask(stage, described())
    assert answer.status == 202
    assert answer.values("X-Auth-Request-User") == ["alice@example.com"]
    for name in ("Email", "Preferred-Username", "Groups"):
        assert len(answer.values(f"X-Auth-Request-{name}")) == 1
    assert answer.values("Cache-Control") == ["no-store"]
    assert answer.values("Authorization") == [f"Bearer {stage.peer.issued[0]['id_token']}"]


async def test_the_prefix_may_be_left_out_on_the_decisions_listener(stage: Stage) -> None:
    """``/auth`` decides there as well; on the public listener the same path is the application's."""
    assert (await ask(stage, described(), target="/auth")).values("X-Auth-Request-User") == ["alice@example.com"]
    seen = stage.reached()
    answer = await ask(stage, described(), target="/auth", listener="public")
    assert answer.values("X-Auth-Request-User") == []
    assert stage.reached() == seen + 1


@pytest.mark.parametrize("listener", ["decisions", "public"])
async def test_strangers_are_refused(stages: Set, listener: str) -> None:
    """Whoever is not among the trusted proxies is told 403, whatever it describes and whoever it is; on record once."""
    stage = await stages(listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["192.0.2.1/32"]})
    await stage.sign_in()
    seen = len(stage.records())
    answer = await ask(stage, described(), listener=listener)
    assert answer.status == 403
    assert answer.values("Authorization") == answer.values("X-Auth-Request-User") == []
    assert [record.get("code") for record in stage.records()[seen:]] == answer.values("Authproxy-Refusal")


@pytest.mark.parametrize("listener", ["decisions", "public"])
@pytest.mark.parametrize("name", ["Method", "Proto", "Host", "Uri"])
async def test_missing_descriptions_are_refused(stage: Stage, name: str, listener: str) -> None:
    """A description that lacks a header, or has it empty, is refused; the decisions listener words it for nginx."""
    statuses = (403,) if listener == "decisions" else (400, 403)
    for value in (None, ""):
        answer = await ask(stage, described(**{f"X_Forwarded_{name}": value}), listener=listener)
        assert answer.status in statuses
        assert answer.values("X-Auth-Request-User") == answer.values("Authorization") == []


@pytest.mark.parametrize("name", ["Method", "Proto", "Host", "Uri"])
async def test_doubled_descriptions_are_refused(stage: Stage, name: str) -> None:
    """A header that comes twice, or under a look-alike name, is refused: one of the two readers would be wrong."""
    told = described()[f"X-Forwarded-{name}"]
    for alias in (f"X-Forwarded-{name}", f"x-forwarded-{name.lower()}", f"X_Forwarded_{name}", f"X-Forwarded_{name}"):
        answer = await ask(stage, described(), extra=f"{alias}: {told}\r\n")
        assert (answer.status, answer.values("X-Auth-Request-User")) == (403, []), alias


@pytest.mark.parametrize(
    "changes",
    [
        {"X_Forwarded_Uri": "inside"},
        {"X_Forwarded_Uri": "/a/../b"},
        {"X_Forwarded_Uri": "/a%00"},
        {"X_Forwarded_Uri": "http://evil.example/"},
        {"X_Forwarded_Host": "evil.example"},
        {"X_Forwarded_Host": "a b"},
        {"X_Forwarded_Proto": "gopher"},
        {"X_Forwarded_Method": "get it"},
        {"X_Original_Url": "http://other.example/else"},
        {"X_Original_Uri": "/else"},
    ],
)
async def test_doubtful_descriptions_are_refused(stage: Stage, changes: dict[str, str]) -> None:
    """A description that is malformed, of a host of nobody's, or contradicted by another is refused, on record once."""
    seen = len(stage.records())
    answer = await ask(stage, described(**changes))
    assert (answer.status, answer.values("X-Auth-Request-User")) == (403, [])
    assert [record.get("code") for record in stage.records()[seen:]] == answer.values("Authproxy-Refusal")


async def test_not_signed_in(stage: Stage) -> None:
    """No session is 401, never a redirect; on record once, on both listeners."""
    stage.browser.forget()
    for listener in ("decisions", "public"):
        seen = len(stage.records())
        answer = await ask(
            stage, described(), listener=listener, extra="Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n"
        )
        assert (answer.status, answer.values("Location")) == (401, [])
        assert [record.get("code") for record in stage.records()[seen:]] == ["not_signed_in"], listener


async def test_tokens_stay_off_the_public_port(stage: Stage) -> None:
    """On the public port names are told to a trusted proxy, and tokens only to one that shows the secret, once."""
    answer = await ask(stage, described(), listener="public")
    assert (answer.status, answer.values("Authorization")) == (202, [])
    assert answer.values("X-Auth-Request-User") == ["alice@example.com"]
    for wrong in ("", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper()):
        answer = await ask(stage, described(X_Authproxy_Secret=wrong), listener="public")
        assert answer.values("Authorization") == [], wrong
    shown = described(X_Authproxy_Secret=SECRET)
    doubled = await ask(stage, shown, listener="public", extra="X-Authproxy-Secret: x\r\n")
    assert doubled.values("Authorization") == []
    assert len((await ask(stage, shown, listener="public")).values("Authorization")) == 1


async def test_no_secret_no_token(stages: Set) -> None:
    """Where no secret is configured, none opens anything: not even an empty one."""
    stage = await stages(listen={"trusted_proxies": ["127.0.0.1/32"]})
    await stage.sign_in()
    for told in (described(), described(X_Authproxy_Secret=""), described(X_Authproxy_Secret="None")):
        answer = await ask(stage, told, listener="public")
        assert (answer.status, answer.values("Authorization")) == (202, [])


OURS = (
    "authproxy=x", "authproxy_1=x", "authproxy_3=x", "authproxy_state_0a1b=x", "authproxy_browser=x",
    "authproxy_portal=x", "__Host-authproxy=x", "__Secure-authproxy=x", "__Secure-authproxy_1=x",
    "__Host-authproxy_state_0a1b=x", "__Host-authproxy_browser=x", "__Host-authproxy_portal=x", "=authproxy=x",
)  # fmt: skip
"""Every cookie that authproxy sets, on http and https, with and without a domain."""


def passed_on(answer: Raw) -> list[str]:
    """The cookies that the ingress is to send to the application."""
    return answer.values("X-Auth-Request-Cookie")


async def test_cookies_come_back_without_ours(stage: Stage) -> None:
    """On the decisions listener a yes carries the client's other cookies, in one value, and none of ours."""
    others = "Cookie: theme=dark; authproxyish=1; authproxy.x=2\r\n"
    assert passed_on(await ask(stage, described())) == [""]
    assert passed_on(await ask(stage, described(), extra=others)) == ["theme=dark; authproxyish=1; authproxy.x=2"]
    for ours in OURS:
        mixed = f"Cookie: a=1; {ours}; b=2\r\nCookie: {ours}\r\nCookie: c=3\r\n"
        assert passed_on(await ask(stage, described(), extra=mixed)) == ["a=1; b=2; c=3"], ours
        assert passed_on(await ask(stage, described(), extra=f"Cookie: {ours}\r\n")) == [""], ours


async def test_cookies_come_back_from_every_decision(stage: Stage) -> None:
    """The second answer for a session carries the cookies of its own request; so does one that renews the session."""
    for number in range(3):
        answer = await ask(stage, described(), extra=f"Cookie: number={number}\r\n")
        assert passed_on(answer) == [f"number={number}"]
    stage.clock.pass_(11 * 60)
    renewed = await ask(stage, described(), extra="Cookie: number=9\r\n")
    assert renewed.values("Set-Cookie") != []
    assert passed_on(renewed) == ["number=9"]


async def test_cookies_come_back_on_public_routes(stages: Set) -> None:
    """An application must not receive the session of a person who opens its public part."""
    routes = [{"path": "/open", "policy": "public"}, {"path": "/", "policy": "people"}]
    stage = await stages(
        listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]},
        policies={"public": {"anonymous": True}}, application={"routes": routes},
    )  # fmt: skip
    await stage.sign_in()
    answer = await ask(stage, described(X_Forwarded_Uri="/open"), extra="Cookie: theme=dark\r\n")
    assert (answer.status, passed_on(answer)) == (202, ["theme=dark"])
    stage.browser.forget()
    assert passed_on(await ask(stage, described(X_Forwarded_Uri="/open"))) == [""]


async def test_cookies_stay_off_the_public_port(stage: Stage) -> None:
    """Through the public port a page could read cookies that are HttpOnly: only for a caller that shows the secret."""
    mine = "Cookie: theme=dark\r\n"
    assert passed_on(await ask(stage, described(), listener="public", extra=mine)) == []
    for wrong in ("", "wrong", SECRET[:-1], SECRET + "x"):
        told = described(X_Authproxy_Secret=wrong)
        assert passed_on(await ask(stage, told, listener="public", extra=mine)) == [], wrong
    shown = described(X_Authproxy_Secret=SECRET)
    assert passed_on(await ask(stage, shown, listener="public", extra=mine)) == ["theme=dark"]


@pytest.mark.parametrize("bytes_", ["\r", "\n", "\0", "\r\n ", "\x7f", "\x01"])
async def test_no_cookie_splits_the_answer(stage: Stage, bytes_: str) -> None:
    """A control byte in a cookie is refused before it could come back in a header line."""
    answer = await ask(stage, described(), extra=f"Cookie: a=1{bytes_}X-Auth-Request-User: root\r\n")
    assert (answer.status, passed_on(answer)) in ((400, []), (403, []))


async def test_a_refusal_carries_no_cookies(stage: Stage) -> None:
    """What is refused goes nowhere."""
    for changes in ({"X_Forwarded_Host": "evil.example"}, {"X_Forwarded_Uri": "/a/../b"}):
        assert passed_on(await ask(stage, described(**changes), extra="Cookie: theme=dark\r\n")) == []
    stage.browser.forget()
    assert passed_on(await ask(stage, described(), extra="Cookie: theme=dark\r\n")) == []


async def test_x_original(stages: Set) -> None:
    """The other set of headers is believed where it is configured, and only there."""
    stage = await stages(
        listen={"decisions": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}, forward_auth={"headers": "x-original"}
    )
    await stage.sign_in()
    told: dict[str, Any] = {"X-Original-Method": "GET", "X-Original-URL": f"http://{HOST}/inside"}
    assert (await ask(stage, told)).status == 202
    assert (await ask(stage, described())).status == 403
    assert (await ask(stage, {**told, "X-Forwarded-Uri": "/else"})).status == 403
