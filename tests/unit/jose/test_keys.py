"""Key sets: which keys count, and how often the issuer is asked (B22, B23, B24)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from authproxy.errors import ProviderError
from authproxy.jose import keys
from authproxy.jose.keys import KeySet, parse
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_signing import b64, signing_key
from tests.peers.program import PATIENCE

RSA = signing_key("rsa")
EC = signing_key("ec", "ES256")
ED = signing_key("ed", "EdDSA")


def jwks(*entries: Any) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


class Issuer:
    """Publishes ``entries``; counts how often it is asked; ``error`` or ``body`` replace the answer."""

    def __init__(self, *entries: Any) -> None:
        self.entries = list(entries)
        self.asked = 0
        self.error: Exception | None = None
        self.failures = 1_000_000  # how often ``error`` is raised
        self.body: bytes | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None and self.failures:
            self.failures -= 1
            raise self.error
        return jwks(*self.entries) if self.body is None else self.body


def kids(found: tuple[keys.Key, ...]) -> list[str | None]:
    return [key.kid for key in found]


async def test_the_key_id_and_the_algorithm_select() -> None:
    """A key is a candidate where its id is the token's and its type fits the algorithm."""
    key_set = KeySet(Issuer(RSA.jwk(alg=None), EC.jwk(), ED.jwk()).fetch, clock=FakeClock())
    assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    assert kids(await key_set.candidates("rsa", "PS512")) == ["rsa"]
    assert kids(await key_set.candidates("ec", "ES256")) == ["ec"]
    assert kids(await key_set.candidates("ed", "EdDSA")) == ["ed"]
    assert await key_set.candidates("ec", "RS256") == ()
    assert await key_set.candidates("ec", "ES384") == ()


async def test_without_a_key_id_all_fitting_keys_are_tried_ten_at_most() -> None:
    """A6 and A7: a token without an id is tried with every usable key, with a bound on the work."""
    many = [RSA.jwk(kid=f"k{number}") for number in range(15)]
    key_set = KeySet(Issuer(EC.jwk(), *many).fetch, clock=FakeClock())
    assert len(await key_set.candidates(None, "RS256")) == keys.TRIED


async def test_keys_of_one_id_are_all_candidates() -> None:
    """B24: duplicate ids are not resolved by order."""
    other = signing_key("rsa", number=1)
    key_set = KeySet(Issuer(RSA.jwk(), other.jwk(), EC.jwk(kid="rsa")).fetch, clock=FakeClock())
    assert len(await key_set.candidates("rsa", "RS256")) == 2
    assert len(await key_set.candidates("rsa", "ES256")) == 1


UNUSABLE: dict[str, Any] = {
    "for encryption": RSA.jwk(use="enc"),
    "use is a number": RSA.jwk(use=1),
    "not to verify": RSA.jwk(key_ops=["encrypt"]),
    "to sign only": RSA.jwk(key_ops=["sign"]),
    "operations are text": RSA.jwk(key_ops="verify"),
    "another algorithm": EC.jwk(alg="ES384"),
    "an unknown algorithm": RSA.jwk(alg="RSA-OAEP"),
    "a symmetric algorithm": RSA.jwk(alg="HS256"),
    "algorithm is a list": RSA.jwk(alg=["RS256"]),
    "a shared secret": {"kty": "oct", "k": b64(b"x" * 64), "kid": "oct", "alg": "HS256"},
    "512 bits": signing_key("short", bits=1024).jwk(),
    "no modulus": {"kty": "RSA", "e": "AQAB", "kid": "broken"},
    "an even exponent": RSA.jwk(e="Ag"),
    "modulus is a number": RSA.jwk(n=5),
    "modulus is not base64url": RSA.jwk(n="!!!"),
    "a point off the curve": EC.jwk(x=b64(b"\x01" * 32)),
    "another curve": EC.jwk(crv="P-384"),
    "an unknown curve": EC.jwk(crv="secp256k1"),
    "a short coordinate": EC.jwk(x=b64(b"\x01" * 31)),
    "an unknown type": {"kty": "AKP", "kid": "new"},
    "type is a list": RSA.jwk(kty=["RSA"]),
    "key id is a number": RSA.jwk(kid=7),
    "a published private key": RSA.jwk(d=b64(b"1")),
    "not an object": "RSA",
    "null": None,
}


