"""Identities of live sessions: made once, and anew when the provider's settings are others."""

from __future__ import annotations

from authproxy.oidc.provider import Provider
from authproxy.sessions.claims import TokenClaims
from authproxy.settings import schema
from authproxy.signin.identity import identity_by, live_session
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
