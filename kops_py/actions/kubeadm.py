"""kubeadm init and join, as jobs on the node that outlive this program.

A job that was begun is never begun a second time beside itself: a running one is waited for, a failed or
interrupted one is cleaned up with ``kubeadm reset`` and made anew. Reset is safe there and only there: kops-py's
own record on the node says that the node never became a member.
"""

from __future__ import annotations

from kops_py.actions.deps import Deps
from kops_py.actions.jobs import JobOutcome, forget_job, read_job, run_job
from kops_py.actions.join_secrets import TOKEN_TTL_S, mark_uploaded_certificates
from kops_py.connect.base import Host, KubeApi
from kops_py.engine.run import StepContext
from kops_py.model.actions import InitControlPlane, JoinNode
from kops_py.model.errors import CommandFailedError, KubeError
from kops_py.model.facts import JobState
from kops_py.model.spec import HostSpec
from kops_py.tools import kubeadm
from kops_py.tools.kubeadm_failure import failure_hint, parse_failure
from kops_py.tools.redact import redact

INIT_JOB = "kubeadm-init"
JOIN_JOB = "kubeadm-join"
RESET_JOB = "kubeadm-reset"
CONFIG_DIR = "/etc/kops-py"
CA_CERTIFICATE = "/etc/kubernetes/pki/ca.crt"
_POLL_S = 0.5


def init_control_plane(deps: Deps, action: InitControlPlane, ctx: StepContext) -> None:
    """Run kubeadm init on the node; raises CommandFailedError with what kubeadm said."""
    host, spec = deps.fleet.host(action.node), deps.spec
    config_path = f"{CONFIG_DIR}/{INIT_JOB}.yaml"
    if not _attach(deps, host, INIT_JOB, ctx):
        token = kubeadm.new_token()
        key = kubeadm.new_certificate_key() if action.upload_certs else ""
        config = kubeadm.init_config(
            spec,
            spec.host(action.node),
            token=token,
            token_ttl_s=TOKEN_TTL_S,
            certificate_key=key or None,
            cgroup_v1=deps.cgroup_v1.get(action.node, False),
            ignore_preflight_errors=deps.kubeadm_ignores,
        )
        host.write_file(config_path, config.encode(), timeout_s=min(60.0, ctx.remaining_s()))
        _validate(deps, host, config_path, ctx)
        ctx.progress("kubeadm init")
        argv = kubeadm.init_argv(config_path, upload_certs=action.upload_certs)
        _finish(host, INIT_JOB, run_job(host, INIT_JOB, argv, ctx))
        deps.join_secrets.remember(token=token, certificate_key=key)
    host.run(("rm", "-f", config_path), sudo=True, cancel=deps.cancel)
    if action.upload_certs and deps.join_secrets.certificate_key():
        mark_uploaded_certificates(deps.kube.api())


def join_node(deps: Deps, action: JoinNode, ctx: StepContext) -> None:
    """Run kubeadm join on the node; raises CommandFailedError with what kubeadm said."""
    host, spec = deps.fleet.host(action.node), deps.spec
    config_path = f"{CONFIG_DIR}/{JOIN_JOB}.yaml"
    if not _attach(deps, host, JOIN_JOB, ctx):
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
            cgroup_v1=deps.cgroup_v1.get(action.node, False),
            ignore_preflight_errors=deps.kubeadm_ignores,
        )
        host.write_file(config_path, config.encode(), timeout_s=min(60.0, ctx.remaining_s()))
        ctx.progress("kubeadm join")
        _finish(host, JOIN_JOB, run_job(host, JOIN_JOB, kubeadm.join_argv(config_path), ctx))
    host.run(("rm", "-f", config_path), sudo=True, cancel=deps.cancel)


def verify_member(deps: Deps, node: str, control_plane: bool, ctx: StepContext) -> None:
    """Wait until the node is registered and, for a control plane, its own API server is ready.

    That readiness includes the etcd member beside it, so no further member is added to etcd before this one serves.
    Its mirror pods appear in the API only a while later; the step that waits for a healthy cluster looks at them.
    Raises DeadlineError.
    """
    host = deps.fleet.host(node)
    ready = _own_api_argv(deps.spec.host(node))
    while True:
        try:
            problem = "" if deps.kube.api().get_or_none(f"/api/v1/nodes/{node}") else "the node is not registered"
        except KubeError as error:
            problem = str(error)
        if not problem and control_plane:
            answer = host.run(ready, sudo=True, check=False, timeout_s=20, cancel=deps.cancel)
            problem = "" if answer.ok else f"its API server is not ready: {answer.err.strip()[-200:]}"
        if not problem:
            return
        ctx.progress(problem, waiting=True)
        ctx.remaining_s()
        ctx.cancel.wait(_POLL_S)


def _own_api_argv(host: HostSpec) -> tuple[str, ...]:
    address = f"[{host.node_ip}]" if ":" in host.node_ip else host.node_ip
    return (
        "kubectl",
        "--kubeconfig=/etc/kubernetes/admin.conf",
        f"--server=https://{address}:{kubeadm.API_PORT}",
        "--request-timeout=10s",
        "get",
        "--raw=/readyz",
    )


def _attach(deps: Deps, host: Host, job: str, ctx: StepContext) -> bool:
    """Wait for a job that is running already; True when it ended well, False when it must be begun anew."""
    state = read_job(host, job)
    if state is None:
        return False
    if state is JobState.RUNNING:
        ctx.progress(f"{job} runs there already from an earlier run: waiting for it", waiting=True)
        outcome = run_job(host, job, None, ctx)
        if outcome.exit_status == 0:
            return True
    elif state is JobState.SUCCEEDED and job == INIT_JOB:
        deps.kube.api()  # raises what is wrong; a control plane that was finished once is never reset
        return True
    _reset(host, job, ctx)
    return False


def _reset(host: Host, job: str, ctx: StepContext) -> None:
    ctx.progress("cleaning up an attempt that did not come to its end (kubeadm reset)")
    forget_job(host, RESET_JOB)
    outcome = run_job(host, RESET_JOB, kubeadm.reset_argv(), ctx)
    if outcome.exit_status != 0:
        raise CommandFailedError(
            "kubeadm reset failed",
            where=host.name,
            why=parse_failure(outcome.log),
            hint=f"see {outcome.log_path} on the host, then run the same command again",
            exit_status=outcome.exit_status,
        )
    host.run(("rm", "-rf", "/etc/cni/net.d/10-kops-py-bridge.conflist", f"{CONFIG_DIR}/bridge-peers"), sudo=True)
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
