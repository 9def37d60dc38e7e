"""Bodies too large to be held: made, sent and taken piece by piece, and compared by their digests.

Both ends are blocking sockets in threads, so that a test may have either of them stall until it is told to go on.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.peers.program import PATIENCE

BLOCK: Final = 1_000_003
"""Octets of a piece, and of a chunk: a prime, so that no buffer of a power of two ever ends where a piece does."""
"""Seconds that either end waits for the other."""
ROOM: Final = 1 << 20
"""Octets that the kernel may keep for either end; by itself it takes some ten times as many."""


def _narrow(sock: socket.socket) -> None:
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, ROOM)


class Content(NamedTuple):
    """What went one way: how many octets, and their SHA-256."""

    octets: int
    digest: str


class Tally:
    """Counts what comes by; stops at ``stall`` octets, if it has any, until ``release`` is called."""

    def __init__(self, stall: int | None = None) -> None:
        self.octets = 0
        self._digest: Final = hashlib.sha256()
        self._stall = stall
        self._released: Final = threading.Event()

    def add(self, piece: bytes | memoryview) -> None:
        """One more piece."""
        self._digest.update(piece)
        self.octets += len(piece)
        if self._stall is not None and self.octets >= self._stall:
            self._released.wait(PATIENCE)

    def release(self) -> None:
        """Go on."""
        self._released.set()

    @property
    def content(self) -> Content:
        """All of it."""
        return Content(self.octets, self._digest.hexdigest())


def pieces(octets: int) -> Iterator[bytes]:
    """So many octets, the same ones each time; no two pieces are alike."""
    pattern = random.Random(octets).randbytes(BLOCK)
    for number in range(-(-octets // BLOCK)):
        yield (number.to_bytes(8, "big") + pattern[8:])[: octets - number * BLOCK]


def content(octets: int) -> Content:
    """What ``pieces`` come to."""
    tally = Tally()
    for piece in pieces(octets):
        tally.add(piece)
    return tally.content


class BulkServer(ThreadingHTTPServer):
    """The application: PUT says what arrived, GET ``?octets=N`` (``&chunked``) sends so many.

    ``tally`` is that of the request under way, the one of number ``asked``; ``stall`` is where the next one stops.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.tally = Tally()
        self.stall: int | None = None
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Bulk)
        _narrow(self.socket)  # those that it accepts are as narrow

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def begun(self) -> Tally:
        """The tally of a new request."""
        self.tally, self.stall = Tally(self.stall), None
        self.asked += 1
        return self.tally

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever breaks off is the test's to judge."""


class _Bulk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: BulkServer

    def do_PUT(self) -> None:
        tally = self.server.begun()
        for size in self._sizes():
            self._take(size, tally)
        self._answer(json.dumps(tally.content).encode())

    def _sizes(self) -> Iterator[int]:
        """The lengths of the parts that follow one another, each taken before the next is asked for."""
        if "Transfer-Encoding" not in self.headers:
            yield int(self.headers["Content-Length"])
            return
        while size := int(self.rfile.readline(), 16):
            yield size
            assert self.rfile.readline() == b"\r\n"
        assert self.rfile.readline() == b"\r\n"

    def _take(self, size: int, tally: Tally) -> None:
        room = memoryview(bytearray(min(size, 1 << 18)))
        while size:
            taken = self.rfile.readinto(room[: min(size, len(room))])
            if not taken:
                raise ConnectionError("the body broke off")
            tally.add(room[:taken])
            size -= taken

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        octets, chunked, tally = int(query["octets"][0]), "chunked" in query, self.server.begun()
        self.send_response(200)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(octets))))
        self.end_headers()
        for piece in pieces(octets):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            tally.add(piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextmanager
def bulk_server() -> Iterator[BulkServer]:
    """It serves until it is left."""
    with BulkServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.tally.release()
            server.shutdown()
            thread.join()


class BulkClient:
    """A client of the proxy on ``port`` with these headers; ``tally`` is that of the transfer under way."""

    def __init__(self, port: int, headers: Mapping[str, str], *, tls: bool = False) -> None:
        self._port, self._headers, self._tls = port, dict(headers), tls
        self.stall: int | None = None
        self.tally = Tally()

    def _connection(self) -> HTTPConnection:
        self.tally, self.stall = Tally(self.stall), None
        made = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        if self._tls:
            unchecked = ssl.create_default_context()  # whose certificate it is, is no question here
            unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
            made = HTTPSConnection("127.0.0.1", self._port, timeout=PATIENCE, context=unchecked)
        made.connect()
        _narrow(made.sock)
        return made

    def _counted(self, octets: int) -> Iterator[bytes]:
        for piece in pieces(octets):
            yield piece
            self.tally.add(piece)

    def upload(self, octets: int, *, chunked: bool) -> Content:
        """Send so many; what the application says that it got."""
        connection = self._connection()
        length = {} if chunked else {"Content-Length": str(octets)}
        try:
            connection.request("PUT", "/bulk", self._counted(octets), {**self._headers, **length})
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, (answer.status, said)
        return Content(*json.loads(said))

    def download(self, octets: int, *, chunked: bool) -> Content:
        """Ask for so many; what came."""
        connection = self._connection()
        room = memoryview(bytearray(1 << 18))
        try:
            connection.request("GET", f"/bulk?octets={octets}{'&chunked' * chunked}", headers=self._headers)
            answer = connection.getresponse()
            assert answer.status == 200, (answer.status, answer.read())
            assert (answer.getheader("Transfer-Encoding") == "chunked") is chunked
            while taken := answer.readinto(room):
                self.tally.add(room[:taken])
        finally:
            with suppress(OSError):
                connection.close()
        return self.tally.content
