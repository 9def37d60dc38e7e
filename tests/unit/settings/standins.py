"""Files and variables that settings under test may name, with contents that are fit for their use or plainly not."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

KEY_A: Final = base64.urlsafe_b64encode(bytes(range(32))).decode()
KEY_B: Final = base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("=")
JWK: Final = '{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}'
ENVIRON: Final = {
    "REDIS_URL": "redis://127.0.0.1:6379",
    "AUTH_TOKEN": "a-token-of-more-than-thirty-two-characters",
    "ENROLLMENT_TOKEN": "an-enrollment-token-of-some-forty-characters",
}

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
    "enrollment-a.jwk": JWK,
    "enrollment-b.jwk": JWK,
    "htpasswd": f"ann:$2y$05${'a' * 53}",
    "plain.htpasswd": f"ann:$2y$05${'a' * 53}\nbob:hunter2",
    "broken.htgroup": "staff: ann\nops bob",
    "htgroup": "staff: ann",
    **dict.fromkeys(("tls.crt", "tls.key", "clients.pem", "ca.crt", "dex-ca.crt", "eu.crt"), "stand-in"),
}


def furnish(folder: Path) -> Path:
    """Write the stand-in files into ``folder``."""
    for name, content in _FILES.items():
        (folder / name).write_text(f"{content}\n", encoding="utf-8")
    (folder / "binary").write_bytes(b"\xff\xfe")
    (folder / "folder").mkdir()
    return folder
