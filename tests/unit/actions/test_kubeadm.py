"""kubeadm init and join: begun once, cleaned up only when they never came to their end, no secret left behind."""

from __future__ import annotations

import base64
import copy
import dataclasses
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kops_py.actions import jobs, kubeadm
from kops_py.actions.join_secrets import TOKEN_TTL_S, revoke
from kops_py.model.actions import InitControlPlane, JoinNode
from kops_py.model.errors import CancelledError, CommandFailedError, DeadlineError, KubeError, UnreachableError
from kops_py.model.version import Version
from kops_py.observe.cluster import observe_join_secrets
from kops_py.tools import kubeadm as tool
from tests.fakes.kube import node
from tests.fakes.ssh import Call, FakeHost, Reply
from tests.unit.actions.stage import Stage, stage

SECRETS = "/api/v1/namespaces/kube-system/secrets"
INIT, JOIN = "/etc/kops-py/kubeadm-init.yaml", "/etc/kops-py/kubeadm-join.yaml"
CERTS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "kubeadm-certs", "namespace": "kube-system"},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WAIT_S", 0.01)
    monkeypatch.setattr(kubeadm, "_POLL_S", 0.01)
    monkeypatch.setattr(kubeadm, "_OLD_NODE_S", 0.2)
    monkeypatch.setattr(tool, "ca_cert_hash", lambda pem: "sha256:" + "ab" * 32)


def allow_removal(host: FakeHost) -> None:
    """Let ``rm -f`` of our own files work as on a host."""

    def remove(call: Call) -> Reply:
        assert call.sudo
        for path in call.argv[2:]:
            host.files.pop(path, None)
        return Reply()

    host.on(lambda argv: argv[:2] == ("rm", "-f"), remove)


def installed(host: FakeHost, *paths: str) -> None:
    host.on(lambda argv: argv[:2] == ("test", "-s"), lambda call: Reply(exit_status=0 if call.argv[2] in paths else 1))


def init_stage(control_planes: int = 1, *states: str, version: str = "v1.31.2") -> Stage:
    made = stage(control_planes)
    kubernetes = dataclasses.replace(made.spec.kubernetes, version=Version.parse(version))
    made.spec = made.deps.spec = dataclasses.replace(made.spec, kubernetes=kubernetes)
    made.jobs["n1"].outcomes["kubeadm-init"] = list(states or ("running", "ended 0"))
    allow_removal(made.hosts["n1"])
    made.hosts["n1"].on(lambda argv: argv[:3] == ("kubeadm", "config", "validate"), Reply(sudo=True))
    return made


def init(made: Stage, *, upload: bool = False, timeout_s: float = 30.0) -> None:
    action = InitControlPlane("n1", "v1.31.2", "v1beta4", "api.example.invalid:6443", upload)
    kubeadm.init_control_plane(made.deps, action, made.ctx(action, timeout_s=timeout_s))


