"""``check --connect`` asks every issuer for its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from authproxy.connect import try_connections
from authproxy.settings.load import from_mapping
from tests.peers.openid_provider import OpenIDPeer


async def test_an_issuer_is_asked_for_its_keys(tmp_path: Path) -> None:
    """One that answers, and one that does not."""
    async with OpenIDPeer() as peer:
        other = {"issuer": "http://127.0.0.1:9", "audiences": ["api"]}
        data: dict[str, Any] = {
            "public_url": "http://auth.corp.test",
            "issuers": {"peer": {"issuer": peer.issuer, "audiences": ["api"]}, "other": other},
        }
        found = dict([one async for one in try_connections(from_mapping(data, tmp_path, {}))])
    assert found["issuer peer"] == ""
    assert "connection refused" in found["issuer other"]
