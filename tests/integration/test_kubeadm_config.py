"""A real kubeadm reads the rendered configuration and finds no unknown field in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from kops_py.model.version import Version, facts_of
from kops_py.tools import kubeadm
from tests.bundle import cached
from tests.unit.tools.kubeadm_cases import CASES, KEY, TOKEN, stacked

pytestmark = pytest.mark.bundle


def _unpack(folder: Path) -> tuple[Path, Version]:
    bundle = cached()
    if bundle is None:
        pytest.skip("no Kubernetes bundle: python -m tests.bundle ensure, or set KOPS_BUNDLE")
    version = Version.parse(bundle.kubernetes_versions[0])
    (package,) = bundle.repository(str(version)).glob(f"kubeadm_{version.bare}-*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder / "usr/bin/kubeadm", version


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Version]:
    return _unpack(tmp_path_factory.mktemp("kubeadm"))


def run(binary: Path, argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, *argv[1:]], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("case", CASES)
def test_kubeadm_takes_every_field(case: str, binary: tuple[Path, Version], tmp_path: Path) -> None:
    program, version = binary
    make, render = CASES[case]
    config = tmp_path / "kubeadm.yaml"
    config.write_text(render(make(str(version))))
    argv = kubeadm.config_validate_argv(version, str(config)) or (
        *("kubeadm", "config", "migrate", "--old-config", str(config)),
        *("--new-config", str(tmp_path / "migrated.yaml")),
    )
    result = run(program, argv)
    assert result.returncode == 0, result.stderr
    # Before 1.28 strict decoding only warns of unknown fields.
    assert "unknown field" not in result.stderr
    assert "strict" not in result.stderr


def test_kubeadm_understands_what_was_meant(binary: tuple[Path, Version], tmp_path: Path) -> None:
    program, version = binary
    if facts_of(version).kubeadm_api != "kubeadm.k8s.io/v1beta2":
        pytest.skip(f"written for the v1beta2 of Debian's sources; this bundle has {version}")
    make, render = CASES["stacked-init"]
    config, migrated = tmp_path / "kubeadm.yaml", tmp_path / "migrated.yaml"
    config.write_text(render(make(str(version))))
    argv = ("kubeadm", "config", "migrate", "--old-config", str(config), "--new-config", str(migrated))
    assert run(program, argv).returncode == 0
    read = {document["kind"]: document for document in yaml.safe_load_all(migrated.read_text())}
    init, cluster = read["InitConfiguration"], read["ClusterConfiguration"]
    assert init["certificateKey"] == KEY
    assert (init["bootstrapTokens"][0]["token"], init["bootstrapTokens"][0]["ttl"]) == (TOKEN, "30m0s")
    assert init["nodeRegistration"]["criSocket"] == kubeadm.CRI_SOCKET
    assert [taint["key"] for taint in init["nodeRegistration"]["taints"]] == list(
        facts_of(version).control_plane_taints
    )
    assert cluster["apiServer"]["timeoutForControlPlane"] == "4m0s"
    assert cluster["apiServer"]["extraArgs"] == {"profiling": "false", "v": "2"}


def test_a_field_that_does_not_exist_is_noticed(binary: tuple[Path, Version], tmp_path: Path) -> None:
    program, version = binary
    make, render = CASES["stacked-init"]
    config = tmp_path / "kubeadm.yaml"
    config.write_text(render(make(str(version))).replace("clusterName", "clusterNome"))
    argv = (
        "kubeadm",
        "config",
        "migrate",
        "--old-config",
        str(config),
        "--new-config",
        str(tmp_path / "new.yaml"),
    )
    assert 'unknown field "clusterNome"' in run(program, argv).stderr


def test_images_are_listed(binary: tuple[Path, Version], tmp_path: Path) -> None:
    program, version = binary
    config = tmp_path / "kubeadm.yaml"
    spec = stacked(str(version))
    config.write_text(kubeadm.init_config(spec, spec.host("n1"), token=TOKEN, token_ttl_s=60, certificate_key=KEY))
    result = run(program, ("kubeadm", "config", "images", "list", "-o", "json", "--config", str(config)))
    images = json.loads(result.stdout)["images"]
    facts = facts_of(version)
    assert f"{facts.default_registry}/kube-apiserver:{version}" in images
    assert f"{facts.default_registry}/pause:{facts.pause}" in images
    assert any(image.startswith(f"{facts.default_registry}/etcd:{facts.etcd}") for image in images)
