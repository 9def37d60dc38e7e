"""The front desk: says what there is, hands over, and words the outcome for a terminal.  No logic of the house."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import uvloop

from authproxy import __version__
from authproxy import explain as explanation
from authproxy.administration import enrollment
from authproxy.app import Authproxy
from authproxy.assumed import assumed
from authproxy.edge.sockets import raise_file_limit
from authproxy.errors import AuthproxyError, Problem, SettingsError
from authproxy.ongoing import Ongoing
from authproxy.reloading import Reloading
from authproxy.sessions.sealing import encode
from authproxy.settings.load import Loaded, inspect, load
from authproxy.settings.schema import ListenConnections, json_schema

if TYPE_CHECKING:
    from authproxy.workers.worker import Orders

_CONFIG = click.option(
    "-c", "--config", "file", required=True, type=click.Path(path_type=Path), help="The settings file."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="authproxy")
def main() -> None:
    """An authenticating reverse proxy: who is this, and may they?"""


@main.command()
@_CONFIG
def serve(file: Path) -> None:
    """Run.  Exits with 2, and every problem listed, when the settings are wrong."""
    _log_to_stderr()
    try:
        loaded = load(file)
    except SettingsError as error:
        _list(error.problems)
        sys.exit(2)
    _list(list(loaded.warnings))
    _open_files(loaded.settings.listen.connections)
    serving = _supervise if loaded.settings.listen.workers > 1 else _serve
    try:
        code = uvloop.run(serving(loaded, file))
    except (OSError, AuthproxyError) as error:
        _fail(f"{file}: cannot start: {error}")
    sys.exit(code)


def _open_files(bounds: ListenConnections) -> None:
    """A client's connection and the one towards its upstream are a file each."""
    files = raise_file_limit()
    if "total" in bounds.model_fields_set and files < 2 * bounds.total:
        needed = f"listen.connections.total, {bounds.total}, may take twice as many files"
        click.echo(f"authproxy: warning: {needed}, and this process may open {files}", err=True)


async def _serve(loaded: Loaded, file: Path) -> int:
    async with Authproxy(loaded.settings) as proxy:
        proxy.obey_signals()
        reloading = Reloading(proxy, file)
        reloading.obey_signal()
        _say_where(proxy.addresses)
        waiting = proxy.readiness().waiting_for
        if waiting:
            click.echo(f"authproxy: waiting for {', '.join(waiting)}", err=True)
        async with Ongoing() as ongoing:
            ongoing.begin(lambda: _announced(proxy.startup.done))
            ongoing.begin(reloading.run)
            await proxy.run_until_stopped()
    return 0


def _say_where(addresses: Mapping[str, str]) -> None:
    for name, address in addresses.items():
        click.echo(f"authproxy: {name} listens on {address}", err=True)


async def _supervise(loaded: Loaded, file: Path) -> int:
    from authproxy.workers.supervisor import Supervisor  # only here: one process does without

    async with Supervisor(loaded.settings, file) as supervisor:
        _say_where(supervisor.addresses)
        click.echo(f"authproxy: waiting for {loaded.settings.listen.workers} workers", err=True)
        supervisor.ongoing.begin(lambda: _announced(supervisor.ready))
        return await supervisor.run()


@main.command(hidden=True)
@_CONFIG
@click.option("--orders", required=True, help="What the supervisor says.")
def worker(file: Path, orders: str) -> None:
    """One of several processes; started by ``serve`` alone."""
    from authproxy.workers.worker import Orders  # only here: one process does without

    _log_to_stderr()
    try:
        uvloop.run(_work(load(file), file, Orders.read(orders)))
    except (OSError, AuthproxyError) as error:
        _fail(f"{file}: cannot start: {error}")


async def _work(loaded: Loaded, file: Path, orders: Orders) -> None:
    async with Authproxy(loaded.settings, inherited=orders.inherited()) as proxy:
        proxy.obey_signals()
        reloading = Reloading(proxy, file, watched=False)
        reloading.obey_signal()
        _stop_without_supervisor(orders.alive, proxy)
        async with Ongoing() as ongoing:
            ongoing.begin(reloading.run)
            await proxy.run_until_stopped()


