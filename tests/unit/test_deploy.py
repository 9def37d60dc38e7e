"""What lies in deploy/: read by the tools that will read it, as far as they are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from authproxy.settings.load import inspect

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects by kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "authproxy.yaml").read_text()))
    return {one["kind"]: one for one in found}


def test_the_settings_in_the_config_map_are_good(manifests: dict[str, Any], tmp_path: Path) -> None:
    """With its secrets in place, ``check`` finds nothing in it."""
    text = manifests["ConfigMap"]["data"]["authproxy.yaml"].replace("/secrets/", f"{tmp_path}/")
    (tmp_path / "session-key").write_text(KEY)
    (tmp_path / "dex-secret").write_text("a secret of the client")
    file = tmp_path / "authproxy.yaml"
    file.write_text(text)
    assert inspect(file, {"REDIS_URL": "redis://redis:6379/0"}) == []


def test_probes_and_ports_are_those_that_the_settings_open(manifests: dict[str, Any]) -> None:
    """Readiness is asked on the admin port, and the Service leads to the public one."""
    settings = yaml.safe_load(manifests["ConfigMap"]["data"]["authproxy.yaml"])
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings["listen"]["address"].endswith(f":{ports['http']}")
    assert settings["listen"]["admin"].endswith(f":{ports['admin']}")
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_the_pods_run_without_privileges(manifests: dict[str, Any]) -> None:
    """No root, no writable root file system, no capabilities."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_image_is_built_from_what_is_here() -> None:
    """Every path that the Dockerfile copies exists, and it runs a command that there is."""
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    for path in [path for paths in copied for path in paths]:
        assert (DEPLOY.parent / path).exists(), path
    assert 'CMD ["serve", "-c"' in text


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd reads its own units; it is not installed here"
)
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    """No line of the unit is unknown to systemd."""
    unit = tmp_path / "authproxy.service"
    unit.write_text(
        (DEPLOY / "systemd" / "authproxy.service").read_text().replace("/opt/authproxy/bin/authproxy", "/bin/true")
    )
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr, done.stderr
