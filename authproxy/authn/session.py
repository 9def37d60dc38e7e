"""The browser session as a credential: a sealed cookie that opens a live session."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from authproxy.authn.chain import Judging, Proved
from authproxy.errors import NotAuthenticated, SessionEnded
from authproxy.exchange import Lifetime
from authproxy.model import Kind, Match, RequestInfo
from authproxy.sessions.cookie import SessionCookie
from authproxy.sessions.live import Carried, LiveView
from authproxy.signin.resume import Resumption


class SessionAuthenticator(Judging):
    """Kind ``session``."""

    kind: Kind = "session"

    def __init__(self, *, cookie: SessionCookie, resumption: Resumption, live: LiveView) -> None:
        self._cookie: Final = cookie
        self._resumption: Final = resumption
        self._live: Final = live

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries our cookie."""
        return bool(self._cookie.find(info.headers))

    def judge(self, info: RequestInfo, match: Match | None) -> Proved | Awaitable[Proved]:
        """The session's identity.  ``match`` None: for our own pages, which every provider's session opens."""
        found = self._cookie.find(info.headers)
        if len(found) == 1:
            carried = self._resumption.at_once(found[0], info.host, info.headers.cookie_facts)
            if carried is not None:
                return self._proved(carried, match)
        return self._resumed(info, found, match)

    async def authenticate(self, info: RequestInfo, match: Match | None) -> Proved:
        """``judge``, awaited where that is needed."""
        found = self.judge(info, match)
        return found if isinstance(found, Proved) else await found

    def _proved(self, carried: Carried, match: Match | None) -> Proved:
        session = carried.session
        if match is not None and session.ticket.provider not in match.app.providers:
            raise NotAuthenticated(
                "other_provider", "Please sign in for this application.",
                reason=f"the session is of provider {session.ticket.provider}, which does not open this app",
            )  # fmt: skip
        return Proved(session.identity, self._resumption.cookies(carried))

    async def _resumed(self, info: RequestInfo, found: Sequence[str], match: Match | None) -> Proved:
        """The one session that the cookies open; two that open two sessions mean that one was tossed in."""
        opened: list[Carried] = []
        why = "no cookie"
        clear: tuple[str, ...] = ()
        for sealed in found:
            try:
                opened.append(await self._resumption.resume(sealed, info.host))
            except SessionEnded as ended:
                why = str(ended)
                if ended.final and len(found) == 1:
                    clear = self._resumption.clear(sealed, info.host, info.headers)
        if len({carried.session.id for carried in opened}) != 1:
            reason = "several session cookies" if opened else why
            raise NotAuthenticated("not_signed_in", "You are not signed in.", reason=reason, set_cookies=clear)
        return self._proved(opened[0], match)

    def lifetime(self, session_id: str) -> Lifetime | None:
        """What cuts a tunnel of this session."""
        return self._live.by_id(session_id)
