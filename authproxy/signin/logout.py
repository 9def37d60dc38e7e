"""How a session ends: here first and for certain, then at the provider.

The cookie, the record and a revocation mark come first, so that nothing the provider does or fails to do keeps a
session alive.  The refresh token is then revoked, or, where the provider has no way to revoke, spent by one refresh
whose result is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from authproxy.errors import BadRequest, GrantRefused, InvalidToken, ProviderError, StoreUnavailable, Unavailable
from authproxy.model import RequestInfo
from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import SessionCookie, Ticket, user_digest
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Mark, Marks, bearer_sid, bearer_subject, sid_name
from authproxy.sessions.records import newest_first
from authproxy.sessions.sealing import digest
from authproxy.sessions.vault import Vault
from authproxy.signin.recall import Recall
from authproxy.signin.refresh import Refresher
from authproxy.signin.termination import Termination
from authproxy.store import keys
from authproxy.store.base import Store

log = logging.getLogger("authproxy.signin")
_REPLAY_WINDOW: Final = 600.0  # seconds for which a logout token's jti is remembered; older tokens are refused
_TOKEN_LIFE: Final = 30 * 86400.0 + 120.0  # seconds that a bearer token can live (jose.access), and two clocks differ


class Logout:
    """Ends sessions: by their user's wish, or by the provider's word."""

    def __init__(
        self, *, providers: Mapping[str, Provider], cookie: SessionCookie, vault: Vault, live: LiveView, marks: Marks,
        refresher: Refresher, recall: Recall, termination: Termination, store: Store, absolute: float,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._providers: Final = providers
        self._cookie: Final = cookie
        self._vault: Final = vault
        self._live: Final = live
        self._marks: Final = marks
        self._refresher: Final = refresher
        self._recall: Final = recall
        self._termination: Final = termination
        self._store: Final = store
        self._absolute: Final = absolute
        self._clock: Final = clock
        self._farewells: Final[set[asyncio.Task[None]]] = set()

    async def end(self, info: RequestInfo) -> tuple[Ticket | None, tuple[str, ...]]:
        """End every session whose cookie the request carries.

        The last one's ticket, and ID tokens that may tell the provider which session it is, the best one first.
        """
        ended: tuple[Ticket | None, tuple[str, ...]] = (None, ())
        for sealed in self._cookie.find(info.headers):
            ticket = self._cookie.open(sealed, info.host)
            if ticket is not None and not self._marks.revokes(ticket):
                ended = (ticket, await self._end(ticket))
        return ended

    async def _end(self, ticket: Ticket) -> tuple[str, ...]:
        """End one session; its own ID token, and the newest one where that has the ``sid`` of another device."""
        live = self._live.by_id(ticket.id)
        record = live.record if live is not None else None
        with suppress(StoreUnavailable):
            stored = await self._vault.load(ticket)
            if stored is not None and (record is None or stored.record.rank > record.rank):
                record = stored.record
        token = record.token if record else ticket.token
        await self._refresher.share(ticket._replace(token=token))  # the user's other sessions may live by it
        await self._termination.end(ticket, "signed_out", "signed out")
        self._say_farewell(ticket, token.value)
        return tuple(filter(None, (record.hint, record.id_token))) if record else ()

    def _say_farewell(self, ticket: Ticket, refresh_token: str) -> None:
        """Revoke the session's grant at the provider, without letting the user wait for it."""
        if ticket.provider not in self._providers or not refresh_token:
            return
        task = asyncio.get_running_loop().create_task(self._revoke(ticket, refresh_token))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _revoke(self, ticket: Ticket, refresh_token: str) -> None:
        provider = self._providers[ticket.provider]
        scope = self._refresher.scope(ticket)
        if scope is not None:
            try:
                newest = await self._take_shared(ticket, scope)
            except StoreUnavailable:  # another device may use the token, and nothing says that none does
                return
            if newest is None:
                return
            refresh_token = newest or refresh_token
        if await provider.revoke(refresh_token, "refresh_token"):
            return
        with suppress(ProviderError, GrantRefused, InvalidToken):  # spent: a copy of it is worth nothing any more
            await provider.refresh(refresh_token, subject=ticket.subject)

    async def _take_shared(self, ticket: Ticket, scope: str) -> str | None:
        """The token that the user's sessions shared, removed from the store; None while another session uses it.

        An emptied store has lost its index of sessions: every replica writes what it holds first.
        """
        await self._recall(ticket.user, _never)
        if self._live.of_user(ticket.user) or await self._vault.count(ticket):
            return None
        shared = newest_first((await self._vault.shared(ticket, scope)).tokens, {})
        await self._refresher.forget_shared(ticket, scope)
        return shared[0].value if shared else ""

    async def by_provider(self, token: str) -> str:
        """Obey a logout token (OIDC Back-Channel Logout 1.0 section 2.6); what it ended, for the audit record.

        Raises ``BadRequest`` for a token that is not what it must be, or that was obeyed before, and ``Unavailable``
        when that is not certain now: the provider may send it again.
        """
        unchecked: ProviderError | None = None
        for provider in self._providers.values():
            try:
                claims = await provider.logout_token(token)
            except ProviderError as error:
                log.warning("a logout token cannot be checked: %s", error)
                unchecked = error
                continue
            except InvalidToken as invalid:
                log.info("a logout token was refused: %s", invalid.code)
                continue
            return await self._obey(provider, claims)
        if unchecked is not None:
            raise Unavailable(
                "logout_token_unchecked", "The logout token cannot be checked right now. Please send it again.",
                reason=str(unchecked), retry_after=unchecked.retry_after,
            )  # fmt: skip
        raise BadRequest("invalid_logout_token", "The logout token is not valid.")

    async def _obey(self, provider: Provider, claims: Mapping[str, object]) -> str:
        with suppress(StoreUnavailable):
            seen = keys.replayed_jti(digest("jti", provider.issuer, str(claims["jti"])))
            if not await self._store.swap(seen, None, b"1", ttl=_REPLAY_WINDOW):
                raise BadRequest("replayed_logout_token", "The logout token was used before.")
        now = self._clock()
        sid, subject = claims.get("sid"), claims.get("sub")
        if isinstance(sid, str) and sid:
            # The provider's session ends for good: whatever carries its sid is over, also a sign-in still on its way.
            until = now + self._absolute
            await self._marks.add(Mark("sid", sid_name(provider.name, sid), until, until))
            until = now + _TOKEN_LIFE
            await self._marks.add(Mark("bearer", bearer_sid(provider.issuer, sid), until, until))
            return "sid"
        user = user_digest(provider.name, provider.issuer, str(subject))
        await self._marks.add(Mark("subject", user, now, now + self._absolute))
        tokens = bearer_subject(provider.issuer, str(subject))
        await self._marks.add(Mark("bearer", tokens, now, now + _TOKEN_LIFE))
        return "subject"

    async def close(self) -> None:
        """Let what is being said to providers finish."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=5.0)
        for task in list(self._farewells):
            task.cancel()
        await asyncio.gather(*self._farewells, return_exceptions=True)


async def _never() -> bool:
    return False
