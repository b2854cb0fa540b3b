"""Where the programs of etcd are: on this machine's PATH, or beside the running member on its host."""

from __future__ import annotations

import re

from kops_py.tools.etcd_proof import EtcdBinaries

_VERSION = re.compile(r"^(?:etcd Version|etcdctl version|etcdutl version): v?(\d+)\.(\d+)\.(\d+)\b", re.MULTILINE)
# The running member's own program is /proc/PID/exe; the other programs of its version lie beside it, in its
# container's files. The command line of the member tells the process from any other etcd on the host.
_FIND = """\
for process in /proc/[0-9]*; do
  [ "$(cat "$process/comm" 2>/dev/null)" = etcd ] || continue
  file=$(readlink "$process/exe") || continue
  root=$process/root
  case $(tr '\\000' ' ' <"$process/cmdline") in *kops-py-proof*|*"--name proof "*) continue;; esac
  echo "etcd $process/exe"
  folder=$(dirname -- "$file")
  for tool in etcdctl etcdutl; do
    for place in "$folder" /usr/local/bin /usr/bin /bin; do
      if [ -f "$root$place/$tool" ]; then echo "$tool $root$place/$tool"; break; fi
    done
  done
  break
done
"""


def find_running_argv() -> tuple[str, ...]:
    """Return the command that prints where a host's running etcd and its tools are; as root."""
    return ("sh", "-c", _FIND)


def parse_running(output: str) -> EtcdBinaries | None:
    """Read what find_running_argv printed; None when no etcd runs there or etcdctl is not beside it."""
    found = dict(line.split(" ", 1) for line in output.splitlines() if " " in line)
    if "etcd" not in found or "etcdctl" not in found:
        return None
    return EtcdBinaries(found["etcd"], found["etcdctl"], found.get("etcdutl") or found["etcdctl"])


def version_argv(program: str) -> tuple[str, ...]:
    """Return the command that prints the version of etcd, etcdctl or etcdutl."""
    return (program, "--version") if program.endswith(("etcd", "exe")) else (program, "version")


def parse_version(output: str) -> str:
    """Return the version an etcd program printed, as ``3.4.23``; raises ValueError."""
    found = _VERSION.search(output)
    if found is None:
        raise ValueError("this is not the version of an etcd program")
    return ".".join(found.groups())


def same_minor(one: str, other: str) -> bool:
    """Whether two versions of etcd are of one minor: a snapshot is restored with its own only."""
    return one.split(".")[:2] == other.split(".")[:2] and one.count(".") == 2


def tool_restores(version: str) -> bool:
    """Whether etcdctl of this version still restores: since 3.6 only etcdutl does."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major, minor) < (3, 6)
