"""What operating-system updates a host has, and whether it wants a restart: scripts that change nothing, and parsers.

Package lists are read into a folder of their own, so that looking does not change what the host itself knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from kops_py.model.patches import Selection, Update
from kops_py.tools.restarts import restart_function

_MARK = "kops-py"

# apt-get update ends with 0 when a repository could not be reached (only a missing one is an error), and without lists
# there would be no updates: its warnings count. It deletes whatever it does not know beside the lists.
_APT = """\
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial"
options="-o Dir::State::Lists=$work/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
{preferences}# shellcheck disable=SC2086
apt-get -qq $options -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 update \
  >"$work/log" 2>&1
status=$?
cat "$work/log" >&2
if grep -qE '^W: (Failed to fetch|Some index files failed)' "$work/log"; then status=100; fi
echo "{mark} update $status"
# shellcheck disable=SC2086
apt-get -s $options {what}
echo "{mark} simulate $?"
{restart}if restart_needed; then echo "{mark} reboot"; fi
exit 0
"""

# Without this a security update is not seen where a newer one that is none stands in its place (Ubuntu's updates).
# Below 1000 nothing is downgraded. The host's own preferences follow: what they pin by name still comes first.
_APT_SECURITY_FIRST = """\
cat >"$work/preferences" <<'END'
Package: *
Pin: release a=/-security$/
Pin-Priority: 990

Package: *
Pin: release l=/-Security$/
Pin-Priority: 990

END
if [ -e {root}/etc/apt/preferences ]; then cat {root}/etc/apt/preferences >>"$work/preferences"; fi
options="$options -o Dir::Etc::Preferences=$work/preferences"
"""

# An advisory names the version that mends a package; the update, which is the newest, may be a later one. So packages
# are compared by name and architecture. dnf 5 puts columns behind the package, dnf 4 does not.
_DNF = """\
set -u
export LC_ALL=C
dnf -q makecache --refresh >&2
echo "{mark} update $?"
advisories=$(dnf -q updateinfo list --security --available)
status={advisories_status}
security=$(printf '%s\\n' "$advisories" | awk '{{
  for (i = 1; i <= NF; i++) if ($i ~ /^[^\\/]+-[^-\\/]+-[^-\\/]+\\.[a-z0-9_]+$/) {{
    arch = $i; sub(/.*\\./, "", arch); sub(/-[^-]+-[^-]+$/, "", $i); print $i "." arch
  }}
}}')
dnf -q list --upgrades {what} 2>/dev/null | awk 'NF == 3 && $1 ~ /\\./ {{ print $1, $2 }}' |
while read -r name version; do
  installed=$(rpm -q --qf '%{{VERSION}}-%{{RELEASE}}\\n' "${{name%.*}}" | tail -n 1)
  kind=other
  if printf '%s\\n' "$security" | grep -qxF -e "$name"; then kind=security; fi
  echo "Update ${{name%.*}} $installed $version $kind"
done
echo "{mark} simulate $status"
{restart}if restart_needed; then echo "{mark} reboot"; fi
exit 0
"""

_INST = re.compile(r"^Inst (?P<name>\S+)(?: \[(?P<old>[^\]]+)\])? \((?P<new>\S+) (?P<origins>[^\[)]*)")
_SECURITY = re.compile(r"(?:[^,]*-security:[^,]*|[^,]*-security)", re.IGNORECASE)
"""An origin as apt shows it: its label (Debian-Security:) or its archive (/jammy-security) ends so."""
_STATUS = re.compile(rf"^{_MARK} (?P<what>update|simulate) (?P<status>\d+)$", re.MULTILINE)


def look_script(family: str, selection: Selection, names: Iterable[str] = (), *, root: str = "") -> str:
    """Return the script for parse_look; ``names`` are looked at even when they are held. Raises ValueError.

    ``root`` is the folder below which the host's own files are, for tests.
    """
    quoted, restart = shlex.join(names), ""
    if family in ("debian", "redhat"):
        restart = restart_function(family, root=root)
    if family == "debian":
        named = f"--only-upgrade --allow-change-held-packages install {quoted}"
        what = named if selection is Selection.NAMED else "dist-upgrade"
        first = _APT_SECURITY_FIRST.format(root=shlex.quote(root) if root else "")
        preferences = first if selection is Selection.SECURITY else ""
        return _APT.format(mark=_MARK, what=what, preferences=preferences, restart=restart)
    if family == "redhat":
        what = f"--disableexcludes=all {quoted}" if selection is Selection.NAMED else ""
        matters = "$?" if selection is Selection.SECURITY else "0"
        return _DNF.format(mark=_MARK, what=what, advisories_status=matters, restart=restart)
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
    return tuple(sorted(set(found))), f"{_MARK} reboot" in output.splitlines()


def _update(line: str) -> Update | None:
    if match := _INST.match(line):
        security = any(_SECURITY.fullmatch(origin.strip()) for origin in match["origins"].split(","))
        return Update(match["name"], match["old"] or "", match["new"], security)
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
