"""What operating-system updates a host has, and whether it wants a restart: scripts that change nothing, and parsers.

Package lists are read into a folder of their own, so that looking does not change what the host itself knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from kops_py.model.patches import Selection, Update

_MARK = "kops-py"

_APT = """\
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
lists=$(mktemp -d) || exit 1
trap 'rm -rf "$lists"' EXIT
mkdir -p "$lists/partial"
options="-o Dir::State::Lists=$lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
# shellcheck disable=SC2086
apt-get -qq $options -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 update >&2
echo "{mark} update $?"
# shellcheck disable=SC2086
apt-get -s $options {what}
echo "{mark} simulate $?"
[ -e /run/reboot-required ] && echo "{mark} reboot"
exit 0
"""

_DNF = """\
set -u
export LC_ALL=C
dnf -q makecache --refresh >&2
echo "{mark} update $?"
security=$(dnf -q updateinfo list --security --available 2>/dev/null | awk '{{ print $NF }}')
dnf -q list --upgrades {what} 2>/dev/null | awk 'NF == 3 && $1 ~ /\\./ {{ print $1, $2 }}' |
while read -r name version; do
  installed=$(rpm -q --qf '%{{VERSION}}-%{{RELEASE}}\\n' "${{name%.*}}" | tail -n 1)
  case " $security " in *"${{name%.*}}-${{version#*:}}"*) kind=security ;; *) kind=other ;; esac
  echo "Update ${{name%.*}} $installed $version $kind"
done
echo "{mark} simulate 0"
if command -v needs-restarting >/dev/null && ! needs-restarting -r >/dev/null 2>&1; then echo "{mark} reboot"; fi
exit 0
"""

_INST = re.compile(r"^Inst (?P<name>\S+)(?: \[(?P<old>[^\]]+)\])? \((?P<new>\S+) (?P<origin>[^\[)]*)")
_STATUS = re.compile(rf"^{_MARK} (?P<what>update|simulate) (?P<status>\d+)$", re.MULTILINE)


def look_script(family: str, selection: Selection, names: Iterable[str] = ()) -> str:
    """Return the script for parse_look; ``names`` are looked at even when they are held. Raises ValueError."""
    quoted = shlex.join(names)
    if family == "debian":
        named = f"--only-upgrade --allow-change-held-packages install {quoted}"
        return _APT.format(mark=_MARK, what=named if selection is Selection.NAMED else "dist-upgrade")
    if family == "redhat":
        named = f"--disableexcludes=all {quoted}"
        return _DNF.format(mark=_MARK, what=named if selection is Selection.NAMED else "")
    raise ValueError(f"no package manager is known for {family!r}")


def parse_look(output: str, selection: Selection) -> tuple[tuple[Update, ...], bool]:
    """Return the updates in the order of their names, and whether the host wants a restart.

    Raises ValueError when the package lists could not be read or the updates not be worked out.
    """
    statuses = {m["what"]: int(m["status"]) for m in _STATUS.finditer(output)}
    for what, text in (("update", "the package lists could not be read"), ("simulate", "the updates cannot be told")):
        if statuses.get(what, 1) != 0:
            raise ValueError(text)
    found = [update for line in output.splitlines() if (update := _update(line))]
    if selection is Selection.SECURITY:
        found = [update for update in found if update.security]
    return tuple(sorted(found)), f"{_MARK} reboot" in output.splitlines()


def _update(line: str) -> Update | None:
    if match := _INST.match(line):
        return Update(match["name"], match["old"] or "", match["new"], "security" in match["origin"].lower())
    words = line.split()
    if len(words) == 5 and words[0] == "Update":
        return Update(words[1], words[2], words[3], words[4] == "security")
    return None


_APT_INSTALL = """\
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
dpkg --configure -a --force-confdef --force-confold
held=$(apt-mark showhold)
apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 update
apt-get -qy -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Acquire::http::Timeout=30 \\
  -o Acquire::https::Timeout=30 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \\
  --allow-change-held-packages install {pins}
[ -z "$held" ] || printf '%s hold\\n' $held | dpkg --set-selections
"""


def install_updates_script(family: str, updates: Iterable[tuple[str, str]]) -> str:
    """Return the script that installs exactly these versions (name, version); holds stay. Raises ValueError."""
    pairs = tuple(updates)
    if family == "debian":
        return _APT_INSTALL.format(pins=" ".join(shlex.quote(f"{name}={version}") for name, version in pairs))
    if family == "redhat":
        pins = " ".join(shlex.quote(f"{name}-{version.rpartition(':')[2]}") for name, version in pairs)
        return f"set -eu\nexport LC_ALL=C.UTF-8\ndnf -y -q --disableexcludes=all install {pins}\n"
    raise ValueError(f"no package manager is known for {family!r}")
