"""Hostile requests through the ingress blocks of the documents, run as they stand: the application sees none of them.

Behind each ingress are the protected application of the page and ``blog``, which is public.  The tests look at what
reaches the protected application: what the ingress answers does not matter.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from posixpath import normpath
from typing import Any, Final
from urllib.parse import unquote

import pytest
import pytest_asyncio

from tests.hostile.ingress_pages import DOMAIN, PAGES, Ingress, IngressPage, ingress_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOG: Final = f"blog.{DOMAIN}"
VISIBLE: Final = [chr(byte) for byte in range(0x21, 0x7F)]
DESCRIBING: Final = (
    "X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-For",
    "X-Original-Method", "X-Original-URL", "X-Original-URI",
)  # fmt: skip
Attack = tuple[str, str]
"""The name in TLS, and the request."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PAGES, ids=str)
async def running(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ingress]:
    """One ingress for all attacks on a page, and the header lines of a client with a good credential."""
    async with ingress_of(request.param, tmp_path_factory.mktemp("ingress")) as ingress:
        ingress.credential = await ingress.sign_in()
        yield ingress


@pytest.fixture
def ingress(running: Ingress) -> Ingress:
    """The ingress, with nothing seen yet."""
    running.forget()
    return running


def request(ingress: Ingress, host: str, *lines: str, target: str = "", version: str = "1.1") -> str:
    """A request for the page's target, or for another; ``host`` is the value of Host, "" for none."""
    first = f"{ingress.page.method} {target or ingress.page.target} HTTP/{version}"
    hosts = [f"Host: {host}"] if host else []
    connection = [] if any(line.lower().startswith("connection:") for line in lines) else ["Connection: close"]
    return "\r\n".join([first, *hosts, *connection, "Content-Length: 0", *lines, "", ""])


async def sees_nothing(ingress: Ingress, attacks: Iterable[Attack], *, path: str = "") -> None:
    """The protected application sees no request; with ``path`` none whose target begins so."""
    tried = 0
    for name, attack in attacks:
        await ingress.send(attack, name=name)
        seen = [one for one in ingress.protected.requests if one.target.startswith(path)]
        assert seen == [], (name, attack, seen)
        tried += 1
    assert tried > 0


async def test_the_ingress_serves_what_it_should(ingress: Ingress) -> None:
    """The attacks prove something: without one, the credential opens the application, and the neighbour is public."""
    page = ingress.page
    answer = await ingress.send(request(ingress, page.host, ingress.credential.strip()))
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert [seen.target for seen in ingress.protected.requests] == [page.target]
    answer = await ingress.send(request(ingress, BLOG), name=BLOG)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert [seen.target for seen in ingress.blog.requests] == [page.target]


# --- which host: the request line, Host, TLS ---


def absolute_forms(ingress: Ingress, *lines: str, target: str = "") -> Iterator[Attack]:
    """A request line that names one host, a Host that names another, and each of the two in TLS."""
    own, path = ingress.page.host, target or ingress.page.target
    for scheme in ("https", "http", "HTTPS"):
        for first in (own, own.upper(), f"{own}:443", f"{own}."):
            for host in (BLOG, "auth.example.com", f"{BLOG}:443", "unknown.example.com", own):
                for name in (own, BLOG):
                    yield name, request(ingress, host, *lines, target=f"{scheme}://{first}{path}")
        for rest in ("", "?x", "#/x", "?/../x", f"?{path}"):
            yield own, request(ingress, BLOG, *lines, target=f"{scheme}://{own}{rest}")
        yield BLOG, request(ingress, own, *lines, target=f"{scheme}://{BLOG}{path}")
        yield BLOG, request(ingress, BLOG, *lines, target=f"{scheme}://{BLOG}@{own}{path}")
        yield BLOG, request(ingress, BLOG, *lines, target=f"{scheme}://{own}@{BLOG}{path}")


