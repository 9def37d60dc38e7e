"""What Redis may do to us, done to us by a real one: hang, die, come back empty, refuse, drop connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from authproxy.errors import StoreUnavailable
from authproxy.store.redis import RedisStore
from authproxy.store.subscriptions import Subscriptions
from tests.peers.program import PATIENCE, free_port
from tests.peers.redis_server import RedisServer
from tests.peers.yardstick import within

PATIENT = 10.0  # seconds of budget where no test looks at the budget
BUDGET = 0.15
Verb = Callable[[RedisStore], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", b"v", ttl=60),
    "take": lambda store: store.take("k"),
    "swap": lambda store: store.swap("k", None, b"v", ttl=60),
    "delete": lambda store: store.delete("k"),
    "lease": lambda store: store.lease("l", "me", ttl=60),
    "release": lambda store: store.release("l", "me"),
    "tally": lambda store: store.tally("b", burst=2, every=1),
    "give_back": lambda store: store.give_back("b", every=1),
    "add": lambda store: store.add("s", "m", ttl=60),
    "remove": lambda store: store.remove("s", "m"),
    "members": lambda store: store.members("s"),
    "append": lambda store: store.append("t", b"v", ttl=60),
    "read": lambda store: store.read("t"),
    "publish": lambda store: store.publish("c", b"m"),
    "ping": lambda store: store.ping(),
}


@asynccontextmanager
async def store_at(
    url: str,
    *,
    budget: float = PATIENT,
    clock: Callable[[], float] = time.monotonic,
    username: str | None = None,
    password: Callable[[], str] | None = None,
) -> AsyncIterator[RedisStore]:
    store = RedisStore.standalone(url, budget=budget, clock=clock, username=username, password=password)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def peer(answer: Callable[[bytes], Awaitable[bytes | None]]) -> AsyncIterator[str]:
    """The URL of a server that answers what it receives with ``answer``; None: it closes the connection."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while (data := await reader.read(4096)) and (reply := await answer(data)) is not None:
                writer.write(reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*(task for task in serving if task is not None))


