"""TLS contexts from the certificate files that the settings name.

The check of the settings, the listener, the upstreams and the providers load files by these functions, so that a file
which passes the check can be served.
"""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

_MAX_BYTES: Final = 4 << 20  # the bundle of a whole operating system has a quarter of a mebibyte
_CERTIFICATE: Final = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CERTIFICATE-----", b"-----BEGIN TRUSTED CERT")
_KEY: Final = b"PRIVATE KEY-----"
_DER: Final = b"\x30"  # of an ASN.1 sequence, which PEM never begins with
_VERIFY: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

Part = Literal["cert", "key", "ca"]


class CertificateFault(OSError):
    """A certificate file that cannot be used; ``part`` says which of those that were given."""

    def __init__(self, part: Part, message: str) -> None:
        super().__init__(message)
        self.part: Final = part


def client_context(ca: Path | None, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """A context that verifies servers: by ``ca``, or by the authorities of the system.

    ``certificate`` and its key are shown to servers that ask for one.  Raises CertificateFault.
    """
    if ca is not None:
        _check_certificates(ca, "ca", _content(ca, "ca"))
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise CertificateFault("ca", f"{ca} holds a damaged certificate{_reason(error)}") from None
    if certificate is not None:
        _load_pair(context, *certificate)
    return context


def server_context(
    cert: Path, key: Path, *, client_ca: Path | None, client_auth: Literal["optional", "required"]
) -> ssl.SSLContext:
    """A context for a listener, from TLS 1.2 on; raises CertificateFault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert, key)
    if client_ca is not None:
        _load_authorities(context, client_ca)
        context.verify_mode = _VERIFY[client_auth]
    return context


def doubt(file: Path, part: Part) -> str:
    """Why nobody may accept the certificates in ``file`` now; empty when there is no reason, or none can be told."""
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return ""
    now = datetime.now(UTC)
    relevant = found[:1] if part == "cert" else found  # a bundle is of use while one of its authorities is
    doubts = [_outside(one, now) for one in relevant]
    return doubts[0] if doubts and all(doubts) else ""


def _outside(certificate: x509.Certificate, now: datetime) -> str:
    if certificate.not_valid_after_utc < now:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}; replace it"
    if certificate.not_valid_before_utc > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}; check the clock of this machine"
    return ""


def _load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    _check_certificates(ca, "ca", _content(ca, "ca"))
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise CertificateFault("ca", f"{ca} holds a damaged certificate{_reason(error)}") from None


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for fault in pair_faults(cert, key):
        raise fault
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # without it OpenSSL would ask the terminal
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise CertificateFault("key", f"{key} is not the key of the certificate in {cert}") from None
        raise CertificateFault("cert", f"{cert} and {key} cannot be used{_reason(error)}") from None


def pair_faults(cert: Path, key: Path) -> list[CertificateFault]:
    """What is wrong with a certificate and a key, each looked at by itself."""
    faults = []
    parts: tuple[tuple[Part, Path], ...] = (("cert", cert), ("key", key))
    for part, file in parts:
        try:
            content = _content(file, part)
            if part == "cert":
                _check_certificates(file, part, content)
            else:
                _check_key(file, content)
        except CertificateFault as fault:
            faults.append(fault)
    return faults


def _content(file: Path, part: Part) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise CertificateFault(part, f"cannot read {file}: {'Is a directory' if file.is_dir() else 'not a file'}")
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except CertificateFault:
        raise
    except OSError as error:
        raise CertificateFault(part, f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise CertificateFault(part, f"cannot read {file}: not the name of a file") from None
    if len(content) > _MAX_BYTES:
        raise CertificateFault(part, f"{file} is larger than 4 MiB; this is no file of certificates")
    return content


def _check_certificates(file: Path, part: Part, content: bytes) -> None:
    if any(mark in content for mark in _CERTIFICATE):
        return
    if _KEY in content:
        raise CertificateFault(part, f"{file} holds a private key where a certificate must be")
    raise CertificateFault(part, f"{file} {_no_pem('certificate', content)}")


def _check_key(file: Path, content: bytes) -> None:
    if b"ENCRYPTED" in content:
        raise CertificateFault("key", f"{file} is encrypted; write the key without a passphrase")
    if _KEY in content:
        return
    if any(mark in content for mark in _CERTIFICATE):
        raise CertificateFault("key", f"{file} holds a certificate where a private key must be")
    raise CertificateFault("key", f"{file} {_no_pem('private key', content)}")


def _no_pem(what: str, content: bytes) -> str:
    if not content.strip():
        return "is empty"
    if content.startswith(_DER):
        return f"is DER; convert the {what} to PEM, such as with openssl"
    return f"holds no {what} in PEM (-----BEGIN …)"


def _reason(error: Exception) -> str:
    """OpenSSL's word for what is wrong; it repeats nothing of the file."""
    reason = getattr(error, "reason", None)
    return f": {str(reason).replace('_', ' ').lower()}" if reason else ""
