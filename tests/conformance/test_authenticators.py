"""One battery that every authenticator passes.  A new kind is one more entry in ``KINDS``.

An entry is an authenticator with a credential that it proves, one that it refuses, one too many, and one of another
scheme.  The battery claims what holds for every kind, whatever the credential is made of.
"""

from __future__ import annotations

import base64
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple

import bcrypt
import pytest

from authproxy.authn.basic import BasicAuthenticator
from authproxy.authn.bearer import BearerAuthenticator
from authproxy.authn.certificate import CertificateAuthenticator
from authproxy.authn.chain import Authenticator, Chain, Proved
from authproxy.authn.enrollment import EnrollmentAuthenticator
from authproxy.authn.token import TokenAuthenticator
from authproxy.errors import BadRequest, NotAuthenticated, Refusal
from authproxy.model import KINDS as ALL_KINDS
from authproxy.model import Headers, Identity, Kind, Match, RequestInfo, Route
from authproxy.oidc.issuer import Issuer
from authproxy.settings import schema
from authproxy.settings.values import SecretRef
from authproxy.store.memory import MemoryStore
from tests.hostile.harness import HOST, another_browser, build
from tests.peers.fake_clock import FakeClock
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.upstream_app import UpstreamApp
from tests.unit import values
from tests.unit.authn.requests import Clock, throttle
from tests.unit.enrollment.replicas import EU, OLD, OPEN, Replica

HUGE: Final = 16 * 1024
SECRET: Final = "hunter2-hunter2-hunter2-hunter2-hunter2-hunter2"
Line = tuple[str, str]


class Entry(NamedTuple):
    """One kind, ready to be asked."""

    authenticator: Authenticator
    good: tuple[Line, ...] = ()  # header lines that prove somebody
    garbage: tuple[tuple[Line, ...], ...] = ()  # each is refused, or is none of this kind's business
    huge: tuple[Line, ...] = ()
    doubled: tuple[Line, ...] = ()  # the good credential, and another
    elsewhere: tuple[Line, ...] = ()  # the good credential where this kind does not look
    secret: str = SECRET  # what must be shown nowhere
    certificate: dict[str, Any] | None = None  # of the connection, for the good one
    bad_certificates: tuple[dict[str, Any], ...] = ()

    def prove(self) -> RequestInfo:
        """A request with the good credential."""
        return request(*self.good, certificate=self.certificate)

    def bad(self) -> list[RequestInfo]:
        """Requests with garbage, far too much, and too many."""
        lines = [*self.garbage, *([self.huge] if self.huge else []), *([self.doubled] if self.doubled else [])]
        return [request(*some) for some in lines] + [request(certificate=one) for one in self.bad_certificates]


def request(*lines: Line, certificate: dict[str, Any] | None = None) -> RequestInfo:
    """A request with these header lines, on a TLS connection."""
    return values.info("/", *lines, host=HOST, certificate=certificate, tls=True)


def match(*accept: Kind) -> Match:
    """A route that accepts these kinds, in an app that the provider's sessions open."""
    route = Route("apps.app.routes[0]", "/", values.STAFF, accept=frozenset(accept))
    return Match(values.app("app", routes=(route,), providers=frozenset({"peer"})), route)


def authorization(*lines: str) -> tuple[Line, ...]:
    """``Authorization`` lines."""
    return tuple(("Authorization", line) for line in lines)


# --- the entries ---


async def session(stack: AsyncExitStack, app: UpstreamApp, folder: Path) -> Entry:
    """A browser that has signed in at a real provider."""
    stage = await build(stack, app, folder)
    await stage.sign_in()
    cookie = stage.session_cookie()
    name, _, sealed = cookie.partition("=")
    other = await another_browser(stack, stage)
    await stage.sign_in(browser=other)
    return Entry(
        stage.proxies[0].graph.session,
        good=(("Cookie", cookie),),
        garbage=tuple((("Cookie", f"{name}={value}"),) for value in ("", "x", SECRET, sealed[:-8], sealed + "AAAA")),
        huge=(("Cookie", f"{name}={'A' * HUGE}"),),
        doubled=(("Cookie", f"{cookie}; {stage.session_cookie(other)}"),),
        elsewhere=(("Cookie", f"x{cookie}"), *authorization(f"Bearer {sealed}")),
        secret=sealed,
    )


