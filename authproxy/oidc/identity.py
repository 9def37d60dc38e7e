"""From a provider's claims to the fields that the house works with.

Pure.  Claims are proved by now, but their shapes are the provider's: what cannot be understood is left out, which can
only ever take access away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

GROUPS: Final = 10_000
"""How many groups are read."""
_LENGTH: Final = 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class IdentityFields(NamedTuple):
    """Who somebody is, in the words of the house; "" stands for "not known"."""

    user: str
    email: str
    email_verified: bool
    preferred_username: str
    groups: tuple[str, ...]


def identity_fields(claims: Mapping[str, object], mapping: Mapping[str, str]) -> IdentityFields:
    """The fields, read from the claims that ``mapping`` (the settings' ``claims``) names.

    A name is a claim, or a path into nested claims with dots (``realm_access.roles``).  Without a mapping ``user`` is
    the e-mail address unless the provider says that it is not verified, else the preferred user name, else the subject.
    ``email_verified`` is true only for the JSON value true.
    """
    email = _line(find(claims, mapping.get("email", "email")))
    name = _line(find(claims, mapping.get("preferred_username", "preferred_username")))
    doubtful = claims.get("email_verified", True) is not True
    usual = ("" if doubtful else email) or name or _line(claims.get("sub"))
    return IdentityFields(
        user=_line(find(claims, mapping["user"])) if "user" in mapping else usual,
        email=email,
        email_verified=claims.get("email_verified") is True,
        preferred_username=name,
        groups=lines(find(claims, mapping.get("groups", "groups"))),
    )


def find(claims: Mapping[str, object], name: str, absent: object = None) -> object:
    """The value of a claim, by name or by a path with dots; ``absent`` when there is none."""
    if name in claims:  # a claim named by a URL has dots of its own
        return claims[name]
    value: object = claims
    for step in name.split("."):
        value = value.get(step, absent) if isinstance(value, Mapping) else absent
    return value


def _line(value: object) -> str:
    """One line of text that may go into a header and a log; anything else is as good as absent."""
    return value if isinstance(value, str) and len(value) <= _LENGTH and not _CONTROL.search(value) else ""


def lines(value: object) -> tuple[str, ...]:
    """The lines of text of a list, or the one of a string, each once."""
    entries: Iterable[object] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    found = dict.fromkeys(line for line in map(_line, entries) if line)
    return tuple(found)[:GROUPS]