async def test_n1_the_request_line_names_another_host(ingress: Ingress) -> None:
    """The ingress chooses the server by the absolute form; the description is not what Host says."""
    await sees_nothing(ingress, absolute_forms(ingress))


def bytes_behind_host(ingress: Ingress, *lines: str, target: str = "") -> Iterator[Attack]:
    """Every visible byte behind a Host, also with more behind it, and where the request line chooses the server."""
    own = ingress.page.host
    absolute = f"https://{own}{target or ingress.page.target}"
    for byte in VISIBLE:
        hosts = [f"{BLOG}{byte}", f"{own}{byte}"]
        if not byte.isalnum():  # with a letter or a digit it is another name, wherever it stands
            hosts += [f"{BLOG}{byte}{own}", f"{BLOG}{byte}/page"]
        for host in hosts:
            yield own, request(ingress, host, *lines, target=target)
            if not byte.isalnum():
                yield own, request(ingress, host, *lines, target=absolute)


async def test_n2_a_byte_behind_host(ingress: Ingress) -> None:
    """``?``, ``#``, ``@`` and every other byte move nothing from one fact of the description into another."""
    await sees_nothing(ingress, bytes_behind_host(ingress))


async def test_n3_several_hosts(ingress: Ingress) -> None:
    """Duplicate, folded and listed Host headers, and names that look like Host."""
    own = ingress.page.host

    def attacks() -> Iterator[Attack]:
        for first, second in ((own, BLOG), (BLOG, own), (own, own)):
            for between in (
                "\r\nHost: ",
                "\r\nhost: ",
                "\r\n Host: ",
                "\r\n ",
                "\r\n\t",
                ", ",
                ",",
                " ",
                "\t",
                "\r\nHost : ",
            ):
                for name in (own, BLOG):
                    yield name, request(ingress, f"{first}{between}{second}")
        for alias in ("Host_", "X-Host", "X-HTTP-Host-Override", "X-Forwarded-Server", "X-Forwarded_Host", "Forwarded"):
            for value in (BLOG, f"host={BLOG};proto=https"):
                yield own, request(ingress, own, f"{alias}: {value}")
                yield BLOG, request(ingress, BLOG, f"{alias}: {value.replace('blog', ingress.page.app)}")

    await sees_nothing(ingress, attacks())


async def test_n4_connection_nominates(ingress: Ingress) -> None:
    """Connection takes no header out of the description, and none of ours out of what the application receives."""
    own = ingress.page.host
    nominated = (
        *DESCRIBING,
        "Cookie",
        "Authorization",
        "Host",
        "X-Forwarded-User",
        "X-Forwarded-Groups",
        "X-Request-Id",
    )

    def attacks() -> Iterator[Attack]:
        for name in nominated:
            for options in (f"close, {name}", f"{name.lower()}, close", f"close,{name},upgrade"):
                for host in (own, BLOG):
                    yield own, request(ingress, host, f"Connection: {options}")
        yield own, request(ingress, own, f"Connection: close, {', '.join(nominated)}")

    await sees_nothing(ingress, (one for one in attacks() if f"Host: {own}" in one[1]))
    for _, attack in attacks():
        await ingress.send(attack.replace("\r\n\r\n", f"\r\n{ingress.credential}\r\n"), name=own)
    assert ingress.protected.requests != []
    for seen in ingress.protected.requests:
        ours = [
            value
            for name, value in seen.headers
            if "authproxy" in value and name.lower() in ("cookie", "authorization")
        ]
        assert ours == [], seen
        assert seen.all("X-Forwarded-User") != [], seen


async def test_n5_http_1_0_and_older(ingress: Ingress) -> None:
    """Without Host a request reaches no application; with one it is judged like any other."""
    own = ingress.page.host

    def attacks() -> Iterator[Attack]:
        for name in (own, BLOG):
            yield name, request(ingress, "", version="1.0")
            yield name, request(ingress, "", version="1.1")
            yield name, request(ingress, own, version="1.0")
            yield name, request(ingress, BLOG, version="1.0", target=f"https://{own}/page")
            yield name, request(ingress, "", version="1.0", target=f"https://{own}/page")
            yield name, "GET /page\r\n"
            for empty in ("Host:", "Host: ", "Host: .", "Host: :443", "Host: [::1]", "Host: 127.0.0.1"):
                yield name, request(ingress, "", empty)

    await sees_nothing(ingress, attacks())


