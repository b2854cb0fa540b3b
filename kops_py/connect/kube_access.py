"""A way to the cluster's API: admin.conf read from a control plane, kept in memory, used over whatever answers.

The endpoint of the cluster is tried first, then each control plane by its own address, so that a load balancer
that is down does not stop the program.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kops_py.connect.base import Cancel, Fleet, KubeApi
from kops_py.model.errors import HostError, KubeError
from kops_py.model.spec import ClusterSpec, HostSpec, bracketed

ADMIN_CONF = "/etc/kubernetes/admin.conf"
_PROBE_TIMEOUT_S = 5.0


class KubeAccess:
    """Finds and keeps one working connection to the API; thread-safe."""

    def __init__(self, fleet: Fleet, spec: ClusterSpec, work_dir: Path, cancel: Cancel) -> None:
        self._fleet = fleet
        self._spec = spec
        self._work_dir = work_dir
        self._cancel = cancel
        self._lock = threading.Lock()
        self._api: KubeApi | None = None

    def api(self) -> KubeApi:
        """Return a connection that answered just now; raises KubeError when nothing answers."""
        with self._lock:
            if self._api is not None:
                if self._api.is_ready(_PROBE_TIMEOUT_S):
                    return self._api
                self._api.close()
                self._api = None
            self._api = self._find()
            return self._api

    @contextmanager
    def servers(self) -> Iterator[Mapping[str, KubeApi | KubeError]]:
        """Give a connection to the API server of each control plane, or why there is none, for what each knows alone.

        Raises KubeError when nothing answers at all.
        """
        planes = self._spec.control_planes
        if len(planes) == 1:
            yield {planes[0].name: self.api()}
            return
        configs, problems = self._configs()
        found: dict[str, KubeApi | KubeError] = {
            p.where: KubeError(p.what, why=p.why, hint=p.hint) for p in problems if p.where in {h.name for h in planes}
        }
        with ExitStack() as stack:
            for host, config in configs:
                try:
                    found[host.name] = api = self._connect(config, _own_address(host))
                except (KubeError, HostError) as error:
                    found[host.name] = KubeError(error.what, why=error.why, hint=error.hint)
                else:
                    stack.callback(api.close)
            yield found

    def read_admin_conf(self) -> bytes:
        """Return admin.conf of the first control plane that has one; it holds a private key.

        Raises KubeError when none has one, HostError when one of them cannot be asked and so may have one.
        """
        configs, problems = self._configs()
        for _, config in configs:
            return config
        for problem in problems:
            raise problem
        raise KubeError("no control plane has an admin.conf yet", hint="build the cluster first: kops-py bootstrap")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._api is not None:
                self._api.close()
                self._api = None

    def _configs(self) -> tuple[list[tuple[HostSpec, bytes]], list[HostError]]:
        """Return what was read, and why the others could not be asked."""
        names = [h.name for h in self._spec.control_planes]
        answers = self._fleet.map(
            names,
            lambda host: host.run(("cat", ADMIN_CONF), sudo=True, timeout_s=20, check=False, cancel=self._cancel),
            cancel=self._cancel,
        )
        found: list[tuple[HostSpec, bytes]] = []
        problems: list[HostError] = []
        for host in self._spec.control_planes:
            answer = answers.get(host.name)
            if isinstance(answer, HostError):
                problems.append(answer)
            elif not isinstance(answer, Exception) and answer is not None and answer.ok and answer.stdout:
                found.append((host, answer.stdout))
        return found, problems

    def _find(self) -> KubeApi:
        configs, problems = self._configs()
        if not configs and problems:
            raise KubeError(
                "no control plane can be asked for the cluster",
                why="; ".join(str(problem) for problem in problems),
                hint=problems[0].hint or "see what is wrong with: kops-py preflight",
            ) from problems[0]
        if not configs:
            raise KubeError(
                "there is no cluster to talk to",
                why=f"no control plane has {ADMIN_CONF}",
                hint="build it with: kops-py bootstrap",
            )
        tried: list[str] = []
        candidates: list[tuple[bytes, str | None]] = [(configs[0][1], None)]
        candidates += [(config, _own_address(host)) for host, config in configs]
        for config, server in candidates:
            self._cancel.check()
            try:
                return self._connect(config, server)
            except (KubeError, HostError) as error:
                tried.append(str(error))
        raise KubeError(
            "the API server does not answer",
            where=str(self._spec.endpoint),
            why="tried " + "; ".join(tried),
            hint="on a control plane: crictl ps -a; journalctl -u kubelet; then run the same command again",
        )

    def _connect(self, config: bytes, server: str | None) -> KubeApi:
        """Return a connection that answers, to the endpoint in the file or to another one; raises KubeError."""
        from kops_py.connect.kube import connect_kube

        api = connect_kube(
            config,
            server_override=server,
            work_dir=self._work_dir,
            request_timeout_s=self._spec.timeouts.api_request_s,
            cancel=self._cancel,
        )
        if api.is_ready(_PROBE_TIMEOUT_S):
            return api
        api.close()
        raise KubeError(server or str(self._spec.endpoint))


def _own_address(host: HostSpec) -> str:
    return f"https://{bracketed(host.node_ip)}:6443"
