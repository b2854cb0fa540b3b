"""Commands that only look: preflight, status, kubeconfig."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kops_py.app.session import Emit, Session, Settings, check_hosts, load_spec, looking_at, session
from kops_py.connect.base import Host
from kops_py.model.errors import ConfigError, HostError, KopsError
from kops_py.model.event import FindingsMade, Note
from kops_py.model.finding import Finding
from kops_py.model.status import ClusterStatus, EtcdMember


def run_preflight(settings: Settings, emit: Emit) -> tuple[Finding, ...]:
    """Look at hosts and cluster and return what stands in the way; changes nothing."""
    spec = load_spec(settings)
    with session(settings, spec, emit) as opened:
        emit(Note(message=looking_at(spec)))
        facts = opened.observe()
        emit(Note(message="probing ports between hosts, repositories, registries and disks"))
        findings = check_hosts(opened, facts, opened.probe(facts))
    emit(FindingsMade(findings=findings))
    return findings


def run_status(settings: Settings, emit: Emit) -> ClusterStatus:
    """Ask the API and every host; a host that cannot be asked is named among what is unhealthy.

    Raises KubeError, CancelledError.
    """
    from kops_py.observe.status import observe_status

    spec = load_spec(settings)
    with session(settings, spec, emit) as opened:
        emit(Note(message=looking_at(spec)))
        with _interrupted_first(opened):
            status = observe_status(opened.kube.api())
        return _with_host_facts(opened, status)


@contextmanager
def _interrupted_first(opened: Session) -> Iterator[None]:
    """Let what was cut off by Ctrl-C be called interrupted, not a cluster that is not there."""
    try:
        yield
    except KopsError:
        opened.cancel.check()
        raise


def _with_host_facts(opened: Session, status: ClusterStatus) -> ClusterStatus:
    from kops_py.observe.host_status import HostStatus, observe_host_status

    def work(host: Host) -> HostStatus:
        return observe_host_status(host, control_plane=opened.spec.host(host.name).is_control_plane)

    names = dict.fromkeys(h.name for h in (*opened.spec.nodes, *opened.spec.etcd_hosts))
    answers = opened.fleet.map(list(names), work, cancel=opened.cancel)
    opened.cancel.check()
    unhealthy = list(status.unhealthy)
    certificates, members = [], []
    for name, answer in answers.items():
        if isinstance(answer, KopsError):
            unhealthy.append(f"host {name} could not be asked: {answer}")
            continue
        certificates += answer.certificates
        members += answer.etcd
        unhealthy += answer.problems
    if opened.spec.etcd_hosts and not members:
        members, problems = _external_members(opened)
        unhealthy += problems
    return dataclasses.replace(
        status,
        unhealthy=tuple(unhealthy),
        certificates=tuple(sorted(certificates, key=lambda c: c.not_after)),
        etcd_members=tuple(members),
    )


def _external_members(opened: Session) -> tuple[list[EtcdMember], list[str]]:
    """Ask the hosts of an external etcd, one after the other, until one answers; an etcd of others is not asked."""
    from kops_py.observe.external_etcd import observe_external_etcd

    etcd, said = opened.spec.external, []
    for name in etcd.hosts if etcd else ():
        host = opened.fleet.host(name)
        try:
            if (
                etcd is None
                or not host.run(("test", "-s", f"{etcd.pki}/healthcheck-client.crt"), sudo=True, check=False).ok
            ):
                continue
            members = observe_external_etcd(host, etcd)
        except HostError as error:
            said.append(f"host {name} could not be asked: {error}")
            continue
        except ValueError:
            said.append(f"etcd on {name} does not answer")
            continue
        return list(members), [*said, *(f"etcd member {m.name}: {m.problem}" for m in members if m.problem)]
    return [], said


def write_kubeconfig(
    settings: Settings, emit: Emit, path: Path | None, *, merge: bool, use: bool, force: bool
) -> tuple[Path, str]:
    """Fetch admin.conf and write it 0600, alone or merged; returns the path and the context's name.

    Raises ConfigError when the file holds another cluster's entries of the same name, KubeError when there is none,
    HostError when no host that may have one can be asked.
    """
    from kops_py.tools.kubeconfig import merge as merge_into
    from kops_py.tools.kubeconfig import rename, write_private

    if use and not merge:
        raise ConfigError("--use goes with --merge", hint="add --merge; alone, the file has this one context only")
    spec = load_spec(settings)
    with session(settings, spec, emit) as opened:
        emit(Note(message="reading admin.conf from a control plane"))
        with _interrupted_first(opened):
            new = rename(opened.kube.read_admin_conf(), spec.name, None)
    target = path or (_default_kubeconfig() if merge else Path(f"{spec.name}.kubeconfig"))
    try:
        if target.exists():
            if not merge:
                _refuse_overwrite(target, spec.name, force=force)
            else:
                new = merge_into(target.read_bytes(), new, make_current=use, force=force, where=str(target))
        write_private(target, new)
    except OSError as error:
        raise ConfigError(
            "the kubeconfig cannot be written",
            where=str(target),
            why=error.strerror or str(error),
            hint="choose another place with --file",
        ) from error
    return target, spec.name


def _refuse_overwrite(target: Path, cluster: str, *, force: bool) -> None:
    """Our own file of an earlier call is replaced; anybody else's is not."""
    import yaml

    try:
        existing = yaml.safe_load(target.read_bytes())
        names = [c.get("name") for section in ("contexts", "users") for c in existing.get(section, [])]
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
        names = []
    if names != [cluster, f"{cluster}-admin"] and not force:
        raise ConfigError(
            "a file that is not this cluster's kubeconfig is there already",
            where=str(target),
            hint="merge into it with --merge, replace it with --force, or choose another --file",
        )


def _default_kubeconfig() -> Path:
    first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(first) if first else Path.home() / ".kube" / "config"
