"""A plain Python application: the standard library's HTTP server, which notes every request as it read it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.peers.program import PATIENCE


class Noted(NamedTuple):
    """One request as this server read it."""

    method: str
    target: str
    body: bytes


class PlainServer(ThreadingHTTPServer):
    """``noted`` holds what was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.noted: list[Noted] = []
        super().__init__(("127.0.0.1", 0), _Answering)


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: PlainServer

    def _answer(self) -> None:
        body = self._body()
        self.server.noted.append(Noted(self.command, self.path, body))
        self.send_response(200)
        self.send_header("X-Recorder", "here")
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _answer  # noqa: N815 - named by the library

    def _body(self) -> bytes:
        if "Transfer-Encoding" not in self.headers:
            return self._exactly(int(self.headers.get("Content-Length", "0")))
        pieces = []
        while size := int(self._line(), 16):
            pieces.append(self._exactly(size))
            self.rfile.readline()
        while self._line().strip():
            pass
        return b"".join(pieces)

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError("the body broke off")
        return line

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the body broke off")
        return data

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing is written."""


class _Quiet(PlainServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A request that broke off is no request."""


@contextmanager
def plain_server() -> Iterator[PlainServer]:
    """It answers as long as this is open."""
    server = _Quiet()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
