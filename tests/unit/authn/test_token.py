"""Static tokens: who they are, how they rotate, and what is never kept of them."""

from __future__ import annotations

import base64
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from authproxy.authn.token import TokenAuthenticator
from authproxy.errors import BadRequest, NotAuthenticated, TooManyAttempts
from authproxy.model import Identity
from authproxy.settings.schema import StaticToken
from authproxy.settings.values import SecretRef
from tests.unit import values
from tests.unit.authn.requests import MATCH, Clock, bearer, throttle

READ = "a-read-token-of-more-than-thirty-two-characters"
WRITE = "a-write-token-of-more-than-thirty-two-characters"
OTHER = "another-token-of-more-than-thirty-two-characters"


def token(*secrets: SecretRef | str, scopes: tuple[str, ...] = (), clusters: list[str] | None = None) -> StaticToken:
    """An entry of ``tokens``; a plain text is a secret in the settings file."""
    refs = [SecretRef(value=secret) if isinstance(secret, str) else secret for secret in secrets]
    return StaticToken(secrets=refs, scopes=list(scopes), clusters=clusters)


def of_file(path: Path) -> SecretRef:
    """The secret in a file."""
    return SecretRef(file=str(path))  # type: ignore[arg-type]


def of(clock: Clock | None = None, client: int = 1000, **tokens: StaticToken) -> TokenAuthenticator:
    """An authenticator of ``tokens``."""
    clock = clock or Clock()
    return TokenAuthenticator(tokens, throttle=throttle(clock, client=client), clock=clock)


async def proved(authenticator: TokenAuthenticator, secret: str) -> Identity:
    """Who ``secret`` is."""
    return (await authenticator.authenticate(bearer(secret), MATCH)).identity


async def test_a_token_is_its_name_scopes_and_clusters() -> None:
    """The identity has the token's name for subject and user, its scopes, and no cluster bound unless it says so."""
    authenticator = of(read=token(READ, scopes=("read",)), eu=token(OTHER, scopes=("read",), clusters=["eu-1"]))
    free, bound = await proved(authenticator, READ), await proved(authenticator, OTHER)
    assert (free.kind, free.subject, free.user, free.scopes, free.clusters) == (
        "token", "read", "read", frozenset({"read"}), None,
    )  # fmt: skip
    assert (bound.user, bound.clusters) == ("eu", frozenset({"eu-1"}))


async def test_no_clusters_at_all_is_not_any_cluster() -> None:
    """``clusters: []`` binds a token to no cluster; it does not free it."""
    assert (await proved(of(none=token(READ, clusters=[])), READ)).clusters == frozenset()


async def test_several_secrets_of_one_name_are_all_valid() -> None:
    """While a secret rotates, the old one and the new one are the same token."""
    authenticator = of(read=token(READ, OTHER))
    assert (await proved(authenticator, READ)).user == (await proved(authenticator, OTHER)).user == "read"


async def test_one_secret_under_two_names_unites_their_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """CRUD_AUTH_TOKEN falls back to AUTH_TOKEN: then the one secret may do what either name may."""
    monkeypatch.setenv("AUTH_TOKEN", READ)
    monkeypatch.delenv("CRUD_AUTH_TOKEN", raising=False)
    read = token(SecretRef(env="AUTH_TOKEN"), scopes=("read",))
    write = token(SecretRef(env=["CRUD_AUTH_TOKEN", "AUTH_TOKEN"]), scopes=("write",))
    both = await proved(of(read=read, write=write), READ)
    assert (both.user, both.subject, both.scopes) == ("read+write", "read+write", frozenset({"read", "write"}))
    monkeypatch.setenv("CRUD_AUTH_TOKEN", WRITE)
    apart = of(read=read, write=write)
    assert (await proved(apart, READ)).scopes == frozenset({"read"})
    assert (await proved(apart, WRITE)).scopes == frozenset({"write"})


async def test_a_rotation_never_widens_the_clusters(tmp_path: Path) -> None:
    """Two names that come to share a secret open only the clusters that both may."""
    clock, file = Clock(), tmp_path / "secret"
    file.write_text(OTHER)
    free = of(clock, free=token(of_file(file)), eu=token(READ, clusters=["eu-1"]))
    both = of(clock, all=token(of_file(file), clusters=["eu-1", "us-1"]), eu=token(READ, clusters=["eu-1", "eu-2"]))
    file.write_text(READ)
    clock.now += 1
    assert (await proved(free, READ)).clusters == frozenset({"eu-1"})
    assert (await proved(both, READ)).clusters == frozenset({"eu-1"})


async def test_a_secret_rotates_without_a_restart(tmp_path: Path) -> None:
    """A second after its file changed the new secret is valid and the old one is not."""
    clock, file = Clock(), tmp_path / "secret"
    file.write_text(f"{READ}\n")
    authenticator = of(clock, read=token(of_file(file)))
    assert (await proved(authenticator, READ)).user == "read"
    file.write_text(f"{OTHER}\n")
    clock.now += 1
    assert (await proved(authenticator, OTHER)).user == "read"
    with pytest.raises(NotAuthenticated):
        await proved(authenticator, READ)


