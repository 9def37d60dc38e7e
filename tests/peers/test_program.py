"""Waiting for a program: as long as it runs and no longer, and a failure shows its output."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.program import Program

pytestmark = pytest.mark.timeout(60)  # far less than PATIENCE: a program that has ended is not waited for

LATE = "import time; time.sleep(1.5); print('here', flush=True); time.sleep(600)"
LAST_WORDS = "import sys; print('out of paper'); print('and of ink', file=sys.stderr); sys.exit(3)"
HEIR = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('out of paper', flush=True); sys.exit(3)"


def never(line: str) -> bool | None:
    """No line is the wanted one."""
    return None


async def test_a_slow_program_is_waited_for() -> None:
    """What comes late comes: several looks at whether it still runs lie between."""
    began = time.monotonic()
    async with Program(sys.executable, "-c", LATE) as program:
        assert await program.line(lambda line: line == "here" or None)
        assert time.monotonic() - began >= 1.5


@pytest.mark.parametrize("error", [False, True], ids=["standard output", "standard error"])
async def test_a_line_of_a_program_that_has_ended_does_not_come(error: bool) -> None:
    """The wait ends with the program, and the failure shows what it wrote."""
    async with Program(sys.executable, "-c", LAST_WORDS) as program:
        with pytest.raises(AssertionError, match=r"exit 3[^$]*out of paper[^$]*and of ink"):
            await program.line(never, error=error)


async def test_an_output_that_is_left_open_is_not_waited_for() -> None:
    """The wait ends although a process that the program has started holds its output."""
    async with Program(sys.executable, "-c", HEIR, group=True) as program:
        with pytest.raises(AssertionError, match="out of paper"):
            await program.line(never)


async def test_a_condition_ends_with_the_program() -> None:
    """What another process does not bring about any more is not waited for."""
    async with Program(sys.executable, "-c", LAST_WORDS) as program:
        with pytest.raises(AssertionError, match=r"ended before this: it flies[^$]*out of paper"):
            await program.until(lambda: False, "it flies")


async def test_a_proxy_that_refuses_its_settings_is_not_waited_for(tmp_path: Path) -> None:
    """``ready`` fails at once, with the problem that ``serve`` printed."""
    proxy = AuthproxyProcess(tmp_path, {"no_such_section": {}})
    with pytest.raises(AssertionError, match="no_such_section: unknown key"):
        await proxy.start()
    assert await proxy.program.ended() == 2
