"""``authproxy enrollment``: asks a running proxy through its admin listener, and words the answer for a terminal.

Knows the addresses of the admin listener and the exit codes: 0, 1 when the proxy refuses, 2 for usage, settings, or
nobody there.  It opens no store and holds no key: what it may do is decided by the proxy.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import aiohttp
import click
from yarl import URL

from authproxy.errors import SettingsError
from authproxy.settings.load import load
from authproxy.settings.schema import SecretRef
from authproxy.settings.values import seconds

_PATIENCE: Final = aiohttp.ClientTimeout(total=30.0, connect=5.0)
_LARGEST: Final = 4 << 20  # bytes of an answer
_ANYWHERE: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- where it listens, not we


class Desk(NamedTuple):
    """Where a proxy is administered: ``http://host:port`` or ``unix:/path``, and with which secret."""

    address: str
    secret: str | None

    def __repr__(self) -> str:
        return f"<Desk {self.address} {'with' if self.secret else 'without'} secret>"


def _desk(file: Path | None, admin: str | None, secret_file: Path | None) -> Desk:
    if (file is None) == (admin is None):
        raise click.UsageError("Say which proxy: with -c FILE, or with --admin http://host:port.")
    reference = _named(secret_file) if secret_file else None
    if file is not None:
        try:
            listen = load(file, to_serve=False).settings.listen
        except SettingsError as error:
            _leave("\n".join(str(problem) for problem in error.problems), 2)
        if listen.admin is None:
            _leave(f"{file}: listen.admin is null: that proxy has no admin listener", 2)
        admin = listen.admin if listen.admin.startswith("unix:") else f"http://{listen.admin}"
        reference = reference or listen.admin_secret
    return Desk(_reachable(str(admin)), _revealed(reference))


def _named(secret_file: Path) -> SecretRef:
    try:
        return SecretRef.model_validate({"file": str(secret_file.absolute())})
    except ValueError:
        raise click.UsageError("--secret-file is not the path of a file") from None


def _reachable(admin: str) -> str:
    """The address to ask at; a listener on every address is asked on loopback."""
    if admin.startswith("unix:/"):
        return admin
    try:
        url = URL(admin)
        host, port = url.host, url.explicit_port
    except ValueError:
        host = port = None
    if not host or not port or url.scheme != "http" or url.path not in ("", "/") or url.user is not None:
        raise click.UsageError(f"{admin!r} is no admin listener; write http://host:port or unix:/path.")
    host = _ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _revealed(reference: SecretRef | None) -> str | None:
    try:
        return reference.reveal().strip() if reference else None
    except LookupError as error:
        _leave(f"the secret of the admin listener: {error.args[0]}", 2)


def _asked(desk: Desk, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The JSON of a yes; anything else ends the program."""
    try:
        status, text = asyncio.run(_exchange(desk, method, path, body))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        _leave(f"nobody answers at {desk.address}: {str(error) or 'no answer in time'}", 2)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or (status >= 300 and "error" not in content):
        _leave(f"{desk.address} answers {status}, and not as an admin listener that knows enrollment", 2)
    if status >= 300:
        told = f"{content.get('message')} ({content['error']}, request {content.get('request_id')})"
        _leave(f"refused: {told}", 1)
    return content


async def _exchange(
    desk: Desk, method: str, path: str, body: Mapping[str, object] | None
) -> tuple[int, bytes]:  # fmt: skip
    unix = desk.address.startswith("unix:")
    connector = aiohttp.UnixConnector(desk.address.removeprefix("unix:")) if unix else None
    headers = {"Authorization": f"Bearer {desk.secret}"} if desk.secret else {}
    url = ("http://localhost" if unix else desk.address) + path
    async with (
        aiohttp.ClientSession(connector=connector, timeout=_PATIENCE) as session,
        session.request(method, url, json=body, headers=headers, allow_redirects=False) as answer,
    ):
        content = bytearray()
        async for chunk in answer.content.iter_any():
            content += chunk
            if len(content) > _LARGEST:
                raise ValueError("the answer is too large")
        return answer.status, bytes(content)


def _leave(message: str, code: int) -> NoReturn:
    click.echo(f"authproxy: {_plain(message)}", err=True)
    sys.exit(code)


def _plain(text: object) -> str:
    """Text that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(text))


