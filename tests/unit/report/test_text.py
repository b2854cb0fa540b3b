"""What people read: errors, plans, findings, status; and that nothing a host says can steer the terminal."""

from __future__ import annotations

import dataclasses
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.actions import ConfigureBridge
from kops_py.model.errors import CommandFailedError, ConfigError, KopsError, UnreachableError
from kops_py.model.finding import Finding, Severity
from kops_py.model.plan import Plan, Step, Wave
from kops_py.model.status import Certificate, ClusterStatus, EtcdMember, NodeStatus
from kops_py.report.plain import clean, clean_line
from kops_py.report.status import status_text
from kops_py.report.text import error_text, errors_text, findings_text, plan_text

EVIL = "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m\r\n\x9b1mx\x08\x00 \u202egnp.exe\u2028\x1bP+q\x1b\\end\x7f"


def step(node: str, title: str, *details: str) -> Step:
    return Step(f"x/{node}", node, title, ConfigureBridge(node), 5.0, details)


def is_safe(text: str) -> bool:
    """Whether a terminal only prints this; line feeds are ours."""
    bad = {"Cc", "Cs", "Zl", "Zp"}
    bidi = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
    return not any((c != "\n" and unicodedata.category(c) in bad) or c in bidi for c in text)


def test_escape_sequences_go_and_words_stay() -> None:
    assert clean(EVIL) == "red\nx gnp.exeend"
    assert clean_line("a\r\n  b\tc\n") == "a   b c"
    assert clean("Grüße, 世界 “ok” 🙂") == "Grüße, 世界 “ok” 🙂"
    assert clean("50%\rdone") == "50% done"
    assert clean("cut off \x1b[3") == "cut off "
    assert clean("\x1b]0;never ended\nnext line") == "\nnext line"


@given(st.text())
def test_cleaning_is_safe_and_twice_is_once(text: str) -> None:
    assert is_safe(clean(text))
    assert clean(clean(text)) == clean(text)
    assert "\n" not in clean_line(text)


WILD = st.one_of(st.text(max_size=40), st.sampled_from(["", EVIL, "\x1b", "\n", "a\nb\n", "\ud800"]))


@given(WILD, WILD, WILD, WILD, WILD, st.booleans())
def test_errors_of_any_text_are_shown_safely(what: str, where: str, why: str, hint: str, log: str, many: bool) -> None:
    errors: list[KopsError] = [CommandFailedError(what, where=where, why=why, hint=hint)]
    if many:
        errors += [ConfigError(what, where="x", others=(ConfigError(why, where=where),)), errors[0]]
    text = errors_text(errors, resume=hint, log=log)
    assert is_safe(text)
    assert text.startswith("error: ")
    assert is_safe(error_text(errors[-1]))


@given(st.lists(st.tuples(st.sampled_from(Severity), WILD, WILD, WILD, WILD, st.booleans()), max_size=4))
def test_findings_of_any_text_are_shown_safely(items: list[tuple[Severity, str, str, str, str, bool]]) -> None:
    assert is_safe(findings_text([Finding(*item) for item in items]))


@given(st.lists(st.lists(st.tuples(WILD, WILD, WILD), max_size=3), max_size=3), st.booleans(), WILD)
def test_plans_of_any_text_are_shown_safely(waves: list[list[tuple[str, str, str]]], together: bool, note: str) -> None:
    made = Plan(
        "bootstrap",
        "c",
        tuple(Wave(note, tuple(step(*texts) for texts in wave), 2, together=together) for wave in waves),
        notes=(note,),
    )
    assert is_safe(plan_text(made))


def test_an_error_is_what_where_why_next() -> None:
    error = CommandFailedError("kubeadm join failed", where="n2", why="first\nsecond", hint="look there")
    assert error_text(error, log="/runs/1", resume="kops-py bootstrap -i 'my hosts'") == (
        "error: n2: kubeadm join failed\n"
        "  why:  first\n"
        "        second\n"
        "  next: look there\n"
        "  log:  /runs/1\n"
        "  continue with: kops-py bootstrap -i 'my hosts'"
    )


def test_what_hit_many_hosts_alike_is_said_once() -> None:
    lost = [UnreachableError("cannot be reached", where=f"n{n}", why="timed out", hint="is it up?") for n in (1, 2, 3)]
    other = UnreachableError("cannot be reached", where="n4", why="refused", hint="is it up?")
    assert errors_text([*lost, other, lost[0]]) == (
        "error: n1, n2, n3: cannot be reached\n"
        "  why:  timed out\n"
        "  next: is it up?\n"
        "error: n4: cannot be reached\n"
        "  why:  refused\n"
        "  next: is it up?"
    )


