"""Keys for what we sign, and signing with them.

Knows private keys and JWTs (RFC 7515, RFC 7519); what a claim means is its callers'.  A private key never leaves this
module, neither in a ``repr`` nor in an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwcrypto.jwk import JWK

from authproxy.jose import keys, strictjson

ALGORITHM: Final = "ES256"
_BYTES: Final = 32  # of a coordinate, of the private number, and of each half of a signature (RFC 7518 section 3.4)


def new_signing_key() -> dict[str, str]:
    """A fresh private ES256 key as a JWK (RFC 7517), named by its thumbprint (RFC 7638)."""
    key = JWK.generate(kty="EC", crv="P-256", alg="ES256", use="sig")
    return {**cast("dict[str, str]", json.loads(key.export())), "kid": str(key.thumbprint())}


class SigningKey(NamedTuple):
    """One private key; ``public`` is what may be published of it."""

    kid: str
    public: Mapping[str, str]
    private: ec.EllipticCurvePrivateKey
    root: bytes  # what subkeys are derived from

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid!r}>"


def load_private(text: str) -> SigningKey:
    """The private ES256 key that a JWK holds.

    Raises ValueError, in words that hold nothing of the key, for another type, curve or use, and when the public
    half does not belong to the private one.
    """
    try:
        entry = strictjson.load_object(text.encode("utf-8"))
    except ValueError as error:
        raise ValueError(f"the key is {error}") from None
    _check_use(entry)
    number = _member(entry, "d")
    try:
        private = ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1())
    except ValueError:
        raise ValueError("the key's private number does not fit its curve") from None
    point = private.public_key().public_numbers()
    if (_member(entry, "x"), _member(entry, "y")) != (point.x.to_bytes(_BYTES, "big"), point.y.to_bytes(_BYTES, "big")):
        raise ValueError("the key's public half does not belong to its private one")
    return _named(entry, private, number)


def _check_use(entry: Mapping[str, object]) -> None:
    if (entry.get("kty"), entry.get("crv")) != ("EC", "P-256") or entry.get("alg", ALGORITHM) != ALGORITHM:
        raise ValueError("the key is not a private ES256 JWK")
    operations = entry.get("key_ops", ["sign"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "sign" not in operations:
        raise ValueError("the key is not for signatures")


def _member(entry: Mapping[str, object], name: str) -> bytes:
    value = entry.get(name)
    raw = _decode(value) if isinstance(value, str) else b""
    if len(raw) != _BYTES or _encode(raw) != value:
        raise ValueError(f"the key's {name} is not {_BYTES} bytes in base64url")
    return raw


def _named(entry: Mapping[str, object], private: ec.EllipticCurvePrivateKey, number: bytes) -> SigningKey:
    point = {"crv": "P-256", "kty": "EC", "x": str(entry["x"]), "y": str(entry["y"])}
    # RFC 7638 section 3: the required members in order, without white space.
    thumbprint = _encode(hashlib.sha256(json.dumps(point, separators=(",", ":")).encode()).digest())
    kid = entry.get("kid", thumbprint)
    if not isinstance(kid, str) or not 0 < len(kid) <= 255:
        raise ValueError("the key's id is not a short string")
    return SigningKey(kid, {**point, "alg": ALGORITHM, "use": "sig", "kid": kid}, private, number)


class SigningRing:
    """Private keys of which the first signs and all are published, so that a rotation refuses nobody."""

    def __init__(self, ring: Sequence[SigningKey]) -> None:
        if not ring:
            raise ValueError("a ring needs a key")
        if len({key.kid for key in ring}) != len(ring):
            raise ValueError("two keys have one id")
        self._ring: Final = tuple(ring)
        self.published: Final = json.dumps({"keys": [dict(key.public) for key in ring]}).encode()
        """The JWKS (RFC 7517 section 5): public halves alone."""
        self.keys: Final = keys.parse(self.published)
        """What verifies."""

    def sign(self, claims: Mapping[str, object], *, typ: str) -> str:
        """A compact JWS of ``claims`` by the first key.  The same claims give the same text (RFC 6979)."""
        first = self._ring[0]
        head = _part({"alg": ALGORITHM, "kid": first.kid, "typ": typ})
        signed = f"{head}.{_part(claims)}"
        return f"{signed}.{_encode(_signature(first.private, signed.encode('ascii')))}"

    def subkeys(self, purpose: str) -> tuple[bytes, ...]:
        """A 32-byte key for ``purpose`` of each key of the ring, in its order."""
        label = b"authproxy/v1/" + purpose.encode()
        return tuple(hmac.new(key.root, label, hashlib.sha256).digest() for key in self._ring)

    def __repr__(self) -> str:
        return f"<SigningRing {len(self._ring)} keys, {self._ring[0].kid!r} signs>"


def _signature(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    try:
        found = private.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:  # an OpenSSL before 3.2
        found = private.sign(data, ec.ECDSA(SHA256()))
    return b"".join(half.to_bytes(_BYTES, "big") for half in decode_dss_signature(found))


def _part(value: Mapping[str, object]) -> str:
    return _encode(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return b""
