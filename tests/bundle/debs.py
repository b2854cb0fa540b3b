"""Debian packages that behave like upstream's: same names, version strings, dependencies and places of files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.bundle import recipe
from tests.bundle.recipe import Folders, KubernetesVersion
from tests.bundle.shell import Progress, output, run
from tests.bundle.source import unpack_package

_MAINTAINER = "kops-py test bundle <nobody@kops-py.test>"

_KUBELET_UNIT = """\
[Unit]
Description=kubelet: the Kubernetes node agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""

_KUBELET_DROP_IN = """\
# What kubeadm init and join write decides how the kubelet runs; the user's words come last.
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

# Enabled when installed, not started, not restarted by an upgrade: kubeadm and the operator decide that.
_KUBELET_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    deb-systemd-helper unmask kubelet.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled kubelet.service; then
        deb-systemd-helper enable kubelet.service >/dev/null || true
    else
        deb-systemd-helper update-state kubelet.service >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
fi
"""
_KUBELET_PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop kubelet.service || true
fi
"""
_KUBELET_POSTRM = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
if [ -x /usr/bin/deb-systemd-helper ]; then
    case "$1" in
        remove) deb-systemd-helper mask kubelet.service >/dev/null || true ;;
        purge)
            deb-systemd-helper purge kubelet.service >/dev/null || true
            deb-systemd-helper unmask kubelet.service >/dev/null || true ;;
    esac
fi
"""


@dataclass(frozen=True, slots=True)
class DebFile:
    """One file of a package: its place, where its content comes from, its mode."""

    path: str
    content: Path | str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class DebSpec:
    """A package to build."""

    name: str
    version: str
    summary: str
    files: tuple[DebFile, ...]
    depends: tuple[str, ...] = ()
    empty_folders: tuple[str, ...] = ()
    conffiles: tuple[str, ...] = ()
    scripts: dict[str, str] = field(default_factory=dict)

    def file_name(self, architecture: str) -> str:
        """Name of the package's file, as upstream's repository has it."""
        return f"{self.name}_{self.version}_{architecture}.deb"

    def control(self, architecture: str, installed_kib: int) -> str:
        """The control file."""
        lines = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": architecture,
            "Maintainer": _MAINTAINER,
            "Installed-Size": str(installed_kib),
            "Depends": ", ".join(self.depends),
            "Section": "admin",
            "Priority": "optional",
            "Homepage": "https://kubernetes.io",
            "Description": f"{self.summary}\n Built from Debian's sources for test clusters; not for production.",
        }
        return "".join(f"{key}: {value}\n" for key, value in lines.items() if value)


def _stage(spec: DebSpec, root: Path) -> int:
    """Lay the files out; gives their size in KiB."""
    size_bytes = 0
    for name in spec.empty_folders:
        (root / name).mkdir(parents=True, exist_ok=True)
    for file in spec.files:
        place = root / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.content, str):
            place.write_text(file.content, encoding="utf-8")
        else:
            shutil.copyfile(file.content, place)
        place.chmod(file.mode)
        size_bytes += place.stat().st_size
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    return (size_bytes + 1023) // 1024


def build(spec: DebSpec, target: Path, architecture: str, folders: Folders, progress: Progress) -> Path:
    """Write the package into the folder `target`; one that is there stays. The same input gives the same bytes."""
    package = target / spec.file_name(architecture)
    if package.is_file():
        return package
    root = folders.build / "stage" / package.stem
    shutil.rmtree(root, ignore_errors=True)
    installed_kib = _stage(spec, root)
    meta = root / "DEBIAN"
    meta.mkdir(mode=0o755)
    (meta / "control").write_text(spec.control(architecture, installed_kib), encoding="utf-8")
    if spec.conffiles:
        (meta / "conffiles").write_text("".join(f"{path}\n" for path in spec.conffiles), encoding="utf-8")
    for name, text in spec.scripts.items():
        (meta / name).write_text(text, encoding="utf-8")
        (meta / name).chmod(0o755)
    target.mkdir(parents=True, exist_ok=True)
    partial = target / f"{package.name}.partial"
    run(
        ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", str(root), str(partial)],
        what=f"packing {package.name}",
        log=folders.log,
        progress=progress,
        env={"SOURCE_DATE_EPOCH": str(recipe.SOURCE_DATE_EPOCH)},
    )
    partial.rename(package)
    shutil.rmtree(root)
    return package


