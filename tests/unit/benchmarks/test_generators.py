"""What the load generators print is understood, and anything that is not a good answer stops the benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks.generators import Counted, Steady, WrongAnswers, counted, logged, sustained
from tests.peers.program import PATIENCE

ROOT: Final = Path(__file__).parents[3]
H2LOAD: Final = """starting benchmark...
spawning thread #0: 64 total client(s). 2000 total requests
Application protocol: http/1.1
progress: 100% done

finished in 146.22ms, 13677.83 req/s, 16.50MB/s
requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.41MB (2530000) total, 203.13KB (208000) headers (space savings 0.00%), 1.95MB (2048000) data
                     min         max         mean         sd        +/- sd
time for request:       49us      2.28ms       417us       163us    79.90%
"""
WRK: Final = """Running 1s test @ http://127.0.0.1:18999/1k
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   178.59us  655.50us  10.33ms   97.97%
    Req/Sec    76.92k     5.21k   82.10k    90.00%
  Latency Distribution
     50%   94.00us
     75%  107.00us
     90%  126.00us
     99%    3.17ms
  76233 requests in 1.00s, 91.89MB read
Requests/sec:  76196.04
Transfer/sec:     91.85MB
"""


def test_h2load_is_understood() -> None:
    """Requests and seconds, whatever unit it chose."""
    assert counted(H2LOAD) == Counted(2000, 146.22 * 1e-3)
    assert counted(H2LOAD.replace("146.22ms", "1.20s")).seconds == pytest.approx(1.2)
    assert counted(H2LOAD.replace("146.22ms", "900us")).seconds == pytest.approx(0.0009)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("2000 2xx, 0 3xx, 0 4xx", "1999 2xx, 0 3xx, 1 4xx"),
        ("2000 2xx, 0 3xx", "1999 2xx, 1 3xx"),
        ("2000 done", "1994 done"),
        ("2000 total, 2000 started, 2000 done", "0 total, 0 started, 0 done"),
        ("status codes", "no codes"),
        ("finished in", "broken off in"),
    ],
)
def test_an_answer_that_is_not_2xx_stops(good: str, bad: str) -> None:
    """One refusal, one redirect, one answer that is missing, or words that are not known: no figure comes of it."""
    assert good in H2LOAD
    with pytest.raises(WrongAnswers):
        counted(H2LOAD.replace(good, bad))


def test_wrk_is_understood() -> None:
    """Rate, octets and latencies, whatever units it chose."""
    said = sustained(WRK, size=1024)
    assert (said.requests, said.rate) == (76_233, 76_196.04)
    assert said.flow == pytest.approx(91.85 * 2**20)
    assert said.p50 == pytest.approx(94e-6)
    assert said.p99 == pytest.approx(3.17e-3)
    slow = WRK.replace("3.17ms", "1.02s").replace("91.85MB", "1.85GB")
    assert sustained(slow, size=1024).p99 == pytest.approx(1.02)
    assert sustained(slow, size=1024).flow == pytest.approx(1.85 * 2**30)


@pytest.mark.parametrize(
    "more",
    ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"],
)
def test_errors_under_load_stop(more: str) -> None:
    """A refusal or a broken connection among thousands is enough."""
    with pytest.raises(WrongAnswers, match=more.strip()):
        sustained(WRK.replace("Requests/sec", more + "Requests/sec"), size=1024)


def test_redirects_under_load_stop() -> None:
    """wrk does not count them as errors: answers that are smaller than the body are not the body."""
    with pytest.raises(WrongAnswers, match="expected more than 1024"):
        sustained(WRK.replace("91.85MB", "21.85MB"), size=1024)


def test_the_log_is_understood() -> None:
    """Percentiles of the third column, in seconds, in whatever order the lines are."""
    lines = [f"1795417910000000\t200\t{number}" for number in range(1000, 0, -1)]
    assert logged("\n".join(lines) + "\n") == pytest.approx(Steady(1000, 501e-6, 991e-6))


@pytest.mark.parametrize("bad", ["1\t-1\t50", "1\t302\t50", "1\t200", ""], ids=["broken", "redirect", "short", "none"])
def test_a_log_with_anything_else_stops(bad: str) -> None:
    """One broken request, one redirect, a line that is not known, or no request at all."""
    lines = ["1\t200\t40\t3"] * 5 if bad else []
    with pytest.raises(WrongAnswers):
        logged("\n".join([*lines, bad] if bad else lines))


def stand_in(folder: Path, name: str, says: str) -> None:
    """A program of that name that says what it was recorded to say."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    file.chmod(0o755)


def bench(folder: Path, h2load: str) -> subprocess.CompletedProcess[str]:
    """The smallest run of the whole, with generators that only talk."""
    stand_in(folder / "bin", "h2load", h2load)
    stand_in(folder / "bin", "wrk", WRK)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    words = [sys.executable, "-m", "benchmarks", "--quick", "--scenes", "small", "--rounds", "1"]
    return subprocess.run(
        [*words, "--json", str(folder / "results.json")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def test_the_whole_stops_at_a_refusal(tmp_path: Path) -> None:
    """When a candidate refuses a request under load, the run ends with 1, names it, and writes no results."""
    done = bench(tmp_path, H2LOAD.replace("2000 2xx, 0 3xx, 0 4xx", "1200 2xx, 0 3xx, 800 4xx"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "stopped" in done.stderr
    assert "nginx: of 2000 requests 2000 were answered; status codes: 1200 2xx, 0 3xx, 800 4xx" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results.json").exists()


def test_the_whole_stops_when_nothing_was_measured(tmp_path: Path) -> None:
    """Generators that sent nothing leave no CPU to speak of: no ratio is made up, and no results are written."""
    done = bench(tmp_path, H2LOAD)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "too short" in done.stderr
    assert not (tmp_path / "results.json").exists()
