"""A bundle of stand-ins: packages and images with the right names, versions and places, made in a second."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from tests.bundle.archive import Entry, ImageSpec, write_archive
from tests.bundle.repo import Signer, write_repository

VERSIONS = ("1.20.2", "1.20.3")
KEPT_NODE_IMAGES = ("k8s.gcr.io/kube-proxy", "k8s.gcr.io/pause")
CONTROL_PLANE_IMAGES = ("k8s.gcr.io/kube-apiserver",)
_UNIT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
_PACKAGES: dict[str, dict[str, str]] = {
    "kubelet": {"usr/bin/kubelet": "#!/bin/sh\n", "usr/lib/systemd/system/kubelet.service": _UNIT},
    "kubeadm": {"usr/bin/kubeadm": "#!/bin/sh\n"},
    "kubectl": {"usr/bin/kubectl": "#!/bin/sh\n"},
}
_ARCHITECTURE = "amd64"


def _package(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    root = folder / f".{name}"
    for path, text in {**files, "DEBIAN/control": _control(name, version)}.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755 if path.startswith("usr/bin") else 0o644)
    package = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(package)], check=True, capture_output=True)
    subprocess.run(["rm", "-r", str(root)], check=True)


def _control(name: str, version: str) -> str:
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@kops-py.test>\n"
        "Description: stand-in for tests\n"
    )


def make_packages(bundle: Path) -> Path:
    """Write ``packages/v1.20/deb`` with its signature; returns the public key."""
    folder = bundle / "packages" / "v1.20" / "deb"
    folder.mkdir(parents=True)
    for version in VERSIONS:
        for name, files in _PACKAGES.items():
            _package(folder, name, f"{version}-1.1", files)
    _package(folder, "cri-tools", "1.20.0-1.1", {"usr/bin/crictl": "#!/bin/sh\n"})
    with Signer(bundle / "gnupg") as signer:
        write_repository(folder, "v1.20", _ARCHITECTURE, signer)
    return folder / "Release.key"


def make_images(bundle: Path) -> None:
    """Write ``images/vX/`` for every version."""
    for version in VERSIONS:
        folder = bundle / "images" / f"v{version}"
        index = []
        for name in (*KEPT_NODE_IMAGES, *CONTROL_PLANE_IMAGES):
            ref = f"{name}:v{version}"
            file = folder / f"{name.rpartition('/')[2]}.tar"
            write_archive(ImageSpec(ref, ((Entry("marker", ref.encode()),),), _ARCHITECTURE, ("/marker",)), file)
            index.append(
                {
                    "file": file.name,
                    "refs": [ref],
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    "size_bytes": file.stat().st_size,
                    "for": "control-plane" if name in CONTROL_PLANE_IMAGES else "all",
                }
            )
        (folder / "images.json").write_text(json.dumps(index))
