"""The bootstrap command: from an inventory to a Ready cluster."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kops_py.app.run import Decided, RunPlace, RunResult, run_operation, who
from kops_py.app.session import Confirm, Emit, Session, Settings, check_hosts, looking_at
from kops_py.model.errors import ConfigError
from kops_py.model.event import Note
from kops_py.model.facts import Facts
from kops_py.model.plan import Plan
from kops_py.model.spec import ClusterSpec, CniType

if TYPE_CHECKING:
    from kops_py.actions.deps import Deps
    from kops_py.runbooks.bootstrap import BootstrapArguments
    from kops_py.runbooks.external_etcd import EtcdArguments


def run_bootstrap(settings: Settings, emit: Emit, confirm: Confirm) -> RunResult:
    """Build the cluster, or bring a running one to what the inventory names; raises KopsError before it starts."""
    return run_operation(settings, emit, confirm, "bootstrap", _decide)


def _decide(opened: Session) -> Decided:
    from kops_py.actions.perform import ClusterPerformer
    from kops_py.runbooks.bootstrap import bootstrap
    from kops_py.runbooks.preflight import mark_ignored

    spec = opened.spec
    opened.emit(Note(message=looking_at(spec)))
    arguments = bootstrap_arguments(spec)
    facts = with_members(opened, opened.observe(), arguments)
    decision = bootstrap(spec, facts, arguments)
    joining = any(
        s.id.startswith(("prepare/", "init/", "join/", "load-balancer/", "etcd/", "etcd-member/"))
        for s in decision.plan.steps
    )
    probes = None
    if joining:
        opened.emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        probes = opened.probe(facts)

    def replan() -> tuple[Plan, Facts]:
        now = with_members(opened, opened.observe(), arguments)
        return bootstrap(spec, now, arguments).plan, now

    return Decided(
        decision.plan,
        check_hosts(opened, facts, probes) + mark_ignored(decision.findings, opened.ignored),
        replan,
        lambda place: ClusterPerformer(make_deps(opened, place, facts, arguments)),
    )


def with_members(opened: Session, facts: Facts, arguments: BootstrapArguments) -> Facts:
    """Return the facts with etcd's members where a control plane is to join them: one may be of its earlier machine."""
    from kops_py.runbooks.stale_members import newcomers

    if not newcomers(opened.spec, facts, arguments.limit):
        return facts
    return dataclasses.replace(facts, etcd=opened.observe_etcd(facts))


def bootstrap_arguments(spec: ClusterSpec) -> BootstrapArguments:
    """Return the digests the bootstrap runbook compares with what the hosts say; taken once for a whole run.

    Reads files, and the network manifest when that is a URL; contacts no host. Raises ConfigError.
    """
    from kops_py.connect.ansible import playbooks_fingerprint
    from kops_py.runbooks.bootstrap import BootstrapArguments
    from kops_py.tools.preparation import load_balancer_digest, prepare_digest

    fingerprint = playbooks_fingerprint()
    manifest = read_manifest(spec) if spec.network.cni is CniType.MANIFEST else ""
    return BootstrapArguments(
        prepare_digests={h.name: prepare_digest(spec, h, fingerprint) for h in spec.nodes},
        load_balancer_digests={h.name: load_balancer_digest(spec, h, fingerprint) for h in spec.load_balancers},
        network_digest=hashlib.sha256(manifest.encode()).hexdigest() if manifest else "",
        limit=spec.limit or frozenset(),
        etcd=_etcd_arguments(spec, fingerprint),
    )


