"""Where we are for the browser: the addresses of our own pages, as seen from a request.

Pure.  The scheme is the one of ``public_url``, whoever terminates TLS; the authority is the one that the browser used,
validated.  With a cookie domain, sign-in happens on ``public_url`` for all hosts of the domain.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

from authproxy.model import RequestInfo


class Origins:
    """Builds absolute addresses; every one of them is ours."""

    def __init__(self, *, public_url: str, prefix: str, cookie_domain: str | None) -> None:
        parts = urlsplit(public_url)
        self.scheme: Final = parts.scheme
        self.public: Final = f"{parts.scheme}://{parts.netloc.lower()}"
        self.public_host: Final = parts.hostname or ""
        self.public_port: Final = parts.port
        self.prefix: Final = prefix
        self._shared: Final = cookie_domain is not None
        self._domain: Final = (cookie_domain or "").lstrip(".").lower()

    def of(self, info: RequestInfo) -> str:
        """Scheme and authority under which the browser reached us."""
        return f"{self.scheme}://{info.authority}"

    def portal(self, info: RequestInfo) -> str:
        """Scheme and authority of the pages that sign this browser in."""
        under = info.host == self._domain or info.host.endswith("." + self._domain)
        return self.public if self._shared and under else self.of(info)

    def page(self, info: RequestInfo, name: str) -> str:
        """The absolute address of one of our pages: ``name`` is ``/sign_in`` and the like."""
        return f"{self.portal(info)}{self.prefix}{name}"

    def here(self, info: RequestInfo) -> str:
        """The request's own address as a return target: a path where that is unmistakable, else absolute."""
        absolute = self.portal(info) != self.of(info) or info.target.startswith("//")
        return f"{self.of(info)}{info.target}" if absolute else info.target

    def sign_in(self, info: RequestInfo) -> str:
        """Where to sign in, to come back to this very request."""
        return f"{self.page(info, '/sign_in')}?rd={quote(self.here(info), safe='')}"

    def callback(self, info: RequestInfo, provider: str) -> str:
        """The redirect URI of a provider: distinct for each, against mix-up (RFC 9700 section 4.4)."""
        return self.page(info, f"/callback/{quote(provider, safe='')}")