async def eventually(check: Callable[[], Awaitable[object]]) -> None:
    """Try until it neither raises StoreUnavailable nor is false."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await check():
                    return
            except StoreUnavailable:
                pass
            await asyncio.sleep(0.02)


async def answers(store: RedisStore) -> bool:
    await store.ping()
    return True


@pytest.mark.parametrize("verb", VERBS)
async def test_a_hung_server_costs_one_budget(redis_server: RedisServer, verb: str) -> None:
    """Every verb gives up within its budget, on a connection it had and on one it has to make, and never retries."""
    async with store_at(redis_server.url, budget=BUDGET) as warm, store_at(redis_server.url, budget=BUDGET) as cold:
        await eventually(lambda: answers(warm))
        redis_server.pause()
        for store in (warm, cold):
            with within(BUDGET * 6), pytest.raises(StoreUnavailable, match="redis: no answer in time"):
                await VERBS[verb](store)
        redis_server.resume()
        await eventually(lambda: answers(warm))


async def test_the_breaker_opens_after_three_and_then_nobody_waits(redis_server: RedisServer) -> None:
    """After three unanswered calls the others fail without asking; after the pause one probe closes it again."""
    now = 100.0
    async with store_at(redis_server.url, budget=BUDGET, clock=lambda: now) as store:
        await eventually(lambda: answers(store))
        redis_server.pause()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await store.get("k")
        now += 0.6
        assert repr(store) == "<RedisStore standalone: open, retry in 0.4s>"
        refused = await asyncio.gather(*(store.get("k") for _ in range(1000)), return_exceptions=True)
        assert {str(error) for error in refused} == {"redis: not asked, open, retry in 0.4s"}
        now += 0.5
        probes = await asyncio.gather(*(store.get("k") for _ in range(50)), return_exceptions=True)
        assert sorted({str(error) for error in probes}) == [
            "redis: no answer in time",
            "redis: not asked, open, probing",
        ]
        assert [str(error) for error in probes].count("redis: no answer in time") == 1
        redis_server.resume()
        now += 1.1
        await eventually(lambda: answers(store)) if "open" not in repr(store) else await store.ping()
        assert repr(store) == "<RedisStore standalone: up>"


async def test_a_cancelled_probe_leaves_the_way_free(redis_server: RedisServer) -> None:
    """When the caller that probes goes away, the next call probes."""
    now = 100.0
    async with store_at(redis_server.url, budget=BUDGET, clock=lambda: now) as store:
        await eventually(lambda: answers(store))
        redis_server.pause()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.get("k")
        now += 1.1
        probe = asyncio.ensure_future(store.get("k"))
        await asyncio.sleep(0)
        assert "open, probing" in repr(store)
        probe.cancel()
        await asyncio.wait([probe])
        redis_server.resume()
        await eventually(lambda: answers(store))


async def test_a_restarted_server_is_used_again(redis_server: RedisServer) -> None:
    """Dead pooled connections, lost scripts and lost data are no error once the server is back."""
    now = 0.0
    async with store_at(redis_server.url, clock=lambda: now) as store:
        await asyncio.gather(*(store.tally(f"b{n}", burst=2, every=1) for n in range(20)))
        redis_server.kill()
        with pytest.raises(StoreUnavailable, match="redis: no connection"):
            await store.get("k")
        redis_server.start()
        for verb in VERBS.values():  # the very next call of every verb
            await verb(store)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_closed_connection_is_replaced_without_an_error(redis_server: RedisServer, verb: str) -> None:
    """CLIENT KILL of every idle connection is not noticed by any caller."""
    async with store_at(redis_server.url) as store:
        await asyncio.gather(*(store.ping() for _ in range(10)))
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(0.01)  # let the event loop see the ends
        await VERBS[verb](store)


async def test_forgotten_scripts_are_sent_again(redis_server: RedisServer) -> None:
    """SCRIPT FLUSH between two calls is not noticed."""
    async with store_at(redis_server.url) as store:
        for _ in range(2):
            await store.swap("k", None, b"v", ttl=60)
            redis_server.command("SCRIPT", "FLUSH")


async def test_more_callers_than_connections_all_get_an_answer(redis_server: RedisServer) -> None:
    """500 at once share a bounded pool."""
    async with store_at(redis_server.url) as store:
        await store.put("k", b"v", ttl=60)
        assert await asyncio.gather(*(store.get("k") for _ in range(500))) == [b"v"] * 500
        clients = redis_server.command("CLIENT", "LIST", "TYPE", "normal")
        assert isinstance(clients, bytes)
        assert clients.count(b"\n") <= 32 + 1


async def test_cancelled_callers_cross_no_answers(redis_server: RedisServer) -> None:
    """30 rounds of 60 concurrent reads, half of them cancelled at random: no reader sees another's value (K7)."""
    dice = random.Random(7)
    async with store_at(redis_server.url) as store:
        for n in range(60):
            await store.put(f"k{n}", b"value of %d" % n, ttl=60)
        for _ in range(30):
            reads = [asyncio.ensure_future(store.get(f"k{n}")) for n in range(60)]
            for read in dice.sample(reads, 30):
                asyncio.get_running_loop().call_later(dice.random() * 0.004, read.cancel)
            got = await asyncio.gather(*reads, return_exceptions=True)
            for n, value in enumerate(got):
                assert value == b"value of %d" % n or isinstance(value, asyncio.CancelledError)
        assert repr(store) == "<RedisStore standalone: up>"
        assert await asyncio.gather(*(store.get("k1") for _ in range(100))) == [b"value of 1"] * 100


async def test_no_password_and_a_wrong_one_are_unavailable_and_not_repeated() -> None:
    """NOAUTH and WRONGPASS: neither the message nor the state says what was tried."""
    with RedisServer(password="the-right-one") as server:
        wrong = server.url.replace("://", "://:a-wrong-one@")
        for url, password in ((server.url, None), (wrong, None), (server.url, lambda: "another-wrong-one")):
            async with store_at(url, password=password) as store:
                for _ in range(5):
                    with pytest.raises(StoreUnavailable, match="user name or password is refused") as refused:
                        await store.get("k")
                    assert "wrong-one" not in str(refused.value) + repr(refused.value.__cause__) + repr(store)
                assert "open" not in repr(store)  # it answered: that is no reason to stop asking


