"""Commands that only look: preflight, status, kubeconfig."""

from __future__ import annotations

from kops_py.app.session import Emit, Settings, check_hosts, load_spec, session
from kops_py.model.event import FindingsMade, Note
from kops_py.model.finding import Finding


def run_preflight(settings: Settings, emit: Emit) -> tuple[Finding, ...]:
    """Look at hosts and cluster and return what stands in the way; changes nothing."""
    spec = load_spec(settings)
    with session(settings, spec, emit) as opened:
        emit(Note(message=f"looking at {len(spec.hosts)} hosts"))
        facts = opened.observe()
        emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        findings = check_hosts(opened, facts, opened.probe(facts))
    emit(FindingsMade(findings=findings))
    return findings
