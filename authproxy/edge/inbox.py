"""The heads of one connection: octets in, one request head after the other out, what cannot be one refused early."""

from __future__ import annotations

from typing import Final

from authproxy.edge import limits
from authproxy.errors import BadRequest, HeadTooLarge
from authproxy.http1.heads import END, Malformed, RequestHead, RequestHeads


class Inbox:
    """``data`` is what has come and was not taken yet."""

    __slots__ = ("_blank", "_heads", "data")

    def __init__(self) -> None:
        self.data = b""
        self._blank = False  # an empty line before a request line was skipped
        self._heads: Final = RequestHeads()

    def add(self, data: bytes) -> None:
        """More octets."""
        self.data = self.data + data if self.data else data

    def take(self) -> bytes:
        """All of it."""
        data, self.data = self.data, b""
        return data

    def forget(self) -> None:
        """What the last head came to: it may hold what was found out by settings that are gone."""
        self._heads.forget()

    @property
    def ready(self) -> bool:
        """Whether a whole head is there."""
        return END in self.data

    def head(self) -> RequestHead | None:
        """The next head, taken; None while it is not whole.

        Raises BadRequest ``malformed_request``, HeadTooLarge.
        """
        if self.data == self._heads.block and not self._blank:  # the very same octets mean the very same
            self.data = b""
            return self._heads.last
        if self.data.startswith(b"\r\n") and not self._blank:
            self._blank, self.data = True, self.data[2:]  # RFC 9112 section 2.2: one empty line is ignored
        end = self.data.find(END) + len(END)
        if end < len(END):
            self._check_beginning()
            return None
        if end > limits.HEAD:
            raise _too_large()
        block, self.data = self.data[:end], self.data[end:]
        self._blank = False
        return self._parsed(block)

    def _check_beginning(self) -> None:
        """Refuse what can never become a head, before its sender has to wait for the end of its time."""
        begun = self.data
        if len(begun) > limits.HEAD or (len(begun) > limits.LINE and b"\r\n" not in begun):
            raise _too_large()
        if begun and not (b"A" <= begun[:1] <= b"Z" or (begun == b"\r" and not self._blank)):
            raise _malformed()
        if begun.count(b"\n") != begun.count(b"\r\n"):
            raise _malformed()

    def _parsed(self, block: bytes) -> RequestHead:
        try:
            head = self._heads.parse(block)
        except Malformed as error:
            raise _malformed(str(error)) from None
        if len(head.headers) > limits.HEADER_LINES:
            raise _too_large()
        if len(block) > limits.LINE and any(len(line) > limits.LINE for line in block.split(b"\r\n")):
            raise _too_large()
        return head

    def __repr__(self) -> str:
        return f"<Inbox {len(self.data)} octets>"


def _malformed(reason: str = "") -> BadRequest:
    return BadRequest("malformed_request", "This is not a valid request.", reason=reason)


def _too_large() -> HeadTooLarge:
    return HeadTooLarge("head_too_large", "The head of the request is too large.")
