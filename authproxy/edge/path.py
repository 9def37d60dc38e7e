"""Paths: the ways in which a server could understand one, and what a path of the settings file matches.

One path, one meaning.  This room lists the readings of a path and refuses those that no two servers agree on; it
compiles the patterns that routes and rules use.  It knows nothing of hosts, apps or callers, and never edits a path:
what is forwarded is what was received.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, NoReturn
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from authproxy.errors import BadRequest

Captures = tuple[tuple[str, str], ...]
Matcher = Callable[[str], Captures | None]

# Segments of harmless characters, none empty, none beginning with a dot: every server reads such a path alike.
_PLAIN: Final = re.compile(r"(?:/[A-Za-z0-9!$&'()*+,=:@_~-][A-Za-z0-9!$&'()*+,=:@_~.-]*)*/?")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SLASHES: Final = re.compile(r"/{2,}")
_PARAMETERS: Final = re.compile(r";[^/]*")
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)
_NAME_END: Final = re.compile(r"[;?#]")
_CAPTURE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LAYERS: Final = 4


def readings(raw: str) -> tuple[str, ...]:
    """The distinct readings of ``raw``, an origin-form path of visible ASCII; ``raw`` itself comes first.

    Raw; slashes merged; decoded once (strict UTF-8); each of them without path parameters (RFC 3986 section 3.3), cut
    where a decoded ``?`` or ``#`` would end the path, and NFKC-normalised.  A plain path has one reading.

    Raises BadRequest ``bad_path`` for broken escapes, bytes that are not UTF-8 and control characters, and
    ``ambiguous_path`` for dot segments and backslashes, however they are spelled.
    """
    if _PLAIN.fullmatch(raw):
        return (raw,)
    decoded = _decoded(raw)
    _refuse_disguises(decoded)
    ways = (raw, decoded, _PARAMETERS.sub("", raw), _decoded(_PARAMETERS.sub("", raw)), *_cuts(decoded))
    return tuple(dict.fromkeys(form for way in ways for form in (way, _SLASHES.sub("/", way))))


def _cuts(decoded: str) -> Iterator[str]:
    """What servers that cut, strip or normalise after decoding would see."""
    for text in (decoded, normalize("NFKC", decoded)):
        yield text
        yield _PARAMETERS.sub("", text)
        cut = _QUERY.sub("", text)
        yield cut
        yield _PARAMETERS.sub("", cut)


def _decoded(raw: str) -> str:
    """``raw`` percent-decoded once.  RFC 3629 section 3: overlong sequences and surrogates are not UTF-8."""
    if _BROKEN_ESCAPE.search(raw):
        raise BadRequest("bad_path", "The path holds a broken percent-escape.")
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("bad_path", "The path is not UTF-8.") from None
    if _CONTROL.search(text):
        raise BadRequest("bad_path", "The path holds control characters.")
    return text


def _refuse_disguises(decoded: str) -> None:
    """Peel further layers of encoding and refuse what appears: RFC 3986 section 6.2.2.3 would remove dot segments.

    A server that decodes twice, or normalises Unicode, would walk elsewhere than we judged.
    """
    text = decoded
    for _ in range(_LAYERS):
        folded = normalize("NFKC", text)
        if "\\" in folded or _CONTROL.search(folded) or ("." in folded and any(map(_is_dots, folded.split("/")))):
            _ambiguous()
        try:
            text = unquote_to_bytes(folded).decode("utf-8")
        except UnicodeDecodeError:
            _ambiguous()
        if text == folded:
            return
    _ambiguous()  # more layers than an honest client needs


def _is_dots(segment: str) -> bool:
    # ``..;x`` is ``..`` to servers that know path parameters, ``..%3f`` to those that cut after decoding, and some file
    # systems drop blanks at the end.
    return _NAME_END.split(segment, maxsplit=1)[0].strip() in (".", "..")


def _ambiguous() -> NoReturn:
    raise BadRequest("ambiguous_path", "The path can be understood in more than one way.")


@lru_cache(maxsize=4096)
def pattern(path: str) -> Matcher:
    """Compile a ``path:`` of the settings: ending in ``/`` it matches the prefix, otherwise exactly.

    ``{name}`` stands for one segment that is not empty.  The matcher takes one reading and gives the captures, or
    None.  A pattern with characters that clients must escape never matches: its raw and decoded readings differ.
    Raises ValueError with a sentence for the settings file.
    """
    if not path.startswith("/"):
        raise ValueError("must begin with /")
    segments = path.split("/")
    names = [found[1] for found in map(_CAPTURE.fullmatch, segments) if found]
    if path.count("{") + path.count("}") != 2 * len(names):
        raise ValueError("a {name} stands for a whole segment and is made of letters, digits and _")
    if len(set(names)) != len(names):
        raise ValueError("names the same segment twice")
    return _capturing(segments, names) if names else _literal(path)


def _literal(path: str) -> Matcher:
    if path.endswith("/"):
        return lambda reading: () if reading.startswith(path) else None
    return lambda reading: () if reading == path else None


def _capturing(segments: list[str], names: list[str]) -> Matcher:
    body = "/".join("([^/]+)" if _CAPTURE.fullmatch(part) else re.escape(part) for part in segments)
    compiled = re.compile(body)
    find = compiled.match if segments[-1] == "" else compiled.fullmatch

    def match(reading: str) -> Captures | None:
        found = find(reading)
        return tuple(zip(names, found.groups(), strict=True)) if found else None

    return match
