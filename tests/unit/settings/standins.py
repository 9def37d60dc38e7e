"""Files and variables that settings under test may name, with contents that are fit for their use or plainly not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from authproxy.jose.sign import new_signing_key
from tests.peers.authority import Authority

KEY_A: Final = base64.urlsafe_b64encode(bytes(range(32))).decode()
KEY_B: Final = base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("=")
JWKS: Final = tuple(json.dumps(new_signing_key()) for _ in "ab")
ENVIRON: Final = {
    "REDIS_URL": "redis://127.0.0.1:6379",
    "AUTH_TOKEN": "a-token-of-more-than-thirty-two-characters",
    "ENROLLMENT_TOKEN": "an-enrollment-token-of-some-forty-characters",
}


def _certificates() -> tuple[str, tuple[str, str], str, tuple[str, str]]:
    """An authority, a certificate of it with its key, another key, and an expired certificate with its key."""
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "standin")
        good, other, expired = authority.signed("a"), authority.signed("b"), authority.signed("c", hours=-1)
        texts = [file.read_text("ascii").strip() for file in (authority.file, *good, other.key, *expired)]
    return texts[0], (texts[1], texts[2]), texts[3], (texts[4], texts[5])


_CA, _PAIR, _OTHER_KEY, _EXPIRED = _certificates()
_FILES: Final = {
    "key-a": KEY_A,
    "key-b": KEY_B,
    "session-key": KEY_A,
    "short": "hunter2",
    "long": "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2",
    "change-me": "change-me-change-me-change-me-change-me",
    "spaced": "hunter2 hunter2 hunter2 hunter2 hunter2 hunter2",
    "empty": "\n",
    "dex-secret": "hunter2",
    "client-secret": "hunter2",
    "redis-password": "hunter2",
    "eu-01.token": "another-token-of-more-than-thirty-two-characters",
    "next-token": "the-next-enrollment-token-of-forty-characters",
    **dict.fromkeys(("fleet-current", "fleet-next"), "a-fleet-token-of-more-than-thirty-two-characters"),
    "admin-secret": "an-admin-secret-of-more-than-thirty-two-characters",
    "forward-secret": "a-forward-secret-of-more-than-thirty-two-characters",
    "enrollment-a.jwk": JWKS[0],
    "enrollment-b.jwk": JWKS[1],
    "broken.jwk": JWKS[0].replace('"d": "', '"d": "A'),
    "public.jwk": json.dumps({name: value for name, value in json.loads(JWKS[1]).items() if name != "d"}),
    "two-lines": "hunter2-hunter2-hunter2\nhunter2-hunter2-hunter2-hunter2",
    "key-sloppy": f"{KEY_B[:-1]}{'BCDF'[0] if KEY_B[-1] != 'B' else 'C'}",
    "htpasswd": f"ann:$2y$05${'a' * 53}",
    "plain.htpasswd": f"ann:$2y$05${'a' * 53}\nbob:hunter2",
    "broken.htgroup": "staff: ann\nops bob",
    "htgroup": "staff: ann",
    **dict.fromkeys(("clients.pem", "ca.crt", "dex-ca.crt", "redis-ca.crt", "other-ca.crt", "eu.crt"), _CA),
    **dict.fromkeys(("tls.crt", "client.crt"), _PAIR[0]),
    **dict.fromkeys(("tls.key", "client.key"), _PAIR[1]),
    "other.key": _OTHER_KEY,
    "expired.crt": _EXPIRED[0],
    "expired.key": _EXPIRED[1],
    "no-pem.crt": "hunter2",
    "damaged.crt": "-----BEGIN CERTIFICATE-----\nhunter2hunter2\n-----END CERTIFICATE-----",
    "encrypted.key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2\n-----END ENCRYPTED PRIVATE KEY-----",
}


NAMES: Final = (*_FILES, "binary", "folder", "nowhere")
"""Every stand-in, and a file that is not there."""


def settled(text: str) -> str:
    """Settings whose audit file lies in a folder that is there."""
    return text.replace("/var/log/authproxy/", "log/")


def furnish(folder: Path) -> Path:
    """Write the stand-in files into ``folder``."""
    for name, content in _FILES.items():
        (folder / name).write_text(f"{content}\n", encoding="utf-8")
    (folder / "binary").write_bytes(b"\xff\xfe")
    (folder / "folder").mkdir()
    (folder / "log").mkdir()
    return folder