def _etcd_arguments(spec: ClusterSpec, fingerprint: str) -> EtcdArguments:
    """Return the digests of an external etcd; raises ConfigError when a file that was given cannot be used."""
    from kops_py.runbooks.external_etcd import EtcdArguments

    if not spec.external_etcd:
        return EtcdArguments()
    from kops_py.actions.etcd_certificates import read_private
    from kops_py.tools.etcd_pki import digest_of, pki_digest
    from kops_py.tools.preparation import etcd_digest

    given, own = spec.etcd.given, spec.etcd.ca
    try:
        authority = own.cert.read_bytes() if own else b""
        for key in (own.key if own else None, given.key if given else None):
            if key is not None:
                read_private(key)
        return EtcdArguments(
            settings={h.name: etcd_digest(spec, h, fingerprint) for h in spec.etcd_hosts},
            certificates={h.name: pki_digest(spec, h, authority) for h in spec.etcd_hosts},
            given_ca=digest_of(given.ca.read_bytes()) if given else "",
            given_cert=digest_of(given.cert.read_bytes()) if given else "",
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            "a certificate for etcd cannot be used",
            where=str(spec.cluster_path),
            why=str(error),
            hint="look at the section etcd: each file holds one PEM certificate, or a key without a password",
        ) from error


def read_manifest(spec: ClusterSpec) -> str:
    """Return the text of the network manifest, from a file or a URL; raises ConfigError."""
    import urllib.request

    source = spec.network.cni_manifest or ""
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=30) as answer:  # noqa: S310 - scheme checked above
                return str(answer.read().decode())
        return Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the network manifest cannot be read",
            where=source,
            why=_reason(error),
            hint="set network.cni.file to a downloaded copy, or check the address",
        ) from error


def _reason(error: OSError | ValueError) -> str:
    """Return why a file or a URL cannot be read, without what Python puts around it."""
    cause = getattr(error, "reason", None)  # of urllib's URLError and HTTPError
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return str(error) if cause is not None or not isinstance(error, OSError) else error.strerror or str(error)


def _unchanged_manifest(spec: ClusterSpec, digest: str) -> str:
    """Return the text of the network manifest that the plan announced; raises ConfigError when it is another now."""
    text = read_manifest(spec)
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ConfigError(
            "the network manifest is not the one the plan announced",
            where=spec.network.cni_manifest or "",
            why="it changed while the run went on",
            hint="look at the plan again with --plan, then run the same command",
        )
    return text


def make_deps(
    opened: Session,
    place: RunPlace,
    facts: Facts,
    arguments: BootstrapArguments | None = None,
    *,
    short_before: frozenset[str] = frozenset(),
) -> Deps:
    """Return what performers work with; without ``arguments`` for operations that prepare no host."""
    from kops_py.actions.deps import Deps
    from kops_py.app.upgrade_backup import make_back_up
    from kops_py.connect.ansible import AnsibleRunner
    from kops_py.runbooks.preflight import kubeadm_ignores
    from kops_py.tools.preparation import load_balancer_variables, prepare_host_variables, prepare_variables

    spec = opened.spec

    def prepare_host(name: str) -> Mapping[str, Any]:
        own = prepare_host_variables(spec, spec.host(name))
        return {**own, "kops_prepare_digest": arguments.prepare_digests[name] if arguments else ""}

    def balancer_host(name: str) -> Mapping[str, Any]:
        return {"kops_load_balancer_digest": arguments.load_balancer_digests[name] if arguments else ""}

    return Deps(
        spec=spec,
        fleet=opened.fleet,
        ansible=AnsibleRunner(
            place.folder / "ansible",
            become_password=opened.become_password,
            accept_new_host_keys=opened.settings.accept_new_host_keys,
        ),
        kube=opened.kube,
        cancel=opened.cancel,
        prepare_variables=prepare_variables(spec),
        prepare_host_variables=prepare_host,
        load_balancer_variables=load_balancer_variables(spec),
        load_balancer_host_variables=balancer_host,
        read_manifest=lambda: _unchanged_manifest(spec, arguments.network_digest if arguments else ""),
        etcd_digests=arguments.etcd.settings if arguments else {},
        kubeadm_ignores=kubeadm_ignores(opened.ignored),
        back_up=make_back_up(opened),
        hosts=facts.hosts,
        short_before=short_before,
        run_id=place.run_id,
        by=who(),
    )
