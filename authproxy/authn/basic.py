"""Basic sign-in for machines: a name and a password, against an htpasswd file with bcrypt entries (RFC 7617).

bcrypt is slow on purpose, so that it runs in two threads of its own, behind the login throttle; a pair that was proved
is remembered for a minute, by a digest under a key that only this process has.  Which of name and password was wrong,
nobody can tell, neither by the answer nor by its time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import bcrypt

from authproxy.authn import authorization
from authproxy.authn.chain import Judging, Proved
from authproxy.errors import NotAuthenticated, Unavailable
from authproxy.model import Identity, Kind, Match, RequestInfo
from authproxy.settings import htpasswd
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import Basic
from authproxy.throttle import Bucket, Throttle, client_bucket, user_bucket

SECONDS: Final = 60.0
"""How long a proved pair is remembered."""
ENTRIES: Final = 1000
"""How many are remembered; the oldest goes first."""

_BASIC: Final = b"basic"
_THREADS: Final = 2
_WAITING: Final = 64  # checks at once; the next are told to come back
_TOO_LONG: Final = 2048  # octets of base64
_LONGEST_PASSWORD: Final = 72  # octets; bcrypt would not look at the rest


class _Pair(NamedTuple):
    user: str
    password: str

    def __repr__(self) -> str:
        return "<a name and a password>"


class _Users(NamedTuple):
    entries: Mapping[str, str]
    nobody: str  # an entry that no password fits, as costly as the costliest


class BasicAuthenticator(Judging):
    """Kind ``basic``.  ``clock`` is monotonic, in seconds.  Raises LookupError, ValueError for unusable files."""

    kind: Kind = "basic"

    def __init__(self, shape: Basic, *, throttle: Throttle, clock: Callable[[], float] = time.monotonic) -> None:
        self._users: Final = Fresh(shape.users, _users, clock=clock)
        self._groups: Final = Fresh(shape.groups, htpasswd.groups, clock=clock) if shape.groups else None
        self._throttle: Final = throttle
        self._clock: Final = clock
        self._key: Final = os.urandom(32)
        self._proved: Final[OrderedDict[bytes, float]] = OrderedDict()  # digest -> until when
        self._locks: Final[WeakValueDictionary[bytes, asyncio.Lock]] = WeakValueDictionary()
        self._threads: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="bcrypt")
        self._checks = 0
        self._users()
        self._groups_of("")

    async def close(self) -> None:
        """Let the checks that run finish, and begin no other."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries a name and a password for us."""
        return bool(authorization.of_scheme(info.headers, _BASIC))

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:  # noqa: ARG002 - all kinds are asked alike
        """The identity of the user.

        Raises BadRequest ``several_credentials``, NotAuthenticated ``wrong_credentials``, TooManyAttempts, and
        Unavailable ``basic_busy`` when too many passwords wait for their check.
        """
        credentials = authorization.the_only(info.headers, _BASIC)
        pair = _pair(credentials)
        if pair is not None and self._known(pair):
            return self._identified(pair)
        return self._checked(pair, info.client)

    async def _checked(self, pair: _Pair | None, client: str) -> Proved:
        if pair is None:
            await self._throttle.charge(client_bucket(client))
            raise _wrong("not a name and a password")
        await self._prove(pair, client)
        return self._identified(pair)

    def _identified(self, pair: _Pair) -> Proved:
        groups = self._groups_of(pair.user)
        return Proved(Identity(kind="basic", subject=pair.user, user=pair.user, groups=groups))

    def _known(self, pair: _Pair) -> bool:
        users = self._users()
        return self._remembered(self._digest(users.entries.get(pair.user, users.nobody), pair))

    async def _prove(self, pair: _Pair, client: str) -> None:
        """Raises unless the password is the user's.  Equal pairs are checked once, one waits for the other."""
        users = self._users()
        entry = users.entries.get(pair.user, users.nobody)
        digest = self._digest(entry, pair)
        if self._remembered(digest):
            return
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            if not self._remembered(digest):
                buckets = [client_bucket(client)]
                if digest not in self._proved:  # one that was right before: strangers must not lock its user out
                    buckets.insert(0, user_bucket(pair.user))
                await self._check(entry, pair.password, buckets)
                self._remember(digest)

    async def _check(self, entry: str, password: str, buckets: Iterable[Bucket]) -> None:
        await self._throttle.charge(*buckets)
        if self._checks >= _WAITING:
            await self._throttle.give_back(*buckets)
            raise Unavailable("basic_busy", "Too many passwords are being checked. Please try again.")
        self._checks += 1
        try:
            fits = await asyncio.get_running_loop().run_in_executor(self._threads, _fits, password, entry)
        finally:
            self._checks -= 1
        if not fits:
            raise _wrong("wrong user name or password")
        await self._throttle.give_back(*buckets)

    def _digest(self, entry: str, pair: _Pair) -> bytes:
        """Names the pair and the entry that it was proved by, so that a changed entry forgets it."""
        said = f"{entry}\0{pair.user}\0{pair.password}"  # none of them holds a NUL
        return hmac.digest(self._key, said.encode(), hashlib.sha256)

    def _remembered(self, digest: bytes) -> bool:
        return self._proved.get(digest, float("-inf")) > self._clock()

    def _remember(self, digest: bytes) -> None:
        self._proved[digest] = self._clock() + SECONDS
        self._proved.move_to_end(digest)
        if len(self._proved) > ENTRIES:
            self._proved.popitem(last=False)

    def _groups_of(self, user: str) -> tuple[str, ...]:
        return self._groups().get(user, ()) if self._groups is not None else ()

    def __repr__(self) -> str:
        return f"<BasicAuthenticator {self._checks} checks running, {len(self._proved)} pairs remembered>"


def _users(text: str) -> _Users:
    entries = htpasswd.users(text)
    salt = bcrypt.gensalt(max(map(htpasswd.cost, entries.values()))).decode()
    return _Users(entries, salt + "." * 31)


def _fits(password: str, entry: str) -> bool:
    """Whether the password is that of the entry; one that bcrypt would cut off costs the same and never fits."""
    octets = password.encode()
    whole = len(octets) <= _LONGEST_PASSWORD
    return bcrypt.checkpw(octets[:_LONGEST_PASSWORD], entry.encode()) and whole


def _pair(credentials: bytes) -> _Pair | None:
    """RFC 7617 section 2: base64 of ``name:password``, UTF-8, no control characters; the first colon parts them."""
    if len(credentials) > _TOO_LONG:
        return None
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    return _Pair(user, password) if user and colon and not _has_controls(text) else None


def _has_controls(text: str) -> bool:
    return any(character < " " or "\x7f" <= character < "\xa0" for character in text)


def _wrong(reason: str) -> NotAuthenticated:
    return NotAuthenticated("wrong_credentials", "The user name or the password is wrong.", reason=f"basic: {reason}")
