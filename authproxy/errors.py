"""Every way to fail, as one tree.

``AuthproxyError`` -> ``SettingsError`` (collected, shown together), ``Refusal`` (a deliberate no, with its status, its
stable code and a sentence that is safe to show) and the failures of other parties, which a room turns into a
``Refusal`` where a request has to be answered.  No message here ever holds a credential.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, NamedTuple


class AuthproxyError(Exception):
    """The root: everything that this program raises on purpose."""


class Problem(NamedTuple):
    """One thing that is wrong, or doubtful, in the settings."""

    file: str
    line: int  # 1-based; 0 when the problem has no line (a missing file, an environment variable)
    path: str  # "apps.metrics.routes[1].polcy"
    message: str  # what is wrong and what to do
    warning: bool = False
    awaited: bool = False  # an error that does not keep us from starting: what is missing may yet be put there

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        kind = "warning: " if self.warning else ""
        return f"{place}: {kind}{self.path + ': ' if self.path else ''}{self.message}"


class SettingsError(AuthproxyError):
    """The settings cannot be used; holds every problem that was found, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class CannotStart(AuthproxyError):
    """What the settings name cannot be used after all; the message repeats no secret."""


class NotReady(AuthproxyError):
    """Something that the operator has to provide is missing; says what, by its place in the settings."""


class StoreUnavailable(AuthproxyError):
    """The shared store did not answer within its budget; nothing is known about the operation's effect."""


class StoreSlow(StoreUnavailable):
    """The shared store is connected and has not answered in time: it may be busy, and may have done what was asked."""


class ClientGone(AuthproxyError):
    """The client broke the connection off; there is nobody left to answer."""


class ProviderError(AuthproxyError):
    """An identity provider could not be asked, or answered nonsense.  Transient: says nothing about the user."""

    def __init__(self, message: str, *, retry_after: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, when the provider said so
        self.status = status  # of the provider's HTTP answer; 0 when there was none, or it was no failure by itself


class GrantRefused(AuthproxyError):
    """The provider refused the grant itself: wrong password, dead refresh token, spent code.  Final for that grant."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error  # the OAuth error code, cleaned


class InvalidToken(AuthproxyError):
    """A JWT does not hold what it must; ``code`` names the rule that it broke."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refusal(AuthproxyError):
    """A deliberate no.  ``edge.answer`` words it for the client; the audit record keeps ``code`` and ``reason``."""

    status: ClassVar[int] = 403
    code: str
    message: str  # one sentence, safe to show to anybody
    reason: str  # for the audit record alone; may name settings, never a secret

    def __init__(self, code: str, message: str, *, reason: str = "") -> None:
        super().__init__(f"{self.status} {code}: {reason or message}")
        self.code = code
        self.message = message
        self.reason = reason or message


class BadRequest(Refusal):
    """400: the request is malformed or ambiguous."""

    status = 400


class NotAuthenticated(Refusal):
    """401: no credential that this route accepts, or one that proves nothing.

    ``token_error`` is the RFC 6750 section 3.1 error code when a bearer credential was presented, else empty.
    """

    status = 401

    def __init__(
        self, code: str, message: str, *, reason: str = "", token_error: str = "", set_cookies: tuple[str, ...] = ()
    ) -> None:
        super().__init__(code, message, reason=reason)
        self.token_error = token_error
        self.set_cookies = set_cookies  # Set-Cookie values that delete the cookie of a session that has ended


class Forbidden(Refusal):
    """403: the caller is known and may not."""

    status = 403


class NotFound(Refusal):
    """404: no app, no route, no such page of ours."""

    status = 404


class MethodNotAllowed(Refusal):
    """405: the path exists, the method does not (RFC 9110 section 15.5.6)."""

    status = 405

    def __init__(self, code: str, message: str, *, allow: tuple[str, ...], reason: str = "") -> None:
        super().__init__(code, message, reason=reason)
        self.allow = allow


class ContentTooLarge(Refusal):
    """413: a body for one of our own pages is too large."""

    status = 413


class ExpectationFailed(Refusal):
    """417: an Expect that is not 100-continue (RFC 9110 section 15.5.18)."""

    status = 417


class HeadTooLarge(Refusal):
    """431: a request line or header lines beyond what is read (RFC 6585 section 5)."""

    status = 431


class TooManyAttempts(Refusal):
    """429: the throttle says wait.  ``retry_after`` is in whole seconds, at least 1."""

    status = 429

    def __init__(self, retry_after: int, *, reason: str = "") -> None:
        super().__init__("too_many_attempts", "Too many attempts. Please wait a moment and try again.", reason=reason)
        self.retry_after = retry_after


class NotImplementedHere(Refusal):
    """501: the method or transfer coding is not served (RFC 9110 section 15.6.2)."""

    status = 501


class UpstreamFailed(Refusal):
    """502: the upstream, or the identity provider in a sign-in, could not be reached or answered nonsense."""

    status = 502


class Unavailable(Refusal):
    """503: not ready, shutting down, or not to be decided now.  ``retry_after`` is in seconds, rounded up."""

    status = 503

    def __init__(self, code: str, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(code, message, reason=reason)
        self.retry_after = 5 if retry_after is None else max(ceil(retry_after), 1)


class UpstreamTimeout(Refusal):
    """504: the upstream did not answer in time."""

    status = 504


class VersionNotSupported(Refusal):
    """505: not HTTP/1.0 or HTTP/1.1."""

    status = 505


class SessionEnded(AuthproxyError):
    """A browser session is over: expired, signed out, or its refresh token is dead.

    ``final`` is False when this process cannot open the session and another one may: a key or a provider that is not
    configured here, a cookie of another host, a newer token that only another replica has.  Then nothing is revoked and
    the browser keeps its cookie.
    """

    def __init__(self, reason: str, *, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final
