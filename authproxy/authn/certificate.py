"""A client certificate as a credential.

Knows what the TLS listener says of a certificate that it has verified, and which field holds a name.  Verifies no
chain itself; a certificate that an ingress showed for its own connection says nothing about the ingress's clients.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from authproxy.authn.chain import Judging, Proved
from authproxy.edge import hops
from authproxy.errors import NotAuthenticated
from authproxy.model import Identity, Kind, Match, RequestInfo
from authproxy.settings.schema import Certificates

_IN_SUBJECT: Final = {"cn": "commonName", "o": "organizationName"}
_IN_SAN: Final = {"dns_san": "DNS", "uri_san": "URI"}
_LONGEST: Final = 1024  # characters of a name


class CertificateAuthenticator(Judging):
    """Kind ``certificate``.  ``clock`` gives seconds since the epoch."""

    kind: Kind = "certificate"

    def __init__(self, shape: Certificates, *, clock: Callable[[], float]) -> None:
        self._shape: Final = shape
        self._scopes: Final = frozenset(shape.scopes)
        self._clock: Final = clock

    def presented(self, info: RequestInfo) -> bool:
        """Whether the client itself showed a certificate: not a trusted proxy that speaks for somebody else."""
        return info.certificate is not None and info.client == str(hops.address(info.peer) or info.peer)

    def judge(self, info: RequestInfo, match: Match) -> Proved:  # noqa: ARG002 - all kinds are asked alike
        """The identity of the certificate's subject.

        Raises NotAuthenticated ``certificate_expired``, which a connection can outlive, and ``certificate_name`` when
        the one name that is needed is missing, doubtful, or there more than once.
        """
        certificate, shape = info.certificate or {}, self._shape
        ends = self._ends(certificate)
        found = _names(certificate, shape.subject)
        if len(found) != 1:
            raise _unfit(f"{len(found)} values for {shape.subject} where one is needed")
        clusters = None if shape.clusters is None else frozenset(_names(certificate, shape.clusters))
        groups = () if shape.groups is None else _names(certificate, shape.groups)
        user = found[0]
        return Proved(
            Identity(
                kind="certificate", subject=user, user=user, groups=groups, scopes=self._scopes, clusters=clusters,
                expires_at=ends,
            )
        )  # fmt: skip

    def _ends(self, certificate: Mapping[str, Any]) -> float:
        """When it ends, if it has not: the handshake saw it valid, but the connection may be old."""
        try:
            ends = float(ssl.cert_time_to_seconds(str(certificate.get("notAfter"))))
        except ValueError:
            raise _unfit("no readable end") from None
        if ends <= self._clock():
            raise NotAuthenticated("certificate_expired", "The client certificate has expired.")
        return ends

    def __repr__(self) -> str:
        return f"<CertificateAuthenticator by {self._shape.subject}>"


def _names(certificate: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The values of ``cn``, ``o``, ``dns_san`` or ``uri_san``; raises when one of them could be read in two ways.

    CVE-2025-66220: a name with NUL is another name to whoever reads it as C does.
    """
    found = tuple(_in_san(certificate, field) if field in _IN_SAN else _in_subject(certificate, field))
    for name in found:
        if not name or not name.isprintable() or name != name.strip() or len(name) > _LONGEST:
            raise _unfit(f"a doubtful value for {field}")
    return found


def _in_subject(certificate: Mapping[str, Any], field: str) -> Iterator[str]:
    for part in certificate.get("subject", ()):
        yield from (value for name, value in part if name == _IN_SUBJECT[field])


def _in_san(certificate: Mapping[str, Any], field: str) -> Iterator[str]:
    yield from (value for kind, value in certificate.get("subjectAltName", ()) if kind == _IN_SAN[field])


def _unfit(reason: str) -> NotAuthenticated:
    message = "The client certificate does not say in one way who its owner is."
    return NotAuthenticated("certificate_name", message, reason=reason)