async def test_n6_other_spellings_of_the_host(ingress: Ingress) -> None:
    """With a port, in capitals, with a dot at the end: without a credential the application sees nothing."""
    own = ingress.page.host

    def attacks() -> Iterator[Attack]:
        for host in (
            f"{own}:443",
            f"{own}:80",
            f"{own}:8443",
            f"{own}:99999",
            own.upper(),
            own.title(),
            f"{own}.",
            f"{own}.:443",
        ):
            yield own, request(ingress, host)
            yield BLOG, request(ingress, host)

    await sees_nothing(ingress, attacks())


# --- what describes, and who asks ---


async def test_n7_a_client_describes_nothing(ingress: Ingress) -> None:
    """Describing headers of the client, in every spelling, alone, twice and all together, describe nothing."""
    own = ingress.page.host
    lies = {
        "X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": BLOG, "X-Forwarded-Uri": "/",
        "X-Forwarded-For": "127.0.0.1", "X-Original-Method": "GET", "X-Original-URL": f"https://{BLOG}/",
        "X-Original-URI": "/", "Forwarded": f"host={BLOG};proto=https", "X-Real-IP": "127.0.0.1",
        "X-Rewrite-URL": "/", "X-Authproxy-Secret": "a-secret-of-the-ingress-with-32-characters",
        "X-Auth-Request-User": "alice@example.com", "X-Forwarded-User": "alice@example.com",
    }  # fmt: skip

    def attacks() -> Iterator[Attack]:
        for name, value in lies.items():
            for spelling in (
                name,
                name.lower(),
                name.replace("-", "_"),
                name.replace("-", "_", 1),
                name.replace("-", "."),
            ):
                yield own, request(ingress, own, f"{spelling}: {value}")
                yield own, request(ingress, own, f"{spelling}: {value}", f"{spelling}: {value}")
        yield own, request(ingress, own, *(f"{name}: {value}" for name, value in lies.items()))

    await sees_nothing(ingress, attacks())


PATHS: Final = (
    "/admin/secret", "//admin/secret", "/./admin/secret", "/x/../admin/secret", "/x/..%2fadmin/secret",
    "/%61dmin/secret", "/admin%2fsecret", "/admin/%2e/secret", "/x/%2e%2e/admin/secret", "/admin;x/secret",
    "/x\\..\\admin/secret",
    "/x?/../admin/secret", "/x#/../admin/secret", "/admin//secret", "/ADMIN/../admin/secret", "/%2561dmin/secret",
    "https://{own}/x/../admin/secret", "https://{own}//admin/secret",
)  # fmt: skip


def is_closed(target: str) -> bool:
    """Whether a lenient server serves ``/admin/`` for this target."""
    path = unquote(target.partition("?")[0].partition("#")[0]).replace("\\", "/")
    return normpath("/" + path.lstrip("/")).startswith("/admin")


async def test_n8_no_host_lifts_a_user_over_a_rule(ingress: Ingress) -> None:
    """With a good credential, nothing of ``/admin/`` is reached by what Host, the request line or a header says."""
    mine = ingress.credential.strip()
    closed = "/admin/secret"

    def attacks() -> Iterator[Attack]:
        yield from bytes_behind_host(ingress, mine, target=closed)
        yield from absolute_forms(ingress, mine, target=closed)
        for name in DESCRIBING:
            value = {"URL": f"https://{ingress.page.host}{ingress.page.target}", "URI": ingress.page.target}
            lie = value.get(name[-3:].upper(), ingress.page.host)
            yield ingress.page.host, request(ingress, ingress.page.host, mine, f"{name}: {lie}", target=closed)

    await sees_nothing(ingress, attacks(), path="/admin")
    ingress.forget()
    for path in PATHS:
        await ingress.send(request(ingress, ingress.page.host, mine, target=path.format(own=ingress.page.host)))
    assert [seen.target for seen in ingress.protected.requests if is_closed(seen.target)] == []


