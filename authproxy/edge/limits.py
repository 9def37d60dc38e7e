"""What one client may take: octets, lines, seconds.  Every number that bounds the wire of the clients is here."""

from __future__ import annotations

from typing import Final

LINE: Final = 16 * 1024  # octets of a request line or a header line: sealed cookies and tokens need the room
HEAD: Final = 64 * 1024  # octets of a whole head
HEADER_LINES: Final = 128
AHEAD: Final = 128 * 1024  # octets that are kept of what comes before its turn
AT_ONCE: Final = 16  # pipelined requests that are served before others have their turn
SWALLOWED: Final = 1024 * 1024  # octets of a body that nobody wants
KEEPALIVE_SECONDS: Final = 75.0  # idle between two requests, and before the first
HEAD_SECONDS: Final = 30.0  # from the first octet of a head to its last
READ_SECONDS: Final = 30.0  # between two pieces of a request body
WRITE_SECONDS: Final = 60.0  # for a client to make room for the next piece
LINGER_SECONDS: Final = 2.0  # how long an unread body is swallowed after an early answer, so that the answer arrives
PARTING: Final = 256  # connections beyond the bounds that are told so at once; further ones are closed without a word
REPORT_SECONDS: Final = 60.0  # between two lines in the log about connections that were refused
STALL_SECONDS: Final = 60  # an unread answer holds a connection no longer
SWEEP_SECONDS: Final = 0.25  # how exactly all of these are kept
