"""The pages for people: values in, HTML bytes out.

This room knows how a page of ours looks and reads.  It must not know requests, sessions, settings or the clock: what a
page says is handed to it, and the routes send it with ``CSP`` and ``no-store``.  Pages work without script, hold no
inline script or style, and load nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

CSP: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every page.

``form-action`` is left out on purpose: Chromium applies it to the redirects that follow a POST (CSP3 section 6.4.1),
and a sign-in or a sign-out ends with a redirect to the provider or to the app.
"""

_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def _static() -> dict[str, tuple[str, bytes]]:
    folder = files("authproxy.portal") / "static"
    loaded = sorted((entry.name, entry.read_bytes()) for entry in folder.iterdir())
    kinds = {name: _CONTENT_TYPES.get(name[name.rfind(".") :]) for name, _ in loaded}
    return {name: (kind, content) for name, content in loaded if (kind := kinds[name])}


STATIC: Final[dict[str, tuple[str, bytes]]] = _static()
"""name -> (content type, bytes): what the routes serve below ``{prefix}/static/``, loaded once."""

_VERSION: Final = hashlib.sha256(b"".join(content for _, content in STATIC.values())).hexdigest()[:10]

_SAFE_HREF: Final = re.compile(r"(?:https?://|/(?![/\\]))[^\x00-\x20\x7f\\]*")


class Choice(NamedTuple):
    """One way to sign in: a provider, and where its button leads."""

    title: str  # what people call it
    href: str
    name: str  # the provider's name in the settings


class PasswordForm(NamedTuple):
    """Our own form, for a provider with ``password_login``.  Holds what was typed, never the password."""

    action: str
    provider: str
    title: str
    username: str
    csrf_token: str
    rd: str
    error: str  # a sentence, or empty

    def __repr__(self) -> str:  # the CSRF token is a secret of the browser session
        return f"<PasswordForm {self.provider!r}>"


class _Advice(NamedTuple):
    mark: str  # which drawing stands in the arch
    heading: str  # instead of the bare phrase of the status
    todo: str  # what the reader can do


_AGAIN: Final = "Try again in a moment. If it keeps happening, report the request ID below."
_ADVICE: Final[Mapping[int, _Advice]] = {
    400: _Advice(
        "lost",
        "This request cannot be understood",
        "Go back and open the page again from its start. A link or bookmark may be damaged or too old.",
    ),
    401: _Advice("closed", "Please sign in", "Sign in again, then repeat what you did."),
    403: _Advice(
        "closed",
        "You may not open this page",
        "If you should have access, send the request ID below to whoever looks after this service.",
    ),
    404: _Advice("lost", "Nothing is here", "Check the address for a typing mistake, or start from the front page."),
    405: _Advice(
        "lost",
        "That does not work here",
        "This address belongs to a form. Open the page that holds the form and send it again.",
    ),
    413: _Advice("lost", "That was too much at once", "Send less, then try again."),
    501: _Advice("lost", "That is not supported", "Go back and try another way."),
    502: _Advice("down", "The app does not answer", f"It is not your fault. {_AGAIN}"),
    503: _Advice("down", "Back in a moment", "It is not your fault. Please try again shortly."),
    504: _Advice("down", "The app takes too long", f"It is not your fault. {_AGAIN}"),
}
_PHRASES: Final = frozenset({"", *(status.phrase for status in HTTPStatus)})
_CLIENT_ADVICE: Final = _Advice(
    "lost", "That did not work", "Go back and try again. If it keeps happening, report the request ID below."
)
_SERVER_ADVICE: Final = _Advice("down", "Something went wrong here", _AGAIN)


def _advice(status: int) -> _Advice:
    return _ADVICE.get(status, _SERVER_ADVICE if status >= 500 else _CLIENT_ADVICE)


def _heading(status: int, title: str) -> str:
    """``title``, unless it is empty or the status's own phrase, which tells a person little."""
    return _advice(status).heading if title in _PHRASES else title


def safe_href(href: str) -> str:
    """``href`` when it is a path of this host or an http(s) URL, otherwise ``/``.

    The routes decide where a link may lead; this is the second lock, against ``javascript:``, ``//host``, and the
    tabs and line breaks that browsers drop from addresses (WHATWG URL section 4.4).
    """
    return href if _SAFE_HREF.fullmatch(href) else "/"


def duration(seconds: int) -> str:
    """``seconds`` in words: ``45 seconds``, ``2 minutes``, ``1 minute 5 seconds``."""
    minutes, rest = divmod(max(seconds, 0), 60)
    words = [_count(minutes, "minute")] if minutes else []
    return " ".join([*words, _count(rest, "second")] if rest or not minutes else words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("authproxy.portal", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["href"] = safe_href
    environment.filters["duration"] = duration
    return environment


class Pages:
    """Renders every page under one ``prefix``.  Methods return HTML in UTF-8."""

    def __init__(self, *, prefix: str) -> None:
        self._prefix: Final = prefix
        self._environment: Final = _environment()
        self._environment.globals["static"] = self._link

    def __repr__(self) -> str:
        return f"<Pages under {self._prefix}>"

    def sign_in(
        self, *, app_title: str, choices: Sequence[Choice], form: PasswordForm | None, notice: str = ""
    ) -> bytes:
        """The providers to choose from, our own form, or both.  ``notice`` is a sentence above them.

        The form posts ``username``, ``password``, ``csrf_token``, ``provider`` and ``rd``.
        """
        return self.render("sign_in.html", app_title=app_title, choices=choices, form=form, notice=notice)

    def error(
        self,
        *,
        status: int,
        code: str,
        title: str,
        message: str,
        request_id: str,
        links: Sequence[tuple[str, str]] = (),
    ) -> bytes:
        """A refusal in words: what happened, what to do, and the id under which the log knows it.

        ``title`` may be left empty for our own words.  ``links`` are (label, address); the first is the main button.
        Without links a 5xx page offers to try again.
        """
        return self.render(
            "error.html",
            status=status,
            code=code,
            title=_heading(status, title),
            message=message,
            request_id=request_id,
            links=links,
            advice=_advice(status),
        )

    def throttled(self, *, retry_after: int, request_id: str, back: str) -> bytes:
        """429: counts ``retry_after`` seconds down, then offers ``back``; without script the browser goes there."""
        return self.render("throttled.html", retry_after=max(retry_after, 1), request_id=request_id, back=back)

    def sign_out(self, *, action: str, csrf_token: str, user: str, rd: str, cancel: str = "/") -> bytes:
        """Asks first, since a link alone must not sign out: any page may hold one.  Posts ``csrf_token``, ``rd``."""
        return self.render("sign_out.html", action=action, csrf_token=csrf_token, user=user, rd=rd, cancel=cancel)

    def signed_out(self, *, sign_in: str) -> bytes:
        """The end of a session, and the way back."""
        return self.render("signed_out.html", sign_in=sign_in)

    def signed_in(self, *, target: str) -> bytes:
        """Goes on to ``target`` by itself, as a visit that this site began."""
        return self.render("signed_in.html", target=target)

    def render(self, template: str, **values: object) -> bytes:
        """Any template of this room, which extends ``base.html`` and may use the filters ``href`` and ``duration``."""
        return self._environment.get_template(template).render(**values).encode()

    def _link(self, name: str) -> str:
        return f"{self._prefix}/static/{name}?v={_VERSION}"  # the version lets browsers keep the files for long
