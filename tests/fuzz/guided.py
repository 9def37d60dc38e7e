"""``python -m tests.fuzz.guided SECONDS [TARGET ...]``: cases that are chosen by the code that they reach.

Needs ``atheris``, which is no dependency of the project: ``.venv/bin/pip install --no-deps atheris==3.0.0``.  What
reached something new is kept in ``.venv/corpus`` and tried again the next time.  A finding ends it; its octets belong
into ``seeds.py``.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parents[2] / ".venv" / "corpus"
LONGEST: Final = 2000
NAMES: Final = ("front door", "far door", "path")


def _begun(name: str) -> tuple[Path, Path]:
    """The folder of cases, with the seeds in it, and the dictionary."""
    from tests.fuzz.seeds import WORDS
    from tests.fuzz.targets import TARGETS

    folder = CORPUS / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name][1]):
        (folder / f"seed-{number}").write_bytes(b"\0\7" + seed)
    words = CORPUS / "words"
    words.write_text("".join('"' + "".join(rf"\x{octet:02x}" for octet in word) + '"\n' for word in WORDS))
    return folder, words


async def fuzz(name: str, seconds: int) -> None:
    """One target, in the running loop; ends the process."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["authproxy"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name][0]
    folder, words = _begun(name)

    def one(data: bytes) -> None:
        number, case = int.from_bytes(data[:2], "big"), data[2:]
        try:
            target(case, number)
        except Exception:
            sys.stderr.write(f"{name}: case {number}: {case!r}\n")
            raise

    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-dict={words}", f"-artifact_prefix={CORPUS}/"]
    atheris.Setup([name, str(folder), *limits], one)
    atheris.Fuzz()


def main(seconds: str = "300", *names: str) -> int:
    """Each target in a process of its own, since the engine ends the one it runs in; 1 after a finding."""
    if len(names) == 1:
        asyncio.run(fuzz(names[0], int(seconds)))
        return 0
    word = (sys.executable, "-m", "tests.fuzz.guided", seconds)
    return max(bool(subprocess.call([*word, name])) for name in names or NAMES)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
