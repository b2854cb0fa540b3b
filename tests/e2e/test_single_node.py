"""A single bare Debian system, and kops-py as a stranger has it: installed from the wheel, run in an empty folder."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.e2e import backups, watch, workload
from tests.e2e.bed import Bed
from tests.e2e.program import Program

pytestmark = pytest.mark.timeout(420)


@pytest.fixture
def bed(bed: Bed, wheel_program: Path) -> Bed:
    """The same bed, with the program from the wheel."""
    bed.program = Program(wheel_program, bed.folder)
    return bed


def test_single_node(bed: Bed) -> None:
    program = bed.program
    (node,) = bed.boot(1, layers=())
    written = program.run("init", ".", "--topology", "single").stdout
    assert "cluster.yaml" in written
    assert "hosts.yaml" in written
    bed.write_inventory(control_planes=["n1"], workers=["n1"])
    bed.write_cluster("alone")

    assert "are valid: cluster alone" in program.run("validate").stdout
    before = program.run("preflight")
    assert "0 errors" in before.stdout, before.report()
    assert node.exec("ls /etc/kops-py", check=False).returncode != 0, "looking has changed the host"
    bed.say("preflight done")

    planned = program.run("bootstrap", "--plan", exit_code=20)
    assert "kubeadm init (v1.20.2)" in planned.stdout, planned.report()
    plans = [program.run("bootstrap", "--plan", "-o", "json", exit_code=20).json() for _ in range(2)]
    assert plans[0]["digest"] == plans[1]["digest"], "two plans of the same state differ"
    assert plans[0]["digest"] in planned.stdout

    with watch.SecretWatch([node]) as watching:
        built = bed.bootstrap()
    bed.say(f"bootstrap {built.duration_s:.1f} s")
    assert "cluster alone is ready" in built.stdout, built.report()

    bed.assert_nothing_to_do()
    status = program.run("status", "-o", "json").json()
    assert status["unhealthy"] == []
    assert [(n["name"], n["ready"], n["version"]) for n in status["nodes"]] == [("n1", True, "v1.20.2")]
    assert [m["healthy"] for m in status["etcd_members"]] == [True]
    assert len([c for c in status["certificates"] if c["path"].startswith("/etc/kubernetes/pki")]) >= 8

    _check_kubeconfig(bed)
    workload.load_image(bed, ["n1"])
    workload.deploy(bed, ["n1"])
    assert workload.assert_answers(bed, ["n1"]) == {"n1"}
    bed.say("workload answers")

    secrets = json.loads(bed.kubectl("-n kube-system get secrets -o json"))["items"]
    watch.assert_no_join_secrets(secrets)
    watch.assert_host_left_clean(node)
    places = [("stdout", built.stdout), ("stderr", built.stderr), *watch.host_places(node)]
    watching.assert_clean([*places, *watch.files_below(bed.folder / ".kops-py")])
    assert stat.S_IMODE((bed.folder / ".kops-py").stat().st_mode) == 0o700
    backups.check_backups(bed, "alone")


def _check_kubeconfig(bed: Bed) -> None:
    """The fetched kubeconfig is private, and kubectl works with it as it is."""
    bed.program.run("kubeconfig")
    path = bed.folder / "alone.kubeconfig"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    node = bed.node("n1")
    node.put_file(path, "/root/fetched.kubeconfig", 0o600)
    nodes = node.exec("kubectl --kubeconfig /root/fetched.kubeconfig --context alone get nodes -o name").stdout
    assert nodes.split() == ["node/n1"]
    node.exec("rm /root/fetched.kubeconfig")
