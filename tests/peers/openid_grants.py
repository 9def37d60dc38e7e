"""What an OpenID peer remembers: people, codes, access tokens, and families of refresh tokens that rotate.

No network here: the rules by which a refresh token lives and dies are in one place, so that they can be read.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple


class Person(NamedTuple):
    """Somebody who can sign in; ``claims`` hold at least ``sub``."""

    username: str
    password: str
    claims: dict[str, Any]


PEOPLE: Final = {
    "alice": Person(
        "alice",
        "alice-password",
        {
            "sub": "sub-alice",
            "email": "alice@example.com",
            "email_verified": True,
            "name": "Alice",
            "preferred_username": "alice",
            "groups": ["staff", "admins"],
        },
    ),
    "bob": Person(
        "bob",
        "bob-password",
        {
            "sub": "sub-bob",
            "email": "bob@example.com",
            "email_verified": True,
            "name": "Bob",
            "preferred_username": "bob",
            "groups": ["guests"],
        },
    ),
}


@dataclass
class Consent:
    """One sign-in: who, for which client, how, and with what nonce."""

    username: str
    client_id: str
    scope: tuple[str, ...]
    sid: str
    auth_time: float
    nonce: str | None = None
    acr: str | None = None
    connector: str = ""
    redirect_uri: str = ""
    challenge: str = ""
    expires_at: float = 0.0
    spent: bool = False


@dataclass
class Family:
    """The refresh tokens of one sign-in: the one that is current, the one before it, and all that are gone."""

    consent: Consent
    current: str
    created_at: float
    last_used: float
    previous: str = ""
    alive: bool = True
    gone: set[str] = field(default_factory=set)


class RefreshTokens:
    """Rotation with reuse detection, or the way of Dex.

    Strict (``reuse_interval`` 0): a token that was rotated away and comes again takes its whole family with it.
    With an interval, the previous token is answered with the current one for so many seconds, and a current one that
    was used so recently is not rotated.  ``one_per_user``: a new sign-in of the same person with the same client kills
    the token of the last one, and reuse kills nothing.
    """

    def __init__(self, *, rotate: bool, reuse_interval: float, one_per_user: bool) -> None:
        self.rotate = rotate
        self.reuse_interval = reuse_interval
        self.one_per_user = one_per_user
        self.lifetime = float("inf")
        self._families: dict[str, Family] = {}  # by every token there ever was

    def issue(self, consent: Consent, now: float) -> str:
        """The first refresh token of a sign-in."""
        if self.one_per_user:
            for family in self._of(consent.username, consent.client_id):
                family.alive = False
        return self.begin(consent, now)

    def begin(self, consent: Consent, now: float) -> str:
        """A family of its own, whatever others there are."""
        token = _fresh()
        self._families[token] = Family(consent, token, now, now)
        return token

    def spend(self, token: str, client_id: str, now: float) -> tuple[Family, str] | None:
        """The family and what happened (``rotated`` or ``repeated``); None when the token is dead."""
        family = self._families.get(token)
        if family is None or not family.alive or family.consent.client_id != client_id:
            return None
        if now - family.created_at > self.lifetime:
            return None
        recently = self.reuse_interval > 0 and now - family.last_used <= self.reuse_interval
        if token == family.current:
            return (family, "repeated") if recently or not self.rotate else (self._rotate(family, now), "rotated")
        if token == family.previous and recently:
            return family, "repeated"
        family.alive = self.one_per_user  # reuse was detected; Dex lets the holder of the current token live
        return None

    def rotates(self, token: str, now: float) -> Family | None:
        """The family of ``token`` when spending it now would rotate it."""
        family = self._families.get(token)
        if family is None or not family.alive or token != family.current:
            return None
        recently = self.reuse_interval > 0 and now - family.last_used <= self.reuse_interval
        return None if recently or not self.rotate else family

    def kill(self, *, token: str = "", username: str = "", sid: str = "") -> int:
        """End the families of a token, a person or a provider session; how many there were."""
        found = {
            id(family): family
            for family in self._families.values()
            if family.alive
            and (
                token in ({family.current} | family.gone if token else ())
                or username == family.consent.username
                or (sid and sid == family.consent.sid)
            )
        }
        for family in found.values():
            family.alive = False
        return len(found)

    def is_alive(self, token: str) -> bool:
        """Whether ``token`` is the current one of a living family."""
        family = self._families.get(token)
        return family is not None and family.alive and family.current == token

    def _rotate(self, family: Family, now: float) -> Family:
        family.gone.add(family.current)
        family.previous, family.current, family.last_used = family.current, _fresh(), now
        self._families[family.current] = family
        return family

    def _of(self, username: str, client_id: str) -> list[Family]:
        return [
            family
            for family in self._families.values()
            if family.consent.username == username and family.consent.client_id == client_id
        ]


def _fresh() -> str:
    return secrets.token_urlsafe(24)
