from __future__ import annotations

import pytest

from kops_py.model.version import Version
from kops_py.tools.containerd import parse_version, sandbox_image


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", (1, 6, 20)),
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown \n", (2, 1, 9)),
        ("containerd containerd.io 1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182\n", (1, 7, 24)),
        ("containerd containerd.io v2.2.1 dea7da592f5d1d2b7755e3a161be07f43fad8f75\n", (2, 2, 1)),
    ],
)
def test_version_as_debian_and_docker_print_it(output: str, version: tuple[int, int, int]) -> None:
    assert parse_version(output) == version


@pytest.mark.parametrize("output", ["", "sh: 1: containerd: not found", "runc version 1.1.5 1 2", "containerd 1.7.24"])
def test_other_text_is_refused(output: str) -> None:
    with pytest.raises(ValueError, match="containerd --version"):
        parse_version(output)


def test_sandbox_image_follows_version_and_repository() -> None:
    assert sandbox_image(Version.parse("v1.20.2"), None) == "k8s.gcr.io/pause:3.2"
    assert sandbox_image(Version.parse("v1.31.0"), None) == "registry.k8s.io/pause:3.10"
    assert sandbox_image(Version.parse("v1.31.0"), "registry.test:5000/k8s") == "registry.test:5000/k8s/pause:3.10"