def _stop_without_supervisor(alive: int, proxy: Authproxy) -> None:
    """The pipe ends when the supervisor is gone, however it went."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(alive)
        proxy.stop()

    loop.add_reader(alive, ended)


async def _announced(ready: asyncio.Event) -> None:
    await ready.wait()
    click.echo("authproxy: ready", err=True)


@main.command()
@_CONFIG
@click.option("--connect", is_flag=True, help="Also try providers, store and upstreams.")
def check(file: Path, *, connect: bool) -> None:
    """Validate the settings without running.  Exits with 0, or with 2 when they cannot be used."""
    problems = inspect(file)
    _list(problems)
    if any(not problem.warning for problem in problems):
        sys.exit(2)
    if connect and not _connected(file):
        sys.exit(2)
    click.echo(f"{file}: the settings are good")


def _connected(file: Path) -> bool:
    try:
        return asyncio.run(_try_connections(file))
    except (AuthproxyError, LookupError, ValueError, OSError) as error:  # a file or variable changed meanwhile
        _fail(f"{file}: {error}")


async def _try_connections(file: Path) -> bool:
    from authproxy.connect import try_connections  # only here: pulls in every client

    good = True
    async for tried in try_connections(load(file).settings):
        click.echo(f"{tried.name}: {tried.failure or 'answers'}", err=bool(tried.failure))
        for warning in tried.warnings:
            click.echo(f"{tried.name}: warning: {warning}", err=True)
        good = good and not tried.failure
    return good


def _object(_context: click.Context, _option: click.Parameter, text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter("is not a JSON object")
    return found


def _pairs(_context: click.Context, _option: click.Parameter, lines: tuple[str, ...]) -> list[tuple[str, str]]:
    if any(not line.partition(":")[0].strip() or ":" not in line for line in lines):
        raise click.BadParameter("is not a header such as 'Accept: text/html'")
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


@main.command()
@_CONFIG
@click.argument("method")
@click.argument("url")
@click.option(
    "--as", "credential", metavar="KIND:NAME", help="Who asks, such as session:ann@example.com or token:read."
)
@click.option("--claims", metavar="JSON", callback=_object, help='What is said of them: \'{"groups": ["staff"]}\'.')
@click.option("--header", "headers", multiple=True, metavar="'K: V'", callback=_pairs, help="Sent too; repeatable.")
@click.option(
    "--client", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where the request comes from."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def explain(
    file: Path, method: str, url: str, *, credential: str | None, claims: dict[str, Any],
    headers: list[tuple[str, str]], client: str, as_json: bool,
) -> None:  # fmt: skip
    """Say why a request would be allowed or refused, by the settings alone.  Exits with 0 or 1; with 2 when wrong."""
    try:
        loaded = load(file, to_serve=False)
        identity = assumed(loaded.settings, credential, claims) if credential else None
        found = explanation.explain(loaded, method, url, identity=identity, headers=headers, client=client)
    except SettingsError as error:
        _list(error.problems)
        sys.exit(2)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps(found.as_object(), indent=2) if as_json else _told(found))
    sys.exit(0 if found.allowed else 1)


def _told(found: explanation.Explanation) -> str:
    """The steps in columns, and what came of them."""
    rows = [
        (one.name, one.setting, f"{one.file}:{one.line}" if one.line else one.file, one.reason) for one in found.steps
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join([*lines, "ALLOWED" if found.allowed else f"REFUSED  {found.status} {found.code}"])


@main.command()
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where the demo listens, on loopback.",
)
def demo(port: int) -> None:
    """Run the proxy with a small OpenID provider and a sample app, all on loopback."""
    from authproxy.demo.run import run  # only here: the demo stands outside the house

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        uvloop.run(run(port))
    except (OSError, AuthproxyError) as error:
        _fail(f"the demo cannot start: {getattr(error, 'strerror', None) or error}")


@main.command()
@click.option("--signing", is_flag=True, help="A private ES256 key (JWK) instead of a session key.")
def key(*, signing: bool) -> None:
    """Print a fresh session key."""
    if signing:
        from authproxy.jose.sign import new_signing_key  # only here: seldom needed

        click.echo(json.dumps(new_signing_key()))
    else:
        click.echo(encode(os.urandom(32)))


@main.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))


main.add_command(enrollment)


def _fail(message: str) -> NoReturn:
    """End with a sentence and exit code 2."""
    click.echo(f"authproxy: {message}", err=True)
    sys.exit(2)


def _list(problems: list[Problem]) -> None:
    for problem in problems:
        click.echo(str(problem), err=True)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="authproxy: %(levelname)s: %(message)s", stream=sys.stderr)
    for noisy in ("aiohttp.access", "aiohttp.server", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
