"""Keys for what we sign."""

from __future__ import annotations

import json
from typing import cast

from jwcrypto.jwk import JWK


def new_signing_key() -> dict[str, str]:
    """A fresh private ES256 key as a JWK (RFC 7517), named by its thumbprint (RFC 7638)."""
    key = JWK.generate(kty="EC", crv="P-256", alg="ES256", use="sig")
    return {**cast("dict[str, str]", json.loads(key.export())), "kid": str(key.thumbprint())}