async def test_a_password_is_read_for_every_connection() -> None:
    """A rotated password is used without a restart; one that cannot be read is unavailable, and then works again."""
    password = "first"

    def secret() -> str:
        if not password:
            raise LookupError("cannot read redis-password: no such file")
        return password

    with RedisServer(password="of the default user") as server:
        server.command("ACL", "SETUSER", "authproxy", "on", ">first", "~*", "&*", "+@all")
        async with store_at(server.url, username="authproxy", password=secret) as store:
            await store.ping()
            server.command("ACL", "SETUSER", "authproxy", "resetpass", ">second")
            server.command("CLIENT", "KILL", "USER", "authproxy")
            await asyncio.sleep(0.01)
            password = ""
            with pytest.raises(StoreUnavailable):
                await store.get("k")
            password = "second"
            await store.put("k", b"v", ttl=60)
            assert await store.get("k") == b"v"


async def test_the_given_password_goes_before_the_one_in_the_url() -> None:
    """``password`` overrides the URL; a URL alone works too, with special characters encoded."""
    with RedisServer(password="p@ss/w#rd") as server:
        async with store_at(server.url.replace("://", "://:old@"), password=lambda: "p@ss/w#rd") as store:
            await store.ping()
        async with store_at(server.url.replace("://", "://:p%40ss%2Fw%23rd@")) as store:
            await store.ping()
        async with store_at(server.unix_url + "?db=0&password=p%40ss%2Fw%23rd") as store:
            await store.ping()


async def test_a_full_server_refuses_writes_and_still_reads(redis_server: RedisServer) -> None:
    """OOM is unavailable for the write alone, in a script and outside; the breaker stays closed."""
    async with store_at(redis_server.url) as store:
        await store.put("k", b"v", ttl=60)
        redis_server.command("CONFIG", "SET", "maxmemory", 1)
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="redis: out of memory"):
                await store.put("k", b"w", ttl=60)
            with pytest.raises(StoreUnavailable, match="redis: out of memory"):
                await store.swap("k", b"v", b"w", ttl=60)
        assert await store.get("k") == b"v"


async def test_a_replica_refuses_writes(redis_server: RedisServer) -> None:
    """READONLY, in a script and outside; writes work again when it is promoted."""
    async with store_at(redis_server.url) as store:
        await store.ping()
        redis_server.command("REPLICAOF", "127.0.0.1", redis_server.port + 1 if redis_server.port < 65535 else 1)
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="redis: a replica that takes no writes"):
                await store.put("k", b"v", ttl=60)
            with pytest.raises(StoreUnavailable, match="redis: a replica that takes no writes"):
                await store.tally("b", burst=1, every=1)
        redis_server.command("REPLICAOF", "NO", "ONE")
        await store.put("k", b"v", ttl=60)


async def test_a_loading_server_is_unavailable(tmp_path: Path) -> None:
    """LOADING: the server is up and reads its dump; it is unavailable until it has, and no connection is given up."""
    with RedisServer("--dir", str(tmp_path)) as server:
        server.command("EVAL", "for n = 1, 100000 do redis.call('SET', n, 'some value') end", 0)
        server.command("SAVE")
    loading = ["--key-load-delay", "20", "--loading-process-events-interval-bytes", "1024"]
    with RedisServer("--dir", str(tmp_path), *loading, wait=False) as server:
        async with store_at(server.url) as store:
            await eventually_says(store, "redis: still loading its data")
            server.command("CONFIG", "SET", "key-load-delay", 0)
            await eventually(lambda: answers(store))


