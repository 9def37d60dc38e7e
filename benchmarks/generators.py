"""The two load generators: how they are called, and what their output says.

h2load sends a fixed number of requests and tells the status of each; wrk keeps up a load for a while and tells the
latencies.  Any answer that is not what was wanted raises ``WrongAnswers``: figures of error pages are worse than none.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
OCTETS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
PATIENCE: Final = 300.0
"""Seconds that a run may take before something is wrong."""


class WrongAnswers(Exception):
    """Something was answered otherwise than it should, or not at all."""


class Counted(NamedTuple):
    """What h2load says of a run in which everything went well."""

    requests: int
    seconds: float


class Sustained(NamedTuple):
    """What wrk says of a run in which everything went well."""

    requests: int
    rate: float  # requests per second
    flow: float  # octets per second
    p50: float  # seconds
    p99: float  # seconds


class Steady(NamedTuple):
    """What h2load's log says of a run at a fixed rate in which everything went well."""

    requests: int
    p50: float  # seconds
    p99: float  # seconds


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise WrongAnswers(f"the load generator did not say {pattern!r}:\n{text.strip()}")
    return match.groups()


def _seconds(number: str, unit: str) -> float:
    return float(number) * SECONDS[unit]


def counted(text: str) -> Counted:
    """The output of h2load; raises WrongAnswers unless every request was answered with 2xx."""
    number, unit = _found(r"^finished in ([\d.]+)(us|ms|s|m|h),", text)
    total, done = map(int, _found(r"^requests: (\d+) total, \d+ started, (\d+) done,", text))
    line, good = _found(r"^(status codes: (\d+) 2xx.*)$", text)
    if not total or (done, int(good)) != (total, total):
        raise WrongAnswers(f"of {total} requests {done} were answered; {line}")
    return Counted(total, _seconds(number, unit))


def sustained(text: str, *, size: int) -> Sustained:
    """The output of wrk; raises WrongAnswers for errors, or when answers are too small for bodies of ``size`` octets.

    wrk counts redirects as good; their bodies are smaller.
    """
    for bad in (r"^ *Non-2xx or 3xx responses: .*$", r"^ *Socket errors: .*$"):
        if found := re.search(bad, text, re.MULTILINE):
            raise WrongAnswers(found[0].strip())
    (requests,) = map(int, _found(r"^ *(\d+) requests in ", text))
    rate = float(_found(r"^Requests/sec: +([\d.]+)", text)[0])
    number, unit = _found(r"^Transfer/sec: +([\d.]+)([KMGT]?)B", text)
    flow = float(number) * OCTETS[unit]
    if not requests or flow < 0.99 * size * rate:
        raise WrongAnswers(f"{requests} answers of {flow / rate if rate else 0:.0f} octets, expected more than {size}")
    p50, p99 = (_seconds(*_found(rf"^ *{share}% +([\d.]+)(us|ms|s|m|h)", text)) for share in (50, 99))
    return Sustained(requests, rate, flow, p50, p99)


def logged(text: str) -> Steady:
    """The log of h2load: a line for each request, with its status and microseconds; raises WrongAnswers as above."""
    rows = [line.split("\t") for line in text.splitlines()]
    if bad := [row for row in rows if len(row) < 3 or not row[1].startswith("2")]:
        raise WrongAnswers(f"{len(bad)} of {len(rows)} requests were not answered with 2xx: {bad[0]}")
    times = sorted(int(row[2]) * 1e-6 for row in rows)
    if not times:
        raise WrongAnswers("the load generator has logged no request")
    p50, p99 = (times[min(int(len(times) * share), len(times) - 1)] for share in (0.5, 0.99))
    return Steady(len(times), p50, p99)


async def _run(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    text = said.decode()
    if process.returncode:
        raise WrongAnswers(f"{argv[0]} ended with {process.returncode}:\n{text.strip()}")
    return text


def _words(headers: Mapping[str, str], *, host: str) -> list[str]:
    lines = [f"{host if name == 'Host' else name}: {text}" for name, text in headers.items()]
    return [word for line in lines for word in ("-H", line)]


async def h2load(url: str, headers: Mapping[str, str], *, requests: int, connections: int) -> Counted:
    """So many requests over so many kept connections, HTTP/1.1, one at a time on each."""
    words = _words(headers, host=":authority")  # it writes a Host of its own beside any other
    connections = min(connections, requests)
    return counted(await _run("h2load", "--h1", f"-n{requests}", f"-c{connections}", "-t1", *words, url))


async def steady(
    url: str, headers: Mapping[str, str], *, seconds: float, connections: int, rate: int, log: Path
) -> Steady:
    """So many requests per second on each of so many kept connections; a slow answer holds up its own alone."""
    await asyncio.to_thread(log.unlink, missing_ok=True)
    requests = round(seconds * rate) * connections
    words = [f"-n{requests}", f"-c{connections}", "-t1", f"--rps={rate}", f"--log-file={log}"]
    counted(await _run("h2load", "--h1", *words, *_words(headers, host=":authority"), url))
    return logged(await asyncio.to_thread(log.read_text, encoding="ascii"))


async def wrk(
    url: str, headers: Mapping[str, str], *, seconds: float, connections: int, size: int, script: Path | None = None
) -> Sustained:
    """As many requests as there can be over so many kept connections, for a time of whole seconds.

    ``script`` makes each of them anew.
    """
    words = [*_words(headers, host="Host"), *(("-s", str(script)) if script else ())]
    options = ["-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--latency", "--timeout", "30s"]
    return sustained(await _run("wrk", *options, *words, url), size=size)


def missing() -> list[str]:
    """Which of the generators are not installed."""
    return [name for name in ("h2load", "wrk") if shutil.which(name) is None]