@pytest.mark.parametrize("entry", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_key_is_ignored_and_its_neighbours_serve(entry: Any) -> None:
    """B24: one bad entry takes no other key with it, and is itself never used."""
    good = signing_key("good", number=1)
    assert kids(parse(jwks(entry, good.jwk()))) == ["good"]


@pytest.mark.parametrize(
    "entry", [RSA.jwk(use=None), RSA.jwk(key_ops=["verify", "sign"]), RSA.jwk(alg=None), RSA.jwk(x5c=["MII"], x5t="x")]
)
def test_a_usable_key_may_be_described_in_several_ways(entry: Any) -> None:
    """``use``, ``key_ops`` and ``alg`` may be absent, and unknown members are ignored (RFC 7517 section 5)."""
    assert kids(parse(jwks(entry))) == ["rsa"]


BAD_SETS: dict[str, bytes] = {
    "nothing": b"",
    "not json": b"<html>",
    "an array": b"[]",
    "no keys": b"{}",
    "keys is an object": b'{"keys": {}}',
    "an empty set": jwks(),
    "no usable key": jwks({"kty": "oct", "k": "AA"}),
    "too large": jwks(RSA.jwk()) + b" " * keys.SIZE,
    "a duplicate member": b'{"keys": [], "keys": []}',
    "100,000 levels": b'{"keys":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", BAD_SETS.values(), ids=BAD_SETS.keys())
async def test_garbage_does_not_replace_the_last_good_set(body: bytes) -> None:
    """B23: garbage, an empty set and a huge one leave the keys as they were."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    issuer.body = body
    clock.forward(1300)
    assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    assert issuer.asked == 2
    assert key_set.last_error


async def test_nothing_fetched_and_nothing_to_be_had_is_the_providers_failure() -> None:
    """Without any key nothing is said about the token."""
    issuer = Issuer()
    issuer.error = ProviderError("the issuer is down")
    with pytest.raises(ProviderError, match="down"):
        await KeySet(issuer.fetch, clock=FakeClock()).candidates("rsa", "RS256")


async def test_keys_serve_on_while_the_issuer_is_down_until_max_stale() -> None:
    """B23: an outage of hours refuses nobody; the keys of yesterday are not believed for ever."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, max_stale=86400)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    for _ in range(23):
        clock.forward(3600)
        assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
    clock.forward(3601)
    with pytest.raises(ProviderError):
        await key_set.candidates("rsa", "RS256")


async def test_a_rotated_key_is_found_at_once() -> None:
    """A20: the first unknown id asks the issuer, although the set was fetched a moment ago."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.entries.append(signing_key("next", number=1).jwk())
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]
    assert issuer.asked == 2


async def test_a_flood_of_unknown_ids_asks_once_for_each_cooldown() -> None:
    """B22: a thousand made-up ids in a minute cause six fetches, and known ids are not disturbed."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    for number in range(1000):
        assert await key_set.candidates(f"made-up-{number}", "RS256") == ()
        assert kids(await key_set.candidates("rsa", "RS256")) == ["rsa"]
        clock.forward(0.06)
    assert issuer.asked - 1 == 6


async def test_what_is_remembered_of_unknown_ids_is_bounded() -> None:
    """Years of made-up ids do not fill the memory."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, cooldown=0.5)
    for number in range(1100):
        await key_set.candidates(f"made-up-{number}", "RS256")
        clock.forward(0.5)
    assert len(key_set._missing) == 1024


async def test_known_keys_do_not_wait_for_a_search() -> None:
    """B22: while the issuer hangs over an unknown id, tokens with known ids are judged at once."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.gate.clear()
    search = asyncio.ensure_future(key_set.candidates("made-up", "RS256"))
    await asyncio.sleep(0)
    assert kids(await asyncio.wait_for(key_set.candidates("rsa", "RS256"), PATIENCE)) == ["rsa"]
    issuer.gate.set()
    assert await search == ()


async def test_everybody_who_waits_for_one_search_gets_its_find() -> None:
    """Twenty tokens under a new id at the same instant: one fetch, twenty answers."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    await key_set.ensure()
    issuer.entries.append(signing_key("next", number=1).jwk())
    issuer.gate.clear()
    searches = [asyncio.ensure_future(key_set.candidates("next", "RS256")) for _ in range(20)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert [kids(found) for found in await asyncio.gather(*searches)] == [["next"]] * 20
    assert issuer.asked == 2


async def test_one_stale_token_asks_ever_more_rarely() -> None:
    """The same unknown id searches after 10, 20, 40, ... seconds; a new id still has its turn at the next cool-down."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, max_age=1e9)
    await key_set.ensure()
    for _ in range(151):
        await key_set.candidates("gone", "RS256")
        clock.forward(1)
    assert issuer.asked - 1 == 5  # at 0, 10, 30, 70 and 150
    clock.forward(11)
    issuer.entries.append(signing_key("next", number=1).jwk())
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]


async def test_a_known_id_for_another_algorithm_asks_nobody() -> None:
    """A token that names a key of another type is simply wrong."""
    issuer = Issuer(RSA.jwk())
    key_set = KeySet(issuer.fetch, clock=FakeClock())
    assert await key_set.candidates("rsa", "ES256") == ()
    assert issuer.asked == 1


async def test_a_failed_search_keeps_the_set_and_its_id_may_be_searched_again() -> None:
    """An unknown id during an outage is not remembered as missing."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    assert await key_set.candidates("next", "RS256") == ()
    issuer.error = None
    issuer.entries.append(signing_key("next", number=1).jwk())
    clock.forward(10)
    assert kids(await key_set.candidates("next", "RS256")) == ["next"]


async def test_a_withdrawn_key_goes_with_the_next_fetch() -> None:
    """What the issuer no longer publishes is no longer believed, and remembered tokens can see it go."""
    issuer, clock = Issuer(RSA.jwk(), EC.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock)
    await key_set.ensure()
    assert key_set.key_ids == {"rsa", "ec"}
    issuer.entries.pop(0)
    clock.forward(1300)
    assert await key_set.candidates("rsa", "RS256") == ()
    assert key_set.key_ids == {"ec"}


async def test_repr_says_how_many_and_how_old() -> None:
    """The state at a glance."""
    clock = FakeClock()
    key_set = KeySet(Issuer(RSA.jwk(), EC.jwk(), ED.jwk()).fetch, clock=clock)
    assert repr(key_set) == "<KeySet never fetched>"
    await key_set.ensure()
    clock.forward(41)
    assert repr(key_set) == "<KeySet 3 keys, fetched 41s ago>"


# --- keys that were rotated inside a cool-down (C9) ---


class Pauses:
    """Waits by moving the clock; keeps what was waited for."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.seconds = clock, list[float]()

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)
        self.clock.forward(seconds)


