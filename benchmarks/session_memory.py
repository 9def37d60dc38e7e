"""What a live session costs in memory: the real rooms, filled in a process of its own.

    python -m benchmarks.session_memory [SESSIONS]

Fills the live view with SESSIONS sessions (100,000) on the way that a request takes: cookie opened, record read from
a store, identity built, session entered.  Then as many again, which must push the first ones out without growth.
States octets per session as the operating system sees them (resident set size), and where they go (tracemalloc, in a
second and smaller filling, since tracing costs memory itself).  Exits with 1 when a bound does not hold.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from authproxy.oidc.provider import Provider
from authproxy.sessions.cookie import Cookies, SessionCookie, new_ticket
from authproxy.sessions.live import LiveView
from authproxy.sessions.records import Record
from authproxy.sessions.sealing import KeyRing, token
from authproxy.sessions.vault import Vault
from authproxy.settings import schema
from authproxy.signin.identity import identity_by, live_session
from authproxy.store.memory import MemoryStore

SESSIONS: Final = 100_000
TRACED: Final = 5_000
MOST: Final = 5_000
"""Octets of resident memory that a session of this kind may cost at most."""
SLACK: Final = 0.1
"""Share by which as many sessions again may grow the process: the allocator's gaps, not sessions."""

ISSUER: Final = "https://dex.example.com"
HOST: Final = "app.example.com"
TEAMS: Final = [f"oidc:platform-team-{number:03}" for number in range(200)]


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def claims_of(number: int, now: int) -> dict[str, Any]:
    """What a company's provider says of one person, who is in eight groups of two hundred."""
    return {
        "iss": ISSUER, "sub": f"CiQ{number:08}LTRmMmUtOWE0Zi0xYzJkM2U0ZjVhNmISBGxkYXA", "aud": "authproxy",
        "exp": now + 3600, "iat": now, "nonce": token(24), "at_hash": token(16), "c_hash": token(16),
        "email": f"first.last-{number}@example.com", "email_verified": True,
        "groups": [TEAMS[(number * 7 + step * 13) % len(TEAMS)] for step in range(8)],
        "name": f"First Last {number}", "preferred_username": f"first.last-{number}",
    }  # fmt: skip


def id_token_of(claims: dict[str, Any]) -> str:
    """An ID token of the size that RS256 gives it; nobody checks its signature here."""
    head = {"alg": "RS256", "kid": "3f2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b"}
    return f"{_part(head)}.{_part(claims)}.{token(256)}"


class Filling:
    """A live view, and what a session passes on its way into it."""

    def __init__(self, capacity: int) -> None:
        self._now: Final = time.time()
        ring, cookie = KeyRing([os.urandom(32)]), schema.Cookie()
        self._cookie: Final = SessionCookie(Cookies(cookie, secure=True), ring, cookie)
        self._vault: Final = Vault(MemoryStore(), ring)
        shape = schema.Provider.model_validate({"issuer": ISSUER, "client_id": "authproxy"})
        self._provider: Final = Provider("dex", shape)
        self.live: Final = LiveView(clock=lambda: self._now, idle=28_800.0, capacity=capacity)

    async def add(self, number: int) -> int:
        """Sign one person in elsewhere, and open the cookie here; the length of the ID token."""
        claims = claims_of(number, int(self._now))
        made = new_ticket(
            provider="dex", issuer=ISSUER, subject=claims["sub"], host=HOST, now=self._now,
            absolute=604_800.0, refresh_token=token(66), issued_at=self._now, provider_sid="",
        )  # fmt: skip
        record = Record(1, made.token, id_token_of(claims), token(24), claims, self._now + 3600, self._now, self._now)
        await self._vault.save(made, record, expected=None, now=self._now)
        (line,) = self._cookie.write(made, now=self._now)
        await self._open(line.partition(";")[0].partition("=")[2])
        await self._vault.forget(made)  # the store is not what is measured
        return len(record.id_token)

    async def _open(self, sealed: str) -> None:
        ticket = self._cookie.open(sealed, HOST)
        stored = await self._vault.load(ticket) if ticket else None
        assert ticket is not None and stored is not None, "a session that was written can be read"  # noqa: PT018
        newest = ticket._replace(token=stored.record.token)
        session = live_session(newest, stored.record, self._provider, last_used=self._now)
        self.live.enter(session)
        self.live.remember(sealed, ticket, session)

    def renew(self) -> None:
        """What a reload does with the sessions when their provider's settings are others."""
        provider = Provider("dex", self._provider.settings)
        self.live.renew_all(idle=28_800.0, identity=lambda one: identity_by(one, provider))


def resident() -> int:
    """Octets of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _say(what: str, value: str) -> None:
    print(f"{what:<58} {value:>16}", flush=True)


def _milliseconds(work: Callable[[], object]) -> str:
    began = time.perf_counter()
    work()
    return f"{(time.perf_counter() - began) * 1000:,.0f}"


async def _fill(filling: Filling, first: int, last: int) -> None:
    for number in range(first, last):
        if sys.stderr.isatty() and not number % 1000:
            print(f"\r{number:,} sessions", end="\r", file=sys.stderr, flush=True)
        await filling.add(number)


async def _where(sessions: int) -> None:
    """Where the octets are allocated, by line of the source."""
    filling = Filling(sessions)
    await _fill(filling, 0, 10)
    tracemalloc.start()
    await _fill(filling, 10, sessions)
    gc.collect()
    found = tracemalloc.take_snapshot().statistics("lineno")
    tracemalloc.stop()
    _say("allocated by Python, octets per session", f"{sum(one.size for one in found) / (sessions - 10):,.0f}")
    for one in found[:14]:
        frame = one.traceback[0]
        place = "/".join(frame.filename.split("/")[-2:])
        _say(f"    {place}:{frame.lineno}", f"{one.size / (sessions - 10):,.0f}")


async def run(sessions: int) -> bool:
    """Measure and say it; whether the bounds hold."""
    filling = Filling(sessions)
    length = await filling.add(0)
    gc.collect()
    before = resident()
    await _fill(filling, 1, sessions)
    gc.collect()
    full = resident()
    each = (full - before) / (sessions - 1)
    _say("sessions", f"{len(filling.live):,}")
    _say("characters of an ID token", f"{length:,}")
    _say("resident memory before and with them, MiB", f"{before / 2**20:,.0f}  {full / 2**20:,.0f}")
    _say("resident octets per session", f"{each:,.0f}")
    _say("one full garbage collection, ms", _milliseconds(gc.collect))
    _say("identities built anew for a changed provider, ms", _milliseconds(filling.renew))
    await _fill(filling, sessions, 2 * sessions)
    gc.collect()
    grown = (resident() - full) / (full - before)
    _say(f"held after {2 * sessions:,} came", f"{len(filling.live):,}")
    _say("growth by those that came later", f"{grown:+.1%}")
    bounded = len(filling.live) == sessions and grown <= SLACK
    del filling
    await _where(min(sessions, TRACED))
    return bounded and each <= MOST


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS)) else 1)
