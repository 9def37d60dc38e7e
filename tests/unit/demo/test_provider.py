"""The demo's provider, spoken to over HTTP: the code flow with PKCE, rotation, reuse, and how sessions end."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import jwt
import pytest
from aiohttp import ClientSession, encode_basic_auth, web

from authproxy.demo.grants import Bounded
from authproxy.demo.people import PEOPLE, person, proved
from authproxy.demo.provider import ID_TOKEN_SECONDS, DemoProvider

NAME, SECRET = "client", "secret&more"
CLIENT = {"Authorization": encode_basic_auth(NAME, quote(SECRET, safe=""))}  # form-encoded: RFC 6749 section 2.3.1
BACK = "http://localhost:1/oauth2/callback/demo"
GOODBYE = "http://localhost:1/oauth2/signed_out"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "client_id": "client", "redirect_uri": BACK, "response_type": "code", "scope": "openid email offline_access",
    "state": "st&te", "nonce": "n0nce", "code_challenge": CHALLENGE, "code_challenge_method": "S256",
}  # fmt: skip


class Peer:
    """A client of a running provider, whose clock stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    async def __aenter__(self) -> Peer:
        self.runner = web.AppRunner(web.Application())
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        port = self.runner.addresses[0][1]
        await self.runner.cleanup()
        self.at = f"http://127.0.0.1:{port}"
        self.provider = DemoProvider(
            issuer=self.at, client_id=NAME, client_secret=SECRET, redirect_uris=frozenset({BACK}),
            goodbye_uris=frozenset({GOODBYE}), clock=lambda: self.now,
        )  # fmt: skip
        self.runner = web.AppRunner(self.provider.application())
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.http = ClientSession(self.at)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self.runner.cleanup()

    async def authorize(self, **changed: str) -> tuple[int, str, str]:
        """Status, Location and page of an authorization request."""
        query = {name: value for name, value in {**ASKED, **changed}.items() if value}
        async with self.http.get("/authorize", params=query, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def login(self, page: str, **fields: str) -> tuple[int, str, str]:
        """The same, for a login page that is sent."""
        found = re.search(r'name="request" value="([^"]+)"', page)
        assert found is not None, page
        async with self.http.post("/login", data={"request": found[1], **fields}, allow_redirects=False) as answer:
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def code(self) -> str:
        """A fresh code of alice's."""
        _, location, _ = await self.login((await self.authorize())[2], username="alice", password="wonderland")
        return answered(location)["code"]

    async def token(self, *, headers: dict[str, str] | None = None, **form: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the token endpoint."""
        async with self.http.post("/token", data=form, headers=CLIENT if headers is None else headers) as answer:
            return answer.status, await answer.json()

    async def redeem(self, code: str, verifier: str = VERIFIER) -> tuple[int, dict[str, Any]]:
        """Redeem a code."""
        return await self.token(grant_type="authorization_code", code=code, redirect_uri=BACK, code_verifier=verifier)

    async def renew(self, refresh_token: str) -> tuple[int, dict[str, Any]]:
        """Use a refresh token."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def userinfo(self, access_token: str) -> int:
        """Status of userinfo."""
        async with self.http.get("/userinfo", headers={"Authorization": f"Bearer {access_token}"}) as answer:
            return answer.status


def answered(location: str) -> dict[str, str]:
    """The parameters that came back, each once."""
    assert location.startswith(BACK + "?"), location
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query, strict_parsing=True).items()}


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A running provider."""
    async with Peer() as one:
        yield one


async def test_a_sign_in_brings_tokens_that_verify(peer: Peer) -> None:
    """Code flow to the end: state and issuer come back, the ID token verifies with the published key, and is short."""
    status, _, page = await peer.authorize()
    assert status == 200
    status, location, _ = await peer.login(page, username="alice", password="wonderland")
    assert status == 303
    back = answered(location)
    assert back["state"] == "st&te"
    assert back["iss"] == peer.at
    status, tokens = await peer.redeem(back["code"])
    assert status == 200
    async with peer.http.get("/keys") as answer:
        key = jwt.PyJWKSet.from_dict(await answer.json()).keys[0]
    claims = json.loads(jwt.PyJWS().decode(tokens["id_token"], key.key, algorithms=["RS256"]))
    assert jwt.get_unverified_header(tokens["id_token"])["kid"] == key.key_id
    assert claims["iss"] == peer.at
    assert claims["aud"] == "client"
    assert claims["nonce"] == "n0nce"
    assert claims["exp"] - claims["iat"] == ID_TOKEN_SECONDS
    assert (claims["sub"], claims["groups"]) == ("demo-7f3a1c-alice", ["staff", "admins"])


async def test_a_button_is_enough(peer: Peer) -> None:
    """The login page shows both people; one press signs in as one of them, and no password is on the page."""
    _, _, page = await peer.authorize()
    assert all(one.name in page and one.password not in page for one in PEOPLE)
    status, location, _ = await peer.login(page, **{"as": "bob"})
    assert status == 303
    _, tokens = await peer.redeem(answered(location)["code"])
    payload = tokens["id_token"].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "=="))["preferred_username"] == "bob"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "email"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_a_request_that_is_not_good_goes_back_with_its_error(
    peer: Peer, changed: dict[str, str], error: str
) -> None:
    """PKCE S256 is required; errors come back with the state."""
    status, location, _ = await peer.authorize(**changed)
    assert status == 303
    assert answered(location) == {"error": error, "state": "st&te", "iss": peer.at}


@pytest.mark.parametrize("changed", [{"client_id": "other"}, {"redirect_uri": BACK + "/"}, {"redirect_uri": ""}])
async def test_an_unknown_client_or_address_is_never_redirected_to(peer: Peer, changed: dict[str, str]) -> None:
    """RFC 9700 section 4.1.3: the address is compared character by character, and no redirect follows."""
    status, location, _ = await peer.authorize(**changed)
    assert (status, location) == (400, "")


async def test_a_code_needs_its_verifier(peer: Peer) -> None:
    """A stolen code is worth nothing without the verifier, and the attempt spends it."""
    code = await peer.code()
    assert await peer.redeem(code, "w" * 64) == (400, {"error": "invalid_grant"})
    assert (await peer.redeem(code))[0] == 400


async def test_a_code_works_once_and_its_reuse_ends_the_sign_in(peer: Peer) -> None:
    """RFC 6749 section 4.1.2: after a second use the tokens of the first are dead."""
    code = await peer.code()
    _, tokens = await peer.redeem(code)
    assert await peer.userinfo(tokens["access_token"]) == 200
    assert await peer.redeem(code) == (400, {"error": "invalid_grant"})
    assert await peer.userinfo(tokens["access_token"]) == 401
    assert (await peer.renew(tokens["refresh_token"]))[0] == 400


async def test_a_code_grows_old(peer: Peer) -> None:
    """A minute later it is refused."""
    code = await peer.code()
    peer.now += 61
    assert (await peer.redeem(code))[0] == 400


async def test_refresh_tokens_rotate(peer: Peer) -> None:
    """Each use gives another one; the new ID token is fresh, of the same sign-in, and repeats no nonce."""
    _, first = await peer.redeem(await peer.code())
    peer.now += 90
    status, second = await peer.renew(first["refresh_token"])
    assert status == 200
    assert second["refresh_token"] != first["refresh_token"]
    old, new = (peer.provider._key.claims_of(tokens["id_token"]) for tokens in (first, second))
    assert (new["sid"], new["auth_time"]) == (old["sid"], old["auth_time"])
    assert new["iat"] == int(peer.now)
    assert "nonce" not in new
    assert (await peer.renew(second["refresh_token"]))[0] == 200


async def test_reuse_of_a_refresh_token_ends_the_family(peer: Peer) -> None:
    """The old token comes again: it is refused, and so is the newest from then on."""
    _, first = await peer.redeem(await peer.code())
    _, second = await peer.renew(first["refresh_token"])
    assert await peer.renew(first["refresh_token"]) == (400, {"error": "invalid_grant"})
    assert await peer.renew(second["refresh_token"]) == (400, {"error": "invalid_grant"})
    assert await peer.userinfo(second["access_token"]) == 401


@pytest.mark.parametrize(
    "credentials", ["", encode_basic_auth(NAME, "wrong"), encode_basic_auth("other", SECRET), "Basic %"]
)
async def test_only_the_client_gets_tokens(peer: Peer, credentials: str) -> None:
    """A wrong or missing client secret is 401, whatever the grant."""
    status, answer = await peer.token(
        headers={"Authorization": credentials}, grant_type="authorization_code", code=await peer.code()
    )
    assert (status, answer) == (401, {"error": "invalid_client"})


async def test_the_secret_may_come_in_the_form(peer: Peer) -> None:
    """client_secret_post works too; an unknown grant is named."""
    status, answer = await peer.token(headers={}, client_id=NAME, client_secret=SECRET, grant_type="x")
    assert (status, answer) == (400, {"error": "unsupported_grant_type"})


async def test_the_password_grant(peer: Peer) -> None:
    """For a proxy with its own form: the right password brings tokens, a wrong one invalid_grant."""
    status, tokens = await peer.token(grant_type="password", username="bob", password="lighthouse", scope="openid")
    assert status == 200
    assert "refresh_token" not in tokens  # offline_access was not asked for
    status, answer = await peer.token(grant_type="password", username="bob", password="wonderland")
    assert (status, answer) == (400, {"error": "invalid_grant"})


async def test_a_wrong_password_asks_again(peer: Peer) -> None:
    """401 and the form, with the name that was typed, escaped; the sign-in may go on."""
    _, _, page = await peer.authorize()
    status, _, again = await peer.login(page, username='"><b>', password="no")
    assert status == 401
    assert "&#34;&gt;&lt;b&gt;" in again
    assert "<b>" not in again
    assert (await peer.login(again, username="alice", password="wonderland"))[0] == 303


async def test_cancel_goes_back(peer: Peer) -> None:
    """access_denied, with the state; the login page is spent."""
    _, _, page = await peer.authorize()
    _, location, _ = await peer.login(page, cancel="1")
    assert answered(location) == {"error": "access_denied", "state": "st&te", "iss": peer.at}
    assert (await peer.login(page, **{"as": "alice"}))[0] == 400


async def test_userinfo_tells_the_same(peer: Peer) -> None:
    """The claims of the person, for a live access token; 401 for another and for one that has expired."""
    _, tokens = await peer.redeem(await peer.code())
    async with peer.http.get("/userinfo", headers={"Authorization": f"Bearer {tokens['access_token']}"}) as answer:
        assert (await answer.json())["email"] == "alice@demo.example"
    assert await peer.userinfo("another") == 401
    peer.now += 121
    assert await peer.userinfo(tokens["access_token"]) == 401


async def test_a_revoked_token_ends_its_sign_in(peer: Peer) -> None:
    """RFC 7009: 200 also for an unknown token; a stranger may not revoke."""
    _, tokens = await peer.redeem(await peer.code())
    for headers, token, status in (({}, tokens["refresh_token"], 401), (CLIENT, "unknown", 200)):
        async with peer.http.post("/revoke", data={"token": token}, headers=headers) as answer:
            assert answer.status == status
    assert await peer.userinfo(tokens["access_token"]) == 200
    async with peer.http.post("/revoke", data={"token": tokens["refresh_token"]}, headers=CLIENT) as answer:
        assert answer.status == 200
    assert (await peer.renew(tokens["refresh_token"]))[0] == 400


async def test_the_end_of_a_session(peer: Peer) -> None:
    """The hint, though expired, ends its sign-in, and the browser goes back with the state."""
    _, tokens = await peer.redeem(await peer.code())
    peer.now += 3600
    query = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": GOODBYE, "state": "s"}
    async with peer.http.get("/end_session", params=query, allow_redirects=False) as answer:
        assert answer.headers["Location"] == f"{GOODBYE}?state=s"
    assert (await peer.renew(tokens["refresh_token"]))[0] == 400


@pytest.mark.parametrize("broken", [{"post_logout_redirect_uri": "https://evil.example"}, {"id_token_hint": "a.b.c"}])
async def test_no_redirect_after_sign_out_to_strangers(peer: Peer, broken: dict[str, str]) -> None:
    """An address that is not registered, or a hint that is not ours: a page, not a redirect."""
    _, tokens = await peer.redeem(await peer.code())
    query = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": GOODBYE, **broken}
    async with peer.http.get("/end_session", params=query, allow_redirects=False) as answer:
        assert answer.status == 200
        assert "You are signed out" in await answer.text()


async def test_discovery_names_what_there_is(peer: Peer) -> None:
    """Every endpoint that is published answers, with something else than 404."""
    async with peer.http.get("/.well-known/openid-configuration") as answer:
        published = await answer.json()
    assert published["issuer"] == peer.at
    for name, address in published.items():
        if name.endswith(("_endpoint", "_uri")):
            async with peer.http.get(urlsplit(address).path) as answer:
                assert answer.status != 404, name


async def test_static_files_and_front_page(peer: Peer) -> None:
    """The page says what it is; its style is there; nothing outside the folder is."""
    async with peer.http.get("/") as answer:
        assert "Demo ID" in await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for name, status in (
        ("provider.css", 200),
        ("none.css", 404),
        ("..%2Frun.py", 404),
        ("..%2Fstatic%2Fprovider.css", 404),
    ):
        async with peer.http.get(f"{peer.at}/static/{name}") as answer:
            assert answer.status == status, name


def test_memory_is_bounded() -> None:
    """Entries go after their time, and the oldest go when there are too many."""
    now = [0.0]
    kept: Bounded[int] = Bounded(lambda: now[0], seconds=10, most=3)
    names = [kept.add(number) for number in range(5)]
    assert len(kept) == 3
    assert [kept.get(name) for name in names] == [None, None, 2, 3, 4]
    assert (kept.pop(names[2]), kept.get(names[2])) == (2, None)
    now[0] = 10.0
    assert kept.get(names[4]) is None


def test_people_are_who_they_say() -> None:
    """A name in any case; the password exactly; nobody is anybody."""
    assert person(" Alice ") is PEOPLE[0]
    assert proved("bob", "lighthouse") is PEOPLE[1]
    assert proved("bob", "Lighthouse") is proved("nobody", "\0") is None
    assert "wonderland" not in repr(PEOPLE)
