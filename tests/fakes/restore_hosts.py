"""Control planes made of folders: the real scripts of a restore run there, beside stand-ins for what a host has.

Strict: the stand-ins know exactly the calls a restore makes and end with 64 for any other. The kubelet runs what has
a manifest while it is active; etcd's store is one line of text, so that whose data it is can be read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kops_py.connect.base import Cancel, CommandResult
from kops_py.model.errors import CommandFailedError, KopsError, UnreachableError
from kops_py.model.etcd_restore import STATIC_PODS, WRITERS
from kops_py.tools import etcd_restore as tool

_SYSTEMCTL = """\
#!/bin/sh
case "$*" in
  "cat kubelet.service") [ ! -e "$HOST/unit" ] ;;
  "cat etcd.service") [ -e "$HOST/unit" ] ;;
  "stop etcd.service") rm -f "$HOST/unit-active" ;;
  "start --no-block etcd.service") : >"$HOST/unit-active" ;;
  "reset-failed etcd.service") ;;
  "is-active --quiet etcd.service") [ -e "$HOST/unit-active" ] ;;
  "show --property=User --value etcd.service") [ ! -e "$HOST/unit" ] || id -un ;;
  "show --property=EnvironmentFiles --value etcd.service") cat "$HOST/unit" ;;
  "stop kubelet") rm -f "$HOST/kubelet" ;;
  "start kubelet" | "restart kubelet") echo "$1" >>"$HOST/kubelet-log"; : >"$HOST/kubelet" ;;
  *) exit 64 ;;
esac
"""
_CTR = """\
#!/bin/sh
[ "$1 $2" = "-n k8s.io" ] || exit 64
shift 2
case "$1" in
  tasks | containers | snapshots) exit 1 ;;
  run) ;;
  *) exit 64 ;;
esac
while [ "$1" != image:1 ]; do
  source="${1#*src=}"
  case "$1" in *dst=/in,*) work="${source%%,*}" ;; *dst=/out,*) out="${source%%,*}" ;; esac
  shift
done
shift 2
case "$1 $2 $3" in
  "etcdutl version ") exit 1 ;;
  "etcd --version ") echo "etcd Version: 3.4.23" ;;
  "etcdctl snapshot restore")
    case "$(cat "$work/snapshot.db")" in bad*) echo "Error: expected sha256" >&2; exit 1 ;; esac
    mkdir -p "$out/data/member/snap" && cp "$work/snapshot.db" "$out/data/member/snap/db" ;;
  *) exit 64 ;;
esac
"""
_MANIFEST = """\
spec:
  containers:
  - command:
    - etcd
    - --name={name}
    - --data-dir={root}/var/lib/etcd
    - --initial-advertise-peer-urls=https://{address}:2380
    - --initial-cluster={name}=https://{address}:2380
    image: image:1
"""


_ALARMS = {1: "NOSPACE", 2: "CORRUPT"}


# The same programs on the host of an external member, with real paths in place of those in a container.
_ETCDCTL = """\
#!/bin/sh
case "$1 $2" in
  "snapshot restore")
    out="${4#--data-dir=}"
    mkdir -p "$out/member/snap" && cp "$3" "$out/member/snap/db" ;;
  *) exit 64 ;;
