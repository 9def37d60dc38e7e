"""The memory of a sign-in under way: one sealed cookie for each, so that several tabs can sign in at once.

The cookie binds ``state`` to the browser (RFC 9700 section 4.7); it is opened by the very state that it was made for,
and by nothing else.  Their number and their size are bounded: the newest stay.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from authproxy.model import Headers
from authproxy.sessions.cookie import Cookies
from authproxy.sessions.sealing import KeyRing, digest

LIFETIME: Final = 900  # seconds for a person to sign in at the provider
_MAX_COUNT: Final = 16
_MAX_BYTES: Final = 5000  # of all of them together: a request line and its cookies must fit common header limits
_PURPOSE: Final = "sign-in-state"
_SPENT: Final = "spent-state"
_TAG: Final = 10


class SignInState(NamedTuple):
    """What must be the same when the browser comes back."""

    created: float
    provider: str
    nonce: str
    verifier: str
    redirect_uri: str
    target: str

    def __repr__(self) -> str:
        return f"<SignInState of {self.provider}>"


class StateCookies:
    """Writes, finds and clears the cookies of sign-ins under way."""

    def __init__(self, cookies: Cookies, ring: KeyRing, *, cross_site: bool) -> None:
        self._cookies: Final = cookies
        self._ring: Final = ring
        self._same_site: Final = "None" if cross_site else "Lax"  # form_post comes as a cross-site POST

    @staticmethod
    def _suffix(state: str, created: float) -> str:
        # The time in the name lets the oldest be found without opening any.
        return f"_state_{int(created):x}_{digest('state', state)[:_TAG]}"

    def write(self, headers: Headers, state: str, content: SignInState) -> tuple[str, ...]:
        """Set-Cookie values: the new cookie, and the end of the oldest ones that it leaves no room for."""
        sealed = self._ring.seal(_PURPOSE, json.dumps(list(content), separators=(",", ":")).encode(), state)
        room, count = _MAX_BYTES - len(sealed), _MAX_COUNT - 1
        surplus: list[str] = []
        for suffix in sorted(self._cookies.suffixes(headers, "_state_"), reverse=True):
            room -= sum(len(value) for value in self._cookies.values(headers, suffix))
            count -= 1
            if room < 0 or count < 0:
                surplus.append(self._line(suffix, "", 0))
        return (*surplus, self._line(self._suffix(state, content.created), sealed, LIFETIME))

    def find(self, headers: Headers, state: str, *, now: float) -> tuple[SignInState, str] | None:
        """What was remembered for ``state`` and the suffix of its cookie; None when this browser did not begin it."""
        tag = "_" + digest("state", state)[:_TAG]
        for suffix in self._cookies.suffixes(headers, "_state_")[: 2 * _MAX_COUNT]:
            if not suffix.endswith(tag):
                continue
            for value in self._cookies.values(headers, suffix):
                plain = self._ring.open(_PURPOSE, value, state)
                if plain is not None:
                    content = SignInState(*json.loads(plain))
                    return (content, suffix) if now - content.created <= LIFETIME else None
        return None

    def clear(self, suffix: str) -> str:
        """The Set-Cookie value that ends one."""
        return self._line(suffix, "", 0)

    def seal_target(self, state: str, target: str) -> bytes:
        """The target for the store, which marks ``state`` as spent: only who knows the state can read it."""
        return self._ring.seal(_SPENT, target.encode(), state).encode("ascii")

    def open_target(self, state: str, sealed: bytes) -> str | None:
        """The inverse of ``seal_target``."""
        plain = self._ring.open(_SPENT, sealed.decode("ascii", "replace"), state)
        return plain.decode() if plain is not None else None

    def _line(self, suffix: str, value: str, max_age: int) -> str:
        return self._cookies.write(suffix, value, max_age=max_age, same_site=self._same_site)
