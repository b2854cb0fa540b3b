"""What a cluster needs and etcd does not hold: which files of a host these are, and the command that streams them.

Without sa.key every service account token is void, without the encryption configuration restored Secrets cannot be
read, without the authorities nobody can join. Paths are the host's own, those of kubeadm and of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

PATHS = (
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    "/etc/systemd/system/kubelet.service.d",
    "/etc/crictl.yaml",
    "/etc/default/etcd",
)
"""Besides what every bundle reads (``backup/bundle.py``)."""
API_SERVER_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_NOT_CONFIGURATION = frozenset({"audit-log-path", "cert-dir", "log-file"})
_EVERYWHERE = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr", "/etc/kubernetes")
"""Authorities of the operating system; and what is in the bundle anyway."""
_NO_FOLDERS = frozenset({"/", "/etc", "/var", "/var/lib", "/var/log", "/root", "/home", "/srv", "/opt", "/run"})
"""No volume of such a breadth is taken as a whole, only the file named in it."""
NOTHING_STATUS = 3
"""Status of the command where none of the files is there; tar itself ends with 2 at most."""
# Left out are the copies of etcd's data that kubeadm keeps, and records of kops-py's own. Links are followed, so that
# a file is there whatever way leads to it. tar ends with 1 when a file changed while it was read: the bundle is whole
# then, with the file as it was or is.
_TAR = f"""\
cd /
for path; do
  shift
  if [ -e "$path" ] || [ -L "$path" ]; then set -- "$@" "$path"; fi
done
[ $# -gt 0 ] || {{ echo "none of the files is there" >&2; exit {NOTHING_STATUS}; }}
tar --create --file=- --numeric-owner --dereference --exclude=etc/kubernetes/tmp --exclude=etc/kops-py/jobs -- "$@"
code=$?
[ "$code" -le 1 ] || exit "$code"
"""


def bundle_argv(more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the command that writes the files as a tar archive to standard output; absent ones are left out."""
    paths = dict.fromkeys([*PATHS, *(p for p in more if not _is_inside(p, PATHS))])
    return ("sh", "-c", _TAR, "sh", *(p.lstrip("/") for p in paths))


def api_server_files(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the host's paths of what the API server's flags name: encryption, audit, admission, authentication.

    A file in a volume of its own is taken with the whole volume: such configurations name further files beside them.
    """
    spec = manifest.get("spec") or {}
    host_paths = {
        str(v.get("name")): str((v.get("hostPath") or {}).get("path") or "") for v in spec.get("volumes") or []
    }
    found: list[str] = []
    for container in spec.get("containers") or []:
        mounts = {
            str(m.get("mountPath")): host_paths.get(str(m.get("name")), "") for m in container.get("volumeMounts") or []
        }
        for word in (*(container.get("command") or ()), *(container.get("args") or ())):
            flag, _, value = str(word).lstrip("-").partition("=")
            if value.startswith("/") and flag not in _NOT_CONFIGURATION:
                found.append(_on_host(PurePosixPath(value), mounts))
    return tuple(p for p in dict.fromkeys(found) if p and not _is_inside(p, _EVERYWHERE))


def _on_host(path: PurePosixPath, mounts: Mapping[str, str]) -> str:
    """Return what to take for a path in the container: its volume, the file in it, or the path itself."""
    for folder in (path, *path.parents):
        source = mounts.get(str(folder))
        if source:
            inside = str(PurePosixPath(source) / path.relative_to(folder))
            return inside if source.rstrip("/") in _NO_FOLDERS or source == "/" else source.rstrip("/")
    return str(path)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    return any(path == f or path.startswith(f + "/") for f in folders)
