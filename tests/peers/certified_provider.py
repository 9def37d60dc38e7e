"""A certified OpenID provider (the npm package ``oidc-provider``) as a peer that the proxy signs people in with.

Its refresh tokens rotate strictly: one that is used twice takes its whole grant with it.  What it was asked is in its
log, which the tests count token calls in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from playwright._impl._driver import compute_driver_executable

from tests.peers.program import Program, as_json

HERE: Final = Path(__file__).parent / "certified"
CLIENT_ID: Final = "authproxy"
PUBLIC_CLIENT_ID: Final = "authproxy-public"
CLIENT_SECRET: Final = "a-secret-between-the-peer-and-authproxy"
PEOPLE: Final = {"alice": ("staff", "admins"), "bob": ("guests",)}
"""User names and their groups; the password is the name with ``-password`` behind it."""


def password_of(username: str) -> str:
    """The password that the provider's form takes for one of ``PEOPLE``."""
    return f"{username}-password"


def missing() -> str:
    """What this peer lacks on this machine; empty when it can run."""
    if not (HERE / "node_modules" / "oidc-provider").is_dir():
        return "its packages are not installed: run make test once"
    return ""


class CertifiedProvider:
    """The provider as a process; ``issuer`` is known once it runs.  Times to live are whole seconds."""

    def __init__(
        self,
        *,
        redirect_uris: Sequence[str],
        post_logout_redirect_uris: Sequence[str] = (),
        backchannel_logout_uri: str | None = None,
        id_token_ttl: int = 3600,
        access_token_ttl: int = 3600,
        refresh_token_ttl: int = 86400,
    ) -> None:
        peer = {
            "client_secret": CLIENT_SECRET,
            "redirect_uris": list(redirect_uris),
            "post_logout_redirect_uris": list(post_logout_redirect_uris),
            "id_token_ttl": id_token_ttl,
            "access_token_ttl": access_token_ttl,
            "refresh_token_ttl": refresh_token_ttl,
        }
        if backchannel_logout_uri is not None:
            peer["backchannel_logout_uri"] = backchannel_logout_uri
        node, _ = compute_driver_executable()  # the Node that Playwright ships: locked with it, whatever Debian has
        self.program = Program(node, HERE / "server.mjs", env={"PEER": json.dumps(peer)}, cwd=HERE)
        self.issuer = ""

    def __repr__(self) -> str:
        return f"<CertifiedProvider {self.issuer or 'not started'}>"

    def settings(self, **extra: Any) -> dict[str, Any]:
        """The entry under ``providers:`` that makes the proxy its confidential client."""
        return {
            "issuer": self.issuer,
            "client_id": CLIENT_ID,
            "client_secret": {"value": CLIENT_SECRET},
            "scopes": ["openid", "profile", "email", "groups", "offline_access"],
            "claims": {"groups": "groups"},
            **extra,
        }

    def public_settings(self, **extra: Any) -> dict[str, Any]:
        """The same for the public client, which has PKCE alone."""
        settings = self.settings(**{"client_id": PUBLIC_CLIENT_ID, **extra})
        del settings["client_secret"]
        return settings

    async def log(self, event: str = "") -> list[dict[str, Any]]:
        """What happened so far, oldest first; of one kind when ``event`` says which.

        Events: ``token`` (with ``grant_type``, ``status``, ``error``), ``revocation``, ``end_session``,
        ``backchannel``, ``backchannel_error``, ``grant_revoked``.
        """
        async with aiohttp.ClientSession() as session, session.get(f"{self.issuer}/control/log") as response:
            entries: list[dict[str, Any]] = await response.json()
        return [entry for entry in entries if event in ("", entry["event"])]

    async def refreshes(self) -> list[dict[str, Any]]:
        """The token calls with a refresh token, answered or refused."""
        return [entry for entry in await self.log("token") if entry.get("grant_type") == "refresh_token"]

    async def __aenter__(self) -> Self:
        self.program.start()
        try:
            ready = await self.program.line(as_json)
        except BaseException:
            await self.program.stop()
            raise
        self.issuer = ready["issuer"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.program.stop()
