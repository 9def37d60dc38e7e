"""A stage for attacks: a provider that may lie, one or more proxies in this event loop, an application, and browsers.

Everybody shares one clock, which only the test moves.  At the end of every test the stage looks back: nothing crashed,
nothing was logged with a traceback, and no answer of ours was a failure that nobody meant.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.browser_client import Browser, Form, Loopback, Page
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE, free_port
from tests.peers.upstream_app import UpstreamApp

HOST: Final = "app.corp.test"
PUBLIC: Final = "auth.corp.test"
PREFIX: Final = "/oauth2"
SESSION: Final = "authproxy"
MEANT: Final = frozenset({"provider_unreachable", "provider_busy", "session_not_restorable", "prefetch"})
"""The only codes that an answer of 500 and more may carry in these tests."""


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds


class StrictBrowser(Browser):
    """Minds ``Secure``, ``SameSite`` and ``__Host-`` as browsers do; https to ``.test`` is not encrypted."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.session.close()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=Loopback(), use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        )
        return self

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> Page:
        """One request, with the cookies that a browser would send."""
        head = dict(headers or {})
        cookie = self.cookie_header(url, cross_site=_is_cross_site_post(method, head))
        if cookie and "Cookie" not in head:
            head["Cookie"] = cookie
        wire = URL(url.replace("https://", "http://", 1) if ".test" in urlsplit(url).netloc else url, encoded=True)
        async with self.session.request(method, wire, headers=head, data=data, allow_redirects=False) as answer:
            page = Page(url, answer.status, answer.headers, await answer.read())
        for line in page.headers.getall("Set-Cookie", []):
            _check_prefix(line, url)
            self.jar.update_cookies_from_headers([line], URL(url, encoded=True))
        self.visited.append(page)
        return page

    def cookie_header(self, url: str, *, cross_site: bool = False) -> str:
        """What ``Cookie`` would say."""
        withheld = {m.key for m in self.jar if cross_site and m["samesite"].lower() != "none"}
        pairs = self.cookies(url)
        return "; ".join(f"{name}={value}" for name, value in pairs.items() if name not in withheld)

    def put(self, url: str, line: str) -> None:
        """Plant a cookie, as a neighbouring site or an attacker might."""
        self.jar.update_cookies_from_headers([line], URL(url))


def _is_cross_site_post(method: str, headers: Mapping[str, str]) -> bool:
    return method != "GET" and headers.get("Sec-Fetch-Site") == "cross-site"


def _check_prefix(line: str, url: str) -> None:
    attributes = {part.strip().partition("=")[0].lower() for part in line.split(";")[1:]}
    if line.startswith("__Host-"):
        assert "secure" in attributes, line
        assert "domain" not in attributes, line
        assert "Path=/" in line, line
    if line.startswith("__Secure-"):
        assert "secure" in attributes, line
    if "secure" in attributes:
        assert url.startswith("https://"), line


class Raw(NamedTuple):
    """An answer off the wire."""

    status: int
    head: str

    def values(self, name: str) -> list[str]:
        """Every value of a header."""
        lines = [line.partition(": ") for line in self.head.split("\r\n")[1:]]
        return [value for key, _, value in lines if key.lower() == name.lower()]


