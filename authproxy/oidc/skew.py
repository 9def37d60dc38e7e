"""How far a provider's clock is from ours, by the ``Date`` of its token endpoint's answers.

Tokens carry the provider's time.  Where the clocks differ, a token that is good by ours has expired for applications,
or the other way round.  The skew moves renewals, and the judgement of ID tokens that come straight from the token
endpoint.  It is never used for a token that a client brings.
"""

from __future__ import annotations

import logging
from typing import Final

log = logging.getLogger("authproxy.oidc")

LONGEST: Final = 300.0
"""Largest skew that is believed, in seconds either way."""
NOTED: Final = 30.0
"""Seconds of skew from which on the log says so."""
_SMALL: Final = 2.0  # seconds; a smaller difference is none


class ClockSkew:
    """The skew of one provider; ``seconds`` is added to our clock to get the provider's."""

    def __init__(self, provider: str) -> None:
        self._provider: Final = provider
        self._noted = ""
        self.seconds = 0.0

    def learn(self, dated: float, *, sent: float, received: float) -> None:
        """Take in an answer's ``dated``, 0 when unusable; by our clock it was made between ``sent`` and ``received``.

        A date has whole seconds, and the answer was under way: together they leave an interval of skews that are
        possible.  The skew stays while it lies there, or close by.  Otherwise the middle replaces it at once, since a
        clock that was set moves at once.  An interval beyond ``LONGEST`` is ignored: a clock so wrong measures nothing.
        """
        if not dated or received < sent:  # our clock was set back meanwhile
            return
        low, high = dated - received, dated + 1.0 - sent
        if low > LONGEST or high < -LONGEST:
            self._note("its clock and ours are more than 5 minutes apart, which is ignored: set the clocks")
            return
        if not low - _SMALL <= self.seconds <= high + _SMALL:
            middle = min(max((low + high) / 2, -LONGEST), LONGEST)
            self.seconds = 0.0 if abs(middle) < _SMALL else middle
        if abs(self.seconds) > NOTED:
            side = "ahead of" if self.seconds > 0 else "behind"
            self._note(f"its clock is {side} ours by more than {NOTED:.0f} s; renewals allow for it: set the clocks")
        else:
            self._noted = ""

    def _note(self, message: str) -> None:
        if message != self._noted:  # once, not with every answer
            self._noted = message
            log.warning("provider %s: %s (skew %.0f s)", self._provider, message, self.seconds)

    def __repr__(self) -> str:
        return f"<ClockSkew {self.seconds:+.1f}s of {self._provider}>"
