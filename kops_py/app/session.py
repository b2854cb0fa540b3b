"""What is common to every command: settings, the operator's files, connectors, one observation."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kops_py.app.reports import ReportFiles
from kops_py.connect.base import Cancel, Fleet
from kops_py.engine.cancel import deadline_cancels, signals_cancel
from kops_py.model.duration import Duration
from kops_py.model.errors import ConfigError, HostError, KubeError
from kops_py.model.event import Event, Note
from kops_py.model.facts import Facts, HostFacts
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan
from kops_py.model.preflight import ProbeResults
from kops_py.model.spec import ClusterSpec, CniType, HostSpec
from kops_py.model.status import EtcdMember

if TYPE_CHECKING:
    from kops_py.connect.kube_access import KubeAccess


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line said; paths as typed."""

    inventory: Path | None = None
    cluster: Path | None = None
    run_dir: Path = Path(".kops-py")
    limit: str = ""
    ignore: frozenset[str] = frozenset()
    accept_new_host_keys: bool = False
    ssh_config: Path | None = None
    yes: bool = False
    plan_only: bool = False
    plan_digest: str = ""
    command: str = "kops-py"
    reports: ReportFiles = field(default_factory=ReportFiles)
    deadline: Duration | None = None
    host_beside: str = ""
    """A host of the inventory that is worked with as well, though it may be no part of the cluster."""
    contacts_hosts: bool = True
    """Whether hosts are contacted: what is needed for that must then be there from the start."""


Emit = Callable[[Event], None]
Confirm = Callable[[Plan, tuple[Finding, ...]], bool]
"""Shown the plan and what was found before anything is touched; says whether to go on."""


def looking_at(spec: ClusterSpec) -> str:
    """Return the line that says what is being looked at."""
    count = len(spec.hosts)
    return f"looking at {count} host{'s' if count != 1 else ''}"


def resume_command(command: str) -> str:
    """Return the command that goes on with a run that was begun: the same, without the digest of its first plan.

    What was done already is left out of the next plan, so that its digest is another.
    """
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word == "--plan-digest":
            words = words[1:]
        elif not word.startswith("--plan-digest="):
            kept.append(word)
    return shlex.join(kept)


def load_spec(settings: Settings) -> ClusterSpec:
    """Read and check the operator's files; raises ConfigError; contacts nothing."""
    from kops_py.config.load import load
    from kops_py.runbooks.preflight import check_ignores
    from kops_py.tools.kubeadm import check_extra

    spec = load(settings.inventory, settings.cluster, limit=settings.limit or None)
    check_extra(spec)
    try:
        check_ignores(settings.ignore | spec.preflight_ignore, {h.name for h in spec.hosts})
    except ValueError as error:
        raise _bad_ignore(error) from error
    return spec


def _bad_ignore(error: ValueError) -> ConfigError:
    return ConfigError(
        str(error), where="--ignore or preflight.ignore in cluster.yaml", hint="docs/preflight.md lists the findings"
    )


