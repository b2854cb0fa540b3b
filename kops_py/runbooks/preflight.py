"""Preflight: everything that can be known before a host is touched, as named findings."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable

from kops_py.model.facts import Facts
from kops_py.model.finding import Finding, Severity
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec
from kops_py.runbooks.etcd_restore_choice import IDS as RESTORE_IDS
from kops_py.runbooks.external_etcd import KINDS as ETCD_KINDS
from kops_py.runbooks.preflight_check import Check, View
from kops_py.runbooks.preflight_fleet import FLEET_CHECKS
from kops_py.runbooks.preflight_host import HOST_CHECKS
from kops_py.runbooks.preflight_network import NETWORK_CHECKS
from kops_py.runbooks.upgrade_findings import IDS as UPGRADE_IDS

CHECKS: tuple[Check, ...] = HOST_CHECKS + FLEET_CHECKS + NETWORK_CHECKS
"""Every check, in the order of the documentation."""

OTHER_IDS = frozenset({"version-differs", "api-down", "member-unreachable", *(k.id for k in ETCD_KINDS)})
"""Findings that runbooks make on their own and that may be ignored by the same setting."""

_KUBEADM_NAMES = {
    "cpu": ("NumCPU",),
    "memory": ("Mem",),
    "swap-on": ("Swap",),
    "cgroup-v1": ("SystemVerification",),
    "kernel-old": ("SystemVerification",),
    "hostname-unresolved": ("Hostname",),
    "firewalld-active": ("Firewalld",),
}

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def kubeadm_ignores(ignore: Iterable[str]) -> tuple[str, ...]:
    """Return what ``--ignore-preflight-errors`` must name so that kubeadm accepts what the operator accepted.

    Names: kubeadm's preflight checks (cmd/kubeadm/app/preflight).
    """
    found = {name for item in ignore for name in _KUBEADM_NAMES.get(item.partition("@")[0], ())}
    return tuple(sorted(found))


def check_ignores(ignore: Iterable[str], nodes: Collection[str]) -> None:
    """Raise ValueError when an entry is not ``id`` or ``id@node`` of a known check and host."""
    known = sorted({check.id for check in CHECKS} | OTHER_IDS | UPGRADE_IDS | RESTORE_IDS)
    for item in sorted(ignore):
        name, at, node = item.partition("@")
        if name not in known:
            raise ValueError(f"there is no finding {name!r}{_near(name, known)}")
        if at and node not in nodes:
            raise ValueError(f"{item!r}: there is no host {node!r} in the inventory{_near(node, sorted(nodes))}")


def _near(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def mark_ignored(findings: Iterable[Finding], ignore: Collection[str]) -> tuple[Finding, ...]:
    """Return the findings with ``ignored`` set where ``id`` or ``id@node`` is named."""
    return tuple(
        dataclasses.replace(f, ignored=f.ignored or f.id in ignore or f"{f.id}@{f.node}" in ignore) for f in findings
    )


def preflight(
    spec: ClusterSpec, facts: Facts, probes: ProbeResults | None = None, *, ignore: Collection[str] = frozenset()
) -> tuple[Finding, ...]:
    """Return all findings, errors first; ignored ones are in it and marked. Pure.

    A host that could not be asked has exactly one finding. What is wrong with a host outside the spec's limit is a
    warning at most. Raises ValueError for an entry of ``ignore`` that names
    no check or no host.
    """
    check_ignores(ignore, {h.name for h in spec.hosts})
    view = View(spec, facts, probes or ProbeResults())
    found: list[Finding] = []
    for check in CHECKS:
        for hit in check.run(view):
            severity = hit.severity or check.severities[0]
            if severity is Severity.ERROR and hit.node and spec.limit is not None and hit.node not in spec.limit:
                severity = Severity.WARNING
            found.append(Finding(severity, check.id, hit.node, hit.message, hit.hint or check.remedy))
    unasked = {h.name for h in spec.hosts if h.name in facts.hosts and not facts.hosts[h.name].reachable}
    asked_ids = {check.id for check in HOST_CHECKS[:5]}
    kept = [f for f in found if f.node not in unasked or f.id in asked_ids]
    place = {h.name: index for index, h in enumerate(spec.hosts)}
    kept.sort(key=lambda f: (_ORDER[f.severity], place.get(f.node, -1)))
    return mark_ignored(kept, ignore)
