"""Other people's HTTP servers behind the proxy: each forwards what it understood, as it understood it, to one recorder.

Their own reading of a request is the question; what reaches the recorder behind them is the answer.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.peers.program import PATIENCE, Program, free_port

NGINX = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000;
  large_client_header_buffers 8 32k;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    client_body_buffer_size 256k;
    merge_slashes off;
    underscores_in_headers on;
    location / {{
      proxy_pass http://127.0.0.1:{recorder};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Read-As $uri;
    }}
  }}
}}
"""
HAPROXY = """defaults
  mode http
  timeout connect 2s
  timeout client 20s
  timeout server 20s
frontend front
  bind 127.0.0.1:{port}
  default_backend recorder
backend recorder
  server one 127.0.0.1:{recorder}
"""
APACHE = """ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
AllowEncodedSlashes NoDecode
ProxyPreserveHost On
ProxyPass / http://127.0.0.1:{recorder}/ nocanon
"""


def installed(name: str) -> str | None:
    """Where a program is, as far as administrators' folders."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


SERVERS: Final = ("nginx", "haproxy", "apache2")
"""Those that the tests' machine has."""


@contextmanager
def serving(name: str, folder: Path, recorder: int) -> Iterator[int]:
    """The port of a server that passes everything on to the port ``recorder``."""
    port, place = free_port(), folder / name
    place.mkdir()
    text = {"nginx": NGINX, "haproxy": HAPROXY, "apache2": APACHE}[name]
    file = place / "server.conf"
    file.write_text(
        text.format(folder=place, port=port, recorder=recorder, modules="/usr/lib/apache2/modules"), encoding="utf-8"
    )
    words: dict[str, list[str | Path]] = {
        "nginx": ["-c", file, "-e", "stderr", "-p", place], "haproxy": ["-db", "-f", file],
        "apache2": ["-DFOREGROUND", "-f", file],
    }  # fmt: skip
    program = installed(name)
    assert program, f"{name} is not installed"
    running = Program(program, *words[name]).start()
    try:
        _answers(port, running)
        yield port
    finally:
        running.end()


def _answers(port: int, program: Program) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except OSError:
            assert program.exit_code is None, program.transcript()
            assert time.monotonic() < deadline, program.transcript()
            time.sleep(0.05)  # another process: there is no event to wait for
        else:
            return