def patient(issuer: Issuer, clock: FakeClock) -> tuple[KeySet, Pauses]:
    """A key set whose pauses cost no time."""
    pauses = Pauses(clock)
    return KeySet(issuer.fetch, clock=clock, pause=pauses), pauses


def rotate(issuer: Issuer, number: int) -> str:
    """Publish another key; its id."""
    issuer.entries.append(signing_key(f"next-{number}", number=number).jwk())
    return f"next-{number}"


async def test_strangers_do_not_delay_a_trusted_token() -> None:
    """C9: a made-up id has started the cool-down, then the key is rotated: the sign-in finds it without waiting."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, pauses = patient(issuer, clock)
    await key_set.ensure()
    assert await key_set.candidates("made-up", "RS256") == ()
    kid = rotate(issuer, 1)
    assert await key_set.candidates("made-up-again", "RS256") == ()
    assert kids(await key_set.candidates(kid, "RS256", trusted=True)) == [kid]
    assert pauses.seconds == []


async def test_trusted_tokens_do_not_delay_strangers() -> None:
    """C9: a search for a sign-in leaves the cool-down of bearer tokens as it is."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    await key_set.ensure()
    assert await key_set.candidates("unheard-of", "RS256", trusted=True) == ()
    kid = rotate(issuer, 1)
    assert kids(await key_set.candidates(kid, "RS256")) == [kid]


