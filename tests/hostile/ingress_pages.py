"""The ingress blocks of the documents, cut out and run as they stand with the real program.

A block is changed in these ways and in no other:

1. ``listen 443`` becomes ``listen 127.0.0.1:PORT``; the rest of the line stays.
2. A server's name behind ``://``, such as ``authproxy:8081`` or ``wiki:8080``, becomes an address on loopback.
3. A certificate for ``*.example.com`` is set around the block, where the page says to add one.
4. ``blog``, a public neighbour, is added as the page says: a copy of the protected application's server, with its name.

Clients resolve every name of ``example.com``, port 443, to that PORT, so that names and URLs stay those of the page.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import aiohttp
import yaml
from aiohttp.abc import ResolveResult

from authproxy.app import Authproxy
from authproxy.settings.load import from_mapping
from tests.hostile.harness import Clock
from tests.peers.authority import SERVER, Authority
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.browser_client import Browser, Loopback
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE as PATIENCE
from tests.peers.program import Program, free_port
from tests.peers.servers import installed
from tests.peers.upstream_app import UpstreamApp

ROOT: Final = Path(__file__).parents[2]
DOMAIN: Final = "example.com"


class IngressPage(NamedTuple):
    """One page with an ingress block, and what a client of its protected application does."""

    file: str
    program: str  # key of PROGRAMS, and the language of the block
    app: str  # the protected application, by its name in the settings and in the block
    method: str
    target: str  # what a client with a good credential may reach
    bearer: bool = False  # the credential is a bearer token; else the session of a person

    def __str__(self) -> str:
        return self.file

    @property
    def host(self) -> str:
        """Where the protected application is."""
        return f"{self.app}.{DOMAIN}"

    @property
    def text(self) -> str:
        """The whole page."""
        return (ROOT / self.file).read_text(encoding="utf-8")

    @property
    def block(self) -> str:
        """The configuration of the ingress as the page shows it."""
        if self.file.endswith(".md"):
            return self._fenced(self.program)
        head = re.split(r"(?m)^[^#\n]", self.text)[0]  # the comment before the settings
        return "\n".join(line[4:] for line in head.splitlines() if line.startswith("#   ")) + "\n"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as the page shows them."""
        found: dict[str, Any] = yaml.safe_load(self._fenced("yaml") if self.file.endswith(".md") else self.text)
        return found

    def _fenced(self, language: str) -> str:
        (block,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", self.text)
        return str(block)


PAGES: Final = (
    IngressPage("docs/how-to/nginx.md", "nginx", "wiki", "GET", "/page"),
    IngressPage("config/ingress.yaml", "nginx", "wiki", "GET", "/page"),
    IngressPage(
        "docs/how-to/grpc-and-http2.md", "nginx", "inventory", "POST", "/warehouse.v1.Inventory/List", bearer=True
    ),
)
"""Every ingress block of the documents.  A page of another program is added here and to PROGRAMS."""


# --- nginx ---

_FRAME: Final = """daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  ssl_certificate {certificate}; ssl_certificate_key {key};
{block}
{stand_ins}
}}
"""
_H2C: Final = """  server {{
    listen 127.0.0.1:{port} http2;
    location / {{ proxy_pass {url}; proxy_set_header Host $http_host; proxy_pass_request_headers on; }}
  }}
"""
"""A gRPC server in front of an application of the test, which speaks HTTP/1.1."""


def nginx_servers(text: str) -> list[str]:
    """The ``server`` sections of a configuration."""
    found = []
    for match in re.finditer(r"(?m)^server \{", text):
        depth, at = 0, match.start()
        for at in range(match.end() - 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                break
        found.append(text[match.start() : at + 1])
    return found


def nginx_neighbour(text: str, app: str, other: str) -> str:
    """``text`` with a copy of the server of ``app`` for ``other``, as the page says."""
    (server,) = [one for one in nginx_servers(text) if f"server_name {app}." in one]
    return f"{text}\n{server.replace(app, other)}\n"


def nginx_configuration(text: str, port: int, places: Mapping[str, str]) -> str:
    """``text`` with addresses put in; nothing that names another machine may be left."""
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    for name, address in places.items():
        text = text.replace(f"://{name}", f"://{address}")
    left = set(re.findall(r"(?<!\$scheme)://([^/;]+)", text)) - set(places.values())
    assert not left, left
    others = set(re.findall(r"listen ([^ ;]+)", text)) - {f"127.0.0.1:{port}"}
    assert not others, others
    return text


# --- what runs ---


class _Front(Loopback):
    """Resolves every name to loopback, and port 443 to the ingress."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: Any = 2) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        return [{**one, "port": self._port if port == 443 else port} for one in found]


class TlsBrowser(Browser):
    """A browser that trusts the authority of the test and reaches the ingress by the names of the page."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__()
        self._port, self._context = port, context

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.session.close()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_Front(self._port), use_dns_cache=False, ssl=self._context),
            cookie_jar=self.jar,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        )
        return self


