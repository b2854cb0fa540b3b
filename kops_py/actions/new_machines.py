"""A cluster brought back on new machines: its keys and its data put in place, kubeadm init on them, the lost forgotten.

Contents of the bundle go to the hosts on standard input, never in an argv; journal and events name paths only. Every
step may be repeated after a kill at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kops_py.actions import kubeadm
from kops_py.actions.deps import Deps
from kops_py.actions.etcd_restore import OpenSnapshot, everywhere, run_stage, sh, upload
from kops_py.actions.etcd_restore_perform import RestorePerformer
from kops_py.actions.kubeadm import KUBELET_CONF
from kops_py.actions.perform import ClusterPerformer
from kops_py.connect.base import Host, JsonObject, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.errors import CommandFailedError, EtcdError, KopsError, KubeError
from kops_py.model.etcd_restore import (
    CheckRestored,
    FinishRestore,
    Mark,
    StageData,
    StartEtcd,
    StopControlPlanes,
    SwitchData,
    UploadSnapshot,
)
from kops_py.model.new_machines import ForgetMachines, InitRestored, MakeData, PlaceFiles
from kops_py.observe.pods import MIRROR
from kops_py.tools import etcd_restore as tool
from kops_py.tools import kubeadm as kubeadm_tool
from kops_py.tools import new_machines as files_tool

_ASK_S = 30.0
_CONFIG_PATH = f"{kubeadm.CONFIG_DIR}/restored-images.yaml"
_KUBEADM_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
_NO_GRACE: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
_CONFLICT = 409
_BY_KUBEADM = "set kubernetes.version, or etcd's imageTag, to what the backup was made with"
_OUTSIDE = (
    "let the role etcd install that minor (kops_etcd_packages, docs/playbooks.md), then run the same command again"
)
_ATTEMPTS = 5


class NewMachinesPerformer:
    """Carries out the plan: bootstrap's steps by its own performer, a restore's by its own, and what is between.

    ``files`` are the contents of the bundle by their paths; ``open_snapshot`` gives the plain snapshot, which an etcd
    of ``minor`` can read.
    """

    def __init__(
        self, deps: Deps, files: Mapping[str, bytes], open_snapshot: OpenSnapshot, folder: Path, *, minor: str
    ) -> None:
        self._deps = deps
        self._files = files
        self._minor = minor
        self._open_snapshot = open_snapshot
        self._cluster = ClusterPerformer(deps)
        self._restore = RestorePerformer(deps, open_snapshot, folder)

    def check(self, ctx: StepContext) -> str | None:
        """Return why a step is true already; raises KopsError."""
        return None if isinstance(ctx.step.action, _OWN) else self._cluster.check(ctx)

    def apply(self, ctx: StepContext) -> None:
        """Carry out one step; raises KopsError."""
        deps = self._deps
        match ctx.step.action:
            case PlaceFiles() as action:
                place_files(deps, action, ctx, self._files)
            case UploadSnapshot(restore=restore, words=words, digest=digest, nodes=nodes):
                # Not undone when it fails, as the other kinds do: there is no old state to put back.
                everywhere(deps, nodes, lambda host: upload(host, restore, words, digest, self._open_snapshot, ctx))
            case MakeData() as action:
                make_data(deps, action, ctx)
            case InitRestored() as action:
                init_restored(deps, action, ctx, self._files)
            case ForgetMachines() as action:
                forget_machines(deps, action, ctx)
            case StageData(members=members):
                everywhere(
                    deps,
                    [m.node for m in members],
                    lambda host: require_minor(host, "", self._minor, ctx, hint=_OUTSIDE),
                )
                self._restore.apply(ctx)
            case StopControlPlanes() | SwitchData() | StartEtcd() | CheckRestored() | FinishRestore():
                self._restore.apply(ctx)
            case _:
                self._cluster.apply(ctx)

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Carry out the steps of a wave in one call; only what Ansible does comes this way."""
        return self._cluster.apply_together(contexts)

    def verify(self, ctx: StepContext) -> None:
        """Prove that the step is true now; raises KopsError."""
        action = ctx.step.action
        if isinstance(action, InitRestored):
            kubeadm.verify_member(self._deps, action.init.node, True, ctx)
            host = self._deps.fleet.host(action.init.node)
            sh(host, tool.mark_script(action.place.restore, Mark.INITIALISED), ctx)
        elif not isinstance(action, _OWN):
            self._cluster.verify(ctx)


_OWN = (
    *(PlaceFiles, UploadSnapshot, MakeData, InitRestored, ForgetMachines),
    *(StageData, StopControlPlanes, SwitchData, StartEtcd, CheckRestored, FinishRestore),
)


def place_files(deps: Deps, action: PlaceFiles, ctx: StepContext, files: Mapping[str, bytes]) -> None:
    """Write the files to their host; raises HostError."""
    host = deps.fleet.host(action.node)
    sh(host, tool.begin_script(action.restore, action.words), ctx)
    for path in action.paths:
        host.write_file(path, files[path], mode=files_tool.mode_of(path), timeout_s=min(60.0, ctx.remaining_s()))
    sh(host, tool.mark_script(action.restore, Mark.PLACED), ctx)
    ctx.progress(f"{len(action.paths)} files are in place")


def make_data(deps: Deps, action: MakeData, ctx: StepContext) -> None:
    """Make a data directory of one member with the etcd that kubeadm will run; raises EtcdError when it cannot."""
    host = deps.fleet.host(action.member.node)
    image = _etcd_image(deps, host, ctx)
    require_minor(host, image, action.minor, ctx, hint=_BY_KUBEADM)
    member = action.member
    stage = tool.stage_script(action.restore, image, member, (member,), action.restore, bump=action.bump, has_hash=True)
    run_stage(host, stage, ctx, hint="choose another backup; no cluster runs here yet")
    sh(host, tool.switch_script(action.restore, member.data_dir), ctx)


