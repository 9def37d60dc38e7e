"""An OpenID provider on loopback, and ours that speaks to it, on one clock."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from authproxy.oidc.provider import Provider, TokenSet
from authproxy.settings import schema
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_provider import OpenIDPeer

REDIRECT = "https://app.example/oauth2/callback/peer"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class Client(Provider):
    """Our provider with a sign-in from end to end; nothing of its own is replaced."""

    async def callback(self, nonce: str = "n-1", **extra: str) -> dict[str, str]:
        """Go to the authorization endpoint as a browser does; what comes back to the callback."""
        url = await self.authorization_url(
            redirect_uri=REDIRECT, state="s-1", nonce=nonce, code_challenge=CHALLENGE, extra=extra
        )
        peer = OpenIDPeer()  # only its way of being a browser is used
        return await peer.visit(url)

    async def sign_in(self, **changes: Any) -> TokenSet:
        """The whole code flow; ``changes`` go to ``redeem``."""
        answer = await self.callback()
        whole: dict[str, Any] = {"code": answer["code"], "verifier": VERIFIER, "redirect_uri": REDIRECT, "nonce": "n-1"}
        return await self.redeem(**whole | changes)


def client_of(peer: OpenIDPeer, clock: Callable[[], float] | None = None, **extra: Any) -> Client:
    """Our provider for ``peer``, on its clock unless ``clock`` is given; not entered yet.  Pauses move the clock."""
    clock = clock or peer.clock

    async def pause(seconds: float) -> None:
        if isinstance(clock, FakeClock):
            clock.forward(seconds)

    return Client("peer", schema.Provider.model_validate(peer.settings(**extra)), clock=clock, pause=pause)


def query_of(url: str) -> dict[str, str]:
    """The query of a URL, each parameter once."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture
def clock() -> FakeClock:
    """Time stands still."""
    return FakeClock()


@pytest.fixture
async def peer(clock: FakeClock) -> AsyncIterator[OpenIDPeer]:
    """A correct provider."""
    async with OpenIDPeer(clock=clock) as one:
        yield one


@pytest.fixture
async def client(peer: OpenIDPeer) -> AsyncIterator[Client]:
    """Ours, for it."""
    async with client_of(peer) as one:
        yield one
