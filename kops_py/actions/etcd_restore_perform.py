"""From the actions of a restore to what carries them out; this is the engine's Performer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kops_py.actions import etcd_member, etcd_restore, etcd_restore_after, health
from kops_py.actions.deps import Deps
from kops_py.actions.etcd_restore_lost import lost_objects
from kops_py.engine.run import StepContext
from kops_py.model import etcd_restore as model
from kops_py.model.actions import WaitHealthy
from kops_py.model.errors import HostError, KopsError


class RestorePerformer:
    """Carries out the steps of a restore; ``open_snapshot`` gives the plain snapshot, ``folder`` is 0700."""

    def __init__(self, deps: Deps, open_snapshot: etcd_restore.OpenSnapshot, folder: Path) -> None:
        self._deps = deps
        self._open_snapshot = open_snapshot
        self._folder = folder

    def check(self, ctx: StepContext) -> str | None:
        """Return None: a plan holds only what its hosts' marks lack."""
        del ctx
        return None

    def apply(self, ctx: StepContext) -> None:
        """Carry out one step; raises KopsError, which says that the same command goes on."""
        try:
            self._apply(ctx)
        except HostError as error:
            if "same command" not in error.hint:
                error.hint = "; ".join(filter(None, (error.hint, "then run the same command again, it goes on")))
            raise

    def _apply(self, ctx: StepContext) -> None:
        deps = self._deps
        match ctx.step.action:
            case model.UploadSnapshot() as action:
                etcd_restore.upload_snapshot(deps, action, ctx, self._open_snapshot)
            case model.FetchData() as action:
                etcd_restore.fetch_data(deps, action, ctx, self._folder / "member.db")
            case model.StageData() as action:
                etcd_restore.stage_data(deps, action, ctx)
            case model.StopControlPlanes() as action:
                etcd_restore.stop_control_planes(deps, action, ctx)
            case model.SwitchData() as action:
                etcd_restore.switch_data(deps, action, ctx)
            case model.StartEtcd() as action:
                etcd_restore.start_etcd(deps, action, ctx)
            case model.StartApiServer() as action:
                etcd_restore_after.start_api_server(deps, action, ctx)
            case model.StartControllers() as action:
                etcd_restore_after.start_controllers(deps, action, ctx)
            case model.RestartKubelet() as action:
                etcd_restore_after.restart_kubelet(deps, action, ctx)
            case model.RestartAddons() as action:
                etcd_restore_after.restart_addons(deps, action, ctx)
            case model.CheckRestored() as action:
                lost = lost_objects(deps, action, ctx, self._open_snapshot, self._folder)
                etcd_restore_after.check_restored(deps, action, ctx, lost)
            case model.FinishRestore() as action:
                etcd_restore_after.finish_restore(deps, action, ctx)
            case model.StopMember() as action:
                etcd_member.stop_member(deps, action, ctx)
            case model.RemoveMember() as action:
                etcd_member.remove_member(deps, action, ctx)
            case model.AddMember() as action:
                etcd_member.add_member(deps, action, ctx)
            case model.PromoteMember() as action:
                etcd_member.promote_member(deps, action, ctx)
            case WaitHealthy() as action:
                health.wait_healthy(deps, action, ctx)
            case _:
                raise TypeError(f"no performer for {type(ctx.step.action).__name__}")

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """No step of a restore is done this way."""
        raise TypeError(f"{contexts[0].step.id} is not done together with others")

    def verify(self, ctx: StepContext) -> None:
        """Every step proves itself before it leaves its mark."""
        del ctx