async def eventually_says(store: RedisStore, words: str) -> None:
    said: set[str] = set()
    async with asyncio.timeout(PATIENCE):
        while words not in said:
            try:
                await store.get("k")
            except StoreUnavailable as error:
                said.add(str(error))
            await asyncio.sleep(0.01)


async def test_a_wrong_kind_of_key_is_unavailable_by_its_code(redis_server: RedisServer) -> None:
    """Any other error is told by its code alone: its text might quote what was sent."""
    async with store_at(redis_server.url) as store:
        await store.add("s", "member", ttl=60)
        with pytest.raises(StoreUnavailable, match=r"^redis: error WRONGTYPE$") as refused:
            await store.get("s")
        assert refused.value.__cause__ is None


HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


async def test_a_broken_connection_does_not_let_a_swap_lie() -> None:
    """When the answer is lost the verb says so, rather than asking again and reporting its own value as another's."""
    seen: list[bytes] = []

    async def lose_the_answer(data: bytes) -> bytes | None:
        seen.append(data)
        return HELLO if b"HELLO" in data else b"+PONG\r\n" if b"PING" in data else None

    async with peer(lose_the_answer) as url, store_at(url) as store:
        with pytest.raises(StoreUnavailable, match="redis: no connection"):
            await store.swap("k", None, b"v", ttl=60)
        assert sum(b"EVALSHA" in data for data in seen) == 1
        seen.clear()
        with pytest.raises(StoreUnavailable, match="redis: no connection"):
            await store.get("k")
        assert sum(b"GET" in data for data in seen) == 2  # a read may be asked twice


async def test_a_slow_server_gets_one_budget_for_everything() -> None:
    """The budget covers connecting, signing in and asking together: each of them is in time, all of them are not."""
    answered: list[bytes] = []

    async def answer_slowly(data: bytes) -> bytes:
        await asyncio.sleep(BUDGET * 0.8)
        answered.append(data)
        return HELLO if b"HELLO" in data else b"+PONG\r\n"

    async with peer(answer_slowly) as url, store_at(url, budget=BUDGET) as store:
        with pytest.raises(StoreUnavailable, match="redis: no answer in time"):
            await store.ping()
    assert len(answered) < 3