async def bearer(stack: AsyncExitStack, _app: UpstreamApp, _folder: Path) -> Entry:
    """A JWT of a real issuer."""
    peer = await stack.enter_async_context(OpenIDPeer())
    shape = schema.Issuer.model_validate({"issuer": peer.issuer, "audiences": ["authproxy"]})
    issuer = await stack.enter_async_context(Issuer("peer", shape, clock=peer.clock))
    jwt = peer.id_token()
    head, payload, signature = jwt.split(".")
    bad = (f"{head}.{payload}.", f"{head}.{payload}.{signature[:-4]}AAAA", f"{head}.e30.{signature}", "e30.e30.e30")
    return Entry(
        BearerAuthenticator([issuer], clock=peer.clock),
        good=authorization(f"Bearer {jwt}"),
        garbage=tuple(authorization(f"Bearer {one}") for one in bad),
        huge=authorization(f"Bearer {head}.{'A' * HUGE}.{signature}"),
        doubled=authorization(f"Bearer {jwt}", f"Bearer {jwt}"),
        elsewhere=authorization(f"Basic {jwt}"),
        secret=signature,
    )


async def token(_stack: AsyncExitStack, _app: UpstreamApp, _folder: Path) -> Entry:
    """A secret of the settings."""
    shape = schema.StaticToken(secrets=[SecretRef(value=SECRET)])
    return Entry(
        TokenAuthenticator({"read": shape}, throttle=throttle(Clock())),
        good=authorization(f"Bearer {SECRET}"),
        garbage=tuple(authorization(f"Bearer {one}") for one in ("", "x", SECRET[:-1], f"{SECRET} {SECRET}", "é\x7f")),
        huge=authorization(f"Bearer {SECRET * (HUGE // len(SECRET))}"),
        doubled=authorization(f"Bearer {SECRET}", f"Bearer {SECRET}"),
        elsewhere=authorization(f"Token {SECRET}", SECRET),
    )


