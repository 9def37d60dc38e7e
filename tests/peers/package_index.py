"""A package index on loopback with small wheels that the test describes, so that ``pip`` needs no network."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Wheel(NamedTuple):
    """A pure Python wheel with one module."""

    name: str
    version: str
    metadata: str = ""
    """Further lines of the METADATA file, such as ``Requires-Dist``."""

    @property
    def module(self) -> str:
        """The name of its only module."""
        return self.name.replace("-", "_")

    @property
    def filename(self) -> str:
        """The file name after the binary distribution format."""
        return f"{self.module}-{self.version}-py3-none-any.whl"

    def content(self) -> bytes:
        """The wheel as bytes: the same for the same description."""
        info = f"{self.module}-{self.version}.dist-info"
        head = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        files = {
            f"{self.module}.py": f"VERSION = {self.version!r}\n",
            f"{info}/METADATA": f"{head}{self.metadata}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        return packed.getvalue()

    def pin(self) -> str:
        """The line of a lock that names exactly this file."""
        return f"{self.name}=={self.version} --hash=sha256:{hashlib.sha256(self.content()).hexdigest()}\n"


class PackageIndex:
    """The wheels that an index offers, and the names of the projects that were requested from it."""

    def __init__(self, *wheels: Wheel) -> None:
        self.wheels = list(wheels)
        self.requested: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and body for a path; None where there is nothing."""
        if found := re.fullmatch(r"/simple/([a-z0-9-]+)/", path):
            self.requested.append(found[1])
            links = [f'<a href="/files/{one.filename}">x</a>' for one in self.wheels if one.name == found[1]]
            return ("text/html", f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode())
        for wheel in self.wheels:
            if path == f"/files/{wheel.filename}":
                return ("application/octet-stream", wheel.content())
        return None


@contextmanager
def package_index(*wheels: Wheel) -> Iterator[PackageIndex]:
    """Serve these wheels on a free loopback port."""
    index = PackageIndex(*wheels)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = index.answer(self.path)
            self.send_response(200 if found else 404)
            kind, body = found or ("text/plain", b"")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the test reads ``requested``."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_address[1]}/simple/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
