"""The audit trail: one JSON object a line, whatever stands in it."""

from __future__ import annotations

import io
import json
from pathlib import Path

from authproxy.observe.audit import Audit
from authproxy.observe.metrics import Metrics


def written(**fields: object) -> tuple[str, dict[str, object]]:
    """What one record looks like, as text and as JSON."""
    stream = io.StringIO()
    Audit(stream, clock=lambda: 0.0).record("exchange", **fields)
    return stream.getvalue(), json.loads(stream.getvalue())


def test_n2_text_from_outside_cannot_forge_a_line() -> None:
    """Line breaks, quotes and terminal escapes in a path or a name stay inside their string."""
    text, record = written(path='/a\r\n{"event":"forged"}\x1b[31m', user='"\u2028')
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert record["path"] == '/a\r\n{"event":"forged"}\x1b[31m'


def test_fields_are_bounded_and_empty_ones_left_out() -> None:
    """A long text is cut; what is not known is not written."""
    _, record = written(path="x" * 10_000, user="", status=0, groups=(), kind=None, ms=1.5)
    assert record == {"time": "1970-01-01T00:00:00.000Z", "event": "exchange", "path": "x" * 256, "ms": 1.5}


def test_a_line_is_written_whole() -> None:
    """However long its texts are, a record fits into what a pipe takes at once: lines of processes never mix."""
    stream = io.StringIO()
    fields = {f"field{number}": "\u20ac" * 256 for number in range(12)}
    Audit(stream, clock=lambda: 0.0).record("exchange", status=200, **fields)
    assert len(stream.getvalue()) <= 4096
    record = json.loads(stream.getvalue())
    assert record["status"] == 200
    assert record["field0"].startswith("\u20ac" * 16)


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """Records of an earlier run stay, and each record is in the file at once."""
    file = tmp_path / "audit.jsonl"
    for name in ("first", "second"):
        audit = Audit.open(file, clock=lambda: 0.0)
        audit.record(name)
        assert f'"{name}"' in file.read_text()
        audit.close()
    assert len(file.read_text().splitlines()) == 2


def test_metrics_are_counted_by_names_of_the_settings() -> None:
    """Exchanges, refusals and events are counted; the number of live sessions is asked for at each reading."""
    metrics = Metrics()
    metrics.watch_sessions(lambda: 7)
    metrics.exchange(app="dashboard", status=403, seconds=0.01, code="not_allowed")
    metrics.event("sign_in", "ok")
    text = metrics.text().decode()
    assert 'authproxy_exchanges_total{app="dashboard",status="403"} 1.0' in text
    assert 'authproxy_refusals_total{code="not_allowed"} 1.0' in text
    assert 'authproxy_events_total{event="sign_in",outcome="ok"} 1.0' in text
    assert "authproxy_live_sessions 7.0" in text
