"""The proof of a snapshot: restored into a scratch etcd on private sockets, started, and asked what it holds.

One script does all of it, here or on a host, so that whatever ends it also ends the scratch etcd. It listens on two
unix sockets in its own folder (0700), never on the network: etcd wants ``host:port`` in a URL and takes the whole of
it as the socket's name, relative to the folder it runs in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from kops_py.model.etcd import KeySample, SnapshotContents

_MARK = "=== "
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAMESPACE = "/registry/namespaces/kube-system"
KUBEADM_CONFIG = "/registry/configmaps/kube-system/kubeadm-config"
SAMPLE_KEYS = (NAMESPACE, KUBEADM_CONFIG)
"""Every kubeadm cluster has them, and they hardly ever change."""
# A snapshot in a file is read where it lies, one that comes through a pipe is put into the folder first. Its status,
# which reads every key, is asked for beside the restore. etcd's hash at its end was checked by who sends it
# (backup/stream.py), four times as fast as etcdctl 3.4 does.
# Peer and advertised URLs name a port nobody uses: the only member talks to no peer. A folder of its own for each
# proof, locked while anything of it lives; those of proofs that were killed are removed by the next one.
_SCRIPT = """\
set -eu
umask 077
base=$1 etcd=$2 ctl=$3 tool=$4 size=$5 limit_s=$6
mkdir -p -- "$base"
chmod 700 -- "$base"
exec 8<"$base"
flock 8
for old in "$base"/proof.*; do
  if [ -d "$old" ] && flock --nonblock "$old" true; then rm -rf -- "$old"; fi
done
folder=$(mktemp -d -- "$base/proof.XXXXXXXX")
exec 9<"$folder"
flock --nonblock 9
exec 8<&-
cd -- "$folder"
pid=
end() {
  trap - EXIT HUP INT TERM PIPE
  if [ -n "$pid" ]; then kill -9 "$pid" 2>/dev/null || :; wait "$pid" 2>/dev/null || :; fi
  rm -rf -- "$folder"
  exit "$1"
}
trap 'end $?' EXIT
trap 'end 129' HUP INT TERM PIPE
say() { cut -c -600 "$1" | tail -n 3 >&2; }
db=/proc/self/fd/3
exec 3<&0
if [ ! -f "$db" ]; then
  db=snapshot.db
  cat >"$db" 2>cat.log || { say cat.log; exit 20; }
fi
came=$(stat -L -c %s "$db")
[ "$came" = "$size" ] || { echo "$came of $size bytes came" >&2; exit 20; }
"$tool" snapshot status "$db" --write-out=json >status 2>status.log &
pid=$!
echo "=== members"
LC_ALL=C grep -a -z -o -E '"id":[0-9]+,"peerURLs":' "$db" | tr -dc '0-9:' | tr : '\\n' | sort -u
"$tool" snapshot restore "$db" --skip-hash-check --data-dir data --name proof \\
  --initial-cluster proof=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1 \\
  --initial-cluster-token kops-py-proof >tool.log 2>&1 ||
  { say tool.log; exit 22; }
wait "$pid" || { pid=; say status.log; exit 21; }
pid=
echo "=== status"
cat status
rm -f -- snapshot.db
"$etcd" --name proof --data-dir data --listen-client-urls unix://c:0 --advertise-client-urls http://127.0.0.1:1 \\
  --listen-peer-urls unix://p:0 --initial-advertise-peer-urls http://127.0.0.1:1 \\
  --initial-cluster proof=http://127.0.0.1:1 --unsafe-no-fsync --snapshot-count 1000000 >etcd.log 2>&1 &
