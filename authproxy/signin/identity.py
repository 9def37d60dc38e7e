"""From a session's claims to the identity that the rest of the house judges."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Final

from authproxy.model import Identity, SessionHandle
from authproxy.oidc.provider import Provider, identity_fields
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.live import LiveSession
from authproxy.sessions.vault import Record

_MARGIN: Final = 60.0  # seconds; a token is renewed at most this long before it expires
_SHARE: Final = 0.2  # of its lifetime, for short-lived ones


def identity_of(ticket: Ticket, record: Record, provider: Provider) -> Identity:
    """The identity of a session, by the provider's claim mapping."""
    fields = identity_fields(record.claims, {str(name): claim for name, claim in provider.settings.claims.items()})
    return Identity(
        kind="session",
        subject=ticket.subject,
        issuer=ticket.issuer,
        user=fields.user,
        email=fields.email,
        email_verified=fields.email_verified,
        preferred_username=fields.preferred_username,
        groups=fields.groups,
        expires_at=record.expires_at,
        session=SessionHandle(id=ticket.id, provider=ticket.provider, ends_at=ticket.absolute_end),
        id_token=record.id_token,
        access_token=record.access_token,
        claims=record.claims,
    )


def refresh_due(record: Record, *, chance: Callable[[], float] = random) -> float:
    """When to renew ahead of expiry, in seconds since the epoch; spread, so that sessions do not crowd."""
    if not record.refresh_token:
        return record.expires_at
    margin = min(_MARGIN, _SHARE * max(record.expires_at - record.refreshed_at, 0.0))
    return record.expires_at - margin * (0.75 + 0.25 * chance())


def live_session(ticket: Ticket, record: Record, provider: Provider, *, last_used: float) -> LiveSession:
    """A session for the live view."""
    identity = identity_of(ticket, record, provider)
    return LiveSession(ticket, record, identity, last_used=last_used, refresh_at=refresh_due(record))
