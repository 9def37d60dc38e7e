"""Who is it: each credential kind is asked in turn, and exactly one may answer.

An authenticator only returns or raises; it never words an answer, and never sees the request body.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable
from typing import Final, Protocol, runtime_checkable

from authproxy.errors import BadRequest, NotAuthenticated
from authproxy.model import ANONYMOUS, Identity, Kind, Match, RequestInfo


class Proved:
    """Who the caller is, and what the answer must give the browser to carry from now on."""

    __slots__ = ("identity", "presented", "set_cookies")

    def __init__(self, identity: Identity, set_cookies: tuple[str, ...] = (), presented: bool = True) -> None:
        self.identity: Final = identity
        self.set_cookies: Final = set_cookies
        self.presented: Final = presented  # a credential was judged, so that it must not travel on


class Judging(ABC):
    """One judgement, for those who can wait and for those who cannot: both are the same ``judge``."""

    @abstractmethod
    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:
        """Judge what is presented, at once where memory alone can tell; otherwise what has to be awaited for it.

        Raises ``NotAuthenticated`` when it proves nothing.
        """

    async def authenticate(self, info: RequestInfo, match: Match) -> Proved:
        """``judge``, awaited where that is needed."""
        found = self.judge(info, match)
        return found if isinstance(found, Proved) else await found


class Authenticator(Protocol):
    """One credential kind."""

    @property
    def kind(self) -> Kind: ...

    def presented(self, info: RequestInfo) -> bool:
        """Whether the request carries a credential that this kind would have to judge."""

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:
        """As ``Judging.judge``."""


@runtime_checkable
class Yielding(Protocol):
    """One that would only refuse what is presented, and leaves it to a kind that knows it."""

    def yields(self, info: RequestInfo) -> bool:
        """Whether this is so for this request.  Asked only when another kind claims it as well."""


class Chain(Judging):
    """The kinds that this proxy knows."""

    def __init__(self, authenticators: Iterable[Authenticator]) -> None:
        self._authenticators: Final = tuple(authenticators)
        self._by_accept: Final[dict[frozenset[str], tuple[Authenticator, ...]]] = {}

    def _accepted(self, accept: frozenset[str]) -> tuple[Authenticator, ...]:
        # As many as the settings have routes, at most.
        return self._by_accept.setdefault(accept, tuple(a for a in self._authenticators if a.kind in accept))

    def judge(self, info: RequestInfo, match: Match) -> Proved | Awaitable[Proved]:
        """The caller of a request, by the kinds that its route accepts; what still has to be awaited, where it has.

        A public route asks for nothing.  Two credentials that would both have to be judged are refused: which one
        counts must never be a matter of order.
        """
        if match.route.policy.anonymous:
            return Proved(ANONYMOUS, presented=False)
        accepted = self._by_accept.get(match.route.accept) or self._accepted(match.route.accept)
        found = None
        for one in accepted:
            if one.presented(info):
                if found is not None:
                    return _only(accepted, info).judge(info, match)
                found = one
        if found is None:
            raise NotAuthenticated(
                "not_signed_in", "You are not signed in.", reason="no credential that the route accepts"
            )
        return found.judge(info, match)


def _only(accepted: Iterable[Authenticator], info: RequestInfo) -> Authenticator:
    """The one of several that are presented which does not yield to the others."""
    present = [one for one in accepted if one.presented(info)]
    left = [one for one in present if not (isinstance(one, Yielding) and one.yields(info))] or present
    if len(left) > 1:
        kinds = " and ".join(one.kind for one in left)
        raise BadRequest("several_credentials", f"The request carries more than one credential: {kinds}.")
    return left[0]