@pytest.mark.parametrize("spoil", ["gone", "empty", "too short", "the placeholder"])
async def test_a_file_that_is_spoilt_leaves_the_old_secret(tmp_path: Path, spoil: str) -> None:
    """A secret that vanished, or became unfit, keeps its last value, and the unfit one opens nothing."""
    clock, file = Clock(), tmp_path / "secret"
    file.write_text(READ)
    authenticator = of(clock, read=token(of_file(file)))
    bad = {"empty": "", "too short": "short", "the placeholder": "change-me-" * 5, "gone": "x"}[spoil]
    file.write_text(bad)
    if spoil == "gone":
        file.unlink()
    clock.now += 1
    assert (await proved(authenticator, READ)).user == "read"
    with pytest.raises(NotAuthenticated):
        await proved(authenticator, bad)


async def test_a_secret_that_never_was_opens_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The other tokens work, the log names the one that does not, and it works once its file is there."""
    clock, file = Clock(), tmp_path / "secret"
    authenticator = of(clock, late=token(of_file(file)), read=token(READ))
    assert (await proved(authenticator, READ)).user == "read"
    assert "tokens.late" in caplog.text
    file.write_text(OTHER)
    clock.now += 1
    assert (await proved(authenticator, OTHER)).user == "late"


@pytest.mark.parametrize("tried", ["", "x", READ[:-1], READ + "x", READ.upper(), f"{READ} x", f"{READ},{READ}", "é"])
async def test_anything_else_is_unknown(tried: str) -> None:
    """What is not a configured secret to the byte proves nothing, and RFC 6750 says how to say so."""
    with pytest.raises(NotAuthenticated) as caught:
        await proved(of(read=token(READ)), tried)
    assert (caught.value.code, caught.value.token_error) == ("unknown_token", "invalid_token")


def jwt(header: object = None) -> str:
    """Something with the outer form of a signed token."""
    text = json.dumps(header or {"alg": "ES256"})
    first = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    return f"{first}.e30.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZy1lbm91Z2g"


async def test_jwts_belong_to_the_bearer_kind_unless_one_is_configured() -> None:
    """A token that looks signed is not presented here, so that no request has two judges; a configured one is."""
    assert not of(read=token(READ)).presented(bearer(jwt()))
    authenticator = of(odd=token(jwt()))
    assert authenticator.presented(bearer(jwt()))
    assert (await proved(authenticator, jwt())).user == "odd"


@pytest.mark.parametrize("opaque", ["a.b.c", "eyJ", "eyJ.x", "..", "e30.a.b.c", "sk_live.part.part", ""])
def test_opaque_tokens_are_ours(opaque: str) -> None:
    """Dots alone make no JWT; neither does a JSON start without three parts."""
    assert of(read=token(READ)).presented(bearer(opaque))


@pytest.mark.parametrize("line", ["bearer {}", "BEARER {}", "Bearer   {}"])
async def test_the_scheme_is_read_as_http_says(line: str) -> None:
    """RFC 9110 section 11.4: any case, one or more spaces."""
    info = values.info("/", ("Authorization", line.format(READ)))
    authenticator = of(read=token(READ))
    assert authenticator.presented(info)
    assert (await authenticator.authenticate(info, MATCH)).identity.user == "read"


@pytest.mark.parametrize("line", ["Basic eDp5", "Bearerx", "Bear er", "", READ])
def test_other_schemes_are_not_ours(line: str) -> None:
    """Another scheme, or none, is not presented."""
    assert not of(read=token(READ)).presented(values.info("/", ("Authorization", line)))


async def test_a_second_authorization_header_is_refused() -> None:
    """Two lines are refused even when both hold the same good token, or the other is of another scheme."""
    authenticator = of(read=token(READ))
    other = values.info("/", ("Authorization", f"Bearer {READ}"), ("authorization", "Negotiate abc"))
    for info in (bearer(READ, READ), other):
        with pytest.raises(BadRequest) as caught:
            await authenticator.authenticate(info, MATCH)
        assert caught.value.code == "several_credentials"


async def test_unknown_tokens_are_counted_by_client() -> None:
    """After so many unknown tokens a client is told to wait; known ones are not counted and go on."""
    authenticator = of(client=3, read=token(READ))
    for _ in range(3):
        with pytest.raises(NotAuthenticated):
            await proved(authenticator, OTHER)
    with pytest.raises(TooManyAttempts):
        await proved(authenticator, OTHER)
    assert (await proved(authenticator, READ)).user == "read"


def _texts(root: Any) -> set[str]:
    """Every text that ``root`` leads to."""
    seen: set[int] = set()
    found: set[str] = set()
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function", "Logger"):
            continue
        seen.add(id(one))
        if isinstance(one, str | bytes):
            found.add(one if isinstance(one, str) else one.decode("latin-1"))
        todo += gc.get_referents(one)
    return found


async def test_digests_alone_stay_in_memory(tmp_path: Path) -> None:
    """What a file said is not kept: nothing that the authenticator leads to holds the secret."""
    file = tmp_path / "secret"
    file.write_text(READ)
    authenticator = of(read=token(of_file(file)))
    assert (await proved(authenticator, READ)).user == "read"
    texts = _texts(authenticator)
    assert "read" in texts
    assert not any(READ in text for text in texts)
    assert READ not in repr(authenticator)
