"""The table of spellings, row by row, and what the upstream would receive of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from authproxy.edge.host import parse
from authproxy.errors import Refusal
from authproxy.model import ANONYMOUS
from authproxy.mutate import OwnCookies, upstream_request
from authproxy.routing import RouteTable
from tests.unit.values import app, info

TABLE: Final[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("paths.yaml").read_text(encoding="utf-8"))
ROWS: Final = [(host, path, expected) for host, rows in TABLE["rows"].items() for path, expected in rows]
ROUTES: Final = RouteTable(
    app(name, *shape["routes"], host=shape["host"], path=shape.get("path", "/"))
    for name, shape in TABLE["apps"].items()
)


def outcome(host: str, path: str) -> str:
    """What the request gets, in the words of the table."""
    try:
        request = info(path, host=host)
        found = ROUTES.match(request)
    except Refusal as refusal:
        return f"{refusal.status} {refusal.code}"
    captures = [f"{name}={value}" for name, value in found.captures]
    return " ".join([found.app.name, found.route.path, *captures])


@pytest.mark.parametrize(("host", "path", "expected"), ROWS, ids=[f"{host} {path!r}" for host, path, _ in ROWS])
def test_a_spelling_selects_what_the_table_says(host: str, path: str, expected: str) -> None:
    """Each spelling selects one route by every reading, or is refused."""
    assert outcome(host, path) == expected


@pytest.mark.parametrize(
    ("host", "path"),
    [(host, path) for host, path, expected in ROWS if not expected[0].isdigit() and path.startswith("/")],
)
def test_what_is_let_through_is_forwarded_byte_for_byte(host: str, path: str) -> None:
    """The upstream receives the very target that was judged."""
    request = info(path, host=host)
    sent = upstream_request(
        request, ROUTES.match(request), ANONYMOUS, own_cookies=OwnCookies(b"authproxy"), strip_authorization=False
    )
    assert sent.target == path


def test_the_table_is_worth_its_name() -> None:
    """At least 80 spellings, each of them once for its host."""
    assert len(ROWS) >= 80
    assert len({(host, path) for host, path, _ in ROWS}) == len(ROWS)


def test_hosts_of_the_table_are_spelled_in_more_than_one_way() -> None:
    """The odd spelling of the walled host in the table names the same host."""
    assert parse(b"WALLED.example.com.:8443").host == "walled.example.com"
