"""Basic sign-in: who is proved, what it costs, and what an attacker learns."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import bcrypt
import pytest

from authproxy.authn import basic as room
from authproxy.authn.basic import ENTRIES, SECONDS, BasicAuthenticator
from authproxy.errors import BadRequest, NotAuthenticated, Refusal, TooManyAttempts, Unavailable
from authproxy.model import Identity
from authproxy.settings.schema import Basic
from authproxy.settings.values import SecretRef
from tests.unit import values
from tests.unit.authn.requests import MATCH, Clock, basic, throttle

PASSWORD = "correct horse: battery"


def entry(user: str, password: str, cost: int = 4) -> str:
    """A line of an htpasswd file."""
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()}"


class Machine:
    """An authenticator, its files, its clock, and what bcrypt was asked."""

    def __init__(self, folder: Path, *, user: int = 20, client: int = 1000) -> None:
        self.users, self.groups, self.clock = folder / "htpasswd", folder / "htgroup", Clock()
        self.users.write_text("\n".join([entry("ann", PASSWORD), entry("élise", "pässword", 5)]))
        self.groups.write_text("staff: ann\nops: ann\n")
        refs = [SecretRef(file=str(file)) for file in (self.users, self.groups)]  # type: ignore[arg-type]
        shape = Basic(users=refs[0], groups=refs[1])
        limits = throttle(self.clock, user=user, client=client)
        self.authenticator = BasicAuthenticator(shape, throttle=limits, clock=self.clock)
        self.checked: list[str] = []

    async def ask(self, user: str, password: str, *, peer: str = "192.0.2.7") -> Identity:
        """Who this name and password are."""
        return (await self.authenticator.authenticate(basic(user, password, peer=peer), MATCH)).identity

    async def refused(self, user: str, password: str, *, peer: str = "192.0.2.7") -> Refusal:
        """Why they are nobody."""
        with pytest.raises(Refusal) as caught:
            await self.ask(user, password, peer=peer)
        return caught.value


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A machine with wide limits."""
    one = Machine(tmp_path)
    fits = room._fits

    def counted(password: str, hashed: str) -> bool:
        one.checked.append(hashed)
        return fits(password, hashed)

    monkeypatch.setattr(room, "_fits", counted)
    yield one
    await one.authenticator.close()


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine that allows 2 attempts per user and 4 per client."""
    one = Machine(tmp_path, user=2, client=4)
    yield one
    await one.authenticator.close()


async def test_a_user_with_their_groups(machine: Machine) -> None:
    """The name is subject and user; groups come from the other file; colons and UTF-8 are part of a password."""
    ann = await machine.ask("ann", PASSWORD)
    assert (ann.kind, ann.subject, ann.user, ann.groups, ann.clusters) == (
        "basic",
        "ann",
        "ann",
        ("staff", "ops"),
        None,
    )
    assert (await machine.ask("élise", "pässword")).groups == ()


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "wrong"), ("ann", ""), ("Ann", PASSWORD), ("nobody", PASSWORD), ("ann", PASSWORD + " "), ("a" * 500, "x")],
)
async def test_wrong_pairs_look_alike(machine: Machine, user: str, password: str) -> None:
    """A wrong password and an unknown user are answered in the same words, after one check each."""
    refusal = await machine.refused(user, password)
    assert isinstance(refusal, NotAuthenticated)
    assert (refusal.code, refusal.message, refusal.reason) == (
        "wrong_credentials", "The user name or the password is wrong.", "basic: wrong user name or password",
    )  # fmt: skip
    assert len(machine.checked) == 1


async def test_an_unknown_user_costs_as_much_as_the_costliest(machine: Machine) -> None:
    """bcrypt is asked about an entry of the highest cost in the file, which no password fits."""
    await machine.refused("nobody", "x")
    assert machine.checked[0].startswith("$2b$05$")


@pytest.mark.parametrize(
    "credentials",
    [b"", b"!", b"YW5u", b"OnB3", base64.b64encode(b"ann:\xff"), base64.b64encode(b"ann:a\0b"),
     base64.b64encode(b"ann:" + b"x" * 2000), b"YW5uOng=\tx", base64.b64encode("ann:\x85".encode())],
)  # fmt: skip
async def test_malformed_credentials_are_wrong_ones(machine: Machine, credentials: bytes) -> None:
    """What is no name and password in UTF-8 is refused in the same words, and bcrypt is not asked."""
    info = values.info("/", ("Authorization", f"Basic {credentials.decode()}"))
    with pytest.raises(NotAuthenticated) as caught:
        await machine.authenticator.authenticate(info, MATCH)
    assert caught.value.code == "wrong_credentials"
    assert machine.checked == []


async def test_what_bcrypt_would_cut_off_is_wrong(machine: Machine) -> None:
    """A password that begins with the right 72 octets is another password."""
    long = "x" * 72
    machine.users.write_text(entry("ann", long))
    machine.clock.now += 1
    assert (await machine.ask("ann", long)).user == "ann"
    await machine.refused("ann", long + "y")


async def test_a_second_authorization_header_is_refused(machine: Machine) -> None:
    """Two good lines are one too many."""
    line = ("Authorization", "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode())
    with pytest.raises(BadRequest):
        await machine.authenticator.authenticate(values.info("/", line, line), MATCH)


async def test_a_proved_pair_is_remembered_for_a_minute(machine: Machine) -> None:
    """Within a minute bcrypt is asked once; after it, again."""
    for _ in range(3):
        await machine.ask("ann", PASSWORD)
    assert len(machine.checked) == 1
    machine.clock.now += SECONDS
    await machine.ask("ann", PASSWORD)
    assert len(machine.checked) == 2


async def test_wrong_pairs_are_not_remembered(machine: Machine) -> None:
    """Beside a remembered pair, another password is checked, each time."""
    await machine.ask("ann", PASSWORD)
    for _ in range(2):
        await machine.refused("ann", "wrong")
    assert len(machine.checked) == 3


async def test_what_is_remembered_is_bounded(machine: Machine) -> None:
    """The oldest pair goes first."""
    await machine.ask("ann", PASSWORD)
    for number in range(ENTRIES):
        machine.authenticator._remember(number.to_bytes(32))
    await machine.ask("ann", PASSWORD)
    assert len(machine.checked) == 2


async def test_parallel_equal_pairs_are_checked_once(machine: Machine) -> None:
    """Fifty requests of one machine that start at once are one check and one attempt."""
    found = await asyncio.gather(*(machine.ask("ann", PASSWORD) for _ in range(50)))
    assert {one.user for one in found} == {"ann"}
    assert len(machine.checked) == 1


async def test_a_changed_password_counts_at_once(machine: Machine) -> None:
    """A second after the file changed the old password is wrong although it was remembered, and the new one right."""
    await machine.ask("ann", PASSWORD)
    machine.users.write_text(entry("ann", "new"))
    machine.clock.now += 1
    await machine.refused("ann", PASSWORD)
    assert (await machine.ask("ann", "new")).user == "ann"


async def test_a_removed_user_is_out_at_once(machine: Machine) -> None:
    """The same for a user who stands there no more; groups follow their file, too."""
    await machine.ask("ann", PASSWORD)
    machine.groups.write_text("guests: ann\n")
    machine.clock.now += 1
    assert (await machine.ask("ann", PASSWORD)).groups == ("guests",)
    machine.users.write_text(entry("bob", "x"))
    machine.clock.now += 1
    await machine.refused("ann", PASSWORD)


async def test_a_spoilt_file_changes_nothing(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """A line that is not bcrypt leaves the old users in force; the log names file and line."""
    machine.users.write_text("ann:plain-text")
    machine.clock.now += 1
    assert (await machine.ask("ann", PASSWORD)).user == "ann"
    assert f"{machine.users} changed" in caplog.text
    assert "line 1" in caplog.text
    assert "plain-text" not in caplog.text


async def test_attempts_on_a_user_are_limited(narrow: Machine) -> None:
    """After as many as the limit allows, even the right password has to wait; other users do not."""
    for _ in range(2):
        await narrow.refused("ann", "wrong")
    assert isinstance(await narrow.refused("ann", PASSWORD), TooManyAttempts)
    assert (await narrow.ask("élise", "pässword")).user == "élise"


@pytest.mark.parametrize("user", ["nobody", "ＮＯＢＯＤＹ"])
async def test_attempts_on_nobody_are_limited_alike(narrow: Machine, user: str) -> None:
    """Users who do not exist are counted as those who do, so that the limit tells nothing."""
    for _ in range(2):
        await narrow.refused("nobody", "wrong")
    assert isinstance(await narrow.refused(user, "wrong"), TooManyAttempts)


async def test_attempts_of_a_client_are_limited(narrow: Machine) -> None:
    """One address that tries many names waits, too, garbage included; another address does not."""
    for user in ("a", "b", "c"):
        await narrow.refused(user, "wrong")
    with pytest.raises(NotAuthenticated):
        await narrow.authenticator.authenticate(values.info("/", ("Authorization", "Basic !")), MATCH)
    assert isinstance(await narrow.refused("d", "wrong"), TooManyAttempts)
    assert isinstance(await narrow.refused("d", "wrong", peer="192.0.2.8"), NotAuthenticated)


async def test_success_gives_the_attempt_back(narrow: Machine) -> None:
    """Any number of right passwords uses nothing up."""
    for _ in range(6):
        await narrow.ask("ann", PASSWORD)
        narrow.clock.now += 0.01
        narrow.authenticator._proved.clear()
    await narrow.refused("ann", "wrong")
    assert isinstance(await narrow.refused("ann", "wrong"), NotAuthenticated)


async def test_strangers_do_not_lock_a_machine_out(narrow: Machine) -> None:
    """A pair that was right before is checked even while the name's attempts are used up by somebody else."""
    await narrow.ask("ann", PASSWORD)
    narrow.clock.now += SECONDS
    for _ in range(2):
        await narrow.refused("ann", "wrong", peer="192.0.2.66")
    assert isinstance(await narrow.refused("ann", "wrong", peer="192.0.2.66"), TooManyAttempts)
    assert (await narrow.ask("ann", PASSWORD)).user == "ann"


