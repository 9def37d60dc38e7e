"""What was measured, as tables for people and as one JSON document for programs."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.idle import Held
from benchmarks.nginx import executable
from benchmarks.processes import Cores
from benchmarks.rounds import Series
from benchmarks.slow import WHENS, Beset


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines with the first column left and the others right."""
    whole = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(heads))]
    lines = []
    for row in whole:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join([title, *(f"  {line}" for line in lines), ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(figure: Figure) -> str:
    return f"±{figure.spread / 2:.0%}"


def series_table(title: str, series: Series) -> str:
    """Everything about one scene: medians, and how far the rounds are apart."""
    heads = ("", "CPU us/request", "spread", f"x {series.reference}", "requests/s", "p50 ms", "p99 ms", "MB/s")
    rows = []
    for label in series.readings:
        cpu = series.figure(label, "cpu")
        rest = [_number(series.figure(label, name).median) for name in ("rate", "p50", "p99", "flow")]
        rows.append([label, _number(cpu.median), _spread(cpu), f"{series.ratio(label).median:.2f}", *rest])
    return table(title, heads, rows)


def grid(title: str, measure: str, scenes: Mapping[str, Series]) -> str:
    """One measure over several scenes that have the same candidates."""
    first = next(iter(scenes.values()))
    rows = []
    for label in first.readings:
        row = [label]
        for series in scenes.values():
            ratio = f" ({series.ratio(label, measure).median:.2f})" if label != series.reference else ""
            row.append(_number(series.figure(label, measure).median) + ratio)
        rows.append(row)
    return table(f"{title} (times {first.reference})", ["", *scenes], rows)


def held_table(found: Mapping[str, Held]) -> str:
    """Memory of idle connections."""
    count = next(iter(found.values())).connections
    rows = [
        [name, f"{one.before / 2**20:,.1f}", f"{one.after / 2**20:,.1f}", f"{one.each / 1024:.1f}"]
        for name, one in found.items()
    ]
    heads = ("", "MiB before", "MiB with them", "KiB each")
    return table(f"Memory at {count:,} idle keep-alive connections", heads, rows)


def beset_table(found: Mapping[str, Beset]) -> str:
    """What others waited, and what the slow clients cost."""
    rows = []
    for name, one in found.items():
        waits = [one.figure(when, share).median * 1e3 for share in ("p50", "p99") for when in WHENS]
        ratio = f"{one.ratio.median:.2f} ({one.ratio.low:.2f} to {one.ratio.high:.2f})"
        rows.append([name, *map(_number, waits), ratio, f"{one.memory / 1024:,.0f}"])
    count = next(iter(found.values())).slow
    heads = ("", "p50 ms", *WHENS[1:], "p99 ms", *WHENS[1:], "p99 during/before", "KiB each")
    return table(f"What others wait while {count:,} slow clients hold on", heads, rows)


def _said(*argv: str) -> str:
    """The first version number in what a program says of itself; empty when it is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    match = re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
    return match[0] if match else ""


def versions() -> dict[str, str]:
    """Of what takes part."""
    packages = {name: version(name) for name in ("authproxy", "aiohttp", "uvloop", "redis", "hiredis")}
    programs = {
        "nginx": _said(executable() or "nginx", "-v"), "redis-server": _said("redis-server", "--version"),
        "wrk": _said("wrk", "-v"), "h2load": _said("h2load", "--version"),
    }  # fmt: skip
    return {"Python": platform.python_version(), **packages, **programs, "Linux": platform.release()}


def machine(cores: Cores) -> dict[str, Any]:
    """What it ran on, and how it was divided."""
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": match[1] if match else platform.machine(),
        "proxy_cores": sorted(cores.proxy), "other_cores": sorted(cores.others),
        "optimised_python": "--enable-optimizations" in _python_options(),
    }  # fmt: skip


def _python_options() -> str:
    import sysconfig

    return str(sysconfig.get_config_var("CONFIG_ARGS") or "")


def opening(cores: Cores) -> str:
    """What is said before the first figure."""
    here = machine(cores)
    lines = [
        "  ".join(f"{name} {text}" for name, text in versions().items() if text),
        f"{here['processor']}; the proxy on core {here['proxy_cores']}, all else on {here['other_cores']}",
    ]
    if not cores.apart:
        lines.append("There is only one core: the load generator takes turns with the proxy, so throughput and latency")
        lines.append("say little here; CPU per request still holds.")
    if not here["optimised_python"]:
        lines.append(f"{sys.executable} was built without --enable-optimizations, which costs some per cent.")
    return "\n".join([*lines, ""])
