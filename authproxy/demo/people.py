"""The two people of the demo.  Their passwords are printed when it starts: they guard nothing."""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple


class Person(NamedTuple):
    """A demo user.  ``subject`` stays the same from run to run, as a real provider's would."""

    username: str
    password: str
    subject: str
    name: str
    email: str
    groups: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Person {self.username}>"

    @property
    def claims(self) -> dict[str, object]:
        """What an ID token and userinfo say of the person (OpenID Connect Core section 5.1)."""
        return {
            "sub": self.subject, "name": self.name, "preferred_username": self.username, "email": self.email,
            "email_verified": True, "groups": list(self.groups),
        }  # fmt: skip


PEOPLE: Final = (
    Person(
        "alice", "wonderland", "demo-7f3a1c-alice", "Alice Moreau", "alice@demo.example", ("staff", "admins")
    ),
    Person("bob", "lighthouse", "demo-2e9b4d-bob", "Bob Okafor", "bob@demo.example", ("staff",)),
)  # fmt: skip


def person(username: str) -> Person | None:
    """The person with that user name, or None."""
    return next((one for one in PEOPLE if one.username == username.strip().lower()), None)


def proved(username: str, password: str) -> Person | None:
    """The person, when the password is theirs.  An unknown name takes the same comparison."""
    known = person(username)
    expected = known.password if known else "\0"
    return known if hmac.compare_digest(expected.encode(), password.encode("utf-8", "replace")) else None
