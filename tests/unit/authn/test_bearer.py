"""Bearer JWTs as a credential: where they are looked for, who has to prove them, and how long that is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from authproxy.authn import bearer as room
from authproxy.authn.bearer import SECONDS, BearerAuthenticator
from authproxy.errors import BadRequest, NotAuthenticated, Refusal, TooManyAttempts, Unavailable
from authproxy.model import Match
from authproxy.oidc.issuer import InCluster, Issuer
from authproxy.settings import schema
from authproxy.store.memory import MemoryStore
from authproxy.throttle import Throttle
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.openid_signing import sign, signing_key
from tests.unit import values
from tests.unit.authn.requests import basic, bearer

JWT = sign({}, signing_key())


def match(issuers: set[str] | None = None, audiences: set[str] | None = None) -> Match:
    """A route of an app that takes these issuers and audiences; None: all."""
    given = {"bearer_issuers": issuers, "bearer_audiences": audiences}
    frozen: dict[str, Any] = {name: None if value is None else frozenset(value) for name, value in given.items()}
    return values.match()._replace(app=values.app(**frozen))


class Scene:
    """Issuers on loopback, one clock, and the authenticator."""

    def __init__(self, clock: FakeClock, peer: OpenIDPeer, other: OpenIDPeer) -> None:
        self.clock, self.peer, self.other = clock, peer, other
        self.issuer = self.of("peer", peer, ["authproxy", "second"])
        self.issuers = [self.issuer, self.of("other", other, ["authproxy"])]
        self.authenticator = BearerAuthenticator(self.issuers, clock=clock)
        self.proved = 0

    def of(self, name: str, peer: OpenIDPeer, audiences: list[str]) -> Issuer:
        """Ours for ``peer``; it counts the tokens that it has to prove."""
        scene = self

        class Counting(Issuer):
            async def check(self, *given: Any) -> dict[str, object]:
                scene.proved += 1
                return await super().check(*given)

        return Counting(name, schema.Issuer(issuer=peer.issuer, audiences=audiences), clock=self.clock)

    def token(self, peer: OpenIDPeer | None = None, **changes: Any) -> str:
        """A right access token with ``changes``."""
        now, peer = int(self.clock()), peer or self.peer
        claims = {"iss": peer.issuer, "aud": "authproxy", "sub": "ci", "iat": now, "exp": now + 600, **changes}
        return sign(claims, peer.keys[-1], {"typ": "at+jwt"})

    async def ask(self, token: str, where: Match | None = None) -> str:
        """Whom the token proves, or the code of the refusal and its reason's rule."""
        info = bearer(token)
        try:
            return (await self.authenticator.authenticate(info, where or match())).identity.subject
        except NotAuthenticated as refused:
            rule, *_ = refused.reason.split(":")
            return rule if (refused.code, refused.token_error) == ("invalid_token", "invalid_token") else refused.code
        except Refusal as refused:
            return refused.code


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Two issuers that sign with keys of the same id."""
    clock = FakeClock()
    async with OpenIDPeer(clock=clock) as peer, OpenIDPeer(clock=clock) as other:
        other.keys = [signing_key("key-0", number=7)]
        one = Scene(clock, peer, other)
        async with one.issuers[0], one.issuers[1]:
            yield one


# --- where it is looked for ---


@pytest.mark.parametrize("value", [f"Bearer {JWT}", f"bearer {JWT}", f"BEARER {JWT}"])
def test_a_jwt_after_bearer_is_ours(value: str) -> None:
    """The scheme is case-insensitive (RFC 9110 section 11.1)."""
    assert BearerAuthenticator([], clock=FakeClock()).presented(values.info("/", ("Authorization", value)))


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer opaque", f"Basic {JWT}", JWT, f"Bearer{JWT}", f"Bearer\t{JWT}",
     "Bearer a.b.c.d.e", f"DPoP {JWT}", f"Bearer {JWT}, Bearer {JWT}", f"Bearer {JWT}="],
)  # fmt: skip
def test_anything_else_is_not(value: str) -> None:
    """Opaque tokens are another kind's, and other schemes nobody's."""
    assert not BearerAuthenticator([], clock=FakeClock()).presented(values.info("/", ("Authorization", value)))


def test_query_and_other_headers_are_never_looked_at() -> None:
    """RFC 9700 section 4.3.2: addresses end up in logs."""
    authenticator = BearerAuthenticator([], clock=FakeClock())
    assert not authenticator.presented(values.info(f"/?access_token={JWT}"))
    assert not authenticator.presented(values.info("/", ("X-Forwarded-Access-Token", JWT), ("Cookie", f"token={JWT}")))
    assert not authenticator.presented(basic("ann", "pw"))


def test_a_static_token_in_the_form_of_a_jwt_is_not_ours() -> None:
    """Whoever knows it judges it."""
    authenticator = BearerAuthenticator(
        [], clock=FakeClock(), elsewhere=lambda credentials: credentials == JWT.encode()
    )
    assert not authenticator.presented(bearer(JWT))
    assert authenticator.presented(bearer(sign({"a": 1}, signing_key())))


async def test_two_lines_are_refused(scene: Scene) -> None:
    """Which one counts must never be a matter of order, not even of equal ones."""
    for info in (bearer(scene.token(), scene.token()), bearer(scene.token(), "opaque")):
        assert scene.authenticator.presented(info)
        with pytest.raises(BadRequest, match="several_credentials"):
            await scene.authenticator.authenticate(info, match())
    assert scene.proved == 0


# --- who has to prove it ---


async def test_a_right_token_proves_its_subject(scene: Scene) -> None:
    """Of either issuer; no cookie is set, and the token does not travel on."""
    assert await scene.ask(scene.token()) == "ci"
    assert await scene.ask(scene.token(scene.other)) == "ci"
    proved = await scene.authenticator.authenticate(bearer(scene.token()), match())
    assert (proved.set_cookies, proved.presented, proved.identity.issuer) == ((), True, scene.peer.issuer)


async def test_an_issuer_proves_its_own_tokens_alone(scene: Scene) -> None:
    """One issuer's key says nothing about another's token, under the same key id."""
    forged = scene.token(scene.other, iss=scene.peer.issuer)
    assert await scene.ask(forged) == "signature_invalid"


@pytest.mark.parametrize("change", ["/", " ", "x"])
async def test_an_issuer_is_named_exactly(scene: Scene, change: str) -> None:
    """No prefix, no trailing slash; nobody is even asked."""
    assert await scene.ask(scene.token(iss=scene.peer.issuer + change)) == "issuer_unknown"
    assert scene.proved == 0


async def test_an_app_takes_the_issuers_that_it_names(scene: Scene) -> None:
    """``apps.X.bearer.issuers``; an empty list takes none."""
    assert await scene.ask(scene.token(), match(issuers={"peer"})) == "ci"
    assert await scene.ask(scene.token(), match(issuers={"other"})) == "issuer_unknown"
    assert await scene.ask(scene.token(), match(issuers=set())) == "issuer_unknown"


async def test_an_app_takes_the_audiences_that_it_names(scene: Scene) -> None:
    """``apps.X.bearer.audiences``, of those that the issuer may speak for."""
    second = scene.token(aud=["second"])
    assert await scene.ask(second) == "ci"
    assert await scene.ask(second, match(audiences={"second"})) == "ci"
    assert await scene.ask(second, match(audiences={"authproxy"})) == "audience_mismatch"
    assert await scene.ask(second, match(audiences=set())) == "audience_mismatch"
    assert await scene.ask(scene.token(scene.other, aud="second"), match(audiences={"second"})) == "audience_mismatch"


async def test_two_issuers_of_one_name_are_refused(scene: Scene) -> None:
    """Which claims count must never be a matter of order."""
    twice = [scene.issuer, scene.of("again", scene.peer, ["authproxy"])]
    scene.authenticator = BearerAuthenticator(twice, clock=scene.clock)
    assert await scene.ask(scene.token()) == "issuer_ambiguous"
    assert await scene.ask(scene.token(), match(issuers={"peer"})) == "ci"
    await twice[1].keys.aclose()


async def test_an_issuer_that_is_down_is_not_the_callers_fault(scene: Scene) -> None:
    """503, so that a machine tries again and keeps its token."""
    await scene.peer.stop()
    assert await scene.ask(scene.token()) == "issuer_unreachable"
    assert await scene.ask(scene.token(scene.other)) == "ci"
    with pytest.raises(Unavailable) as refused:
        await scene.authenticator.authenticate(bearer(scene.token()), match())
    assert refused.value.reason
    assert scene.peer.issuer not in refused.value.message


async def test_an_issuer_whose_name_is_not_known_yet_holds_nobody_else_up(scene: Scene) -> None:
    """Only a token that no known issuer names has to wait for it."""
    shape = schema.Issuer(kubernetes_service_accounts=True, audiences=["authproxy"])
    async with Issuer("k8s", shape, clock=scene.clock, cluster=InCluster("https://127.0.0.1:1")) as inside:
        scene.authenticator = BearerAuthenticator([inside, scene.issuer], clock=scene.clock)
        assert await scene.ask(scene.token()) == "ci"
        assert inside.last_error == ""
        assert await scene.ask(scene.token(iss="https://kubernetes.example")) == "issuer_unreachable"
        assert inside.last_error


@pytest.mark.parametrize(
    "token",
    ["eyJ.e30.e30", "eyJhbGciOiJub25lIn0.e30.", "e30.e30.e30", "e30..", "eyJ" + "a" * 20_000 + ".e30.e30"],
    ids=["half", "none", "empty", "nothing", "huge"],
)
async def test_garbage_is_an_invalid_token(scene: Scene, token: str) -> None:
    """Nobody is asked for keys."""
    assert await scene.ask(token) in {"token_malformed", "algorithm_refused", "token_too_large"}
    assert scene.peer.calls == []


# --- how long it is remembered ---


async def test_a_proved_token_is_remembered_for_a_minute(scene: Scene) -> None:
    """The hot path computes no signature."""
    token = scene.token()
    for _ in range(5):
        assert await scene.ask(token) == "ci"
    assert scene.proved == 1
    scene.clock.forward(SECONDS)
    assert await scene.ask(token) == "ci"
    assert scene.proved == 2


async def test_it_is_not_remembered_beyond_its_end(scene: Scene) -> None:
    """A token that has half a minute left is judged again then."""
    token = scene.token(exp=int(scene.clock()) + 30)
    assert await scene.ask(token) == "ci"
    scene.clock.forward(30)
    assert await scene.ask(token) == "ci"  # the leeway, judged and not remembered
    assert scene.proved == 2
    scene.clock.forward(60)
    assert await scene.ask(token) == "token_expired"


async def test_it_dies_with_its_key(scene: Scene) -> None:
    """A key set without the key forgets the token at once, whenever it is fetched."""
    token = scene.token()
    assert await scene.ask(token) == "ci"
    scene.peer.keys = [signing_key("key-9", number=9)]
    assert await scene.ask(token) == "ci"
    assert await scene.ask(scene.token()) == "ci"  # of the new key: the set is fetched
    assert await scene.ask(token) == "key_unknown"


async def test_a_new_key_inside_the_cooldown_is_no_invalid_token(scene: Scene) -> None:
    """C9: RFC 6750's invalid_token has clients get another token, which is signed with the same key: 503, and when."""
    stray = scene.token()
    assert await scene.ask(stray) == "ci"
    stranger = sign({"iss": scene.peer.issuer, "iat": int(scene.clock())}, scene.peer.keys[-1], {"kid": "made-up"})
    assert await scene.ask(stranger) == "key_unknown"
    scene.clock.forward(3)
    scene.peer.rotate_keys()
    token = scene.token()
    with pytest.raises(Unavailable) as caught:
        await scene.authenticator.authenticate(bearer(token), match())
    assert (caught.value.code, caught.value.retry_after) == ("issuer_unreachable", 7)
    assert await scene.ask(stranger) == "key_unknown"  # older than the keys in memory: refused, and not to be retried
    scene.clock.forward(7)
    assert await scene.ask(token) == "ci"


