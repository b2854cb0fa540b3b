"""The stage of action tests: strict hosts that run jobs, a strict API, and a step's context."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kops_py.actions.deps import Deps
from kops_py.connect.base import AnsibleResult, Cancel, KubeApi, OnTask
from kops_py.engine.run import StepContext
from kops_py.model.errors import KubeError
from kops_py.model.event import Event, StepProgress
from kops_py.model.plan import Action, Step
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.tools import systemd
from tests.fakes.cluster import make_spec
from tests.fakes.kube import FakeKubeApi
from tests.fakes.ssh import Call, FakeFleet, FakeHost, Reply

CA_PEM = b"""-----BEGIN CERTIFICATE-----
MIIBSzCB8qADAgECAgEBMAoGCCqGSM49BAMCMBUxEzARBgNVBAMTCmt1YmVybmV0
-----END CERTIFICATE-----
"""


@dataclass
class Jobs:
    """Jobs of one host as its scripts show them; ``next_state`` says what a look at a running job finds."""

    host: FakeHost
    states: dict[str, list[str]] = field(default_factory=dict)
    """What each look finds, in order; the last one stays."""
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    """The states of a job once it is started; without an entry a start fails the test."""
    logs: dict[str, str] = field(default_factory=dict)
    started: list[tuple[str, str]] = field(default_factory=list)
    """Job and its command line, in order."""
    cleared: list[str] = field(default_factory=list)
    refuse: dict[str, Reply] = field(default_factory=dict)
    """Answers to a start that is not to work."""

    def __post_init__(self) -> None:
        self.host.on(self._is("systemd-run "), self._start)
        self.host.on(self._is("echo interrupted"), self._wait)
        self.host.on(self._is('rm -rf "$jobs/$job" '), self._clear)
        self.host.on(lambda argv: argv[0] == "tail", self._tail)

    @staticmethod
    def _is(mark: str) -> Callable[[tuple[str, ...]], bool]:
        return lambda argv: argv[:2] == ("sh", "-c") and mark in argv[2]

    def _job(self, call: Call) -> str:
        assert call.sudo
        found = re.search(r"^job=(\S+)$", call.argv[2], re.MULTILINE)
        assert found
        return found[1]

    def _start(self, call: Call) -> Reply:
        job = self._job(call)
        if job in self.refuse:
            return self.refuse.pop(job)
        if self.states.get(job, ["absent"])[0] == "running":
            return Reply(exit_status=systemd.JOB_RUNNING_STATUS, stderr="is running already")
        runner = re.search(r"^(.*) </dev/null >\"\$dir/log\"", call.argv[2], re.MULTILINE)
        assert runner
        self.started.append((job, runner[1]))
        self.states[job] = list(self.outcomes[job])
        return Reply()

    def _wait(self, call: Call) -> Reply:
        states = self.states.get(self._job(call), ["absent"])
        return Reply(states.pop(0) if len(states) > 1 else states[0])

    def _clear(self, call: Call) -> Reply:
        job = self._job(call)
        if self.states.get(job, ["absent"])[0] == "running":
            return Reply(exit_status=systemd.JOB_RUNNING_STATUS)
        self.states.pop(job, None)
        self.cleared.append(job)
        return Reply()

    def _tail(self, call: Call) -> Reply:
        return Reply(self.logs.get(call.argv[-1].split("/")[-2], ""))


@dataclass
class Access:
    """HasApi over a fake; ``problem`` is raised instead."""

    fake: FakeKubeApi
    problem: KubeError | None = None

    def api(self) -> KubeApi:
        if self.problem is not None:
            raise self.problem
        return self.fake


class NoAnsible:
    """An Ansible that must not be called."""

    def run(
        self,
        playbook: str,
        hosts: Sequence[HostSpec],
        variables: Mapping[str, Any],
        *,
        timeout_s: float,
        host_variables: Mapping[str, Mapping[str, Any]] | None = None,
        on_task: OnTask | None = None,
        cancel: Cancel | None = None,
        check_mode: bool = False,
    ) -> AnsibleResult:
        raise AssertionError(f"the test expects no play, but {playbook} was run")


@dataclass
class Stage:
    """A cluster spec with a strict host and its jobs for each of its hosts."""

    spec: ClusterSpec
    kube: FakeKubeApi = field(default_factory=FakeKubeApi)
    cancel: Cancel = field(default_factory=Cancel)
    events: list[Event] = field(default_factory=list)
    manifest: str = ""

    def __post_init__(self) -> None:
        self.hosts = {h.name: FakeHost(h.name) for h in self.spec.hosts}
        self.jobs = {name: Jobs(host) for name, host in self.hosts.items()}
        self.access = Access(self.kube)
        self.deps = Deps(
            spec=self.spec,
            fleet=FakeFleet(self.hosts),
            ansible=NoAnsible(),
            kube=self.access,
            cancel=self.cancel,
            prepare_variables={"shared": 1},
            prepare_host_variables=lambda name: {"own": name},
            load_balancer_variables={"balancer": 1},
            load_balancer_host_variables=lambda name: {"balancer_own": name},
            read_manifest=lambda: self.manifest,
        )

    def ctx(self, action: Action, node: str = "n1", timeout_s: float = 60.0) -> StepContext:
        step = Step(f"test/{node}", node, "the step", action, timeout_s)
        return StepContext(step, self.cancel, self.events.append, time.monotonic() + timeout_s)

    @property
    def progress(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, StepProgress)]

    @property
    def waits(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, StepProgress) and e.waiting]

    def all_argv_text(self) -> str:
        """Return every argv that any host ever saw, as one text."""
        return "\n".join(" ".join(argv) for host in self.hosts.values() for argv in host.argvs)


def stage(control_planes: int = 1, workers: int = 0, kube: Iterable[Any] = ()) -> Stage:
    return Stage(make_spec(control_planes, workers), FakeKubeApi(kube))
