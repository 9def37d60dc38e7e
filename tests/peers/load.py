"""Many people at work at once: real sign-ins, then requests at a steady pace, whatever the answers.

The people run in a process of their own, so that they do not wait for the test and the test does not wait for them.
Each has a browser profile and a cookie jar.  What came of every request is written to a file, line by line.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import aiohttp

from tests.peers.browser_client import Browser, Page
from tests.peers.openid_grants import Person
from tests.peers.program import Program, as_json
from tests.peers.yardstick import slowdown

AT_ONCE = 10  # sign-ins under way
GRACE = 40.0  # seconds that open requests may take at the end


def person(number: int) -> Person:
    """The person of this number, for the provider's list of people."""
    name = f"user{number}"
    claims = {"sub": f"sub-{name}", "email": f"{name}@example.com", "email_verified": True, "groups": ["staff"]}
    return Person(name, f"{name}-password", claims)


class Outcome(NamedTuple):
    """One request: when it was sent (seconds since the epoch), by whom, and what came of it after how many seconds."""

    sent_at: float
    user: int
    status: int  # 0: no answer
    seconds: float
    note: str  # "", "signed out", "mixed up", or what went wrong

    @property
    def failed(self) -> bool:
        """Whether a person would have noticed, other than by being asked to sign in."""
        return self.note not in ("", "signed out")


@dataclass
class Report:
    """What people noticed in a while."""

    outcomes: list[Outcome]
    failures: list[Outcome] = field(init=False)
    signed_out: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.failures = [one for one in self.outcomes if one.failed]
        self.signed_out = {one.user for one in self.outcomes if one.note == "signed out"}

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        times = sorted(one.seconds for one in self.outcomes)
        return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0

    @property
    def p50(self) -> float:
        """Median, in seconds."""
        return self.percentile(0.5)

    @property
    def p99(self) -> float:
        """In seconds."""
        return self.percentile(0.99)

    @property
    def typical_p99(self) -> float:
        """The median of the 99th percentiles of every second: one hiccup of the machine does not show in it."""
        seconds: dict[int, list[Outcome]] = {}
        for one in self.outcomes:
            seconds.setdefault(int(one.sent_at - self.outcomes[0].sent_at), []).append(one)
        return statistics.median(Report(some).p99 for some in seconds.values())

    @property
    def unharmed(self) -> bool:
        """No request failed and nobody was signed out."""
        return bool(self.outcomes) and not self.failures and not self.signed_out

    def __str__(self) -> str:
        notes: dict[str, int] = {}
        for one in self.failures:
            notes[f"{one.status} {one.note}"] = notes.get(f"{one.status} {one.note}", 0) + 1
        return (
            f"{len(self.outcomes)} requests, {len(self.failures)} failed {notes or ''}, {len(self.signed_out)} signed"
            f" out, p50 {self.p50 * 1000:.1f} ms, p99 {self.p99 * 1000:.1f} ms,"
            f" typical p99 {self.typical_p99 * 1000:.1f} ms, max {self.percentile(1.0) * 1000:.1f} ms"
        )