async def test_a_refused_token_is_not_remembered(scene: Scene) -> None:
    """Neither as bad nor as good."""
    token = scene.token(nbf=int(scene.clock()) + 100)
    assert await scene.ask(token) == "token_not_yet_valid"
    scene.clock.forward(60)
    assert await scene.ask(token) == "ci"


async def test_one_apps_token_opens_no_other_from_memory(scene: Scene) -> None:
    """C24: the policy of the app is part of what is remembered."""
    token = scene.token()
    assert await scene.ask(token) == "ci"
    assert await scene.ask(token, match(issuers={"other"})) == "issuer_unknown"
    assert await scene.ask(token, match(audiences={"second"})) == "audience_mismatch"
    assert await scene.ask(token) == "ci"


async def test_a_clock_that_is_set_back_does_not_make_it_last(scene: Scene) -> None:
    """C23: what was proved in what is now the future is proved again."""
    token = scene.token(iat=int(scene.clock()) - 7200)
    assert await scene.ask(token) == "ci"
    scene.clock.forward(-3600)
    assert await scene.ask(token) == "ci"
    assert scene.proved == 2


async def test_memory_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused goes first, and no token is kept."""
    monkeypatch.setattr(room, "ENTRIES", 2)
    first, second, third = (scene.token(jti=str(number)) for number in range(3))
    for token in (first, second, first, third):
        await scene.ask(token)
    assert scene.proved == 3
    await scene.ask(first)
    assert scene.proved == 3
    await scene.ask(second)
    assert scene.proved == 4
    assert repr(scene.authenticator) == "<BearerAuthenticator 2 issuers, 2 tokens remembered>"


async def test_failed_tokens_count_by_address(scene: Scene) -> None:
    """Whoever tries token after token is told to wait; a good token costs nothing, from the same address too."""
    limits = schema.Throttle.model_validate({"login_per_client": {"burst": 3, "every": "6s"}})
    throttle = Throttle(MemoryStore(scene.clock), limits, key=b"k" * 32)
    one = BearerAuthenticator(scene.issuers, clock=scene.clock, throttle=throttle)
    for _ in range(10):
        await one.authenticate(bearer(scene.token()), match())
    bad = bearer(scene.token(aud="somebody else"))
    for _ in range(3):
        with pytest.raises(NotAuthenticated):
            await one.authenticate(bad, match())
    with pytest.raises(TooManyAttempts):
        await one.authenticate(bad, match())
    await one.authenticate(bearer(scene.token()), match())
