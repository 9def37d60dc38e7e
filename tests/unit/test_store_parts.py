"""The parts of the stores that need no server: names, the breaker, the shelf, the pause, and the reading of a URL."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.errors import StoreUnavailable
from authproxy.store import keys
from authproxy.store.address import address
from authproxy.store.breaker import Breaker
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from authproxy.store.shelf import Shelf
from authproxy.store.subscriptions import pause

DIGEST = "0123456789abcdef"
OTHER = "fedcba9876543210"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_keys_of_one_user_share_a_hash_tag() -> None:
    """Redis Cluster puts what stands between the braces into one slot."""
    made = [
        keys.session(DIGEST, OTHER),
        keys.token_record(DIGEST, OTHER),
        keys.lease_refresh(DIGEST, OTHER),
        keys.sessions_of_subject(DIGEST),
    ]
    assert {key[key.index("{") + 1 : key.index("}")] for key in made} == {DIGEST}
    assert len(set(made)) == 4


def test_no_two_kinds_share_a_name() -> None:
    """The same digest under every kind gives distinct keys."""
    made = [
        keys.session(DIGEST, DIGEST),
        keys.token_record(DIGEST, DIGEST),
        keys.lease_refresh(DIGEST, DIGEST),
        keys.sessions_of_subject(DIGEST),
        keys.session_by_sid(DIGEST),
        keys.spent_state(DIGEST),
        keys.dead_token(DIGEST),
        keys.replayed_jti(DIGEST),
        keys.throttle("user", DIGEST),
        keys.throttle("client", DIGEST),
        keys.marks(),
        keys.channel_marks(),
        keys.channel_refreshed(),
    ]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "text", ["alice", "", "a.b.c" * 9, "alice@example.com.org", "0" * 15, "0" * 129, DIGEST + "\n", "{" * 16]
)
def test_a_name_or_a_token_is_no_part_of_a_key(text: str) -> None:
    """What does not look like a digest is refused, and not repeated."""
    for make in (keys.session_by_sid, keys.spent_state, keys.dead_token, keys.replayed_jti, keys.sessions_of_subject):
        with pytest.raises(ValueError) as refused:
            make(text)
        assert not text or text not in str(refused.value)
    with pytest.raises(ValueError):
        keys.session(DIGEST, text)
    with pytest.raises(ValueError):
        keys.throttle("User:", DIGEST)


def test_the_breaker_opens_after_three_in_a_row_only() -> None:
    """An answer in between starts the count anew."""
    breaker = Breaker(Clock())
    for outcome in (breaker.unanswered, breaker.unanswered, breaker.answered, breaker.unanswered, breaker.unanswered):
        outcome(breaker.admit())
    assert breaker.state == "up, 2 calls unanswered"
    breaker.unanswered(breaker.admit())
    with pytest.raises(StoreUnavailable):
        breaker.admit()


def test_late_failures_do_not_prolong_the_pause() -> None:
    """Fifty calls that hang together open it for one pause, not fifty."""
    clock = Clock()
    breaker = Breaker(clock)
    probes = [breaker.admit() for _ in range(50)]
    for probe in probes:
        breaker.unanswered(probe)
        clock.now += 0.01
    clock.now += 1.0 - 0.5 + 0.03
    assert breaker.admit() is True


def test_one_probe_decides_for_all() -> None:
    """While it is under way nobody else asks; its failure opens the pause anew, its success closes the breaker."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(3):
        breaker.unanswered(breaker.admit())
    for outcome in (breaker.unanswered, breaker.abandoned, breaker.answered):
        clock.now += 1.0
        probe = breaker.admit()
        assert probe
        assert repr(breaker) == "<Breaker open, probing>"
        with pytest.raises(StoreUnavailable):
            breaker.admit()
        outcome(probe)
    assert breaker.state == "up"


def test_a_full_shelf_gives_up_what_ends_soonest() -> None:
    """The limit holds, and what was to stay longest stays."""
    shelf: Shelf[int] = Shelf(Clock(), 100)
    order = list(range(1000))
    random.Random(1).shuffle(order)
    for n in order:
        shelf.set(f"k{n}", n, 2000.0 + n)
    assert len(shelf) == 100
    assert [shelf.get(f"k{n}") for n in range(900, 1000)] == list(range(900, 1000))