def _duration(_context: click.Context, _option: click.Parameter, text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _where(command: Any) -> Any:
    """The options that say which proxy is meant."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--secret-file", type=path, help="The file with its listen.admin_secret."),
        click.option("--admin", metavar="URL", help="Its admin listener instead: http://host:port or unix:/path."),
        click.option("-c", "--config", "file", type=path, help="The settings file of the proxy that runs."),
    ):
        command = option(command)
    return command


@click.group()
def enrollment() -> None:
    """Mint single-use tokens, see what has enrolled, and revoke it."""


@enrollment.command()
@_where
@click.option("--name", required=True, help="The machine that the token enrolls.")
@click.option("--cluster", help="Its cluster; left out: a machine of no cluster.")
@click.option("--expires-in", default="1h", show_default=True, callback=_duration, help="Such as 15m; at most 30d.")
def mint(
    file: Path | None, admin: str | None, secret_file: Path | None, *, name: str, cluster: str | None, expires_in: float
) -> None:
    """Print a token that enrolls one machine once."""
    body: dict[str, object] = {"name": name, "expires_in": expires_in}
    if cluster is not None:
        body["cluster"] = cluster
    made = _asked(_desk(file, admin, secret_file), "POST", "/enrollment/tokens", body)
    click.echo(f"authproxy: token {_plain(made['id'])} enrolls {_machine(name, cluster)} once, until "
               f"{_time(datetime.now(UTC).timestamp() + expires_in)}; it is shown only here", err=True)  # fmt: skip
    click.echo(_plain(made["token"]))


@enrollment.command("list")
@_where
@click.option("--json", "as_json", is_flag=True, help="The answer of the proxy as it is.")
def list_(file: Path | None, admin: str | None, secret_file: Path | None, *, as_json: bool) -> None:
    """Show tokens that were not used yet, and machines that have enrolled."""
    found = _asked(_desk(file, admin, secret_file), "GET", "/enrollment")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    tokens = [(one["id"], one["name"], one["cluster"] or "-", _time(one["expires"])) for one in found["tokens"]]
    machines = [
        (one["family"], one["name"], one["cluster"] or "-", *map(_time, (one["enrolled"], one["renewed"], one["ends"])))
        for one in sorted(found["machines"], key=lambda one: (one["name"], one["enrolled"]))
    ]
    click.echo(_table(("TOKEN", "NAME", "CLUSTER", "EXPIRES"), tokens) if tokens else "no unused token")
    click.echo()
    columns = ("FAMILY", "NAME", "CLUSTER", "ENROLLED", "RENEWED", "ENDS")
    click.echo(_table(columns, machines) if machines else "no enrolled machine")
    if found["more"]:
        click.echo("authproxy: there are more than are listed", err=True)


@enrollment.command()
@_where
@click.option("--name", help="Every enrollment of this machine until now.")
@click.option("--cluster", help="Every enrollment of this cluster until now.")
@click.option("--family", help="One enrollment, by the id that list shows.")
@click.option("--token", "token_id", metavar="ID", help="A single-use token that was not used yet.")
@click.option("--all", "everything", is_flag=True, help="Every enrollment until now.")
def revoke(
    file: Path | None, admin: str | None, secret_file: Path | None, *, everything: bool, token_id: str | None,
    **named: str | None,
) -> None:  # fmt: skip
    """End enrollments, on every replica within a second, or withdraw a token."""
    scopes = [(scope, name) for scope, name in named.items() if name is not None]
    if len(scopes) + everything + (token_id is not None) != 1:
        raise click.UsageError("Say what to revoke: one of --name, --cluster, --family, --token or --all.")
    desk = _desk(file, admin, secret_file)
    if token_id is not None:
        _asked(desk, "DELETE", str(URL("/enrollment/tokens") / token_id))
        click.echo(f"token {_plain(token_id)} is withdrawn")
        return
    scope, name = scopes[0] if scopes else ("all", None)
    body = {"scope": scope} if name is None else {"scope": scope, "name": name}
    done = _asked(desk, "POST", "/enrollment/revoke", body)
    click.echo(f"revoked: {_plain(f'{scope} {name}' if name else 'every enrollment')}")
    if not done["everywhere"]:
        click.echo(
            "authproxy: the store is away: that process refuses it already, the others when it is back", err=True
        )


def _machine(name: str, cluster: str | None) -> str:
    return f"{name} of {cluster}" if cluster else name


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [columns, *(tuple(map(_plain, row)) for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