async def test_listening_survives_a_killed_connection_and_a_restart(redis_server: RedisServer) -> None:
    """The same listener hears again after CLIENT KILL TYPE pubsub and after the server was started anew."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with store_at(redis_server.url) as store:
        end = await store.subscribe("c", heard.put_nowait)
        breakages: list[Callable[[], object]] = [
            lambda: redis_server.command("CLIENT", "KILL", "TYPE", "pubsub"),
            redis_server.restart,
        ]
        for breaks in breakages:
            await store.publish("c", b"before")
            assert await heard.get() == b"before"
            breaks()
            await eventually(lambda: _heard_again(store, heard))
        await end()
        assert redis_server.command("PUBSUB", "CHANNELS") == []


async def _heard_again(store: RedisStore, heard: asyncio.Queue[bytes]) -> bool:
    await store.publish("c", b"before")
    await asyncio.sleep(0.02)
    found = not heard.empty()
    while not heard.empty():
        heard.get_nowait()
    return found


async def test_a_listener_may_begin_before_the_server_is_there(redis_server: RedisServer) -> None:
    """subscribe does not fail for a server that is away: it begins when the server comes."""
    redis_server.stop()
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with store_at(redis_server.url, budget=0.2) as store:
        await store.subscribe("c", heard.put_nowait)
        redis_server.start()
        await eventually(lambda: _heard_again(store, heard))


async def test_closing_ends_the_listening_task_and_every_connection(redis_server: RedisServer) -> None:
    """After close no task is left, no connection is left, and every verb says that the store is closed."""
    before = asyncio.all_tasks()
    async with store_at(redis_server.url) as store:
        await store.subscribe("c", lambda message: None)
        await asyncio.gather(*(store.ping() for _ in range(10)))
        await store.close()
        assert asyncio.all_tasks() == before
        subscribe: Verb = lambda store: store.subscribe("c", lambda message: None)  # noqa: E731
        for verb in [*VERBS.values(), subscribe]:
            with pytest.raises(StoreUnavailable, match="redis: closed"):
                await verb(store)
        assert repr(store) == "<RedisStore standalone: closed>"
    clients = redis_server.command("CLIENT", "LIST")
    assert isinstance(clients, bytes)
    assert clients.count(b"\n") == 1  # the one that asks


async def test_a_channel_that_nobody_listens_to_is_left(redis_server: RedisServer) -> None:
    """The server stops sending what is no longer wanted, and goes on with the rest."""

    async def left() -> bool:
        return redis_server.command("PUBSUB", "CHANNELS") == [b"authproxy:second"]

    async with store_at(redis_server.url) as store:
        end = await store.subscribe("first", lambda message: None)
        await store.subscribe("second", lambda message: None)
        await end()
        await eventually(left)


async def test_a_silent_server_is_left_and_found_again(redis_server: RedisServer) -> None:
    """A listening connection on which nothing answers is given up, and made anew."""
    client = Redis(port=redis_server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
    subscriptions = Subscriptions(client.pubsub, patience=PATIENT, idle=0.1)
    try:
        await subscriptions.add("c", lambda message: None)
        assert repr(subscriptions) == "<Subscriptions: 1 of 1 channels heard>"
        redis_server.pause()
        await eventually(lambda: _says(subscriptions, "<Subscriptions: 0 of 1 channels heard>"))
        redis_server.resume()
        await eventually(lambda: _says(subscriptions, "<Subscriptions: 1 of 1 channels heard>"))
    finally:
        await subscriptions.close()
        await client.aclose()


async def _says(subscriptions: Subscriptions, words: str) -> bool:
    return repr(subscriptions) == words


async def test_keys_and_channels_carry_the_prefix(redis_server: RedisServer) -> None:
    """Two installations may share a server."""
    async with store_at(redis_server.url) as store:
        await store.put("k", b"v", ttl=60)
        await store.subscribe("c", lambda message: None)
        assert redis_server.command("KEYS", "*") == [b"authproxy:k"]
        assert redis_server.command("PUBSUB", "CHANNELS") == [b"authproxy:c"]


async def test_nothing_stays_for_ever(redis_server: RedisServer) -> None:
    """Every key that any verb makes has a time to live."""
    async with store_at(redis_server.url) as store:
        for verb in ("swap", "lease", "tally", "add", "append"):
            await VERBS[verb](store)
        await store.put("p", b"v", ttl=60)
        names = redis_server.command("KEYS", "*")
        assert isinstance(names, list)
        assert len(names) == 6
        for name in names:
            assert isinstance(name, bytes)
            ttl = redis_server.command("PTTL", name)
            assert isinstance(ttl, int)
            assert 0 < ttl <= 120_000 + 60_000


async def test_tls_is_verified(tmp_path: Path) -> None:
    """rediss speaks to a server whose certificate the given authority signed for this name, and to no other."""
    ca, other = _certificate(tmp_path / "ca", "127.0.0.1"), _certificate(tmp_path / "other", "127.0.0.1")
    misnamed = _certificate(tmp_path / "misnamed", "192.0.2.1")
    for own, trusted, trust in ((ca, ca, True), (ca, other, False), (ca, None, False), (misnamed, misnamed, False)):
        port = free_port()
        files = ["--tls-cert-file", own, "--tls-key-file", f"{own}.key", "--tls-ca-cert-file", own]
        with RedisServer("--tls-port", str(port), "--tls-auth-clients", "no", *files):
            store = RedisStore.standalone(f"rediss://127.0.0.1:{port}", ca=trusted, budget=PATIENT)
            if trust:
                await store.ping()
            else:
                with pytest.raises(StoreUnavailable, match="redis: no connection"):
                    await store.ping()
            await store.close()


def _certificate(path: Path, address: str) -> str:
    """A certificate for ``address`` that signs itself, at ``path``, with its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(built.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.with_name(f"{path.name}.key").write_bytes(secret)
    return str(path)
