"""Forward-auth: an ingress describes a request, and is told what the pipeline decides about it.

The description is believed only from trusted peers.  Tokens and the client's cookies are released only on the decisions
listener, or to a caller that shows the shared secret: through the public port a script in a page could read them.  What
memory can tell is answered in the call that read the asking request.  The room decides nothing: it knows who may ask,
not who may pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Final, Protocol

from authproxy import mutate
from authproxy.edge.pages import in_time, whole_body
from authproxy.edge.request_info import Source, TrustedProxies, described
from authproxy.errors import Refusal
from authproxy.exchange import Exchange
from authproxy.http1 import text
from authproxy.model import Answer, Fields, HeaderList, Identity, RequestInfo, Upstream
from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics

_SECRET: Final = b"x-authproxy-secret"


Verdict = tuple[int, HeaderList | Fields]
"""What an ingress is told: the status and the headers.  There is never a body."""


class Decide(Protocol):
    """What the pipeline says about a described request, or what has to be awaited for it.  It keeps the record."""

    def __call__(self, info: RequestInfo, *, success: int, release_tokens: bool) -> Verdict | Awaitable[Verdict]: ...


_TOLD: Final = {mode: object() for mode in ("none", "id_token", "access_token", "pass", "bearer")}


def ingress_fields(
    identity: Identity, upstream: Upstream | None, request_id: str, set_cookies: tuple[str, ...],
    cookies: bytes | None = None,
) -> Fields:  # fmt: skip
    """The headers of a positive answer to an ingress, as bytes.

    ``upstream`` is given what its mode asks for; None: no token.  ``cookies`` are the client's without ours, for the
    application; None: they are not sent.  Without new cookies most of the answer is kept with the identity.

    Raises Unavailable ``upstream_secret`` when the secret for mode ``bearer`` cannot be read.
    """
    mode = "none" if upstream is None else upstream.authorization
    if set_cookies or mode == "bearer":  # its secret may change at any time
        told = _ingress_octets(identity, upstream, set_cookies)
    else:
        facts = identity.facts
        if facts is None:
            facts = identity.facts = {}
        told = facts.get(_TOLD[mode]) or facts.setdefault(_TOLD[mode], _ingress_octets(identity, upstream, ()))
    released = b"" if cookies is None else b"X-Auth-Request-Cookie: %b\r\n" % cookies
    return Fields(b"%b%b\r\n%bCache-Control: no-store\r\n" % (told, request_id.encode(), released), False)


def _ingress_octets(identity: Identity, upstream: Upstream | None, set_cookies: tuple[str, ...]) -> bytes:
    cookies = tuple((b"Set-Cookie", cookie.encode()) for cookie in set_cookies)
    authorization = None if upstream is None else mutate.upstream_authorization(upstream, identity)
    last = () if authorization is None else ((b"Authorization", authorization),)
    return text.fields((*mutate.auth_request_headers(identity), *cookies, *last)) + b"X-Request-Id: "


class Decisions:
    """The endpoint that nginx asks: 2xx, 401 or 403; never a redirect.

    ``secret`` reads the one that an ingress shows to be given tokens, and raises LookupError while it cannot be read.
    """

    def __init__(
        self, *, decide: Decide, refuse: Callable[[Refusal, str], Answer], trusted: TrustedProxies, source: Source,
        success: int, secret: Callable[[], str] | None, public_scheme: str, private_listener: bool,
        audit: Audit, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._decide: Final = decide
        self._refuse: Final = refuse
        self._trusted: Final = trusted
        self._source: Final = source
        self._success: Final = success
        self._secret: Final = secret
        self._public_scheme: Final = public_scheme
        self._private: Final = private_listener
        self._audit: Final = audit
        self._metrics: Final = metrics

    def paths(self, prefix: str) -> frozenset[str]:
        """Where it is asked; on a listener of its own the prefix may be left out."""
        return frozenset({f"{prefix}/auth", "/auth"} if self._private else {f"{prefix}/auth"})

    def asked(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer whoever asks.  What has been answered when this returns needs no waiting; otherwise await the rest.

        A body means nothing here, but is read: what follows it on the connection is the next request.  Raises
        ``ClientGone``; waiting also ``BadRequest`` and ``ContentTooLarge`` for the body, ``Unavailable`` when it takes
        too long.
        """
        if exchange.body_length != 0:
            return in_time(self._asked_with_body(exchange))
        verdict = self._verdict(exchange.info)
        if isinstance(verdict, tuple):
            _say(exchange, verdict)
            return None
        return in_time(_say_later(exchange, verdict))

    async def _asked_with_body(self, exchange: Exchange) -> None:
        await whole_body(exchange)
        verdict = self._verdict(exchange.info)
        _say(exchange, verdict if isinstance(verdict, tuple) else await verdict)

    def _verdict(self, asking: RequestInfo) -> Verdict | Awaitable[Verdict]:
        try:
            info = described(
                asking, trusted=self._trusted, request_id=asking.request_id, public_scheme=self._public_scheme,
                source=self._source,
            )  # fmt: skip
        except Refusal as refusal:
            return self._not_believed(asking, refusal)
        release = self._private or self._shows_secret(asking)
        return self._decide(info, success=self._success, release_tokens=release)

    def _not_believed(self, asking: RequestInfo, refusal: Refusal) -> Verdict:
        """There is nothing to decide about: the record is of the asking."""
        answer = self._refuse(refusal, asking.request_id)
        self._metrics.exchange("", answer.status, 0.0, refusal.code)
        self._audit.record(
            "exchange", request_id=asking.request_id, client=asking.client, method=asking.method, host=asking.host,
            path=asking.raw_path, status=answer.status, code=refusal.code,
        )  # fmt: skip
        return answer.status, answer.headers

    def _shows_secret(self, asking: RequestInfo) -> bool:
        shown = asking.headers.all(_SECRET)
        if self._secret is None or len(shown) != 1:
            return False
        try:
            return compare_digest(shown[0], self._secret().encode())
        except LookupError:
            return False

    def __repr__(self) -> str:
        return f"<Decisions on {'a listener of their own' if self._private else 'the public listener'}>"


async def _say_later(exchange: Exchange, verdict: Awaitable[Verdict]) -> None:
    _say(exchange, await verdict)


def _say(exchange: Exchange, verdict: Verdict) -> None:
    # RFC 9110 section 8.6: a length is a claim about the GET that nobody makes of this address.
    length = None if exchange.info.method == "HEAD" else 0
    status, headers = verdict
    exchange.respond(status, headers, length=length, body=b"")
