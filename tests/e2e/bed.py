"""One lab with the operator's files for it: what a scenario works with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.bundle import Bundle
from tests.e2e.program import Finished, Program, tail
from tests.lab import Lab, Node

VERSION = "v1.20.2"
LAYER = "k8s"
LAYER_PACKAGES = ("containerd", "conntrack", "socat", "ethtool", "ebtables", "containernetworking-plugins")
KUBECONFIG = "/etc/kubernetes/admin.conf"
LOCAL_API = f"kubectl --kubeconfig {KUBECONFIG} --request-timeout=10s"


class Bed:
    """A lab, a folder with inventory and cluster.yaml, and the program that is run in it."""

    def __init__(self, lab: Lab, bundle: Bundle, program: Program) -> None:
        self.lab = lab
        self.bundle = bundle
        self.program = program
        self.url = ""
        self._started = time.monotonic()

    @property
    def folder(self) -> Path:
        return self.program.folder

    def boot(self, count: int, *, layers: Sequence[str] = (LAYER,), disk_bytes: int | None = None) -> list[Node]:
        """Boot n1..n<count> and serve the bundle to them."""
        if LAYER in layers:
            self.lab.layer(LAYER, LAYER_PACKAGES)
        nodes = self.lab.up(count, layers=layers, disk_bytes=disk_bytes)
        self.url = self.url or self.lab.serve(self.bundle.path)
        return nodes

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    def write_inventory(
        self,
        *,
        control_planes: Sequence[str],
        workers: Sequence[str] = (),
        load_balancers: Sequence[str] = (),
        etcd: Sequence[str] | None = (),
        others: Sequence[str] = (),
        variables: Mapping[str, Any] | None = None,
        host_variables: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write hosts.yaml; a name may be in several roles; ``host_variables`` may name hosts the lab lacks.

        ``others`` are in none of our groups. Without ``etcd`` its group is the control planes; None: there is no such
        group.
        """
        own = host_variables or {}
        names = dict.fromkeys((*control_planes, *workers, *load_balancers, *(etcd or ()), *others))
        addresses = {name: {"ansible_host": self.node(name).ip} for name in names if name in self._lab_names()}
        hosts = {name: {**addresses.get(name, {}), **own.get(name, {})} for name in names}
        roles = {
            "kube_control_plane": control_planes,
            "kube_node": workers,
            "etcd": () if etcd is None else etcd or control_planes,
            "load_balancer": load_balancers,
        }
        document = {
            "all": {
                "vars": {
                    "ansible_user": self.lab.user,
                    "ansible_ssh_private_key_file": str(self.lab.key_path),
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.lab.known_hosts}",
                    **(variables or {}),
                },
                "hosts": hosts,
                "children": {
                    role: {"hosts": {name: {} for name in members}} for role, members in roles.items() if members
                },
            }
        }
        (self.folder / "hosts.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def write_cluster(self, name: str, **changes: Any) -> None:
        """Write cluster.yaml for the served bundle; ``changes`` are merged into it."""
        document: dict[str, Any] = {
            "apiVersion": "kops-py/v1",
            "kind": "Cluster",
            "metadata": {"name": name},
            "kubernetes": {
                "version": VERSION,
                "repository": f"{self.url}/packages",
                "repositoryKey": str(self.bundle.release_key(VERSION)),
                "images": f"{self.url}/images",
            },
            "network": {"cni": {"type": "bridge"}},
            "ssh": {"connectTimeoutSeconds": 6},
        }
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(_merged(document, changes), sort_keys=False))

    def _lab_names(self) -> set[str]:
        return set(self.lab.state()["nodes"])

    def bootstrap(self, *arguments: str, exit_code: int = 0, deadline_s: float = 400) -> Finished:
        """Run ``kops-py bootstrap -y`` to its end."""
        return self.program.run("bootstrap", "-y", *arguments, exit_code=exit_code, deadline_s=deadline_s)

    def assert_nothing_to_do(self) -> Finished:
        """Bootstrap again changes nothing and says so, and so does its plan."""
        again = self.bootstrap(deadline_s=120)
        assert "nothing to do" in again.stdout, again.report()
        planned = self.program.run("bootstrap", "--plan", deadline_s=120)
        assert "nothing to do" in planned.stdout, planned.report()
        return again

    def kubectl(self, arguments: str, *, on: str = "n1", stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as root on a control plane and return its output."""
        return self.node(on).exec(f"{LOCAL_API} {arguments}", stdin=stdin, check=check).stdout

    def cluster_id(self, *, on: str = "n1") -> str:
        """The uid of kube-system: made by the first init, another one after any second init."""
        return self.kubectl("get namespace kube-system -o jsonpath={.metadata.uid}", on=on)

    def ready_nodes(self, *, on: str = "n1") -> dict[str, bool]:
        """Each node's Ready condition as the API tells it."""
        items = json.loads(self.kubectl("get nodes -o json", on=on))["items"]
        return {n["metadata"]["name"]: _is_ready(n) for n in items}

    def wait_ready(self, names: Sequence[str], *, on: str = "n1", deadline_s: float = 120) -> float:
        """Wait until exactly these nodes are there and Ready; returns the seconds it took."""
        started = time.monotonic()
        seen: dict[str, bool] = {}
        while time.monotonic() - started < deadline_s:
            seen = self.ready_nodes(on=on)
            if seen == dict.fromkeys(names, True):
                return time.monotonic() - started
            time.sleep(0.5)
        raise AssertionError(f"nodes {list(names)} are not all Ready after {deadline_s:.0f} s: {seen}")

    def say(self, message: str) -> None:
        """Print a line for the timings."""
        print(f"[{time.monotonic() - self._started:6.1f} s] {message}", flush=True)

    def report(self) -> str:
        """What a person needs to see why a scenario failed."""
        parts = [self.program.report()]
        for node in self.lab.nodes if self.url else ():  # nothing was booted yet
            if node.console_log.exists():
                parts.append(f"--- console of {node.name}\n{tail(node.console_log.read_text(errors='replace'), 12)}")
            if node.is_running:
                script = (
                    'for f in /var/lib/kops-py/jobs/*/log; do echo "$f"; tail -n 15 "$f"; done;'
                    " systemctl --failed --no-legend;"
                    " journalctl -u kubelet -n 200 --no-pager -o cat | grep -v perf_event | tail -n 8"
                )
                parts.append(f"--- jobs and kubelet of {node.name}\n{node.exec(script, check=False).stdout}")
        return "\n".join(parts)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"
