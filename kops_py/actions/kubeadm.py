"""kubeadm init and join, as jobs on the node that outlive this program.

A job that was begun is never begun a second time beside itself: a running one is waited for, a failed or
interrupted one is cleaned up with ``kubeadm reset`` and made anew. Reset is safe there and only there: kops-py's
own record on the node says that the node never became a member.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from kops_py.actions.admission import AdmissionWatch
from kops_py.actions.deps import Deps
from kops_py.actions.etcd_certificates import ensure_client
from kops_py.actions.jobs import JobOutcome, forget_job, read_job, run_job, start_job, wait_job
from kops_py.actions.join_secrets import TOKEN_TTL_S, mark_uploaded_certificates
from kops_py.actions.waiting import remaining_s
from kops_py.connect.base import Host, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.actions import INIT_JOB, JOIN_JOB, InitControlPlane, JoinNode
from kops_py.model.errors import CommandFailedError, DeadlineError, KopsError, KubeError, UnreachableError
from kops_py.model.facts import JobState
from kops_py.model.spec import HostSpec, bracketed
from kops_py.observe.cluster import node_facts
from kops_py.tools import bridge, kubeadm
from kops_py.tools.kubeadm_failure import failure_hint, parse_failure
from kops_py.tools.redact import redact

RESET_JOB = "kubeadm-reset"
CONFIG_DIR = "/etc/kops-py"
CA_CERTIFICATE = "/etc/kubernetes/pki/ca.crt"
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
ADMIN_CONF = "/etc/kubernetes/admin.conf"
API_SERVER_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_POLL_S = 0.5
_OLD_NODE_S = 90.0


def init_control_plane(
    deps: Deps,
    action: InitControlPlane,
    ctx: StepContext,
    *,
    before: Callable[[], None] = lambda: None,
    ignores: Sequence[str] = (),
) -> None:
    """Run kubeadm init on the node; raises CommandFailedError with what kubeadm said.

    ``before`` is called when it is begun, after what a broken attempt left was cleaned up; ``ignores`` are kubeadm's
    names of checks that need not pass.
    """
    host, spec = deps.fleet.host(action.node), deps.spec
    config_path = _config_path(INIT_JOB)
    if not _attach_to_init(deps, host, ctx):
        before()
        ensure_client(deps, action.node, ctx)
        token = kubeadm.new_token()
        key = kubeadm.new_certificate_key() if action.upload_certs else ""
        config = kubeadm.init_config(
            spec,
            spec.host(action.node),
            token=token,
            token_ttl_s=TOKEN_TTL_S,
            certificate_key=key or None,
            cgroup_v1=_on_cgroup_v1(deps, action.node),
            ignore_preflight_errors=(*deps.kubeadm_ignores, *ignores),
        )
        argv = kubeadm.init_argv(config_path, upload_certs=action.upload_certs)
        with _config_file(host, config_path, config, ctx):
            _validate(deps, host, config_path, ctx)
            ctx.progress("kubeadm init")
            start_job(host, INIT_JOB, _forgetting(config_path, argv))
        _finish(host, INIT_JOB, wait_job(host, INIT_JOB, ctx, meanwhile=AdmissionWatch(host, ctx).look))
        deps.join_secrets.remember(token=token, certificate_key=key)
    if action.upload_certs and deps.join_secrets.certificate_key():
        mark_uploaded_certificates(deps.kube.api())


def join_node(deps: Deps, action: JoinNode, ctx: StepContext) -> None:
    """Run kubeadm join on the node; raises CommandFailedError with what kubeadm said."""
    host, spec = deps.fleet.host(action.node), deps.spec
    config_path = _config_path(JOIN_JOB)
    if not _attach_to_join(deps, host, action.control_plane, ctx):
        if action.control_plane:
            ensure_client(deps, action.node, ctx)
        api = deps.kube.api()
        member = _member_control_plane(deps, api)
        key = _certificate_key(deps, api, member, ctx) if action.control_plane else None
        config = kubeadm.join_config(
            spec,
            spec.host(action.node),
            api_endpoint=str(spec.endpoint),
            token=deps.join_secrets.token(api),
            ca_cert_hash=kubeadm.ca_cert_hash(_ca_certificate(deps, member)),
            certificate_key=key,
            cgroup_v1=_on_cgroup_v1(deps, action.node),
            ignore_preflight_errors=deps.kubeadm_ignores,
        )
        _settle_old_node(deps, host, ctx)
        with _config_file(host, config_path, config, ctx):
            ctx.progress("kubeadm join")
            start_job(host, JOIN_JOB, _forgetting(config_path, kubeadm.join_argv(config_path)))
        watch = AdmissionWatch(host, ctx).look if action.control_plane else None
        _finish(host, JOIN_JOB, wait_job(host, JOIN_JOB, ctx, meanwhile=watch))


def _settle_old_node(deps: Deps, host: Host, ctx: StepContext) -> None:
    """See to the Node that an earlier machine of this name left, before this one joins.

    kubeadm refuses beside a Node that is Ready, which one stays for 40 s after its kubelet's last word; for longer
    only another machine of that name keeps it so, and then kubeadm says it. The label of a control plane is taken
    away: kubeadm sets it as its last act, and by it a join that came to its end is told from one that was cut off.
    """
    path, until = f"/api/v1/nodes/{host.name}", time.monotonic() + _OLD_NODE_S
    found = deps.kube.api().get_or_none(path)
    if found is None or _has(host, KUBELET_CONF):
        return
    while found is not None and node_facts(found).ready:
        if time.monotonic() >= until:
            return
        ctx.progress("the Node of its earlier installation is Ready still", waiting=True)
        remaining_s(ctx, "the Node of its earlier installation is Ready still")
        ctx.cancel.wait(_POLL_S)
        found = deps.kube.api().get_or_none(path)
    if found is not None and node_facts(found).is_control_plane:
        labels = {f"node-role.kubernetes.io/{role}": None for role in ("control-plane", "master")}
        deps.kube.api().patch(path, {"metadata": {"labels": labels}})


def _on_cgroup_v1(deps: Deps, node: str) -> bool:
    facts = deps.hosts.get(node)
    return facts is not None and facts.cgroup_version == 1


def _config_path(job: str) -> str:
    return f"{CONFIG_DIR}/{job}.yaml"


@contextmanager
def _config_file(host: Host, path: str, text: str, ctx: StepContext) -> Iterator[None]:
    """Write a configuration with its secrets, and remove it when the block does not come to start its job.

    A job that was started removes the file itself, see _forgetting.
    """
    try:
        host.write_file(path, text.encode(), timeout_s=min(60.0, ctx.remaining_s()))
        yield
    except UnreachableError:
        raise  # the job may have been started, and then it needs the file
    except KopsError:
        with suppress(KopsError):  # the first error is the one that matters; not cancellable
            host.run(("rm", "-f", path), sudo=True, check=False)
        raise


def _forgetting(path: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return an argv that runs another, then removes the file with its secrets, and keeps the exit status.

    In the job itself, so that the file goes when kubeadm ends, even if nobody of ours is there any more.
    """
    return ("sh", "-c", 'trap \'rm -f -- "$0"\' EXIT; "$@"', path, *argv)


