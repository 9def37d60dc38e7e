"""What the demo's provider remembers: requests being answered, codes, token families.  In memory, and bounded.

Knows nothing of HTTP.  A refresh token works once: the one that replaced it is the only one that works after it, and
an older one that comes again ends the whole family (RFC 9700 section 4.14.2).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from authproxy.demo.people import Person

Value = TypeVar("Value")

REQUEST_SECONDS: Final = 600.0
CODE_SECONDS: Final = 60.0
ACCESS_SECONDS: Final = 120.0
REFRESH_SECONDS: Final = 8 * 3600.0


class Bounded(Generic[Value]):
    """A dictionary that forgets: each entry after its time, and the oldest when there are too many."""

    def __init__(self, clock: Callable[[], float], *, seconds: float, most: int = 1000) -> None:
        self._clock: Final = clock
        self._seconds: Final = seconds
        self._most: Final = most
        self._entries: Final[OrderedDict[str, tuple[float, Value]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Bounded {len(self)} of {self._most}>"

    def add(self, value: Value) -> str:
        """Keep ``value`` under a new name that nobody can guess."""
        name = secrets.token_urlsafe(24)
        self._entries[name] = (self._clock() + self._seconds, value)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
        return name

    def get(self, name: str) -> Value | None:
        """What is kept under ``name``, unless its time is over."""
        until, value = self._entries.get(name, (0.0, None))
        return value if until > self._clock() else None

    def pop(self, name: str) -> Value | None:
        """``get``, and forget it."""
        value = self.get(name)
        self._entries.pop(name, None)
        return value


class Request(NamedTuple):
    """An authorization request that was found good, while the person signs in."""

    redirect_uri: str
    state: str
    nonce: str
    scope: str
    challenge: str


@dataclass
class Family:
    """All tokens of one sign-in."""

    person: Person
    scope: str
    sid: str
    auth_time: int
    nonce: str = field(default="", repr=False)
    current: str = field(default="", repr=False)  # the only refresh token that works
    ended: bool = False


class Code(NamedTuple):
    """An authorization code's meaning.  It stays known after its use, so that a second use is noticed."""

    request: Request
    family: Family
    used: list[bool]

    def __repr__(self) -> str:
        return f"<Code of {self.family.person.username}>"


class Refused(Exception):
    """The grant is refused; the message is an RFC 6749 section 5.2 error code."""


class Grants:
    """The provider's memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock: Final = clock
        self.requests: Final[Bounded[Request]] = Bounded(clock, seconds=REQUEST_SECONDS)
        self._codes: Final[Bounded[Code]] = Bounded(clock, seconds=CODE_SECONDS)
        self._access: Final[Bounded[Family]] = Bounded(clock, seconds=ACCESS_SECONDS, most=5000)
        self._refresh: Final[Bounded[Family]] = Bounded(clock, seconds=REFRESH_SECONDS, most=5000)
        self._families: Final[OrderedDict[str, Family]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Grants {len(self._families)} sign-ins>"

    def begin(self, person: Person, scope: str, nonce: str = "") -> Family:
        """A new sign-in."""
        family = Family(person, scope, secrets.token_urlsafe(12), int(self._clock()), nonce)
        self._families[family.sid] = family
        if len(self._families) > 1000:
            self._families.popitem(last=False)[1].ended = True
        return family

    def code(self, request: Request, person: Person) -> str:
        """A code for a person who has just signed in."""
        return self._codes.add(Code(request, self.begin(person, request.scope, request.nonce), [False]))

    def redeem(self, code: str, redirect_uri: str, verifier: str) -> Family:
        """The sign-in that ``code`` stands for.  A second use ends it (RFC 6749 section 4.1.2).  Raises ``Refused``."""
        found = self._codes.get(code)
        if found is None:
            raise Refused("invalid_grant")
        if found.used[0]:
            found.family.ended = True
            raise Refused("invalid_grant")
        found.used[0] = True
        if redirect_uri != found.request.redirect_uri or not _answers(verifier, found.request.challenge):
            raise Refused("invalid_grant")
        return found.family

    def renew(self, refresh_token: str) -> Family:
        """The sign-in of ``refresh_token``, which must be its newest.  Raises ``Refused``."""
        family = self._refresh.get(refresh_token)
        if family is None or family.ended:
            raise Refused("invalid_grant")
        if not hmac.compare_digest(family.current, refresh_token):
            family.ended = True  # reuse: one of the two holders is a thief
            raise Refused("invalid_grant")
        return family

    def access_token(self, family: Family) -> str:
        """A new access token."""
        return self._access.add(family)

    def rotate(self, family: Family) -> str:
        """A new refresh token, which takes the place of the one before."""
        family.current = self._refresh.add(family)
        return family.current

    def holder(self, access_token: str) -> Family | None:
        """Whose access token this is, while it works."""
        family = self._access.get(access_token)
        return None if family is None or family.ended else family

    def revoke(self, token: str) -> None:
        """End the sign-in that ``token`` belongs to, whichever kind it is (RFC 7009); an unknown one is no error."""
        family = self._refresh.get(token) or self._access.get(token)
        if family is not None:
            family.ended = True

    def end(self, sid: str) -> None:
        """End a sign-in by its ``sid``."""
        family = self._families.pop(sid, None)
        if family is not None:
            family.ended = True


def _answers(verifier: str, challenge: str) -> bool:
    """RFC 7636 section 4.6, method S256."""
    digest = hashlib.sha256(verifier.encode("ascii", "replace")).digest()
    return hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), challenge)
