"""Identities of live sessions: made once, and anew when the provider's settings are others."""

from __future__ import annotations

import pytest

from authproxy.oidc.provider import Provider
from authproxy.sessions.claims import TokenClaims
from authproxy.sessions.records import RefreshToken
from authproxy.settings import schema
from authproxy.signin.identity import ends_at, identity_by, live_session, refresh_due
from tests.unit.sessions.test_claims import CLAIMS, token_of
from tests.unit.sessions.test_cookie import a_ticket
from tests.unit.sessions.test_live import a_record


def a_provider(**claims: str) -> Provider:
    """A provider with a claim mapping."""
    shape = {"issuer": "https://dex.example.com", "client_id": "authproxy", "claims": claims}
    return Provider("dex", schema.Provider.model_validate(shape))


def test_an_identity_is_made_for_a_provider_and_its_settings() -> None:
    """A reload that is not about the provider leaves the identity as it is; one that is makes it anew."""
    provider, record = a_provider(), a_record(id_token=token_of(CLAIMS), claims=CLAIMS)
    session = live_session(a_ticket(), record, provider, last_used=1000.0)
    first = session.identity
    assert first.groups == ("staff", "admins")
    assert isinstance(session.record.claims, TokenClaims)
    assert identity_by(session, provider) is first
    other = identity_by(session, a_provider(groups="realm.roles"))
    assert other.groups == ("a",)
    assert session.identity is other


# --- when a session renews (C10) ---


def skewed(ahead: float) -> Provider:
    """A provider whose clock is ``ahead`` seconds ahead of ours."""
    provider = a_provider()
    provider._skew.seconds = ahead
    return provider


@pytest.mark.parametrize("ahead", [-300.0, -90.0, 0.0, 30.0, 300.0])
def test_renewal_times_are_by_our_clock(ahead: float) -> None:
    """A record has the provider's times; what is compared with our clock is moved by the skew."""
    provider, record = skewed(ahead), a_record(expires_at=1600.0, refreshed_at=1000.0)
    assert ends_at(record, provider) == 1600.0 - ahead
    assert refresh_due(record, provider, chance=lambda: 1.0) == 1540.0 - ahead
    assert refresh_due(record, provider, chance=lambda: 0.0) == 1555.0 - ahead
    assert live_session(a_ticket(), record, provider, last_used=1000.0).identity.expires_at == 1600.0 - ahead
    assert refresh_due(record._replace(token=RefreshToken("")), provider) == 1600.0 - ahead


@pytest.mark.parametrize("lifetime", [-3600.0, -59.0, -1.0, 0.0, 0.5, 0.999])
def test_tokens_that_are_over_on_arrival_do_not_renew_at_once(lifetime: float) -> None:
    """`exp` in the past, `exp` before `iat`, no lifetime at all: another renewal brings nothing better."""
    record = a_record(expires_at=1000.0 + lifetime, refreshed_at=1000.0)
    for chance in (0.0, 1.0):
        assert refresh_due(record, skewed(0.0), chance=lambda chance=chance: chance) >= 1008.0  # type: ignore[misc]
    assert ends_at(record, skewed(0.0)) == 1010.0
    assert ends_at(record._replace(token=RefreshToken("")), skewed(0.0)) == 1010.0


@pytest.mark.parametrize("lifetime", [1.0, 2.0, 60.0, 300.0, 1e6])
def test_a_session_renews_after_four_fifths_of_a_lifetime(lifetime: float) -> None:
    """Never sooner, and never after the end."""
    record = a_record(expires_at=1000.0 + lifetime, refreshed_at=1000.0)
    for chance in (0.0, 0.5, 1.0):
        due = refresh_due(record, skewed(0.0), chance=lambda chance=chance: chance)  # type: ignore[misc]
        assert 1000.0 + 0.8 * lifetime <= due <= 1000.0 + lifetime
    assert ends_at(record, skewed(0.0)) == 1000.0 + lifetime
