"""The sealed cookie by which a browser is known again: for the throttle, never for access.

It names the browser, and the users that have signed in with it, so that a stranger who guesses passwords cannot lock a
user out of the browser that the user works with.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from authproxy.model import Headers
from authproxy.sessions.cookie import Cookies
from authproxy.sessions.sealing import KeyRing, digest, token

_PURPOSE: Final = "browser"
_LIFETIME: Final = 180 * 86400
_MAX_USERS: Final = 10


class Browser(NamedTuple):
    """A browser: ``known`` is False for one that carries no cookie of ours yet."""

    id: str
    users: tuple[str, ...] = ()
    known: bool = False

    def has_signed_in(self, name: str) -> bool:
        """Whether this user has signed in with this browser."""
        return digest("browser-user", self.id, name) in self.users

    def with_user(self, name: str) -> Browser:
        """The same browser, after this user signed in; the ten latest are kept."""
        mine = digest("browser-user", self.id, name)
        users = (*(user for user in self.users if user != mine), mine)
        return self._replace(users=users[-_MAX_USERS:])


class BrowserCookie:
    """Reads and writes it."""

    def __init__(self, cookies: Cookies, ring: KeyRing) -> None:
        self._cookies: Final = cookies
        self._ring: Final = ring

    def read(self, headers: Headers) -> Browser:
        """The browser of a request; a new one where it is not known."""
        for value in self._cookies.values(headers, "_browser")[:4]:
            plain = self._ring.open(_PURPOSE, value)
            if plain is not None:
                name, users = json.loads(plain)
                return Browser(name, tuple(users), known=True)
        return Browser(token(16))

    def write(self, browser: Browser) -> str:
        """A Set-Cookie value."""
        plain = json.dumps([browser.id, list(browser.users)], separators=(",", ":")).encode()
        return self._cookies.write("_browser", self._ring.seal(_PURPOSE, plain), max_age=_LIFETIME)
