"""``check`` says "the settings are good" only for what ``serve`` serves.

Whatever is changed in a settings file, ``check`` gives a list of problems, and what it calls good is built as
``serve`` builds it, up to the listeners, without an exception.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.admin.gate import Gate
from authproxy.app import Authproxy
from authproxy.cli import main
from authproxy.edge.certificate import ServerCertificate
from authproxy.edge.sockets import bound
from authproxy.errors import CannotStart
from authproxy.graph import Graph
from authproxy.lasting import Lasting
from authproxy.settings.certificates import CertificateFault
from authproxy.settings.load import from_mapping, load
from authproxy.settings.schema import Settings
from authproxy.settings.unserved import UNSERVED
from tests.unit.settings.standins import ENVIRON, NAMES, furnish
from tests.unit.settings.test_examples import COMPLETE

SERVED: Final[dict[str, Any]] = {
    name: section for name, section in yaml.safe_load(COMPLETE).items() if (name,) not in UNSERVED
}
VARIABLES: Final = {
    "PLAIN": "hunter2", "LONG": "x" * 40, "BROKEN": "x" * 20 + "\n" + "x" * 20, "ENDED": "x" * 40 + "\r\n",
    "URL": "rediss://:a%40b@127.0.0.1:9/1", "WRONG_URL": "redis://:hun/ter2@redis", "NO_TEXT": "x" * 40 + "\udcff",
}  # fmt: skip
TEXTS: Final = [
    "", "x", "*", "/", "/x/", "/admin/*", "/{x}/", "/a%2Fb", "a\nb", "\u00e4", "10.0.0.0/8", "::/0", "127.0.0.1:0",
    "localhost:8080", "0.0.0.0:8080", "[::]:8080", ":8080", "unix:/nowhere/s", "unix:s", "http://x", "https://x:0",
    "https://[::1]:8443", "http://u:p@x", "unix:/run/x", "redis://127.0.0.1:9", "redis://a,b",
    "rediss://127.0.0.1:9?ssl_cert_reqs=none", "1s", "0s", "stdout", "GET", "TRACE", "public", "staff", "none", "dex",
    "a" * 300, "a..b", "1.2.3.4", "[::1]", "RS256", "HS256", "per_user", "log/audit.jsonl", "form_post", "own",
]  # fmt: skip
LOOSE: Final = settings(
    max_examples=100, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path of the data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(data: Any, path: tuple[Any, ...]) -> Any:
    """What stands at ``path``; None where nothing does."""
    for step in path:
        try:
            data = data[step]
        except (LookupError, TypeError):
            return None
    return data


PLACES: Final = list(places(SERVED))
FILES: Final = [path for path in PLACES if at(SERVED, path) in NAMES]
scalars: Final[st.SearchStrategy[Any]] = st.sampled_from([*TEXTS, None, True, 0, 1, 2, 65536, 10**30, 0.5, [], {}])
secrets: Final = st.sampled_from([*({"file": name} for name in NAMES), *({"env": name} for name in VARIABLES)])
others: Final = st.sampled_from(PLACES).map(lambda path: at(SERVED, path))
values: Final = scalars | secrets | others | st.lists(scalars | secrets, max_size=2) | st.just("delete")
changes: Final = st.tuples(st.sampled_from(PLACES), values) | st.tuples(st.sampled_from(FILES), st.sampled_from(NAMES))


def changed(mistakes: list[tuple[tuple[Any, ...], object]]) -> dict[str, Any]:
    """The complete example with some values replaced or deleted."""
    data = copy.deepcopy(SERVED)
    for path, value in mistakes:
        inside = at(data, path[:-1])
        if not isinstance(inside, dict | list) or at(data, path) is None:
            continue
        if value == "delete":
            del inside[path[-1]]
        else:
            inside[path[-1]] = copy.deepcopy(value)
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stand-ins; the variables are set in this process, where ``serve`` would read them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in (ENVIRON | VARIABLES).items():
            patch.setenv(name, text)
        yield furnish(tmp_path_factory.mktemp("settings"))


async def build(shape: Settings) -> None:
    """What ``serve`` builds before it accepts connections; nothing is listened on but unix sockets."""
    lasting = Lasting(shape, clock=time.time)
    listen = shape.listen
    try:
        async with Graph(shape, lasting, clock=time.time) as graph:
            graph.public()
            graph.decisions()
            Gate(listen.admin or "", listen.admin_secret)
            if listen.tls:
                tls = listen.tls
                ServerCertificate(tls.cert, tls.key, client_ca=tls.client_ca, client_auth=tls.client_auth)
            for address in filter(None, (listen.address, listen.decisions, listen.admin)):
                if address.startswith("unix:"):
                    bound(address).close()
                    os.unlink(address.removeprefix("unix:"))
    finally:
        lasting.audit.close()


@LOOSE
@given(changes.map(lambda change: [change]) | st.lists(changes, min_size=2, max_size=3))
def test_what_check_calls_good_is_built(folder: Path, mistakes: list[tuple[tuple[Any, ...], object]]) -> None:
    """``check`` exits with 0 or 2 and never raises; what it calls good is built."""
    file = folder / "authproxy.yaml"
    file.write_text(json.dumps(changed(mistakes)), encoding="utf-8")  # JSON is YAML
    result = CliRunner().invoke(main, ["check", "-c", str(file)], catch_exceptions=False)
    assert result.exit_code in (0, 2)
    assert "hunter2" not in result.output
    assert ("the settings are good" in result.output) == (result.exit_code == 0)
    if result.exit_code == 0:
        asyncio.run(build(load(file).settings))


def test_the_example_itself_is_built(folder: Path) -> None:
    """Without a change, the complete example is good, and the building above is not skipped."""
    file = folder / "complete.yaml"
    file.write_text(json.dumps(SERVED), encoding="utf-8")
    assert CliRunner().invoke(main, ["check", "-c", str(file)], catch_exceptions=False).exit_code == 0
    asyncio.run(build(load(file).settings))


@pytest.mark.parametrize("spoilt", ["ca.crt", "key-a", "tls.key"])
async def test_a_file_that_is_spoilt_after_the_check_ends_the_start(tmp_path: Path, spoilt: str) -> None:
    """The start ends with an error that ``serve`` words; no process becomes ready and fails at each request."""
    data = {
        "public_url": "https://auth.example.com",
        "listen": {"address": "127.0.0.1:0", "admin": None, "tls": {"cert": "tls.crt", "key": "tls.key"}},
        "session": {"keys": [{"file": "key-a"}]},
        "policies": {"public": {"anonymous": True}},
        "apps": {
            "app": {
                "host": "*",
                "upstream": {"url": "https://app.example.com", "ca": "ca.crt"},
                "routes": [{"path": "/", "policy": "public"}],
            }
        },
    }
    shape = from_mapping(data, furnish(tmp_path))
    (tmp_path / spoilt).write_text("spoilt", encoding="ascii")
    with pytest.raises((CannotStart, CertificateFault)) as failure:
        async with Authproxy(shape):
            pass
    assert str(failure.value)