async def test_keys_that_are_rotated_again_and_again_are_all_found() -> None:
    """C9: each trusted token waits for the spacing, a second at most, and finds its key."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, pauses = patient(issuer, clock)
    await key_set.ensure()
    for number in range(1, 6):
        kid = rotate(issuer, number)
        assert kids(await key_set.candidates(kid, "RS256", trusted=True)) == [kid]
        clock.forward(0.25)
    assert pauses.seconds == [0.75] * 4


async def test_a_key_replaced_under_its_id_inside_the_strangers_cooldown_is_found() -> None:
    """C9: also where the id stays, or there is none."""
    for kid in ("rsa", None):
        issuer, clock = Issuer(RSA.jwk(kid=kid)), FakeClock()
        key_set, _ = patient(issuer, clock)
        before = await key_set.candidates(kid, "RS256")
        assert await key_set.newer(kid, "RS256") == ()  # a wrong signature of a stranger
        issuer.entries = [signing_key("rsa", number=2).jwk(kid=kid)]
        assert await key_set.newer(kid, "RS256") == ()
        found = await key_set.newer(kid, "RS256", trusted=True)
        assert found
        assert found != before


async def test_a_fetch_that_is_too_old_is_not_the_last_word() -> None:
    """C9: it was under way before the rotation; the trusted token waits for its end and fetches again."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    await key_set.ensure()
    issuer.gate.clear()
    answer, issuer.body = issuer.gate, jwks(RSA.jwk())
    search = asyncio.ensure_future(key_set.candidates("made-up", "RS256"))
    await asyncio.sleep(0)
    trusted = asyncio.ensure_future(key_set.candidates("next-1", "RS256", trusted=True))
    await asyncio.sleep(0)
    answer.set()
    assert await search == ()
    issuer.body = None
    rotate(issuer, 1)
    assert kids(await trusted) == ["next-1"]


async def test_a_failed_fetch_is_tried_again_for_a_trusted_token() -> None:
    """C9: one that failed a moment ago, and one that fails now, are no answer: three fetches, a second apart."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, pauses = patient(issuer, clock)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    for _ in range(4):  # the pause after failures is ten seconds now
        assert await key_set.candidates("made-up", "RS256") == ()
        clock.forward(10)
    assert await key_set.candidates("made-up", "RS256") == ()
    asked, kid = issuer.asked, rotate(issuer, 1)
    issuer.failures = 2
    assert kids(await key_set.candidates(kid, "RS256", trusted=True)) == [kid]
    assert issuer.asked - asked == 3
    assert pauses.seconds == [1.0, 1.0]


async def test_keys_that_cannot_be_had_leave_a_doubt() -> None:
    """C9: after the last failed fetch it is said that nobody can tell, and not that there is no key."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    await key_set.ensure()
    issuer.error = ProviderError("down")
    since = clock()
    assert await key_set.candidates("next", "RS256", trusted=True) == ()
    doubt = key_set.doubt("next", issued_at=since - 5, since=since)
    assert doubt is not None
    assert str(doubt) == "down"
    assert doubt.retry_after is None  # a time to wait would hold off renewals of other sessions
    assert issuer.asked == 1 + keys.FETCHES