def architecture() -> str:
    """Debian's name of this machine's architecture."""
    return output(["dpkg", "--print-architecture"], what="dpkg --print-architecture").strip()


def _cni_version(folders: Folders) -> str:
    (package,) = folders.debian.glob(f"{recipe.CNI_PACKAGE}_*.deb")
    version = output(["dpkg-deb", "-f", str(package), "Version"], what=f"version of {package.name}").strip()
    return version.partition("+")[0].partition("-")[0]


def _kubelet(version: KubernetesVersion, binaries: Path) -> DebSpec:
    return DebSpec(
        name="kubelet",
        version=version.package_version,
        summary="Node agent for Kubernetes clusters",
        depends=(
            "iptables (>= 1.4.21)",
            "kubernetes-cni (>= 0.8.7)",
            "conntrack",
            "ebtables",
            "ethtool",
            "iproute2",
            "mount",
            "socat",
            "util-linux",
        ),
        files=(
            DebFile("usr/bin/kubelet", binaries / "kubelet", 0o755),
            DebFile("usr/lib/systemd/system/kubelet.service", _KUBELET_UNIT),
            DebFile("etc/default/kubelet", "KUBELET_EXTRA_ARGS=\n"),
        ),
        # Empty, unlike upstream's, which keeps them by a file: kubeadm before 1.23 refuses to join with it there.
        empty_folders=("etc/kubernetes/manifests", "var/lib/kubelet"),
        conffiles=("/etc/default/kubelet",),
        scripts={"postinst": _KUBELET_POSTINST, "prerm": _KUBELET_PRERM, "postrm": _KUBELET_POSTRM},
    )


def specs(version: KubernetesVersion, binaries: Path, crictl: Path, folders: Folders) -> tuple[DebSpec, ...]:
    """The five packages of one version; cri-tools and kubernetes-cni are the same for a whole minor."""
    plugins = unpack_package(folders, recipe.CNI_PACKAGE) / "usr/lib/cni"
    oldest = f"1.{version.minor - 1}.0"
    return (
        DebSpec(
            name="kubernetes-cni",
            version=f"{_cni_version(folders)}-{recipe.PACKAGE_REVISION}",
            summary="Binaries required to provision Kubernetes container networking",
            depends=("libc6",),
            files=(
                *tuple(DebFile(f"opt/cni/bin/{p.name}", p, 493) for p in sorted(plugins.iterdir())),
                DebFile("etc/cni/net.d/.kubernetes-cni-keep", ""),
            ),
        ),
        DebSpec(
            name="cri-tools",
            version=f"1.{version.minor}.0-{recipe.PACKAGE_REVISION}",
            summary="Command-line utility for interacting with a container runtime",
            files=(DebFile("usr/bin/crictl", crictl, 0o755),),
        ),
        DebSpec(
            name="kubectl",
            version=version.package_version,
            summary="Command-line utility for interacting with a Kubernetes cluster",
            files=(DebFile("usr/bin/kubectl", binaries / "kubectl", 0o755),),
        ),
        _kubelet(version, binaries),
        DebSpec(
            name="kubeadm",
            version=version.package_version,
            summary="Command-line utility for administering a Kubernetes cluster",
            depends=(
                f"kubelet (>= {oldest})",
                f"kubectl (>= {oldest})",
                "kubernetes-cni (>= 0.8.7)",
                "cri-tools (>= 1.19.0)",
            ),
            files=(
                DebFile("usr/bin/kubeadm", binaries / "kubeadm", 0o755),
                DebFile("usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", _KUBELET_DROP_IN),
            ),
        ),
    )
