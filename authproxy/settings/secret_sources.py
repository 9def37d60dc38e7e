"""Secrets that the settings name: whether they can be read, and whether they are fit for their use.

Sees secrets for as long as a check takes.  No message ever holds one, nor a part or the length of one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

from authproxy.jose import sign
from authproxy.settings import crosscheck_store, htpasswd
from authproxy.settings.files import found
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import SecretRef
from authproxy.settings.scope import Scope

_SESSION_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=?")
_SHORTEST: Final = 32  # characters


def check(scope: Scope, environ: Mapping[str, str]) -> None:
    """Report every secret that cannot be used."""
    revealed = {}
    for path, ref in found(scope.settings, (), SecretRef):
        text = _reveal(scope, path, ref, environ)
        if text is not None:
            revealed[path] = text
    _session_keys(scope, revealed)
    _shared_secrets(scope, revealed)
    _clusters(scope, revealed)
    _signing_keys(scope, revealed)
    _redis_url(scope, revealed)
    _sent(scope, revealed)
    _password_files(scope, revealed)


def _reveal(scope: Scope, path: KeyPath, ref: SecretRef, environ: Mapping[str, str]) -> str | None:
    if ref.value is not None:
        scope.warn(path, "the secret stands in the settings file; move it to {file: …} or {env: …}")
    try:
        return ref.reveal(environ)
    except LookupError as error:
        scope.error(path, f"the secret cannot be used: {error.args[0]}", awaited=_is_awaited(path))
        return None


def _is_awaited(path: KeyPath) -> bool:
    """Whether serving may begin without it: a pod whose enrollment secret is missing says so and waits, unready."""
    return path[:2] in (("enrollment", "tokens"), ("enrollment", "signing_keys"))


def _session_keys(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    for index in range(len(scope.settings.session.keys)):
        path = ("session", "keys", index)
        if path in revealed and not _is_key(revealed[path]):
            scope.error(path, "must be 32 bytes in base64url; make one with `authproxy key`")


def _is_key(text: str) -> bool:
    """Whether ``text`` is 32 bytes in base64url, in the one way in which an encoder writes them."""
    bare = text.removesuffix("=")
    key = base64.urlsafe_b64decode(f"{bare}=") if _SESSION_KEY.fullmatch(text) else b""
    return len(key) == 32 and base64.urlsafe_b64encode(key).decode() == f"{bare}="


def _is_shared(path: KeyPath) -> bool:
    return path[:1] == ("tokens",) or path[:2] in (("enrollment", "tokens"), ("listen", "admin_secret"))


def _shared_secrets(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    for path, text in revealed.items():
        if _is_shared(path):
            fault = weakness(text)
            if fault:
                scope.error(path, fault, awaited=_is_awaited(path))
    forward = revealed.get(("forward_auth", "secret"))
    if forward is not None and weakness(forward) and not weakness_in_a_header(forward):
        scope.warn(("forward_auth", "secret"), weakness(forward))


def weakness(text: str) -> str:
    """Why ``text`` is not fit to be a shared secret; empty when it is."""
    if text.lower().startswith("change-me"):
        return "is still the placeholder; make a secret with `authproxy key`"
    if len(text) < _SHORTEST:
        return f"must be at least {_SHORTEST} characters; make a secret with `authproxy key`"
    fault = weakness_in_a_header(text)
    return f"{fault}; make a secret with `authproxy key`" if fault else ""


def _clusters(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    """Contract section 2: one secret under two names unites scopes; differing clusters are an error."""
    first: dict[str, str] = {}
    enrolling = {text for path, text in revealed.items() if path[:2] == ("enrollment", "tokens")}
    for path, text in revealed.items():
        if path[0] == "tokens":
            name = str(path[1])
            other = first.setdefault(text, name)
            if _bound(scope, name) != _bound(scope, other):
                scope.error(
                    path, f"is also a secret of tokens.{other}, which has other clusters; give each its own secret"
                )
            if text in enrolling:
                scope.error(path, "is also an enrollment token, which must open nothing else; give each its own secret")


def _bound(scope: Scope, name: str) -> frozenset[str] | None:
    clusters = scope.settings.tokens[name].clusters
    return None if clusters is None else frozenset(clusters)


def _signing_keys(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    known: dict[str, KeyPath] = {}
    for path, text in revealed.items():
        if path[:2] != ("enrollment", "signing_keys"):
            continue
        try:
            kid = sign.load_private(text).kid
        except ValueError as error:
            message = f"must be a private ES256 JWK, but {error}; make one with `authproxy key --signing`"
            scope.error(path, message, awaited=_is_awaited(path))
            continue
        other = known.setdefault(kid, path)
        if other != path:
            scope.error(path, f"has the same id as signing_keys[{other[-1]}]; remove one of the two", awaited=True)


def _password_files(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    for name, grammar in (("users", htpasswd.users), ("groups", htpasswd.groups)):
        path: KeyPath = ("basic", name)
        try:
            grammar(revealed.get(path) or "")
        except ValueError as error:
            if path in revealed:
                scope.error(path, f"{_source(scope, name)}: {error}")


def _source(scope: Scope, name: str) -> str:
    """Where the text of ``basic.users`` or ``basic.groups`` stands."""
    ref: SecretRef = getattr(scope.settings.basic, name)
    return str(ref.file or "the text")


def _redis_url(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    redis, text = scope.settings.store.redis, revealed.get(("store", "redis", "url"))
    if redis is not None and text is not None:
        crosscheck_store.check_url(scope, redis, text, secret=True)


def _sent(scope: Scope, revealed: Mapping[KeyPath, str]) -> None:
    """Secrets that a header carries: one with a control character would be dropped, or refused by the other side."""
    for path, text in revealed.items():
        if path[0] == "apps" or path == ("forward_auth", "secret"):
            scope.error(path, weakness_in_a_header(text))
        elif path[0] == "providers" and not text.isprintable():
            scope.error(path, "holds a line break or another control character; write the secret as it was issued")


def weakness_in_a_header(text: str) -> str:
    """Why ``text`` cannot be sent after ``Bearer`` (RFC 6750 section 2.1); empty when it can."""
    if not text.isascii() or not text.isprintable() or " " in text:
        return "must be printable ASCII without spaces, or it cannot be sent"
    return ""
