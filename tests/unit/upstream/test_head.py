"""Response heads: what makes sense, and what is refused before a byte of it reaches a client."""

from __future__ import annotations

import pytest

from authproxy.errors import UpstreamFailed
from authproxy.model import HeaderList
from authproxy.upstream.head import Head, judged

CHUNKED = (b"Transfer-Encoding", b"chunked")


def framing(head: Head) -> tuple[int | None, bool]:
    """How the end of the body is known."""
    return head.length, head.chunked


def test_the_framing_is_what_the_lines_say() -> None:
    """A length, chunks, or neither; names in any case; one length said twice is one length."""
    assert framing(judged(200, (1, 1), ((b"content-LENGTH", b"5"),))) == (5, False)
    assert framing(judged(200, (1, 1), ((b"Content-Length", b"5"), (b"Content-Length", b"5")))) == (5, False)
    assert framing(judged(200, (1, 1), ((b"transfer-encoding", b"Chunked"),))) == (None, True)
    assert framing(judged(204, (1, 0), ())) == (None, False)
    assert judged(200, (1, 1), ((b"X", b"a\tb \xff"),)).headers == ((b"X", b"a\tb \xff"),)


REFUSED: dict[str, tuple[int, tuple[int, int], HeaderList]] = {
    "a status too low": (199, (1, 1), ()),
    "a switch": (101, (1, 1), ()),
    "a status too high": (600, (1, 1), ()),
    "a version too high": (200, (2, 0), ()),
    "a version too low": (200, (0, 9), ()),
    "both framings": (200, (1, 1), (CHUNKED, (b"Content-Length", b"5"))),
    "two codings": (200, (1, 1), (CHUNKED, CHUNKED)),
    "another coding": (200, (1, 1), ((b"Transfer-Encoding", b"gzip, chunked"),)),
    "no coding": (200, (1, 1), ((b"Transfer-Encoding", b""),)),
    "chunks in HTTP/1.0": (200, (1, 0), (CHUNKED,)),
    "two lengths": (200, (1, 1), ((b"Content-Length", b"5"), (b"Content-Length", b"6"))),
    "a list of lengths": (200, (1, 1), ((b"Content-Length", b"5, 5"),)),
    "a signed length": (200, (1, 1), ((b"Content-Length", b"+5"),)),
    "no length": (200, (1, 1), ((b"Content-Length", b""),)),
    "an endless length": (200, (1, 1), ((b"Content-Length", b"1" * 20),)),
    "an empty name": (200, (1, 1), ((b"", b"x"),)),
    "a name with a space": (200, (1, 1), ((b"X Y", b"x"),)),
    "a value with a line break": (200, (1, 1), ((b"X", b"a\r\nSet-Cookie: b"),)),
    "a value with NUL": (200, (1, 1), ((b"X", b"a\0"),)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused(name: str) -> None:
    """As 502, with a reason for the audit trail that repeats nothing of the answer."""
    with pytest.raises(UpstreamFailed) as refused:
        judged(*REFUSED[name])
    assert refused.value.code == "upstream_bad_response"
    assert "Set-Cookie" not in refused.value.reason
