"""Nodes into a running cluster: bootstrap's join of just these hosts, at the version the cluster has now.

During an upgrade that is the oldest version of an API server: a kubelet must not be newer than any of them
(kubernetes.io, "Version Skew Policy"). A control plane joins only when all of them are at one version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kops_py.model.facts import Facts
from kops_py.model.finding import Finding, FindingKind, Severity
from kops_py.model.spec import ClusterSpec
from kops_py.model.version import Version
from kops_py.runbooks.bootstrap import BootstrapArguments, bootstrap
from kops_py.runbooks.decision import Decision

UPGRADE_BEGUN = FindingKind(
    "upgrade-not-finished",
    (Severity.ERROR,),
    "The control planes are at different versions; another one joins only when they are at one.",
    "Finish the upgrade first: kops-py upgrade.",
)
CANNOT_JOIN = FindingKind(
    "host-unreachable",
    (Severity.ERROR,),
    "A host that is to join cannot be reached over ssh.",
    "kops-py preflight shows why; or leave it out.",
)
KINDS = (UPGRADE_BEGUN, CANNOT_JOIN)


def api_server_versions(spec: ClusterSpec, facts: Facts) -> dict[str, Version]:
    """Return the version of each control plane's API server, as its manifest names it."""
    found = {}
    for host in spec.control_planes:
        image = facts.hosts[host.name].static_images.get("kube-apiserver", "")
        try:
            found[host.name] = Version.parse(image.partition("@")[0].rpartition(":")[2].partition("+")[0])
        except ValueError:
            continue
    return found


def joining_version(spec: ClusterSpec, facts: Facts) -> Version:
    """Return the version a node joins with now; cluster.yaml's while there is no cluster."""
    if facts.kube is None:
        return spec.kubernetes.version
    return min((facts.kube.server_version, *api_server_versions(spec, facts).values()))


def at_version(spec: ClusterSpec, version: Version) -> ClusterSpec:
    """Return the spec with another version of Kubernetes."""
    return dataclasses.replace(spec, kubernetes=dataclasses.replace(spec.kubernetes, version=version))


def add_nodes(spec: ClusterSpec, facts: Facts, names: Sequence[str], arguments: BootstrapArguments) -> Decision:
    """Plan the join of these hosts; ``spec`` and the digests are at the version they join with. Pure."""
    chosen = frozenset(names)
    control_planes = [h.name for h in spec.control_planes if h.name in chosen]
    balancers = frozenset(h.name for h in spec.load_balancers) if control_planes else frozenset[str]()
    decision = bootstrap(spec, facts, dataclasses.replace(arguments, limit=chosen, balancers=balancers))
    plan = dataclasses.replace(
        decision.plan,
        operation="node-add",
        arguments={"nodes": ",".join(names), "version": str(spec.kubernetes.version)},
    )
    return Decision(plan, (*decision.findings, *_findings(spec, facts, names, control_planes)))


def _findings(
    spec: ClusterSpec, facts: Facts, names: Sequence[str], control_planes: Sequence[str]
) -> tuple[Finding, ...]:
    nodes = facts.kube.nodes if facts.kube else {}
    found = [
        CANNOT_JOIN.found("cannot be reached over ssh", node=name)
        for name in names
        if name not in nodes and not facts.hosts[name].reachable
    ]
    versions = api_server_versions(spec, facts)
    if [n for n in control_planes if n not in nodes] and len(set(versions.values())) > 1:
        text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        found.append(UPGRADE_BEGUN.found(f"the API servers are at different versions: {text}"))
    return tuple(found)