def secrets_of(made: Stage) -> set[str]:
    """Return every token and key that was ever written to a host or the API."""
    texts = [data.decode() for host in made.hosts.values() for data in host.files.values()]
    return set(re.findall(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b|\b[0-9a-f]{64}\b", "\n".join(texts))) - {"ab" * 32}


def test_init_from_nothing_writes_a_private_file_and_starts_the_job() -> None:
    made = init_stage(3)
    made.kube.add(CERTS)
    init(made, upload=True)
    host, [(job, line)] = made.hosts["n1"], made.jobs["n1"].started
    assert job == "kubeadm-init"
    assert f"kubeadm init --config={INIT}" in line or f"kubeadm init --config {INIT}" in line
    assert "--upload-certs" in line
    assert host.modes[INIT] == 0o600
    found = secrets_of(made)
    assert len(found) == 2, "the token and the key of the certificates"
    for secret in found:
        assert secret not in made.all_argv_text()
        assert not any(secret in text for text in made.progress)
    [document] = [d for d in yaml.safe_load_all(host.files[INIT]) if d["kind"] == "InitConfiguration"]
    assert made.deps.join_secrets.certificate_key() == document["certificateKey"]
    assert made.deps.join_secrets.token(made.kube) == document["bootstrapTokens"][0]["token"]
    assert made.kube.writes() == [("patch", f"{SECRETS}/kubeadm-certs")], "marked as ours; the token is reused"
    made.kube.assert_clean()


def test_the_job_itself_removes_the_file_at_its_end_and_keeps_the_exit_status(tmp_path: Path) -> None:
    import subprocess

    for status in (0, 7):
        secret = tmp_path / "it's secret.yaml"
        secret.write_text("token")
        argv = kubeadm._forgetting(str(secret), ("sh", "-c", 'test -s "$0" && exit "$1"', str(secret), str(status)))
        assert subprocess.run(argv, check=False, timeout=10).returncode == status
        assert not secret.exists()
    made = init_stage()
    init(made)
    assert "trap" in made.jobs["n1"].started[0][1]
    assert INIT in made.jobs["n1"].started[0][1]


@pytest.mark.parametrize("status", [0, 1])
def test_the_whole_job_script_runs_kubeadm_then_forgets_its_configuration(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    from kops_py.tools import systemd

    monkeypatch.setattr(systemd, "JOBS_DIR", str(tmp_path / "jobs"))
    secret, bin_dir = tmp_path / "kubeadm-init.yaml", tmp_path / "bin"
    secret.write_text("token")
    bin_dir.mkdir()
    for name, text in {
        "systemctl": "echo inactive; exit 3",
        "systemd-run": 'for last; do :; done; exec /bin/sh "$last"',
        "kubeadm": f'echo "[init] given $*"; test -s "$3" || exit 9; exit {status}',
    }.items():
        (bin_dir / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_dir / name).chmod(0o755)
    argv = kubeadm._forgetting(str(secret), ("kubeadm", "init", "--config", str(secret)))
    script = systemd.start_job_script("kubeadm-init", argv)
    path = f"{bin_dir}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", script], check=False, timeout=20, env={"PATH": path})
    folder = tmp_path / "jobs" / "kubeadm-init"
    assert (folder / "rc").read_text() == f"{status}\n"
    assert (folder / "log").read_text() == f"[init] given init --config {secret}\n"
    assert not secret.exists()


@pytest.mark.parametrize("what", ["validate", "start", "cancelled"])
def test_a_job_that_never_started_leaves_no_file(what: str) -> None:
    made = init_stage()
    host = made.hosts["n1"]
    if what == "validate":
        host.on(
            lambda argv: argv[:3] == ("kubeadm", "config", "validate"), Reply(stderr="unknown field", exit_status=1)
        )
    elif what == "start":
        made.jobs["n1"].refuse["kubeadm-init"] = Reply(exit_status=1, stderr="no bus")
    else:
        error = CancelledError("interrupted (SIGINT)")
        host.on(lambda argv: argv[:3] == ("kubeadm", "config", "validate"), Reply(error=error))
    with pytest.raises((CommandFailedError, CancelledError)) as caught:
        init(made)
    assert INIT in host.modes, "it had been written"
    assert INIT not in host.files
    if what == "validate":
        assert (caught.value.what, caught.value.where) == ("kubeadm refuses the configuration", "n1")
        assert caught.value.why == "unknown field"
        assert "cluster.yaml" in caught.value.hint
    assert made.jobs["n1"].started == []


def test_a_start_whose_answer_was_lost_keeps_the_file_for_the_job_that_may_run() -> None:
    made = init_stage()
    made.jobs["n1"].refuse["kubeadm-init"] = Reply(error=UnreachableError("lost", where="n1"))
    with pytest.raises(UnreachableError):
        init(made)
    assert INIT in made.hosts["n1"].files


def test_a_failed_init_says_what_where_why_and_what_next() -> None:
    made = init_stage(1, "ended 1")
    made.jobs["n1"].logs["kubeadm-init"] = (
        "[init] Using Kubernetes version: v1.31.2\nerror execution phase preflight: [preflight] Some fatal errors "
        "occurred:\n\t[ERROR Port-6443]: Port 6443 is in use\n"
    )
    with pytest.raises(CommandFailedError) as caught:
        init(made)
    error = caught.value
    assert (error.what, error.where, error.exit_status) == ("kubeadm init failed", "n1", 1)
    assert error.why == "[Port-6443] Port 6443 is in use"
    assert "ss -ltnp" in error.hint
    assert "/var/lib/kops-py/jobs/kubeadm-init/log" in error.hint
    assert made.deps.join_secrets.certificate_key() == ""


def test_an_interrupted_job_is_told_so() -> None:
    made = init_stage(1, "running", "interrupted")
    with pytest.raises(CommandFailedError) as caught:
        init(made)
    assert caught.value.why.startswith("it was interrupted")
    assert caught.value.exit_status is None


def test_a_running_init_is_waited_for_and_nothing_is_begun() -> None:
    made = init_stage(3)
    made.jobs["n1"].states["kubeadm-init"] = ["running", "running", "ended 0"]
    installed(made.hosts["n1"], kubeadm.ADMIN_CONF)
    init(made, upload=True)
    assert made.jobs["n1"].started == []
    assert made.hosts["n1"].files == {}
    assert made.waits == ["kubeadm-init runs there already from an earlier run: waiting for it"]
    assert made.kube.writes() == [], "whose key nobody knows any more is not marked"


@pytest.mark.parametrize("state", [["ended 1"], ["interrupted"], ["running", "ended 1"]])
def test_an_init_that_did_not_end_well_is_reset_then_begun(state: list[str]) -> None:
    made = init_stage()
    made.jobs["n1"].states["kubeadm-init"] = state
    made.jobs["n1"].outcomes["kubeadm-reset"] = ["ended 0"]
    made.hosts["n1"].files.update({INIT: b"old secrets", "/etc/kops-py/bridge-peers": b""})
    init(made)
    assert [job for job, _ in made.jobs["n1"].started] == ["kubeadm-reset", "kubeadm-init"]
    assert made.jobs["n1"].cleared == ["kubeadm-reset", "kubeadm-init"]
    assert set(made.hosts["n1"].files) == {INIT}
    assert made.hosts["n1"].files[INIT] != b"old secrets"


def test_a_reset_that_is_running_still_is_waited_for() -> None:
    made = init_stage()
    made.jobs["n1"].states |= {"kubeadm-init": ["ended 1"], "kubeadm-reset": ["running", "running", "ended 0"]}
    init(made)
    assert [job for job, _ in made.jobs["n1"].started] == ["kubeadm-init"]


def test_a_reset_that_fails_stops() -> None:
    made = init_stage()
    made.jobs["n1"].states["kubeadm-init"] = ["ended 1"]
    made.jobs["n1"].outcomes["kubeadm-reset"] = ["ended 1"]
    made.jobs["n1"].logs["kubeadm-reset"] = "error: cannot unmount"
    with pytest.raises(CommandFailedError) as caught:
        init(made)
    assert (caught.value.what, caught.value.where, caught.value.why) == ("kubeadm reset failed", "n1", "cannot unmount")
    assert "kubeadm-reset/log" in caught.value.hint
    assert [job for job, _ in made.jobs["n1"].started] == ["kubeadm-reset"]


def test_an_init_that_ended_well_is_left_alone() -> None:
    made = init_stage()
    made.jobs["n1"].states["kubeadm-init"] = ["ended 0"]
    installed(made.hosts["n1"], kubeadm.ADMIN_CONF)
    init(made)
    assert made.jobs["n1"].started == []
    assert made.hosts["n1"].files == {}


def test_a_finished_control_plane_whose_api_is_down_is_never_reset() -> None:
    made = init_stage()
    made.jobs["n1"].states["kubeadm-init"] = ["ended 0"]
    installed(made.hosts["n1"], kubeadm.API_SERVER_MANIFEST)
    made.access.problem = KubeError("no answer")
    with pytest.raises(KubeError, match="no answer"):
        init(made)
    assert made.jobs["n1"].started == []


def test_a_host_that_a_person_reset_since_is_initialised_anew() -> None:
    made = init_stage()
    made.jobs["n1"].states["kubeadm-init"] = ["ended 0"]
    installed(made.hosts["n1"])
    init(made)
    assert [job for job, _ in made.jobs["n1"].started] == ["kubeadm-init"]


# join


def join_stage(control_planes: int = 1, workers: int = 1) -> Stage:
    made = stage(control_planes, workers, [node("n1", control_plane=True)])
    for name, host in made.hosts.items():
        allow_removal(host)
        made.jobs[name].outcomes["kubeadm-join"] = ["running", "ended 0"]
    made.hosts["n1"].on(("test", "-s", kubeadm.CA_CERTIFICATE), Reply(sudo=True))
    made.hosts["n1"].on(("cat", kubeadm.CA_CERTIFICATE), Reply(b"PEM", sudo=True))
    return made


def join(made: Stage, name: str, *, control_plane: bool = False) -> None:
    action = JoinNode(name, control_plane, "v1.31.2")
    kubeadm.join_node(made.deps, action, made.ctx(action, name))


def test_a_worker_joins_with_a_token_made_through_the_api() -> None:
    made = join_stage()
    join(made, "n2")
    assert made.kube.writes() == [("create", SECRETS)]
    [secret] = list(made.kube.items(SECRETS))
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    token = f"{data['token-id']}.{data['token-secret']}"
    assert secret["metadata"]["name"] == f"bootstrap-token-{data['token-id']}"
    assert data["description"].startswith("kops-py")
    [document] = [d for d in yaml.safe_load_all(made.hosts["n2"].files[JOIN]) if d["kind"] == "JoinConfiguration"]
    assert document["discovery"]["bootstrapToken"]["token"] == token
    assert document["discovery"]["bootstrapToken"]["caCertHashes"] == ["sha256:" + "ab" * 32]
    assert "controlPlane" not in document
    assert made.hosts["n2"].modes[JOIN] == 0o600
    text = made.all_argv_text() + "\n".join(made.progress)
    assert token not in text
    assert data["token-secret"] not in text
    made.kube.assert_clean()


def test_several_workers_side_by_side_share_one_token() -> None:
    made = join_stage(1, 4)
    threads = [threading.Thread(target=join, args=(made, f"n{n}")) for n in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(made.jobs[f"n{n}"].started for n in range(2, 6))
    assert made.kube.writes() == [("create", SECRETS)]


def test_an_old_token_is_not_used_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    made = join_stage()
    made.deps.join_secrets.remember(token="abcdef.0123456789abcdef", certificate_key="")
    later = time.monotonic() + TOKEN_TTL_S / 2 + 1
    monkeypatch.setattr("kops_py.actions.join_secrets.time.monotonic", lambda: later)
    assert made.deps.join_secrets.token(made.kube) != "abcdef.0123456789abcdef"
    assert made.kube.writes() == [("create", SECRETS)]
    assert "abcdef" not in repr(made.deps.join_secrets)


def upload_certificates(made: Stage) -> Callable[[], list[bytes]]:
    """Let the upload work on n1, as kubeadm would; returns a look at the files it was given."""
    seen: list[bytes] = []
    path = "/etc/kops-py/upload-certs.yaml"

    def upload(call: Call) -> Reply:
        assert call.sudo
        seen.append(made.hosts["n1"].files[path])
        made.kube.add(CERTS)
        return Reply("[upload-certs] Storing the certificates")

    made.hosts["n1"].on(tool.upload_certs_argv(path), upload)
    return lambda: seen


def test_a_control_plane_without_a_key_from_this_run_gets_a_fresh_upload() -> None:
    made = join_stage(3, 0)
    given = upload_certificates(made)
    join(made, "n2", control_plane=True)
    join(made, "n3", control_plane=True)
    assert len(given()) == 1, "the second uses the first one's upload"
    key = made.deps.join_secrets.certificate_key()
    assert key.encode() in given()[0]
    assert "/etc/kops-py/upload-certs.yaml" not in made.hosts["n1"].files
    assert made.hosts["n1"].modes["/etc/kops-py/upload-certs.yaml"] == 0o600
    for name in ("n2", "n3"):
        documents = list(yaml.safe_load_all(made.hosts[name].files[JOIN]))
        assert [d["controlPlane"]["certificateKey"] for d in documents if d["kind"] == "JoinConfiguration"] == [key]
    assert key not in made.all_argv_text() + "\n".join(made.progress)
    marked = made.kube.object(f"{SECRETS}/kubeadm-certs")
    assert marked is not None
    assert marked["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "kops-py"}
    made.kube.assert_clean()


@pytest.mark.parametrize("ready", [False, True])
def test_the_node_of_an_earlier_machine_is_no_control_plane_until_kubeadm_says_so(ready: bool) -> None:
    made = join_stage(2, 0)
    upload_certificates(made)
    made.kube.add(node("n2", ready=ready, control_plane=True))
    installed(made.hosts["n2"])
    join(made, "n2", control_plane=True)
    left = (made.kube.object("/api/v1/nodes/n2") or {})["metadata"]["labels"]
    assert bool(left) is ready, "a Ready one is kubeadm's to refuse"


def test_a_join_waits_until_the_node_of_an_earlier_machine_is_not_ready_any_more() -> None:
    made = join_stage(2, 0)
    upload_certificates(made)
    made.kube.add(node("n2", ready=True, control_plane=True))
    installed(made.hosts["n2"])
    silent = [{"type": "Ready", "status": "Unknown"}]
    path = "/api/v1/nodes/n2"
    made.kube.before("get", f"^{path}$", lambda: None)
    made.kube.before(
        "get", f"^{path}$", lambda: made.kube.change(path, lambda o: o["status"].update(conditions=silent))
    )
    join(made, "n2", control_plane=True)
    assert "the Node of its earlier installation is Ready still" in made.waits
    assert not (made.kube.object("/api/v1/nodes/n2") or {})["metadata"]["labels"]


def test_the_token_that_a_fresh_upload_leaves_without_an_owner_is_known_as_ours() -> None:
    """kubeadm makes one for each upload; those of runs that were killed were left in the cluster for two hours."""
    made = join_stage(2, 0)
    old = copy.deepcopy(CERTS)
    old["metadata"]["ownerReferences"] = [{"kind": "Secret", "name": "bootstrap-token-old000"}]
    made.kube.add(old)
    made.kube.add(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-old000", "namespace": "kube-system"},
        }
    )
    upload_certificates(made)  # replaces the Secret, its owner as well
    join(made, "n2", control_plane=True)
    assert "bootstrap-token-old000" in observe_join_secrets(made.kube)
    revoke(made.kube, observe_join_secrets(made.kube))
    assert list(made.kube.items(SECRETS)) == []
    made.kube.assert_clean()


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_upload_that_fails_leaves_no_file_and_no_key(cancelled: bool) -> None:
    made = join_stage(2, 0)
    path = "/etc/kops-py/upload-certs.yaml"
    reply = Reply(stderr="error: no such phase", exit_status=1)
    if cancelled:
        reply = Reply(error=CancelledError("interrupted (SIGINT)"))
    made.hosts["n1"].on(tool.upload_certs_argv(path), reply)
    with pytest.raises((CommandFailedError, CancelledError)) as caught:
        join(made, "n2", control_plane=True)
    assert path in made.hosts["n1"].modes
    assert path not in made.hosts["n1"].files
    assert made.deps.join_secrets.certificate_key() == ""
    if not cancelled:
        assert (caught.value.where, caught.value.why) == ("n1", "no such phase")


def test_the_first_control_plane_that_can_be_reached_is_the_helper() -> None:
    made = join_stage(3, 1)
    made.kube.add(node("n2", control_plane=True))
    made.hosts["n1"].on(("test", "-s", kubeadm.CA_CERTIFICATE), Reply(error=UnreachableError("down", where="n1")))
    made.hosts["n2"].on(("test", "-s", kubeadm.CA_CERTIFICATE)).on(("cat", kubeadm.CA_CERTIFICATE), b"PEM")
    join(made, "n4")
    assert made.jobs["n4"].started


def test_without_any_reachable_control_plane_the_join_says_so() -> None:
    made = join_stage()
    made.hosts["n1"].on(("test", "-s", kubeadm.CA_CERTIFICATE), Reply(exit_status=1))
    with pytest.raises(KubeError) as caught:
        join(made, "n2")
    assert "no member control plane can be reached" in caught.value.what
    assert caught.value.hint
    assert made.kube.writes() == []


def test_a_failed_join_names_node_phase_and_log() -> None:
    made = join_stage()
    made.jobs["n2"].outcomes["kubeadm-join"] = ["ended 1"]
    made.jobs["n2"].logs["kubeadm-join"] = "error execution phase kubelet-start: timed out waiting for the condition\n"
    with pytest.raises(CommandFailedError) as caught:
        join(made, "n2")
    assert (caught.value.what, caught.value.where) == ("kubeadm join failed", "n2")
    assert "kubelet-start" in caught.value.why
    assert "journalctl -u kubelet" in caught.value.hint


def test_a_running_join_is_waited_for() -> None:
    made = join_stage()
    made.jobs["n2"].states["kubeadm-join"] = ["running", "ended 0"]
    installed(made.hosts["n2"], kubeadm.KUBELET_CONF)
    made.kube.add(node("n2"))
    join(made, "n2")
    assert made.jobs["n2"].started == []
    assert made.kube.writes() == []


@pytest.mark.parametrize("control_plane", [False, True])
def test_a_join_that_ended_between_the_observation_and_now_is_not_reset(control_plane: bool) -> None:
    made = join_stage(2, 0) if control_plane else join_stage()
    made.jobs["n2"].states["kubeadm-join"] = ["ended 0"]
    installed(made.hosts["n2"], kubeadm.KUBELET_CONF, kubeadm.API_SERVER_MANIFEST)
    made.kube.add(node("n2", control_plane=control_plane))
    join(made, "n2", control_plane=control_plane)
    assert made.jobs["n2"].started == []


@pytest.mark.parametrize("left", ["no node", "no kubelet.conf", "no label", "failed", "interrupted"])
def test_a_host_that_is_no_member_is_reset_and_joined(left: str) -> None:
    made = join_stage(2, 0)
    given = upload_certificates(made)
    made.jobs["n2"].states["kubeadm-join"] = [{"failed": "ended 1", "interrupted": left}.get(left, "ended 0")]
    made.jobs["n2"].outcomes["kubeadm-reset"] = ["ended 0"]
    installed(made.hosts["n2"], *([] if left == "no kubelet.conf" else [kubeadm.KUBELET_CONF]))
    if left != "no node":
        made.kube.add(node("n2", control_plane=left != "no label"))
    join(made, "n2", control_plane=True)
    assert [job for job, _ in made.jobs["n2"].started] == ["kubeadm-reset", "kubeadm-join"]
    assert given()


def test_a_worker_that_registered_before_its_join_was_cut_off_joins_anew_without_its_old_node() -> None:
    made = join_stage()
    made.jobs["n2"].states["kubeadm-join"] = ["interrupted"]
    made.jobs["n2"].outcomes["kubeadm-reset"] = ["ended 0"]
    installed(made.hosts["n2"], kubeadm.KUBELET_CONF)
    made.kube.add(node("n2"))
    join(made, "n2")
    assert [job for job, _ in made.jobs["n2"].started] == ["kubeadm-reset", "kubeadm-join"]
    assert ("delete", "/api/v1/nodes/n2") in made.kube.calls


# verify


def verify(made: Stage, *, control_plane: bool, timeout_s: float = 10.0) -> None:
    action = JoinNode("n2", control_plane, "v1.31.2")
    kubeadm.verify_member(made.deps, "n2", control_plane, made.ctx(action, "n2", timeout_s))


def test_a_worker_is_proven_by_its_registration() -> None:
    made = stage(1, 1)

    def register() -> None:
        made.kube.add(node("n2"))

    made.kube.before("get", "/nodes/n2", lambda: None)  # the first look finds nothing
    made.kube.before("get", "/nodes/n2", register)
    verify(made, control_plane=False)
    assert made.waits == ["the node is not registered"]


def test_a_control_plane_is_proven_by_its_own_api_server() -> None:
    made = stage(2, 0, [node("n2", control_plane=True)])
    answers = [
        Reply(stderr="connection refused", exit_status=1),
        Reply(error=DeadlineError("kubectl did not end within 20 s", where="n2")),
        Reply("ok"),
    ]
    asked: list[Call] = []

    def answer(call: Call) -> Reply:
        asked.append(call)
        return answers.pop(0)

    made.hosts["n2"].on(lambda argv: argv[0] == "kubectl", answer)
    verify(made, control_plane=True)
    assert "--server=https://10.9.0.2:6443" in asked[0].argv
    assert [w.partition(":")[0] for w in made.waits] == ["its API server is not ready"] * 2


@pytest.mark.parametrize("problem", ["node", "api"])
def test_the_deadline_says_what_is_lacking(problem: str) -> None:
    made = stage(1, 1)
    if problem == "api":
        made.access.problem = KubeError("the API does not answer")
    with pytest.raises(DeadlineError) as caught:
        verify(made, control_plane=False, timeout_s=0.05)
    assert caught.value.where == "n2"
    assert caught.value.why == {"node": "the node is not registered", "api": "the API does not answer"}[problem]
    assert caught.value.hint


def test_waiting_ends_at_a_cancel() -> None:
    made = stage(1, 1)
    made.kube.before("get", "/nodes/n2", lambda: made.cancel.set("SIGTERM"))
    with pytest.raises(CancelledError):
        verify(made, control_plane=False)
