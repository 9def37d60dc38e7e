"""Sealing: authenticated encryption under a ring of keys, and the digests that name things in the store.

This room's only caller of the cryptography package.  It knows keys and bytes; what the bytes mean is its callers'.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION: Final = b"\x01"
_SALT: Final = 16
_KEY_ID: Final = 4
_MAX: Final = 64 * 1024  # nothing that we seal is longer, so nothing longer is worth opening


def encode(data: bytes) -> str:
    """base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes | None:
    """The inverse of ``encode``; None for anything that ``encode`` would not have written."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return data if encode(data) == text else None


def token(size: int = 32) -> str:
    """``size`` random bytes of the operating system, as text."""
    return encode(os.urandom(size))


class Tokens:
    """Random texts of 16 characters, for what needs many: the operating system is asked once for 256 of them."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0

    def take(self) -> str:
        """The next one, of 96 random bits."""
        at = self._at
        if at >= len(self._text):
            self._text, at = encode(os.urandom(12 * 256)), 0
        self._at = at + 16
        return self._text[at : at + 16]


def digest(*parts: str) -> str:
    """A name for ``parts``: SHA-256, 43 characters; length-prefixed, so that no split can pose as another."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode()
        state.update(len(data).to_bytes(4, "big") + data)
    return encode(state.digest())


def _derive(key: bytes, salt: bytes, info: str, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=b"authproxy/v1/" + info.encode()).derive(key)


def seal(key: bytes, purpose: str, plain: bytes, context: str = "") -> bytes:
    """Encrypt with AES-256-GCM under a subkey of ``key`` that serves this purpose and this message alone (RFC 5869).

    Key and nonce come from a fresh salt, so that a key may seal any number of messages.
    """
    salt = os.urandom(_SALT)
    material = _derive(key, salt, purpose, 44)
    body = AESGCM(material[:32]).encrypt(material[32:], plain, _VERSION + f"{purpose}|{context}".encode())
    return _VERSION + salt + body


def unseal(key: bytes, purpose: str, sealed: bytes, context: str = "") -> bytes | None:
    """The inverse of ``seal``; None when key, purpose or context differ, or a bit was changed."""
    if len(sealed) <= 1 + _SALT or len(sealed) > _MAX or sealed[:1] != _VERSION:
        return None
    salt, body = sealed[1 : 1 + _SALT], sealed[1 + _SALT :]
    material = _derive(key, salt, purpose, 44)
    try:
        return AESGCM(material[:32]).decrypt(material[32:], body, _VERSION + f"{purpose}|{context}".encode())
    except InvalidTag:
        return None


class KeyRing:
    """The session keys: the first seals, all open, so that a rotation signs nobody out."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("a key ring needs keys of 32 bytes")
        self._keys: Final = {self._id(key): key for key in reversed(keys)}
        self._first: Final = keys[0]

    @staticmethod
    def _id(key: bytes) -> bytes:
        return hashlib.sha256(b"authproxy/v1/key-id" + key).digest()[:_KEY_ID]

    def seal(self, purpose: str, plain: bytes, context: str = "") -> str:
        """Seal under the first key; text that fits a cookie."""
        return encode(self._id(self._first) + seal(self._first, purpose, plain, context))

    def open(self, purpose: str, text: str, context: str = "") -> bytes | None:
        """Open what any key of the ring sealed for this purpose and context, else None."""
        data = decode(text) if len(text) <= 2 * _MAX else None
        key = self._keys.get(data[:_KEY_ID]) if data else None
        return unseal(key, purpose, data[_KEY_ID:], context) if key and data else None

    def subkey(self, purpose: str) -> bytes:
        """A key for another use, derived from the first key of the ring."""
        return _derive(self._first, b"", purpose, 32)

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._keys)} keys>"
