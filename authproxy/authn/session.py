"""The browser session as a credential: a sealed cookie that opens a live session."""

from __future__ import annotations

from typing import Final

from authproxy.authn.chain import Proved
from authproxy.errors import NotAuthenticated, SessionEnded
from authproxy.model import Kind, Lifetime, Match, RequestInfo
from authproxy.sessions.cookie import SessionCookie
from authproxy.sessions.live import Carried, LiveView
from authproxy.signin.resume import Resumption


class SessionAuthenticator:
    """Kind ``session``."""

    kind: Kind = "session"

    def __init__(self, *, cookie: SessionCookie, resumption: Resumption, live: LiveView) -> None:
        self._cookie: Final = cookie
        self._resumption: Final = resumption
        self._live: Final = live

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries our cookie."""
        return bool(self._cookie.find(info.headers))

    async def authenticate(self, info: RequestInfo, match: Match | None) -> Proved:
        """The session's identity.  ``match`` None: for our own pages, which every provider's session opens."""
        carried = await self._carried(info)
        session = carried.session
        if match is not None and session.ticket.provider not in match.app.providers:
            raise NotAuthenticated(
                "other_provider", "Please sign in for this application.",
                reason=f"the session is of provider {session.ticket.provider}, which does not open this app",
            )  # fmt: skip
        return Proved(session.identity, self._resumption.cookies(carried))

    async def _carried(self, info: RequestInfo) -> Carried:
        """The one session that the cookies open; two that open two sessions mean that one was tossed in."""
        found = self._cookie.find(info.headers)
        if len(found) == 1:
            carried = self._resumption.at_once(found[0])
            if carried is not None:
                return carried
        opened: list[Carried] = []
        why = "no cookie"
        for sealed in found:
            try:
                opened.append(await self._resumption.resume(sealed))
            except SessionEnded as ended:
                why = str(ended)
        if len({carried.session.id for carried in opened}) != 1:
            reason = "several session cookies" if opened else why
            raise NotAuthenticated("not_signed_in", "You are not signed in.", reason=reason)
        return opened[0]

    def lifetime(self, session_id: str) -> Lifetime | None:
        """What cuts a tunnel of this session."""
        return self._live.by_id(session_id)
