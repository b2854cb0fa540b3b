"""Find in kubeadm's output what went wrong and where to look next."""

from __future__ import annotations

import re

from kops_py.tools.redact import redact

_PREFLIGHT = re.compile(r"^\s*\[ERROR ([^\]]+)\]:?\s*(.*)$")
_PHASE = re.compile(r"error execution phase ([A-Za-z0-9/_-]+)(?::\s*(.*))?$")
_UNHEALTHY = re.compile(
    r"^\s*\[(?:kubelet-check|control-plane-check)\]\s+(.*(?:is not healthy after|isn't running).*)$"
)
_TIMED_OUT = re.compile(
    r"timed out waiting for the condition|context deadline exceeded|"
    r"(?:wait|client rate limiter Wait) .*exceed|is not healthy after"
)
_CODED = re.compile(r"^\s*(?:[EF]\d{4} \d{2}:\d{2}:\d{2}\.\d+\s+\d+ \S+\]|error:|Error:)\s*(.*)$")
_NOISE = re.compile(
    r"^(?:To see the stack trace|\[preflight\] If you know what you are doing"
    r"|couldn't initialize a Kubernetes cluster|\[preflight\] Some fatal errors occurred)"
)
_MAX_LINES = 12
_MAX_LINE_CHARS = 400

_KUBELET = "look at the kubelet on that node: journalctl -u kubelet -n 50 --no-pager"
_STATIC_PODS = (
    "look at the kubelet and the static pods on that node: journalctl -u kubelet -n 50 --no-pager; "
    "crictl ps -a | grep kube-; crictl logs CONTAINER"
)
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^preflight/CRI$"), "look at the runtime on that node: systemctl status containerd"),
    (
        re.compile(r"^preflight/Port-"),
        "another process listens there (ss -ltnp), or an old cluster is left: kubeadm reset",
    ),
    (re.compile(r"^preflight/(?:FileAvailable|DirAvailable)-"), "leftovers of an earlier cluster: kubeadm reset"),
    (re.compile(r"^preflight/ImagePull$"), "the node cannot pull images: check the repository and its mirrors"),
    (re.compile(r"^preflight/Swap$"), "turn swap off: swapoff -a, and remove it from /etc/fstab"),
    (
        re.compile(r"download-certs"),
        "the uploaded certificates are gone or were encrypted with another key; run the same command again",
    ),
    (
        re.compile(r"etcd"),
        "look at etcd on the control planes (every member must be healthy): crictl ps -a --name etcd",
    ),
    (re.compile(r"wait-control-plane|upload-config|mark-control-plane|addon|bootstrap-token"), _STATIC_PODS),
    (re.compile(r"kubelet-(?:start|check|finalize|wait)"), _KUBELET),
    (
        re.compile(r"^preflight$|discovery"),
        "the API server does not answer from that node: check the endpoint, the load balancer and the firewall",
    ),
)


def failure_lines(log: str) -> tuple[str, ...]:
    """Return the lines of kubeadm's output that say what failed, redacted, in order, without repetitions.

    Failed preflight checks first, then the failing phase; the last lines of the output when kubeadm named neither.
    """
    lines = log.splitlines()
    found: list[str] = []
    for line in lines:
        check = _PREFLIGHT.match(line)
        if check is not None:
            found.append(f"[{check[1]}] {check[2]}".rstrip())
            continue
        unhealthy = _UNHEALTHY.match(line)
        if unhealthy is not None:
            found.append(unhealthy[1].strip())
    found += _phase_lines(lines)
    if not found:
        found = _coded_lines(lines) or [line.strip() for line in lines if line.strip()][-3:]
    short = [redact(line)[:_MAX_LINE_CHARS] for line in dict.fromkeys(found)]
    return tuple(short[:_MAX_LINES])


def failure_hint(log: str) -> str:
    """Return what to look at after this failure, or "" when nothing particular is known."""
    checks = [f"preflight/{match[1]}" for line in log.splitlines() if (match := _PREFLIGHT.match(line))]
    phases = [match[1] for line in log.splitlines() if (match := _PHASE.search(line))]
    for place in checks or phases:
        for pattern, hint in _HINTS:
            if pattern.search(place):
                return hint
    if _TIMED_OUT.search(log) is not None:
        return _STATIC_PODS
    return ""


def parse_failure(log: str) -> str:
    """Return one text, free of secrets, that says why kubeadm failed; "" for an empty output."""
    return "; ".join(failure_lines(log))


def _phase_lines(lines: list[str]) -> list[str]:
    found: list[str] = []
    for number, line in enumerate(lines):
        match = _PHASE.search(line)
        if match is None:
            continue
        reason = (match[2] or "").strip()
        if not reason or _NOISE.match(reason):
            reason = _reason_nearby(lines, number) if match[1] != "preflight" else ""
            if not reason and match[1] == "preflight" and any(_PREFLIGHT.match(other) for other in lines):
                continue
        found.append(f"phase {match[1]} failed" + (f": {reason}" if reason else ""))
    return found


def _reason_nearby(lines: list[str], number: int) -> str:
    """Return the line before a bare "couldn't initialize" that names the timeout."""
    for line in reversed(lines[:number]):
        if _TIMED_OUT.search(line):
            return line.strip()
    return ""


def _coded_lines(lines: list[str]) -> list[str]:
    return [match[1].strip() for line in lines if (match := _CODED.match(line)) and match[1].strip()][-3:]