def test_a_plan_is_a_table_wave_by_wave() -> None:
    plan = Plan(
        "bootstrap",
        "prod",
        (
            Wave("preparation", (step("n1", "prepare"), step("worker-2", "prepare")), 2, together=True),
            Wave("control planes", (step("n2", "join"), step("n3", "join"))),
            Wave("healthy", (step("", "wait", "a note"),)),
        ),
        notes=("members already: n9",),
    )
    assert plan_text(plan) == (
        "Plan: bootstrap of cluster prod\n"
        "  members already: n9\n"
        "\n"
        "preparation (side by side)\n"
        "    1  n1        prepare\n"
        "    2  worker-2  prepare\n"
        "\n"
        "control planes (one at a time)\n"
        "    3  n2  join\n"
        "    4  n3  join\n"
        "\n"
        "healthy\n"
        "    5  cluster  wait\n"
        "                  a note\n"
        "\n"
        "takes 20s at most, by the limits of its steps; --deadline sets less\n"
        f"5 steps, digest {plan.digest}"
    )
    nothing = plan_text(Plan("bootstrap", "prod", ()))
    assert "nothing to do" in nothing
    assert "at most" not in nothing


def test_findings_come_most_severe_first_and_are_counted() -> None:
    found = (
        Finding(Severity.INFO, "cgroup", "", "cgroup v2", "no hint is shown"),
        Finding(Severity.ERROR, "swap-on", "n2", "swap is on\x1b[5m", "swapoff -a"),
        Finding(Severity.WARNING, "few-cpus", "n1", "one CPU"),
        Finding(Severity.ERROR, "old", "n3", "accepted", "not shown", ignored=True),
    )
    assert findings_text(found) == (
        "error    n2: swap is on  [swap-on]\n"
        "         -> swapoff -a\n"
        "warning  n1: one CPU  [few-cpus]\n"
        "info     cluster: cgroup v2  [cgroup]\n"
        "ignored  n3: accepted  [old]\n"
        "1 error, 1 warning, 1 note, 1 ignored"
    )
    assert findings_text(()) == "no findings"


NOW = datetime(2026, 11, 20, tzinfo=UTC)


def cluster_status() -> ClusterStatus:
    node = NodeStatus("n1", ("control-plane",), True, "", "v1.31.2", "10.0.0.1", "Debian", "6.1", "containerd://1.7")
    other = dataclasses.replace(node, name="worker-2", roles=(), ready=False, cordoned=True, cordoned_by="ann")
    other = dataclasses.replace(other, stopped="its upgrade stopped: drain: \x1b[31mno")
    path, expires = "/etc/kubernetes/pki/apiserver.crt", datetime(2026, 12, 1, 12, tzinfo=UTC)
    return ClusterStatus(
        server_version="v1.31.2",
        cluster_name="prod",
        endpoint="api.example:6443",
        nodes=(node, other),
        etcd_pods=(),
        external_etcd=False,
        bootstrap_tokens=1,
        unhealthy=("node worker-2 is not Ready: \x1b[31mPLEG",),
        etcd_members=(EtcdMember("n1", 1, "https://10.0.0.1:2379", True, "3.5.15", 3 * 2**20, is_leader=True),),
        certificates=(Certificate(path, "CN=kube-apiserver", expires, False, "n1"),),
    )


def test_status_names_problems_nodes_etcd_and_the_next_expiry() -> None:
    text = status_text(cluster_status(), now=NOW)
    assert (
        text
        == """\
cluster prod, Kubernetes v1.31.2, endpoint api.example:6443: 1 problem(s)
  ! node worker-2 is not Ready: PLEG

NODE      ROLES          STATE     KUBELET  ADDRESS   RUNTIME
n1        control-plane  Ready     v1.31.2  10.0.0.1  containerd://1.7
worker-2                 NotReady  v1.31.2  10.0.0.1  containerd://1.7  cordoned by ann
  ! worker-2: its upgrade stopped: drain: no

ETCD  STATE    ROLE    VERSION  SIZE     REVISION
n1    healthy  leader  3.5.15   3.0 MiB  0

CERTIFICATES  FIRST TO EXPIRE                    ON          IN
n1            /etc/kubernetes/pki/apiserver.crt  2026-12-01  11 days  soon: kubeadm certs renew all

1 bootstrap token(s) are valid: kubeadm token list"""
    )


def test_status_of_a_cluster_that_says_little() -> None:
    bare = dataclasses.replace(
        cluster_status(), nodes=(), etcd_members=(), certificates=(), unhealthy=(), bootstrap_tokens=0
    )
    text = status_text(bare, now=NOW)
    assert text.startswith("cluster prod, Kubernetes v1.31.2, endpoint api.example:6443: healthy\n")
    assert "etcd: no member could be asked" in text
    assert "certificates: none could be read" in text
    assert "token" not in text


@pytest.mark.parametrize("days", [-1, 29, 31])
def test_urgency(days: int) -> None:
    from datetime import timedelta

    [certificate] = cluster_status().certificates
    moved = dataclasses.replace(certificate, not_after=NOW + timedelta(days=days, hours=1))
    text = status_text(dataclasses.replace(cluster_status(), certificates=(moved,)), now=NOW)
    assert ("EXPIRED" in text, "soon:" in text) == (days < 0, 0 < days < 30)
