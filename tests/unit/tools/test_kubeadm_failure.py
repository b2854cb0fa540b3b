"""What kubeadm says on failing is found in its output; nothing secret comes along."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kops_py.tools.kubeadm_failure import failure_hint, failure_lines, parse_failure

PREFLIGHT = """\
[init] Using Kubernetes version: v1.20.2
[preflight] Running pre-flight checks
\t[WARNING SystemVerification]: missing optional cgroups: hugetlb
error execution phase preflight: [preflight] Some fatal errors occurred:
\t[ERROR Port-6443]: Port 6443 is in use
\t[ERROR FileAvailable--etc-kubernetes-manifests-etcd.yaml]: /etc/kubernetes/manifests/etcd.yaml already exists
[preflight] If you know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`
To see the stack trace of this error execute with --v=5 or higher
"""

WAIT = """\
[wait-control-plane] Waiting for the kubelet to boot up the control plane. This can take up to 4m0s
[kubelet-check] Initial timeout of 40s passed.

\tUnfortunately, an error has occurred:
\t\ttimed out waiting for the condition

\tThis error is likely caused by:
\t\t- The kubelet is not running
error execution phase wait-control-plane: couldn't initialize a Kubernetes cluster
To see the stack trace of this error execute with --v=5 or higher
"""

NEW_WAIT = """\
[control-plane-check] Checking kube-apiserver at https://10.0.0.1:6443/livez
[control-plane-check] kube-controller-manager is healthy after 2.1s
[control-plane-check] kube-apiserver is not healthy after 4m0.000513s
error: error execution phase wait-control-plane: failed while waiting for the control plane to start: \
kube-apiserver check failed at https://10.0.0.1:6443/livez: context deadline exceeded
To see the stack trace of this error execute with --v=5 or higher
"""

JOIN_KUBELET = """\
[kubelet-start] Starting the kubelet
[kubelet-check] The HTTP call equal to 'curl -sSL http://localhost:10248/healthz' failed with error: \
Get "http://localhost:10248/healthz": dial tcp [::1]:10248: connect: connection refused.
[kubelet-check] It seems like the kubelet isn't running or healthy.
error execution phase kubelet-start: timed out waiting for the condition
"""

DOWNLOAD = """\
[download-certs] Downloading the certificates in Secret "kubeadm-certs" in the "kube-system" Namespace
error execution phase control-plane-prepare/download-certs: error downloading certs: error downloading the \
secret: Secret "kubeadm-certs" was not found in the "kube-system" Namespace. This Secret might have expired.
"""

DISCOVERY = """\
error execution phase preflight: couldn't validate the identity of the API Server: could not find a JWS \
signature in the cluster-info ConfigMap for token ID "abcdef"
"""


def test_failed_checks_are_named() -> None:
    assert failure_lines(PREFLIGHT) == (
        "[Port-6443] Port 6443 is in use",
        "[FileAvailable--etc-kubernetes-manifests-etcd.yaml] /etc/kubernetes/manifests/etcd.yaml already exists",
    )
    assert "kubeadm reset" in failure_hint(PREFLIGHT)


def test_a_timeout_of_the_control_plane_points_at_its_pods() -> None:
    assert parse_failure(WAIT) == "phase wait-control-plane failed: timed out waiting for the condition"
    assert "crictl" in failure_hint(WAIT)
    assert "journalctl -u kubelet" in failure_hint(WAIT)


def test_the_unhealthy_component_is_named() -> None:
    lines = failure_lines(NEW_WAIT)
    assert lines[0] == "kube-apiserver is not healthy after 4m0.000513s"
    assert lines[1].startswith("phase wait-control-plane failed: failed while waiting for the control plane")
    assert not any("controller-manager" in line for line in lines)


def test_a_kubelet_that_does_not_start() -> None:
    assert parse_failure(JOIN_KUBELET) == (
        "It seems like the kubelet isn't running or healthy.; "
        "phase kubelet-start failed: timed out waiting for the condition"
    )
    assert failure_hint(JOIN_KUBELET).startswith("look at the kubelet on that node")


def test_lost_certificates() -> None:
    assert "phase control-plane-prepare/download-certs failed: error downloading certs" in parse_failure(DOWNLOAD)
    assert "uploaded certificates" in failure_hint(DOWNLOAD)


def test_discovery_that_fails_is_a_preflight_phase_with_its_reason() -> None:
    assert parse_failure(DISCOVERY).startswith("phase preflight failed: couldn't validate the identity")
    assert "endpoint" in failure_hint(DISCOVERY)


def test_etcd_that_is_not_healthy() -> None:
    log = "error execution phase check-etcd: etcd cluster is not healthy: failed to dial endpoint https://10.0.0.2:2379"
    assert "every member" in failure_hint(log)


def test_other_programs_last_words_are_kept() -> None:
    log = "I1120 10:00:00.000001    12 a.go:1] fine\nunable to fetch the kubeadm-config ConfigMap\n\nyaml: line 2\n"
    assert "yaml: line 2" in parse_failure(log)
    assert parse_failure("Error: unknown flag: --x\nUsage: kubeadm\n") == "unknown flag: --x"
    assert parse_failure("") == ""
    assert failure_hint("") == ""


def test_secrets_do_not_come_along() -> None:
    log = f"error execution phase x: token abcdef.0123456789abcdef and key {'0f' * 32} are bad"
    assert parse_failure(log) == "phase x failed: token [redacted token] and key [redacted key] are bad"


def test_output_is_bounded() -> None:
    log = "\n".join(f"\t[ERROR Check{n}]: {'x' * 2000}" for n in range(100))
    assert len(failure_lines(log)) == 12
    assert len(parse_failure(log)) < 6000


@given(st.text(max_size=400))
def test_any_output_is_read(log: str) -> None:
    parse_failure(log)
    failure_hint(log)
