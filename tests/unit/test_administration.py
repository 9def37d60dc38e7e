"""``authproxy enrollment`` against a proxy that runs: what it prints where, and how it exits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner, Result

from authproxy import administration
from authproxy.app import Authproxy
from authproxy.cli import main
from authproxy.errors import StoreUnavailable
from authproxy.jose.sign import new_signing_key
from authproxy.settings.load import from_mapping, load
from tests.peers.authproxy_process import SESSION_KEY
from tests.peers.program import free_port

SECRET: Final = "the-admin-secret-" + "a" * 32
EU: Final = "eu-1.k8s.example.com"


class Terminal:
    """A settings file, a proxy that serves it, and somebody who types."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "authproxy.yaml"
        self.proxy: Authproxy

    def write(self, **listen: Any) -> None:
        """Write the settings."""
        settings = {
            "public_url": "http://auth.corp.test", "session": {"keys": [{"value": SESSION_KEY}]},
            "listen": {"address": "127.0.0.1:0", **listen}, "audit": {"file": "audit.jsonl"},
            "enrollment": {"signing_keys": [{"value": json.dumps(new_signing_key())}]},
            "policies": {"all": {"anonymous": True}},
            "apps": {
                "a": {"host": "a.corp.test", "upstream": {"url": "http://127.0.0.1:9"},
                      "routes": [{"path": "/", "policy": "all"}]},
            },
        }  # fmt: skip
        self.file.write_text(yaml.safe_dump(settings))

    def another(self) -> dict[str, Any]:
        """Another signing key."""
        return {"enrollment": {"signing_keys": [{"value": json.dumps(new_signing_key())}]}}

    async def serve(self, **listen: Any) -> None:
        """Serve them."""
        self.write(**listen)
        self.proxy = await Authproxy(load(self.file).settings).__aenter__()

    async def type(self, *words: str, where: tuple[str, ...] | None = None) -> Result:
        """``authproxy enrollment …`` to its end."""
        command, *rest = words
        told = ("-c", str(self.file)) if where is None else where
        return await asyncio.to_thread(CliRunner().invoke, main, ["enrollment", command, *told, *rest])

    async def listed(self, *words: str) -> dict[str, Any]:
        """``list --json``."""
        return dict(json.loads((await self.type("list", "--json", *words)).stdout))


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    """Nothing serves yet; what does later is ended."""
    terminal = Terminal(tmp_path)
    yield terminal
    if hasattr(terminal, "proxy"):
        await terminal.proxy.__aexit__(None, None, None)


async def test_mint_prints_the_token_alone(terminal: Terminal) -> None:
    """The token on standard output and nothing else; what it is on standard error, without the token."""
    await terminal.serve(admin=f"127.0.0.1:{free_port()}")
    done = await terminal.type("mint", "--name", "agent", "--cluster", EU, "--expires-in", "15m")
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    token = done.stdout.strip()
    enrolling = terminal.proxy.graph.enrolling
    assert enrolling is not None
    (unused,) = (await terminal.listed())["tokens"]
    assert unused["id"] in done.stderr
    assert f"agent of {EU}" in done.stderr
    assert token not in done.stderr
    assert (await enrolling.tokens.admit(token, "agent", EU)).startswith("minted ")


async def test_list_shows_tokens_and_machines(terminal: Terminal) -> None:
    """In columns for people, as JSON for programs; empty lists say so."""
    await terminal.serve(admin=f"127.0.0.1:{free_port()}")
    assert "no unused token\n\nno enrolled machine" in (await terminal.type("list")).stdout
    await terminal.type("mint", "--name", "waits")
    enrolling = terminal.proxy.graph.enrolling
    assert enrolling is not None
    issued = enrolling.families.begin("agent", EU)
    await enrolling.inventory.enrolled(issued)
    shown = (await terminal.type("list")).stdout
    assert "TOKEN" in shown
    assert "waits" in shown
    assert issued.enrolled.family in shown
    (machine,) = (await terminal.listed())["machines"]
    assert (machine["family"], machine["name"], machine["cluster"]) == (issued.enrolled.family, "agent", EU)


async def test_revoke_in_each_way(terminal: Terminal) -> None:
    """By family, name, cluster and all; a token is withdrawn once."""
    await terminal.serve(admin=f"127.0.0.1:{free_port()}")
    enrolling = terminal.proxy.graph.enrolling
    assert enrolling is not None
    for option in ("--family", "--name", "--cluster", "--all"):
        enrolled = enrolling.families.begin("agent", EU).enrolled
        await asyncio.sleep(0.002)  # a revocation ends what began before it, in milliseconds of the wall clock
        name = {"--family": [enrolled.family], "--name": ["agent"], "--cluster": [EU]}.get(option, [])
        done = await terminal.type("revoke", option, *name)
        assert (done.exit_code, done.stderr) == (0, "")
        assert enrolling.families.revoked(enrolled), option
    await terminal.type("mint", "--name", "agent")
    (unused,) = (await terminal.listed())["tokens"]
    codes = [(await terminal.type("revoke", "--token", unused["id"])).exit_code for _ in range(2)]
    assert codes == [0, 1]


