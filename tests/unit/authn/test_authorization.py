"""The Authorization header, taken apart."""

from __future__ import annotations

import pytest

from authproxy.authn import authorization
from authproxy.errors import BadRequest
from authproxy.model import Headers


def of(*lines: bytes) -> Headers:
    """Headers with these ``Authorization`` lines."""
    return Headers((b"Authorization", line) for line in lines)


def test_lines_of_one_scheme() -> None:
    """Only what follows the scheme asked for is given, in order; empty credentials are credentials."""
    headers = of(b"Bearer one", b"Basic two", b"bearer", b"BEARER  three")
    assert authorization.of_scheme(headers, b"bearer") == (b"one", b"", b"three")
    assert authorization.of_scheme(headers, b"basic") == (b"two",)
    assert authorization.of_scheme(of(), b"bearer") == ()


@pytest.mark.parametrize("lines", [(b"Bearer a", b"Bearer a"), (b"Bearer a", b"Basic b"), (b"Basic b",), ()])
def test_there_must_be_one_line(lines: tuple[bytes, ...]) -> None:
    """A second line, of whatever scheme, is an ambiguity."""
    with pytest.raises(BadRequest):
        authorization.the_only(of(*lines), b"bearer")


@pytest.mark.parametrize(
    ("credentials", "yes"),
    [
        (b"eyJhbGciOiJFUzI1NiJ9.e30.c2ln", True),
        (b"eyJ.e30.", True),  # alg none has no signature
        (b"ewo.e30.c2ln", True),  # "{" and a line break
        (b"e30.a.b", True),
        (b"IHsi.a.b", True),  # a space before the brace
        (b"abc.def.ghi", False),
        (b"eyJ.e30", False),
        (b"eyJ.e30.a.b", False),
        (b"eyJ.e 0.a", False),
        (b"a.b.c", False),
        (b"", False),
    ],
)
def test_what_looks_like_a_jwt(credentials: bytes, yes: bool) -> None:
    """Three base64url parts of which the first begins a JSON object."""
    assert authorization.looks_like_jwt(credentials) is yes
