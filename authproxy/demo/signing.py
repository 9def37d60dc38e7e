"""The demo provider's key: made at start, forgotten at the end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


class SigningKey:
    """An RSA key that signs with RS256."""

    def __init__(self) -> None:
        self._key: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._kid: Final = secrets.token_hex(4)

    def __repr__(self) -> str:
        return f"<SigningKey {self._kid}>"

    @property
    def jwks(self) -> dict[str, object]:
        """The public half, as a JWK set (RFC 7517 section 5)."""
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        public.pop("key_ops", None)  # "use" says it already (RFC 7517 section 4.3: not both)
        return {"keys": [{**public, "kid": self._kid, "use": "sig", "alg": "RS256"}]}

    def sign(self, claims: Mapping[str, object]) -> str:
        """A JWT with ``claims``."""
        return jwt.encode(dict(claims), self._key, algorithm="RS256", headers={"kid": self._kid})

    def claims_of(self, token: str) -> dict[str, object]:
        """The claims of a token that this key signed, however old: a hint at sign-out may have expired.  Else {}."""
        try:
            payload = jwt.PyJWS().decode(token, self._key.public_key(), algorithms=["RS256"])
            claims = json.loads(payload)
        except (jwt.PyJWTError, ValueError):
            return {}
        return claims if isinstance(claims, dict) else {}
