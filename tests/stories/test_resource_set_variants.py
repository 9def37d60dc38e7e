"""flux-operator with a password, and with a certificate: the two settings files of docs/how-to/resource-set.md."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import bcrypt
import pytest
import yaml

from tests.peers.authority import SERVER, Authority, Signed
from tests.stories.test_resource_set import INPUTS, LARGEST, OWN, Operator, served
from tests.unit.test_docs import WHOLE

CLUSTER: Final = "eu-01.k8s.example.com"
FILES: Final = [block.text for block in WHOLE if block.page == "docs/how-to/resource-set.md"]
BASIC, MTLS = FILES


class Cluster(NamedTuple):
    """The operator of one cluster, with what its Secret holds; and how it would ask without, or with wrong things."""

    operator: Operator
    headers: Mapping[str, str]
    others: tuple[tuple[Operator, Mapping[str, str]], ...]

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """With the right credential."""
        return await self.operator.ask(path, method=method, **self.headers, **headers)


def pair(user: str, password: str) -> dict[str, str]:
    """The header of ``username`` and ``password``."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def with_password(operator: Operator) -> Cluster:
    """Wrong: nothing, a wrong password, an unknown user, another user's password, a token, an empty pair."""
    wrong = [{}, pair("eu-01", "wrong"), pair("eu-03", "eu-01"), pair("eu-02", "eu-01"), pair("", "")]
    wrong += [{"Authorization": "Bearer eu-01"}, {"Authorization": "Basic"}]
    return Cluster(operator, pair("eu-01", "eu-01"), tuple((operator, headers) for headers in wrong))


def with_certificate(operator: Operator, folder: Path, clients: Authority) -> Cluster:
    """Wrong: no certificate; one of another authority gets no connection at all (see test_machines)."""

    def client(shown: Signed | None = None) -> Operator:
        context = ssl.create_default_context(cafile=str(folder / "servers.pem"))
        context.check_hostname = False
        if shown is not None:
            context.load_cert_chain(*shown)
        return Operator(operator.http, operator.address, operator.api, context)

    bare = client()
    wrong: tuple[tuple[Operator, Mapping[str, str]], ...]
    wrong = ((bare, {}), (bare, pair("eu-01", "eu-01")), (bare, {"X-Forwarded-Client-Cert": "CN=eu-01"}))
    return Cluster(client(clients.signed("eu-01", dns=(CLUSTER,))), {}, wrong)


@pytest.fixture(params=["password", "certificate"])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """The operator of eu-01, in both variants."""
    users = {name: bcrypt.hashpw(name.encode(), bcrypt.gensalt(4)).decode() for name in ("eu-01", "eu-02", "ci")}
    (tmp_path / "htpasswd").write_text("".join(f"{name}:{entry}\n" for name, entry in users.items()))
    (tmp_path / "htgroup").write_text("writers: ci\n")
    clients, servers = Authority(tmp_path, "clients"), Authority(tmp_path, "servers")
    for made, name in zip(
        servers.signed("internal-api.example.com", usage=SERVER), ("tls.crt", "tls.key"), strict=True
    ):
        shutil.copy(made, tmp_path / name)
    secret = request.param == "password"
    async with served(yaml.safe_load(BASIC if secret else MTLS), tmp_path) as operator:
        yield with_password(operator) if secret else with_certificate(operator, tmp_path, clients)


async def test_a_cluster_reads_its_own_inputs(cluster: Cluster) -> None:
    """200 with the API's JSON; a password does not travel on, the name does."""
    status, headers, body = await cluster.ask(OWN)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == INPUTS
    (seen,) = cluster.operator.api.requests
    assert "Authorization" not in seen.headers
    assert seen.headers["X-Forwarded-User"] == "eu-01"
    assert seen.headers["User-Agent"] == "flux-operator/0.58.1"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/flux/clusters/eu-02.k8s.example.com/apps",
        "/api/v2/flux/clusters/EU-01.k8s.example.com/apps",
        "/api/v2/flux/clusters/eu-01.k8s.example.com.evil/apps",
        "/api/v2/flux/apps",
        "/api/v2/other",
    ],
)
async def test_a_cluster_reads_nobody_elses(cluster: Cluster, path: str) -> None:
    """403 as JSON for whatever does not name its own cluster, and the API is not touched."""
    status, headers, body = await cluster.ask(path)
    assert (status, headers["content-type"]) == (403, "application/json")
    assert json.loads(body)["error"] == "not_allowed"
    assert cluster.operator.api.requests == []


async def test_without_a_right_credential_the_answer_is_401_json(cluster: Cluster) -> None:
    """Never a redirect, whatever is wrong, and even for a client that would take a page."""
    for operator, wrong in cluster.others:
        status, headers, body = await operator.ask(OWN, **wrong, Accept="text/html")
        assert (status, headers["content-type"]) == (401, "application/json"), wrong
        assert "location" not in headers
        assert headers["www-authenticate"]
        assert json.loads(body)["error"] in {"not_signed_in", "wrong_credentials"}
    assert cluster.operator.api.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_reading_is_not_writing(cluster: Cluster, method: str) -> None:
    """A cluster changes nothing, not even its own inputs."""
    for path in (OWN, "/api/v2/apps"):
        status, headers, body = await cluster.ask(path, method)
        assert (status, json.loads(body)["error"]) == (403, "not_allowed")
        assert headers["content-type"] == "application/json"
    assert cluster.operator.api.requests == []


async def test_the_largest_answer_passes_untouched(cluster: Cluster) -> None:
    """900 KiB, plain and compressed, arrive byte for byte."""
    cluster.operator.api.body = b'{"inputs":[]}'.ljust(LARGEST)
    assert (await cluster.ask(OWN))[2] == cluster.operator.api.body
    status, headers, body = await cluster.ask(OWN, **{"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == cluster.operator.api.body


async def test_probes_need_nothing(cluster: Cluster) -> None:
    """The public route is open without a credential; a writer of the password file writes."""
    operator, nothing = cluster.others[0]
    assert nothing == {}
    assert (await operator.ask("/health"))[0] == 200
    writes = (await operator.ask("/api/v2/apps", method="POST", **pair("ci", "ci")))[0]
    assert writes == (200 if cluster.headers else 401)
