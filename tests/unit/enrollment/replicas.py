"""A replica's enrollment, built of real parts for the tests: signing keys, tokens, families, marks, and who judges."""

from __future__ import annotations

import json
from typing import Any

from authproxy.authn.enrolled import EnrolledAuthenticator
from authproxy.enrollment.families import Families
from authproxy.enrollment.issuer import Issuer
from authproxy.enrollment.tokens import EnrollmentTokens
from authproxy.jose.sign import new_signing_key
from authproxy.sessions.marks import Marks
from authproxy.settings.schema import Enrollment
from authproxy.store.base import Store
from tests.peers.fake_clock import FakeClock

US = "https://auth.example.com"
EU = "eu-01.k8s.example.com"
OLD, NEW, OPEN = "old-fleet-secret-" + "o" * 32, "new-fleet-secret-" + "n" * 32, "no-cluster-secret-" + "c" * 32
KEY = json.dumps(new_signing_key())
NEXT_KEY = json.dumps(new_signing_key())


def shape(*signing: str, **changes: Any) -> Enrollment:
    """An enrollment section with two overlapping tokens for one fleet, and one for machines without a cluster."""
    section: dict[str, Any] = {
        "tokens": {
            "fleet": {"secrets": [{"value": OLD}, {"value": NEW}], "clusters": ["*.k8s.example.com"]},
            "open": {"secrets": [{"value": OPEN}]},
        },
        "signing_keys": [{"value": key} for key in signing or (KEY,)],
        "credential": {"lifetime": "15m", "renewable_for": "2160h", "scopes": ["read"]},
        **changes,
    }
    return Enrollment.model_validate(section)


class Replica:
    """One process's rooms over a store that others may share."""

    def __init__(self, store: Store, clock: FakeClock, section: Enrollment | None = None) -> None:
        section = section or shape()
        self.marks = Marks(store, clock=clock, on_mark=lambda _mark: None)
        self.issuer = Issuer(section, public_url=US, clock=clock)
        self.tokens = EnrollmentTokens(
            section.tokens, store=store, stamping=lambda: self.issuer.subkeys("enrollment tokens"), clock=clock
        )
        self.families = Families(self.issuer, section.credential, store=store, revocations=self.marks, clock=clock)
        self.authenticator = EnrolledAuthenticator(self.issuer, self.tokens, self.families, clock=clock)
