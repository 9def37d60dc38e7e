"""The end of a session: the one function that ends it on every replica.

The revocation comes first, so that nothing that fails afterwards keeps the session open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from authproxy.errors import StoreUnavailable
from authproxy.sessions.cookie import Ticket
from authproxy.sessions.marks import Mark, Marks
from authproxy.sessions.vault import Vault

Cause = Literal["signed_out", "replaced", "refused"]
"""Why: by its user, by a new sign-in of the same browser, or because the provider does not renew it."""

_MAX_REPLACED: Final = 10_000


class Termination:
    """``on_end`` gets every session that this process ends, with the cause and the reason for the audit record."""

    def __init__(self, *, marks: Marks, vault: Vault, on_end: Callable[[Ticket, Cause, str], None]) -> None:
        self._marks: Final = marks
        self._vault: Final = vault
        self._on_end: Final = on_end
        self._replaced: Final[OrderedDict[str, None]] = OrderedDict()

    async def end(self, ticket: Ticket, cause: Cause, reason: str) -> None:
        """Revoke the session, cut its tunnels, delete its record.

        Revoked means: refused here at once, and on every replica within a second while the store answers.
        """
        known = self._marks.revokes(ticket)
        if cause == "replaced":
            self._replaced[ticket.id] = None
            while len(self._replaced) > _MAX_REPLACED:
                self._replaced.popitem(last=False)
        if not known:
            await self._marks.add(Mark("session", ticket.id, ticket.absolute_end, ticket.absolute_end))
            self._on_end(ticket, cause, reason)
        with suppress(StoreUnavailable):
            await self._vault.forget(ticket)

    def is_replaced(self, ticket: Ticket) -> bool:
        """Whether a new sign-in of the same browser took the place of this session.

        The answer to a late request with the old cookie must then leave the browser's cookie alone: it is the new one.
        """
        return ticket.id in self._replaced

    def __repr__(self) -> str:
        return f"<Termination, {len(self._replaced)} replaced>"
