"""How an answer is worded: a refusal becomes a redirect, a page, JSON or a bare status, by what the client accepts.

The only room that turns a no into HTTP.  Every answer of ours carries the request id and ``Authproxy-Refusal: <code>``,
so that an operator can tell our no from the app's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, Protocol

from authproxy.edge.origin import Origins
from authproxy.errors import MethodNotAllowed, NotAuthenticated, Refusal, TooManyAttempts, Unavailable
from authproxy.model import Answer, HeaderList, Match, RequestInfo

_TITLES: Final = {
    400: "This request cannot be understood",
    401: "Please sign in",
    403: "You may not open this page",
    404: "There is nothing here",
    405: "This page cannot be used that way",
    413: "That was too much at once",
    501: "This is not served here",
    502: "The application cannot be reached",
    503: "Not available right now",
    504: "The application took too long",
}
_TITLES_BY_CODE: Final = {
    "csrf": "This form has expired",
    "no_provider": "Nobody can sign in here",
    "provider_busy": "Sign-in is busy right now",
    "provider_unreachable": "Sign-in is not available right now",
    "session_not_restorable": "Your session is waiting",
    **dict.fromkeys(
        (
            "duplicate_parameter", "invalid_id_token", "issuer_mismatch", "malformed_callback", "provider_mismatch",
            "provider_refused", "session_revoked", "state_missing", "state_unknown",
        ),
        "This sign-in cannot be finished",
    ),
}  # fmt: skip


def _title(refusal: Refusal) -> str:
    return _TITLES_BY_CODE.get(refusal.code) or _TITLES.get(refusal.status) or HTTPStatus(refusal.status).phrase


_MACHINES: Final = frozenset({"/enroll", "/enroll/renew", "/jwks", "/backchannel_logout"})


class ErrorPages(Protocol):
    """What this room needs of the pages for people."""

    def error(
        self, *, status: int, code: str, title: str, message: str, request_id: str, links: tuple[tuple[str, str], ...]
    ) -> bytes: ...

    def throttled(self, *, retry_after: int, request_id: str, back: str) -> bytes: ...


def is_navigation(info: RequestInfo) -> bool:
    """Whether a person's browser asks for a page: GET or HEAD, and it says so (CONTRACT section 3)."""
    return info.method in ("GET", "HEAD") and wants_page(info)


def wants_page(info: RequestInfo) -> bool:
    """Whether the client would rather see a page than JSON.  Fetch metadata beats ``Accept``."""
    mode = info.headers.text(b"sec-fetch-mode")
    if mode:
        return mode == "navigate"
    if info.headers.text(b"x-requested-with").lower() == "xmlhttprequest":
        return False
    return "text/html" in info.headers.text(b"accept").lower()


def is_prefetch(info: RequestInfo) -> bool:
    """Whether the browser only guesses that the person will go there."""
    return "prefetch" in info.headers.text(b"sec-purpose") or info.headers.text(b"purpose") == "prefetch"


