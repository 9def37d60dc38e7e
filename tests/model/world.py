"""Users with devices, replicas, one store and one provider; and the judgement on every answer.

Every operation is judged when it is answered: a session that lives and has a path to the newest refresh token is not
signed out, one that has ended is not served again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeVar
from unittest.mock import patch

from authproxy.errors import NotAuthenticated, Refusal
from authproxy.signin import recall
from authproxy.signin.login import Finished
from tests.model.faulty_store import SharedStore, State
from tests.model.replica import ABSOLUTE, IDLE, Replica
from tests.model.token_peer import LIFETIME, USUAL_DELAY, Origin, Refused, Token, TokenPeer, Trouble, origin
from tests.model.virtual_loop import VirtualLoop

T = TypeVar("T")
SETTLED: Final = 3.0
"""Seconds after which a replica whose store answers must have written and read what it has to."""
HEARD: Final = 1.5
"""Seconds until a revocation must hold on every replica: the contract's one second, and the answer's own time."""
CERTAIN: Final = 13.0
"""Seconds for which a store must have answered, so that nothing newer is with another replica alone."""
CERTAIN_USE: Final = 0.7
"""Share of the idle time in which a session surely lives: a cookie is up to a quarter of it old."""
MOST_CALLS: Final = 12
"""Refresh calls of one session from one replica in a minute."""


@dataclass
class Session:
    """What the model knows of a session."""

    name: str
    user: str
    device: str
    signed_in_at: float
    cookies: str = ""
    used_at: float = 0.0
    tried_at: float = 0.0
    ended: str = ""
    ended_at: float = 0.0
    excused: str = ""
    unknown: bool = False
    """The browser has another cookie now, and whether the session was ended is open."""
    known_to: set[str] = field(default_factory=set)
    """Replicas that have it in memory."""
    replacing: int = 0
    """Sign-ins of the same browser under way: each may end this session before its own answer arrives."""
    heard_by: set[str] = field(default_factory=set)
    """Replicas on which the end must hold; "store" for the stream of revocations."""


@dataclass
class Device:
    """A browser."""

    name: str
    user: str
    jar: dict[str, str] = field(default_factory=dict)
    session: Session | None = None

    def cookies(self) -> str:
        """The Cookie header."""
        return "; ".join(f"{name}={value}" for name, value in self.jar.items())

    def take(self, set_cookies: Sequence[str]) -> None:
        """Keep what the answer sets."""
        for line in set_cookies:
            pair, _, attributes = line.partition(";")
            name, _, value = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value


class World:
    """Enter it to use it.  Every public method is an event; ``failures`` holds what must not have happened."""

    def __init__(self, *, per_user: bool = True, window: float = 0.0, replicas: int = 2) -> None:
        self.loop: Final = VirtualLoop()
        self._chance: Final = Random(7)
        self._urandom: Final = patch.object(os, "urandom", self._chance.randbytes)
        self.failures: Final[list[str]] = []
        self.story: Final[list[str]] = []
        self.clock: Final = self.loop.wall_clock
        self.peer: Final = TokenPeer(self.clock, per_user, window, on_refused=self._refused, on_mixed_up=self._mixed_up)
        self.shared: Final = SharedStore(self.clock)
        self.replicas: Final = [Replica(f"r{i}", self.shared, self.peer, self.clock) for i in range(1, replicas + 1)]
        self.devices: Final = {
            name: Device(name, "alice" if name.startswith("a") else "bob") for name in ("a1", "a2", "a3", "b1")
        }
        self.sessions: Final[list[Session]] = []
        self._answering_since: Final = {replica.name: 0.0 for replica in self.replicas}
        self._clean_since: Final = {replica.name: 0.0 for replica in self.replicas}
        self._flushed_at = float("-inf")
        self._kept_until = float("inf")
        self._changed_at = self.clock()
        self._disturbed_at = self.clock()
        self._logged_out: Final[dict[str, float]] = {}
        self._running: Final[set[asyncio.Task[Any]]] = set()
        self._calls_seen = 0

    def __enter__(self) -> World:
        self._urandom.start()
        logging.disable()
        asyncio.set_event_loop(None)
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._stop())
        finally:
            self.loop.close()
            logging.disable(logging.NOTSET)
            self._urandom.stop()

    async def _start(self) -> None:
        for replica in self.replicas:
            await replica.start()
        await asyncio.sleep(2 * SETTLED)
        for replica in self.replicas:
            await replica.ready()

    async def _stop(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for replica in self.replicas:
            await replica.kill()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _begin(self, work: Coroutine[Any, Any, None], cause: Origin) -> asyncio.Task[None]:
        token = origin.set(cause)
        try:
            task = self.loop.create_task(work)
        finally:
            origin.reset(token)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _wait(self, tasks: Sequence[asyncio.Task[None]], patience: float) -> None:
        """Wait for answers, ``patience`` seconds at most; what is late is judged when it comes."""
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=patience)
            for task in done:
                task.result()

    def _note(self, text: str) -> None:
        self.story.append(f"{self.loop.time():8.2f} {text}")

    def note_settings(self) -> None:
        """Begin the story with what it is played on."""
        kind = "per_user" if self.peer.per_user else "per_session"
        self._note(f"{len(self.replicas)} replicas, {kind}, reuse window {self.peer.window}")

    def _fail(self, text: str) -> None:
        self._note(f"FAILURE {text}")
        self.failures.append(text)

    # Events: time and faults

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self._note(f"{seconds} s pass")
        self._run(asyncio.sleep(seconds))
        self._settle()

    def set_link(self, numbers: Sequence[int], state: State, *, delay: float = 0.0, loses_effect: bool = False) -> None:
        """Change the way from some replicas to the store."""
        self._settle()
        for replica in (self.replicas[number % len(self.replicas)] for number in numbers):
            self._note(f"{replica.name}: store {state} {delay or ''}{' effects lost' if loses_effect else ''}")
            link, now = replica.link, self.clock()
            if state in ("refused", "silent") or not link.answers:
                self._answering_since[replica.name] = now
            link.state, link.delay, link.loses_effect = state, delay, loses_effect
            self._clean_since[replica.name] = now
        self._disturbed()

    def lose_data(self, seconds: float | None = None) -> None:
        """The store loses everything, or the writes of the last seconds."""
        self._settle()
        self._note(f"the store loses {'everything' if seconds is None else f'{seconds} s'}")
        self._run(self.shared.lose(seconds))
        self._flushed_at = self.clock()
        self._kept_until = self.clock() - seconds if seconds is not None else float("-inf")
        for session in self.sessions:
            if session.ended_at + HEARD > self._kept_until:
                session.heard_by.discard("store")
        self._disturbed()

    def restart(self, number: int, *, kill: bool) -> None:
        """Replace a process."""
        self._settle()
        replica = self.replicas[number % len(self.replicas)]
        self._note(f"{replica.name} is {'killed' if kill else 'restarted'}")
        self._run(replica.kill() if kill else replica.stop())
        self._run(replica.start())
        for session in self.sessions:
            session.heard_by.discard(replica.name)
            session.known_to.discard(replica.name)
        self._clean_since[replica.name] = self.clock()
        self._disturbed()

    def set_provider(self, trouble: Trouble) -> None:
        """The provider has trouble, or none any more."""
        self._note(f"provider: {trouble}")
        self.peer.trouble = trouble
        self._disturbed()

    def _disturbed(self) -> None:
        self._disturbed_at = self._changed_at = self.clock()

    # Events: people

    def sign_in(
        self, device: str, numbers: Sequence[int], *, delays: Sequence[float] = (), patience: float = 5.0
    ) -> None:
        """Sign in, in as many tabs at once as there are ``numbers`` of replicas that get the callbacks."""
        self._settle()
        self._note(f"{device} signs in on {list(numbers)} {list(delays)}")
        self._run(self._sign_in(self.devices[device], numbers, delays, patience))
        self._settle()

    async def _sign_in(self, device: Device, numbers: Sequence[int], delays: Sequence[float], patience: float) -> None:
        begun = []
        for at, number in enumerate(numbers):
            replica = self.replicas[number % len(self.replicas)]
            if not await replica.ready():
                continue
            with suppress(Refusal):
                started = await replica.begin_sign_in(device.cookies())
                device.take(started.set_cookies)
                delay = delays[at] if at < len(delays) else USUAL_DELAY
                begun.append((replica, self.peer.authorize(started.url, device.user, delay=delay)))
        tasks: list[asyncio.Task[None]] = []
        for replica, parameters in begun:
            name = f"{device.name}.{len(self.sessions) + len(tasks) + 1}"
            work = self._finish(device, replica, parameters, Session(name, device.user, device.name, self.clock()))
            tasks.append(self._begin(work, Origin(name)))
        await self._wait(tasks, patience)

    async def _finish(self, device: Device, replica: Replica, parameters: dict[str, str], session: Session) -> None:
        former, began = device.session, self.clock()
        if former is not None:
            former.replacing += 1
        try:
            finished: Finished = await replica.finish_sign_in(device.cookies(), parameters)
        except Refusal as refusal:
            self._note(f"{session.name} on {replica.name}: sign-in refused: {refusal}")
            return
        finally:
            if former is not None:
                former.replacing -= 1
        if replica.wire.gone:
            if former is not None:
                former.unknown = True
            return
        now = self.clock()
        session.signed_in_at = session.used_at = session.tried_at = now
        session.known_to.add(replica.name)
        self.sessions.append(session)
        if session.user in self.peer.revoked:
            session.excused = "revoked"
        session.unknown = self._logged_out.get(session.user, 0.0) >= began
        self._leave(device, former, replica)
        self._leave(device, device.session, None)
        device.take(finished.set_cookies)
        device.session, session.cookies = session, device.cookies()
        self._note(f"{session.name} is signed in on {replica.name}")

    def _leave(self, device: Device, former: Session | None, replica: Replica | None) -> None:
        """The browser has another session now; the sign-in ends the one whose cookie it got, if that is not new."""
        if former is None or former.ended:
            return
        former.unknown = True
        if replica is not None and self.clock() - former.signed_in_at > 60.0:
            former.unknown = False
            self._end(former, "replaced", replica.name)

    def request(self, pairs: Sequence[tuple[str, int]], *, patience: float = 5.0) -> None:
        """Requests at once: a device, and the number of the replica that gets its request."""
        self._settle()
        self._note(f"requests {list(pairs)}")
        tasks = []
        for name, number in pairs:
            device = self.devices[name]
            if device.session is not None:
                replica = self.replicas[number % len(self.replicas)]
                cause = Origin(device.session.name, device.cookies())
                tasks.append(self._begin(self._request(device, device.session, replica), cause))
        self._run(self._wait(tasks, patience))
        self._settle()

    async def _request(self, device: Device, session: Session, replica: Replica) -> None:
        if not await replica.ready():
            return
        began = session.tried_at = self.clock()
        wire = replica.wire
        had_path = self._path(session, replica)
        try:
            proved = await replica.request(device.cookies())
        except NotAuthenticated as refusal:
            if not wire.gone:
                self._judge_signed_out(session, replica, began, refusal, had_path=had_path)
            return
        except Refusal as refusal:
            self._note(f"{session.name} on {replica.name}: {refusal}")
            return
        if wire.gone or device.session is not session:
            return
        self._judge_served(session, replica, began, proved.identity.subject)
        device.take(proved.set_cookies)
        session.cookies = device.cookies()

    def reuse_cookie(self, name: str, number: int) -> None:
        """A request with the last cookie of a session that has ended."""
        self._settle()
        session = next((one for one in self.sessions if one.name == name), None)
        if session is not None and session.ended:
            self._run(self._reuse(session, self.replicas[number % len(self.replicas)]))

    async def _reuse(self, session: Session, replica: Replica) -> None:
        if not await replica.ready():
            return
        began = self.clock()
        token = origin.set(Origin(session.name, session.cookies))
        try:
            proved = await replica.request(session.cookies)
        except Refusal:
            return
        finally:
            origin.reset(token)
        self._judge_served(session, replica, began, proved.identity.subject)

    def sign_out(self, device: str, number: int) -> None:
        """Sign out one device."""
        self._settle()
        one, replica = self.devices[device], self.replicas[number % len(self.replicas)]
        session = one.session
        if session is None or session.ended or not self._run(replica.ready()):
            return
        self._note(f"{device} signs out on {replica.name}")
        token = origin.set(Origin(session.name, session.cookies))
        was_unknown, session.unknown = session.unknown, True  # requests that are under way may be answered either way
        try:
            self._run(replica.sign_out(one.cookies()))
        finally:
            origin.reset(token)
            session.unknown = was_unknown
        one.jar.clear()
        one.session = None
        self._end(session, "signed out", replica.name)
        self._settle()

    def end_by_provider(self, user: str, number: int) -> None:
        """The provider ends every session of a user by back-channel logout."""
        self._settle()
        replica = self.replicas[number % len(self.replicas)]
        if not self._run(replica.ready()):
            return
        self._note(f"back-channel logout of {user} on {replica.name}")
        began = self._logged_out[user] = self.clock()
        if not self._run(replica.end_by_provider(self.peer.logout_token(user))):
            return
        for session in self.sessions:
            if session.user != user or session.ended:
                continue
            if session.signed_in_at < began:
                self._end(session, "logged out by the provider", replica.name)
            else:  # the same instant: it may have come before or after
                session.unknown = True
        self._settle()

    def revoke(self, user: str) -> None:
        """The administrator removes the user at the provider."""
        self._settle()
        self._note(f"{user} is removed at the provider")
        self.peer.revoke(user)

    def mix_up(self, user: str) -> None:
        """From now on the provider answers a refresh of this user with an ID token of another."""
        self._settle()
        self._note(f"{user} is mixed up at the provider")
        self.peer.mixed_up.add(user)

    def heal(self) -> None:
        """Everything works again; then every session that lives is served by every replica, twice past its expiry."""
        self._settle()
        self._note("everything heals")
        self.set_provider("none")
        self.set_link(range(len(self.replicas)), "up")
        self.pass_time(LIFETIME + 15.0)
        for _ in range(2):
            for number in range(len(self.replicas)):
                self.request([(name, number) for name in self.devices], patience=30.0)
                self.pass_time(HEARD)
            for session in self.sessions:
                if session.ended:
                    for number in range(len(self.replicas)):
                        self.reuse_cookie(session.name, number)
            self._check_served()
            if self.failures:
                return
            self.pass_time(LIFETIME + 5.0)
        self._try_all_tokens()
        asked_at = self.clock()
        self.request([(name, 0) for name in self.devices], patience=30.0)
        for session in self.sessions:
            if session.used_at >= asked_at and self._is_refused(session):
                self._fail(f"{session.name} lives although the provider refuses {session.user}")

    def _try_all_tokens(self) -> None:
        """Go on until the tokens of every removed user were all tried: three other tokens in a minute."""
        sign_ins = max((sum(one.user == user for one in self.sessions) for user in self.peer.revoked), default=0)
        for _ in range(sign_ins // 3):
            self.request([(name, 0) for name in self.devices], patience=30.0)
            self.pass_time(LIFETIME + 5.0)

    def _check_served(self) -> None:
        now = self.clock()
        for session in self.sessions:
            lives = self._is_current(session) and not session.ended and not session.unknown
            if not lives or self._is_refused(session) or now > session.signed_in_at + ABSOLUTE - 1.0:
                continue
            if session.used_at < now - 10.0 * len(self.replicas):
                self._fail(f"{session.name} is not served although everything works")

    def _replica(self, name: str) -> Replica:
        return next(replica for replica in self.replicas if replica.name == name)

    def _is_refused(self, session: Session) -> bool:
        """Whether the provider refuses the session's user for good."""
        return session.user in self.peer.revoked or session.user in self.peer.mixed_up

    def _is_current(self, session: Session) -> bool:
        return self.devices[session.device].session is session

    # Judgement

    def _end(self, session: Session, why: str, replica: str, at: float | None = None) -> None:
        if not session.ended:
            session.ended, session.ended_at = why, self.clock() if at is None else at
            session.heard_by.add(replica)
            self._changed_at = self.clock()
            self._note(f"{session.name} has ended: {why}")
            self._forget_tokens(session.user)

    def _settle(self) -> None:
        """Revocations travel between the replicas whose store works, where nothing was disturbed meanwhile."""
        now = self.clock()
        if now - self._changed_at >= HEARD:
            clean = {r.name for r in self.replicas if now - self._clean_since[r.name] >= HEARD and self._is_clean(r)}
            for session in self.sessions:
                if session.ended and session.heard_by & clean:
                    session.heard_by.add("store")
                if "store" in session.heard_by:
                    session.heard_by |= clean
        self._count_calls()

    def _is_certain(self, replica: Replica) -> bool:
        """Whether a refusal leaves no doubt: the store holds every newer token, were there one."""
        since = max(self._clean_since[replica.name], self._answering_since[replica.name])
        return self._is_clean(replica) and self.clock() - since > CERTAIN

    @staticmethod
    def _is_clean(replica: Replica) -> bool:
        return replica.link.state == "up"

    def _judge_signed_out(
        self, session: Session, replica: Replica, began: float, refusal: NotAuthenticated, *, had_path: str
    ) -> None:
        now = self.clock()
        self._note(f"{session.name} on {replica.name}: signed out: {refusal}")
        if session.ended or session.unknown or session.replacing:
            return
        if self._is_refused(session):
            self._end(session, "the provider's word", replica.name, at=now + 1.0)
            return
        if began > session.used_at + CERTAIN_USE * IDLE:
            session.unknown = True  # another replica may have seen a later use
        elif now > session.signed_in_at + ABSOLUTE - 1.0:
            self._end(session, "absolute", replica.name)
        elif session.excused or not had_path or not self._path(session, replica):
            session.unknown = True
            session.excused = session.excused or "no path to the newest token"
        else:
            session.unknown = True
            self._fail(f"{session.name} was signed out on {replica.name} ({refusal}); path: {had_path}")

    def _judge_served(self, session: Session, replica: Replica, began: float, subject: str) -> None:
        now = self.clock()
        if subject != session.user:
            self._fail(f"{session.name} is served as {subject}")
        if now > session.signed_in_at + ABSOLUTE + 1.0:
            self._fail(f"{session.name} is served after its absolute end")
        if began - session.used_at > IDLE + 1.0 and began - max(session.used_at, session.signed_in_at) > IDLE + 1.0:
            self._fail(f"{session.name} is served after {began - session.used_at:.0f} s without use")
        if session.ended and replica.name in session.heard_by and began > session.ended_at + HEARD:
            self._fail(f"{session.name} is served by {replica.name} after its end ({session.ended})")
        session.used_at = max(session.used_at, now)
        session.known_to.add(replica.name)

    def _refused(self, refused: Refused) -> None:
        """The provider refuses a refresh token."""
        self._note(f"provider refuses {refused.token} of {refused.session} from {refused.replica}")
        session = next((one for one in self.sessions if one.name == refused.session), None)
        replica = self._replica(refused.replica)
        if session is None or session.ended:
            return
        if session.user in self.peer.revoked:
            alone = sum(one.user == session.user for one in self.sessions) == 1 or not self.peer.per_user
            heard = self.peer.trouble not in ("stalled", "cut")
            if alone and heard and self._is_certain(replica):
                patience = (
                    4.0 if self.peer.per_user else 1.0
                )  # a sign-in elsewhere may have replaced the token just now
                self._end(session, "the provider's word", replica.name, at=self.clock() + patience)
            return
        path = self._path(session, replica, fenced=True)
        if not path:
            session.excused = session.excused or "refused without a path to the newest token"
            self._note(f"{session.name} is excused")
        elif refused.killed:
            self._fail(f"{replica.name} presents a spent token of {session.name}; path: {path}")
            session.excused = "its grant is dead"

    def _mixed_up(self, name: str, replica: str) -> None:
        """A refreshed ID token of another user ends the session (OpenID Connect Core section 12.2)."""
        for session in self.sessions:
            if session.name == name and self._is_clean(self._replica(replica)):
                self._end(session, "an unacceptable ID token", replica, at=self.clock() + 1.0)

    def _path(self, session: Session, replica: Replica, *, fenced: bool = False) -> str:
        """How the replica can come by the newest refresh token of the session; empty when it cannot."""
        grant = self.peer.grant_of(session.user, session.name)
        if grant is None:
            return ""
        newest = grant.current
        ticket = replica.ticket(origin.get().cookies)
        if ticket is not None and ticket.token.value == newest.text:
            return "cookie"
        if self._is_in_memory(newest, replica):
            return "memory"
        if not self._answers(replica):
            return ""
        return "store" if self._is_stored(newest) else self._path_from_others(newest, replica, fenced=fenced)

    def _path_from_others(self, newest: Token, replica: Replica, *, fenced: bool) -> str:
        now = self.clock()
        for other in self.replicas:
            if other is replica or not self._answers(other) or 3 * other.link.delay > recall.PATIENCE - 0.5:
                continue  # it hears the question, reads and writes
            if self._is_in_memory(newest, other) and now - (newest.delivered_at or now) >= 1.0:
                return f"memory of {other.name}"
            under_way = not newest.by_sign_in and newest.receiver == other.name and not newest.lost
            if fenced and under_way and newest.issued_at > self._answering_since[other.name] + SETTLED:
                return f"answer under way to {other.name}"
        return ""

    @staticmethod
    def _is_in_memory(token: Token, replica: Replica) -> bool:
        return token.text in replica.wire.received and not replica.wire.gone

    def _forget_tokens(self, user: str) -> None:
        """A process that has no session of a user left in memory has no token of the user either."""
        living = [one for one in self.sessions if one.user == user and not one.ended]
        for replica in self.replicas:
            if not any(replica.name in session.known_to for session in living):
                texts = {text for text in replica.wire.received if self.peer.tokens[text].user == user}
                replica.wire.received.difference_update(texts)

    def _answers(self, replica: Replica) -> bool:
        since = max(self._answering_since[replica.name], replica.started_at)
        return replica.link.answers and self.clock() - since >= SETTLED

    def _is_stored(self, token: Token) -> bool:
        """Whether the store must have a token: its receiver had time to write it, and nothing was lost since."""
        if token.delivered_at is None:
            return False
        receiver = self._replica(token.receiver)
        if receiver.started_at > token.delivered_at - SETTLED or not receiver.link.answers:
            return False
        written_at = max(token.delivered_at, self._answering_since[token.receiver]) + SETTLED
        return written_at < self.clock() and (written_at < self._kept_until or self._flushed_at < token.delivered_at)

    def _count_calls(self) -> None:
        calls = self.peer.calls
        for call in calls[self._calls_seen :]:
            self._check_call(call.session, call.replica, call.at)
        self._calls_seen = len(calls)

    def _check_call(self, name: str, replica: str, at: float) -> None:
        recent = [c for c in self.peer.calls if c.session == name and at - 60.0 < c.at <= at]
        if sum(call.replica == replica for call in recent) > MOST_CALLS:
            self._fail(f"{replica} sends more than {MOST_CALLS} refreshes of {name} in a minute")
        session = next((one for one in self.sessions if one.name == name), None)
        if session is None:
            return
        good = [call for call in recent if call.status == 200 and at - call.at < LIFETIME / 2]
        if len(good) > 1 and not session.ended and self._was_undisturbed(good[0].at):
            self._fail(f"{name} was renewed twice within {at - good[0].at:.1f} s by {[c.replica for c in good]}")
        if not self.peer.per_user:
            call = recent[-1]
            grant = self.peer.grant_of_token(call.token)
            if grant is not None and grant.session != name:
                self._fail(f"{replica} presents a token of {grant.session} for {name}")

    def _was_undisturbed(self, since: float) -> bool:
        works = all(self._is_clean(replica) for replica in self.replicas) and self.peer.trouble == "none"
        return works and self._disturbed_at < since - SETTLED

    def check(self) -> None:
        """Raise AssertionError with the story when anything must not have happened."""
        assert not self.failures, "\n".join(["", *self.failures, "", *self.story])
