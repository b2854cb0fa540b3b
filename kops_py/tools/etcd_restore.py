"""Restoring etcd on a kubeadm host: the scripts that move manifests and data, and etcd's own argv.

All of a restore's traces on a host are below ``/var/lib/kops-py/restore`` (0700): ``manifests`` holds the static
pods' manifests while they are aside, ``<id>/`` the snapshot (0600) and the marks of one restore. Scripts are POSIX
sh, run as root, and are safe to repeat after a kill at any point.

With a stacked etcd down its programs are only in its image, which is there because the static pod uses it; ``ctr run``
needs neither the kubelet nor a network (containerd 1.6 to 2.x). A member that is a unit of systemd (external etcd) has
them on its host: there ``image`` is empty.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from kops_py.model.etcd_restore import STATIC_PODS, Mark, NewMember
from kops_py.tools import etcdctl

ROOT = "/var/lib/kops-py/restore"
ASIDE = f"{ROOT}/manifests"
MANIFESTS = "/etc/kubernetes/manifests"
UNIT = "etcd.service"
HOST_PKI = "/etc/etcd/pki"
INITIAL_ENV = "/etc/etcd/initial.env"
"""Where an external member reads what cluster it begins with, while it has no data."""
STAGED = ".kops-py-restore"
"""Folder for new data, in the file system of the data directory."""
PAST_STATUS = 75
"""Exit status of undo_script when the restore has passed the point of no return here."""
BUMP = 1_000_000_000
"""By how much revisions jump, so that no watcher waits for one it has seen (etcd's recovery guide)."""

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CONTAINER = "kops-py-restore"
_PROLOGUE = """\
set -eu
umask 077
root={root}
aside={aside}
manifests={manifests}
work="$root/{restore}"
mkdir -p "$root"
# A script of a run that was killed may still work here: it is waited for.
exec 9>"$root/.lock"
flock -w 300 9
mark() {{ : >"$work/$1.new" && mv "$work/$1.new" "$work/$1" && sync "$work"; }}
"""
_BASE = """\
data={data}
if mountpoint -q "$data" 2>/dev/null; then base="$data"; else base="$(dirname "$data")"; fi
staged="$base/{staged}"
"""


def work_dir(restore: str) -> str:
    """Return the folder of a restore on its hosts; raises ValueError for an id that cannot be one."""
    if _ID.fullmatch(restore) is None or restore == "manifests":
        raise ValueError(f"{restore!r} is not the id of a restore")
    return f"{ROOT}/{restore}"


def _prologue(restore: str) -> str:
    work_dir(restore)
    return _PROLOGUE.format(root=ROOT, aside=ASIDE, manifests=MANIFESTS, restore=restore)


def _base(data_dir: str) -> str:
    return _BASE.format(data=shlex.quote(data_dir), staged=STAGED)


def mark_script(restore: str, *marks: Mark) -> str:
    """Return a script that writes marks; their restore need not have been begun here (workers)."""
    return _prologue(restore) + 'mkdir -p "$work"\nchmod 0700 "$root" "$work"\n' + "".join(f"mark {m}\n" for m in marks)


def begin_script(restore: str, words: str) -> str:
    """Return a script that makes the folder of a restore and writes what it is of."""
    return (
        _prologue(restore)
        + 'mkdir -p "$work" "$aside"\nchmod 0700 "$root" "$work" "$aside"\n'
        + f'printf \'%s\' {shlex.quote(words)} >"$work/begun.new" && mv "$work/begun.new" "$work/begun"\n'
    )


def receive_script(restore: str) -> str:
    """Return a script that writes its standard input to the snapshot's place and prints its SHA-256."""
    return (
        _prologue(restore) + 'cat >"$work/snapshot.new"\nsync "$work/snapshot.new"\nsha256sum <"$work/snapshot.new"\n'
    )


def keep_received_script(restore: str) -> str:
    """Return a script that accepts what receive_script wrote."""
    return _prologue(restore) + f'mv "$work/snapshot.new" "$work/snapshot.db"\nmark {Mark.UPLOADED}\n'


def send_database_script(data_dir: str) -> str:
    """Return a script that prints the database of a stopped member to standard output."""
    return f"exec cat -- {shlex.quote(database(data_dir))}\n"


def stop_script(restore: str) -> str:
    """Return a script that stops the kubelet and puts the static pods' manifests aside.

    The kubelet first: then nothing starts again what is stopped, and nothing depends on when it sees that a file
    is gone. It is started with etcd, before any API server.
    """
    moves = "".join(
        f'[ ! -e "$manifests/{p}.yaml" ] || mv "$manifests/{p}.yaml" "$aside/{p}.yaml"\n' for p in STATIC_PODS
    )
    return _prologue(restore) + f'systemctl stop kubelet\n{moves}sync "$aside" "$manifests"\n'


def stop_unit_script(restore: str) -> str:
    """Return a script that stops an external member and waits for its end."""
    return _prologue(restore) + f"systemctl stop {UNIT}\n! systemctl is-active --quiet {UNIT}\nmark {Mark.STOPPED}\n"


def stage_script(
    restore: str, image: str, member: NewMember, members: Iterable[NewMember], token: str, *, bump: int, has_hash: bool
) -> str:
    """Return a script that makes a member's new data directory beside its old one, with the etcd of its image."""
    flags = [
        f"--name={member.name}",
        "--initial-cluster=" + ",".join(f"{m.name}={m.peer_url}" for m in members),
        f"--initial-cluster-token={token}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        *(() if has_hash else ("--skip-hash-check",)),
        *((f"--bump-revision={bump}", "--mark-compacted") if bump else ()),
    ]
    # Not by guess: from 3.6 on only etcdutl restores, before 3.5 only etcdctl can.
    return (
        _prologue(restore)
        + _base(member.data_dir)
        + 'rm -rf "$staged"\nmkdir -p "$staged"\n'
        + _programs(image, '"$work"', '"$staged"')
        + "tool=etcdctl\nif program etcdutl version >/dev/null 2>&1; then tool=etcdutl; fi\n"
        + f'program "$tool" snapshot restore "$in/snapshot.db" "--data-dir=$out/data" {shlex.join(flags)}\n'
        + 'test -s "$staged/data/member/snap/db"\nsync -f "$staged"\n'
        + f"mark {Mark.STAGED}\n"
    )


def database(data_dir: str) -> str:
    """Return the path of a member's database."""
    return f"{data_dir}/member/snap/db"


def version_script(image: str) -> str:
    """Return a script that prints the version of the etcd that a member runs, for parse_version."""
    return "set -eu\n" + _programs(image, "/var/empty", "/var/empty", mounts=False) + "program etcd --version\n"


def parse_version(output: str) -> str:
    """Return the version that ``etcd --version`` printed, "" when it did not."""
    found = re.search(r"^etcd Version: (\d+\.\d+\.\d+)", output, re.MULTILINE)
    return found[1] if found else ""


def _programs(image: str, source: str, target: str, *, mounts: bool = True) -> str:
    """Return a shell function ``program`` that runs one of etcd's, in its image or on the host, and where it finds
    two folders of the host (words of the shell): ``$in`` to read, ``$out`` to write.

    What a killed run left of its container is removed first.
    """
    if not image:
        return f'in={source}\nout={target}\nprogram() {{ ETCDCTL_API=3 "$@" </dev/null; }}\n'
    places = f"""\
      --mount "type=bind,src="{source}",dst=/in,options=rbind:ro" \\
      --mount "type=bind,src="{target}",dst=/out,options=rbind:rw" \\
"""
    return f"""\
in=/in
out=/out
program() {{
  if ctr -n k8s.io containers info {_CONTAINER} >/dev/null 2>&1 ||
    ctr -n k8s.io snapshots info {_CONTAINER} >/dev/null 2>&1; then
    ctr -n k8s.io tasks kill -s SIGKILL {_CONTAINER} >/dev/null 2>&1 || :
    ctr -n k8s.io tasks rm -f {_CONTAINER} >/dev/null 2>&1 || :
    ctr -n k8s.io containers rm {_CONTAINER} >/dev/null 2>&1 || :
    ctr -n k8s.io snapshots rm {_CONTAINER} >/dev/null 2>&1 || :
  fi
  ctr -n k8s.io run --rm --env ETCDCTL_API=3 \\
{places if mounts else ""}    {shlex.quote(image)} {_CONTAINER} "$@" </dev/null
}}
"""


_DATA_DIR = f"""\
if [ ! -e "$data" ]; then
  mkdir -p "$data"
  owner="$(systemctl show --property=User --value {UNIT} 2>/dev/null || :)"
  if [ -n "$owner" ] && [ ! -e "$aside/etcd.yaml" ]; then chown "$owner:" "$data"; fi
fi
"""


def switch_script(restore: str, data_dir: str) -> str:
    """Return a script that keeps the old data under a dated name and puts the new data in its place.

    Where the data directory is a mounted disk the old data stays on it, in a folder beside ``member``: etcd passes
    over what it does not know.
    """
    return (
        _prologue(restore)
        + _base(data_dir)
        + f"""\
if [ ! -e "$work/kept" ]; then
  if [ ! -e "$data/member" ]; then
    printf nothing >"$work/kept.new"
  else
    printf '%s' "$base/$(basename "$data")-before-{restore}-$(date -u +%Y%m%dT%H%M%SZ)" >"$work/kept.new"
  fi
  mv "$work/kept.new" "$work/kept"
  sync "$work"
fi
kept="$(cat "$work/kept")"
if [ "$kept" != nothing ] && [ ! -e "$kept/member" ]; then
  mkdir -p "$kept"
  mv "$data/member" "$kept/member"
fi
{_DATA_DIR}if [ -e "$staged/data/member" ]; then
  rm -rf "$data/member"  # not the old data: that has been kept above
  chown -R --reference="$data" "$staged/data/member"
  mv "$staged/data/member" "$data/member"
fi
test -s "$data/member/snap/db"
chmod 0700 "$data" "$data/member"
if command -v restorecon >/dev/null 2>&1; then restorecon -R "$data" || :; fi
rm -rf "$staged"
sync "$data"
mark {Mark.SWITCHED}
"""
    )


def empty_script(restore: str, data_dir: str) -> str:
    """Return a script that keeps the old data under a dated name and leaves an empty data directory."""
    return (
        _prologue(restore)
        + _base(data_dir)
        + f"""\
if [ -e "$data/member" ]; then
  kept="$base/$(basename "$data")-before-{restore}-$(date -u +%Y%m%dT%H%M%SZ)"
  mkdir -p "$kept"
  mv "$data/member" "$kept/member"
  printf '%s' "$kept" >"$work/kept"
fi
{_DATA_DIR}chmod 0700 "$data"
"""
    )


def undo_script(restore: str, data_dir: str, *, unit: bool = False) -> str:
    """Return a script that puts the old state of a host back and forgets the restore.

    ``data_dir`` is empty where no member is; ``unit``: the member is a unit of systemd.
    It ends with PAST_STATUS and touches nothing when the restored etcd was started here.
    """
    data = """\
if [ -e "$work/kept" ]; then
  kept="$(cat "$work/kept")"
  if [ "$kept" = nothing ]; then
    rm -rf "$data/member"
  elif [ -e "$kept/member" ]; then
    rm -rf "$data/member"
    mv "$kept/member" "$data/member"
    rmdir "$kept"
  fi
fi
"""
    return (
        _prologue(restore)
        + f'if [ -e "$work/{Mark.STARTED}" ]; then exit {PAST_STATUS}; fi\n'
        + (_base(data_dir) + data if data_dir else "")
        + _put_back(STATIC_PODS)
        + (f"systemctl start --no-block {UNIT}\n" if unit else "")
        + "if systemctl cat kubelet.service >/dev/null 2>&1; then systemctl start kubelet; fi\n"
        + ('rm -rf "$staged"\n' if data_dir else "")
        + 'rm -rf "$work"\n'
    )


def _put_back(pods: Iterable[str]) -> str:
    """Return the lines that put manifests back, each in one move: the kubelet passes over names with a dot before."""
    return "".join(
        f'if [ -e "$aside/{p}.yaml" ]; then cp -p "$aside/{p}.yaml" "$manifests/.{p}.new" && '
        f'mv "$manifests/.{p}.new" "$manifests/{p}.yaml" && rm -f "$aside/{p}.yaml"; fi\n'
        for p in pods
    )


def start_script(restore: str, pods: Sequence[str], *marks: Mark, start_kubelet: bool = False) -> str:
    """Return a script that writes marks, then puts manifests back."""
    lines = "".join(f"mark {m}\n" for m in marks) + _put_back(pods)
    return _prologue(restore) + lines + ("systemctl start kubelet\n" if start_kubelet else "")


def start_unit_script(restore: str, *marks: Mark) -> str:
    """Return a script that writes marks, then starts an external member; it is up only once a quorum is."""
    return (
        _prologue(restore)
        + "".join(f"mark {m}\n" for m in marks)
        + f"systemctl reset-failed {UNIT} 2>/dev/null || :\nsystemctl start --no-block {UNIT}\n"
    )


def initial_env(initial_cluster: str) -> str:
    """Return the content of INITIAL_ENV for an empty member that joins the cluster that is there."""
    return f"ETCD_INITIAL_CLUSTER={initial_cluster}\nETCD_INITIAL_CLUSTER_STATE=existing\n"


def finish_script(restore: str, data_dir: str) -> str:
    """Return a script that removes the snapshot and other leftovers, and prints where the old data is."""
    return (
        _prologue(restore)
        + 'mkdir -p "$work"\n'
        + (_base(data_dir) + 'rm -rf "$staged"\n' if data_dir else "")
        + 'rm -f "$work/snapshot.db" "$work/snapshot.new"\n'
        + f'mark {Mark.FINISHED}\n[ ! -e "$work/kept" ] || cat "$work/kept"\n'
    )


def kept_size_script(restore: str) -> str:
    """Return a script that prints how many bytes the database has that a restore kept here, nothing when it kept none.

    It changes nothing, and so waits for nobody.
    """
    return f'file={_kept(restore)}\n[ ! -s "$file" ] || stat -c %s "$file"\n'


def send_kept_script(restore: str) -> str:
    """Return a script that prints that database to standard output."""
    return f"exec cat -- {_kept(restore)}\n"


def _kept(restore: str) -> str:
    return f'"$(cat {work_dir(restore)}/kept 2>/dev/null)/member/snap/db"'


_OBSERVE = """\
set -u
root={root}
manifests={manifests}
for pod in {pods}; do
  if [ -s "$manifests/$pod.yaml" ]; then echo "manifest=$pod"; fi
  if [ -s "{aside}/$pod.yaml" ]; then echo "aside=$pod"; fi
done
file="$manifests/etcd.yaml"
[ -s "$file" ] || file="{aside}/etcd.yaml"
data=/var/lib/etcd
found=
if [ -s "$file" ]; then
  flag() {{ sed -n "s/^ *- *--$1=//p" "$file" | tr -d "\\"'" | head -n 1; }}
  echo "image=$(sed -n 's/^ *image: *//p' "$file" | tr -d "\\"'" | head -n 1)"
  echo "name=$(flag name)"
  echo "peer=$(flag initial-advertise-peer-urls)"
  echo "wal=$(flag wal-dir)"
  found="$(flag data-dir)"
elif systemctl cat {unit} >/dev/null 2>&1; then
  echo "unit={unit}"
  for env in $(systemctl show --property=EnvironmentFiles --value {unit} | sed 's/ (.*//'); do
    [ "$env" = {initial} ] && echo "initial=$env"
    value="$(sed -n 's/^ETCD_DATA_DIR=//p' "$env" 2>/dev/null | tr -d "\\"'" | tail -n 1)"
    [ -z "$value" ] || found="$value"
  done
  if systemctl is-active --quiet {unit}; then echo "running=etcd"; fi
fi
[ -z "$found" ] || data="$found"
if [ -s "$file" ] || systemctl cat {unit} >/dev/null 2>&1; then
  echo "data=$data"
  if [ -s "$data/member/snap/db" ]; then
    echo "has-data=$(stat -c %s "$data/member/snap/db")"
  fi
  place="$data"
  [ -d "$place" ] || place="$(dirname "$data")"
  echo "free=$(df -P -B1 "$place" | awk 'NR==2 {{print $4}}')"
fi
if command -v crictl >/dev/null 2>&1; then
  for pod in {pods}; do
    if [ -n "$(crictl ps --name "^$pod$" -q 2>/dev/null)" ]; then echo "running=$pod"; fi
  done
fi
for folder in "$root"/*/; do
  id="$(basename "$folder")"
  case "$id" in manifests | '*') continue ;; esac
  for file in "$folder"*; do
    case "$file" in *.new | *.db) continue ;; esac
    [ -e "$file" ] && echo "mark=$id $(basename "$file")"
  done
  if [ -e "$folder/begun" ]; then echo "begun=$id $(cat "$folder/begun")"; fi
done
exit 0
"""


def observe_script() -> str:
    """Return a script that prints what a restore must know of a host, for parse_observed."""
    return _OBSERVE.format(
        root=ROOT, manifests=MANIFESTS, aside=ASIDE, pods=" ".join(STATIC_PODS), unit=UNIT, initial=INITIAL_ENV
    )


def parse_observed(text: str) -> Mapping[str, tuple[str, ...]]:
    """Read the output of observe_script: the values of each key, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, []).append(value.strip())
    return {key: tuple(values) for key, values in found.items()}


def on_host(argv: Sequence[str]) -> tuple[str, ...]:
    """Return an etcdctl command as it is run on the host of an external member, with that host's certificates."""
    return tuple(word.replace(etcdctl.PKI, HOST_PKI) for word in argv)


def joining_manifest(text: str, initial_cluster: str) -> str:
    """Return etcd's manifest so that an empty member joins the cluster that is there; raises ValueError.

    kubeadm's own join writes the same two flags; once the member has data etcd passes over both.
    """
    lines: list[str] = []
    at = -1
    for line in text.splitlines():
        flag = line.strip().removeprefix("- ").strip("\"'")
        if flag.startswith("--initial-cluster-state="):
            continue
        if flag.startswith("--initial-cluster="):
            at = len(lines)
        lines.append(line)
    if at < 0:
        raise ValueError("the manifest of etcd has no flag --initial-cluster")
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    lines[at : at + 1] = [
        f"{indent}- --initial-cluster={initial_cluster}",
        f"{indent}- --initial-cluster-state=existing",
    ]
    return "\n".join(lines) + "\n"


def bumps_revision(version: str) -> bool:
    """Whether etcd of this version can let revisions jump at a restore (3.4.27, 3.5.10, 3.6 and newer)."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor, patch = (int(n) for n in found.groups())
    least = {4: 27, 5: 10}.get(minor, 0)
    return major == 3 and minor >= 4 and patch >= least