@dataclass(slots=True)
class Session:
    """The connectors of one command, opened when used and closed at its end."""

    settings: Settings
    spec: ClusterSpec
    cancel: Cancel
    emit: Emit
    work_dir: Path
    fleet: Fleet
    kube: KubeAccess
    _secrets: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def ignored(self) -> frozenset[str]:
        """Return the findings the operator accepts, by name."""
        return self.settings.ignore | self.spec.preflight_ignore

    def observe(self) -> Facts:
        """Look at all hosts and the cluster; raises ConfigError, CancelledError."""
        from kops_py.observe.host import observe_hosts

        hosts = observe_hosts(self.fleet, self.spec, cancel=self.cancel)
        etcd = self._observe_external_etcd(hosts)
        holds = bool(etcd) and not any(f.has_admin_conf for f in hosts.values()) and self._etcd_holds_cluster(hosts)
        return dataclasses.replace(self._observe_cluster(hosts), etcd=etcd, etcd_holds_cluster=holds)

    def _observe_cluster(self, hosts: Mapping[str, HostFacts]) -> Facts:
        from kops_py.observe.cluster import observe_cluster

        if not any(f.has_admin_conf for f in hosts.values()):
            return Facts(hosts=hosts)
        nodes = [h.name for h in self.spec.nodes]
        absent = frozenset(n for n in nodes if not hosts[n].reachable)
        try:
            kube = observe_cluster(
                self.kube.api(),
                expected_nodes=[n for n in nodes if hosts[n].reachable and self._is_expected(hosts[n])],
                absent=absent,
                network_expected=self.spec.network.cni is not CniType.NONE,
            )
        except KubeError as error:
            return Facts(hosts=hosts, kube_problem=error)
        return Facts(hosts=hosts, kube=kube)

    def _observe_external_etcd(self, hosts: Mapping[str, HostFacts]) -> tuple[EtcdMember, ...]:
        """Ask an external etcd of ours about its members; empty when none of them answers."""
        from kops_py.observe.external_etcd import observe_external_etcd

        etcd = self.spec.external
        for name in self._our_members(hosts):
            try:
                return observe_external_etcd(self.fleet.host(name), etcd) if etcd is not None else ()
            except (HostError, ValueError):
                continue
        return ()

    def _our_members(self, hosts: Mapping[str, HostFacts]) -> tuple[str, ...]:
        """Return the hosts of an external etcd of ours that have a member to be asked."""
        names = self.spec.external.hosts if self.spec.external is not None else ()
        return tuple(n for n in names if hosts[n].reachable and hosts[n].etcd_ca and hosts[n].has_etcd_data)

    def _etcd_holds_cluster(self, hosts: Mapping[str, HostFacts]) -> bool:
        from kops_py.observe.external_etcd import holds_cluster

        for name in self._our_members(hosts):
            with suppress(HostError):
                if self.spec.external is not None and holds_cluster(self.fleet.host(name), self.spec.external):
                    return True
        return False

    def _is_expected(self, host: HostFacts) -> bool:
        """Whether a host is to be a member: not one that was taken out, or that the command leaves alone."""
        removed = host.removal is not None and host.removal.cluster == self.spec.name
        return not removed and (self.spec.limit is None or host.name in self.spec.limit)

    def observe_etcd(self, facts: Facts) -> tuple[EtcdMember, ...]:
        """Ask etcd about its members through the first control plane that answers; empty when none does.

        One whose own etcd does not run says only that, and only counts when no other one says more.
        """
        from kops_py.observe.host_status import observe_etcd_cluster

        if self.spec.external_etcd:
            return self._observe_external_etcd(facts.hosts)
        fallback: tuple[EtcdMember, ...] = ()
        for host in self.spec.control_planes:
            if not facts.hosts[host.name].reachable:
                continue
            try:
                found = observe_etcd_cluster(self.fleet.host(host.name))
            except (HostError, ValueError):
                continue
            if any(member.member_id for member in found):
                return found
            fallback = fallback or found
        return fallback

    def probe(self, facts: Facts) -> ProbeResults:
        """Probe between hosts and towards the sources of packages and images; changes nothing."""
        from kops_py.observe.host_probes import run_probes

        return run_probes(self.fleet, self.spec, facts.hosts, cancel=self.cancel)

    def become_password(self) -> str | None:
        """Return the sudo password, resolved once; raises ConfigError."""
        reference = self.spec.ssh.become_password
        if reference is None:
            return None
        if "become" not in self._secrets:
            from kops_py.config.secrets import resolve

            self._secrets["become"] = resolve(reference)
        return self._secrets["become"]


@contextmanager
def session(settings: Settings, spec: ClusterSpec, emit: Emit, *, work_dir: Path | None = None) -> Iterator[Session]:
    """Open the connectors of a command; SIGINT, SIGTERM and its deadline cancel what runs inside."""
    from kops_py.connect.kube_access import KubeAccess
    from kops_py.connect.ssh import SshFleet

    remove_left_input(settings.run_dir, emit)
    cancel = Cancel()
    folder = work_dir or Path(tempfile.mkdtemp(prefix="kops-py-"))
    opened: Session | None = None

    def become_password() -> str | None:
        return opened.become_password() if opened else None

    fleet = SshFleet(
        (*spec.hosts, *_beside(settings, spec)),
        settings=spec.ssh,
        become_password=become_password,
        accept_new_host_keys=settings.accept_new_host_keys,
        ssh_config=settings.ssh_config,
    )
    kube = KubeAccess(fleet, spec, folder, cancel)
    opened = Session(settings, spec, cancel, emit, folder, fleet, kube)
    try:
        with signals_cancel(cancel), deadline_cancels(cancel, settings.deadline):
            if settings.contacts_hosts:
                opened.become_password()  # a reference that leads nowhere is a mistake here, not on every host
            yield opened
    finally:
        kube.close()
        fleet.close()
        if work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def _beside(settings: Settings, spec: ClusterSpec) -> tuple[HostSpec, ...]:
    name = settings.host_beside
    if not name or any(host.name == name for host in spec.hosts):
        return ()
    from kops_py.config.load import load_host

    found = load_host(settings.inventory, settings.cluster, name)
    return (found,) if found is not None else ()


def remove_left_input(run_dir: Path, emit: Emit) -> None:
    """Remove what killed runs left: their mark, and their input for Ansible, which may hold the sudo password."""
    runs = run_dir / "runs"
    try:
        found = sorted(runs.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # with somebody else's folder nothing can be left for us; what needs to write into it says so
    from kops_py.connect.ansible_files import left_input
    from kops_py.engine.lock import RunMark

    for run in found:
        try:
            left, mark = left_input(run / "ansible"), RunMark(run)
            if not (left or mark.is_there) or not mark.is_over():
                continue
            for folder in left:
                folder.remove_input()
            mark.remove()
            if left:
                emit(Note(message=f"removed what the run {run.name} left of its input for Ansible when it was killed"))
        except OSError as error:
            emit(Note(message=f"what the run {run.name} left of its input for Ansible cannot be removed: {error}"))


def check_hosts(opened: Session, facts: Facts, probes: ProbeResults | None) -> tuple[Finding, ...]:
    """Return the preflight findings; raises ConfigError for an unknown name in ``ignore``."""
    from kops_py.runbooks.preflight import preflight

    try:
        return preflight(opened.spec, facts, probes, ignore=opened.ignored)
    except ValueError as error:
        raise _bad_ignore(error) from error
