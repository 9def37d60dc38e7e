"""Enrollment tokens: who may enroll what, how often, and what is said about a secret that is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from authproxy.errors import BadRequest, Forbidden, NotAuthenticated, Refusal, StoreUnavailable, Unavailable
from authproxy.store.base import Store
from authproxy.store.memory import MemoryStore
from authproxy.store.redis import RedisStore
from tests.peers.fake_clock import FakeClock
from tests.peers.redis_server import RedisServer
from tests.unit.enrollment.replicas import EU, KEY, NEW, NEXT_KEY, OLD, OPEN, Replica, shape


class Away(MemoryStore):
    """A store that can be away."""

    away = False

    async def take(self, key: str) -> bytes | None:
        """Take, unless away."""
        if self.away:
            raise StoreUnavailable("away")
        return await super().take(key)


async def outcome(replica: Replica, token: str, name: str = "agent", cluster: str | None = EU) -> str:
    """The name of the token that admits, or the code of the refusal."""
    try:
        return await replica.tokens.admit(token, name, cluster)
    except Refusal as refusal:
        return refusal.code


async def contest(first: Store, second: Store) -> list[str]:
    """What 20 simultaneous uses of one minted token on two replicas come to."""
    clock = FakeClock()
    one, two = Replica(first, clock), Replica(second, clock)
    token = (await one.tokens.mint("agent", EU)).text
    return await asyncio.gather(*(outcome(replica, token) for replica in [one, two] * 10))


async def test_a_minted_token_works_once_in_memory() -> None:
    """Of 20 simultaneous uses exactly one is admitted; the others learn no more than that the token is not valid."""
    store = MemoryStore()
    found = await contest(store, store)
    assert found.count("enrollment_refused") == 19
    assert sum(one.startswith("minted ") for one in found) == 1


async def test_a_minted_token_works_once_on_two_replicas_over_redis(redis_server: RedisServer) -> None:
    """The same over a real Redis and two connections of their own."""
    stores = [RedisStore.standalone(redis_server.unix_url, budget=5.0) for _ in range(2)]
    try:
        found = await contest(*stores)
    finally:
        for store in stores:
            await store.close()
    assert found.count("enrollment_refused") == 19


async def test_overlapping_secrets_are_all_valid() -> None:
    """During a rotation the old and the new secret enroll alike; anything else does not."""
    replica = Replica(MemoryStore(), FakeClock())
    assert [await outcome(replica, token) for token in (OLD, NEW, OLD + "x", "", "é" * 40)] == [
        "fleet", "fleet", *["enrollment_refused"] * 3,
    ]  # fmt: skip


async def test_a_secret_that_leaves_its_file_is_refused(tmp_path: Path) -> None:
    """Rotation without a restart: the file's new secret enrolls, its former one does not."""
    file = tmp_path / "token"
    file.write_text(OLD)
    section = shape(tokens={"fleet": {"secrets": [{"file": str(file)}], "clusters": ["*"]}})
    replica = Replica(MemoryStore(), FakeClock(), section)
    assert await outcome(replica, OLD) == "fleet"
    file.write_text(NEW + "-longer")
    replica = Replica(MemoryStore(), FakeClock(), section)
    assert await outcome(replica, OLD) == "enrollment_refused"
    assert await outcome(replica, NEW + "-longer") == "fleet"


@pytest.mark.parametrize(
    ("patterns", "cluster", "allowed"),
    [
        (["*.k8s.example.com"], "eu.k8s.example.com", True),
        (["*.k8s.example.com"], "a.b.k8s.example.com", True),
        (["*.k8s.example.com"], "k8s.example.com", False),
        (["*.k8s.example.com"], "eu.k8s.example.com.evil.com", False),
        (["*.k8s.example.com"], "eu.k8sxexample.com", False),
        (["*.k8s.example.com"], "EU.K8S.EXAMPLE.COM", False),
        (["eu-01", "us-*"], "us-7", True),
        (["eu-01"], "eu-0", False),
        (["eu-01"], "eu-011", False),
        (["eu-0?"], "eu-01", False),
        (["eu-[0-9]"], "eu-1", False),
        (["*"], "anything", True),
        (["*"], None, False),
        ([], "anything", False),
        ([], None, True),
    ],
)
async def test_cluster_patterns(patterns: list[str], cluster: str | None, allowed: bool) -> None:
    """Whole name, byte for byte, ``*`` alone is special; a token with patterns enrolls nobody without a cluster."""
    section = shape(tokens={"fleet": {"secrets": [{"value": OLD}], "clusters": patterns}})
    replica = Replica(MemoryStore(), FakeClock(), section)
    assert await outcome(replica, OLD, cluster=cluster) == ("fleet" if allowed else "cluster_refused")