async def test_the_queue_is_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when too many wait is told to come back, and the attempt is not counted."""
    monkeypatch.setattr(room, "_WAITING", 0)
    for _ in range(30):
        assert isinstance(await machine.refused("ann", PASSWORD), Unavailable)
    monkeypatch.setattr(room, "_WAITING", 1)
    assert (await machine.ask("ann", PASSWORD)).user == "ann"


async def test_nothing_secret_is_shown(machine: Machine) -> None:
    """Neither the authenticator nor a refusal holds the password."""
    await machine.ask("ann", PASSWORD)
    refusal = await machine.refused("ann", "a-wrong-secret")
    assert PASSWORD not in repr(machine.authenticator)
    assert "a-wrong-secret" not in f"{refusal!r} {refusal.reason} {refusal.message}"


@pytest.mark.parametrize("how", [Path.unlink, lambda file: file.write_text("ann:x")])
async def test_files_must_be_usable_at_start(tmp_path: Path, how: Callable[[Path], Awaitable[None] | None]) -> None:
    """Without a usable file nothing is built."""
    machine = Machine(tmp_path)
    await machine.authenticator.close()
    how(machine.users)
    shape = Basic(users=SecretRef(file=str(machine.users)))  # type: ignore[arg-type]
    with pytest.raises((LookupError, ValueError)):
        BasicAuthenticator(shape, throttle=throttle(machine.clock))