class Stage:
    """Everybody in one test.  ``proxies[0]`` is the one that browsers go to unless a test says otherwise."""

    def __init__(self, peer: OpenIDPeer, app: UpstreamApp, browser: StrictBrowser, clock: Clock, folder: Path) -> None:
        self.peer, self.app, self.browser, self.clock = peer, app, browser, clock
        self.proxies: list[Authproxy] = []
        self.audits: list[Path] = []
        self.browsers = [browser]
        self.scheme = "http"
        self.folder = folder

    # --- places ---

    def at(self, target: str = "/", *, replica: int = 0, host: str = HOST) -> str:
        """The address of ``target`` on a replica."""
        return f"{self.scheme}://{host}:{self.port(replica)}{target}"

    def port(self, replica: int = 0) -> int:
        """Where a replica listens."""
        return int(self.proxies[replica].addresses["public"].rpartition(":")[2])

    # --- what people do ---

    async def sign_in(self, target: str = "/", *, browser: StrictBrowser | None = None, replica: int = 0) -> Page:
        """All the way from the application to the provider and back; the application's answer."""
        page = await (browser or self.browser).open(self.at(target, replica=replica))
        if page.status == 200 and page.headers.get("Content-Type", "").startswith("text/html") and page.forms:
            page = await (browser or self.browser).submit(page, page.forms[0])  # an answer by form post
        assert page.status == 200, (page.url, page.status, page.headers, page.body)
        return page

    async def begun(self, target: str = "/", *, browser: StrictBrowser | None = None) -> Page:
        """A sign-in that has just been sent to the provider: the redirect to it."""
        one = browser or self.browser
        page = await one.navigate(self.at(target))
        while page.location and not page.location.startswith(self.peer.issuer):
            page = await one.follow(page)
        assert page.location, (page.url, page.status, page.body)
        return page

    async def returning(self, target: str = "/", *, browser: StrictBrowser | None = None) -> str:
        """A sign-in that the provider has answered: the callback's address, not yet loaded."""
        asked = await self.begun(target, browser=browser)
        answered = await (browser or self.browser).follow(asked)
        assert answered.location, (answered.status, answered.body)
        return answered.location

    async def form_posted(self, target: str = "/") -> tuple[Page, Form]:
        """A sign-in that the provider has answered by form post: its page and the form on it."""
        page = await self.browser.follow(await self.begun(target))
        return page, page.forms[0]

    async def sign_out(self, *, browser: StrictBrowser | None = None, replica: int = 0, rd: str = "") -> Page:
        """Sign out by the page; the answer to the form, not followed."""
        one = browser or self.browser
        page = await one.navigate(self.at(f"{PREFIX}/sign_out?{urlencode({'rd': rd})}", replica=replica))
        form = page.form("csrf_token")
        data = {**form.fields, "rd": rd}
        headers = {"Sec-Fetch-Site": "same-origin"}
        return await one.navigate(
            self.at(f"{PREFIX}/sign_out", replica=replica), method="POST", data=data, headers=headers
        )

    async def is_in(self, *, browser: StrictBrowser | None = None, replica: int = 0, target: str = "/inside") -> bool:
        """Whether the application can be opened without signing in."""
        page = await (browser or self.browser).xhr(self.at(target, replica=replica))
        assert page.status in (200, 401), (page.status, page.headers, page.body)
        return page.status == 200

    async def in_with(self, cookie: str, *, replica: int = 0) -> bool:
        """Whether this ``Cookie`` header opens the application."""
        return (await self.raw(cookie, replica=replica)).status == 200

    async def raw(self, cookie: str | bytes, *, target: str = "/inside", replica: int = 0, extra: str = "") -> Raw:
        """A GET with a Cookie header byte for byte."""
        value = cookie.encode("latin-1") if isinstance(cookie, str) else cookie
        head = f"GET {target} HTTP/1.1\r\nHost: {HOST}:{self.port(replica)}\r\nConnection: close\r\n{extra}"
        return await send(self.port(replica), head.encode() + b"Cookie: " + value + b"\r\n\r\n")

    async def tell(
        self, token: str | None = None, *, replica: int = 0, **claims: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Let the provider deliver a logout token: status, headers and body of the answer."""
        url = f"http://127.0.0.1:{self.port(replica)}{PREFIX}/backchannel_logout"
        return await self.peer.send_logout(url, token, **claims)

    def session_cookie(self, browser: StrictBrowser | None = None) -> str:
        """The session cookies of a browser as a ``Cookie`` header."""
        found = (browser or self.browser).cookies(self.at()).items()
        return "; ".join(f"{name}={value}" for name, value in found if is_session(name))

    # --- what must hold ---

    def reached(self) -> int:
        """How many requests the application has seen."""
        return len(self.app.requests)

    def records(self, replica: int = 0) -> list[dict[str, Any]]:
        """The audit records so far."""
        return [json.loads(line) for line in self.audits[replica].read_text().splitlines()]

    def codes(self, page: Page, replica: int = 0) -> list[str]:
        """The refusal codes that the audit has of one answer."""
        request_id = page.headers["X-Request-Id"]
        return [one["code"] for one in self.records(replica) if one.get("request_id") == request_id and "code" in one]

    async def denied(
        self, page: Page, *codes: str, status: int | tuple[int, ...] = (400, 403), reason: str = "", reached: int = 0
    ) -> None:
        """``page`` is a refusal: no session, one audit record with its code, and nothing at the application."""
        wanted = (status,) if isinstance(status, int) else status
        assert page.status in wanted, (page.status, page.headers, page.body)
        assert not begins_session(page), page.headers
        code = page.headers["Authproxy-Refusal"]
        assert not codes or code in codes, (code, codes)
        assert self.codes(page) == [code], self.records()[-4:]
        said = [
            one.get("reason", "") for one in self.records() if one.get("request_id") == page.headers["X-Request-Id"]
        ]
        assert any(reason in text for text in said), said
        assert not await self.is_in()
        assert self.reached() == reached

    async def refused_sign_in(self, *codes: str, status: int | tuple[int, ...] = (400, 403), reason: str = "") -> Page:
        """Try to sign in, and be refused."""
        page = await self.browser.navigate(await self.returning(), headers={"Sec-Fetch-Site": "cross-site"})
        await self.denied(page, *codes, status=status, reason=reason)
        return page

    def look_back(self, caplog: list[logging.LogRecord]) -> None:
        """Nothing crashed while nobody looked."""
        crashed = [record for record in caplog if record.exc_info or record.levelno >= logging.ERROR]
        assert crashed == [], [(record.name, record.getMessage(), record.exc_text) for record in crashed]
        for page in [page for browser in self.browsers for page in browser.visited]:
            ours = urlsplit(page.url).netloc.partition(":")[0].endswith(".test")
            if ours and page.status >= 500:
                assert page.headers.get("Authproxy-Refusal") in MEANT, (page.url, page.status, page.headers)


async def send(port: int, request: bytes) -> Raw:
    """Send bytes and read one answer's head; the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    finally:
        writer.close()
    return Raw(int(head.split(" ", 2)[1]), head)


def is_session(name: str) -> bool:
    """Whether a cookie of this name is, or is a part of, the session cookie."""
    plain = name.removeprefix("__Host-").removeprefix("__Secure-")
    return plain == SESSION or (plain.startswith(SESSION + "_") and plain[len(SESSION) + 1 :].isdigit())


def begins_session(page: Page) -> bool:
    """Whether an answer gives the browser a session cookie."""
    lines = [line.partition("=") for line in page.headers.getall("Set-Cookie", [])]
    return any(is_session(name) and not value.startswith(";") for name, _, value in lines)


def set_cookies(page: Page) -> dict[str, str]:
    """The Set-Cookie lines of an answer, by cookie name."""
    return {line.partition("=")[0]: line for line in page.headers.getall("Set-Cookie", [])}


def query(url: str) -> dict[str, str]:
    """The parameters of an address; the first of each name."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def with_query(url: str, *added: tuple[str, str], **changes: str | None) -> str:
    """``url`` with parameters set, or dropped where None; ``added`` ones come again."""
    parts = urlsplit(url)
    pairs = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in changes]
    pairs += [(name, value) for name, value in changes.items() if value is not None]
    return urlunsplit(parts._replace(query=urlencode([*pairs, *added])))


def moved(url: str, port: int) -> str:
    """The same address on another replica."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{port}"))