pid=$!
ask() { "$ctl" --endpoints=unix://c:0 --command-timeout=10s --write-out=json "$@" 2>ctl.log; }
begun=$(date +%s)
until [ -S c:0 ] && ask get a --keys-only --limit=1 >/dev/null; do
  kill -0 "$pid" 2>/dev/null || { say etcd.log; exit 23; }
  [ $(($(date +%s) - begun)) -lt "$limit_s" ] || { say etcd.log; say ctl.log; exit 24; }
  sleep 0.05
done
echo "=== endpoint"; ask endpoint status
echo "=== count"; ask get "" --from-key --keys-only --limit=1
echo "=== namespaces"; ask get /registry/namespaces/ --prefix --keys-only --limit=500
shift 6
for key; do echo "=== sample $key"; ask get "$key"; done
echo "=== end"
"""
_STAGES = {
    20: "the snapshot could not be written into the scratch folder",
    21: "the snapshot cannot be read",
    22: "the snapshot cannot be restored",
    23: "the restored etcd does not start",
    24: "the restored etcd did not answer in time",
}


@dataclass(frozen=True, slots=True)
class EtcdBinaries:
    """The programs of one etcd version on one machine; ``tool`` restores (etcdutl, or etcdctl before 3.6)."""

    etcd: str
    etcdctl: str
    tool: str
    version: str = ""


def proof_argv(
    base: str, binaries: EtcdBinaries, *, size_bytes: int, limit_s: float, start_limit_s: int = 120
) -> tuple[str, ...]:
    """Return the command that reads a snapshot from standard input and proves it; nothing of it stays.

    ``base`` is an absolute folder that nobody else may use; it is made when it is not there. The command and all it
    started end after ``limit_s`` seconds.
    """
    own = (base, binaries.etcd, binaries.etcdctl, binaries.tool, str(size_bytes), str(start_limit_s))
    return ("timeout", "--kill-after=10", str(max(1, int(limit_s))), "sh", "-c", _SCRIPT, "sh", *own, *SAMPLE_KEYS)


def failed_stage(exit_status: int | None) -> str:
    """Return what the proof failed at, by its exit status."""
    return _STAGES.get(exit_status or 0, "the proof was ended")


def parse_proof(output: str) -> SnapshotContents:
    """Read what the proof printed; raises ValueError when it is not the whole of it."""
    parts: dict[str, str] = {}
    for section in ("\n" + output).split(f"\n{_MARK}")[1:]:
        name, _, body = section.partition("\n")
        parts[name.strip()] = body
    if "end" not in parts:
        raise ValueError("the proof did not come to its end")
    status, endpoint = _one(parts, "status", dict), _one(parts, "endpoint", list)
    count, namespaces = _one(parts, "count", dict), _one(parts, "namespaces", dict)
    server = (endpoint[0].get("Status") or {}) if endpoint else {}
    answers = [_one(parts, f"sample {key}", dict) for key in SAMPLE_KEYS]
    return SnapshotContents(
        revision=int(status.get("revision") or 0),
        total_keys=int(status.get("totalKey") or 0),
        live_keys=int(count.get("count") or 0),
        size_bytes=int(status.get("totalSize") or 0),
        hash=int(status.get("hash") or 0),
        etcd_version=str(server.get("version") or ""),
        member_ids=tuple(f"{int(line):x}" for line in parts.get("members", "").split()),
        namespaces=tuple(sorted(key.rpartition("/")[2] for key in _keys(namespaces))),
        cluster_uid=namespace_uid(answers[0]),
        samples=tuple(s for a in answers for s in parse_samples(a)),
    )


def first_json(output: str) -> dict[str, Any]:
    """Return the JSON answer in an output, past warnings of etcdctl; raises ValueError."""
    for line in reversed(output.splitlines()):
        if line.startswith('{"header"'):
            value = json.loads(line)
            if isinstance(value, dict):
                return value
    raise ValueError("the output holds no answer of etcdctl")


def parse_samples(answer: dict[str, Any]) -> tuple[KeySample, ...]:
    """Return the keys in an answer of ``get``, their values only as hashes; raises ValueError."""
    try:
        return tuple(
            KeySample(
                base64.b64decode(e["key"]).decode("utf-8", "replace"),
                int(e.get("mod_revision") or 0),
                hashlib.sha256(base64.b64decode(e.get("value") or "")).hexdigest(),
            )
            for e in answer.get("kvs") or []
        )
    except (KeyError, TypeError) as error:
        raise ValueError("an answer of etcd's get is not understood") from error


def namespace_uid(answer: dict[str, Any]) -> str:
    """Return the UID in the stored object of a namespace: the one UUID in its metadata, in any encoding but encrypted.

    Empty when there is no such object, or it is encrypted at rest.
    """
    for entry in answer.get("kvs") or []:
        try:
            value = base64.b64decode(str(entry.get("value") or ""), validate=True)
        except (binascii.Error, ValueError):
            continue
        found = _UUID.search(value) if not value.startswith(b"k8s:enc:") else None
        if found is not None:
            return found[0].decode()
    return ""


def _keys(answer: dict[str, Any]) -> tuple[str, ...]:
    return tuple(base64.b64decode(str(e.get("key") or "")).decode("utf-8", "replace") for e in answer.get("kvs") or [])


def _one(parts: dict[str, str], name: str, shape: type[Any]) -> Any:
    try:
        value = json.loads(parts[name])
    except (KeyError, ValueError) as error:
        raise ValueError(f"the proof's answer {name} is not understood") from error
    if not isinstance(value, shape):
        raise ValueError(f"the proof's answer {name} is not understood")  # noqa: TRY004 - one kind of error for all
    return value
