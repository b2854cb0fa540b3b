"""Package managers on the hosts: scripts that install exact versions and hold them; run as root, safe to repeat.

What is convergent and slow (repositories, downloads, images) is Ansible's, for all hosts at once and before any
node is touched (playbooks/stage.yml). What is left is one short, ordered command in the middle of a node's
upgrade, and that needs an exit code at once (docs/adr/0005).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

_APT_OPTIONS = (
    "-qy -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "
    "-o Acquire::https::Timeout=30 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)

_APT = """\
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
# An installation that was cut off (power loss) is finished first; a finished one makes this a matter of nothing.
dpkg --configure -a --force-confdef --force-confold
apt-get {options} --no-install-recommends --allow-change-held-packages --allow-downgrades install {pins}
printf '%s hold\\n' {names} | dpkg --set-selections
"""

_DNF = """\
set -eu
export LC_ALL=C.UTF-8
dnf -y -q --setopt=install_weak_deps=False --disableexcludes=all install {pins}
"""


def install_script(family: str, packages: Iterable[str], version: str, revision: str | None) -> str:
    """Return the script that installs ``packages`` in this version (``1.31.2``) and holds them.

    ``family`` is ``debian`` or ``redhat`` (where the repository's exclude holds them). ``revision`` is what stands
    behind the version in package names; None takes any. Raises ValueError for another family.
    """
    names = tuple(packages)
    full = f"{version}-{revision or '*'}"
    if family == "debian":
        pins = " ".join(shlex.quote(f"{name}={full}") for name in names)
        return _APT.format(options=_APT_OPTIONS, pins=pins, names=shlex.join(names))
    if family == "redhat":
        return _DNF.format(pins=" ".join(shlex.quote(f"{name}-{full}") for name in names))
    raise ValueError(f"no package manager is known for {family!r}")


def family_of(os_id: str, os_like: str) -> str:
    """Return ``debian``, ``redhat`` or an empty string, from ID and ID_LIKE of os-release."""
    words = {os_id, *os_like.split()}
    if words & {"debian", "ubuntu"}:
        return "debian"
    return "redhat" if words & {"rhel", "fedora", "centos", "rocky", "almalinux"} else ""
