"""A kubelet that refused a static pod for good, while kubeadm waits for that pod."""

from __future__ import annotations

import time

from kops_py.connect.base import Host
from kops_py.engine.run import StepContext

_LOOK_S = 10.0
_MOST_RESTARTS = 2
_ASK_S = 30.0
# What this start of the kubelet has said; one that was restarted is another invocation.
_SCRIPT = """\
id=$(systemctl show --property=InvocationID --value kubelet) && [ -n "$id" ] || exit 0
journalctl --quiet --output=cat --since=-15min "_SYSTEMD_INVOCATION_ID=$id" |
  grep -i -o -m 1 -E 'failed to admit pod.*(etcd|kube-apiserver|kube-controller-manager|kube-scheduler)-[a-z0-9.-]+' ||
  exit 0
systemctl restart kubelet
"""


class AdmissionWatch:
    """Restarts the kubelet of a host when it has refused a pod of the control plane.

    One that looks at its manifests before it knows what the node has refuses a pod ("Failed to admit pod ... error
    finding a set of pods to preempt", seen with 1.20 on a busy machine) and never looks at it again. kubeadm waits in
    vain then; only another start of the kubelet helps.
    """

    def __init__(self, host: Host, ctx: StepContext) -> None:
        self._host = host
        self._ctx = ctx
        self._next_s = time.monotonic() + _LOOK_S
        self._restarts = 0

    def look(self) -> None:
        """Look every ten seconds, and restart twice at most; raises HostError."""
        if time.monotonic() < self._next_s or self._restarts >= _MOST_RESTARTS:
            return
        answer = self._host.run(("sh", "-c", _SCRIPT), sudo=True, check=False, timeout_s=_ASK_S)
        if said := answer.out.strip():
            self._restarts += 1
            self._ctx.progress(f"the kubelet said {said.splitlines()[0]!r}, and was restarted", waiting=True)
        self._next_s = time.monotonic() + _LOOK_S