def verify_member(deps: Deps, node: str, control_plane: bool, ctx: StepContext) -> None:
    """Wait until the node is registered and, for a control plane, its own API server is ready.

    That readiness includes the etcd member beside it, so no further member is added to etcd before this one serves.
    Its mirror pods appear in the API only a while later; the step that waits for a healthy cluster looks at them.
    Raises DeadlineError.
    """
    host = deps.fleet.host(node)
    ready = own_api_argv(deps.spec.host(node))
    while True:
        try:
            problem = "" if deps.kube.api().get_or_none(f"/api/v1/nodes/{node}") else "the node is not registered"
        except KubeError as error:
            problem = str(error)
        if not problem and control_plane:
            problem = api_server_problem(host, ready, deps)
        if not problem:
            return
        ctx.progress(problem, waiting=True)
        remaining_s(ctx, problem, hint=f"look at it on {node}: journalctl -u kubelet -n 50; then run the same again")
        ctx.cancel.wait(_POLL_S)


def api_server_problem(host: Host, argv: Sequence[str], deps: Deps) -> str:
    """Return why a control plane's own API server is not ready, "" when it is; ``argv`` is own_api_argv."""
    try:
        answer = host.run(argv, sudo=True, check=False, timeout_s=20, cancel=deps.cancel)
    except DeadlineError as error:
        return f"its API server is not ready: {error.what}"
    if answer.ok:
        return ""
    failing = re.findall(r"\[-\]([\w./-]+)", answer.err)  # the checks of /readyz that do not pass yet
    return "its API server is not ready: " + (", ".join(failing) or redact(answer.err).strip()[-200:])