async def test_a_unix_socket_and_every_address(terminal: Terminal) -> None:
    """A unix socket is asked as it is; a listener on all addresses on loopback, with the secret of the settings."""
    socket = f"unix:{terminal.folder}/admin.sock"
    await terminal.serve(admin=socket)
    assert (await terminal.type("list")).exit_code == 0
    assert (await terminal.type("list", where=("--admin", socket))).exit_code == 0
    await terminal.proxy.__aexit__(None, None, None)
    (terminal.folder / "secret").write_text(SECRET + "\n")
    port = free_port()
    await terminal.serve(admin=f"0.0.0.0:{port}", admin_secret={"file": "secret"})
    assert (await terminal.type("list")).exit_code == 0
    there = ("--admin", f"http://0.0.0.0:{port}")
    assert (await terminal.type("list", where=(*there, "--secret-file", f"{terminal.folder}/secret"))).exit_code == 0
    refused = await terminal.type("list", where=there)
    assert (refused.exit_code, "admin_secret_refused" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("written", "asked"),
    [("http://0.0.0.0:9090", "http://127.0.0.1:9090"), ("http://[::]:9090", "http://[::1]:9090"),
     ("http://10.1.2.3:9090/", "http://10.1.2.3:9090"), ("http://admin.example.com:1", "http://admin.example.com:1"),
     ("unix:/run/admin.sock", "unix:/run/admin.sock")],
)  # fmt: skip
def test_where_it_is_asked(written: str, asked: str) -> None:
    """Who listens on every address is asked on loopback."""
    assert administration._reachable(written) == asked


async def test_other_settings_are_administered(terminal: Terminal) -> None:
    """After a reload the rooms of now are asked: a token that is minted then enrolls with the key of now."""
    await terminal.serve(admin=f"127.0.0.1:{free_port()}")
    await terminal.proxy.take(from_mapping(yaml.safe_load(terminal.file.read_text()) | terminal.another(), Path()))
    token = (await terminal.type("mint", "--name", "agent")).stdout.strip()
    enrolling = terminal.proxy.graph.enrolling
    assert enrolling is not None
    assert (await enrolling.tokens.admit(token, "agent", None)).startswith("minted ")


async def test_a_revocation_that_waits_is_told(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the store away the command succeeds, and says on standard error that others do not know yet."""
    await terminal.serve(admin=f"127.0.0.1:{free_port()}")

    async def away(*_words: object, **_options: object) -> str:
        raise StoreUnavailable("away")

    monkeypatch.setattr(terminal.proxy.graph.store, "append", away)
    done = await terminal.type("revoke", "--name", "agent")
    assert (done.exit_code, "the store is away" in done.stderr) == (0, True)


async def test_a_closed_listener_says_what_to_set(terminal: Terminal) -> None:
    """Exit 1, with the sentence of the proxy."""
    await terminal.serve(admin=f"0.0.0.0:{free_port()}")
    refused = await terminal.type("mint", "--name", "agent")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "listen.admin_secret" in refused.stderr


async def test_what_cannot_be_asked_exits_with_2(terminal: Terminal) -> None:
    """Nobody there, no admin listener, a secret that cannot be read, a settings file that is none, wrong words."""
    terminal.write(admin=f"127.0.0.1:{free_port()}")
    nobody = await terminal.type("list")
    assert (nobody.exit_code, "nobody answers at http://127.0.0.1:" in nobody.stderr) == (2, True)
    terminal.write(admin=None)
    assert "has no admin listener" in (await terminal.type("list")).stderr
    terminal.write(admin_secret={"file": "missing"})
    assert "missing" in (await terminal.type("list")).stderr
    terminal.file.write_text("x: 1")
    for words, where in [
        (("list",), None), (("list",), ()), (("list",), ("-c", "a", "--admin", "http://127.0.0.1:1")),
        (("list",), ("--admin", "https://127.0.0.1:1")), (("list",), ("--admin", "127.0.0.1:1")),
        (("list",), ("--admin", "http://127.0.0.1:1/x")), (("list",), ("--admin", "http://a:b@127.0.0.1:1")),
        (("list",), ("--admin", f"unix:{terminal.folder}/nobody")),
        (("revoke",), ("--admin", "http://127.0.0.1:1")),
        (("revoke", "--all", "--name", "a"), ("--admin", "http://127.0.0.1:1")),
        (("mint", "--name", "a", "--expires-in", "soon"), ("--admin", "http://127.0.0.1:1")),
    ]:  # fmt: skip
        done = await terminal.type(*words, where=where)
        assert done.exit_code == 2, (words, where)
        assert ("nobody answers" in done.stderr) == ("unix:" in str(where)), (words, where)


async def test_somebody_else_at_that_address_is_noticed(terminal: Terminal) -> None:
    """A server that answers, and not as an admin listener, with or without JSON: exit 2, and nothing is printed."""
    for content in (b"<p>hello", b"[]", b'{"detail": "no"}'):

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes = content) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n" + content)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            done = await terminal.type("list", where=("--admin", f"http://127.0.0.1:{port}"))
        assert (done.exit_code, done.stdout) == (2, "")
        assert "not as an admin listener" in done.stderr
