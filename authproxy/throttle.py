"""How often somebody may try to sign in.

Knows names, addresses and limits, and counts in the store, by keyed digest, so that all replicas share the count.  It
does not know whether a user exists: every name goes the same way.  While the store is away each replica counts alone;
nothing is ever unlimited.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from typing import Literal, NamedTuple
from unicodedata import normalize

from authproxy.edge.hops import subscriber
from authproxy.errors import StoreUnavailable, TooManyAttempts
from authproxy.settings import schema
from authproxy.store import keys
from authproxy.store.base import Store, Tally
from authproxy.store.memory import MemoryStore


class Bucket(NamedTuple):
    """What attempts are counted by.  ``name`` is what the four functions below make of it."""

    kind: Literal["user", "device", "browser", "client"]
    name: str

    def __repr__(self) -> str:
        return f"<Bucket {self.kind}>"  # a name may be a user, an address or a cookie


def _folded(name: str) -> str:
    # Folding may undo the composition and composing may bring back what folds, so each is done until it holds
    # (Unicode Standard section 3.13, D145 to D147).
    folded = normalize("NFKC", normalize("NFD", name).casefold()).casefold()
    return normalize("NFKC", folded).strip()


def user_bucket(name: str) -> Bucket:
    """Attempts on a user name, whichever provider; spelling variants (NFKC, case, outer white space) are one name."""
    return Bucket("user", _folded(name))


def device_bucket(name: str, device: str) -> Bucket:
    """Attempts on a user name from a browser that has signed in as that user before.

    It stands in for the user's bucket, so that somebody else's attempts do not lock the user out.
    """
    return Bucket("device", f"{_folded(name)}\0{device}")


def browser_bucket(browser: str) -> Bucket:
    """Attempts of one browser, known by our cookie."""
    return Bucket("browser", browser)


def client_bucket(address: str) -> Bucket:
    """Attempts from one address; an IPv6 client is its /64."""
    return Bucket("client", subscriber(address))  # a Unix socket has no address; its clients share a bucket


class Throttle:
    """GCRA per bucket: ``limits.login`` for users, devices and browsers, ``limits.login_per_client`` for addresses.

    ``key`` is secret and the same on all replicas: without it the store's keys tell nobody who tried to sign in.
    ``alone`` counts while the store is away.
    """

    def __init__(self, store: Store, limits: schema.Throttle, *, key: bytes, alone: Store | None = None) -> None:
        self._store = store
        self._limits = limits
        self._key = key
        self._alone = alone or MemoryStore(limit=100_000)

    async def charge(self, *buckets: Bucket) -> None:
        """Count one attempt in every bucket, or in none.

        Raises TooManyAttempts with the first bucket's wait in whole seconds when one is full.  A refused attempt does
        not prolong the wait.
        """
        for charged, bucket in enumerate(buckets):
            tally = await self._tally(bucket)
            if not tally.allowed:
                await self.give_back(*buckets[:charged])
                raise self._refusal(bucket, tally)

    async def give_back(self, *buckets: Bucket) -> None:
        """Take an attempt back: it succeeded."""
        for bucket in buckets:
            name, every = self._name(bucket), self._limit(bucket).every
            try:
                await self._store.give_back(name, every=every)
            except StoreUnavailable:
                await self._alone.give_back(name, every=every)

    async def _tally(self, bucket: Bucket) -> Tally:
        name, limit = self._name(bucket), self._limit(bucket)
        try:
            return await self._store.tally(name, burst=limit.burst, every=limit.every)
        except StoreUnavailable:
            return await self._alone.tally(name, burst=limit.burst, every=limit.every)

    def _refusal(self, bucket: Bucket, tally: Tally) -> TooManyAttempts:
        # The store's wait is more than nothing and at most ``every``: at least 1, at most ``every`` rounded up.
        return TooManyAttempts(math.ceil(tally.wait), reason=f"throttle: the {bucket.kind} bucket is full")

    def _limit(self, bucket: Bucket) -> schema.Limit:
        return self._limits.login_per_client if bucket.kind == "client" else self._limits.login

    def _name(self, bucket: Bucket) -> str:
        digest = hmac.new(self._key, f"{bucket.kind}\0{bucket.name}".encode(errors="surrogatepass"), hashlib.sha256)
        return keys.throttle(bucket.kind, digest.hexdigest())

    def __repr__(self) -> str:
        login, client = self._limits.login, self._limits.login_per_client
        return f"<Throttle {login.burst} then 1 per {login.every:g}s, per client {client.burst} then {client.every:g}s>"
