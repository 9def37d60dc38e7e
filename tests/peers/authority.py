"""A certificate authority of a test: it signs servers and clients, rightly or not."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


class Signed(NamedTuple):
    """The paths of a certificate and its key, both PEM."""

    certificate: Path
    key: Path


def names(cn: tuple[str, ...] = (), o: tuple[str, ...] = ()) -> x509.Name:
    """A subject."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, value) for value in cn]
    return x509.Name([*attributes, *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in o)])


class Authority:
    """One authority; ``file`` is its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = names((name,))
        self._made = 0
        basic = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self._name, self._key.public_key(), hours=1).add_extension(basic, critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, hours: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=3))
            .not_valid_after(now + datetime.timedelta(hours=hours))
        )

    def signed(
        self,
        *cn: str,
        o: tuple[str, ...] = (),
        dns: tuple[str, ...] = (),
        uri: tuple[str, ...] = (),
        usage: ObjectIdentifier = CLIENT,
        hours: float = 1,
    ) -> Signed:
        """A certificate of this authority, good for so many hours (negative: expired)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(names(cn, o), key.public_key(), hours=hours)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        others = [*map(x509.DNSName, dns), *map(x509.UniformResourceIdentifier, uri)]
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        self._made += 1
        made = Signed(*(self._folder / f"{self.file.stem}-{self._made}.{end}" for end in ("crt", "key")))
        certificate = builder.sign(self._key, hashes.SHA256())
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        made.key.write_bytes(key.private_bytes(*private))
        return made
