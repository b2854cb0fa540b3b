"""A kube-apiserver with its etcd as plain processes on the loopback address."""

from __future__ import annotations

import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.integration.kube.pki import Authority, Pair, kubeconfig
from tests.ports import free_port


class ControlPlane:
    """One etcd and one kube-apiserver; stop() and start() of the API server keep its data and port."""

    def __init__(self, apiserver: Path, etcd: Path, work: Path) -> None:
        self._apiserver, self._etcd, self.work = apiserver, etcd, work
        self.authority = Authority()
        self.admin = self.authority.issue("admin", organisation="system:masters")
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_pki()

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, client: Pair | None = None, *, server: str = "", authority: bytes = b"") -> bytes:
        return kubeconfig(server or self.server, authority or self.authority.certificate, client or self.admin)

    def start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            self._etcd, "--name=test", f"--data-dir={self.work / 'data'}", "--unsafe-no-fsync",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
        )  # fmt: skip

    def start(self) -> None:
        pki = self.work / "pki"
        self._spawn(
            "kube-apiserver",
            self._apiserver, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}", f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--client-ca-file={pki / 'ca.crt'}", "--authorization-mode=RBAC",
            f"--tls-cert-file={pki / 'server.crt'}", f"--tls-private-key-file={pki / 'server.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'sa.key'}", f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none", "--shutdown-delay-duration=0s",
        )  # fmt: skip

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Wait until /readyz answers ok."""
        context = ssl.create_default_context(cafile=str(self.work / "pki" / "ca.crt"))
        deadline = time.monotonic() + timeout_s
        while True:
            if (code := self._processes["kube-apiserver"].poll()) is not None:
                raise AssertionError(f"kube-apiserver ended with {code}: {self.log_tail()}")
            try:
                with urllib.request.urlopen(f"{self.server}/readyz", context=context, timeout=2) as answer:
                    if answer.read() == b"ok":
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline, f"kube-apiserver is not ready: {self.log_tail()}"
            time.sleep(0.1)

    def stop(self, name: str = "kube-apiserver", *, kill: bool = True) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.kill() if kill else process.terminate()
        process.wait(timeout=30)

    def signal(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def down(self) -> None:
        self.stop()
        self.stop("etcd")

    def log_tail(self) -> str:
        return (self.work / "kube-apiserver.log").read_text(errors="replace")[-2000:]

    def _spawn(self, name: str, program: Path, *arguments: str) -> None:
        with (self.work / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["nice", str(program), *arguments], stdout=log, stderr=log, cwd=self.work
            )

    def _write_pki(self) -> None:
        pki = self.work / "pki"
        pki.mkdir(mode=0o700)
        (pki / "ca.crt").write_bytes(self.authority.certificate)
        names = ("127.0.0.1", "10.96.0.1", "kubernetes", "api.example.test")
        self.authority.issue("kube-apiserver", names=names).write(pki, "server")
        (pki / "sa.key").write_bytes(self.authority.issue("sa").key)
