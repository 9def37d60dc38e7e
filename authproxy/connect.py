"""``check --connect``: try what the settings name, once each, and say what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from authproxy.errors import ProviderError, StoreUnavailable
from authproxy.oidc.provider import Provider
from authproxy.settings.schema import Settings
from authproxy.store.redis import RedisStore

_SECONDS = 5.0


async def try_connections(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """What was tried, and why it failed; "" when it answered."""
    if settings.store.redis is not None:
        yield "store", await _store(settings)
    for name, shape in settings.providers.items():
        async with Provider(name, shape) as provider:
            yield f"provider {name}", await _provider(provider)
    for name, app in settings.apps.items():
        for url in app.upstream.urls or [app.upstream.url or ""]:
            yield f"upstream of {name} ({url})", await _upstream(url)


async def _store(settings: Settings) -> str:
    redis = settings.store.redis
    assert redis is not None  # noqa: S101 -- the caller looked
    url = redis.url if isinstance(redis.url, str) else redis.url.reveal() if redis.url else ""
    store = RedisStore.standalone(
        url, username=redis.username, password=redis.password.reveal if redis.password else None,
        ca=str(redis.ca) if redis.ca else None, prefix=redis.prefix, budget=_SECONDS,
    )  # fmt: skip
    try:
        await store.ping()
    except StoreUnavailable as error:
        return str(error)
    finally:
        await store.close()
    return ""


async def _provider(provider: Provider) -> str:
    try:
        await provider.metadata()
        await provider.keys.ensure()
    except ProviderError as error:
        return str(error)
    return ""


async def _upstream(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        return f"cannot connect: {error or 'no answer in time'}"
    return ""
