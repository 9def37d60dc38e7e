"""kubectl through the proxy to a Kubernetes API: exec, attach, cp, port-forward and logs, by WebSocket and by SPDY."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
import yaml

from tests.peers.authority import SERVER, Authority
from tests.peers.authproxy_process import AuthproxyProcess
from tests.peers.kube_api import KubeApi
from tests.peers.openid_provider import OpenIDPeer
from tests.peers.program import PATIENCE, Program, free_port
from tests.peers.upstream_app import UpstreamApp
from tests.peers.yardstick import stretched

HOST: Final = "localhost"
TOKEN: Final = "kubectl-" + "t" * 40
SERVICE: Final = "service-account-" + "s" * 40
BIG: Final = 12 << 20
SECONDS: Final = 6  # long enough to start kubectl, on an idle machine
SWITCHES: Final = ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS")
WAYS: Final = pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "spdy"])


SPOKEN: Final = {
    (False, "websocket"): {"v5.channel.k8s.io"},
    (False, "SPDY/3.1"): {"v4.channel.k8s.io"},
    (True, "websocket"): {"SPDY/3.1+portforward.k8s.io"},
    (True, "SPDY/3.1"): {"portforward.k8s.io"},
}
"""What kubectl and the API server agree on, for ports or not, by the upgrade that carries it."""


@cache
def knows_websockets() -> bool:
    """kubectl speaks SPDY alone before 1.30, whatever its environment says; that is the older Debian's."""
    said = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=True)
    return int(json.loads(said.stdout)["clientVersion"]["minor"].rstrip("+")) >= 30


class Done(NamedTuple):
    """A kubectl that has ended."""

    code: int
    out: bytes
    err: str


