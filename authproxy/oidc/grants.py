"""What a token endpoint is asked, and what its answer means.

Pure: no network.  An answer is judged by its status first, because codes mislead: Dex says ``invalid_request`` with 400
for a refresh token that is dead, and with 500 for a database that is busy.  Whether a person is signed out hangs on
telling the two apart.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, NamedTuple, NoReturn
from urllib.parse import quote_plus

from authproxy.errors import GrantRefused, InvalidToken, ProviderError
from authproxy.jose import strictjson, verify

Grant = Literal["authorization_code", "refresh_token", "password"]

SIZE: Final = 256 * 1024
"""Largest answer that is judged, in bytes."""

_NOT_IN_A_CODE: Final = re.compile(r"[^A-Za-z0-9_.:-]")
_TOKEN: Final = re.compile(r"[\x20-\x7e]{1,65536}")  # 1*VSCHAR, which has the space: RFC 6749 appendix A.12
_REFRESH_TOKEN: Final = re.compile(r"[^\x00-\x1f\x7f]{1,65536}")  # opaque to us, and sent in a form alone
_LONGEST_WAIT: Final = 3600.0
_IMF_FIXDATE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [1-9][0-9]{3} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_REFUSING: Final = (400, 401, 403)  # RFC 6749 section 5.2 says 400 and 401; some providers answer 403
# access_denied: Dex, wrong password or a user who may not (any more).  The *_required family (OpenID Connect Core
# section 3.1.2.6): the provider wants to see the person, which no refresh can give it.
_FINAL: Final = frozenset(
    {"invalid_grant", "access_denied", "interaction_required", "login_required", "consent_required"}
)


class TokenAnswer(NamedTuple):
    """A token endpoint's yes (RFC 6749 section 5.1, OpenID Connect Core section 3.1.3.3).  "" stands for "left out"."""

    access_token: str
    id_token: str
    refresh_token: str
    expires_in: float | None  # seconds
    scope: str
    answered_at: float = 0.0  # `Date` of the answer, by the provider's clock, seconds since the epoch; 0 when unusable

    def __repr__(self) -> str:
        return f"<TokenAnswer scope {self.scope!r}>"


class AnswerUnproved(ProviderError):
    """A refresh was answered with 200, and what it brought cannot be used now: it is malformed, or no key proves it.

    Transient; but the old refresh token may be spent.  ``refresh_token`` is the one to try next, ``issued_at`` as in
    ``TokenSet``.
    """

    def __init__(self, message: str, *, refresh_token: str, issued_at: float = 0.0) -> None:
        super().__init__(message)
        self.refresh_token = refresh_token
        self.issued_at = issued_at


class AnswerInvalid(InvalidToken):
    """A refresh was answered with an ID token that must not be accepted.

    Final for the session.  The old refresh token may be spent; ``refresh_token`` and ``issued_at`` as in
    ``AnswerUnproved``: where a user's sessions share it, the others go on with it.
    """

    def __init__(self, error: InvalidToken, *, refresh_token: str, issued_at: float) -> None:
        super().__init__(error.code, str(error))
        self.refresh_token = refresh_token
        self.issued_at = issued_at


def classify(
    status: int, body: bytes, headers: Mapping[str, str], *, grant: Grant = "authorization_code"
) -> TokenAnswer:
    """The tokens of a good answer.

    Raises ``GrantRefused`` when the grant itself is dead or wrong, which is final, and ``ProviderError`` for everything
    else: the operator's mistakes (``invalid_client``), limits (429), outages and nonsense must not sign anybody out.
    """
    if 200 <= status < 300:
        return _granted(status, body, headers)
    if status == 429 or status >= 500:
        raise ProviderError(f"the token endpoint answered {status}", retry_after=retry_after(headers), status=status)
    if status in _REFUSING:
        _refused(status, body, grant)
    raise ProviderError(f"the token endpoint answered {status}", status=status)


def _granted(status: int, body: bytes, headers: Mapping[str, str]) -> TokenAnswer:
    """The tokens of a success.

    Whatever is wrong with it, the provider has acted: a refresh token in it has replaced the one that was sent, and is
    kept.  Raises ``AnswerUnproved`` with it, ``ProviderError`` when there is none that can be read.
    """
    try:
        if status != 200:
            raise ProviderError(f"the token endpoint answered {status}")
        return _tokens(_object(body))._replace(answered_at=answered_at(headers))
    except ProviderError as error:
        kept = _replacement(body)
        if not kept:
            raise
        raise AnswerUnproved(str(error), refresh_token=kept, issued_at=answered_at(headers)) from None