def require_minor(host: Host, image: str, minor: str, ctx: StepContext, *, hint: str) -> None:
    """Raise EtcdError where the etcd of an image, or of the host itself, is of another minor than the snapshot."""
    answer = host.run(("sh", "-c", tool.version_script(image)), sudo=True, timeout_s=ctx.remaining_s(), check=False)
    version = tool.parse_version(answer.out)
    if minor and not version.startswith(f"{minor}."):
        raise EtcdError(
            "this etcd cannot be given the snapshot",
            where=host.name,
            why=f"{image or 'its etcd'} is {version or answer.err.strip()[-200:]}, the snapshot is of {minor}",
            hint=hint,
        )


def _etcd_image(deps: Deps, host: Host, ctx: StepContext) -> str:
    """Return the image kubeadm will run, brought to the host where it is not there; raises HostError."""
    config = kubeadm_tool.images_config(deps.spec, deps.spec.host(host.name))
    host.write_file(_CONFIG_PATH, config.encode())
    argv = kubeadm_tool.images_argv(_CONFIG_PATH)
    try:
        listed = host.run(argv, sudo=True, timeout_s=min(_ASK_S, ctx.remaining_s()), cancel=deps.cancel)
    finally:
        host.run(("rm", "-f", _CONFIG_PATH), sudo=True, check=False)
    try:
        image = files_tool.etcd_image(listed.out)
    except ValueError as error:
        raise CommandFailedError(
            str(error), where=host.name, why=listed.out[:300], hint="kubeadm config images list"
        ) from error
    host.run(files_tool.pull_script(image), sudo=True, timeout_s=ctx.remaining_s(), cancel=deps.cancel)
    return image


def init_restored(deps: Deps, action: InitRestored, ctx: StepContext, files: Mapping[str, bytes]) -> None:
    """Run kubeadm init on what is in place; a broken attempt's cleaning took it away, and it is put there again."""
    host, data = deps.fleet.host(action.init.node), action.data

    def before() -> None:
        place_files(deps, action.place, ctx, files)
        if data is None:
            return
        database = tool.database(data.member.data_dir)
        if not host.run(("test", "-s", database), sudo=True, check=False, cancel=deps.cancel).ok:
            make_data(deps, data, ctx)

    ignores = () if data is None else (files_tool.data_check(data.member.data_dir),)
    kubeadm.init_control_plane(deps, action.init, ctx, before=before, ignores=ignores)


def forget_machines(deps: Deps, action: ForgetMachines, ctx: StepContext) -> None:
    """Delete Node objects of machines that are not there, what hangs on them, and kubeadm's record; raises KopsError.

    Before anybody joins: kubeadm asks the pods of etcd for its members, and refuses the name of a node that was Ready
    when the snapshot was made.
    """
    api = deps.kube.api()
    real, known = _real_nodes(deps), {h.name for h in deps.spec.nodes}
    gone = sorted({str(n["metadata"]["name"]) for n in api.items("/api/v1/nodes")} - real)
    for name in gone:
        api.delete(f"/api/v1/nodes/{name}")
        api.delete(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
    if gone:
        ctx.progress(f"deleted Node objects: {', '.join(gone)}")
        ctx.journal("forgotten", nodes=gone)

    def take(found: list[str], pod: JsonObject) -> None:
        metadata, node = pod["metadata"], str((pod.get("spec") or {}).get("nodeName") or "")
        # A node of the inventory that is to join again finds its pods, those of static manifests aside.
        if node and node not in real and (node not in known or MIRROR in (metadata.get("annotations") or {})):
            found.append(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}")

    pods: list[str] = api.fold("/api/v1/pods", list, take)
    for path in pods:
        ctx.remaining_s()
        api.delete(path, body=_NO_GRACE)
    if pods:
        ctx.progress(f"deleted {len(pods)} pods that were there")
    _rewrite_record(deps, api, action.node)
    sh(deps.fleet.host(action.node), tool.mark_script(action.restore, Mark.FORGOTTEN), ctx)


def _real_nodes(deps: Deps) -> frozenset[str]:
    """Return the hosts whose kubelets were given to the cluster."""

    def ask(host: Host) -> bool:
        return host.run(("test", "-s", KUBELET_CONF), sudo=True, check=False, timeout_s=_ASK_S).ok

    answers = deps.fleet.map([h.name for h in deps.spec.nodes], ask, cancel=deps.cancel)
    deps.cancel.check()
    # One that cannot be reached was left out of this restore by the operator: it has not joined.
    return frozenset(name for name, answer in answers.items() if not isinstance(answer, KopsError) and answer)


def _rewrite_record(deps: Deps, api: KubeApi, first: str) -> None:
    """Let the ClusterStatus that kubeadm kept up to 1.21 hold the first control plane alone; raises KubeError.

    kubeadm init leaves one that is there as it is.
    """
    import yaml

    for attempt in range(_ATTEMPTS):
        found = api.get_or_none(_KUBEADM_CONFIG)
        text = ((found or {}).get("data") or {}).get("ClusterStatus")
        if found is None or not text:
            return
        status = yaml.safe_load(text)
        endpoint = {"advertiseAddress": deps.spec.host(first).node_ip, "bindPort": kubeadm_tool.API_PORT}
        status = {**(status if isinstance(status, dict) else {}), "apiEndpoints": {first: endpoint}}
        found["data"]["ClusterStatus"] = yaml.safe_dump(status, sort_keys=False)
        try:
            api.replace(_KUBEADM_CONFIG, found)
        except KubeError as error:
            if error.status != _CONFLICT or attempt == _ATTEMPTS - 1:
                raise
        else:
            return
