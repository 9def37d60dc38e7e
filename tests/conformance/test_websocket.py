"""The WebSocket conformance suite through the proxy: a selection of its cases, and the comparison itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.conformance import websocket_through
from tests.conformance.websocket_through import (
    NOT_RUN,
    Difference,
    Outcome,
    asked_twice,
    differences,
    echo_servers,
    table,
)
from tests.peers.websocket_suite import Verdict

FEW = (
    "1.1.*",
    "2.*",
    "3.1",
    "4.1.1",
    "5.1",
    "5.15",
    "6.3.1",
    "7.1.*",
    "7.3.*",
    "7.9.5",
    "9.1.4",
    "9.3.8",
    "10.*",
    "12.1.1",
    "13.1.1",
)
"""Some of each chapter; ``make conformance`` runs all."""
FINE, WRONG = Verdict("OK", "OK", 1000), Verdict("FAILED", "WRONG CODE", 1006)


async def test_the_proxy_changes_no_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Frames, pings, closes, violations, messages of megabytes and compressed ones come out of a tunnel of a live
    session as they do without the proxy."""
    caplog.set_level(logging.CRITICAL, "websockets.server")  # the suite breaks rules on purpose
    async with echo_servers() as ports:
        outcome = await asked_twice("websockets", ports["websockets"], tmp_path, FEW)
    assert len(outcome.direct) > 30
    assert outcome.differences == [], table(outcome.differences)
    assert [case for case, verdict in outcome.direct.items() if not verdict.passed] == [
        "7.1.5"
    ]  # this server's weak spot


def test_every_difference_is_found() -> None:
    """A worse verdict, a better one, another close code and a case that one side lacks: each is a line, in order."""
    direct = {"2.1": FINE, "10.1.1": FINE, "1.1.1": FINE, "7.1.5": WRONG, "3.1": FINE}
    through = {"2.1": FINE._replace(code=1001), "10.1.1": WRONG, "1.1.1": FINE, "7.1.5": FINE, "3.2": FINE}
    found = differences(direct, through)
    assert [one.case for one in found] == ["2.1", "3.1", "3.2", "7.1.5", "10.1.1"]
    assert found[1:3] == [Difference("3.1", FINE, NOT_RUN), Difference("3.2", NOT_RUN, FINE)]
    assert [line.split()[0] for line in table(found).splitlines()] == ["2.1", "3.1", "3.2", "7.1.5", "10.1.1"]


def test_equal_failures_are_no_difference() -> None:
    """What the server behind the proxy does wrong by itself is not held against the proxy."""
    assert differences({"7.1.5": WRONG}, {"7.1.5": WRONG}) == []


@pytest.mark.parametrize(("through", "code"), [(FINE, 0), (WRONG, 1)])
def test_the_command_fails_on_a_difference(
    through: Verdict, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is what a pipeline reads; the differing cases stand below the counts."""

    async def outcomes(*_: object) -> list[Outcome]:
        return [Outcome("echo", {"1.1.1": FINE}, {"1.1.1": through})]

    monkeypatch.setattr(websocket_through, "outcomes", outcomes)
    assert websocket_through.main([]) == code
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("echo: 1 cases, 1 passed directly, ")
    assert len(said) == 1 + code
