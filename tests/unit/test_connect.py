"""``check --connect`` asks every issuer for its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from authproxy.connect import try_connections
from authproxy.settings.load import from_mapping
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.upstream_app import UpstreamApp


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


async def test_upstreams_are_connected_to(tmp_path: Path) -> None:
    """By TCP and by Unix socket; one that is not there is said so."""
    async with UpstreamApp() as app, UpstreamApp(tmp_path / "app.sock") as beside:
        there = {app.url, beside.url, f"unix://{tmp_path}/app.sock"}
        missing = {f"unix:{tmp_path}/none.sock", "http://127.0.0.1:9"}
        data: dict[str, Any] = {
            "public_url": "http://auth.corp.test",
            "policies": {"public": {"anonymous": True}},
            "apps": {
                "app": {
                    "host": "app.corp.test",
                    "upstream": {"urls": [*there, *missing]},
                    "routes": [{"path": "/", "policy": "public"}],
                }
            },
        }
        found = dict([one async for one in try_connections(from_mapping(data, tmp_path, {}))])
    assert {url: found[f"upstream of app ({url})"] for url in there} == dict.fromkeys(there, "")
    assert all("cannot connect" in found[f"upstream of app ({url})"] for url in missing)
