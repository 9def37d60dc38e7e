"""Other authenticating proxies, measured when they are installed: Apache with mod_auth_openidc, and oauth2-proxy.

Both sign the person in themselves and keep the session in the same Redis as authproxy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.candidates import Candidate, Entered
from benchmarks.nginx import listening
from benchmarks.processes import pinned
from benchmarks.request import HOST, headers_for
from benchmarks.stage import Stage
from tests.peers.program import Program, free_port

SBIN: Final = "/usr/sbin:/usr/local/sbin"
MODULES: Final = Path(os.environ.get("APACHE_MODULES", "/usr/lib/apache2/modules"))
"""Where Apache's modules are; Debian's place unless the environment says otherwise."""
SECRET: Final = "0123456789abcdef0123456789abcdef"

_APACHE: Final = """ServerRoot {folder}
ServerName {host}:{port}
UseCanonicalName Off
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
LogLevel error
{modules}
LogFormat "%h %l %u %t \\"%r\\" %>s %b %D" plain
CustomLog {folder}/access.log plain
Mutex pthread
ThreadLimit 512
ServerLimit 2
StartServers 1
MinSpareThreads 64
MaxSpareThreads 1024
ThreadsPerChild 512
MaxRequestWorkers 1024
MaxConnectionsPerChild 0
KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
LimitRequestFieldSize 32768
OIDCProviderMetadataURL {issuer}/.well-known/openid-configuration
OIDCClientID {client_id}
OIDCClientSecret "{client_secret}"
OIDCRedirectURI http://{host}:{port}/oidc/callback
OIDCScope "openid profile email groups"
OIDCPKCEMethod S256
OIDCCryptoPassphrase {secret}
OIDCCacheType redis
OIDCRedisCacheServer 127.0.0.1:{redis}
OIDCSessionInactivityTimeout 28800
OIDCSessionMaxDuration 86400
OIDCPassIDTokenAs serialized
OIDCRemoteUserClaim email
<Location />
  AuthType openid-connect
  Require claim groups:staff
  RequestHeader set Authorization "expr=Bearer %{{req:OIDC_id_token}}"
  RequestHeader set X-Forwarded-User "expr=%{{REMOTE_USER}}"
</Location>
ProxyPreserveHost On
ProxyPass /oidc/callback !
ProxyPass / http://127.0.0.1:{upstream}/ max=1024
"""

_LOADED: Final = (
    "mpm_event", "authn_core", "authz_core", "authz_user", "auth_openidc", "headers", "proxy", "proxy_http",
)  # fmt: skip

Rival = Callable[[Stage], Entered]


def found() -> tuple[list[Rival], list[str]]:
    """Those that are installed, and a line for each that is not."""
    there: list[Rival] = []
    absent: list[str] = []
    for rival, name, present in (
        (oauth2_proxy, "oauth2-proxy", shutil.which("oauth2-proxy") is not None),
        (apache, "Apache with mod_auth_openidc", _apache() is not None),
    ):
        if present:
            there.append(rival)
        else:
            absent.append(f"{name}: not installed, so not measured")
    return there, absent


def _apache() -> str | None:
    if not (MODULES / "mod_auth_openidc.so").is_file():
        return None
    return shutil.which("apache2") or shutil.which("apache2", path=SBIN)


def _apache_settings(stage: Stage, folder: Path, port: int) -> str:
    modules = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in _LOADED)
    peer = stage.peer
    return _APACHE.format(
        folder=folder, host=HOST, port=port, modules=modules, issuer=peer.issuer, client_id=peer.client_id,
        client_secret=peer.client_secret, secret=SECRET, redis=stage.redis.port, upstream=stage.application.port,
    )  # fmt: skip


@asynccontextmanager
async def _signed_in(stage: Stage, name: str, port: int, program: Program) -> AsyncIterator[Candidate]:
    with pinned(stage.cores.proxy):
        program.start()
    try:
        await listening(port, program)
        cookies = await stage.sign_in(port)
        yield Candidate(name, port, program.pid, headers_for(port, cookies), identifies=True)
    finally:
        await program.stop()


@asynccontextmanager
async def apache(stage: Stage) -> AsyncIterator[Candidate]:
    """Apache in its event model, with an access log and the session in Redis, encrypted as is its default."""
    folder, port = stage.folder / "apache", free_port()
    folder.mkdir()
    file, program = folder / "apache.conf", _apache()
    assert program is not None, "Apache is not installed"
    file.write_text(_apache_settings(stage, folder, port))
    running = Program(program, "-f", file, "-D", "FOREGROUND")
    async with _signed_in(stage, "mod_auth_openidc", port, running) as candidate:
        yield candidate


@asynccontextmanager
async def oauth2_proxy(stage: Stage) -> AsyncIterator[Candidate]:
    """oauth2-proxy with its request log in a file and the session in Redis."""
    folder, port, peer = stage.folder / "oauth2-proxy", free_port(), stage.peer
    folder.mkdir()
    words = {
        "provider": "oidc", "oidc-issuer-url": peer.issuer, "client-id": peer.client_id,
        "client-secret": peer.client_secret, "redirect-url": f"http://{HOST}:{port}/oauth2/callback",
        "scope": "openid profile email groups", "code-challenge-method": "S256", "skip-provider-button": "true",
        "email-domain": "*", "allowed-group": "staff", "cookie-secret": SECRET, "cookie-secure": "false",
        "session-store-type": "redis", "redis-connection-url": stage.redis.url,
        "http-address": f"127.0.0.1:{port}", "upstream": f"{stage.application.url}/",
        "pass-authorization-header": "true", "logging-filename": str(folder / "requests.log"),
    }  # fmt: skip
    running = Program("oauth2-proxy", *(f"--{name}={text}" for name, text in words.items()))
    async with _signed_in(stage, "oauth2-proxy", port, running) as candidate:
        yield candidate
