"""Checks of the Redis URL, from the settings file or from behind a secret."""

from __future__ import annotations

from authproxy.settings import redis_url
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import Redis
from authproxy.settings.scope import Scope

_URL: KeyPath = ("store", "redis", "url")


def check_url(scope: Scope, redis: Redis, text: str, *, secret: bool = False) -> None:
    """Report what is wrong with the URL ``text`` and with what does not fit it; no message repeats it."""
    try:
        url = redis_url.parse(text)
    except ValueError as error:
        scope.error(_URL, str(error))
        return
    if url.password and not secret:
        scope.warn(_URL, "holds a password; move it to store.redis.password, or the whole URL to {env: …}")
    if url.scheme == "rediss":
        return
    if redis.tls:
        scope.error(("store", "redis", "tls"), "is for sentinel and cluster; write rediss:// in the url instead")
    if redis.ca is not None:
        scope.warn(("store", "redis", "ca"), "is not used: only rediss:// speaks TLS; change the url, or remove it")