async def test_n9_decisions_are_for_the_ingress_alone(ingress: Ingress) -> None:
    """A client that asks for a decision, in any spelling of the path, gets no cookie, no token and no name."""
    own = ingress.page.host
    lies = [f"{name}: {value}" for name, value in zip(DESCRIBING[:4], ("GET", "https", own, "/page"), strict=True)]
    for path in (
        "/authproxy-decision",
        "/oauth2/auth",
        "/oauth2//auth",
        "/oauth2/%61uth",
        "/x/../oauth2/auth",
        "/auth",
    ):
        for host in (own, "auth.example.com"):
            for lines in ([], lies):
                asked = request(ingress, host, ingress.credential.strip(), "Cookie: theme=dark", *lines, target=path)
                answer = (await ingress.send(asked, name=own)).partition(b"\r\n\r\n")[0].lower()
                assert b"x-auth-request" not in answer, (asked, answer)
                assert b"\r\nauthorization" not in answer, (asked, answer)


async def test_n10_the_application_receives_nothing_of_the_client_that_is_ours(ingress: Ingress) -> None:
    """No cookie of ours, no credential, and no describing or identity header but those that the ingress set."""
    own = ingress.page.host
    lies = [f"{name}: lie" for name in (*DESCRIBING, "Forwarded", "X-Real-IP", "X-Rewrite-URL", "X-Forwarded-Prefix")]
    lies += [f"X-Forwarded-{name}: lie" for name in ("User", "Email", "Groups", "Preferred-Username", "Port")]
    lies += [f"X-Auth-Request-{name}: lie" for name in ("User", "Email", "Groups", "Preferred-Username", "Cookie")]
    ours = "Cookie: theme=dark; authproxy_1=x; __Secure-authproxy=x; authproxy_state_1=x; __Host-authproxy_browser=x"
    for host, name, app in ((own, own, ingress.protected), (BLOG, BLOG, ingress.blog)):
        await ingress.send(request(ingress, host, ours, ingress.credential.strip(), *lies), name=name)
        seen = app.last
        assert [line for line in seen.headers if "lie" in line[1]] == []
        assert seen.all("Cookie") == ["theme=dark"]
        assert seen.all("Host") == [host]
        assert seen.all("X-Forwarded-Host") == [host]
        assert seen.all("X-Forwarded-For") == ["127.0.0.1"]
        assert not any("authproxy" in value for key, value in seen.headers if key.lower() != "authorization")


