"""The whole demo in one process: the provider, the sample app, and the proxy between them, all on loopback.

Nothing is kept: keys, the client secret and the audit file are made at start and gone at the end.
"""

from __future__ import annotations

import base64
import errno
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiohttp import web

from authproxy.app import Authproxy
from authproxy.demo.dashboard import Dashboard
from authproxy.demo.people import PEOPLE
from authproxy.demo.provider import DemoProvider
from authproxy.settings.load import from_mapping

CLIENT_ID: Final = "authproxy-demo"
_TRIES: Final = 50


async def run(port: int) -> None:
    """Serve until Ctrl-C.  The proxy is at ``http://localhost:port``, or the next free port, which is then said.

    Raises OSError when no port from ``port`` on is free.
    """
    chosen = free_port(port)
    secret = secrets.token_urlsafe(32)
    origins = (f"http://localhost:{chosen}", f"http://127.0.0.1:{chosen}")
    provider_port = free_port(chosen + 1 if chosen < 65535 else 1024)
    provider = demo_provider(f"http://127.0.0.1:{provider_port}", secret, origins)
    with TemporaryDirectory(prefix="authproxy-demo-") as folder:
        audit = Path(folder) / "audit.jsonl"
        async with serving(provider.application(), provider_port), serving(Dashboard().application()) as app_port:
            data = settings(
                port=chosen,
                issuer=provider.issuer,
                client_secret=secret,
                app=f"http://127.0.0.1:{app_port}",
                audit=audit,
            )
            async with Authproxy(from_mapping(data, Path(folder), name="demo")) as proxy:
                proxy.obey_signals()
                print(welcome(asked=port, port=chosen, issuer=provider.issuer, audit=audit), flush=True)
                await proxy.run_until_stopped()
    print("\nThe demo has ended. Nothing of it is left behind.", flush=True)


def demo_provider(issuer: str, secret: str, origins: tuple[str, ...]) -> DemoProvider:
    """The provider, which knows one client: the proxy at ``origins``."""
    return DemoProvider(
        issuer=issuer,
        client_id=CLIENT_ID,
        client_secret=secret,
        redirect_uris=frozenset(f"{at}/oauth2/callback{name}" for at in origins for name in ("", "/demo")),
        goodbye_uris=frozenset(f"{at}/oauth2/signed_out" for at in origins),
    )


def settings(*, port: int, issuer: str, client_secret: str, app: str, audit: Path) -> dict[str, Any]:
    """The proxy's settings, as a file would hold them."""
    return {
        "listen": {"address": f"127.0.0.1:{port}", "admin": None},
        "public_url": f"http://localhost:{port}",
        "session": {"keys": [{"value": base64.urlsafe_b64encode(os.urandom(32)).decode()}]},
        "providers": {
            "demo": {
                "title": "Demo ID",
                "issuer": issuer,
                "client_id": CLIENT_ID,
                "client_secret": {"value": client_secret},
                "scopes": ["openid", "profile", "email", "groups", "offline_access"],
                "claims": {"user": "email", "groups": "groups"},
            }
        },
        "policies": {
            "public": {"anonymous": True},
            "staff": {"any": [{"groups": ["staff"]}]},
            "admins": {"any": [{"groups": ["admins"]}]},
        },
        "apps": {
            "tideline": {
                "title": "Tideline",
                "host": "*",
                "provider": "demo",
                "upstream": {"url": app, "authorization": "id_token"},
                "routes": [
                    {"path": "/public", "policy": "public"},
                    {"path": "/static/", "policy": "public"},
                    {"path": "/admin/", "policy": "admins"},
                    {"path": "/", "policy": "staff"},
                ],
            }
        },
        "audit": {"file": str(audit)},
    }


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[int]:
    """Serve ``app`` on loopback while the block runs; gives the port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def free_port(first: int) -> int:
    """The first port from ``first`` on that is free on loopback.  Raises OSError when none of the next fifty is."""
    for port in range(first, min(first + _TRIES, 65536)):
        if _is_free(socket.AF_INET, "127.0.0.1", port) and _is_free(socket.AF_INET6, "::1", port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port from {first} on; choose another with --port")


def _is_free(family: socket.AddressFamily, address: str, port: int) -> bool:
    """Whether nobody listens there.  "localhost" means both families to a browser, so that both are looked at."""
    with suppress(OSError), closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL  # this machine has no IPv6
    return True


def welcome(*, asked: int, port: int, issuer: str, audit: Path) -> str:
    """What the terminal shows."""
    at = f"http://localhost:{port}"
    moved = (
        f"  Port {asked} is taken, so this is port {port}. To choose: authproxy demo --port N\n\n"
        if asked != port
        else ""
    )
    people = [(f"{one.username} / {one.password}", f"{one.name}: {', '.join(one.groups)}") for one in PEOPLE]
    tries = [
        (f"{at}/reports/harbour?year=2026", "a deep link survives the sign-in"),
        (f"{at}/admin/", "alice may, bob is told no"),
        (f"{at}/public", "no sign-in at all"),
        (f"{at}/oauth2/sign_out", "sign out, here and at the provider"),
        (f"curl -i {at}/api/time", "a script gets 401 and JSON"),
        (f"tail -f {audit}", "one line for each request"),
    ]
    return (
        f"\n  authproxy demo: open {_bold(at + '/')}\n\n{moved}"
        f"  Sign in as\n{_columns(people)}\n\n  Try\n{_columns(tries)}\n\n"
        f"  The sample app (Tideline) is behind the proxy; the provider (Demo ID) is at {issuer}.\n"
        "  Ctrl-C stops everything.\n"
    )


def _columns(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"    {left:<{width}}   {right}" for left, right in rows)


def _bold(words: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return words if plain else f"\033[1m{words}\033[0m"
