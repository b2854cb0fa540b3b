"""The edits of containerd's configuration, on what real binaries printed (Debian's 1.6.20, 1.7.24 and 2.1.9)."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError  # type: ignore[import-untyped]

from tests.unit.playbooks.loading import DATA, load

plugin = load("filter_plugins/kops_containerd.py")
PAUSE = "registry.test:5000/k8s/pause:3.10"
CRI, RUNTIME, IMAGES = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"
V2_CHANGES = {
    f"plugins.{CRI}.sandbox_image": PAUSE,
    f"plugins.{CRI}.registry.config_path": "/etc/containerd/certs.d",
    f"plugins.{CRI}.containerd.runtimes.runc.options.SystemdCgroup": True,
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def changes(default: str, edited: str) -> dict[str, Any]:
    before, after = dict(leaves(tomllib.loads(default))), dict(leaves(tomllib.loads(edited)))
    assert before.keys() <= after.keys()
    return {path: value for path, value in after.items() if before.get(path) != value}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.6.20", V2_CHANGES),
        ("1.7.24", {**V2_CHANGES, f"plugins.{CRI}.cni.bin_dir": "/opt/cni/bin"}),
        (
            "2.1.9",
            {
                f"plugins.{IMAGES}.pinned_images.sandbox": PAUSE,
                f"plugins.{IMAGES}.registry.config_path": "/etc/containerd/certs.d",
                f"plugins.{RUNTIME}.containerd.runtimes.runc.options.SystemdCgroup": True,
                f"plugins.{RUNTIME}.cni.bin_dirs": ["/opt/cni/bin", "/usr/lib/cni"],
            },
        ),
    ],
)
def test_exactly_what_a_node_needs_is_changed(name: str, expected: dict[str, Any]) -> None:
    default = (DATA / f"containerd-{name}.toml").read_text()
    edited = plugin.containerd_config(default, PAUSE)
    assert changes(default, edited) == expected
    assert plugin.containerd_config(edited, PAUSE) == edited
    assert edited.startswith(plugin.MANAGED)


def test_version_4_is_edited_as_version_3() -> None:
    # No 2.3 binary was at hand; its container-runtime sections are documented to lie as in version 3.
    default = (DATA / "containerd-2.1.9.toml").read_text().replace("version = 3", "version = 4", 1)
    edited = tomllib.loads(plugin.containerd_config(default, PAUSE))
    assert edited["version"] == 4
    assert edited["plugins"][IMAGES]["pinned_images"]["sandbox"] == PAUSE


def test_version_3_without_bin_dirs_keeps_its_one_folder_key() -> None:
    config = tomllib.loads((DATA / "containerd-2.1.9.toml").read_text())
    older = copy.deepcopy(config)
    del older["plugins"][RUNTIME]["cni"]["bin_dirs"]  # as 2.0 has it
    import tomli_w

    edited = tomllib.loads(plugin.containerd_config(tomli_w.dumps(older), PAUSE))
    assert edited["plugins"][RUNTIME]["cni"]["bin_dir"] == "/opt/cni/bin"
    assert "bin_dirs" not in edited["plugins"][RUNTIME]["cni"]


def test_the_container_runtime_is_switched_on_and_other_plugins_stay_off() -> None:
    edited = tomllib.loads(plugin.containerd_config('version = 2\ndisabled_plugins = ["cri", "x.btrfs"]\n', PAUSE))
    assert edited["disabled_plugins"] == ["x.btrfs"]


@pytest.mark.parametrize("text", ["version = 1\n", "version = 9\n", "", "no toml ["])
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="containerd"):
        plugin.containerd_config(text, PAUSE)


def test_registry_files_are_toml_with_mirrors_in_order() -> None:
    files = plugin.registry_files(
        {"docker.io": ["https://one.test", "http://two.test:5000/v2/hub"], "_default": ["https://all.test"]}
    )
    assert [file["path"] for file in files] == [
        "/etc/containerd/certs.d/_default/hosts.toml",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
    ]
    default, docker = (tomllib.loads(file["content"]) for file in files)
    pull = {"capabilities": ["pull", "resolve"]}
    assert default == {"host": {"https://all.test": pull}}
    assert docker["server"] == "https://registry-1.docker.io"
    assert list(docker["host"].items()) == [("https://one.test", pull), ("http://two.test:5000/v2/hub", pull)]