@pytest.mark.parametrize("cluster", ["", "a/b", "..", "eu\n", "eu\0", "é", "a b", "x" * 254, "eu.", "*"])
async def test_what_is_no_cluster_is_refused(cluster: str) -> None:
    """A name that could be read in two ways never reaches a pattern, nor a credential."""
    replica = Replica(
        MemoryStore(), FakeClock(), shape(tokens={"all": {"secrets": [{"value": OLD}], "clusters": ["*"]}})
    )
    with pytest.raises(BadRequest):
        await replica.tokens.admit(OLD, "agent", cluster)
    with pytest.raises(BadRequest):
        await replica.tokens.admit(OLD, cluster, EU)


async def test_a_minted_token_is_bound_and_survives_a_mistake() -> None:
    """Another name or cluster is refused without using the token up."""
    replica = Replica(MemoryStore(), FakeClock())
    token = (await replica.tokens.mint("agent", EU)).text
    for name, cluster, code in (("other", EU, "name_refused"), ("agent", "us", "cluster_refused"),
                                ("agent", None, "cluster_refused")):  # fmt: skip
        with pytest.raises(Forbidden) as refused:
            await replica.tokens.admit(token, name, cluster)
        assert refused.value.code == code
    assert (await outcome(replica, token)).startswith("minted ")


async def test_a_minted_token_expires_and_can_be_withdrawn() -> None:
    """After its time, after a withdrawal, and after the store was emptied, it is refused."""
    clock = FakeClock()
    store = MemoryStore(clock)
    replica = Replica(store, clock)
    late, withdrawn = [(await replica.tokens.mint("agent", EU, expires_in=60)).text for _ in range(2)]
    minted = replica.tokens._read(withdrawn)
    assert minted is not None
    assert await replica.tokens.withdraw(minted.id)
    assert await outcome(replica, withdrawn) == "enrollment_refused"
    clock.forward(60)
    assert await outcome(replica, late) == "enrollment_refused"
    kept = Replica(MemoryStore(FakeClock()), clock)  # a store that has not noticed the end
    late = (await kept.tokens.mint("agent", EU, expires_in=60)).text
    clock.forward(60)
    assert await outcome(kept, late) == "enrollment_refused"
    lost = (await replica.tokens.mint("agent", EU)).text
    assert await outcome(Replica(MemoryStore(clock), clock), lost) == "enrollment_refused"


async def test_a_minted_token_cannot_be_made_up() -> None:
    """Every changed character, and a token stamped under another key, is refused."""
    clock, store = FakeClock(), MemoryStore()
    replica = Replica(store, clock)
    token = (await replica.tokens.mint("agent", EU)).text
    for at in range(4, len(token), 7):
        forged = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert await outcome(replica, forged) == "enrollment_refused"
    assert await outcome(Replica(store, clock, shape(NEXT_KEY)), token) == "enrollment_refused"
    assert (await outcome(Replica(store, clock, shape(NEXT_KEY, KEY)), token)).startswith("minted ")


async def test_the_store_away_refuses_without_judging() -> None:
    """Nobody is admitted by a minted token that may have been used; shared tokens need no store."""
    store = Away()
    replica = Replica(store, FakeClock())
    token = (await replica.tokens.mint("agent", EU)).text
    store.away = True
    with pytest.raises(Unavailable):
        await replica.tokens.admit(token, "agent", EU)
    assert await outcome(replica, OLD) == "fleet"


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ({"env": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE"),
        ({"value": "short"}, "32 characters"),
        ({"value": "change-me-" + "x" * 40}, "placeholder"),
    ],
)
async def test_a_secret_that_is_not_fit_is_named(secret: dict[str, str], said: str) -> None:
    """The room is built, says which entry is wrong and why, and admits nobody with it."""
    section = shape(tokens={"fleet": {"secrets": [secret, {"value": OLD}], "clusters": ["*"]}})
    replica = Replica(MemoryStore(), FakeClock(), section)
    (problem,) = replica.tokens.problems()
    assert problem.startswith("enrollment.tokens.fleet.secrets[0]: ")
    assert said in problem
    assert await outcome(replica, str(secret.get("value"))) == "enrollment_refused"
    assert await outcome(replica, OLD) == "fleet"


async def test_no_secret_in_a_repr() -> None:
    """What is printed says how many, never which."""
    replica = Replica(MemoryStore(), FakeClock())
    text = f"{replica.tokens!r}{replica.issuer!r}{replica.families!r}{replica.authenticator!r}"
    assert not any(secret in text for secret in (OLD, NEW, OPEN, KEY))
    with pytest.raises(NotAuthenticated) as refused:
        await replica.tokens.admit("x" + OLD, "agent", EU)
    assert OLD not in str(refused.value)
