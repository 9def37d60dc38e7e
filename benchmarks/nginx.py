"""Two nginxes: the application that every candidate delivers to, and the plain reverse proxy they are held against.

The application serves bodies of three sizes from files, and at ``/seen`` tells what it was sent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

from tests.peers.program import PATIENCE, Program, free_port

SIZES: Final = {"/1k": 1024, "/64k": 65_536, "/1m": 1_048_576}
"""Targets, and the octets of their bodies."""
SEEN: Final = "/seen"
LARGE: Final = "/large"
"""Larger than what all buffers on its way can hold."""
SINK: Final = "/sink"
"""Takes a body, and answers when it is whole."""
_LARGE_OCTETS: Final = 1 << 26
TOLD: Final = ("authorization", "x_forwarded_user", "x_forwarded_email", "x_forwarded_groups", "cookie")
"""The request headers that ``/seen`` tells, a line each, in nginx's spelling."""
_USER: Final = "user root;\n" if os.getuid() == 0 else ""
"""Its workers read what this process wrote."""
FOREVER: Final = 1_000_000_000

_FRAME: Final = """{user}daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes {workers};
worker_rlimit_nofile 20000;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests {forever};
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
{http}
}}
"""

_APPLICATION: Final = """  sendfile on;
  tcp_nopush on;
  open_file_cache max=16;
  open_file_cache_valid 1h;
  large_client_header_buffers 8 32k;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/bodies;
    default_type application/octet-stream;
    location = {seen} {{ default_type text/plain; return 200 "{told}"; }}
    location = {sink} {{ client_max_body_size 0; proxy_pass http://127.0.0.1:{port}{seen}; }}
  }}"""

# Bodies fit into the buffers: with the default ones a megabyte goes through a temporary file.
_PROXY: Final = """  upstream application {{
    server 127.0.0.1:{upstream};
    keepalive 1024;
    keepalive_requests {forever};
    keepalive_timeout 1h;
  }}
  large_client_header_buffers 8 32k;
  proxy_buffer_size 16k;
  proxy_buffers 64 32k;
  proxy_busy_buffers_size 64k;
  proxy_max_temp_file_size 0;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://application;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-Id $request_id;
    }}
  }}"""


def executable() -> str | None:
    """Where nginx is; Debian keeps it away from the PATH of ordinary users."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """One running nginx on a free loopback port; an async context manager that is entered when it answers."""

    def __init__(self, folder: Path, http: str, *, workers: int = 1, **fields: str | int) -> None:
        program = executable()
        assert program, "nginx is not installed"
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._file = folder / "nginx.conf"
        inner = http.format(port=self.port, folder=folder, forever=FOREVER, **fields)
        self._file.write_text(_FRAME.format(user=_USER, folder=folder, workers=workers, forever=FOREVER, http=inner))
        self.program = Program(program, "-p", folder, "-c", self._file, "-e", "stderr")

    @property
    def url(self) -> str:
        """Scheme, address and port."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Nginx:
        self.program.start()
        try:
            await listening(self.port, self.program)
        except BaseException:
            await self.program.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.program.stop()


def application(folder: Path) -> Nginx:
    """What is behind the proxies."""
    bodies = folder / "bodies"
    bodies.mkdir(parents=True)
    for target, size in SIZES.items():
        (bodies / target.strip("/")).write_bytes(b"x" * size)
    with (bodies / LARGE.strip("/")).open("wb") as large:
        large.truncate(_LARGE_OCTETS)  # nothing of it is on the disk
    told = "\\n".join(f"{name}: $http_{name}" for name in TOLD)
    return Nginx(folder, _APPLICATION, seen=SEEN, sink=SINK, told=told)


def plain_proxy(folder: Path, *, upstream: int, workers: int = 1) -> Nginx:
    """A reverse proxy that judges nobody."""
    return Nginx(folder, _PROXY, workers=workers, upstream=upstream)


async def listening(port: int, program: Program) -> None:
    """Wait until somebody listens there; fails when the program ends before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert program.exit_code is None, program.transcript()
                await asyncio.sleep(0.02)  # another program: there is no event to wait for
            else:
                writer.close()
                return
