"""kube-apiserver and etcd as files, taken out of a bundle's image archives."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

from tests.bundle import Bundle


def unpack_image(archive: Path, target: Path) -> None:
    """Unpack all layers of a docker-archive into a folder; whiteouts do not occur in what we build."""
    with tarfile.open(archive) as image:
        manifest = image.extractfile("manifest.json")
        assert manifest is not None
        for layer in json.load(manifest)[0]["Layers"]:
            blob = image.extractfile(layer)
            assert blob is not None
            with tarfile.open(fileobj=io.BytesIO(blob.read())) as content:
                content.extractall(target, filter="tar")


def find_binary(bundle: Bundle, version: str, image: str, name: str, work: Path) -> Path:
    """Return the program ``name`` out of the image whose reference holds ``image``."""
    for archive in bundle.image_archives(version):
        if any(f"/{image}:" in ref for ref in archive.refs):
            target = work / image
            unpack_image(archive.path, target)
            return next(p for p in sorted(target.rglob(name)) if p.is_file() and not p.is_symlink())
    raise LookupError(f"the bundle has no image {image} for {version}")


def find_kubectl(bundle: Bundle, version: str, work: Path) -> Path:
    """Return kubectl out of the bundle's package of this version."""
    package = next(bundle.repository(version).glob(f"kubectl_{bundle.package_version(version)}_*.deb"))
    target = work / "kubectl"
    subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True, timeout=120)
    return target / "usr" / "bin" / "kubectl"
