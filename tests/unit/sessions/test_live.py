"""The live view: what it hands out, and when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from authproxy.model import Identity
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.live import LiveSession, LiveView
from authproxy.sessions.marks import Mark, sid_name
from authproxy.sessions.records import Record, RefreshToken
from tests.unit.sessions.test_cookie import HOST, a_ticket


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_record(**changes: Any) -> Record:
    """A record whose ID token lasts until 1600."""
    record = Record(
        generation=1, token=RefreshToken("rt", "f1"), id_token="id", access_token="at", claims={"sub": "u1"},
        expires_at=1600.0, last_used=1000.0, refreshed_at=1000.0,
    )  # fmt: skip
    return record._replace(**changes)


def a_session(ticket: Ticket, **changes: Any) -> LiveSession:
    """A live session of a ticket."""
    return LiveSession(ticket, a_record(**changes), Identity(kind="session"), last_used=1000.0, refresh_at=1500.0)


def a_view(clock: Clock, *, capacity: int = 100) -> LiveView:
    """A view with an idle time of 300 seconds."""
    return LiveView(clock=clock, idle=300.0, capacity=capacity)


def entered(view: LiveView, sealed: str = "cookie", **ticket: Any) -> LiveSession:
    """A session that the view holds under a cookie."""
    session = a_session(a_ticket(**ticket))
    view.enter(session)
    view.remember(sealed, session.ticket, session)
    return session


def test_a_known_cookie_is_found_and_counts_as_use() -> None:
    """Looking a session up moves its last use on."""
    clock = Clock()
    view = a_view(clock)
    session = entered(view)
    clock.now = 1200.0
    found = view.find("cookie", HOST)
    assert found is not None
    assert found.session is session
    assert session.last_used == 1200.0
    assert view.find("another", HOST) is None


def test_an_entry_outlives_neither_refresh_nor_idle_nor_absolute_end() -> None:
    """At each of the three times the entry is not used any more without asking."""
    for at, absolute in ((1500.0, 9000.0), (1301.0, 9000.0), (1200.0, 1200.0)):
        clock = Clock()
        view = a_view(clock)
        entered(view, absolute_end=absolute)
        clock.now = at
        assert view.find("cookie", HOST) is None


def test_a_dropped_session_is_over_at_once() -> None:
    """Dropping ends it: its cookies open nothing, and what hangs on it is called back once."""
    view = a_view(Clock())
    session = entered(view)
    cut: list[str] = []
    session.on_end(lambda: cut.append("first"))
    forget = session.on_end(lambda: cut.append("second"))
    forget()
    view.drop(session.id)
    view.drop(session.id)
    assert view.find("cookie", HOST) is None
    assert session.ended
    assert cut == ["first"]


def test_marks_end_what_they_name() -> None:
    """A mark by session, by the provider's sid or by subject ends those sessions, and leaves later sign-ins alone."""
    view = a_view(Clock())
    mine, other = entered(view, "mine", provider_sid="p1"), entered(view, "other", provider_sid="p2", subject="u2")
    view.apply(Mark("sid", sid_name("dex", "p1"), 9e9, 9e9))
    assert mine.ended
    assert not other.ended
    view.apply(Mark("subject", other.ticket.user, 999.0, 9e9))
    assert view.by_id(other.id) is other
    view.apply(Mark("subject", other.ticket.user, 1001.0, 9e9))
    assert view.by_id(other.id) is None
    third = entered(view, "third")
    view.apply(Mark("session", third.id, 9e9, 9e9))
    assert third.ended


def test_memory_is_bounded_and_tunnels_stay_cuttable() -> None:
    """The sessions opened longest ago go first; one with an open tunnel stays, so that a sign-out still cuts it."""
    view = a_view(Clock(), capacity=3)
    first = entered(view, "0")
    first.on_end(lambda: None)
    for number in range(1, 6):
        entered(view, str(number))
    assert len(view) == 3
    assert view.by_id(first.id) is first
    assert view.find("0", HOST) is not None
    assert view.find("1", HOST) is None


def test_when_all_have_tunnels_the_oldest_is_cut() -> None:
    """Rather than holding a tunnel that nothing can cut, the view cuts it."""
    view = a_view(Clock(), capacity=2)
    cut: list[int] = []
    for number in range(3):
        entered(view, str(number)).on_end(lambda number=number: cut.append(number))  # type: ignore[misc]
    assert len(view) == 2
    assert len(cut) == 1


def test_a_session_remembers_few_cookies() -> None:
    """Of the many cookies that one session was sealed into, the latest are remembered."""
    view = a_view(Clock())
    session = entered(view, "0")
    for number in range(1, 30):
        view.remember(str(number), session.ticket, session)
    assert view.find("29", HOST) is not None
    assert view.find("0", HOST) is None
    assert repr(view) == "<LiveView 1 sessions, 8 cookies>"


def test_cookies_that_opened_nothing_are_recalled_for_a_while() -> None:
    """A dead cookie is not looked up again and again; after a minute it is."""
    clock = Clock()
    view = a_view(clock)
    view.remember_ended("dead")
    assert view.recall_ended("dead")
    assert not view.recall_ended("alive")
    clock.now += 61
    assert not view.recall_ended("dead")


def test_few_dead_cookies_are_recalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are tried, the latest are remembered."""
    monkeypatch.setattr("authproxy.sessions.live._ENDED_LIMIT", 3)
    view = a_view(Clock())
    for number in range(10):
        view.remember_ended(str(number))
    assert [number for number in range(10) if view.recall_ended(str(number))] == [7, 8, 9]


def test_a_user_has_the_sessions_that_are_held() -> None:
    """One, two, and fewer again; what was dropped leaves nothing behind."""
    view = a_view(Clock(), capacity=2)
    one, two = entered(view, "1", sid="1"), entered(view, "2", sid="2")
    user = one.ticket.user
    assert {session.id for session in view.of_user(user)} == {one.id, two.id}
    view.enter(one)
    assert len(view.of_user(user)) == 2
    three = entered(view, "3", sid="3")  # two is the one that makes room
    assert {session.id for session in view.of_user(user)} == {one.id, three.id}
    view.drop(one.id)
    assert view.of_user(user) == [three]
    view.drop(three.id)
    assert view.of_user(user) == []
    assert (view._users._ids, view._cookies, len(view)) == ({}, {}, 0)


def test_used_sessions_are_those_whose_use_is_unwritten() -> None:
    """What was used since it was written last is named, for the write-back."""
    clock = Clock()
    view = a_view(clock)
    session = entered(view)
    assert view.used() == []
    clock.now = 1100.0
    view.find("cookie", HOST)
    assert view.used() == [session]
