"""Real etcd members as processes on the loopback address, with TLS for clients and peers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from kops_py.model.etcd import EtcdCredentials, EtcdTarget
from tests.fakes.etcd_load import Loader
from tests.integration.kube.pki import Authority
from tests.ports import free_port

ETCD, ETCDCTL = shutil.which("etcd"), shutil.which("etcdctl")
MISSING = "etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)"


class Members:
    """A cluster of etcd; member ``mN`` belongs to host ``nN``. ``programs`` is a folder with another etcd's."""

    def __init__(self, folder: Path, count: int = 1, *, quota_bytes: int = 0, programs: Path | None = None) -> None:
        self.folder, self._quota = folder, quota_bytes
        self._etcd = str(programs / "etcd") if programs else ETCD
        self._etcdctl = str(programs / "etcdctl") if programs else ETCDCTL
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority("etcd-ca")
        (folder / "ca.crt").write_bytes(authority.certificate)
        authority.issue("server", names=("127.0.0.1", "localhost")).write(folder, "server")
        authority.issue("healthcheck").write(folder, "client")
        self.names = [f"m{n}" for n in range(1, count + 1)]
        self.clients = {n: free_port() for n in self.names}
        self.peers = {n: free_port() for n in self.names}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def credentials(self) -> EtcdCredentials:
        return EtcdCredentials(*(str(self.folder / f) for f in ("ca.crt", "client.crt", "client.key")))

    def endpoint(self, name: str = "m1") -> str:
        return f"https://127.0.0.1:{self.clients[name]}"

    def targets(self) -> tuple[EtcdTarget, ...]:
        return tuple(
            EtcdTarget(n.replace("m", "n"), self.endpoint(n), (self.credentials,), n, "127.0.0.1") for n in self.names
        )

    def start(self, *names: str) -> None:
        for name in names or self.names:
            self._start(name)
        self.wait_healthy(*(names or self.names))

    def _start(self, name: str) -> None:
        assert self._etcd is not None
        peer = f"https://127.0.0.1:{self.peers[name]}"
        tls = [
            f"--{who}{flag}={self.folder / file}"
            for who in ("", "peer-")
            for flag, file in (("cert-file", "server.crt"), ("key-file", "server.key"), ("trusted-ca-file", "ca.crt"))
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    self._etcd, f"--name={name}", f"--data-dir={self.folder / name}", "--unsafe-no-fsync", *tls,
                    "--client-cert-auth", "--peer-client-cert-auth",
                    f"--listen-client-urls={self.endpoint(name)}", f"--advertise-client-urls={self.endpoint(name)}",
                    f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                    "--initial-cluster=" + ",".join(f"{n}=https://127.0.0.1:{p}" for n, p in self.peers.items()),
                    *([f"--quota-backend-bytes={self._quota}"] if self._quota else []),
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def wait_healthy(self, *names: str, deadline_s: float = 30) -> None:
        until = time.monotonic() + deadline_s
        for name in names:
            while self.ctl("endpoint", "health", member=name, check=False).returncode:
                assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()[-2000:]
                time.sleep(0.1)

    def ctl(
        self, *command: str, member: str = "m1", check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        own = self.credentials
        argv = [
            str(self._etcdctl), f"--endpoints={self.endpoint(member)}", f"--cacert={own.ca}", f"--cert={own.cert}",
            f"--key={own.key}", "--command-timeout=5s", "--dial-timeout=1s", *command,
        ]  # fmt: skip
        return subprocess.run(argv, input=stdin, capture_output=True, check=check, timeout=60)

    def put(self, key: str, value: bytes) -> None:
        self.ctl("put", key, stdin=value)

    def fill(self, count: int, size: int = 500_000) -> None:
        for number in range(count):
            self.put(f"/registry/fill/{number:05}", (b"%06d" % number) * (size // 6))

    def fill_large(self, count: int) -> None:
        """Write so many values of a megabyte that does not compress: a snapshot of them is under way for a while."""
        own = self.credentials
        loader = Loader(self.endpoint(), own.ca, own.cert, own.key)
        for number in range(count):
            loader.put(f"/registry/large/{number:05}", os.urandom(1_000_000))
        loader.close()

    def add_member(self, name: str, peer_url: str, *, deadline_s: float = 20) -> None:
        """Add a member that nobody starts; etcd refuses for five seconds after members found each other."""
        until = time.monotonic() + deadline_s
        while (done := self.ctl("member", "add", name, f"--peer-urls={peer_url}", check=False)).returncode:
            assert time.monotonic() < until, done.stderr.decode()
            time.sleep(0.2)

    def cluster_keys(self, uid: str = "3f9a2c1d-0d0a-4f7b-9c55-1c8a4b0f6f0e") -> None:
        """What every kubeadm cluster holds."""
        self.put("/registry/namespaces/kube-system", b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12" + uid.encode())
        self.put("/registry/namespaces/default", b"k8s\0")
        self.put("/registry/configmaps/kube-system/kubeadm-config", b"k8s\0ClusterConfiguration")

    def revision(self, member: str = "m1") -> int:
        answer = json.loads(self.ctl("endpoint", "status", "--write-out=json", member=member).stdout)
        return int(answer[0]["Status"]["header"]["revision"])

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.processes):
            process = self.processes.pop(name)
            process.kill()
            process.wait(30)
