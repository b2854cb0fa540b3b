"""A good pair of files, and what tests do with it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kops_py.config.load import assemble, read_files
from kops_py.model.errors import ConfigError, ExitCode
from kops_py.model.spec import ClusterSpec

WHERE = re.compile(r".+:[1-9]\d*:[1-9]\d*")

CLUSTER = """\
apiVersion: kops-py/v1
kind: Cluster
metadata:
  name: prod
kubernetes:
  version: v1.34.2
  repository: https://mirror.example.com/kubernetes
  repositoryKey: https://mirror.example.com/kubernetes.asc
  imageRepository: registry.example.com/k8s
  images: ./images
  packageRevision: "1.1"
network:
  podSubnet: 10.244.0.0/16
  serviceSubnet: [10.96.0.0/12]
  dnsDomain: cluster.local
  cni:
    type: manifest
    file: cni.yaml
certSANs: [api.example.com, 192.0.2.200]
containerd:
  source: docker
  version: "1.7.24"
  mirrors:
    docker.io: [https://mirror.example.com]
etcd: {topology: stacked}
ssh:
  becomePassword: env:SUDO_PASSWORD
  connectTimeoutSeconds: 12.5
  maxParallel: 8
timeouts:
  prepareSeconds: 900
maintenance:
  maxUnavailable: 25%
  hooks:
    before: [{command: ./silence --for 30m}]
    after:
      - {command: [./silence, "off"], runOn: node, timeoutSeconds: 9}
  gates:
    - {name: alerts, command: [./alerts], intervalSeconds: 1}
    - http: {url: "https://shop.example.com/healthz", status: [200], contains: ok, caFile: ca.pem.bak}
  canary: {count: 1, pauseSeconds: 600, gate: {command: ./check-canary}}
  groups:
    - {name: storage, selector: disk=ssd}
    - {name: rest, inventoryGroup: kube_node, maxUnavailable: 50%}
preflight:
  ignore: [swap-on]
kubeadm:
  clusterConfiguration:
    apiServer: {extraArgs: {profiling: "false"}}
"""

HOSTS = """\
all:
  vars:
    ansible_user: admin
  hosts:
    cp-1: {ansible_host: 192.0.2.11}
    cp-2: {ansible_host: 192.0.2.12, ip: 10.1.0.12}
    cp-3: {ansible_host: cp-3.example.com, ip: 10.1.0.13, ansible_port: 2222}
    worker-1:
      ansible_host: 192.0.2.21
      node_labels: {disk: ssd}
      node_taints: ["dedicated=batch:NoSchedule"]
    lb-1: {ansible_host: 192.0.2.41}
  children:
    kube_control_plane:
      hosts: {cp-1: , cp-2: , cp-3: }
    kube_node:
      hosts:
        worker-1:
    etcd:
      children: {kube_control_plane: }
    load_balancer:
      hosts: {lb-1: }
"""

HOSTS_INI = """\
# hosts
[all]
cp-1 ansible_host=192.0.2.11 ip=10.1.0.11
cp-2 ansible_host=192.0.2.12 ansible_user="admin"
worker-1 ansible_host=192.0.2.21 node_labels="{'disk': 'ssd'}"

[all:vars]
ansible_user=admin

[kube_control_plane]
cp-[1:2]

[kube_node]
worker-1

[load_balancer]
lb-1:2222 ansible_host=192.0.2.41

[k8s_cluster:children]
kube_control_plane
kube_node
"""


@dataclass(frozen=True)
class Pair:
    """A hosts file and cluster.yaml in a folder with all they refer to."""

    hosts: Path
    cluster: Path

    @classmethod
    def write(
        cls, folder: Path, *, hosts: str = HOSTS, cluster: str = CLUSTER, hosts_name: str = "hosts.yaml"
    ) -> "Pair":
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "cni.yaml").write_text("kind: List\n")
        (folder / "ca.pem.bak").write_text("")
        (folder / "images").mkdir(exist_ok=True)
        (folder / hosts_name).write_text(hosts)
        (folder / "cluster.yaml").write_text(cluster)
        return cls(folder / hosts_name, folder / "cluster.yaml")

    def change(self, old: str, new: str, *, file: str = "cluster") -> None:
        """Replace a text that is there exactly once."""
        path: Path = getattr(self, file)
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def load(self, listing: dict[str, Any], limit: str | None = None) -> ClusterSpec:
        """Load with a listing of ours in place of Ansible's."""
        return assemble(read_files(self.hosts), listing, limit=limit)

    def errors(self) -> list[ConfigError]:
        """Return what reading the files alone complains about."""
        try:
            read_files(self.hosts)
        except ConfigError as error:
            return checked(error)
        return []


def checked(error: ConfigError) -> list[ConfigError]:
    """Return all errors, having seen that each has a place and a one-line text."""
    everything = [error, *error.others]
    for one in everything:
        assert one.code == ExitCode.CONFIGURATION
        assert WHERE.fullmatch(one.where), f"no place: {one.where!r}: {one.what}"
        assert one.what
        for text in (one.what, one.why, one.hint):
            assert "\n" not in text, text
            assert len(text) < 500, text
    return everything


def listing() -> dict[str, Any]:
    """Return what ansible-inventory prints for HOSTS."""
    return {
        "_meta": {
            "hostvars": {
                "cp-1": {"ansible_host": "192.0.2.11", "ansible_user": "admin"},
                "cp-2": {"ansible_host": "192.0.2.12", "ansible_user": "admin", "ip": "10.1.0.12"},
                "cp-3": {
                    "ansible_host": "cp-3.example.com",
                    "ansible_port": 2222,
                    "ansible_user": "admin",
                    "ip": "10.1.0.13",
                },
                "lb-1": {"ansible_host": "192.0.2.41", "ansible_user": "admin"},
                "worker-1": {
                    "ansible_host": "192.0.2.21",
                    "ansible_user": "admin",
                    "node_labels": {"disk": "ssd"},
                    "node_taints": ["dedicated=batch:NoSchedule"],
                },
            },
            "profile": "inventory_legacy",
        },
        "all": {"children": ["ungrouped", "kube_node", "load_balancer", "etcd"]},
        "etcd": {"children": ["kube_control_plane"]},
        "kube_control_plane": {"hosts": ["cp-1", "cp-2", "cp-3"]},
        "kube_node": {"hosts": ["worker-1"]},
        "load_balancer": {"hosts": ["lb-1"]},
    }
