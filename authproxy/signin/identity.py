"""From a session's claims to the identity that the rest of the house judges."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from sys import intern
from typing import Final

from authproxy.model import Identity, SessionHandle
from authproxy.oidc.provider import Provider, identity_fields
from authproxy.sessions.claims import held_once, read
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.live import LiveSession
from authproxy.sessions.records import Record

_MARGIN: Final = 60.0  # seconds; a token is renewed at most this long before it expires
_SHARE: Final = 0.2  # of its lifetime, for short-lived ones
_SHORTEST: Final = 1.0  # seconds; what lives shorter on arrival cannot be kept fresh
RENEWAL_SPACING: Final = 10.0
"""Seconds between two renewals whose tokens have expired on arrival, or nearly: another one brings nothing better."""


def ends_at(record: Record, provider: Provider) -> float:
    """When the proof of a record ends, by our clock, in seconds since the epoch."""
    return _ends_at(record) - provider.skew


def _ends_at(record: Record) -> float:
    """By the provider's clock, as all times in a record that come from it; bounds how often a session renews."""
    if record.expires_at - record.refreshed_at < _SHORTEST:
        return record.refreshed_at + RENEWAL_SPACING
    return record.expires_at


def identity_of(ticket: Ticket, record: Record, provider: Provider) -> Identity:
    """The identity of a session, by the provider's claim mapping."""
    mapping = {str(name): claim for name, claim in provider.settings.claims.items()}
    fields = identity_fields(read(record.claims), mapping)
    return Identity(
        kind="session",
        subject=ticket.subject,
        issuer=ticket.issuer,
        user=fields.user,
        email=fields.email,
        email_verified=fields.email_verified,
        preferred_username=fields.preferred_username,
        groups=tuple(map(intern, fields.groups)),  # of many sessions the same ones
        expires_at=ends_at(record, provider),
        session=SessionHandle(id=ticket.id, provider=ticket.provider, ends_at=ticket.absolute_end),
        id_token=record.id_token,
        access_token=record.access_token,
        claims=record.claims,
    )


def refresh_due(record: Record, provider: Provider, *, chance: Callable[[], float] = random) -> float:
    """When to renew ahead of expiry, by our clock, in seconds since the epoch; spread, so that sessions do not crowd.

    At the earliest when four fifths of a token's lifetime are over: the number of renewals is bounded by it.
    """
    ends = _ends_at(record)
    if not record.token.value:
        return ends - provider.skew
    margin = min(_MARGIN, _SHARE * max(ends - record.refreshed_at, 0.0))
    return ends - margin * (0.75 + 0.25 * chance()) - provider.skew


def live_session(ticket: Ticket, record: Record, provider: Provider, *, last_used: float) -> LiveSession:
    """A session for the live view."""
    ticket, record = _once(ticket, record)
    identity = identity_of(ticket, record, provider)
    session = LiveSession(ticket, record, identity, last_used=last_used, refresh_at=refresh_due(record, provider))
    session.identity_by = provider
    return session


def renew(session: LiveSession, ticket: Ticket, record: Record, provider: Provider) -> None:
    """Newer tokens of a live session arrived."""
    ticket, record = _once(ticket, record)
    session.renewed(ticket, record, identity_of(ticket, record, provider), refresh_at=refresh_due(record, provider))
    session.identity_by = provider


def identity_by(session: LiveSession, provider: Provider) -> Identity:
    """The identity of a live session by the claim mapping of ``provider``; the one that it has, where that is the same.

    A hundred thousand sessions are looked through when the settings change.
    """
    if session.identity_by is not provider:
        session.identity = identity_of(session.ticket, session.record, provider)
        session.identity_by = provider
    return session.identity


def _once(ticket: Ticket, record: Record) -> tuple[Ticket, Record]:
    """The same, with every text in memory once: there are many sessions."""
    ticket = ticket._replace(provider=intern(ticket.provider), issuer=intern(ticket.issuer), host=intern(ticket.host))
    if ticket.token == record.token:
        ticket = ticket._replace(token=record.token)
    return ticket, record._replace(claims=held_once(record.claims, record.id_token))
