"""Whether a candidate does at all what it is measured for: looked at before its first round and after its last."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.candidates import Candidate
from benchmarks.generators import WrongAnswers
from benchmarks.nginx import SEEN, SIZES
from benchmarks.request import ask
from benchmarks.stage import USER


def told(body: bytes) -> dict[str, str]:
    """What the application says it was sent: request headers by nginx's name; those it did not get are empty."""
    lines = (line.partition(": ") for line in body.decode().splitlines())
    return {name: text for name, _, text in lines}


def _unidentified(seen: dict[str, str]) -> list[str]:
    user = seen.get("x_forwarded_user", "")
    token = seen.get("authorization", "")
    wrong = [] if token.startswith("Bearer ey") and token.count(".") == 2 else ["no token"]
    return wrong + ([] if USER in user else [f"the user {user!r}"])


async def passes(candidate: Candidate, targets: Sequence[str] = tuple(SIZES)) -> dict[str, str]:
    """Bodies arrive whole, and the application is told who asks; what it was told.

    Raises WrongAnswers, which names the candidate and what was wrong.
    """
    for target in targets:
        answer = await ask(candidate.port, target, candidate.headers)
        if answer.status != 200 or answer.body != b"x" * SIZES[target]:
            raise WrongAnswers(
                f"{candidate.name}: {target} was answered with {answer.status} and {len(answer.body)} octets"
            )
    seen = told((await ask(candidate.port, SEEN, candidate.headers)).body)
    if candidate.identifies and (wrong := _unidentified(seen)):
        raise WrongAnswers(f"{candidate.name}: the application was sent {' and '.join(wrong)}")
    return seen


async def decides(candidate: Candidate, target: str) -> None:
    """A decision is yes, and hands over user and token; raises WrongAnswers."""
    answer = await ask(candidate.port, target, candidate.headers)
    head = answer.head.lower()
    if answer.status != 202 or "\r\nx-auth-request-user: " not in head or "\r\nauthorization: bearer ey" not in head:
        raise WrongAnswers(f"{candidate.name}: the decision was {answer.head.splitlines()[:1]}")
