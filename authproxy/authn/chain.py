"""Who is it: each credential kind is asked in turn, and exactly one may answer.

An authenticator only returns or raises; it never words an answer, and never sees the request body.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol, runtime_checkable

from authproxy.errors import BadRequest, NotAuthenticated
from authproxy.model import ANONYMOUS, Identity, Kind, Match, RequestInfo


class Proved(NamedTuple):
    """Who the caller is, and what the answer must give the browser to carry from now on."""

    identity: Identity
    set_cookies: tuple[str, ...] = ()
    presented: bool = True  # a credential was judged, so that it must not travel on


class Authenticator(Protocol):
    """One credential kind."""

    @property
    def kind(self) -> Kind: ...

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries a credential that this kind would have to judge."""

    async def authenticate(self, info: RequestInfo, match: Match) -> Proved:
        """Judge it.  Raises ``NotAuthenticated`` when it proves nothing."""


@runtime_checkable
class Yielding(Protocol):
    """One that would only refuse what is presented, and leaves it to a kind that knows it."""

    def yields(self, info: RequestInfo) -> bool:
        """Whether this is so for this request.  Asked only when another kind claims it as well."""


class Chain:
    """The kinds that this proxy knows."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators: Final = tuple(authenticators)

    async def authenticate(self, info: RequestInfo, match: Match) -> Proved:
        """The caller of a request, by the kinds that its route accepts.

        A public route asks for nothing.  Two credentials that would both have to be judged are refused: which one
        counts must never be a matter of order.
        """
        if match.route.policy.anonymous:
            return Proved(ANONYMOUS, presented=False)
        present = [a for a in self._authenticators if a.kind in match.route.accept and a.presented(info)]
        if len(present) > 1:
            present = [a for a in present if not (isinstance(a, Yielding) and a.yields(info))] or present
        if len(present) > 1:
            kinds = " and ".join(a.kind for a in present)
            raise BadRequest("several_credentials", f"The request carries more than one credential: {kinds}.")
        if not present:
            raise NotAuthenticated(
                "not_signed_in", "You are not signed in.", reason="no credential that the route accepts"
            )
        return await present[0].authenticate(info, match)