async def test_a_trusted_token_does_not_wait_for_a_hanging_issuer_again_and_again() -> None:
    """C9: a fetch that ran into its timeout was wait enough for one sign-in."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()

    async def fetch() -> bytes:
        if issuer.error:
            clock.forward(10)
        return await issuer.fetch()

    key_set = KeySet(fetch, clock=clock, pause=Pauses(clock))
    await key_set.ensure()
    issuer.error = ProviderError("did not answer in time")
    assert await key_set.candidates("next", "RS256", trusted=True) == ()
    assert clock.elapsed == 10


async def test_trusted_tokens_cannot_flood_the_issuer() -> None:
    """C9: fifty at once share one fetch, and ten seconds of them cost one fetch a second."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    await key_set.ensure()
    flood = [key_set.candidates(f"unheard-of-{number}", "RS256", trusted=True) for number in range(50)]
    assert await asyncio.gather(*flood) == [()] * 50
    assert issuer.asked == 3  # the first one's, and one that started after all others had come
    start = clock()
    while clock() < start + 10:
        await key_set.candidates("unheard-of", "RS256", trusted=True)
        clock.forward(0.01)
    assert issuer.asked - 3 <= 11


async def test_bad_signatures_of_trusted_tokens_wait_for_nothing() -> None:
    """C9: the id is known, so that the signature is wrong, most likely: one fetch a second, and no pause."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, pauses = patient(issuer, clock)
    await key_set.ensure()
    for _ in range(100):
        assert await key_set.newer("rsa", "RS256", trusted=True) == ()
        clock.forward(0.05)
    assert pauses.seconds == []
    assert issuer.asked - 1 <= 5


async def test_the_first_keys_are_tried_for_again_after_a_second() -> None:
    """C9: an outage at the start holds sign-ins up for as long as it lasts, not ten seconds longer."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    issuer.error = ProviderError("down")
    for _ in range(6):
        with pytest.raises(ProviderError):
            await key_set.candidates("made-up", "RS256")
        clock.forward(10)
    with pytest.raises(ProviderError):
        await key_set.ensure()
    issuer.error = None
    clock.forward(1)
    await key_set.ensure()


async def test_a_token_newer_than_the_keys_is_in_doubt_inside_the_cooldown() -> None:
    """C9: its key may have come since the last fetch; one that is older than the keys has none."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set, _ = patient(issuer, clock)
    await key_set.ensure()
    since = clock()
    assert await key_set.candidates("made-up", "RS256") == ()
    assert key_set.doubt("made-up", issued_at=since + 3, since=since) is None  # fetched for this very token
    clock.forward(4)
    since = clock()
    assert await key_set.candidates("next", "RS256") == ()
    assert key_set.doubt("next", issued_at=since - 4, since=since) is None
    assert key_set.doubt("rsa", issued_at=since, since=since) is None  # the id is there, for another algorithm
    doubt = key_set.doubt("next", issued_at=since - 1, since=since)
    assert doubt is not None
    assert doubt.retry_after == pytest.approx(6)
    without = key_set.doubt("next", issued_at=None, since=since)
    assert without is not None
    assert key_set.doubt("made-up", issued_at=since - 1, since=since) is None  # fetched for this id: not to be retried
    clock.forward(7)
    assert await key_set.candidates("made-up-too", "RS256") == ()
    clock.forward(1)
    since = clock()
    guessed = key_set.doubt("made-up", issued_at=since, since=since)  # an id that was asked for ahead of its time
    assert guessed is not None


async def test_a_missing_id_is_looked_for_again_within_eighty_seconds() -> None:
    """C9: an id that can be guessed must not be kept unknown by asking for it ahead of its publication."""
    issuer, clock = Issuer(RSA.jwk()), FakeClock()
    key_set = KeySet(issuer.fetch, clock=clock, max_age=1e9)
    await key_set.ensure()
    for _ in range(1000):
        await key_set.candidates("next-1", "RS256")
        clock.forward(1)
    kid, published = rotate(issuer, 1), clock()
    while not await key_set.candidates(kid, "RS256"):
        clock.forward(1)
    assert clock() - published <= 81