def _replacement(body: bytes) -> str:
    """The refresh token of an answer that is otherwise not understood; "" when none is readable.

    Members that come twice are refused elsewhere; here the last one counts, as in most JSON libraries.
    """
    try:
        found = json.loads(body[:SIZE])
    except (ValueError, RecursionError):
        return ""
    value = found.get("refresh_token") if isinstance(found, dict) else None
    return value if isinstance(value, str) and _REFRESH_TOKEN.fullmatch(value) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the provider said (RFC 9110 section 10.2.3: seconds or a date), an hour at most."""
    said = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), _LONGEST_WAIT)
    sent = next((value for name, value in headers.items() if name.lower() == "date"), "")
    moment, now = _moment(said), _moment(sent)  # both on the provider's own clock: ours may differ
    return min(max((moment - now).total_seconds(), 0.0), _LONGEST_WAIT) if moment and now else None


def answered_at(headers: Mapping[str, str]) -> float:
    """When the provider made an answer, by its own clock: its ``Date`` in seconds since the epoch, else 0.0.

    Unusable are two dates, a date in another form than IMF-fixdate (RFC 9110 section 5.6.7), and a date beside ``Age``:
    a cache sent that answer, some time after it was made (section 5.1 of RFC 9111).
    """
    dates = [value for name, value in headers.items() if name.lower() == "date"]
    if len(dates) != 1 or any(name.lower() == "age" for name in headers):
        return 0.0
    moment = _moment(dates[0]) if _IMF_FIXDATE.fullmatch(dates[0]) else None
    return max(moment.timestamp(), 0.0) if moment else 0.0


def issued_at(answer: TokenAnswer, algorithms: Collection[str]) -> float:
    """When an answer was issued, by the provider's clock: `iat` of its ID token, proved or not, else its `Date`.

    It orders the refresh tokens of answers, and is believed as the refresh token beside it is.
    """
    try:
        return verify.number(verify.unproved(answer.id_token, algorithms), "iat")
    except InvalidToken:
        return answer.answered_at


def client_form(client_id: str, secret: str | None, method: str) -> dict[str, str]:
    """The members of the form that say who we are; empty when a header says it."""
    if secret is None:
        return {"client_id": client_id}
    return {"client_id": client_id, "client_secret": secret} if method == "client_secret_post" else {}


def client_header(client_id: str, secret: str | None, method: str) -> dict[str, str]:
    """The header that says who we are (RFC 6749 section 2.3.1: each half is form-urlencoded first)."""
    if secret is None or method != "client_secret_basic":
        return {}
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")}


def clean_error(value: object) -> str:
    """An OAuth error code that is fit for logs: 64 harmless characters at most."""
    return _NOT_IN_A_CODE.sub("", value)[:64] if isinstance(value, str) else ""


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else None


def _refused(status: int, body: bytes, grant: Grant) -> NoReturn:
    try:
        error = clean_error(_object(body).get("error"))
    except ProviderError:
        error = ""
    if error in _FINAL or (grant == "refresh_token" and status == 400 and error == "invalid_request"):
        raise GrantRefused(error)
    raise ProviderError(f"the token endpoint answered {status} {error}".rstrip(), status=status)


def _object(body: bytes) -> dict[str, object]:
    if len(body) > SIZE:
        raise ProviderError(f"the token endpoint answered with more than {SIZE} bytes")
    try:
        return strictjson.load_object(body)
    except ValueError as error:
        raise ProviderError(f"the token endpoint's answer is {error}") from None


def _tokens(answer: dict[str, object]) -> TokenAnswer:
    if "error" in answer:
        raise ProviderError(f"the token endpoint answered 200 with the error {clean_error(answer['error'])}")
    kind = answer.get("token_type")
    if (
        not isinstance(kind, str) or kind.lower() != "bearer"
    ):  # RFC 6749 section 7.1: use no type that is not understood
        raise ProviderError("the token endpoint issued tokens of a type that is not Bearer")
    return TokenAnswer(
        access_token=_token(answer, "access_token", needed=True),
        id_token=_token(answer, "id_token"),
        refresh_token=_token(answer, "refresh_token", form=_REFRESH_TOKEN),
        expires_in=_seconds(answer.get("expires_in")),
        scope=scope if isinstance(scope := answer.get("scope"), str) else "",
    )


def _token(answer: dict[str, object], name: str, *, needed: bool = False, form: re.Pattern[str] = _TOKEN) -> str:
    value = answer.get(name)
    if value is None or value == "":
        if needed:
            raise ProviderError(f"the token endpoint's answer has no {name}")
        return ""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ProviderError(f"the token endpoint's {name} is not a token")
    return value


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():  # some providers quote it
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e10:
        return None
    return float(value)
