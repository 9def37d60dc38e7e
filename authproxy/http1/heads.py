"""Heads of requests and responses, parsed by llhttp one at a time.

The parser is given exactly one head, up to its empty line, and never a body: what follows on a connection is framed
by ``chunks`` or by a length, so that two readings of one stream cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

import httptools

from authproxy.model import HeaderList, Headers

END: Final = b"\r\n\r\n"


class Malformed(ValueError):
    """Not HTTP/1.1 as RFC 9112 says it.  The message is ours and quotes nothing."""


class RequestHead:
    """A request line and its header lines, exactly as they came but for blanks around values."""

    __slots__ = ("headers", "keep_alive", "length", "method", "target", "upgrade", "version")

    def __init__(
        self, method: str, target: bytes, version: tuple[int, int], headers: Headers, keep_alive: bool, upgrade: bool,
        length: int | None = 0,
    ) -> None:  # fmt: skip
        self.method: Final = method
        self.target: Final = target
        self.version: Final = version
        self.headers: Final = headers
        self.keep_alive: Final = keep_alive  # by version and Connection (RFC 9112 section 9.3)
        self.upgrade: Final = upgrade  # another protocol is asked for (RFC 9110 section 7.8), also by CONNECT
        self.length: Final = length  # octets of the body, None for a chunked one (RFC 9112 section 6.3)


class ResponseHead(NamedTuple):
    """A status line, without its phrase, and its header lines."""

    status: int
    version: tuple[int, int]
    lines: HeaderList
    keep_alive: bool  # by version and Connection (RFC 9112 section 9.3)


_Parser = httptools.HttpRequestParser | httptools.HttpResponseParser
_METHODS: Final = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~]*) HTTP/1\.1")
_VERSIONS: Final = {"1.1": (1, 1), "1.0": (1, 0)}


class _Heads:
    """What llhttp tells of one head."""

    def __init__(self) -> None:
        self._lines: list[tuple[bytes, bytes]] = []
        self._heads = 0
        self._whole = False
        self._keep_alive = False
        self._asked: Callable[[], bool] | None = None  # the parser's own word, which holds at the end of the head alone

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line.  The parser leaves blanks behind a value, which are no part of it (RFC 9112 section 5)."""
        self._lines.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The empty line."""
        self._heads += 1
        self._keep_alive = self._asked is not None and self._asked()

    def on_message_complete(self) -> None:
        """No body follows, as far as the parser knows."""
        self._whole = True

    def _fed(self, parser: _Parser, block: bytes) -> HeaderList:
        """The header lines of ``block``.  Afterwards the parser stands at the end of the head."""
        # RFC 9112 section 2.2: a line ends in CR LF.  A bare CR or LF is where two servers disagree about lines.
        ends = block.count(b"\r\n")
        if block.count(b"\n") != ends or block.count(b"\r") != ends:
            raise Malformed("a line that does not end in CR LF")
        self._lines, self._heads, self._whole = [], 0, False
        try:
            parser.feed_data(block)
        except httptools.HttpParserUpgrade:
            self._whole = False
        except httptools.HttpParserError as error:
            raise Malformed(type(error).__name__) from None
        if self._heads != 1:
            raise Malformed("not exactly one head")
        return tuple(self._lines)


def _version(parser: _Parser) -> tuple[int, int]:
    text = parser.get_http_version()
    return _VERSIONS.get(text) or _odd(text)


def _length(headers: Headers) -> int | None:
    """Of the body.  The parser has refused lengths that differ or are no numbers.

    What is ambiguous yet is refused by whoever serves, and its connection ends.
    """
    return None if b"transfer-encoding" in headers else int(headers.get(b"content-length") or b"0")


def _odd(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


class RequestHeads(_Heads):
    """Parses the requests of one connection: one parser, as long as no body gets in its way.

    Clients say the same header lines again and again.  Where the octets from the end of the request line on are the
    very same as last time, so is what they mean, and only the request line is looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block = b""  # the last head in HTTP/1.1 that ended in nothing unusual, and what it came to
        self.last: RequestHead | None = None
        self._fields = b""  # of ``block``, from the end of the request line on
        self._target = b""
        self._parser: httptools.HttpRequestParser | None = None

    def forget(self) -> None:
        """The next head is parsed as if none had come before."""
        self.block, self._fields, self.last = b"", b"", None

    def on_url(self, url: bytes) -> None:
        """The request target, in one or several pieces."""
        self._target += url

    def parse(self, block: bytes) -> RequestHead:
        """The head that is ``block``, which ends in the first empty line.  Raises Malformed."""
        line_end = block.find(b"\r\n")
        # RFC 9112 section 3: single spaces, and HTTP.  llhttp takes more of them, and RTSP.
        if block.count(b" ", 0, line_end) != 2 or block.find(b" HTTP/", 0, line_end) != line_end - 9:
            raise Malformed("a malformed request line")
        fields = block[line_end:]
        last = self.last
        if last is not None and fields == self._fields:
            line = _REQUEST_LINE.fullmatch(block, 0, line_end)
            if line is not None:
                method, target = line.groups()
                self.block = block
                self.last = RequestHead(_METHODS[method], target, (1, 1), last.headers, True, False, last.length)
                return self.last
        head = self._parsed(block)
        plain = head.version == (1, 1) and head.keep_alive and not head.upgrade
        self.block, self._fields, self.last = (block, fields, head) if plain else (b"", b"", None)
        return head

    def _parsed(self, block: bytes) -> RequestHead:
        parser = self._parser or self._fresh()
        self._parser, self._target = None, b""
        lines = self._fed(parser, block)
        upgrade = parser.should_upgrade()
        if self._whole and self._keep_alive and not upgrade:
            self._parser = parser  # it waits neither for a body nor for the end
        method = parser.get_method().decode("ascii")
        headers = Headers(lines, like=self.last.headers if self.last is not None else None)
        version = _version(parser)
        return RequestHead(method, self._target, version, headers, self._keep_alive, upgrade, _length(headers))

    def _fresh(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        self._asked = parser.should_keep_alive
        return parser


class ResponseHeads(_Heads):
    """Parses the responses of one connection."""

    def parse(self, block: bytes) -> ResponseHead:
        """The head that is ``block``, which ends in the first empty line.  Raises Malformed."""
        parser = httptools.HttpResponseParser(self)
        self._asked = parser.should_keep_alive
        lines = self._fed(parser, block)
        return ResponseHead(parser.get_status_code(), _version(parser), lines, self._keep_alive)
