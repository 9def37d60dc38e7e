"""Keys and tokens for peers and tests: right ones by default, and wrong in any way that is asked for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ALGORITHMS: Final = get_default_algorithms()
_CURVES: Final[dict[str, Any]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


class SigningKey(NamedTuple):
    """A private key under an id; ``alg`` is what it signs with."""

    kid: str | None
    alg: str
    private: Any

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid!r} {self.alg}>"

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public JWK; a change to None leaves the member out."""
        public = json.loads(ALGORITHMS[self.alg].to_jwk(self.private.public_key()))
        public.pop("key_ops", None)
        whole = public | {"use": "sig", "alg": self.alg, "kid": self.kid} | changes
        return {name: value for name, value in whole.items() if value is not None}

    def sign(self, signing_input: bytes, alg: str | None = None) -> bytes:
        """The raw signature."""
        return ALGORITHMS[alg or self.alg].sign(signing_input, self.private)


@cache
def _private(alg: str, number: int, bits: int) -> Any:
    """Private keys are slow to make, so each is made once for the whole test run."""
    if alg in _CURVES:
        return ec.generate_private_key(_CURVES[alg]())
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate() if bits == 256 else ed448.Ed448PrivateKey.generate()
    return rsa.generate_private_key(65537, bits)


def signing_key(kid: str | None = "first", alg: str = "RS256", *, number: int = 0, bits: int = 0) -> SigningKey:
    """The key ``number`` for ``alg``; the same number is the same key under whatever id."""
    return SigningKey(kid, alg, _private(alg, number, bits or (256 if alg == "EdDSA" else 2048)))


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def as_json(value: Any) -> bytes:
    """Compact JSON; bytes are taken as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def sign(claims: Mapping[str, Any] | bytes, key: SigningKey, header: Mapping[str, Any] | bytes | None = None) -> str:
    """A compact token; ``header`` is added to alg and kid (None leaves a member out), or is the whole in bytes."""
    if not isinstance(header, bytes):
        whole = {"alg": key.alg, "kid": key.kid, "typ": "JWT"} | dict(header or {})
        header = as_json({name: value for name, value in whole.items() if value is not None})
    signing_input = f"{b64(header)}.{b64(as_json(claims))}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def half_hash(secret: str, alg: str = "RS256") -> str:
    """``at_hash`` or ``c_hash`` of a token or code."""
    bits = "512" if alg == "EdDSA" else alg[-3:]
    digest = hashlib.new(f"sha{bits}", secret.encode()).digest()
    return b64(digest[: len(digest) // 2])
