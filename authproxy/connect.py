"""``check --connect``: try each place that the settings name once, and report what does not work.

Connections are made as ``serve`` makes them: with the same certificate authorities, names and client certificates.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple

from authproxy import authz, routing
from authproxy.errors import ProviderError, StoreUnavailable
from authproxy.jose import strictjson
from authproxy.model import Upstream
from authproxy.oidc import advertised, fetch, metadata
from authproxy.oidc.issuer import Issuer
from authproxy.oidc.metadata import Metadata
from authproxy.oidc.provider import Provider
from authproxy.settings import redis_url, schema
from authproxy.settings.certificates import client_context
from authproxy.settings.schema import Settings
from authproxy.store.opened import address_of as store_address
from authproxy.store.opened import open_store
from authproxy.upstream.pool import Address, Pool, address_of

_SECONDS: Final = 5.0
_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_UNKNOWN: Final = (18, 19, 20, 21)  # X509_V_ERR_*: self-signed, or an issuer that is not among the authorities
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")


class _Remedies(NamedTuple):
    """What to write when a handshake fails."""

    name: str
    authority: str
    plain: str


_OF_UPSTREAMS: Final = _Remedies(
    "write the name that it is for as upstream.server_name",
    "write the authority as upstream.ca",
    "write http:// in the url, or another port",
)
_OF_REDIS: Final = _Remedies(
    "write the name that it is for as the host in store.redis",
    "write the authority as store.redis.ca",
    "write redis:// in the url, or leave out tls and ca",
)


class Tried(NamedTuple):
    """One place: why it does not work (empty when it does), and what may not work later."""

    name: str
    failure: str
    warnings: tuple[str, ...] = ()


async def try_connections(settings: Settings) -> AsyncIterator[Tried]:
    """The result for each place, in the order store, providers, issuers, upstreams."""
    if settings.store.redis is not None:
        yield Tried("store", await _store(settings))
    for name, shape in settings.providers.items():
        async with Provider(name, shape) as provider:
            yield await _provider(f"provider {name}", provider)
    for name, entry in settings.issuers.items():
        async with Issuer(name, entry) as issuer:
            yield Tried(f"issuer {name}", await _issuer(issuer))
    for app in routing.compile_apps(settings, authz.compile_policies(settings)):
        pool = Pool(app.upstream)
        try:
            for url in app.upstream.urls:
                yield Tried(f"upstream of {app.name} ({url})", await _upstream(pool, app.upstream, address_of(url)))
        finally:
            await pool.close()


async def _store(settings: Settings) -> str:
    redis = settings.store.redis
    for host, port in _tls_nodes(redis) if redis else ():
        failure = await _handshake(host, port, client_context(redis.ca if redis else None))
        if failure:
            return f"{host}:{port}: {failure}"
    store = open_store(settings.store, budget=_SECONDS)
    try:
        await store.ping()
    except StoreUnavailable as error:
        return str(error)
    finally:
        await store.close()
    return ""


def _tls_nodes(redis: schema.Redis) -> Iterator[tuple[str, int]]:
    """The servers that are connected to by TLS: the store itself reports no more than that there is no connection."""
    cluster = redis.sentinel or redis.cluster
    if cluster is None:
        url = redis_url.parse(store_address(redis))
        if url.scheme == "rediss":
            yield url.host, url.port
    elif redis.tls or redis.ca:
        for node in cluster.nodes:
            host, _, port = node.rpartition(":")
            yield host.strip("[]"), int(port)


async def _handshake(host: str, port: int, context: ssl.SSLContext) -> str:
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        writer.close()
    except ssl.SSLError as error:
        return f"TLS failed: {_tls(error, host, _OF_REDIS)}"
    except (OSError, TimeoutError) as error:
        return f"cannot connect: {error or 'no answer in time'}"
    return ""


async def _provider(name: str, provider: Provider) -> Tried:
    shape = provider.settings
    try:
        found = await provider.metadata()
        await provider.keys.ensure()
        async with fetch.session(shape.ca) as http:
            for place in _called(found, shape):
                await fetch.exchange(http, "GET", place)  # any status shows that TLS and the name are right
            document = await _document(http, shape)
    except ProviderError as error:
        return Tried(name, str(error))
    if document is None:
        warning = "the discovery document cannot be had; client_auth and scopes were not compared with it"
        return Tried(name, "", (warning,))
    findings = advertised.compare(document, shape)
    return Tried(name, "; ".join(findings.errors), findings.warnings)


def _called(found: Metadata, shape: schema.Provider) -> Iterator[str]:
    """The endpoints that authproxy itself calls, beside discovery and keys."""
    yield found.token
    if shape.userinfo and found.userinfo:
        yield found.userinfo
    if found.revocation:
        yield found.revocation


async def _document(http: fetch.Session, shape: schema.Provider) -> dict[str, object] | None:
    try:
        return strictjson.load_object(await fetch.document(http, metadata.discovery_url(shape.issuer, shape.endpoints)))
    except (ProviderError, ValueError):  # metadata() has reported it, unless the settings name all endpoints
        return None


async def _issuer(issuer: Issuer) -> str:
    try:
        await issuer.ensure()
    except ProviderError as error:
        return str(error)
    return ""


async def _upstream(pool: Pool, upstream: Upstream, place: Address) -> str:
    try:
        async with asyncio.timeout(_SECONDS):
            connection = await pool.connect(place)
        connection.let_go()
    except ssl.SSLError as error:
        return f"TLS failed: {_tls(error, upstream.server_name or place.host, _OF_UPSTREAMS)}"
    except (OSError, TimeoutError) as error:
        return f"cannot connect: {error or 'no answer in time'}"
    return ""


def _tls(error: ssl.SSLError, name: str, remedies: _Remedies) -> str:
    """What OpenSSL found, and what to write."""
    code = getattr(error, "verify_code", None)
    if code in _WRONG_NAME:
        return f"its certificate is not for {name}; {remedies.name}"
    if code in _UNKNOWN:
        return f"its certificate is signed by an unknown authority; {remedies.authority}"
    if code == _EXPIRED:
        return "its certificate has expired"
    if error.reason in _NO_TLS:
        return f"the server does not speak TLS on this port; {remedies.plain}"
    detail = getattr(error, "verify_message", None) or str(error.reason or "").replace("_", " ").lower()
    return detail or "the handshake was refused"
