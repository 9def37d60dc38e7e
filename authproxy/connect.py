"""``check --connect``: try what the settings name, once each, and say what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from authproxy.errors import ProviderError, StoreUnavailable
from authproxy.oidc.issuer import Issuer
from authproxy.oidc.provider import Provider
from authproxy.settings.schema import Settings
from authproxy.store.opened import open_store
from authproxy.upstream.pool import address_of

_SECONDS = 5.0


async def try_connections(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """What was tried, and why it failed; "" when it answered."""
    if settings.store.redis is not None:
        yield "store", await _store(settings)
    for name, shape in settings.providers.items():
        async with Provider(name, shape) as provider:
            yield f"provider {name}", await _provider(provider)
    for name, entry in settings.issuers.items():
        async with Issuer(name, entry) as issuer:
            yield f"issuer {name}", await _issuer(issuer)
    for name, app in settings.apps.items():
        for url in app.upstream.urls or [app.upstream.url or ""]:
            yield f"upstream of {name} ({url})", await _upstream(url)


async def _store(settings: Settings) -> str:
    store = open_store(settings.store, budget=_SECONDS)
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


async def _issuer(issuer: Issuer) -> str:
    try:
        await issuer.ensure()
    except ProviderError as error:
        return str(error)
    return ""


async def _upstream(url: str) -> str:
    place = address_of(url)
    try:
        async with asyncio.timeout(_SECONDS):
            if place.port:
                _, writer = await asyncio.open_connection(place.host, place.port)
            else:
                _, writer = await asyncio.open_unix_connection(place.host)
        writer.close()
    except (OSError, TimeoutError) as error:
        return f"cannot connect: {error or 'no answer in time'}"
    return ""