def settings_for(peer: OpenIDPeer, app: UpstreamApp, audit: Path, **sections: Any) -> dict[str, Any]:
    """One application for whoever has signed in.  ``provider`` and ``application`` add to those two sections."""
    provider = sections.pop("provider", {})
    application = sections.pop("application", {})
    listen = {"address": "127.0.0.1:0", "admin": "127.0.0.1:0", **sections.pop("listen", {})}
    upstream = {"url": app.url, "authorization": "id_token", **application.pop("upstream", {})}
    whole = {
        "public_url": f"http://{PUBLIC}",
        "session": {"keys": [{"value": SESSION_KEY}], **sections.pop("session", {})},
        "providers": {"peer": peer.settings(**provider), **sections.pop("providers", {})},
        "policies": {"people": {"any": [{"authenticated": True}]}, **sections.pop("policies", {})},
        "apps": {
            "app": {
                "host": HOST,
                "provider": "peer",
                "upstream": upstream,
                "routes": [{"path": "/", "policy": "people"}],
                **application,
            },
            **sections.pop("apps", {}),
        },
        "audit": {"file": str(audit)},
    }
    return {**whole, "listen": listen, **sections}


Set = Callable[..., Awaitable[Stage]]


async def build(stack: AsyncExitStack, app: UpstreamApp, folder: Path, **options: Any) -> Stage:
    """A stage.  ``peer``: options of the provider; ``before``: called with the provider before any proxy asks it;
    ``replicas``; ``https``; the rest are sections of the settings.
    """
    clock = Clock()
    peer = await stack.enter_async_context(OpenIDPeer(**{"clock": clock, **options.pop("peer", {})}))
    options.pop("before", _nothing)(peer)
    browser = await stack.enter_async_context(StrictBrowser())
    stage = Stage(peer, app, browser, clock, folder)
    stage.scheme = "https" if options.pop("https", False) else "http"
    for _ in range(options.pop("replicas", 1)):
        await add_replica(stack, stage, **options)
    return stage


def _nothing(_peer: OpenIDPeer) -> None:
    """The provider is as it should be."""


async def add_replica(stack: AsyncExitStack, stage: Stage, **options: Any) -> Authproxy:
    """One more proxy on the stage."""
    audit = stage.folder / f"audit-{len(stage.proxies)}.jsonl"
    port = free_port()
    listen = {"address": f"127.0.0.1:{port}", **options.pop("listen", {})}
    public = options.pop("public_url", f"{stage.scheme}://{PUBLIC}:{port}")
    data = settings_for(stage.peer, stage.app, audit, public_url=public, listen=listen, **options)
    proxy = Authproxy(from_mapping(data, stage.folder, {}), clock=stage.clock)
    await stack.enter_async_context(proxy)
    stage.proxies.append(proxy)
    stage.audits.append(audit)
    return proxy


async def another_browser(stack: AsyncExitStack, stage: Stage) -> StrictBrowser:
    """A second person, or a second machine."""
    browser = await stack.enter_async_context(StrictBrowser())
    stage.browsers.append(browser)
    return browser
