"""Session records and refresh tokens: the values, and the versioned forms in which the store holds them.

Every stored form has a version.  Unknown fields are ignored; an unknown version or garbage reads as absent.  The golden
samples of all versions that may still be read are in ``tests/golden/stored``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from authproxy.sessions.claims import read

VERSION: Final = 2
"""Version of the forms that are written."""
OVERLAP_SECONDS: Final = 30.0
"""How far apart two grants of one user may have been issued while it is still unknown which one the provider kept."""
_MAX_TOKENS: Final = 8
_MAX_FAMILIES: Final = 16
_MAX_TRIES: Final = 8

Rank = tuple[int, float]
"""How new a record of one session is: its generation, and with the same generation until when its proof holds."""


class RefreshToken(NamedTuple):
    """One refresh token and its place among the tokens of one user.

    Rotations of one sign-in are ordered by ``step``.  Tokens of different sign-ins are ordered by ``issued_at`` alone:
    the ``iat`` of the ID token in the same answer, else the answer's ``Date``, else 0.0 (unknown).
    """

    value: str
    family: str = ""  # the sign-in that the token descends from; "" for tokens of stored version 1
    step: int = 0  # rotations since that sign-in
    issued_at: float = 0.0  # seconds since the epoch, by the provider's clock

    def rotated(self, value: str, issued_at: float) -> RefreshToken:
        """The token that replaces this one; ``value`` is "" when the provider keeps the old one."""
        return RefreshToken(value or self.value, self.family, self.step + 1, issued_at)

    def replaces(self, other: RefreshToken) -> bool:
        """Whether ``other`` is surely invalid because this one was issued."""
        if self.family == other.family:
            return self.step > other.step
        return other.issued_at > 0.0 and self.issued_at > other.issued_at + OVERLAP_SECONDS

    def __repr__(self) -> str:
        return f"<RefreshToken of {self.family or '-'} step {self.step}, issued {self.issued_at:.0f}>"


def newest_first(tokens: Iterable[RefreshToken], known_steps: Mapping[str, int]) -> list[RefreshToken]:
    """The tokens that may be alive, the likeliest first; tokens that are known to be rotated are left out.

    ``known_steps`` is the highest step that is known of each family.  Tokens with an equal or unknown time of issue
    keep their order: only the provider can tell which of them is alive.
    """
    latest: dict[str, RefreshToken] = {}
    for token in tokens:
        held = latest.get(token.family)
        if token.value and token.step >= known_steps.get(token.family, 0) and (held is None or token.step > held.step):
            latest[token.family] = token
    return sorted(latest.values(), key=lambda token: -token.issued_at)


class SharedTokens(NamedTuple):
    """The refresh tokens of one user at a provider that keeps one for each user and client (Dex does).

    Usually one; several while it is unknown which sign-in the provider kept.
    """

    tokens: tuple[RefreshToken, ...] = ()
    steps: Mapping[str, int] = {}  # family -> highest step that is known
    tried: tuple[float, ...] = ()  # when tokens were tried after another one was refused

    def with_token(self, token: RefreshToken) -> SharedTokens:
        """Add ``token``: it replaces older steps of its family, and every token that its own issue made invalid."""
        if not token.value or token.step < self.steps.get(token.family, 0):
            return self
        kept = [held for held in self.tokens if held.family != token.family and held.value != token.value]
        tokens = sorted([token, *(held for held in kept if not token.replaces(held))], key=lambda held: -held.issued_at)
        steps = {**{name: step for name, step in self.steps.items() if name != token.family}, token.family: token.step}
        return SharedTokens(tuple(tokens[:_MAX_TOKENS]), dict(list(steps.items())[-_MAX_FAMILIES:]), self.tried)

    def without(self, value: str) -> SharedTokens:
        """Remove a token that the provider refused."""
        return self._replace(tokens=tuple(token for token in self.tokens if token.value != value))

    def with_try(self, now: float) -> SharedTokens:
        """Note that another token is tried at ``now``."""
        return self._replace(tried=(*self.tried, now)[-_MAX_TRIES:])

    def __repr__(self) -> str:
        return f"<SharedTokens {list(self.tokens)!r}>"


class Record(NamedTuple):
    """What the store holds of a session, encrypted under the secret that only the cookie carries."""

    generation: int  # orders the records and the cookies of this session
    token: RefreshToken
    id_token: str
    access_token: str
    claims: Mapping[str, object]
    expires_at: float  # of the ID token, by the provider's clock
    last_used: float
    refreshed_at: float  # by the provider's clock
    hint: str = ""  # the last ID token of this session's own ``sid``, where ``id_token`` has another one

    @property
    def rank(self) -> Rank:
        """The newer of two records of one session has the greater one."""
        return self.generation, self.expires_at

    def __repr__(self) -> str:
        return f"<Record generation {self.generation}, expires {self.expires_at:.0f}>"


def encode_record(record: Record) -> bytes:
    """The stored form of a record, before it is encrypted."""
    fields = {**record._asdict(), "claims": read(record.claims), "v": VERSION}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_record(plain: bytes) -> Record | None:
    """The record, or None for garbage and for versions that are not known."""
    found = parse(plain)
    if isinstance(found, list):  # version 1: a list without a version
        if len(found) != 8:
            return None
        names = ("generation", "refresh_token", *Record._fields[2:8])
        found = dict(zip(names, found, strict=True))
        found |= {"v": VERSION, "token": [found["refresh_token"], "", found["generation"], 0.0]}
    if not isinstance(found, dict) or found.get("v") != VERSION:
        return None
    token, checked = decode_token(found.get("token")), typed({"hint": "", **found}, _RECORD)
    return None if token is None or checked is None else Record(**{**checked, "token": token})


def encode_shared(shared: SharedTokens) -> bytes:
    """The stored form of a user's refresh tokens, before it is encrypted."""
    fields = {"v": VERSION, "tokens": shared.tokens, "steps": dict(shared.steps), "tried": shared.tried}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_shared(plain: bytes) -> SharedTokens | None:
    """The tokens, or None for garbage and for versions that are not known."""
    found = parse(plain)
    if isinstance(found, list):  # version 1: the generation and the one token
        one = decode_token([found[1], "", found[0], 0.0]) if len(found) == 2 else None
        return None if one is None else SharedTokens().with_token(one)
    if not isinstance(found, dict) or found.get("v") != VERSION:
        return None
    checked = typed(found, {"tokens": list, "steps": dict, "tried": list})
    if checked is None:
        return None
    tokens = [decode_token(token) for token in checked["tokens"]]
    steps = {name: step for name, step in checked["steps"].items() if type(step) is int}
    tried = [float(at) for at in checked["tried"] if type(at) in (int, float)]
    return SharedTokens(tuple(token for token in tokens if token)[:_MAX_TOKENS], steps, tuple(tried[-_MAX_TRIES:]))


def decode_token(fields: object) -> RefreshToken | None:
    """A refresh token from its stored form, ``[value, family, step, issued_at]``."""
    if not isinstance(fields, list) or len(fields) < 4:
        return None
    checked = typed(dict(zip(RefreshToken._fields, fields, strict=False)), _TOKEN)
    return None if checked is None else RefreshToken(**checked)


def parse(plain: bytes) -> object:
    """JSON, or None for anything else."""
    try:
        return json.loads(plain, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def typed(found: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any] | None:
    """The fields that ``types`` names, or None when one is missing or of another type.  Unknown fields are ignored."""
    checked = {name: found.get(name) for name in types}
    for name, kind in types.items():
        value = checked[name]
        if kind is float and type(value) is int:
            checked[name] = float(value)
        elif type(value) is not kind:
            return None
    return checked


def _refuse(constant: str) -> object:
    raise ValueError(constant)  # NaN and Infinity are not JSON (RFC 8259 section 6)


_TOKEN: Final = {"value": str, "family": str, "step": int, "issued_at": float}
_RECORD: Final = {
    "generation": int, "id_token": str, "access_token": str, "claims": dict, "expires_at": float, "last_used": float,
    "refreshed_at": float, "hint": str,
}  # fmt: skip
