"""Reading the forms that our own pages receive: small, urlencoded, each field once."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from authproxy.body import octets
from authproxy.errors import BadRequest, ContentTooLarge

_MAX: Final = 64 * 1024
_TYPE: Final = "application/x-www-form-urlencoded"


async def raw_form(request: web.Request) -> str:
    """The urlencoded body of a POST.  Raises ``BadRequest`` for another type, ``ContentTooLarge`` past 64 KiB."""
    if request.content_type != _TYPE:
        raise BadRequest("not_a_form", f"This address takes {_TYPE}.")
    try:
        body = await octets(request, _MAX)
    except TimeoutError:
        raise BadRequest("form_too_slow", "The form did not arrive in time.") from None
    if body is None:
        raise ContentTooLarge("form_too_large", "The form is too large.")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("malformed_form", "The form cannot be read.") from None


def fields(encoded: str) -> dict[str, str]:
    """Names and values; a name that comes twice is refused, since only one of the values would be looked at."""
    try:
        found = parse_qsl(encoded, keep_blank_values=True, max_num_fields=50, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("malformed_form", "The form cannot be read.") from None
    if len({name for name, _ in found}) != len(found):
        raise BadRequest("duplicate_parameter", "The request names a parameter twice.")
    return dict(found)
