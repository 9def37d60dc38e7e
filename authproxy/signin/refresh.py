"""Renewing a session's tokens: once across tasks and replicas, with the newest refresh token, wherever it is.

A lease in the store lets one replica talk to the provider; the others wait for the record that it writes.  No token is
sent before the lease is written, unless the store is unreachable; then a lock of this process and the turns of the
replicas stand in for it.  Only the provider's own word that no token of the session is alive ends a session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple

from authproxy.errors import GrantRefused, ProviderError, SessionEnded, StoreSlow, StoreUnavailable
from authproxy.oidc.grants import AnswerInvalid, AnswerUnproved
from authproxy.oidc.provider import Provider, TokenSet
from authproxy.sessions.claims import read
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.live import LiveView
from authproxy.sessions.marks import Marks
from authproxy.sessions.records import Rank, Record, RefreshToken, SharedTokens
from authproxy.sessions.replicas import Replicas
from authproxy.sessions.vault import Stored, Vault, share_scope
from authproxy.signin.gate import Gate, NotAsked
from authproxy.signin.grace import RefreshGrace
from authproxy.signin.recall import Recall
from authproxy.signin.refresh_lease import SETTLING_SECONDS, STORE_RETRY_SECONDS, Postponed, RefreshLease
from authproxy.signin.token_pool import TokenPool
from authproxy.store import keys
from authproxy.store.base import Store

log = logging.getLogger("authproxy.signin")

_POLL_SECONDS: Final = 0.1
_WRITE_SECONDS: Final = 10.0  # for a store that is slow, after a rotation
_LATE_LOOKS: Final = 20  # a tenth of a second apart
_UNCERTAIN_SECONDS: Final = 10.0  # after the store failed, in which replicas may still have to write what they hold


_LATER: Final = "the provider refused a token, and the user's others are tried later"


class Rotated(ProviderError):
    """The provider rotated the refresh token, but what it sent beside it cannot be used now.

    ``record`` holds the new refresh token and the old proof.
    """

    def __init__(self, error: ProviderError, record: Record) -> None:
        super().__init__(str(error), retry_after=error.retry_after, status=error.status)
        self.record = record


class _View(NamedTuple):
    """What is known of a session before a refresh: its record in the store, and the tokens that may be alive."""

    stored: Stored | None
    shared: SharedTokens | None  # None where sessions share nothing, or the store did not answer
    known: Record | None

    @property
    def previous(self) -> Record | None:
        return self.stored.record if self.stored else self.known

    @property
    def records(self) -> list[Record]:
        return [record for record in (self.known, self.stored.record if self.stored else None) if record]


class Refresher:
    """Makes a new record for a session from its newest refresh token.

    ``vault`` and ``store`` are those with patience (``store.patient``).  ``on_failure`` gets the provider's name and
    the reason of every refresh that failed: refused, invalid, limited, unavailable or unusable.
    """

    def __init__(
        self, *, providers: Mapping[str, Provider], vault: Vault, store: Store, live: LiveView, marks: Marks,
        replicas: Replicas, recall: Recall, pool: TokenPool, grace: RefreshGrace,
        on_failure: Callable[[str, str], None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._providers: Final = providers
        self._live: Final = live
        self._replicas: Final = replicas
        self._recall: Final = recall
        self._grace: Final = grace
        self._on_failure: Final = on_failure
        self._gates: Final = {name: Gate(clock) for name in providers}
        self._pool: Final = pool
        self._lease: Final = RefreshLease(
            store=store, vault=vault, marks=marks, replicas=replicas, providers=providers, clock=clock
        )
        self._vault: Final = vault
        self._clock: Final = clock

    async def refresh(self, ticket: Ticket, known: Record | None, *, last_used: float) -> Record:
        """The session's next record, made here or by another replica meanwhile.

        Raises ``SessionEnded`` when the provider calls every token dead, ``ProviderError`` when it could not be asked,
        of it ``Postponed`` when that is left to another replica.
        """
        self._gates[ticket.provider].check()
        rank = max((ticket.generation, 0.0), known.rank if known else (0, 0.0))
        key = keys.lease_refresh(ticket.user, self.scope(ticket) or ticket.id)
        async with self._lease.hold(key, ticket, rank, known) as made_elsewhere:
            if made_elsewhere is not None:
                return made_elsewhere
            return await self._renew(ticket, known, rank, last_used)

    @property
    def store_failed_recently(self) -> bool:
        """Whether other replicas may hold newer tokens than the store."""
        return self._lease.store_failed_within(SETTLING_SECONDS)

    def scope(self, ticket: Ticket) -> str | None:
        """The name under which the user's sessions share refresh tokens, or None where each has its own."""
        return shared_by(self._providers, ticket)

    async def share(self, ticket: Ticket) -> None:
        """A sign-in brought a new refresh token: with ``per_user`` it replaced those of the user's other sessions."""
        scope = self.scope(ticket)
        if scope is None or not ticket.token.value:
            return
        self._hand_on(ticket, ticket.token)
        try:
            await self._pool.add(ticket, scope, ticket.token)
        except StoreUnavailable:
            self._lease.note_store_failed()

    async def forget_shared(self, ticket: Ticket, scope: str) -> None:
        """The user's last session ended.  Raises ``StoreUnavailable``."""
        await self._pool.forget(ticket, scope)

    async def write_back(self) -> None:
        """Write tokens that the store missed.  Raises ``StoreUnavailable``."""
        await self._pool.write_back()

    # Under the lease

    async def _renew(self, ticket: Ticket, known: Record | None, rank: Rank, last_used: float) -> Record:
        view = await self._look(ticket, known)  # what was written before the lease was given is seen now
        made = self._made_elsewhere(ticket, view, rank)
        if made is None and self._may_be_behind(ticket, view):
            await self._recalled(ticket, view)
            view = await self._look(ticket, known)
            made = self._made_elsewhere(ticket, view, rank)
        if made is not None:
            return made
        spent, tokens = await self._redeem_newest(ticket, view, last_used)
        record = self._next(ticket, view, spent, tokens, last_used)
        await self._write(ticket, record, view.stored)
        await self._grace.note_renewed(ticket, read(record.claims))
        return record

    def _made_elsewhere(self, ticket: Ticket, view: _View, rank: Rank) -> Record | None:
        newer = view.stored is not None and self._lease.is_newer(ticket, view.stored.record, rank)
        return view.stored.record if view.stored and newer else None

    async def _look(self, ticket: Ticket, known: Record | None) -> _View:
        scope = self.scope(ticket)
        try:
            stored = await self._vault.load(ticket)
            shared = None if scope is None else await self._vault.shared(ticket, scope)
        except StoreUnavailable:
            self._lease.note_store_failed()
            return _View(None, None, known)
        return _View(stored, shared, known)

    def _may_be_behind(self, ticket: Ticket, view: _View) -> bool:
        """Whether the store lost something, or was away while others went on without it."""
        lacking = view.stored is None or (self.scope(ticket) is not None and not (view.shared and view.shared.tokens))
        return lacking or self.store_failed_recently

    async def _recalled(self, ticket: Ticket, view: _View) -> None:
        """Have the other replicas write what they hold of this user."""
        held = max([(ticket.generation, 0.0), *(record.rank for record in view.records)])
        families = {one.family for one in self._candidates(ticket, view)}

        async def found() -> bool:
            seen = await self._look(ticket, None)
            shared = seen.shared.tokens if seen.shared else ()
            newer = seen.stored is not None and seen.stored.record.rank > held
            return newer or any(one.family not in families for one in shared)

        await self._recall(ticket.user, found)

    def _candidates(self, ticket: Ticket, view: _View) -> list[RefreshToken]:
        """Every token that may be alive, the newest first.  Without sharing: the session's own, and no other."""
        own = [ticket.token, *(record.token for record in view.records)]
        scope = self.scope(ticket)
        if scope is None:
            return self._pool.candidates(ticket, None, SharedTokens(), own)
        siblings = [session.record.token for session in self._live.of_user(ticket.user)]
        return self._pool.candidates(ticket, scope, view.shared or SharedTokens(), [*own, *siblings])

    async def _redeem_newest(self, ticket: Ticket, view: _View, last_used: float) -> tuple[RefreshToken, TokenSet]:
        """Redeem the newest token; after a refusal the user's other tokens, each once.

        Dex answers 500, for good, for the token of a sign-in that lost a race against another one: then the others are
        tried as well, and what failed is dead once another one was accepted.  Raises ``SessionEnded``.
        """
        scope = self.scope(ticket)
        refused = ""
        failed: dict[str, ProviderError] = {}
        looked = False
        while True:
            living = await self._living(ticket, view, failed)
            if not living and not failed and not looked and (refused or self._candidates(ticket, view)):
                looked, view = True, await self._look_later(ticket, view)
                continue
            if not living:
                raise await self._nothing_left(ticket, view, refused, failed)
            if (refused or failed) and not await self._pool.may_try_another(ticket, scope):
                raise next(iter(failed.values()), ProviderError(_LATER, retry_after=20.0))
            try:
                tokens = await self._redeem(ticket, living[0], view, last_used)
            except GrantRefused as error:
                refused = error.error or "without a code"
                self._on_failure(ticket.provider, "refused")
                await self._pool.bury(ticket, scope, living[0].value)
            except ProviderError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR or scope is None:
                    raise await self._after_failures(ticket, view, error) from None
                failed[living[0].value] = error
            else:
                for value in failed:
                    await self._pool.bury(ticket, scope, value)
                return living[0], tokens

    async def _after_failures(self, ticket: Ticket, view: _View, error: ProviderError) -> Exception:
        """What it means that the provider could not be asked, or failed."""
        previous = view.previous
        proved_until = self._lease.ends_at(ticket, previous) if previous else 0.0
        if previous and await self._grace.is_over(ticket, previous.claims, proved_until, error):
            return SessionEnded("the provider renews other users' sessions and not this one")
        return error

    async def _living(self, ticket: Ticket, view: _View, failed: Collection[str] = ()) -> list[RefreshToken]:
        """The candidates that the provider has not refused; ``failed`` are those that it failed for just now."""
        candidates = [one for one in self._candidates(ticket, view) if one.value not in failed]
        return [one for one in candidates if not await self._pool.is_dead(one.value)]

    async def _look_later(self, ticket: Ticket, view: _View) -> _View:
        """Every known token is refused: another device's sign-in replaces it a moment before it shares its own."""
        await self._recalled(ticket, view)
        for _ in range(_LATE_LOOKS if self.scope(ticket) is not None or self.store_failed_recently else 1):
            view = await self._look(ticket, view.known)
            if await self._living(ticket, view):
                break
            await asyncio.sleep(_POLL_SECONDS)
        return view

    async def _nothing_left(
        self, ticket: Ticket, view: _View, refused: str, failed: Mapping[str, ProviderError]
    ) -> Exception:
        """What it means that no token is left to try."""
        if failed:
            return await self._after_failures(ticket, view, next(iter(failed.values())))
        # Without the store, this replica cannot know that no other one holds a newer token.
        certain = not (self._replicas.others and self._lease.store_failed_within(_UNCERTAIN_SECONDS))
        proved = view.previous is not None and self._lease.ends_at(ticket, view.previous) > self._clock()
        unseen = view.shared is None and self.scope(ticket) is not None
        if unseen or (proved and not certain):
            return Postponed("another replica may have a newer refresh token, and the store is away")
        if refused:
            reason = f"the provider refused the refresh token ({refused})"
        elif ticket.token.value or (view.previous and view.previous.token.value):
            reason = "the refresh token is known to be dead"
        else:
            reason = "the session has no refresh token and its ID token has expired"
        return SessionEnded(reason, final=certain)

    async def _redeem(self, ticket: Ticket, newest: RefreshToken, view: _View, last_used: float) -> TokenSet:
        """Send one token.  A replacement that comes is kept, whatever is wrong with the rest of the answer."""
        provider, previous = self._providers[ticket.provider], view.previous
        try:
            async with self._gates[ticket.provider]:
                tokens = await provider.refresh(
                    newest.value, subject=ticket.subject, previous=previous.claims if previous else None
                )
        except AnswerUnproved as unproved:
            self._on_failure(ticket.provider, "unusable")
            record = self._kept(ticket, view, newest.rotated(unproved.refresh_token, unproved.issued_at), last_used)
            await self._write(ticket, record, view.stored)
            raise Rotated(unproved, record) from None
        except AnswerInvalid as invalid:
            self._on_failure(ticket.provider, "invalid")
            await self._keep_for_others(ticket, newest.rotated(invalid.refresh_token, invalid.issued_at))
            raise SessionEnded(f"the provider's refreshed ID token is not acceptable ({invalid.code})") from None
        except NotAsked:
            raise
        except ProviderError as error:
            self._on_failure(ticket.provider, "limited" if error.retry_after or error.status == 429 else "unavailable")
            raise
        if not tokens.claims and not (previous and previous.claims):
            await self._keep_for_others(ticket, newest.rotated(tokens.refresh_token, tokens.issued_at))
            raise SessionEnded("the provider sent no ID token, and the record with the old one is gone")
        return tokens

    async def _keep_for_others(self, ticket: Ticket, replacement: RefreshToken) -> None:
        """This session ends; what it has spent was the other sessions' token too, or else is of no use any more."""
        scope = self.scope(ticket)
        if scope is None:
            await self._pool.bury(ticket, None, replacement.value)
            return
        self._hand_on(ticket, replacement)
        with suppress(StoreUnavailable):
            await self._pool.add(ticket, scope, replacement)

    def _next(self, ticket: Ticket, view: _View, spent: RefreshToken, tokens: TokenSet, last_used: float) -> Record:
        previous = view.previous
        keep = previous if not tokens.id_token else None  # OIDC Core section 12.2: a new ID token is optional
        return Record(
            generation=self._next_generation(ticket, view),
            token=spent.rotated(tokens.refresh_token, tokens.issued_at),
            id_token=keep.id_token if keep else tokens.id_token,
            access_token=tokens.access_token,
            claims=dict(keep.claims if keep else tokens.claims),
            # Without a new ID token, the claims are as fresh as the access token that came instead.
            expires_at=tokens.access_expires_at if keep else tokens.expires_at,
            last_used=last_used,
            refreshed_at=self._providers[ticket.provider].now(),
            hint=self._hint(ticket, tokens, previous),
        )

    @staticmethod
    def _hint(ticket: Ticket, tokens: TokenSet, previous: Record | None) -> str:
        """The session's own ID token, where the new one has another ``sid``: that of the device whose token was sent.

        The provider's sign-out page would end that other device's session.
        """
        if not ticket.provider_sid or not tokens.id_token or tokens.claims.get("sid") in (ticket.provider_sid, None):
            return "" if tokens.id_token or previous is None else previous.hint
        return (previous.hint or previous.id_token) if previous else ""

    def _next_generation(self, ticket: Ticket, view: _View) -> int:
        live = self._live.by_id(ticket.id)
        records = [*view.records, *([live.record] if live else [])]
        return max([ticket.generation, *(record.generation for record in records)]) + 1

    def _kept(self, ticket: Ticket, view: _View, replacement: RefreshToken, last_used: float) -> Record:
        """The old proof, if there was one, with the refresh token that replaced the spent one."""
        nothing = Record(0, replacement, "", "", {}, expires_at=0.0, last_used=last_used, refreshed_at=0.0)
        return (view.previous or nothing)._replace(generation=self._next_generation(ticket, view), token=replacement)

    # Writing

    def _hand_on(self, ticket: Ticket, newest: RefreshToken) -> None:
        """Give the user's other sessions in this memory the token that replaced theirs: their cookies carry it."""
        scope = self.scope(ticket)
        for session in self._live.of_user(ticket.user) if scope is not None else ():
            if session.id != ticket.id and newest.replaces(session.record.token):
                session.adopt(newest, self._clock())

    async def _write(self, ticket: Ticket, record: Record, stored: Stored | None) -> None:
        """Write what the provider gave; where the store is away, the cookie and the live view hold it.

        Not given up at the first failure: the next holder of the lease would spend the old token again.
        """
        self._hand_on(ticket, record.token)
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            try:
                await self._write_once(ticket, record, stored)
                return
            except StoreSlow:
                limit = _WRITE_SECONDS
            except StoreUnavailable:
                limit = 0.0 if self.store_failed_recently else STORE_RETRY_SECONDS
            if now() - began >= limit:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._lease.note_store_failed()
        log.warning(
            "session %s: the renewed record is not stored yet; it is in memory and in the cookie", ticket.id[:8]
        )

    async def _write_once(self, ticket: Ticket, record: Record, stored: Stored | None) -> None:
        scope = self.scope(ticket)
        if scope is not None:
            await self._pool.add(ticket, scope, record.token)
        for _ in range(8):  # bounded: each lost round means that another writer won
            expected = stored.raw if stored else None
            if await self._vault.save(ticket, record, expected=expected, now=self._clock()):
                return
            stored = await self._vault.load(ticket)
            if stored and stored.record.rank >= record.rank:
                return


def shared_by(providers: Mapping[str, Provider], ticket: Ticket) -> str | None:
    """The name under which the sessions of a ticket's user share refresh tokens, or None where each has its own."""
    provider = providers.get(ticket.provider)
    if provider is None or provider.settings.refresh_tokens != "per_user":
        return None
    return share_scope(client_id=provider.settings.client_id, scopes=provider.settings.scopes)
