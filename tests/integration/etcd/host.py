"""A host as kubeadm leaves it, for the installed program: this machine behind an sshd that sees another /etc."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.backups import make_key
from tests.e2e.program import Program, installed_program
from tests.integration.etcd.members import Members
from tests.integration.ssh.sshd import SSHD, Sshd, wait_for_banner
from tests.integration.ssh.sshd import make_key as make_ssh_key
from tests.ports import free_port

MANIFEST = {
    "spec": {
        "containers": [
            {
                "image": "registry.k8s.io/kube-apiserver:v1.20.2",
                "command": [
                    "kube-apiserver",
                    "--etcd-servers=URL",
                    "--encryption-provider-config=/etc/kubernetes/enc/config.yaml",
                ],
            }
        ]
    }
}
FLAGS = "-m --propagation private"


def unavailable_reason() -> str:
    """Say why there can be no such host here; empty when there can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    done = subprocess.run(["unshare", *FLAGS.split(), "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no mount namespaces here"


@contextlib.contextmanager
def kubeadm_host(folder: Path, members: Members) -> Iterator[Sshd]:
    """Run an sshd in whose /etc/kubernetes lie the files of a control plane with an etcd that was given."""
    folder.mkdir()
    subprocess.run(["cp", "-a", "/etc", str(folder / "etc")], check=True)
    own = folder / "etc" / "kubernetes"
    (own / "pki" / "etcd").mkdir(parents=True)
    (own / "manifests").mkdir()
    (own / "enc").mkdir()
    for source, target in (("ca.crt", "etcd/ca.crt"), ("client.crt", "apiserver-etcd-client.crt"),
                           ("client.key", "apiserver-etcd-client.key")):  # fmt: skip
        shutil.copy(members.folder / source, own / "pki" / target)
    for name in ("ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key"):
        (own / "pki" / name).write_text(f"this is {name}")
    (own / "enc" / "config.yaml").write_text("kind: EncryptionConfiguration")
    (own / "manifests" / "kube-apiserver.yaml").write_text(yaml.safe_dump(MANIFEST).replace("URL", members.endpoint()))
    make_ssh_key(folder / "host_key")
    key, port = make_ssh_key(folder / "key"), free_port()
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        # a slow shell start-up file of whoever runs the tests is not what is tested
        f"SetEnv HOME={folder}/home\n"
    )
    (folder / "home").mkdir()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    inside = f"mount --bind {folder}/etc /etc && exec {SSHD} -D -f {folder}/sshd_config -E {folder}/log"
    process = subprocess.Popen(["unshare", *FLAGS.split(), "sh", "-c", inside])
    server = Sshd(folder, port, key, process)
    try:
        wait_for_banner(server)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def operator(folder: Path, host: Sshd, members: Members, **backup: Any) -> tuple[Program, Path]:
    """Write the operator's files for the cluster prod; returns the program and the file with the private key."""
    folder.mkdir()
    program = Program(installed_program(), folder)
    variables = {
        "ansible_host": "127.0.0.1", "ip": "192.0.2.1", "ansible_port": host.port, "ansible_user": "root",
        "ansible_ssh_private_key_file": str(host.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={host.known_hosts()}",
    }  # fmt: skip
    groups: dict[str, Any] = {g: {"hosts": {"n1": {}}} for g in ("kube_control_plane", "kube_node")}
    # the member's own host cannot be reached: the control plane asks etcd by the URL its API server uses
    gone = variables | {"ansible_port": free_port(), "ip": "192.0.2.2", "etcd_member_name": "m1"}
    groups["etcd"] = {"hosts": {"e1": {}}}
    inventory = {"all": {"hosts": {"n1": variables, "e1": gone}, "children": groups}}
    (folder / "hosts.yaml").write_text(yaml.safe_dump(inventory))
    public, private = make_key(folder.parent)
    document = {
        "apiVersion": "kops-py/v1", "kind": "Cluster", "metadata": {"name": "prod"},
        "kubernetes": {"version": "v1.20.2"}, "network": {"cni": {"type": "bridge"}},
        "etcd": {"topology": "external"},
        "backup": {
            "stores": [{"name": "local", "directory": {"path": str(folder.parent / "store")}}],
            "encryption": {"recipients": [public]},
            **backup,
        },
    }  # fmt: skip
    (folder / "cluster.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return program, private


def set_backup(program: Program, **backup: Any) -> None:
    """Change keys of the section backup."""
    path = program.folder / "cluster.yaml"
    document = yaml.safe_load(path.read_text())
    document["backup"] |= backup
    path.write_text(yaml.safe_dump(document, sort_keys=False))
