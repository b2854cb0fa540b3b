"""The status of a cluster as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kops_py.model.status import Certificate, ClusterStatus
from kops_py.report.plain import clean, clean_line

_SOON_DAYS = 30


def status_text(status: ClusterStatus, *, now: datetime | None = None) -> str:
    """Return what a person wants to see first: health, nodes, etcd, certificates."""
    moment = now or datetime.now(UTC)
    parts = [
        f"cluster {status.cluster_name or '?'}, Kubernetes {status.server_version}, endpoint {status.endpoint or '?'}: "
        + ("healthy" if not status.unhealthy else f"{len(status.unhealthy)} problem(s)"),
        *(f"  ! {clean_line(problem)}" for problem in status.unhealthy),
        "",
        _nodes(status),
        "",
        _etcd(status),
        "",
        _certificates(status.certificates, moment),
    ]
    if status.bootstrap_tokens:
        parts += ["", f"{status.bootstrap_tokens} bootstrap token(s) are valid: kubeadm token list"]
    return clean("\n".join(parts))


def _nodes(status: ClusterStatus) -> str:
    rows = [
        (
            n.name,
            ",".join(n.roles),
            "Ready" if n.ready else "NotReady",
            n.version,
            n.internal_ip,
            n.container_runtime,
            f"cordoned by {n.cordoned_by}" if n.cordoned else "",
        )
        for n in status.nodes
    ]
    shown = table(("NODE", "ROLES", "STATE", "KUBELET", "ADDRESS", "RUNTIME", ""), rows)
    return "\n".join([shown, *(f"  ! {clean_line(f'{n.name}: {n.stopped}')}" for n in status.nodes if n.stopped)])


def _etcd(status: ClusterStatus) -> str:
    if not status.etcd_members:
        return "etcd: external" if status.external_etcd else "etcd: no member could be asked"
    rows = [
        (
            m.name,
            "healthy" if m.healthy else "UNHEALTHY",
            "leader" if m.is_leader else "learner" if m.is_learner else "follower",
            m.version,
            f"{m.size_bytes / 2**20:.1f} MiB",
            str(m.revision),
        )
        for m in status.etcd_members
    ]
    return table(("ETCD", "STATE", "ROLE", "VERSION", "SIZE", "REVISION"), rows)


def _certificates(certificates: Sequence[Certificate], now: datetime) -> str:
    """Return the soonest to expire of each host, and all that expire soon."""
    if not certificates:
        return "certificates: none could be read"
    leaves = [c for c in certificates if not c.is_ca] or list(certificates)
    first: dict[str, Certificate] = {}
    for certificate in sorted(leaves, key=lambda c: c.not_after):
        first.setdefault(certificate.host, certificate)
    soon = [c for c in certificates if c.days_left(now) < _SOON_DAYS and c not in first.values()]
    rows = [
        (c.host, c.path, c.not_after.strftime("%Y-%m-%d"), f"{c.days_left(now)} days", _urgency(c, now))
        for c in sorted([*first.values(), *soon], key=lambda c: c.not_after)
    ]
    return table(("CERTIFICATES", "FIRST TO EXPIRE", "ON", "IN", ""), rows)


def _urgency(certificate: Certificate, now: datetime) -> str:
    days = certificate.days_left(now)
    command = "kops-py bootstrap" if certificate.path.startswith("/etc/etcd/") else "kubeadm certs renew all"
    return "EXPIRED" if days < 0 else f"soon: {command}" if days < _SOON_DAYS else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a header, columns aligned, without trailing blanks."""
    header, rows = [clean_line(c) for c in header], [[clean_line(c) for c in row] for row in rows]
    widths = [max(len(str(r[i])) for r in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )
