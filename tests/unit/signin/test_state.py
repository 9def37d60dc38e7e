"""Sign-in state and the browser cookie: bound, bounded, and of no use to another browser."""

from __future__ import annotations

import os

import pytest

from authproxy.model import Headers
from authproxy.sessions.cookie import Cookies
from authproxy.sessions.sealing import KeyRing, token
from authproxy.settings.schema import Cookie
from authproxy.signin.browser import Browser, BrowserCookie
from authproxy.signin.state import LIFETIME, SignInState, StateCookies

RING = KeyRing([os.urandom(32)])
COOKIES = Cookies(Cookie(), secure=True)


def a_state(created: float = 1000.0, target: str = "/deep") -> SignInState:
    """A sign-in that began at ``created``."""
    return SignInState(created, "dex", "nonce", "verifier", "https://app/cb", target)


class Jar:
    """A browser's cookies."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def take(self, lines: tuple[str, ...]) -> None:
        """Obey Set-Cookie lines."""
        for line in lines:
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    @property
    def headers(self) -> Headers:
        """What it sends."""
        return Headers([(b"Cookie", "; ".join(f"{n}={v}" for n, v in self.cookies.items()).encode())])


def test_b12_several_tabs_find_their_own_state() -> None:
    """Sign-ins begun one after another in one browser are all found, each by its own state."""
    states, jar = StateCookies(COOKIES, RING, cross_site=False), Jar()
    begun = {token(): f"/tab/{number}" for number in range(6)}
    for number, (state, target) in enumerate(begun.items()):
        jar.take(states.write(jar.headers, state, a_state(1000.0 + number, target)))
    for state, target in begun.items():
        found = states.find(jar.headers, state, now=1010.0)
        assert found is not None
        assert found[0].target == target


def test_b12_state_cookies_are_bounded_and_the_newest_stay() -> None:
    """However often sign-in is begun, the cookies stay under a bound, and the latest one works."""
    states, jar = StateCookies(COOKIES, RING, cross_site=False), Jar()
    last = ""
    for number in range(60):
        last = token()
        jar.take(states.write(jar.headers, last, a_state(1000.0 + number, "/" + "x" * (number * 30))))
        assert len(jar.cookies) <= 16
        assert sum(map(len, jar.cookies.values())) <= 5000
    assert states.find(jar.headers, last, now=1060.0) is not None


def test_b4_another_browser_and_another_state_find_nothing() -> None:
    """Without the cookie, with another state, or with a cookie renamed to fit, there is no sign-in to finish."""
    states, jar = StateCookies(COOKIES, RING, cross_site=False), Jar()
    mine, other = token(), token()
    jar.take(states.write(jar.headers, mine, a_state()))
    assert states.find(Headers(), mine, now=1001.0) is None
    assert states.find(jar.headers, other, now=1001.0) is None
    other_jar = Jar()
    other_jar.take(states.write(other_jar.headers, other, a_state()))
    (name,), (value,) = other_jar.cookies.keys(), jar.cookies.values()
    other_jar.cookies[name] = value  # my cookie under the name that fits the other state
    assert states.find(other_jar.headers, other, now=1001.0) is None


def test_b3_a_state_expires() -> None:
    """After a quarter of an hour the sign-in has to be begun again."""
    states, jar = StateCookies(COOKIES, RING, cross_site=False), Jar()
    state = token()
    jar.take(states.write(jar.headers, state, a_state()))
    assert states.find(jar.headers, state, now=1000.0 + LIFETIME) is not None
    assert states.find(jar.headers, state, now=1001.0 + LIFETIME) is None


@pytest.mark.parametrize(("cross_site", "expected"), [(False, "SameSite=Lax"), (True, "SameSite=None")])
def test_form_post_needs_a_cross_site_cookie(cross_site: bool, expected: str) -> None:
    """An answer that comes as a cross-site POST brings only ``SameSite=None`` cookies along."""
    states = StateCookies(COOKIES, RING, cross_site=cross_site)
    (line,) = states.write(Headers(), token(), a_state())
    assert expected in line
    assert line.startswith("__Host-authproxy_state_")


def test_a_spent_state_keeps_its_target_from_others() -> None:
    """What the store remembers of a spent state is read only by who knows the state."""
    states = StateCookies(COOKIES, RING, cross_site=False)
    sealed = states.seal_target("the-state", "/private?x=1")
    assert b"private" not in sealed
    assert states.open_target("the-state", sealed) == "/private?x=1"
    assert states.open_target("another", sealed) is None


def test_a_browser_is_known_again_and_remembers_its_users() -> None:
    """The cookie names the browser and, by digest, the ten latest users."""
    cookie, jar = BrowserCookie(COOKIES, RING), Jar()
    fresh = cookie.read(Headers())
    assert not fresh.known
    browser = fresh
    for number in range(12):
        browser = browser.with_user(f"user-{number}")
    jar.take((cookie.write(browser),))
    again = cookie.read(jar.headers)
    assert again.known
    assert again.id == fresh.id
    assert again.has_signed_in("user-11")
    assert not again.has_signed_in("user-0")
    assert len(again.users) == 10


def test_a_made_up_browser_cookie_is_a_new_browser() -> None:
    """A cookie that we did not seal gives no name that somebody chose."""
    cookie = BrowserCookie(COOKIES, RING)
    tossed = Headers([(b"cookie", b"__Host-authproxy_browser=chosen")])
    assert not cookie.read(tossed).known


def test_another_browsers_user_list_is_of_no_use() -> None:
    """The digests are bound to the browser's id."""
    assert not Browser("a").with_user("u")._replace(id="b").has_signed_in("u")