class Answers:
    """Words refusals."""

    def __init__(self, *, pages: ErrorPages, origins: Origins, csp: str) -> None:
        self._pages: Final = pages
        self._origins: Final = origins
        self._csp: Final = csp.encode()

    def refuse(self, refusal: Refusal, info: RequestInfo, match: Match | None = None) -> Answer:
        """The answer for a refusal."""
        interactive = _interactive(match) and not self._for_machines(info)
        if isinstance(refusal, NotAuthenticated) and interactive and is_navigation(info) and not is_prefetch(info):
            return self._to_sign_in(refusal, info)
        if wants_page(info) and interactive:
            return self._page(refusal, info)
        return self._json(refusal, info, match, interactive=interactive)

    def _for_machines(self, info: RequestInfo) -> bool:
        """Whether no person opens this address of ours: its callers get JSON, whatever they say they accept."""
        return info.raw_path.removeprefix(self._origins.prefix) in _MACHINES

    def unread(self, refusal: Refusal, request_id: str) -> Answer:
        """For a request that could not even be read: nothing is known of what its sender would like."""
        headers = (*self._common(refusal, request_id), *self._specific(refusal, None))
        return _as_json(refusal, headers, {"request_id": request_id})

    def bare(self, refusal: Refusal, request_id: str, match: Match | None = None) -> Answer:
        """For nginx's ``auth_request``, which knows 2xx, 401 and 403 and takes anything else for a failure of ours."""
        status = 403 if 400 <= refusal.status < 500 and refusal.status != 401 else refusal.status
        return Answer(status, (*self._common(refusal, request_id), *self._specific(refusal, match)))

    def _common(self, refusal: Refusal, request_id: str) -> HeaderList:
        set_cookies = refusal.set_cookies if isinstance(refusal, NotAuthenticated) else ()
        return (
            (b"Authproxy-Refusal", refusal.code.encode()),
            (b"X-Request-Id", request_id.encode()),
            (b"Cache-Control", b"no-store"),
            (b"X-Content-Type-Options", b"nosniff"),
            *((b"Set-Cookie", cookie.encode()) for cookie in set_cookies),
        )

    @staticmethod
    def _specific(refusal: Refusal, match: Match | None) -> HeaderList:
        if isinstance(refusal, TooManyAttempts | Unavailable):
            return ((b"Retry-After", str(refusal.retry_after).encode()),)
        if isinstance(refusal, MethodNotAllowed):
            return ((b"Allow", ", ".join(refusal.allow).encode()),)
        if isinstance(refusal, NotAuthenticated):
            return tuple((b"WWW-Authenticate", challenge.encode()) for challenge in _challenges(refusal, match))
        return ()

    def _to_sign_in(self, refusal: NotAuthenticated, info: RequestInfo) -> Answer:
        location = self._origins.sign_in(info).encode()
        return Answer(302, (*self._common(refusal, info.request_id), (b"Location", location)))

    def _page(self, refusal: Refusal, info: RequestInfo) -> Answer:
        if isinstance(refusal, TooManyAttempts):
            body = self._pages.throttled(
                retry_after=refusal.retry_after, request_id=info.request_id, back=f"{self._origins.prefix}/sign_in"
            )
        else:
            body = self._pages.error(
                status=refusal.status, code=refusal.code, title=_title(refusal),
                message=refusal.message, request_id=info.request_id,
                links=self._links(refusal, info),
            )  # fmt: skip
        headers = (*self._common(refusal, info.request_id), *self._specific(refusal, None))
        return Answer(refusal.status, (*headers, *self.page_headers()), body)

    def _links(self, refusal: Refusal, info: RequestInfo) -> tuple[tuple[str, str], ...]:
        if refusal.code in {"no_app", "bad_host"}:
            return ()
        if info.raw_path.startswith(f"{self._origins.prefix}/"):
            return (("Sign in again", f"{self._origins.prefix}/sign_in"),)
        if refusal.status == HTTPStatus.FORBIDDEN:
            return (("Back to the start", "/"), ("Sign in as someone else", f"{self._origins.prefix}/sign_out"))
        return ()

    def page_headers(self) -> HeaderList:
        """What every page of ours is sent with (no referrer: callback addresses hold codes, RFC 9700 section 4.2)."""
        return (
            (b"Content-Type", b"text/html; charset=utf-8"),
            (b"Content-Security-Policy", self._csp),
            (b"Referrer-Policy", b"no-referrer"),
            (b"X-Frame-Options", b"DENY"),
        )

    def _json(self, refusal: Refusal, info: RequestInfo, match: Match | None, *, interactive: bool) -> Answer:
        content = {"request_id": info.request_id}
        if isinstance(refusal, NotAuthenticated) and interactive:
            content["sign_in"] = self._origins.page(info, "/sign_in")
        headers = (*self._common(refusal, info.request_id), *self._specific(refusal, match))
        if isinstance(refusal, NotAuthenticated) and match is None and not interactive and not refusal.token_error:
            headers = (*headers, (b"WWW-Authenticate", b"Bearer"))
        return _as_json(refusal, headers, content)


def _interactive(match: Match | None) -> bool:
    """Whether a person may be at the other end: the route takes sessions, or is not known."""
    return match is None or "session" in match.route.accept


def _challenges(refusal: NotAuthenticated, match: Match | None) -> Iterator[str]:
    """RFC 9110 section 11.6.1.  None for routes of people: a browser would ask for a password in a box of its own."""
    accept = frozenset[str]() if match is None or _interactive(match) else match.route.accept
    if refusal.token_error:
        yield f'Bearer error="{refusal.token_error}"'  # RFC 6750 section 3
    elif accept - {"basic"}:
        yield "Bearer"
    if "basic" in accept:
        yield 'Basic realm="authproxy", charset="UTF-8"'  # RFC 7617 section 2


def _as_json(refusal: Refusal, headers: HeaderList, content: dict[str, str]) -> Answer:
    said = {"error": refusal.code, "message": refusal.message, **content}
    return Answer(refusal.status, (*headers, (b"Content-Type", b"application/json")), json.dumps(said).encode() + b"\n")
