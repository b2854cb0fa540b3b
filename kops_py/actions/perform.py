"""One table from the actions of a plan to what carries them out; this is the engine's Performer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kops_py.actions import (
    api_server,
    balancer,
    etcd,
    etcd_certificates,
    external_etcd,
    gates,
    health,
    hooks,
    kubeadm,
    labels,
    maintenance,
    network,
    prepare,
    reboot,
    remove,
    static_pods,
    upgrade,
)
from kops_py.actions.deps import Deps
from kops_py.actions.join_secrets import revoke
from kops_py.engine.run import StepContext
from kops_py.model.actions import (
    AddEtcdMember,
    ApplyNetwork,
    BackUpFirst,
    ConfigureBridge,
    ConfigureEtcd,
    ConfigureLoadBalancer,
    CordonNode,
    DefragmentMember,
    DeleteNode,
    DisarmAlarms,
    DrainNode,
    FinishNode,
    ForgetEtcdMember,
    InitControlPlane,
    InstallPackages,
    InstallUpdates,
    IssueEtcdCertificates,
    JoinNode,
    LabelNode,
    MarkUnfinished,
    PlaceEtcdClient,
    PrepareHost,
    PutBackIntoBalancer,
    RebootNode,
    ResetNode,
    RestartApiServer,
    RevokeJoinSecrets,
    RunHook,
    StageUpgrade,
    TakeOutOfBalancer,
    UncordonNode,
    UpgradeWithKubeadm,
    WaitEtcd,
    WaitGate,
    WaitHealthy,
    WaitNode,
    WaitWorkloads,
    WatchCanary,
)
from kops_py.model.errors import CancelledError, KopsError, KubeError
from kops_py.observe.cluster import observe_join_secrets
from kops_py.observe.etcd import etcd_targets

_IN_CHAIN = (
    DrainNode,
    FinishNode,
    InstallPackages,
    InstallUpdates,
    RebootNode,
    RunHook,
    UncordonNode,
    UpgradeWithKubeadm,
    WaitGate,
    WaitNode,
    WaitWorkloads,
)
"""What fails on a node that may carry a mark of ours by then."""


class ClusterPerformer:
    """Carries out the steps of cluster runbooks."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def check(self, ctx: StepContext) -> str | None:
        """Return why a step is true already; raises KopsError.

        Plans are made from a fresh observation, so most steps in them are known to be needed; only what may come
        true by itself while earlier waves run is looked at again.
        """
        with self._reason_kept(ctx):
            match ctx.step.action:
                case RevokeJoinSecrets():
                    return None if self._left_secrets() else "none is left"
                case RebootNode() as action:
                    return reboot.why_no_reboot(self._deps, action)
                case DisarmAlarms():
                    left = etcd.alarms_left(self._deps.fleet, etcd_targets(self._deps.spec), ctx)
                    return None if left else "no alarm is raised"
                case ForgetEtcdMember() as action:
                    return remove.why_no_member(self._deps, action)
                case _:
                    return None

    def apply(self, ctx: StepContext) -> None:
        """Carry out one step; raises KopsError."""
        with self._reason_kept(ctx):
            self._apply(ctx)

    @contextmanager
    def _reason_kept(self, ctx: StepContext) -> Iterator[None]:
        """Let a node that is out of service say why its chain ended; the error goes on as it is."""
        try:
            yield
        except CancelledError:
            raise
        except KopsError as error:
            if ctx.step.node and isinstance(ctx.step.action, _IN_CHAIN):
                maintenance.tell_on_node(self._deps, ctx, error)
            raise

    def _apply(self, ctx: StepContext) -> None:
        deps = self._deps
        match ctx.step.action:
            case InitControlPlane() as action:
                remove.forget_mark(deps, action.node)
                kubeadm.init_control_plane(deps, action, ctx)
            case JoinNode() as action:
                remove.forget_mark(deps, action.node)
                kubeadm.join_node(deps, action, ctx)
            case RestartApiServer() as action:
                api_server.restart(deps, action, ctx)
            case ApplyNetwork() as action:
                network.apply_network(deps, action, ctx)
            case ConfigureBridge() as action:
                network.configure_bridge(deps, action, ctx)
            case LabelNode() as action:
                labels.label_node(deps, action, ctx)
            case WaitHealthy() as action:
                health.wait_healthy(deps, action, ctx)
            case RevokeJoinSecrets():
                revoke(deps.kube.api(), self._left_secrets())
                deps.join_secrets.forget()
            case InstallPackages() as action:
                upgrade.install_packages(deps, action, ctx)
            case UpgradeWithKubeadm() as action:
                upgrade.upgrade_with_kubeadm(deps, action, ctx)
            case InstallUpdates() as action:
                upgrade.install_updates(deps, action, ctx)
            case RebootNode() as action:
                reboot.reboot_node(deps, action, ctx)
            case TakeOutOfBalancer() as action:
                balancer.take_out(deps, action, ctx)
            case PutBackIntoBalancer() as action:
                balancer.put_back(deps, action, ctx)
            case CordonNode() as action:
                maintenance.cordon_node(deps, action, ctx)
            case DrainNode() as action:
                maintenance.drain_node(deps, action, ctx)
            case UncordonNode() as action:
                maintenance.uncordon_node(deps, action, ctx)
            case ResetNode() as action:
                remove.reset_node(deps, action, ctx)
            case ForgetEtcdMember() as action:
                remove.forget_etcd_member(deps, action, ctx)
            case DeleteNode() as action:
                remove.delete_node(deps, action, ctx)
            case WaitNode() as action:
                gates.wait_node(deps, action, ctx)
            case MarkUnfinished() | FinishNode() as action:
                maintenance.mark_node(deps, action)
            case WaitWorkloads():
                gates.wait_workloads(deps, ctx)
            case IssueEtcdCertificates() as action:
                etcd_certificates.issue_certificates(deps, action, ctx)
            case ConfigureEtcd() as action:
                external_etcd.configure_member(deps, action, ctx)
            case AddEtcdMember() as action:
                external_etcd.add_member(deps, action, ctx)
            case WaitEtcd() as action:
                external_etcd.wait_etcd(deps, action, ctx)
            case PlaceEtcdClient() as action:
                etcd_certificates.place_client(deps, action, ctx)
            case RunHook() as action:
                hooks.run_hook(deps, action, ctx)
            case WaitGate() as action:
                hooks.wait_gate(deps, action, ctx)
            case WatchCanary() as action:
                hooks.watch_canary(deps, action, ctx)
            case BackUpFirst(max_age_s=max_age_s):
                deps.back_up(ctx, max_age_s)
            case DefragmentMember() as action:
                etcd.defragment(deps.fleet, etcd_targets(deps.spec), action, ctx)
            case DisarmAlarms():
                etcd.disarm_alarms(deps.fleet, etcd_targets(deps.spec), ctx)
            case PrepareHost() | ConfigureLoadBalancer() | StageUpgrade():
                error = self.apply_together([ctx])[ctx.step.id]
                if error is not None:
                    raise error
            case _:
                raise TypeError(f"no performer for {type(ctx.step.action).__name__}")

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Carry out the steps of a wave in one call; only what Ansible does comes this way."""
        return prepare.prepare_hosts(self._deps, contexts)

    def verify(self, ctx: StepContext) -> None:
        """Prove that the step is true now; raises KopsError."""
        with self._reason_kept(ctx):
            self._verify(ctx)

    def _verify(self, ctx: StepContext) -> None:
        match ctx.step.action:
            case InitControlPlane(node=node):
                kubeadm.verify_member(self._deps, node, True, ctx)
            case JoinNode(node=node, control_plane=control_plane):
                kubeadm.verify_member(self._deps, node, control_plane, ctx)
            case UpgradeWithKubeadm(control_plane=True, node=node):
                static_pods.wait_static_pods(self._deps, node, ctx)
            case DefragmentMember() as action:
                etcd.verify_defragmented(self._deps.fleet, etcd_targets(self._deps.spec), action, ctx)
            case RestartApiServer(node=node):
                api_server.verify_restarted(self._deps, node, ctx)
            case ForgetEtcdMember() as action:
                remove.verify_no_member(self._deps, action, ctx)
            case DeleteNode(node=node):
                remove.verify_deleted(self._deps, node, ctx)
            case RevokeJoinSecrets():
                left = self._left_secrets()
                if left:
                    raise KubeError(
                        "join secrets are still there",
                        why=", ".join(left),
                        hint="run the same command again",
                    )
            case _:
                return

    def _left_secrets(self) -> tuple[str, ...]:
        return observe_join_secrets(self._deps.kube.api())
