"""The proof that a kubelet runs the static pods that kubeadm made: another hash where the manifest is another.

The image alone does not tell it: a change of flags keeps the image, and the mirror pod of the old container is Ready.
kubeadm waits for the hash itself, but not after it was killed between a manifest and its pod.
"""

from __future__ import annotations

from collections.abc import Mapping

from kops_py.actions.deps import Deps
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.errors import DeadlineError, KubeError
from kops_py.observe.pods import MIRROR
from kops_py.tools import static_pods
from kops_py.tools.static_pods import NOTE, StaticPod

_POLL_S = 0.5
_PODS = "/api/v1/namespaces/kube-system/pods"


def note_static_pods(deps: Deps, host: Host, ctx: StepContext) -> None:
    """Write down what runs before kubeadm changes it; what an unfinished upgrade wrote stays.

    Raises HostError, and DeadlineError when the API does not answer.
    """
    if host.run(("test", "-s", NOTE), sudo=True, check=False, cancel=deps.cancel).ok:
        return
    digests, running = _digests(deps, host), _ask_running(deps, host.name, ctx)
    pods = {name: StaticPod(digest, running[name]) for name, digest in digests.items() if name in running}
    host.write_file(NOTE, static_pods.write_note(pods))


def wait_static_pods(deps: Deps, node: str, ctx: StepContext) -> None:
    """Wait until the kubelet runs every manifest that changed since the note; raises HostError, KubeError."""
    host = deps.fleet.host(node)
    noted = host.run(("cat", NOTE), sudo=True, check=False, cancel=deps.cancel)
    try:
        before = static_pods.read_note(noted.out) if noted.ok else {}
    except (ValueError, TypeError):
        before = {}  # half of a note is none
    now = _digests(deps, host)
    changed = {name: pod for name, pod in before.items() if now.get(name, pod.manifest) != pod.manifest}
    while lacking := _lacking(deps, node, changed):
        ctx.progress(lacking, waiting=True)
        try:
            remaining_s(ctx, lacking)
        except DeadlineError as error:
            forget_static_pods(host)  # said once: a kubelet that finds no difference must not be waited for again
            raise KubeError(
                "the kubelet has not taken up the new static pods",
                where=node,
                why=lacking,
                hint="journalctl -u kubelet -n 50; then run the same command again",
            ) from error
        ctx.cancel.wait(_POLL_S)
    forget_static_pods(host)


def forget_static_pods(host: Host) -> None:
    """Remove the note; raises HostError."""
    host.run(("rm", "-f", NOTE), sudo=True)


def _ask_running(deps: Deps, node: str, ctx: StepContext) -> dict[str, str]:
    while True:
        try:
            return _running(deps.kube.api(), node)
        except KubeError as error:
            ctx.progress(str(error), waiting=True)
            remaining_s(ctx, str(error))
            ctx.cancel.wait(_POLL_S)


def _lacking(deps: Deps, node: str, changed: Mapping[str, StaticPod]) -> str:
    if not changed:
        return ""
    try:
        running = _running(deps.kube.api(), node)
    except KubeError as error:
        return str(error)
    old = [name for name, pod in changed.items() if running.get(name, pod.pod) == pod.pod]
    return f"{', '.join(old)}: the kubelet still runs the old manifest" if old else ""


def _digests(deps: Deps, host: Host) -> dict[str, str]:
    answer = host.run(static_pods.digests_argv(), sudo=True, check=False, cancel=deps.cancel)
    return static_pods.parse_digests(answer.out)


def _running(api: KubeApi, node: str) -> dict[str, str]:
    """Return the hash of each component that the kubelet runs, as its mirror pod tells it."""
    found = {}
    for name in static_pods.COMPONENTS:
        pod = api.get_or_none(f"{_PODS}/{name}-{node}")
        mirror = ((pod or {}).get("metadata") or {}).get("annotations") or {}
        if mirror.get(MIRROR):
            found[name] = str(mirror[MIRROR])
    return found