async def test_n11_a_name_of_no_server(ingress: Ingress) -> None:
    """TLS without a known name has no handshake; a request for an unknown host has no answer."""
    for name in ("unknown.example.com", "127.0.0.1"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ingress.send(request(ingress, ingress.page.host), name=name)
    for host in ("unknown.example.com", "127.0.0.1", f"{ingress.page.host}.evil.example", "localhost"):
        assert await ingress.send(request(ingress, host, ingress.credential.strip())) == b""
    assert ingress.protected.requests == []


RECIPE: Final = r"write `(server_name [^`]+;)`, and in `Host` and\s+`X-Forwarded-Host` write `([^`]+)`"


async def test_n12_a_wildcard_server(tmp_path: Path) -> None:
    """The recipe of the page for many hosts in one server: the name is what was captured, and nothing else."""
    page = PAGES[0]
    found = re.search(RECIPE, page.text)
    assert found is not None

    def recipe(block: str) -> str:
        wiki = block.replace(f"server_name {page.host};", found[1])
        return wiki.replace(f" Host {page.host};", f" Host {found[2]};").replace(
            f"-Host {page.host};", f"-Host {found[2]};"
        )

    here, there = "wiki.apps.example.com", "blog.apps.example.com"
    hosts = {page.app: here, "blog": there}
    async with ingress_of(page, tmp_path, recipe, hosts=hosts) as ingress:
        assert (await ingress.browser.open(ingress.at("/page", here))).status == 200
        assert ingress.protected.last.all("Host") == [here]
        ingress.forget()
        for byte in VISIBLE:
            for host in (f"{there}{byte}", f"{here}{byte}", f"{there}{byte}{here}"):
                await ingress.send(request(ingress, host, target="/secret"), name=here)
        for first, second in ((here, there), (there, here)):
            await ingress.send(request(ingress, second, target=f"https://{first}/secret"), name=here)
        assert [seen for seen in ingress.protected.requests if seen.all("Host") != [there]] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_n13_http_2_names_two_hosts(page: IngressPage, tmp_path: Path) -> None:
    """With HTTP/2 switched on, ``:authority``, ``host`` and ``:path`` that contradict each other reach nothing."""

    def http2(block: str) -> str:
        return block if " http2" in block else block.replace("listen 443 ssl", "listen 443 ssl http2")

    own, path = page.host, page.target
    base = ((":method", page.method), (":scheme", "https"))
    async with ingress_of(page, tmp_path, http2) as ingress:
        credential = (await ingress.sign_in()).strip().partition(": ")
        ingress.forget()
        mine = (credential[0].lower(), credential[2])
        await ingress.send_http2(*base, (":path", path), (":authority", own), mine)
        assert [seen.target for seen in ingress.protected.requests] == [path]
        ingress.forget()
        for authority in (own, BLOG, f"{BLOG}:443", f"{own}.", own.upper(), "", "unknown.example.com"):
            for host in (None, own, BLOG):
                fields = [*base, (":path", path), (":authority", authority)]
                await ingress.send_http2(*fields, *([("host", host)] if host else []))
                await ingress.send_http2(*fields[:-1], *([("host", host)] if host else []), ("host", authority))
        for byte in VISIBLE:
            if not byte.isalnum():
                for first, second in ((f"{BLOG}{byte}", own), (own, f"{BLOG}{byte}")):
                    await ingress.send_http2(*base, (":path", path), (":authority", first), ("host", second))
        for target in (f"https://{own}{path}", f"//{own}{path}", f"{path}#", "", "*", f"{path} HTTP/1.1"):
            await ingress.send_http2(*base, (":path", target), (":authority", BLOG), ("host", own), name=BLOG)
            await ingress.send_http2(*base, (":path", target), (":authority", own))
        await ingress.send_http2(*base, (":path", path), (":authority", BLOG), (":authority", own))
        await ingress.send_http2(*base, (":path", "/"), (":path", path), (":authority", own))
        assert ingress.protected.requests == []
        for authority, host in ((own, BLOG), (BLOG, own)):
            fields = [*base, (":path", "/admin/secret"), (":authority", authority), ("host", host), mine]
            await ingress.send_http2(*fields)
        assert ingress.protected.requests == []


async def test_n14_no_upgrade_but_websocket(ingress: Ingress) -> None:
    """An upgrade to another version of HTTP is a tunnel for requests that are not judged: none is passed on."""
    offers = (
        "h2c",
        "H2C",
        "h2c, websocket",
        "websocket, h2c",
        "HTTP/2.0",
        "TLS/1.0",
        "websocket h2c",
        "websocketx",
        "x",
    )
    settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    for host, app in ((ingress.page.host, ingress.protected), (BLOG, ingress.blog)):
        for offer in offers:
            lines = [
                "Connection: close, Upgrade, HTTP2-Settings",
                f"Upgrade: {offer}",
                settings,
                ingress.credential.strip(),
            ]
            await ingress.send(request(ingress, host, *lines), name=host)
        assert len(app.requests) == len(offers)
        asked = [seen for seen in app.requests if "upgrade" in " ".join(seen.all("Connection")).lower()]
        assert [seen.all("Upgrade") for seen in asked if seen.all("Upgrade") != ["websocket"]] == []
