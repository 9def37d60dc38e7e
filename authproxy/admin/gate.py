"""Who may administer: a person on this machine, or one who knows the secret; never a page in somebody's browser.

It judges by the settings, the address that the operator wrote and the secret, and by the head of a request.  It does
not know which socket a request came through: another process of ours may have passed it on.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from authproxy.errors import BadRequest, Forbidden, NotAuthenticated
from authproxy.settings.fresh import Fresh
from authproxy.settings.schema import SecretRef
from authproxy.settings.secret_sources import weakness

_OF_BROWSERS: Final = ("Origin", "Sec-Fetch-Site")
_CLOSED: Final = (
    "Administration is closed: listen.admin is neither loopback nor a unix socket. Set listen.admin_secret, or bind"
    " listen.admin to 127.0.0.1."
)


class Gate:
    """``address`` and ``secret`` are ``listen.admin`` and ``listen.admin_secret`` as the operator wrote them.

    ``clock`` is monotonic seconds: a secret is looked for anew when its file changed.
    """

    def __init__(
        self, address: str, secret: SecretRef | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._host: Final = "" if address.startswith("unix:") else address.rpartition(":")[0].strip("[]").lower()
        self._private: Final = address.startswith("unix:") or _is_loopback(self._host)
        self._digest: Final = Fresh(secret, _digest, clock=clock) if secret else None

    def admit(self, request: web.Request) -> None:
        """Raises Forbidden, NotAuthenticated or BadRequest unless the request may administer.

        Whatever a browser says of itself refuses it (Fetch standard: a page cannot leave these headers out of a POST);
        so does a Host that a foreign name could have led here (DNS rebinding), and a body that a form could send.
        """
        if any(name in request.headers for name in _OF_BROWSERS):
            raise Forbidden("browser_refused", "Administration is not for browsers.")
        if not self._is_ours(request.headers.getall("Host", [])):
            raise Forbidden("host_refused", "Ask by the address of the admin listener, or as localhost.")
        if self._digest is not None:
            self._compare(self._digest, request.headers.getall("Authorization", []))
        elif not self._private:
            raise Forbidden("administration_closed", _CLOSED)
        if (request.method == "POST" or request.can_read_body) and request.content_type != "application/json":
            raise BadRequest("not_json", "This address takes application/json.")

    def _is_ours(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        host = _without_port(hosts[0]).lower()
        return host in ("localhost", self._host) or _is_address(host)

    @staticmethod
    def _compare(expected: Fresh[bytes], presented: list[str]) -> None:
        try:
            digest = expected()
        except (LookupError, ValueError) as error:
            raise Forbidden(
                "administration_closed", "Administration is closed: listen.admin_secret cannot be used.",
                reason=f"listen.admin_secret: {error.args[0]}",
            ) from None  # fmt: skip
        scheme, _, secret = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        given = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        if not hmac.compare_digest(given, digest) or scheme.lower() != "bearer":
            raise NotAuthenticated(
                "admin_secret_refused", "Send listen.admin_secret as Authorization: Bearer.",
                reason="wrong secret" if presented else "no secret",
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Gate {'private' if self._private else 'reachable'}, {'with' if self._digest else 'without'} secret>"


def _digest(text: str) -> bytes:
    if fault := weakness(text):
        raise ValueError(fault)
    return hashlib.sha256(text.encode()).digest()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