async def basic(stack: AsyncExitStack, _app: UpstreamApp, folder: Path) -> Entry:
    """A name and a password."""
    users = folder / "htpasswd"
    users.write_text("ann:" + bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode())
    shape = schema.Basic(users=SecretRef(file=str(users)))  # type: ignore[arg-type]
    authenticator = BasicAuthenticator(shape, throttle=throttle(Clock()))
    stack.push_async_callback(authenticator.close)

    def pair(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    good = pair(f"ann:{SECRET}")
    return Entry(
        authenticator,
        good=authorization(good),
        garbage=tuple(map(authorization, ("Basic", "Basic !", pair("ann"), pair(f"{SECRET}:ann"), good + "x"))),
        huge=authorization(pair("ann:" + "x" * HUGE)),
        doubled=authorization(good, good),
        elsewhere=authorization(good.replace("Basic", "Bearer"), good.replace("Basic ", "")),
    )


async def certificate(_stack: AsyncExitStack, _app: UpstreamApp, _folder: Path) -> Entry:
    """What the listener says of a certificate; which ones it lets in is the listener's to show."""

    def shown(*cn: str) -> dict[str, Any]:
        return {"subject": tuple((("commonName", one),) for one in cn), "notAfter": "Jan  1 00:00:00 2099 GMT"}

    return Entry(
        CertificateAuthenticator(schema.Certificates(), clock=Clock()),
        certificate=shown("flux"),
        bad_certificates=(shown(), shown(""), shown("a\0b"), shown("x" * HUGE), shown("flux", "flux"), {"subject": ()}),
        elsewhere=(("X-Forwarded-Client-Cert", "CN=flux"), ("SSL-Client-S-DN", "CN=flux")),
    )


async def enrolled(_stack: AsyncExitStack, _app: UpstreamApp, _folder: Path) -> Entry:
    """What an enrolled machine was given."""
    replica = Replica(MemoryStore(), FakeClock())
    issued = replica.families.begin("agent", EU)
    head, payload, signature = issued.credential.split(".")
    bad = (
        f"{head}.{payload}.{signature[:-4]}AAAA",
        f"{head}.e30.{signature}",
        f"{head}.{payload}.",
        OLD,
        issued.renewal,
    )
    return Entry(
        replica.authenticator,
        good=authorization(f"Bearer {issued.credential}"),
        garbage=tuple(authorization(f"Bearer {one}") for one in bad),
        huge=authorization(f"Bearer {head}.{'A' * HUGE}.{signature}"),
        doubled=authorization(f"Bearer {issued.credential}", f"Bearer {issued.credential}"),
        elsewhere=authorization(f"Basic {issued.credential}", f"Bearer {SECRET}"),
        secret=signature,
    )


async def enrollment(_stack: AsyncExitStack, _app: UpstreamApp, _folder: Path) -> Entry:
    """An enrollment token of the settings, where the route takes it as it is."""
    replica = Replica(MemoryStore(), FakeClock())
    minted, renewal = (await replica.tokens.mint("agent", None)).text, replica.families.begin("agent", None).renewal
    bad = ("", "x", OPEN[:-1], f"{OPEN} {OPEN}", minted, renewal, "é\x7f", "e30.e30.e30")
    return Entry(
        EnrollmentAuthenticator(replica.tokens, throttle=throttle(Clock())),
        good=authorization(f"Bearer {OPEN}"),
        garbage=(*(authorization(f"Bearer {one}") for one in bad), (("X-Enrollment-Token", ""),)),
        huge=(("X-Enrollment-Token", OPEN * (HUGE // len(OPEN))),),
        doubled=(*authorization(f"Bearer {OPEN}"), ("X-Enrollment-Token", OPEN)),
        elsewhere=(*authorization(f"Basic {OPEN}", OPEN), ("X-Enrollment", OPEN)),
        secret=OPEN,
    )


Making = Callable[[AsyncExitStack, UpstreamApp, Path], Awaitable[Entry]]
KINDS: Final[dict[Kind, Making]] = {
    "session": session,
    "bearer": bearer,
    "token": token,
    "basic": basic,
    "certificate": certificate,
    "enrolled": enrolled,
    "enrollment": enrollment,
}
NOT_BUILT_YET: Final[set[str]] = set()
Maker = Callable[[Kind], Awaitable[Entry]]


@pytest.fixture
async def make(upstream_app: UpstreamApp, tmp_path: Path) -> AsyncIterator[Maker]:
    """Makes entries, which end with the test."""
    async with AsyncExitStack() as stack:
        yield lambda kind: KINDS[kind](stack, upstream_app, tmp_path)


@pytest.fixture(params=KINDS)
async def entry(request: pytest.FixtureRequest, make: Maker) -> Entry:
    """Each kind in turn."""
    return await make(request.param)


# --- the battery ---


def test_every_kind_is_here() -> None:
    """What the model knows passes this battery, or is named as missing."""
    assert set(KINDS) | NOT_BUILT_YET == set(ALL_KINDS)
    assert not set(KINDS) & NOT_BUILT_YET


async def test_the_good_credential_proves_somebody(entry: Entry) -> None:
    """The identity is of this kind, has a subject, and says that a credential was judged."""
    kind = entry.authenticator.kind
    assert entry.authenticator.presented(entry.prove())
    proved = await Chain([entry.authenticator]).authenticate(entry.prove(), match(kind))
    assert proved.identity.kind == kind
    assert proved.identity.subject
    assert proved.presented


async def told(asked: Proved | Awaitable[Proved] | None, fault: Refusal | None) -> object:
    """What a judgement came to, in words that can be compared."""
    try:
        proved = asked if isinstance(asked, Proved) else await asked if asked is not None else None
    except Refusal as no:
        fault = no
    if fault is not None:
        return type(fault), fault.code, fault.reason
    assert proved is not None
    return {name: getattr(proved.identity, name) for name in Identity.__slots__ if name != "facts"}, proved.presented


def judged(chain: Chain, info: RequestInfo, kind: Kind) -> tuple[Proved | Awaitable[Proved] | None, Refusal | None]:
    try:
        return chain.judge(info, match(kind)), None
    except Refusal as no:
        return None, no


async def test_waiting_changes_nothing(entry: Entry) -> None:
    """What is judged at once, from memory, is what was judged by waiting; what is refused is refused alike."""
    chain, kind = Chain([entry.authenticator]), entry.authenticator.kind
    first = await told(*judged(chain, entry.prove(), kind))
    good = judged(chain, entry.prove(), kind)
    assert await told(*good) == first
    if kind != "enrollment":  # whose tokens nobody remembers
        assert isinstance(good[0], Proved)  # proved once, it takes no waiting any more
    for info in entry.bad():
        at_once = await told(*judged(chain, info, kind))
        with pytest.raises(Refusal) as caught:
            await chain.authenticate(info, match(kind))
        assert at_once == (type(caught.value), caught.value.code, caught.value.reason)
    assert await told(*judged(chain, entry.prove(), kind)) == first


async def test_absent(entry: Entry) -> None:
    """Without a credential this kind has nothing to judge, and the chain says 401."""
    assert not entry.authenticator.presented(request())
    with pytest.raises(NotAuthenticated) as caught:
        await Chain([entry.authenticator]).authenticate(request(), match(entry.authenticator.kind))
    assert caught.value.code == "not_signed_in"


async def test_another_scheme(entry: Entry) -> None:
    """A good credential under another name or scheme is none."""
    assert not entry.authenticator.presented(request(*entry.elsewhere))


async def test_bad_ones_are_refused(entry: Entry) -> None:
    """Garbage, 16 KiB and duplicates end in a refusal with a code: 401, or 400 where it is ambiguous; nothing else."""
    assert len(entry.bad()) >= 5
    for info in entry.bad():
        with pytest.raises((NotAuthenticated, BadRequest)) as caught:
            await Chain([entry.authenticator]).authenticate(info, match(entry.authenticator.kind))
        assert caught.value.code
        assert caught.value.message.endswith(".")
        ambiguous = isinstance(caught.value, BadRequest)
        assert not ambiguous or caught.value.code == "several_credentials"


async def test_a_bad_one_changes_nothing(entry: Entry) -> None:
    """After all of them the good credential is as good as before."""
    chain, kind = Chain([entry.authenticator]), entry.authenticator.kind
    for info in entry.bad():
        with pytest.raises(Refusal):
            await chain.authenticate(info, match(kind))
    assert (await chain.authenticate(entry.prove(), match(kind))).identity.subject


async def test_it_is_asked_only_where_the_route_accepts_it(entry: Entry) -> None:
    """A good credential of a kind that the route does not take is no credential there."""
    others = tuple(kind for kind in ALL_KINDS if kind != entry.authenticator.kind)
    with pytest.raises(NotAuthenticated) as caught:
        await Chain([entry.authenticator]).authenticate(entry.prove(), match(*others))
    assert caught.value.code == "not_signed_in"


async def test_nothing_secret_is_shown(entry: Entry, caplog: pytest.LogCaptureFixture) -> None:
    """No repr, no refusal and no log line holds the credential."""
    caplog.set_level(logging.DEBUG, logger="authproxy")
    chain, kind = Chain([entry.authenticator]), entry.authenticator.kind
    said = [repr(entry.authenticator), repr(await chain.authenticate(entry.prove(), match(kind)))]
    for info in entry.bad():
        with pytest.raises(Refusal) as caught:
            await chain.authenticate(info, match(kind))
        said += [str(caught.value), repr(caught.value), caught.value.reason, caught.value.message, repr(info)]
    assert entry.secret not in "\n".join([*said, repr(entry.authenticator), caplog.text])


async def test_the_body_is_out_of_reach(entry: Entry) -> None:
    """An authenticator is given the request's head and its route, and neither leads to the body."""
    given = list(inspect.signature(entry.authenticator.judge).parameters)
    assert given == ["info", "match"]
    assert not {"body", "content", "read", "exchange"} & {*RequestInfo.__slots__, *Match._fields, *dir(Headers)}


@pytest.mark.parametrize(("one", "other"), [*combinations(KINDS, 2)])
async def test_two_kinds_at_once(make: Maker, one: Kind, other: Kind) -> None:
    """Two credentials that the route would take are 400, in either order, although each alone is good."""
    first, second = await make(one), await make(other)
    both = request(*first.good, *second.good, certificate=first.certificate or second.certificate)
    for order in ((first, second), (second, first)):
        with pytest.raises(BadRequest) as caught:
            await Chain(entry.authenticator for entry in order).authenticate(both, match(one, other))
        assert caught.value.code == "several_credentials"
