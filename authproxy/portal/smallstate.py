"""The portal's own small state, by aiohttp-session: a CSRF token, a sentence to show once, where to go after sign-out.

It is sealed into a host-only cookie of its own.  Sign-in sessions never live here (they have records, ends and marks).
"""

from __future__ import annotations

import json
import warnings
from hmac import compare_digest
from typing import Final

from aiohttp import web
from aiohttp_session import AbstractStorage, Session, get_session

from authproxy.errors import Forbidden
from authproxy.model import Headers
from authproxy.sessions.cookie import Cookies
from authproxy.sessions.sealing import KeyRing, token

# aiohttp-session keeps what it holds under plain strings; operators need not read that in their logs.
warnings.filterwarnings("ignore", category=web.NotAppKeyWarning)

_PURPOSE: Final = "portal-state"
_SUFFIX: Final = "_portal"
_MAX_AGE: Final = 86400


class SealedStorage(AbstractStorage):
    """Keeps the session's mapping in the cookie itself."""

    def __init__(self, cookies: Cookies, ring: KeyRing) -> None:
        super().__init__(max_age=_MAX_AGE)
        self._cookies: Final = cookies
        self._ring: Final = ring

    async def load_session(self, request: web.Request) -> Session:
        """The state that the request carries; an empty one when it carries none that opens."""
        for value in self._cookies.values(Headers(request.raw_headers), _SUFFIX)[:4]:
            plain = self._ring.open(_PURPOSE, value)
            if plain is not None:
                return Session(None, data=json.loads(plain), new=False, max_age=self.max_age)
        return Session(None, data=None, new=True, max_age=self.max_age)

    async def save_session(self, request: web.Request, response: web.StreamResponse, session: Session) -> None:  # noqa: ARG002 -- the base class's signature
        """Seal what changed into the answer's cookie."""
        plain = json.dumps(self._get_session_data(session)).encode()
        line = self._cookies.write(_SUFFIX, self._ring.seal(_PURPOSE, plain), max_age=_MAX_AGE)
        response.headers.add("Set-Cookie", line)


async def csrf_token(request: web.Request) -> str:
    """The token that forms of this browser carry."""
    state = await get_session(request)
    if "csrf" not in state:
        state["csrf"] = token(24)
    return str(state["csrf"])


async def check_csrf(request: web.Request, presented: str) -> None:
    """Raise ``Forbidden`` unless the form came from a page that we gave this very browser."""
    state = await get_session(request)
    expected = state.get("csrf", "")
    if not expected or not compare_digest(str(expected).encode(), presented.encode("utf-8", "surrogatepass")):
        raise Forbidden("csrf", "This form has expired. Please open the page again and send it once more.")


async def remember(request: web.Request, name: str, value: str) -> None:
    """Keep a text for the next pages."""
    (await get_session(request))[name] = value


async def recall(request: web.Request, name: str) -> str:
    """A kept text, which is then forgotten; empty when there is none."""
    state = await get_session(request)
    if name not in state:
        return ""
    value = str(state[name])
    del state[name]
    return value
