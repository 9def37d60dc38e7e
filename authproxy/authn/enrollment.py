"""Enrollment tokens as credentials: the plain mode, for connectors that register with an app behind us themselves.

Judges shared tokens alone, and only where a route accepts this kind: there the token opens that one route, for a
cluster that the token allows.  Everywhere else ``authn.enrolled`` refuses it by name.  Nothing is issued here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from authproxy.authn import authorization
from authproxy.authn.chain import Judging, Proved
from authproxy.enrollment.tokens import EnrollmentTokens
from authproxy.errors import BadRequest, NotAuthenticated
from authproxy.model import Identity, Kind, Match, RequestInfo
from authproxy.throttle import Throttle, client_bucket

HEADER: Final = b"x-enrollment-token"
_BEARER: Final = b"bearer"


class EnrollmentAuthenticator(Judging):
    """Kind ``enrollment``: ``Authorization: Bearer`` or ``X-Enrollment-Token``, of which exactly one."""

    kind: Kind = "enrollment"

    def __init__(self, tokens: EnrollmentTokens, *, throttle: Throttle) -> None:
        self._tokens: Final = tokens
        self._throttle: Final = throttle

    def presented(self, info: RequestInfo) -> bool:
        """Whether there is the header, or a bearer credential but for JWTs: unknown ones count as attempts."""
        shown = authorization.of_scheme(info.headers, _BEARER)
        return HEADER in info.headers or any(self._knows(one) or not authorization.looks_like_jwt(one) for one in shown)

    def yields(self, info: RequestInfo) -> bool:
        """Whether it is a bearer credential that is no enrollment token: another kind may know it."""
        shown = authorization.of_scheme(info.headers, _BEARER)
        return HEADER not in info.headers and not any(self._knows(one) for one in shown)

    def _knows(self, credentials: bytes) -> bool:
        return self._tokens.knows(credentials.decode("latin-1"))

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:
        """The identity of the token, by its name in the settings; bound to the cluster that the path names.

        Raises BadRequest ``several_credentials``, NotAuthenticated ``enrollment_refused`` or
        ``enrollment_token_refused``, and TooManyAttempts when this client has tried too many bad ones.
        """
        presented = _the_only(info).decode("latin-1")
        try:
            owner = self._tokens.owner(presented, match.cluster)
        except NotAuthenticated as refused:
            return self._charged(info, refused)
        return Proved(Identity(kind="enrollment", subject=owner.name, user=owner.name, clusters=owner.clusters))

    async def _charged(self, info: RequestInfo, refused: NotAuthenticated) -> Proved:
        await self._throttle.charge(client_bucket(info.client))
        raise refused

    def problems(self) -> list[str]:
        """Which token cannot be used, by its place in the settings, and why."""
        return self._tokens.problems()

    def __repr__(self) -> str:
        return f"<EnrollmentAuthenticator {self._tokens!r}>"


def _the_only(info: RequestInfo) -> bytes:
    headers = info.headers.all(HEADER)
    if not headers:
        return authorization.the_only(info.headers, _BEARER)
    if len(headers) > 1 or authorization.of_scheme(info.headers, _BEARER):
        raise BadRequest("several_credentials", "The request carries more than one enrollment token.")
    return headers[0].strip(b" \t")
