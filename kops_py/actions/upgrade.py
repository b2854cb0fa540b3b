"""Upgrading one node: packages in an exact version, kubeadm upgrade as a job, etcd's leadership out of the way."""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.gates import wait_no_proxy_ending
from kops_py.actions.jobs import forget_job, run_job
from kops_py.actions.static_pods import forget_static_pods, note_static_pods
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import UPGRADE_JOB, InstallPackages, InstallUpdates, UpgradeWithKubeadm
from kops_py.model.errors import CommandFailedError
from kops_py.model.facts import HostFacts
from kops_py.model.version import Version
from kops_py.observe.host_status import observe_etcd_cluster
from kops_py.tools import etcdctl, kubeadm
from kops_py.tools.kubeadm_failure import failure_hint, parse_failure
from kops_py.tools.packages import family_of, install_script
from kops_py.tools.patches import install_updates_script

PACKAGES_JOB = "packages"
_LEADER_TIMEOUT_S = 20.0


def install_packages(deps: Deps, action: InstallPackages, ctx: StepContext) -> None:
    """Install packages of Kubernetes and hold them; with the kubelet among them it is started anew.

    Raises CommandFailedError with what the package manager said.
    """
    host = deps.fleet.host(action.node)
    family = _family(deps, host.name)
    version = Version.parse(action.version)
    what = f"{', '.join(action.packages)} {version.bare}"
    if "kubeadm" in action.packages:
        # what another kubeadm did, and what was there before it, says nothing about this one
        forget_job(host, UPGRADE_JOB)
        forget_static_pods(host)
    script = install_script(family, action.packages, version.bare, deps.spec.kubernetes.package_revision)
    if "kubelet" in action.packages:
        wait_no_proxy_ending(deps, action.node, ctx)
        script += "systemctl daemon-reload\nsystemctl restart kubelet\n"
    _install(host, script, what, ctx)


def install_updates(deps: Deps, action: InstallUpdates, ctx: StepContext) -> None:
    """Install updates of the operating system; raises CommandFailedError with what the package manager said."""
    host = deps.fleet.host(action.node)
    count = len(action.updates)
    what = f"{count} updates" if count != 1 else f"the update of {action.updates[0][0]}"
    _install(host, install_updates_script(_family(deps, host.name), action.updates), what, ctx)


def _install(host: Host, script: str, what: str, ctx: StepContext) -> None:
    ctx.progress(f"installing {what}")
    outcome = run_job(host, PACKAGES_JOB, ("sh", "-c", script), ctx)
    if outcome.exit_status != 0:
        raise CommandFailedError(
            f"{what} could not be installed",
            where=host.name,
            why="it was interrupted" if outcome.exit_status is None else _last_lines(outcome.log),
            hint=f"log on the host: {outcome.log_path}; then run the same command again",
            exit_status=outcome.exit_status,
        )


def _family(deps: Deps, name: str) -> str:
    facts: HostFacts | None = deps.hosts.get(name)
    family = family_of(facts.os_id, facts.os_like) if facts else ""
    if not family:
        raise CommandFailedError(
            "no package manager is known for this operating system",
            where=name,
            hint="kops-py knows Debian, Ubuntu, RHEL, Rocky and Alma",
        )
    return family


def _last_lines(log: str) -> str:
    """Return what a package manager complained about, or the end of its output."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Error", "error:", "dpkg: error"))]
    return "\n".join((errors or lines)[-4:])[:600]


def upgrade_with_kubeadm(deps: Deps, action: UpgradeWithKubeadm, ctx: StepContext) -> None:
    """Run kubeadm upgrade on a node; one that runs there already is waited for.

    Safe to repeat after any end: kubeadm swaps only manifests that differ. Raises CommandFailedError with what
    kubeadm said.
    """
    host = deps.fleet.host(action.node)
    if action.control_plane:
        deps.led = False
        note_static_pods(deps, host, ctx)
        move_etcd_leader_away(deps, host, ctx)
    version = Version.parse(action.version)
    ignored = deps.kubeadm_ignores
    argv = (
        kubeadm.upgrade_apply_argv(version, ignore_preflight_errors=ignored)
        if action.apply
        else kubeadm.upgrade_node_argv(ignore_preflight_errors=ignored)
    )
    ctx.progress(" ".join(argv[:3]))
    outcome = run_job(host, UPGRADE_JOB, argv, ctx)
    ctx.journal("kubeadm-end", node=action.node, exit_status=outcome.exit_status)
    if outcome.exit_status == 0:
        return
    interrupted = "it was interrupted (power loss, or somebody stopped its unit)"
    raise CommandFailedError(
        f"{' '.join(argv[:3])} failed",
        where=host.name,
        why=interrupted if outcome.exit_status is None else parse_failure(outcome.log),
        hint="; ".join(
            filter(
                None,
                (
                    failure_hint(outcome.log),
                    "kubeadm has put back the manifests it had swapped" if action.control_plane else "",
                    f"log on the host: {outcome.log_path}; then run the same command again",
                ),
            )
        ),
        exit_status=outcome.exit_status,
    )


def move_etcd_leader_away(deps: Deps, host: Host, ctx: StepContext) -> None:
    """Hand leadership to another member before this one is stopped: an election costs writes, a handover does not."""
    members = observe_etcd_cluster(host)
    own = next((m for m in members if m.name == host.name), None)
    heir = next((m for m in members if m.name != host.name and m.healthy and not m.is_learner), None)
    if own is None or not own.is_leader or heir is None:
        return
    ctx.progress(f"etcd: leadership from {host.name} to {heir.name}")
    found = host.run(etcdctl.find_container_argv(), sudo=True, cancel=deps.cancel)
    container = etcdctl.parse_container_id(found.out)
    if container is None:
        return
    argv = etcdctl.in_container(container, etcdctl.move_leader_argv(heir.member_id))
    # Not to be had is no reason to stop: then etcd elects another leader by itself when this member goes.
    answer = host.run(argv, sudo=True, check=False, timeout_s=_LEADER_TIMEOUT_S, cancel=deps.cancel)
    if not answer.ok:
        ctx.progress(f"etcd keeps its leader here: {answer.err.strip()[-200:]}")
