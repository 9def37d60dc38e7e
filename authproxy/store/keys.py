"""Every name that this program uses in the shared store, in one table.

A name is made of a short kind and of digests; the check below keeps user names, tokens and session ids out of it.
What belongs to one user carries ``{digest of the user}``: Redis Cluster keeps such keys in one slot, so that one script
may touch them together.  The store puts the operator's prefix before each name; this file knows nothing of it.

======================  ===========================  ======================================================
name                    verbs                        holds
======================  ===========================  ======================================================
``s:{user}:sid``        get, put, swap, delete       the session record
``t:{user}:digest``     get, put, swap, delete       the refresh tokens that a user's sessions share
``l:{user}:digest``     lease, release               who refreshes now
``u:{user}``            add, remove, members         the sessions of a user
``i:digest``            add, remove, members         the sessions behind a provider's ``sid``
``n:digest``            swap                         a login state that was spent
``d:digest``            get, put                     a refresh token that is known to be dead or superseded
``p:digest``            get, put                     which users a provider's connector renewed last
``j:digest``            swap                         a ``jti`` that was seen
``g:kind:digest``       tally, give_back             a throttle bucket
``e:digest``            get, put, swap               the generation of a family of enrolled credentials
``m:digest``            put, get, take, delete       what a minted enrollment token is for, until it is used
``f:digest``            put, get                     what has enrolled: one family of credentials
``minted``              add, remove, members         the ids of minted tokens, those that were used among them
``families``            add, remove, members         the ids of the families that enrolled
``r:id``                put, get, delete             a replica that is there
``replicas``            add, remove, members         the replicas that were there lately
``marks``               append, read                 the revocations
``c:…``                 publish, subscribe           channels
======================  ===========================  ======================================================
"""

from __future__ import annotations

import re

_DIGEST = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)
_KIND = re.compile(r"[a-z]{1,16}", re.ASCII)


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("a key is made of hex or base64url digests of 16 to 128 characters")  # never shows the value
    return value


def _of_user(kind: str, user_digest: str, digest: str) -> str:
    return f"{kind}:{{{_digest(user_digest)}}}:{_digest(digest)}"


def session(user_digest: str, sid_digest: str) -> str:
    """The record of one session."""
    return _of_user("s", user_digest, sid_digest)


def token_record(user_digest: str, digest: str) -> str:
    """The refresh token that the sessions of one user, client and scope share."""
    return _of_user("t", user_digest, digest)


def lease_refresh(user_digest: str, digest: str) -> str:
    """The lease of the one that refreshes."""
    return _of_user("l", user_digest, digest)


def sessions_of_subject(user_digest: str) -> str:
    """The set of a user's sessions."""
    return f"u:{{{_digest(user_digest)}}}"


def session_by_sid(digest: str) -> str:
    """The sessions behind the provider's own session id (OpenID Connect Back-Channel Logout 1.0, ``sid``)."""
    return f"i:{_digest(digest)}"


def spent_state(digest: str) -> str:
    """The mark that a login state was used (RFC 9700 section 4.7: one-time use)."""
    return f"n:{_digest(digest)}"


def dead_token(digest: str) -> str:
    """What is known about a refresh token that must not be sent again."""
    return f"d:{_digest(digest)}"


def renewed_users(digest: str) -> str:
    """The users whose sessions a provider, or one connector of it, renewed last."""
    return f"p:{_digest(digest)}"


def replayed_jti(digest: str) -> str:
    """The mark that a one-time token was seen."""
    return f"j:{_digest(digest)}"


def throttle(kind: str, digest: str) -> str:
    """A throttle bucket of ``kind``: user, device, browser, client."""
    if not _KIND.fullmatch(kind):
        raise ValueError("the kind of a bucket is a short lower-case word")
    return f"g:{kind}:{_digest(digest)}"


def family(digest: str) -> str:
    """How often the credentials of one enrollment were renewed."""
    return f"e:{_digest(digest)}"


def minted_token(digest: str) -> str:
    """A single-use enrollment token that was not used yet."""
    return f"m:{_digest(digest)}"


def enrolled_family(digest: str) -> str:
    """What is told of one enrollment."""
    return f"f:{_digest(digest)}"


def minted_tokens() -> str:
    """The set of minted tokens."""
    return "minted"


def families() -> str:
    """The set of enrollments."""
    return "families"


def replica(replica_id: str) -> str:
    """The announcement of one replica."""
    return f"r:{_digest(replica_id)}"


def replicas() -> str:
    """The set of replicas."""
    return "replicas"


def channel_asked() -> str:
    """The channel that says: somebody needs what is known of a user."""
    return "c:asked"


def marks() -> str:
    """The stream of revocations."""
    return "marks"


def channel_marks() -> str:
    """The channel that says: the stream of revocations has grown."""
    return "c:marks"


def channel_refreshed() -> str:
    """The channel that says: a token was refreshed."""
    return "c:refreshed"