def own_api_argv(host: HostSpec) -> tuple[str, ...]:
    """Return the command that asks a control plane's own API server whether it is ready."""
    return (
        "kubectl",
        "--kubeconfig=/etc/kubernetes/admin.conf",
        f"--server=https://{bracketed(host.node_ip)}:{kubeadm.API_PORT}",
        "--request-timeout=10s",
        "get",
        "--raw=/readyz",
    )


def _attach_to_init(deps: Deps, host: Host, ctx: StepContext) -> bool:
    """Return whether an earlier init ended well, waiting for a running one; False: it must be begun anew."""
    state = _ended_state(host, INIT_JOB, ctx)
    if state is None:
        return False
    if state is JobState.SUCCEEDED:
        if _has(host, ADMIN_CONF) or _has(host, API_SERVER_MANIFEST):
            deps.kube.api()  # raises what is wrong; a control plane that was finished once is never reset
            return True
        forget_job(host, INIT_JOB)  # somebody reset the host since: the record is of a cluster that is gone
        return False
    _reset(host, INIT_JOB, ctx)
    return False


def _attach_to_join(deps: Deps, host: Host, control_plane: bool, ctx: StepContext) -> bool:
    """Return whether an earlier join made the host a member, waiting for a running one.

    False: it must be begun anew. A join may have ended between the observation and now; a member is never reset.
    """
    state = _ended_state(host, JOIN_JOB, ctx)
    if state is None:
        return False
    if state is JobState.SUCCEEDED and _is_member(deps, host, control_plane):
        return True
    _reset(host, JOIN_JOB, ctx)
    if not control_plane:
        # One that had registered: kubeadm refuses to join under the name of a node that is Ready still.
        deps.kube.api().delete(f"/api/v1/nodes/{host.name}")
    return False


def _ended_state(host: Host, job: str, ctx: StepContext) -> JobState | None:
    """Return how a job ended, after its end; None when there is none."""
    state = read_job(host, job)
    if state is not JobState.RUNNING:
        return state
    ctx.progress(f"{job} runs there already from an earlier run: waiting for it", waiting=True)
    outcome = wait_job(host, job, ctx, meanwhile=AdmissionWatch(host, ctx).look)
    return JobState.SUCCEEDED if outcome.exit_status == 0 else JobState.FAILED


def _is_member(deps: Deps, host: Host, control_plane: bool) -> bool:
    """Whether the node is what the runbook calls a member; raises KubeError."""
    node = deps.kube.api().get_or_none(f"/api/v1/nodes/{host.name}")
    if node is None or not _has(host, KUBELET_CONF):
        return False
    return not control_plane or (node_facts(node).is_control_plane and _has(host, API_SERVER_MANIFEST))


def _has(host: Host, path: str) -> bool:
    return host.run(("test", "-s", path), sudo=True, check=False).ok


