"""A browser without a screen and without JavaScript: cookies, redirects, forms, and the headers that browsers send.

Every name resolves to this machine.  Redirects are followed step by step, so that a test can look at each of them, and
targets are sent as they are written: nothing is normalised on the way.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from html.parser import HTMLParser
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from tests.peers.program import PATIENCE

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Loopback(AbstractResolver):
    """Resolves every name to 127.0.0.1."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Form(NamedTuple):
    """One form of a page."""

    action: str  # as it is written; empty for the page itself
    method: str  # "GET" or "POST"
    fields: dict[str, str]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(at.get("action", ""), at.get("method", "get").upper(), {}))
        elif tag == "select":
            self._select = at.get("name", "")
        elif self.forms:
            self._field(tag, at)

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""

    def _field(self, tag: str, at: dict[str, str]) -> None:
        fields = self.forms[-1].fields
        if tag == "option" and self._select and ("selected" in at or self._select not in fields):
            fields[self._select] = at.get("value", "")
        if tag not in ("input", "textarea") or not at.get("name"):
            return
        if at.get("type") in ("checkbox", "radio") and "checked" not in at:
            return
        if at.get("type") not in ("submit", "button", "image"):
            fields[at["name"]] = at.get("value", "")


class Page(NamedTuple):
    """One answer."""

    url: str
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def host(self) -> str:
        """Host and port of its address."""
        return urlsplit(self.url).netloc

    @property
    def location(self) -> str | None:
        """Where it redirects to, absolute; None when it does not."""
        target = self.headers.get("Location")
        return urljoin(self.url, target) if self.status in REDIRECTS and target is not None else None

    @property
    def forms(self) -> list[Form]:
        """The forms in it, with the values that they hold."""
        parser = _Forms()
        parser.feed(self.text)
        return parser.forms

    def form(self, *names: str, action: str = "") -> Form:
        """The first form that has all these fields, and ``action`` in its action."""
        for form in self.forms:
            if form.fields.keys() >= set(names) and action in form.action:
                return form
        raise AssertionError(f"no form with {names} {action} on {self.url} ({self.status}): {self.forms}")


class Browser:
    """One browser profile; an async context manager.  Two of them share nothing."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self.visited: list[Page] = []  # every answer, oldest first
        self._headers = {
            "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) test",
            "Accept-Language": "en",
            **(headers or {}),
        }

    def __repr__(self) -> str:
        return f"<Browser {len(self.visited)} answers>"

    async def __aenter__(self) -> Self:
        self.jar = aiohttp.CookieJar(unsafe=True, quote_cookie=False)
        self.session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=self.jar,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            auto_decompress=True,
        )
        return self

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(resolver=Loopback(), use_dns_cache=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    def cookies(self, url: str) -> dict[str, str]:
        """The cookies that would be sent to ``url``."""
        return {name: morsel.value for name, morsel in self.jar.filter_cookies(URL(url)).items()}

    def forget(self) -> None:
        """Drop every cookie."""
        self.jar.clear()

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> Page:
        """One request, no redirect followed.  The target is sent as it is written."""
        async with self.session.request(
            method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False
        ) as response:
            page = Page(url, response.status, response.headers, await response.read())
        self.visited.append(page)
        return page

    async def navigate(
        self, url: str, *, method: str = "GET", data: Any = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        """What a click or the address bar sends; no redirect followed."""
        navigation = {
            "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
            "Sec-Fetch-Site": "none",
            "Upgrade-Insecure-Requests": "1",
            **(headers or {}),
        }
        return await self.request(method, url, headers=navigation, data=data)

    async def xhr(
        self, url: str, *, method: str = "GET", data: Any = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        """What ``fetch()`` in a page sends; no redirect followed."""
        script = {
            "Accept": "application/json",
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Dest": "empty",
            "Sec-Fetch-Site": "same-origin",
            **(headers or {}),
        }
        return await self.request(method, url, headers=script, data=data)

    async def follow(self, page: Page) -> Page:
        """One redirect."""
        assert page.location is not None, f"{page.url} answered {page.status}, not a redirect"
        site = "same-origin" if urlsplit(page.location).netloc == page.host else "cross-site"
        return await self.navigate(page.location, headers={"Sec-Fetch-Site": site})

    async def settle(self, page: Page, *, limit: int = 20) -> Page:
        """Follow redirects until there are none."""
        for _ in range(limit):
            if page.location is None:
                return page
            page = await self.follow(page)
        raise AssertionError(f"more than {limit} redirects: {[seen.url for seen in self.visited[-limit:]]}")

    async def open(self, url: str) -> Page:
        """Navigate and follow redirects until there are none."""
        return await self.settle(await self.navigate(url))

    async def submit(self, page: Page, form: Form, **fields: str) -> Page:
        """Submit ``form`` of ``page`` with ``fields`` filled in; redirects are followed."""
        url = urljoin(page.url, form.action) if form.action else page.url
        site = "same-origin" if urlsplit(url).netloc == page.host else "cross-site"
        values = {**form.fields, **fields}
        if form.method == "GET":
            url = str(URL(url).with_query(values))
            return await self.settle(await self.navigate(url, headers={"Sec-Fetch-Site": site}))
        headers = {**_provenance(page), "Sec-Fetch-Site": site}
        return await self.settle(await self.navigate(url, method="POST", data=values, headers=headers))


def _provenance(page: Page) -> dict[str, str]:
    """What a browser says about the page that a form was posted from: its policy may hide even the origin."""
    if page.headers.get("Referrer-Policy", "").strip() == "no-referrer":
        return {"Origin": "null"}
    return {"Origin": "{0.scheme}://{0.netloc}".format(urlsplit(page.url)), "Referer": page.url}
