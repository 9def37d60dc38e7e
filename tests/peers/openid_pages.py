"""The pages and parameters of an OpenID peer."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from typing import Any, Final

from tests.peers.openid_signing import b64

LOGIN_FORM: Final = """<!doctype html><title>Sign in</title>
<form method="post"><label>Name <input name="username"></label>
<label>Password <input name="password" type="password"></label><button>Sign in</button></form>"""


def form_fields(page: str) -> list[tuple[str, str]]:
    """The hidden fields of an answer by form post."""
    inputs = page.split('<input type="hidden" name="')[1:]
    pairs = [text.partition('">')[0].partition('" value="') for text in inputs]
    return [(html.unescape(name), html.unescape(value)) for name, _, value in pairs]


def form_post(place: str, pairs: list[tuple[str, str]]) -> str:
    """A page that posts itself (OAuth 2.0 Form Post Response Mode)."""
    inputs = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">' for name, value in pairs
    )
    form = f'<form method="post" action="{html.escape(place)}">{inputs}</form>'
    return f'<!doctype html><body onload="document.forms[0].submit()">{form}'


def applied(members: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``members`` with ``overrides``; None leaves a member out."""
    return {name: value for name, value in (dict(members) | dict(overrides)).items() if value is not None}


def pairs_of(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters for a query; a list repeats one."""
    return [
        (name, str(one))
        for name, value in parameters.items()
        for one in (value if isinstance(value, list) else [value])
    ]


def challenge_of(verifier: str) -> str:
    """PKCE S256."""
    return b64(hashlib.sha256(verifier.encode()).digest())
