"""Octets made from others: deterministic, so that a number names a case for ever."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.fuzz.seeds import WORDS

LONGEST = 2000


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """The case of this number."""
    chance = random.Random(number)
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(0, 4)):
        _mutate(data, seeds, chance)
    return bytes(data[:LONGEST])


def _mutate(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    match chance.randint(0, 6):
        case 0:
            data[at:at] = chance.choice(WORDS)
        case 1:
            del data[at : at + chance.randint(1, 8)]
        case 2 if at < len(data):
            data[at] = chance.randint(0, 255)
        case 3:
            end = at + chance.randint(1, 20)
            data[at:at] = data[at:end] * chance.randint(1, 3)
        case 4:
            other = chance.choice(seeds)
            data[at:] = other[chance.randint(0, len(other)) :]
        case 5:
            data[at:at] = chance.choice(seeds)
        case _:
            end = at + chance.randint(1, 12)
            data[at:end] = chance.choice(WORDS)


def cuts(data: bytes, number: int) -> list[bytes]:
    """``data`` in pieces, as this number has it."""
    chance = random.Random(-number - 1)
    places = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, 6)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