class Cluster(NamedTuple):
    """An API server, the proxy before it, and what a person at a terminal has."""

    api: KubeApi
    proxy: AuthproxyProcess
    peer: OpenIDPeer
    folder: Path

    def environ(self, *, websockets: bool = True) -> dict[str, str]:
        """kubectl's environment; it remembers nothing from elsewhere."""
        switches = dict.fromkeys(SWITCHES, "true" if websockets else "false")
        return {"HOME": str(self.folder), "KUBECONFIG": str(self.folder / "kubeconfig"), **switches}

    def login(self, token: str) -> None:
        """Write a kubeconfig with this token."""
        entry = {"server": f"https://{HOST}:{self.proxy.port}", "certificate-authority": str(self.folder / "ca.pem")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": entry}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me"}}],
            "current-context": "here",
        }
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")

    async def kubectl(self, *words: str, stdin: bytes = b"", websockets: bool = True) -> Done:
        """Run kubectl to its end."""
        pipe = asyncio.subprocess.PIPE
        env = {**os.environ, **self.environ(websockets=websockets)}
        program = await asyncio.create_subprocess_exec("kubectl", *words, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        async with asyncio.timeout(PATIENCE):
            out, err = await program.communicate(stdin)
        assert program.returncode is not None
        return Done(program.returncode, out, err.decode())

    def went_through(self, verb: str, *, websockets: bool) -> None:
        """The newest request for ``verb`` came by the proxy: its identity, its token, nothing of the client's own."""
        seen = self.api.asked(verb)[-1]
        assert seen.get("Authorization") == f"Bearer {SERVICE}"
        assert seen.get("X-Forwarded-User") == "kubectl"
        assert seen.get("Impersonate-User") == ""
        assert TOKEN not in json.dumps(seen)
        upgrade, _, protocol = self.api.protocols[-1].partition(" ")
        assert upgrade == seen.get("Upgrade") == ("websocket" if websockets and knows_websockets() else "SPDY/3.1")
        assert protocol in SPOKEN[verb == "portforward", upgrade]


def _settings(api: KubeApi, peer: OpenIDPeer, certificate: Any) -> dict[str, Any]:
    return {
        "listen": {"tls": {"cert": str(certificate.certificate), "key": str(certificate.key)}},
        "public_url": "https://auth.test",
        "issuers": {"peer": {"issuer": peer.issuer, "audiences": ["authproxy"]}},
        "tokens": {"kubectl": {"secrets": [{"value": TOKEN}]}},
        "policies": {"people": {"any": [{"authenticated": True}]}},
        "apps": {
            "kube": {
                "host": HOST,
                "upstream": {"url": api.url, "authorization": {"bearer": {"value": SERVICE}}},
                "routes": [{"path": "/", "accept": ["token", "bearer"], "policy": "people"}],
            }
        },
    }


@pytest.fixture
async def cluster(tmp_path: Path, upstream_app: UpstreamApp) -> AsyncIterator[Cluster]:
    """kubectl is logged in with a static token; port 80 of the pod is the recording application."""
    pod = tmp_path / "pod"
    pod.mkdir()
    authority = Authority(tmp_path, "ca")
    certificate = authority.signed(HOST, dns=(HOST,), usage=SERVER)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(KubeApi(pod, {80: upstream_app.port}))
        peer = await stack.enter_async_context(OpenIDPeer())
        settings = _settings(api, peer, certificate)
        proxy = await stack.enter_async_context(AuthproxyProcess(tmp_path, settings))
        found = Cluster(api, proxy, peer, tmp_path)
        found.login(TOKEN)
        yield found


@WAYS
async def test_exec_carries_three_streams_and_the_exit_code(cluster: Cluster, websockets: bool) -> None:
    """Input, output and errors arrive apart, kubectl ends with the command's own code, and lies are stripped."""
    script = "tr a-z A-Z; echo trouble >&2; exit 7"
    words = ("exec", "-i", "web", "--as", "root", "--", "sh", "-c", script)
    done = await cluster.kubectl(*words, stdin=b"hello", websockets=websockets)
    assert (done.code, done.out) == (7, b"HELLO"), done.err
    assert "trouble" in done.err
    cluster.went_through("exec", websockets=websockets)


@WAYS
async def test_twelve_megabytes_go_in_and_out(cluster: Cluster, websockets: bool) -> None:
    """What goes in by exec comes out of it, to the last byte, with the input closed on the way."""
    data = os.urandom(BIG)
    done = await cluster.kubectl("exec", "-i", "web", "--", "cat", stdin=data, websockets=websockets)
    assert (done.code, hashlib.sha256(done.out).digest()) == (0, hashlib.sha256(data).digest()), done.err
    cluster.went_through("exec", websockets=websockets)


@WAYS
async def test_attach_joins_the_running_program(cluster: Cluster, websockets: bool) -> None:
    """attach is an upgrade like exec, with a path of its own."""
    done = await cluster.kubectl("attach", "-i", "web", stdin=b"are you there?\n", websockets=websockets)
    assert (done.code, done.out) == (0, b"are you there?\n"), done.err
    cluster.went_through("attach", websockets=websockets)


@WAYS
async def test_files_are_copied_both_ways(cluster: Cluster, websockets: bool) -> None:
    """kubectl cp: there, and back again."""
    here, back = cluster.folder / "here", cluster.folder / "back"
    here.write_bytes(os.urandom(1 << 20))
    there = f"web:{cluster.api.folder}/there"
    for words in ((str(here), there), (there, str(back))):
        done = await cluster.kubectl("cp", *words, websockets=websockets)
        assert done.code == 0, done.err
    assert back.read_bytes() == here.read_bytes() == (cluster.api.folder / "there").read_bytes()
    cluster.went_through("exec", websockets=websockets)


@WAYS
async def test_a_port_is_forwarded(cluster: Cluster, upstream_app: UpstreamApp, websockets: bool) -> None:
    """HTTP requests go through a forwarded port, several at a time, and a large answer arrives whole."""
    port = free_port()
    words = ("kubectl", "port-forward", "web", f"{port}:80", "--address", "127.0.0.1")
    async with Program(*words, env=cluster.environ(websockets=websockets)) as forward:
        await forward.line(lambda line: line.startswith("Forwarding from") or None)
        async with aiohttp.ClientSession() as http:

            async def ask(number: int) -> int:
                async with http.get(f"http://127.0.0.1:{port}/big?size={number << 20}") as answer:
                    return len(await answer.read())

            assert await asyncio.gather(*map(ask, (1, 2, 3))) == [1 << 20, 2 << 20, 3 << 20]
        cluster.went_through("portforward", websockets=websockets)
    assert len(upstream_app.requests) == 3


async def test_logs_come_line_by_line(cluster: Cluster) -> None:
    """Each line of logs -f is there before the next is written; when kubectl leaves, the API server is left at once."""
    async with Program("kubectl", "logs", "-f", "web", env=cluster.environ()) as logs:
        for number in range(3):
            cluster.api.log.put_nowait(line := f"line {number}")
            assert await logs.line(partial(_is, line))
        assert not cluster.api.log_left.is_set()
    await asyncio.wait_for(cluster.api.log_left.wait(), PATIENCE)
    assert cluster.api.asked("log")[-1].get("Authorization") == f"Bearer {SERVICE}"


def _is(line: str, said: str) -> bool | None:
    return said == line or None


@WAYS
async def test_a_shell_ends_with_its_credential(cluster: Cluster, websockets: bool) -> None:
    """An exec that is open when its JWT expires is cut then and not before, and so is what runs in the pod."""
    cluster.login(cluster.peer.id_token(exp=(expires := int(time.time() + stretched(SECONDS)))))
    words = ("kubectl", "exec", "-i", "web", "--", "sh", "-c", "echo $$ > shell; echo open; exec cat")
    # Standard input stays open, as at a terminal: what ends is the tunnel.
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, **cluster.environ(websockets=websockets)}
    shell = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        assert await asyncio.wait_for(shell.stdout.readline(), PATIENCE) == b"open\n"
        shell.stdin.write(b"there?\n")
        assert await asyncio.wait_for(shell.stdout.readline(), PATIENCE) == b"there?\n"
        assert time.time() < expires, "kubectl took longer than the yardstick explains"
        await asyncio.wait_for(shell.wait(), PATIENCE)
        assert time.time() >= expires
    finally:
        if shell.returncode is None:
            shell.kill()
        await shell.communicate()
    async with asyncio.timeout(PATIENCE):
        while Path(f"/proc/{(cluster.api.folder / 'shell').read_text().strip()}").exists():
            await asyncio.sleep(0.05)  # another process: there is no event to wait for


@WAYS
async def test_without_a_credential_nothing_is_upgraded(cluster: Cluster, websockets: bool) -> None:
    """A wrong token: kubectl is told so in its own words, and the API server sees no request at all."""
    cluster.login("wrong")
    done = await cluster.kubectl("exec", "web", "--", "true", websockets=websockets)
    assert done.code != 0
    assert re.search(r"(?i)unauthorized|logged in|provide credentials", done.err), done.err
    assert cluster.api.requests == []