class Load:
    """``users`` people who open ``url`` ``rate`` times a second between them; enter it: everybody has signed in.

    ``rate`` is that of an idle machine: one that is busy is given less to do.

    The provider must know ``person(0)`` to ``person(users - 1)`` and ask for a password.
    """

    def __init__(self, folder: Path, url: str, *, users: int = 100, rate: float = 200.0) -> None:
        self._file, self._users = folder / "outcomes.jsonl", users
        spec = {"url": url, "users": users, "rate": rate / slowdown(), "file": str(self._file)}
        place = folder / "load.json"
        place.write_text(json.dumps(spec), encoding="utf-8")
        self.program = Program(sys.executable, "-m", "tests.peers.load", place, cwd=Path(__file__).parents[2])
        self.phases: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<Load {self.program!r}, phases {list(self.phases)}>"

    @asynccontextmanager
    async def phase(self, name: str, seconds: float = 0.0) -> AsyncIterator[None]:
        """Everything that is sent from here to the end of the block, which lasts ``seconds`` at least."""
        began = time.time()
        yield
        await asyncio.sleep(max(0.0, began + seconds - time.time()))  # people work on meanwhile
        self.phases[name] = began, time.time()

    async def everybody(self, since: float) -> None:
        """Wait until each person has had an answer to a request that was sent after ``since``."""

        def all_answered() -> bool:
            whole = self._file.read_text(encoding="utf-8").rpartition("\n")[0]
            outcomes = (Outcome(*json.loads(line)) for line in whole.splitlines())
            return len({one.user for one in outcomes if one.sent_at > since}) == self._users

        await self.program.until(all_answered, "everybody has had an answer")

    def report(self, phase: str = "") -> Report:
        """What was sent in a phase, or ever; call it when the load has ended, so that nothing is under way."""
        since, until = self.phases[phase] if phase else (0.0, float("inf"))
        lines = self._file.read_text(encoding="utf-8").splitlines()
        outcomes = (Outcome(*json.loads(line)) for line in lines)
        return Report([one for one in outcomes if since <= one.sent_at < until])

    async def stop(self) -> None:
        """Send nothing more, and wait for the answers."""
        code = await self.program.stop(timeout=GRACE + 10)
        assert code == 0, self.program.transcript()

    async def __aenter__(self) -> Self:
        self.program.start()
        try:
            await self.program.line(_signed_in)
        except BaseException:
            await self.program.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.program.exit_code is None:
            await self.stop()


def _signed_in(line: str) -> int | None:
    return (as_json(line) or {}).get("signed_in")


# --- the process ---


class _People:
    def __init__(self, spec: dict[str, Any], file: IO[str]) -> None:
        self._url: str = spec["url"]
        self._count: int = spec["users"]
        self._rate: float = spec["rate"]
        self._file = file
        self._browsers: list[Browser] = []
        self._order = list(range(self._count))
        self._chance = random.Random(1).random
        self._stop = asyncio.Event()

    async def work(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        async with AsyncExitStack() as stack:
            self._browsers = [await stack.enter_async_context(Browser()) for _ in range(self._count)]
            await self._sign_in_all()
            sys.stdout.write(json.dumps({"signed_in": self._count}) + "\n")
            sys.stdout.flush()
            await self._open_loop()

    async def _sign_in_all(self) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turn:
                await self._sign_in(number)

        await asyncio.gather(*map(one, range(self._count)))

    async def _sign_in(self, number: int) -> None:
        browser, who = self._browsers[number], person(number)
        page = await browser.open(self._url)
        page = await browser.submit(page, page.form("username"), username=who.username, password=who.password)
        assert page.status == 200, (page.url, page.status, page.text[:500])
        browser.visited.clear()

    async def _open_loop(self) -> None:
        """Requests are due by the clock alone: slow answers do not slow down those who ask."""
        began, number = time.monotonic(), 0
        open_requests: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            if number % self._count == 0:
                self._order.sort(key=lambda _: self._chance())  # so that nobody always meets the same replica
            task = asyncio.ensure_future(self._request(self._order[number % self._count]))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))
        if open_requests:
            await asyncio.wait(open_requests, timeout=GRACE)

    async def _request(self, user: int) -> None:
        browser, sent_at, began = self._browsers[user], time.time(), time.perf_counter()
        status, note = 0, ""
        try:
            page = await browser.navigate(self._url)
            status, note = page.status, _note(user, page)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            note = f"{type(error).__name__}: {error}"
        browser.visited.clear()
        outcome = Outcome(sent_at, user, status, time.perf_counter() - began, note)
        self._file.write(json.dumps(outcome) + "\n")


def _note(user: int, page: Page) -> str:
    if page.status in (302, 401):
        return "signed out"
    if page.status != 200:  # an answer without a code of ours is of whoever stands before us, or behind
        return f"answered {page.status} {page.headers.get('Authproxy-Refusal', 'by somebody else')}"
    return "" if f'"{person(user).claims["email"]}"'.encode() in page.body else "mixed up"


def main() -> None:
    """The process: ``python -m tests.peers.load FILE``."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Path(spec["file"]).open("w", encoding="utf-8", buffering=1) as file:
        asyncio.run(_People(spec, file).work())


if __name__ == "__main__":
    main()