esac
"""


@dataclass
class FolderHost:
    """Implements ``Host`` in a folder; scripts run for real, with the host's paths below it.

    ``external``: a host with a unit of etcd and nothing of Kubernetes. Without ``has_member``: a control plane
    beside one.
    """

    name: str
    root: Path
    cluster: FolderCluster
    external: bool = False
    has_member: bool = True
    refuses_until_restart: bool = False
    """Whether the kubelet starts nothing until it is restarted."""
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in ("bin", "etc/kubernetes/manifests", "var/lib/etcd"):
            (self.root / path).mkdir(parents=True)
        programs = {"systemctl": _SYSTEMCTL, "ctr": _CTR, "mountpoint": "#!/bin/sh\nexit 1\n", "sync": "#!/bin/sh\n"}
        if self.external:
            programs |= {"etcdctl": _ETCDCTL, "etcd": "#!/bin/sh\necho etcd Version: 3.4.23\n"}
            (self.root / "etcd.env").write_text(f"ETCD_DATA_DIR={self.root}/var/lib/etcd\n")
            (self.root / "unit").write_text(
                f"{self.root}/etcd.env (ignore_errors=no)\n{tool.INITIAL_ENV} (ignore_errors=yes)\n"
            )
            (self.root / "unit-active").touch()
        for name, text in programs.items():
            (self.root / "bin" / name).write_text(text)
            (self.root / "bin" / name).chmod(0o755)
        for pod in () if self.external else STATIC_PODS if self.has_member else WRITERS:
            manifest = _MANIFEST.format(name=self.name, address=self.address, root=self.root)
            (self.manifests / f"{pod}.yaml").write_text(manifest if pod == "etcd" else f"# {pod}\n")
        if self.has_member:
            (self.data / "snap").mkdir(parents=True)
            (self.data / "snap/db").write_text(f"old data of {self.name}")
        if not self.external:
            (self.root / "kubelet").touch()

    @property
    def address(self) -> str:
        return f"10.9.0.{self.name[1:]}"

    @property
    def manifests(self) -> Path:
        return self.root / "etc/kubernetes/manifests"

    @property
    def data(self) -> Path:
        """Folder ``member`` of the data directory."""
        return self.root / "var/lib/etcd/member"

    @property
    def store(self) -> str:
        """What is in the member's database, "" when there is none."""
        return (self.data / "snap/db").read_text() if (self.data / "snap/db").exists() else ""

    @property
    def kept(self) -> list[str]:
        """The databases in folders of old data."""
        return sorted(p.read_text() for p in (self.root / "var/lib").glob("etcd-before-*/member/snap/db"))

    @property
    def running(self) -> set[str]:
        """Containers that run: started by the kubelet, until somebody stops them."""
        listed = self.root / "containers"
        found = set(listed.read_text().split()) if listed.exists() else set()
        log = self.root / "kubelet-log"
        refuses = self.refuses_until_restart and log.exists() and "restart" not in log.read_text()
        if (self.root / "kubelet").exists() and not refuses:
            found |= {p for p in STATIC_PODS if (self.manifests / f"{p}.yaml").exists()}
        listed.write_text(" ".join(sorted(found)))
        return found | ({"etcd"} if (self.root / "unit-active").exists() else set())

    def run(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = False,
        stdin: bytes | BinaryIO | None = None,
        timeout_s: float = 60.0,
        check: bool = True,
        cancel: Cancel | None = None,
        stdout_to: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a script for real, and answer crictl and kubectl."""
        if cancel is not None:
            cancel.check()
        assert sudo
        assert timeout_s > 0
        if self.cluster.unreachable == self.name:
            raise UnreachableError("does not answer", where=self.name)
        self.calls.append(" ".join(argv))
        status, out, err = self._answer(tuple(argv), stdin)
        if stdout_to is not None:
            stdout_to(out)
            out = b""
        if check and status != 0:
            raise CommandFailedError("failed", where=self.name, why=err.decode(), exit_status=status)
        return CommandResult(self.name, status, out, err, 0.0)

    def _answer(self, argv: tuple[str, ...], stdin: bytes | BinaryIO | None) -> tuple[int, bytes, bytes]:
        match argv:
            case ("systemctl", "restart", "kubelet"):
                return self.sh("systemctl restart kubelet")
            case ("sh", "-c", script):
                return self.sh(script, stdin if isinstance(stdin, bytes) or stdin is None else stdin.read())
            case ("dd", *words):
                return self.sh(" ".join(("dd", *words)))
            case ("crictl", "ps", "--name", pattern, "-q") | ("crictl", "ps", "-a", "--name", pattern, "-q"):
                names = pattern.strip("^$()").split("|")
                return 0, "\n".join(p for p in sorted(self.running) if p in names).encode(), b""
            case ("crictl", "stop", "--timeout", _, *ids):
                left = self.running - set(ids)
                (self.root / "containers").write_text(" ".join(sorted(left)))
                return 0, b"", b""
            case ("crictl", "exec", "etcd", "etcdctl", *rest):
                assert "etcd" in self.running, f"{self.name}: exec into a container that does not run"
                status, answer = self.cluster.etcdctl(self, [w for w in rest if not w.startswith("--")])
                return status, json.dumps(answer).encode(), b""
            case ("etcdctl", *rest) if self.external:
                assert "--cacert=/etc/etcd/pki/ca.crt" in rest
                status, answer = self.cluster.etcdctl(self, [w for w in rest if not w.startswith("--")])
                return status, json.dumps(answer).encode(), b""
            case ("crictl", "pods", "-o", "json"):
                return 0, b'{"items":[]}', b""
            case ("crictl", "ps", "-o", "json"):
                return 0, b'{"containers":[]}', b""
            case ("kubectl", *_):
                ready = "kube-apiserver" in self.running and self.cluster.any_serves(self)
                return (0, b"ok", b"") if ready else (1, b"", b"connection refused")
        raise AssertionError(f"{self.name}: the test has no answer for {argv}")

    def script(self, text: str) -> str:
        """Return a script with the host's paths in its own folder."""
        for path in (tool.ROOT, tool.MANIFESTS, "/var/lib/etcd", "/etc/etcd/"):
            text = text.replace(f"{self.root}{path}", path).replace(path, f"{self.root}{path}")
        return text

    def sh(self, script: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run a script; ``crictl ps`` inside it sees what runs."""
        fake = self.root / "bin/crictl"
        listed = " ".join(sorted(self.running))
        fake.write_text(
            '#!/bin/sh\n[ "$1 $2 $4" = "ps --name -q" ] || exit 64\n'
            f'for p in {listed}; do [ "^$p$" = "$3" ] && echo $p; done\n:\n'
        )
        fake.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", self.script(script)], input=stdin or b"", capture_output=True, env=self.environment
        )
        if done.returncode == 64:
            raise AssertionError(f"{self.name}: a call that no host of a test knows: {done.stderr.decode()}")
        return done.returncode, done.stdout, done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the host's scripts: its own programs come first."""
        return {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "HOST": str(self.root)}

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0) -> None:
        """Write a file below the host's folder."""
        place = Path(self.script(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(mode)

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """Return a file below the host's folder."""
        return Path(self.script(path)).read_bytes()

    def close(self) -> None:
        """Nothing to do."""


class FolderCluster:
    """Hosts and what their members say of each other."""

    def __init__(self, folder: Path, names: Sequence[str], external: Sequence[str] = ()) -> None:
        self.unreachable = ""
        planes = {n: FolderHost(n, folder / n, self, has_member=not external) for n in names}
        self.hosts: Mapping[str, FolderHost] = planes | {
            n: FolderHost(n, folder / n, self, external=True) for n in external
        }
        self.members: dict[str, dict[str, object]] = {
            n: {"ID": i + 1, "name": n, "peerURLs": [f"https://{h.address}:2380"]}
            for i, (n, h) in enumerate(self.hosts.items())
            if h.has_member
        }
        self.log: list[str] = []
        self.alarms: list[tuple[int, int]] = []
        """Member and kind of each alarm; etcd keeps them in its database, whoever's they are."""

    def host(self, name: str) -> FolderHost:
        return self.hosts[name]

    def map(
        self, names: Sequence[str], work: Callable[[FolderHost], object], *, cancel: Cancel | None = None
    ) -> dict[str, object]:
        """Do ``work`` on each, one after the other."""
        found: dict[str, object] = {}
        for name in names:
            try:
                found[name] = work(self.hosts[name])
            except KopsError as error:
                found[name] = error
        return found

    def close(self) -> None:
        """Nothing to do."""

    def any_serves(self, plane: FolderHost) -> bool:
        """Whether the member this API server talks to commits: its own, or any of an external etcd."""
        return any(self.is_healthy(h) for h in ([plane] if plane.has_member else self.hosts.values()) if h.has_member)

    def is_healthy(self, host: FolderHost) -> bool:
        """A member commits while most of the voting members run with the same store."""
        voters = [n for n, m in self.members.items() if not m.get("isLearner")]
        same = [n for n in voters if "etcd" in self.hosts[n].running and self.hosts[n].store == host.store]
        return bool(host.store) and len(same) > len(voters) // 2

    def _replicate(self, source: FolderHost) -> None:
        """A learner that runs on empty data gets its name and what the others hold."""
        for name, member in self.members.items():
            host = self.hosts[name]
            if member.get("isLearner") and "etcd" in host.running:
                place = host.root / "etc/etcd/initial.env" if host.external else host.manifests / "etcd.yaml"
                assert re.search("STATE=existing|state=existing", place.read_text()), (
                    "it would begin a cluster of its own"
                )
                (host.data / "snap").mkdir(parents=True, exist_ok=True)
                (host.data / "snap/db").write_text(source.store)
                member["name"] = name

    def etcdctl(self, host: FolderHost, words: list[str]) -> tuple[int, object]:
        """Answer etcdctl on one member."""
        match words:
            case ["endpoint", "health"] if self.alarms and self.is_healthy(host):  # as 3.5 does
                text = "Active Alarm(s): " + "".join(f"{_ALARMS[kind]} " for _, kind in self.alarms)
                return 1, [{"endpoint": "x", "health": False, "error": text}]
            case ["endpoint", "health"]:
                return 0, [{"endpoint": "x", "health": self.is_healthy(host)}]
            case ["alarm", "list"]:
                return 0, {"header": {}, "alarms": [{"memberID": m, "alarm": kind} for m, kind in self.alarms]}
            case ["alarm", "disarm"]:
                self.alarms = []
            case ["endpoint", "status"] if not host.store:
                return 1, "connection refused"  # on an empty disk a member of a cluster ends again and again
            case ["endpoint", "status"]:
                header = {"member_id": 1, "revision": len(host.store)}
                errors = [f"memberID:{m} alarm:{_ALARMS[kind]} " for m, kind in self.alarms]
                return 0, [
                    {
                        "Endpoint": "x",
                        "Status": {"header": header, "version": "3.4.23", "leader": 1, "errors": errors},
                    }
                ]
            case ["endpoint", "hashkv"]:
                return 0, [{"Endpoint": "x", "HashKV": {"hash": hash(host.store) % 1000, "header": {"revision": 7}}}]
            case ["get", _]:
                return 0, {"kvs": [{"key": "x"}]} if host.store not in ("", "empty") else {}
            case ["member", "list"]:
                self._replicate(host)
                return 0, {"members": list(self.members.values())}
            case ["member", "remove", number]:
                (name,) = [n for n, m in self.members.items() if m["ID"] == int(number, 16)]
                del self.members[name]
            case ["member", "add", name]:
                address = f"https://{self.hosts[name].address}:2380"
                self.members[name] = {
                    "ID": int(time.time() * 1e6),
                    "name": "",
                    "peerURLs": [address],
                    "isLearner": True,
                }
            case ["member", "promote", number]:
                (member,) = [m for m in self.members.values() if m["ID"] == int(number, 16)]
                del member["isLearner"]
            case _:
                raise AssertionError(f"etcdctl {words} is not known here")
        self.log.append(" ".join(words[:2]))
        return 0, {"header": {}}
