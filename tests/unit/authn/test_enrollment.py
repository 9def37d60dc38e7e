"""Enrollment tokens as credentials of one registration route: whose they are, which cluster they open, what is no."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from authproxy.authn.chain import Chain
from authproxy.authn.enrollment import EnrollmentAuthenticator
from authproxy.authn.token import TokenAuthenticator
from authproxy.errors import BadRequest, NotAuthenticated, TooManyAttempts
from authproxy.model import Identity, Kind, Match, RequestInfo, Route
from authproxy.settings import schema
from authproxy.settings.values import SecretRef
from authproxy.store.memory import MemoryStore
from tests.peers.fake_clock import FakeClock
from tests.unit import values
from tests.unit.authn.requests import Clock, bearer, throttle
from tests.unit.enrollment.replicas import EU, NEW, OLD, OPEN, Replica, shape

STATIC = "a-static-token-of-more-than-thirty-two-characters"


class House:
    """The kinds that look at bearer secrets, over one section."""

    def __init__(self, replica: Replica | None = None, *, client: int = 1000) -> None:
        self.replica = replica or Replica(MemoryStore(), FakeClock())
        self.throttle = throttle(Clock(), client=client)
        self.guard = EnrollmentAuthenticator(self.replica.tokens, throttle=self.throttle)
        static = {"read": schema.StaticToken(secrets=[SecretRef(value=STATIC)])}
        enrolled = self.replica.authenticator
        token = TokenAuthenticator(static, throttle=self.throttle, elsewhere=enrolled.claims)
        self.chain = Chain([enrolled, self.guard, token])

    async def judged(self, info: RequestInfo, *accept: Kind, cluster: str | None = EU) -> Identity:
        """Who it is on a route that accepts these kinds, and captures ``cluster``."""
        route = Route("apps.app.routes[0]", "/x", values.STAFF, accept=frozenset(accept or ("enrollment",)))
        captures = () if cluster is None else (("cluster", cluster),)
        match = Match(values.app("app", routes=(route,)), route, captures)
        return (await self.chain.authenticate(info, match)).identity

    async def refused(self, info: RequestInfo, *accept: Kind) -> NotAuthenticated:
        """The refusal of it there."""
        with pytest.raises(NotAuthenticated) as caught:
            await self.judged(info, *accept)
        return caught.value


def in_header(*secrets: str, authorization: str = "") -> RequestInfo:
    """A request with these in ``X-Enrollment-Token``."""
    beside = [("Authorization", authorization)] if authorization else []
    return values.info("/", *(("X-Enrollment-Token", one) for one in secrets), *beside)


@pytest.mark.parametrize("secret", [OLD, NEW])
@pytest.mark.parametrize("carry", [bearer, in_header])
async def test_a_shared_token_is_an_identity(secret: str, carry: Callable[[str], RequestInfo]) -> None:
    """Either of two overlapping secrets, in either place: the name of the settings, one cluster, and nothing else."""
    identity = await House().judged(carry(secret))
    assert (identity.kind, identity.subject, identity.user) == ("enrollment", "fleet", "fleet")
    assert identity.clusters == frozenset({EU})
    assert (identity.groups, identity.scopes, identity.email) == ((), frozenset(), "")


@pytest.mark.parametrize("cluster", ["eu-01.k8s.example.org", "k8s.example.com", "a b.k8s.example.com", None])
async def test_what_no_pattern_allows_is_no_cluster(cluster: str | None) -> None:
    """The empty set, which the wall refuses everywhere; also where the path names no cluster, or what is no name."""
    assert (await House().judged(bearer(OLD), cluster=cluster)).clusters == frozenset()


async def test_a_token_without_patterns_is_bound_to_nothing() -> None:
    """As a static token without clusters."""
    for cluster in (EU, None):
        assert (await House().judged(bearer(OPEN), cluster=cluster)).clusters is None


async def test_a_second_name_never_widens_a_token() -> None:
    """One secret under two names, of which one has patterns: these count, in whatever order the names stand."""
    bound, free = {"secrets": [{"value": OLD}], "clusters": ["eu-*"]}, {"secrets": [{"value": OLD}]}
    other = {"secrets": [{"value": OLD}], "clusters": ["us-*"]}
    for tokens in ({"bound": bound, "free": free, "us": other}, {"free": free, "us": other, "bound": bound}):
        house = House(Replica(MemoryStore(), FakeClock(), shape(tokens=tokens)))
        allowed = await house.judged(bearer(OLD), cluster="eu-1")
        assert (allowed.user, allowed.clusters) == ("bound", frozenset({"eu-1"}))
        assert (await house.judged(bearer(OLD), cluster="ap-1")).clusters == frozenset()


async def test_a_minted_token_is_refused_and_not_used_up() -> None:
    """The reason says which kind it is; it enrolls its machine afterwards."""
    house = House()
    minted = (await house.replica.tokens.mint("agent", EU)).text
    refusal = await house.refused(bearer(minted))
    assert refusal.code == "enrollment_token_refused"
    assert "single-use" in refusal.message
    assert (await house.replica.tokens.admit(minted, "agent", EU)).startswith("minted ")


@pytest.mark.parametrize(
    "info",
    [
        in_header(OLD, OLD),
        in_header(OLD, authorization=f"Bearer {OLD}"),
        in_header(OLD, authorization="Bearer anything"),
        bearer(OLD, OLD),
        bearer(OLD, STATIC),
    ],
)
async def test_two_are_ambiguous(info: RequestInfo) -> None:
    """Twice, or in both places: which one counts is never a matter of order."""
    alone: tuple[Kind, ...] = ("enrollment",)
    for accept in (alone, (*alone, "token", "enrolled")):
        with pytest.raises(BadRequest) as caught:
            await House().judged(info, *accept)
        assert caught.value.code == "several_credentials"


async def test_bad_ones_count_by_client() -> None:
    """Good ones are free; after the limit the client waits, in whichever place it tries."""
    house = House(client=3)
    for _ in range(5):
        await house.judged(bearer(OLD))
    for info in (bearer("x"), in_header("x"), bearer("ape_x")):
        await house.refused(info)
    for info in (bearer("y"), in_header("y")):
        with pytest.raises(TooManyAttempts):
            await house.judged(info)
    assert (await house.judged(bearer(OLD))).user == "fleet"


async def test_beside_other_kinds_each_judges_its_own() -> None:
    """One credential is never two, whatever the route takes beside enrollment tokens."""
    house = House()
    kinds: tuple[Kind, ...] = ("enrollment", "enrolled", "token")
    issued = house.replica.families.begin("agent", EU)
    for secret, kind in ((OLD, "enrollment"), (STATIC, "token"), (issued.credential, "enrolled")):
        assert (await house.judged(bearer(secret), *kinds)).kind == kind
    assert (await house.refused(bearer(issued.renewal), *kinds)).code == "enrollment_token_refused"
    assert (await house.refused(bearer("unknown"), *kinds)).code == "unknown_token"
    assert (await house.refused(bearer("unknown"), "enrollment", "enrolled")).code == "enrollment_refused"


async def test_everywhere_else_the_token_stays_refused() -> None:
    """Where the route does not accept the kind, nothing changes; the header is not even looked at."""
    house = House()
    assert (await house.refused(bearer(OLD), "enrolled", "token")).code == "enrollment_token_refused"
    assert (await house.refused(bearer(OLD), "token")).code == "not_signed_in"
    assert (await house.refused(in_header(OLD), "enrolled", "token")).code == "not_signed_in"


async def test_without_a_usable_secret_nothing_is_believed() -> None:
    """An empty credential does not fit a secret that is missing."""
    tokens = {"fleet": {"secrets": [{"env": "NO_SUCH_SECRET_HERE"}]}}
    house = House(Replica(MemoryStore(), FakeClock(), shape(tokens=tokens)))
    for info in (bearer(""), in_header(""), bearer(OLD)):
        assert (await house.refused(info)).code == "enrollment_refused"
    assert "NO_SUCH_SECRET_HERE" in house.guard.problems()[0]