class Ingress:
    """A running ingress with a page's block, authproxy with the page's settings, and two applications."""

    def __init__(self, page: IngressPage, port: int, authority: Path, clock: Clock) -> None:
        self.page, self.port, self.authority, self.clock = page, port, authority, clock
        self.context = ssl.create_default_context(cafile=str(authority))
        self.protected: UpstreamApp  # the application of the page
        self.blog: UpstreamApp  # its public neighbour
        self.peer: OpenIDPeer
        self.browser: TlsBrowser
        self.proxy: Authproxy
        self.credential = ""

    def forget(self) -> None:
        """Forget what the applications have seen."""
        self.protected.requests.clear()
        self.blog.requests.clear()

    def at(self, target: str, host: str = "") -> str:
        """The URL of ``target`` on a host of the page."""
        return f"https://{host or self.page.host}{target}"

    async def send(self, request: bytes | str, *, name: str | None = None) -> bytes:
        """Everything that the ingress answers on one connection whose TLS names ``name``; it must end by itself."""
        data = request.encode("latin-1") if isinstance(request, str) else request
        answer = b""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.context, server_hostname=self.page.host if name is None else name
            )
            try:
                writer.write(data)
                await writer.drain()
                answer = await reader.read()
            except ConnectionError:
                pass  # refused in the middle: there is no answer
            finally:
                writer.transport.abort()
        return answer

    async def send_http2(self, *fields: tuple[str, str], name: str | None = None) -> bytes:
        """The frames that answer one HTTP/2 request with these header fields and without a body."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols(["h2"])
        answer = b""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, server_hostname=name or self.page.host
            )
            try:
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
                writer.write(_frame(1, 0x5, 1, b"".join(_literal(*field) for field in fields)))
                while not _ends_stream(answer):
                    head = await reader.readexactly(9)
                    answer = head + await reader.readexactly(int.from_bytes(head[:3], "big"))
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # refused: the connection has ended
            finally:
                writer.transport.abort()
        return answer

    async def sign_in(self) -> str:
        """Header lines of a client who may reach the page's target, and not ``/admin/``."""
        if self.page.bearer:
            token = self.peer.id_token("alice", aud="inventory", groups=["readers"])
            return f"Authorization: Bearer {token}\r\n"
        page = await self.browser.open(self.at(self.page.target))
        assert page.status == 200, (page.url, page.status, page.headers, page.body)
        pairs = self.browser.cookies(self.at("/"))
        return "Cookie: " + "; ".join(f"{name}={value}" for name, value in pairs.items()) + "\r\n"


# RFC 9113 section 4.1 and RFC 7541 section 6.2.2, as little as one request takes


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: str, value: str) -> bytes:
    """A header field that is not indexed and not compressed."""
    octets = b"\x00"
    for text in (name.encode("latin-1"), value.encode("latin-1")):
        more = len(text) - 127  # a length is 7 bits, and then 7 bits a byte
        octets += bytes((len(text),)) if more < 0 else b"\x7f" + _integer(more)
        octets += text
    return octets


def _integer(number: int) -> bytes:
    octets = b""
    while number > 127:
        octets += bytes((number % 128 + 128,))
        number //= 128
    return octets + bytes((number,))


def _ends_stream(frame: bytes) -> bool:
    """Whether the answer is over with this frame: END_STREAM on HEADERS or DATA, RST_STREAM, GOAWAY."""
    return bool(frame) and (frame[3] in (3, 7) or (frame[3] in (0, 1) and frame[4] & 1 == 1))