def test_the_earlier_end_of_a_renewed_entry_does_nothing() -> None:
    """Sweeping past the old end leaves the entry alone."""
    clock = Clock()
    shelf: Shelf[int] = Shelf(clock, 100)
    shelf.set("k", 1, clock.now + 5)
    shelf.set("k", 2, clock.now + 50)
    clock.now += 10
    shelf.set("another", 1, clock.now + 5)
    assert shelf.get("k") == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.booleans()), max_size=200))
def test_a_shelf_is_a_dict_whose_entries_end(steps: list[tuple[int, int, bool]]) -> None:
    """Against the plain model: any sequence of sets, pops and passing time."""
    clock = Clock()
    shelf: Shelf[int] = Shelf(clock, 1000)
    model: dict[str, tuple[int, float]] = {}
    for number, (name, life, take) in enumerate(steps):
        key = str(name)
        if take:
            value, ends = model.pop(key, (None, 0.0))
            assert shelf.pop(key) == (value if ends > clock.now else None)
        else:
            shelf.set(key, number, clock.now + life)
            model[key] = (number, clock.now + life)
        clock.now += 1
        assert [shelf.get(str(n)) for n in range(10)] == [_live(model.get(str(n)), clock.now) for n in range(10)]


def _live(entry: tuple[int, float] | None, now: float) -> int | None:
    return entry[0] if entry is not None and entry[1] > now else None


async def test_the_memory_store_does_not_grow_with_what_has_ended() -> None:
    """Ten thousand short-lived values leave a handful behind; writing one key over and over leaves one."""
    clock = Clock()
    store = MemoryStore(clock)
    for n in range(10_000):
        await store.put(f"k{n}", b"v", ttl=5)
        await store.put("same", b"v", ttl=1000)
        clock.now += 1
    assert repr(store) == "<MemoryStore: 6 values, 0 buckets, <Channels none>>"
    assert len(store._values._ends) < 200


def test_pauses_double_up_to_two_seconds_and_are_spread() -> None:
    """Reconnecting never takes longer than two seconds to be tried again, and not all replicas at once."""
    assert [pause(n, max) for n in (0, 1, 2, 5, 6, 100)] == [0.05, 0.1, 0.2, 1.6, 2.0, 2.0]
    assert len({pause(6) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://r.example.com", {"host": "r.example.com", "port": 6379, "db": 0}),
        ("redis://r.example.com:7000/3", {"host": "r.example.com", "port": 7000, "db": 3}),
        ("redis://[::1]:7000/?db=4", {"host": "::1", "port": 7000, "db": 4}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        ("unix:///run/redis%20a.sock", {"path": "/run/redis a.sock", "db": 0}),
    ],
)
def test_where_a_url_points(url: str, expected: dict[str, object]) -> None:
    """Host, port, socket and database, and no credentials where none are given."""
    assert address(url, username=None, password=None, ca=None).arguments == expected


def test_tls_is_verified_with_the_given_authority() -> None:
    """rediss checks the name and the chain, with ``ca`` when there is one."""
    arguments = address("rediss://r.example.com", username=None, password=None, ca="/etc/ca.crt").arguments
    assert arguments["ssl_ca_certs"] == "/etc/ca.crt"
    assert arguments["ssl_check_hostname"] is True


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("redis://me:s%40crt@h", ("me", "s@crt")),
        ("redis://:s@h", ("s",)),
        ("unix://me@/run/r.sock?password=s", ("me", "s")),
    ],
)
def test_credentials_in_a_url(url: str, credentials: tuple[str, ...]) -> None:
    """User name and password are read from the URL, and neither is shown."""
    where = address(url, username=None, password=None, ca=None)
    assert where.arguments["credential_provider"].get_credentials() == credentials
    assert repr(where) in ("<Address Connection>", "<Address UnixDomainSocketConnection>")


def test_given_credentials_go_before_the_url() -> None:
    """``username`` and ``password`` override."""
    where = address("redis://me:old@h", username="you", password=lambda: "new", ca=None)
    assert where.arguments["credential_provider"].get_credentials() == ("you", "new")


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@h",
        "redis://:secret/secret@h",
        "redis://:secret#x@h",
        "redis://:secret@h/zero",
        "redis://:secret@h?socket_timeout=99",
        "redis://:secret@h:99999",
        "unix://h/run/r.sock?password=secret",
        "unix://?password=secret",
        "",
    ],
)
def test_an_unreadable_url_is_refused_without_repeating_it(url: str) -> None:
    """The message helps and holds no part of the URL, nor does the exception that it came from."""
    with pytest.raises(ValueError, match="the Redis URL") as refused:
        RedisStore.standalone(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
