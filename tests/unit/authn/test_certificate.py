"""A client certificate that the listener has verified: who it is, and when it is nobody."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from authproxy.authn.certificate import CertificateAuthenticator
from authproxy.edge.request_info import TrustedProxies
from authproxy.errors import NotAuthenticated
from authproxy.model import Identity, RequestInfo
from authproxy.settings.schema import Certificates
from tests.unit import values
from tests.unit.authn.requests import MATCH, Clock

NOW = 1_800_000_000.0  # 15 January 2027
LATER = "Jan 16 00:00:00 2027 GMT"
SPIFFE = "spiffe://example.com/ns/flux/sa/operator"
INGRESS = "10.0.0.1"


def certificate(*subject: tuple[str, str], san: tuple[tuple[str, str], ...] = (), ends: str = LATER) -> dict[str, Any]:
    """What ``ssl.getpeercert`` says of one."""
    return {"subject": tuple((part,) for part in subject), "subjectAltName": san, "notAfter": ends}


FLUX = certificate(
    ("organizationName", "readers"), ("commonName", "flux"), ("organizationName", "ops"),
    san=(("DNS", "eu.example.com"), ("URI", SPIFFE), ("DNS", "us.example.com"), ("IP Address", "192.0.2.1")),
)  # fmt: skip


def of(**shape: Any) -> CertificateAuthenticator:
    """An authenticator that reads certificates so."""
    return CertificateAuthenticator(Certificates(**shape), clock=Clock(NOW))


async def proved(shown: dict[str, Any], **shape: Any) -> Identity:
    """Who the certificate is."""
    info = values.info(certificate=shown, tls=True)
    return (await of(**shape).authenticate(info, MATCH)).identity


async def test_a_name_and_nothing_else() -> None:
    """By default the common name is subject and user; no groups, no scopes, no cluster that binds it."""
    flux = await proved(FLUX)
    assert (flux.kind, flux.subject, flux.user, flux.groups, flux.scopes, flux.clusters) == (
        "certificate", "flux", "flux", (), frozenset(), None,
    )  # fmt: skip
    assert flux.expires_at == 1_800_057_600.0


async def test_everything_that_the_settings_name() -> None:
    """Scopes are the settings'; groups are the organisations; clusters are all names of the kind that is named."""
    flux = await proved(FLUX, subject="uri_san", clusters="dns_san", groups="o", scopes=["read"])
    assert (flux.user, flux.groups, flux.scopes) == (SPIFFE, ("readers", "ops"), frozenset({"read"}))
    assert flux.clusters == frozenset({"eu.example.com", "us.example.com"})


async def test_no_cluster_binds_to_none_at_all() -> None:
    """Where clusters are read and the certificate has none, it opens no cluster, instead of every one."""
    assert (await proved(certificate(("commonName", "flux")), clusters="dns_san")).clusters == frozenset()


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ({"subject": "cn"}, certificate(("organizationName", "x"))),
        ({"subject": "cn"}, certificate(("commonName", "flux"), ("commonName", "admin"))),
        ({"subject": "o"}, FLUX),
        ({"subject": "dns_san"}, FLUX),
        ({"subject": "uri_san"}, certificate(("commonName", SPIFFE))),
        ({"subject": "dns_san"}, certificate(san=(("DNS", "a.example.com\0.evil.com"),))),
        ({"clusters": "dns_san"}, certificate(("commonName", "flux"), san=(("DNS", "eu.example.com\0"),))),
        ({"groups": "o"}, certificate(("commonName", "flux"), ("organizationName", "staff\n"))),
        ({"subject": "cn"}, certificate(("commonName", ""))),
        ({"subject": "cn"}, certificate(("commonName", " flux"))),
        ({"subject": "cn"}, certificate(("commonName", "x" * 1025))),
        ({"subject": "cn"}, certificate(("commonName", "fl\u202eux"))),
    ],
)
async def test_l2_a_doubtful_name_is_nobody(shape: dict[str, Any], shown: dict[str, Any]) -> None:
    """No value, two values, NUL, other controls and white space at the ends are refused, never repaired."""
    with pytest.raises(NotAuthenticated) as caught:
        await proved(shown, **shape)
    assert caught.value.code == "certificate_name"


async def test_a_certificate_ends_although_its_connection_goes_on() -> None:
    """The handshake saw a valid one; the request after its end is refused."""
    with pytest.raises(NotAuthenticated) as caught:
        await proved(certificate(("commonName", "flux"), ends="Jan 15 07:59:00 2027 GMT"))
    assert caught.value.code == "certificate_expired"


@pytest.mark.parametrize("ends", ["", "soon"])
async def test_an_end_that_cannot_be_read_is_refused(ends: str) -> None:
    """Without an end nothing is believed."""
    with pytest.raises(NotAuthenticated):
        await proved(certificate(("commonName", "flux"), ends=ends))


def via_ingress(*lines: tuple[str, str], peer: str = INGRESS) -> RequestInfo:
    """A request on a connection whose peer showed a certificate and is a trusted proxy."""
    trusted = TrustedProxies([ip_network(INGRESS)])
    return values.info("/", *lines, trusted=trusted, peer=peer, certificate=FLUX, tls=True)


def test_an_ingress_does_not_lend_its_certificate() -> None:
    """What a trusted proxy passes on for somebody else is not proved by the proxy's own certificate."""
    assert not of().presented(via_ingress(("X-Forwarded-For", "203.0.113.9")))
    assert of().presented(via_ingress())
    assert of().presented(via_ingress(("X-Forwarded-For", "203.0.113.9"), peer="192.0.2.7"))


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "2001:DB8::1", "fe80::1%eth0", ""])
def test_a_client_is_itself_however_its_address_is_spelt(peer: str) -> None:
    """A direct client's certificate counts, on any kind of socket."""
    assert of().presented(values.info(peer=peer, certificate=FLUX, tls=True))


def test_no_certificate_is_not_presented() -> None:
    """A connection without one carries no such credential."""
    assert not of().presented(values.info())
