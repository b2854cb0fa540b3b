from __future__ import annotations

from kops_py.model.version import Version
from kops_py.tools.containerd import sandbox_image


def test_sandbox_image_follows_version_and_repository() -> None:
    assert sandbox_image(Version.parse("v1.20.2"), None) == "k8s.gcr.io/pause:3.2"
    assert sandbox_image(Version.parse("v1.31.0"), None) == "registry.k8s.io/pause:3.10"
    assert sandbox_image(Version.parse("v1.31.0"), "registry.test:5000/k8s") == "registry.test:5000/k8s/pause:3.10"