def settings_of(
    page: IngressPage, peer: OpenIDPeer, urls: Mapping[str, str], hosts: Mapping[str, str], audit: Path
) -> dict[str, Any]:
    """The page's settings with addresses and secrets put in; ``blog`` and an ``/admin/`` that is closed to all."""
    data = page.settings
    data.pop("store", None)
    data["listen"] = {
        "address": "127.0.0.1:0", "decisions": "127.0.0.1:0", "admin": "127.0.0.1:0",
        "trusted_proxies": ["127.0.0.1/32"],
    }  # fmt: skip
    data["session"] = {**data["session"], "keys": [{"value": SESSION_KEY}]}
    for name, provider in data.get("providers", {}).items():
        kept = {key: provider[key] for key in ("scopes", "refresh_tokens") if key in provider}
        data["providers"][name] = peer.settings(**kept)
    for issuer in data.get("issuers", {}).values():
        issuer["issuer"] = peer.issuer
    if "secret" in data["forward_auth"]:
        data["forward_auth"]["secret"] = {"value": "a-secret-of-the-ingress-with-32-characters"}
    data["policies"] |= {"everybody": {"anonymous": True}, "closed": {"any": [{"groups": ["closed"]}]}}
    app = data["apps"][page.app]
    accept = app["routes"][-1].get("accept", ["session"])
    data["apps"] = {
        page.app: {**app, "routes": [{"path": "/admin/", "accept": accept, "policy": "closed"}, *app["routes"]]},
        "blog": {"host": "", "upstream": {}, "routes": [{"path": "/", "policy": "everybody"}]},
    }
    for name, url in urls.items():
        data["apps"][name]["upstream"] = {**data["apps"][name]["upstream"], "url": url}
        data["apps"][name]["host"] = hosts[name]
    return {**data, "audit": {"file": str(audit)}}


@asynccontextmanager
async def ingress_of(
    page: IngressPage,
    folder: Path,
    change: Callable[[str], str] = lambda block: block,
    hosts: Mapping[str, str] | None = None,
) -> AsyncIterator[Ingress]:
    """The page's block with ``change`` made in it, running in front of everything that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder, "authority")
    signed = authority.signed(DOMAIN, dns=(f"*.{DOMAIN}", f"*.apps.{DOMAIN}"), usage=SERVER)
    clock = Clock()
    async with AsyncExitStack() as stack:
        ingress = Ingress(page, free_port(), authority.file, clock)
        ingress.protected = await stack.enter_async_context(UpstreamApp())
        ingress.blog = await stack.enter_async_context(UpstreamApp())
        ingress.peer = await stack.enter_async_context(OpenIDPeer(clock=clock))
        ingress.browser = await stack.enter_async_context(TlsBrowser(ingress.port, ingress.context))
        urls = {page.app: ingress.protected.url, "blog": ingress.blog.url}
        named = hosts or {page.app: page.host, "blog": f"blog.{DOMAIN}"}
        data = settings_of(page, ingress.peer, urls, named, folder / "audit.jsonl")
        ingress.proxy = await stack.enter_async_context(Authproxy(from_mapping(data, folder, {}), clock=clock))
        await stack.enter_async_context(PROGRAMS[page.program](ingress, folder, signed, urls, change(page.block)))
        yield ingress


@asynccontextmanager
async def _nginx(
    ingress: Ingress, folder: Path, signed: Any, urls: Mapping[str, str], block: str
) -> AsyncIterator[Program]:
    program = installed("nginx")
    assert program, "nginx is not installed"
    places = {
        "authproxy:8080": ingress.proxy.addresses["public"],
        "authproxy:8081": ingress.proxy.addresses["decisions"],
    }
    stand_ins = ""
    for name, url in urls.items():
        places[f"{name}:8080"] = url.removeprefix("http://")
        if "grpc_pass" in block:
            port = free_port()
            places[f"{name}:50051"] = f"127.0.0.1:{port}"
            stand_ins += _H2C.format(port=port, url=url)
    if f"server_name {ingress.page.app}." in block:  # else one server has both names
        block = nginx_neighbour(block, ingress.page.app, "blog")
    text = nginx_configuration(block, ingress.port, places)
    file = folder / "nginx.conf"
    file.write_text(
        _FRAME.format(
            folder=folder, block=text, stand_ins=stand_ins, certificate=signed.certificate, key=signed.key
        ),
        encoding="utf-8",
    )  # fmt: skip
    async with Program(program, "-p", folder, "-c", file, "-e", "stderr") as running:
        await _listening(ingress.port, running)
        yield running


async def _listening(port: int, program: Program) -> None:
    """Wait until the program listens; another process gives no event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert program.exit_code is None, program.transcript()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


PROGRAMS: Final = {"nginx": _nginx}
"""How the block of each kind of ingress is run."""