def _reset(host: Host, job: str, ctx: StepContext) -> None:
    ctx.progress("cleaning up an attempt that did not come to its end (kubeadm reset)")
    outcome = run_job(host, RESET_JOB, kubeadm.reset_argv(), ctx)  # one that is running still is waited for
    if outcome.exit_status != 0:
        raise CommandFailedError(
            "kubeadm reset failed",
            where=host.name,
            why=parse_failure(outcome.log),
            hint=f"see {outcome.log_path} on the host, then run the same command again",
            exit_status=outcome.exit_status,
        )
    host.run(("rm", "-f", bridge.CNI_PATH, bridge.PEERS_PATH, _config_path(job)), sudo=True)
    forget_job(host, RESET_JOB)
    forget_job(host, job)


def _finish(host: Host, job: str, outcome: JobOutcome) -> None:
    if outcome.exit_status == 0:
        return
    name = job.replace("-", " ")
    if outcome.exit_status is None:
        why, hint = "it was interrupted (power loss, or somebody stopped its unit)", ""
    else:
        why, hint = parse_failure(outcome.log), failure_hint(outcome.log)
    raise CommandFailedError(
        f"{name} failed",
        where=host.name,
        why=why,
        hint="; ".join(filter(None, (hint, f"log on the host: {outcome.log_path}; then run the same command again"))),
        exit_status=outcome.exit_status,
    )


def _validate(deps: Deps, host: Host, config_path: str, ctx: StepContext) -> None:
    argv = kubeadm.config_validate_argv(deps.spec.kubernetes.version, config_path)
    if argv is None:
        return
    answer = host.run(argv, sudo=True, check=False, timeout_s=min(60.0, ctx.remaining_s()), cancel=deps.cancel)
    if not answer.ok:
        raise CommandFailedError(
            "kubeadm refuses the configuration",
            where=host.name,
            why=redact(answer.err).strip()[-800:],
            hint="look at the kubeadm section of cluster.yaml",
            exit_status=answer.exit_status,
        )


def _member_control_plane(deps: Deps, api: KubeApi) -> HostSpec:
    """Return a reachable control plane that is a member."""
    members = {n["metadata"]["name"] for n in api.items("/api/v1/nodes")}
    for host in deps.spec.control_planes:
        if host.name in members:
            answer = deps.fleet.map(
                [host.name],
                lambda h: h.run(("test", "-s", CA_CERTIFICATE), sudo=True, check=False),
                cancel=deps.cancel,
            )[host.name]
            if not isinstance(answer, Exception) and answer.ok:
                return host
    raise KubeError("no member control plane can be reached over ssh", hint="kops-py preflight shows why")


def _ca_certificate(deps: Deps, member: HostSpec) -> bytes:
    return deps.fleet.host(member.name).run(("cat", CA_CERTIFICATE), sudo=True, cancel=deps.cancel).stdout


def _certificate_key(deps: Deps, api: KubeApi, member: HostSpec, ctx: StepContext) -> str:
    """Return the key of uploaded certificates, uploading them anew when this run has none."""
    key = deps.join_secrets.certificate_key()
    if key:
        return key
    mark_uploaded_certificates(api)  # of a run that was killed: their token would have no owner after the upload
    key = kubeadm.new_certificate_key()
    host, path = deps.fleet.host(member.name), f"{CONFIG_DIR}/upload-certs.yaml"
    config = kubeadm.upload_certs_config(deps.spec, member, certificate_key=key)
    host.write_file(path, config.encode())
    try:
        ctx.progress(f"uploading the control plane's certificates from {member.name}")
        answer = host.run(
            kubeadm.upload_certs_argv(path),
            sudo=True,
            check=False,
            timeout_s=ctx.remaining_s(),
            cancel=deps.cancel,
        )
    finally:
        host.run(("rm", "-f", path), sudo=True, check=False)
    if not answer.ok:
        raise CommandFailedError(
            "kubeadm could not upload the certificates",
            where=member.name,
            why=parse_failure(redact(answer.out + answer.err, key)),
            hint="run the same command again",
            exit_status=answer.exit_status,
        )
    deps.join_secrets.keep_certificate_key(key)
    mark_uploaded_certificates(api)
    return key
